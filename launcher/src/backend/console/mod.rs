//! The console: a stream of bytes on the guest's side, and on ours a [`place`] where somebody may
//! read and type.
//!
//! An engine gets one end of a socket pair and plugs it into whatever is a console to its guest: a
//! serial port, a virtio console, an hvc. What comes out of the other is heard ([`hearing`]): written
//! to the log, and listened to for [`words`] that somebody waits for. Then it is printed:
//!
//! * on stdout, by a thread (`output`). A slow stdout slows the guest's printing and loses nothing; a
//!   closed one is no reason to stop. Another thread (`input`) takes stdin to the guest and watches
//!   for three ^C ([`escape`]), so that neither direction waits for the other; end of input is no
//!   end. The [`terminal`] is raw meanwhile, and its window's [`size`] is told to guests that ask.
//! * into a file, by the same `output`;
//! * on a [`line`] that somebody may come to and leave: a pseudo-terminal, a Unix socket.

pub mod escape;
pub mod hearing;
mod input;
pub mod line;
mod output;
pub mod place;
pub mod size;
pub mod terminal;
pub mod words;

use std::io::stdin;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::error::Error;
use crate::stop::{StopRequests, StopSender};
use hearing::{Ears, Hearing};
use output::Output;
use place::Place;
use size::ConsoleSize;
use words::GuestWords;

/// How often a wait for a slow stdout looks for a signal.
const LOOK: Duration = Duration::from_millis(100);

/// How long a stdout may still take after that, in case it is only slow.
const LAST: Duration = Duration::from_millis(500);

/// A running console.
#[derive(Debug)]
pub struct Console {
    hearing: Hearing,
    /// Closed by the thread that prints, when all is printed.
    printed: Receiver<()>,
}

impl Console {
    /// Starts a console. Gives the guest's end: bytes read from it were typed, bytes written to
    /// it are printed; the console ends when the last copy of it is closed.
    ///
    /// # Errors
    /// No file descriptor or no thread is left.
    pub fn start(
        place: Place,
        ears: Ears,
        size: ConsoleSize,
        stop: StopSender,
    ) -> Result<(Self, UnixStream), Error> {
        let failed = Error::system("make a socket pair for the console");
        let (near, far) = UnixStream::pair().map_err(&failed)?;
        let hearing = Hearing::new(near.try_clone().map_err(&failed)?, ears);
        let printed = match place {
            Place::Stdio => {
                let printed = output::start(hearing.clone(), Output::Stdout)?;
                terminal::enter();
                size.set(terminal::size_of(stdin()));
                input::start(near, stop)?;
                printed
            }
            Place::File(transcript) => output::start(hearing.clone(), Output::File(transcript))?,
            Place::Line(line) => line::start(line, hearing.clone(), size)?,
        };
        Ok((Self { hearing, printed }, far))
    }

    /// Waits until all the guest ever printed is where it belongs, puts the terminal back, and tells
    /// what was heard. Call it when the guest's end is closed.
    ///
    /// A stdout that takes nothing makes this wait; a request to stop ends that.
    pub fn finish(self, stop: &StopRequests) -> GuestWords {
        while let Err(RecvTimeoutError::Timeout) = self.printed.recv_timeout(LOOK) {
            if stop.take().is_some() {
                // It may be an old one, from before the guest's end.
                let _ = self.printed.recv_timeout(LAST);
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
