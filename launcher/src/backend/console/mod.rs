//! The console: stdin and stdout on our side, a stream of bytes on the guest's.
//!
//! An engine gets one end of a socket pair and plugs it into whatever is a console to its guest: a
//! serial port, a virtio console, an hvc. Two threads move the bytes, so that neither direction
//! waits for the other:
//!
//! * `input`: stdin to the guest, watching for three ^C ([`escape`]); end of input is no end.
//! * `output`: guest to stdout, listening for the kernel's last [`words`]. A slow stdout slows
//!   the guest's printing and loses nothing; a closed one is no reason to stop.
//!
//! The [`terminal`] is raw meanwhile, and its window's [`size`] is told to guests that ask. What the
//! guest says can be asked for while it runs: [`hearing`].

pub mod escape;
pub mod hearing;
mod input;
mod output;
pub mod size;
pub mod terminal;
pub mod words;

use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::error::Error;
use crate::stop::{StopRequests, StopSender};
use hearing::Hearing;
use words::GuestWords;

/// How often a wait for a slow stdout looks for a signal.
const LOOK: Duration = Duration::from_millis(100);

/// A running console.
#[derive(Debug)]
pub struct Console {
    hearing: Hearing,
    /// Closed by the output thread when all is printed.
    printed: Receiver<()>,
}

impl Console {
    /// Starts a console. Gives the guest's end: bytes read from it were typed, bytes written to
    /// it are printed; the console ends when the last copy of it is closed.
    ///
    /// # Errors
    /// No file descriptor or no thread is left.
    pub fn start(stop: StopSender) -> Result<(Self, UnixStream), Error> {
        let failed = Error::system("make a socket pair for the console");
        let (near, far) = UnixStream::pair().map_err(&failed)?;
        let hearing = Hearing::new(near.try_clone().map_err(&failed)?);
        let printed = output::start(hearing.clone())?;
        terminal::enter();
        input::start(near, stop)?;
        Ok((Self { hearing, printed }, far))
    }

    /// Waits until all the guest ever printed is on stdout, puts the terminal back, and tells what
    /// was heard. Call it when the guest's end is closed.
    ///
    /// A stdout that takes nothing makes this wait; a request to stop ends that.
    pub fn finish(self, stop: &StopRequests) -> GuestWords {
        while let Err(RecvTimeoutError::Timeout) = self.printed.recv_timeout(LOOK) {
            if stop.take().is_some() {
                break;
            }
        }
        terminal::restore();
        self.hearing.heard()
    }

    /// What is heard of the guest while it runs.
    pub fn hearing(&self) -> Hearing {
        self.hearing.clone()
    }
}
