//! From the guest to stdout.

use std::io::{self, Read, stdout};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::write;

use super::words::Listener;
use crate::error::Error;

/// Starts the thread. The receiver's other end is dropped when the guest's end is closed and
/// everything is printed.
pub(super) fn start(
    guest: UnixStream,
    listener: Arc<Mutex<Listener>>,
) -> Result<Receiver<()>, Error> {
    let (printing, printed) = sync_channel(0);
    thread::Builder::new()
        .name("console output".into())
        .spawn(move || copy(guest, &listener, printing))
        .map_err(Error::system::<io::Error>("start a thread"))?;
    Ok(printed)
}

fn copy(mut guest: UnixStream, listener: &Mutex<Listener>, _printing: SyncSender<()>) {
    let mut buffer = [0; 4096];
    let mut closed = false;
    loop {
        let bytes = match guest.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => &buffer[..n],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The guest's end died without reading all that was typed.
            Err(_) => return,
        };
        listener
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .hear(bytes);
        if !closed && let Err(error) = print(bytes) {
            // The guest must not stall for want of a reader, so it is heard on. That a reader
            // went away is its own affair; anything else is worth a line.
            closed = true;
            if error != Errno::EPIPE {
                tracing::warn!(
                    "The console's output is lost from here on: cannot write to stdout: {}",
                    error.desc()
                );
            }
        }
    }
}

/// Writes all of it, however long stdout takes. Past the standard library's buffer: a console
/// shows a prompt without a line's end.
fn print(mut bytes: &[u8]) -> Result<(), Errno> {
    let stdout = stdout();
    while !bytes.is_empty() {
        match write(&stdout, bytes) {
            Ok(0) => return Err(Errno::EIO),
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::EINTR) => {}
            // Whoever shares our stdout made it non-blocking.
            Err(Errno::EAGAIN) => {
                poll(
                    &mut [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)],
                    PollTimeout::NONE,
                )
                .map(drop)
                .or_else(|error| {
                    if error == Errno::EINTR {
                        Ok(())
                    } else {
                        Err(error)
                    }
                })?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
