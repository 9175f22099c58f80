//! A guest's network card, served over vhost-user.
//!
//! The VMM (QEMU, say) emulates the card's registers and passes the rest to us over a socket: the
//! guest's memory, where its virtqueues are, and two event descriptors a queue. From then on
//! frames pass between the guest's memory and the segment's file without the VMM.
//!
//! Read `message` and `session` for the conversation. Who does what when, and how frames pass, is told
//! in [`virtio`](super::virtio).
//!
//! A VMM that breaks the protocol, and a guest that breaks its queues, are told apart from nobody:
//! the connection ends with one sentence, and the next VMM may come.

mod message;
mod session;

use std::io;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use crate::plug::virtio::card::Card;
pub use crate::plug::virtio::service::{MAX_PAIRS, Service};
use crate::port::Port;
use message::ProtocolError;
use session::Session;

/// How a card is to be served.
#[derive(Debug, Clone)]
pub struct Options {
    /// What it is called in messages.
    pub label: String,
    /// When a VMM has gone, the next may come.
    pub again: bool,
    /// Pairs of queues the guest may use: 1 to [`MAX_PAIRS`].
    pub pairs: usize,
}

impl Options {
    /// A card called `label`, for one VMM, with one pair of queues.
    pub fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            again: false,
            pairs: 1,
        }
    }
}

/// Serves `port` to the VMM that connects to `listener`. Returns at once.
///
/// # Errors
/// When threads or descriptors can't be made.
pub fn serve(port: Port, listener: UnixListener, options: Options) -> io::Result<Service> {
    // Who has gone before we answer is not waited for.
    listener.set_nonblocking(true)?;
    let (label, pairs) = (options.label.clone(), options.pairs);
    let life = move |card: &mut Card| {
        let mut well = converse(card, &listener, &options);
        while options.again && !card.is_stopping() {
            if !well {
                // What fails at once would fail a million times a second.
                std::thread::sleep(Duration::from_millis(50));
            }
            well = converse(card, &listener, &options);
        }
    };
    Service::start(port, pairs, &label, || (), life)
}

/// Waits for a VMM and talks with it to its end; tells whether all went well.
fn converse(card: &mut Card, listener: &UnixListener, options: &Options) -> bool {
    let socket = card.idle_until(listener).and_then(|()| {
        let (socket, _) = listener.accept()?;
        message::limit_waits(&socket)?;
        Ok(socket)
    });
    let end = match socket {
        Ok(socket) => card.converse(&mut Session::new(socket, options.pairs)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(ProtocolError::from(error)),
    };
    match end {
        Err(error) if !card.is_stopping() => {
            tracing::warn!(
                "{}: the VMM's network card is unplugged: {error}",
                options.label
            );
            false
        }
        _ => true,
    }
}
