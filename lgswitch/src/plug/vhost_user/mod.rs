//! A guest's network card, served over vhost-user.
//!
//! The VMM (QEMU, say) emulates the card's registers and passes the rest to us over a socket: the
//! guest's memory, where its virtqueues are, and two event descriptors a queue. From then on
//! frames pass between the guest's memory and the segment's file without the VMM.
//!
//! Three threads serve a card. One has the conversation ([`message`], [`session`]) and hears the
//! guest's kicks of its receive queue (room for frames that wait); one hears those of its
//! transmit queue and sends; one sleeps on the port's doorbell and receives. See [`pump`] for
//! what a burst does, and [`virtqueue`] for how buffers change hands.

mod card;
pub mod message;
pub mod pump;
mod session;
pub mod virtqueue;

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};

use crate::port::Port;
use card::Nic;
use message::ProtocolError;
use session::lock;

/// A card being served. Dropping it ends the service and gives the port's slot back.
pub struct Service {
    nic: Arc<Nic>,
    /// Shut down to end the wait for a VMM.
    listener: UnixListener,
    /// Shut down to end the conversation with it.
    connection: Arc<Mutex<Option<UnixStream>>>,
    threads: Vec<JoinHandle<()>>,
}

/// Serves `port` to the one VMM that connects to `listener`. Returns at once; `label` names the card
/// in messages.
///
/// # Errors
/// When threads or descriptors can't be made.
pub fn serve(port: Port, listener: UnixListener, label: &str) -> io::Result<Service> {
    start(port, listener, label, false)
}

/// As [`serve`], but when a VMM has gone the next may come.
///
/// # Errors
/// When threads or descriptors can't be made.
pub fn serve_one_after_another(
    port: Port,
    listener: UnixListener,
    label: &str,
) -> io::Result<Service> {
    start(port, listener, label, true)
}

fn start(port: Port, listener: UnixListener, label: &str, again: bool) -> io::Result<Service> {
    let (tx, rx) = port.split();
    let nic = Arc::new(Nic::new(label, rx.caller())?);
    // From here on, dropping `service` ends whatever was started.
    let mut service = Service {
        nic: Arc::clone(&nic),
        listener: listener.try_clone()?,
        connection: Arc::default(),
        threads: Vec::new(),
    };
    let sender = Arc::clone(&nic);
    let receiver = Arc::clone(&nic);
    let connection = Arc::clone(&service.connection);
    service.spawn("tx", move || sender.transmit(tx))?;
    service.spawn("rx", move || receiver.receive(rx))?;
    service.spawn("vhost", move || {
        let mut well = converse(&nic, &listener, &connection);
        while again && !nic.is_stopping() {
            if !well {
                // What fails at once would fail a million times a second.
                std::thread::sleep(Duration::from_millis(50));
            }
            well = converse(&nic, &listener, &connection);
        }
        nic.stop();
    })?;
    Ok(service)
}

/// Waits for a VMM and talks with it to its end; tells whether all went well.
fn converse(nic: &Nic, listener: &UnixListener, connection: &Mutex<Option<UnixStream>>) -> bool {
    let end = listener
        .accept()
        .and_then(|(socket, _)| {
            *lock(connection) = Some(socket.try_clone()?);
            Ok(socket)
        })
        .map_err(ProtocolError::from)
        .and_then(|socket| nic.converse(&socket));
    match end {
        Err(error) if !nic.is_stopping() => {
            tracing::warn!(
                "{}: the VMM's network card is unplugged: {error}",
                nic.label()
            );
            false
        }
        _ => true,
    }
}

impl Service {
    fn spawn(&mut self, what: &str, life: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(format!("{what} {}", self.nic.label()));
        self.threads.push(thread.spawn(life)?);
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.nic.stop();
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(connection) = lock(&self.connection).take() {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            // A panic there has been told on stderr.
            let _ = thread.join();
        }
    }
}
