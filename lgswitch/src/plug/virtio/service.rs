//! A card's threads: one serves it, one waits for its port's doorbell.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::card::{Card, Remote};
use crate::port::Port;

/// The most pairs of queues a card can have here.
pub const MAX_PAIRS: usize = 8;

/// A card being served. Dropping it ends the service and gives the port's slot back.
#[derive(Debug)]
pub struct Service {
    remote: Arc<Remote>,
    threads: Vec<JoinHandle<()>>,
}

impl Service {
    /// Serves a card on `port` with 1 to [`MAX_PAIRS`] pairs of queues: `life` is what its thread
    /// does, and ends when the remote says so. Returns at once; `label` names the threads, and `begin` is
    /// what each of them does first.
    ///
    /// # Errors
    /// When threads or descriptors can't be made.
    pub fn start(
        port: Port,
        pairs: usize,
        label: &str,
        begin: fn(),
        life: impl FnOnce(&mut Card, &Remote) + Send + 'static,
    ) -> io::Result<Self> {
        let (mut card, remote) = Card::new(port, pairs.clamp(1, MAX_PAIRS))?;
        let remote = Arc::new(remote);
        // From here on, dropping `service` ends whatever was started.
        let mut service = Self {
            remote: Arc::clone(&remote),
            threads: Vec::new(),
        };
        let rung = Arc::clone(&remote);
        service.spawn(format!("bell {label}"), move || {
            begin();
            rung.bell.listen(|| rung.nudge());
        })?;
        service.spawn(format!("card {label}"), move || {
            begin();
            life(&mut card, &remote);
            remote.stop();
        })?;
        Ok(service)
    }

    fn spawn(&mut self, name: String, life: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name);
        self.threads.push(thread.spawn(life)?);
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.remote.stop();
        for thread in self.threads.drain(..) {
            // A panic there has been told on stderr.
            let _ = thread.join();
        }
    }
}
