//! A card's threads: the card's own, and the one that waits for its port's bell.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::card::{Card, Served};
use crate::port::Port;

/// The most pairs of queues a card can have here.
pub const MAX_PAIRS: usize = 8;

/// A card being served. Dropping it ends the service and gives the port's slot back.
pub struct Service {
    served: Arc<Served>,
    threads: Vec<JoinHandle<()>>,
}

impl Service {
    /// Serves a card on `port` with 1 to [`MAX_PAIRS`] pairs of queues. Each of its threads starts with
    /// `begin`; `life` is what the card's own does then, and ends when the card says so. Returns at
    /// once; `label` names the threads.
    ///
    /// # Errors
    /// When threads or descriptors can't be made.
    pub fn start(
        port: Port,
        pairs: usize,
        label: &str,
        begin: fn(),
        life: impl FnOnce(&mut Card) + Send + 'static,
    ) -> io::Result<Self> {
        let served = Arc::new(Served::new(port, pairs.clamp(1, MAX_PAIRS))?);
        // From here on, dropping `service` ends whatever was started.
        let mut service = Self {
            served: Arc::clone(&served),
            threads: Vec::new(),
        };
        let rung = Arc::clone(&served);
        service.spawn(format!("bell {label}"), move || {
            begin();
            rung.listen_to_the_bell();
        })?;
        service.spawn(format!("card {label}"), move || {
            begin();
            life(&mut Card::new(Arc::clone(&served)));
            served.stop();
        })?;
        Ok(service)
    }

    fn spawn(&mut self, name: String, life: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name);
        self.threads.push(thread.spawn(life)?);
        Ok(())
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.served.stop();
        for thread in self.threads.drain(..) {
            // A panic there has been told on stderr.
            let _ = thread.join();
        }
    }
}
