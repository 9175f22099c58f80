//! From the guest to stdout, or into a file.

use std::io::{self, stdout};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::write;

use super::hearing::Hearing;
use crate::error::Error;
use crate::seccomp;
use crate::transcript::Transcript;

/// Starts the thread. The receiver's other end is dropped when the guest's end is closed and
/// everything is printed.
pub(super) fn start(hearing: Hearing, to: Output) -> Result<Receiver<()>, Error> {
    let (printing, printed) = sync_channel(0);
    thread::Builder::new()
        .name("console output".into())
        .spawn(move || copy(&hearing, to, printing))
        .map_err(Error::system::<io::Error>("start a thread"))?;
    Ok(printed)
}

/// Where it is printed.
#[derive(Debug)]
pub(super) enum Output {
    /// On stdout, as long as that is open.
    Stdout,
    /// Into a file.
    File(Transcript),
    /// Nowhere any more.
    Closed,
}

fn copy(hearing: &Hearing, mut to: Output, _printing: SyncSender<()>) {
    seccomp::confine(seccomp::Work::AtTheConsole);
    let mut buffer = [0; 4096];
    loop {
        let bytes = hearing.wait(&mut buffer);
        if bytes.is_empty() {
            return;
        }
        match &to {
            Output::Stdout => {
                // The guest must not stall for want of a reader, so it is heard on. That a reader
                // went away is its own affair; anything else is worth a line.
                if let Err(error) = print(bytes) {
                    to = Output::Closed;
                    if error != Errno::EPIPE {
                        tracing::warn!(
                            "The console's output is lost from here on: cannot write to stdout: {}",
                            error.desc()
                        );
                    }
                }
            }
            Output::File(transcript) => transcript.guest(bytes),
            Output::Closed => {}
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
