//! Requests to end the guest: three ^C on the console, a signal to the launcher, or a fault of its own.
//!
//! They come from any thread and go to the engine, which waits on [`StopRequests`] beside
//! whatever else it waits on: it is a file descriptor, readable while a request is there.
//!
//! A signal is first a press of the guest's power button, so that it may end in good order, and
//! after a [`Grace`] an order to end it ([`signals`]).

pub mod signals;

use std::fmt;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::error::Error;

/// Who wants the guest to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCause {
    /// The person at the console, by three ^C within a second.
    Escape,
    /// Whoever sent this signal.
    Signal(Signal),
    /// Ourselves, for a thread of ours has panicked.
    Fault,
}

/// What an engine is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopRequest {
    /// Press the power button, and let the guest run on: it may power itself off, or not heed it.
    /// An engine whose guest does not run yet ends it at once; one without such a button is not
    /// asked ([`Grace::NONE`]).
    PowerButton(StopCause),
    /// End the guest now, with what it has written to its disks safe on them.
    End(StopCause),
}

/// How long a guest may take to power off after its button is pressed: whole seconds, up to a
/// day. None at all: the button is not pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace(u32);

/// Why a word is no grace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a number of seconds for a guest to power off in: it is 0 to {max}", max = Grace::MAX)]
pub struct GraceError(String);

impl Grace {
    /// The guest is ended at once.
    pub const NONE: Self = Self(0);

    /// A day.
    const MAX: u32 = 24 * 60 * 60;

    /// Reads the value of `--grace`.
    ///
    /// # Errors
    /// Not a whole number, or too large a one.
    pub fn parse(text: &str) -> Result<Self, GraceError> {
        match text.parse() {
            Ok(seconds @ 0..=Self::MAX) if text.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(Self(seconds))
            }
            _ => Err(GraceError(text.into())),
        }
    }

    /// As a duration.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0.into())
    }
}

impl Default for Grace {
    /// What container engines give (`docker stop`, `podman stop`).
    fn default() -> Self {
        Self(10)
    }
}

impl fmt::Display for Grace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0)
    }
}

/// Where requests are made. Clones share one line.
#[derive(Debug)]
pub struct StopSender(UnixStream);

/// Where requests arrive, one byte each.
#[derive(Debug)]
pub struct StopRequests(UnixStream);

/// In a request's byte: a press of the button. The other bits are the signal's number (64 at
/// most), or one of the two below.
const BUTTON: u8 = 0x80;
/// Three ^C.
const ESCAPE: u8 = 0;
/// A fault of ours.
const FAULT: u8 = 0x7f;

/// A line for requests.
///
/// # Errors
/// No file descriptor is left.
pub fn channel() -> Result<(StopSender, StopRequests), Error> {
    let failed = Error::system("make a socket pair for requests to stop");
    let (near, far) = UnixStream::pair().map_err(&failed)?;
    // A sender never waits: a line too full for one more request has requests enough.
    near.set_nonblocking(true).map_err(&failed)?;
    far.set_nonblocking(true).map_err(&failed)?;
    Ok((StopSender(near), StopRequests(far)))
}

impl StopSender {
    /// Asks for the guest to end.
    pub fn request(&self, request: StopRequest) {
        let number = |cause| match cause {
            StopCause::Escape => ESCAPE,
            StopCause::Signal(signal) => signal as u8,
            StopCause::Fault => FAULT,
        };
        let byte = match request {
            StopRequest::PowerButton(cause) => BUTTON | number(cause),
            StopRequest::End(cause) => number(cause),
        };
        // Full, or nobody listens any more: either way the end is near.
        let _ = (&self.0).write(&[byte]);
    }

    /// Another sender on the same line.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn try_clone(&self) -> Result<Self, Error> {
        self.0
            .try_clone()
            .map(Self)
            .map_err(Error::system("copy a socket"))
    }
}

impl StopRequests {
    /// Takes one request, if there is any. Never waits.
    pub fn take(&self) -> Option<StopRequest> {
        let mut byte = [0];
        let Ok(1) = (&self.0).read(&mut byte) else {
            return None;
        };
        let cause = match byte[0] & !BUTTON {
            ESCAPE => StopCause::Escape,
            FAULT => StopCause::Fault,
            number => StopCause::Signal(Signal::try_from(i32::from(number)).ok()?),
        };
        Some(if byte[0] & BUTTON == 0 {
            StopRequest::End(cause)
        } else {
            StopRequest::PowerButton(cause)
        })
    }
}

impl AsFd for StopRequests {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMINATED: StopCause = StopCause::Signal(Signal::SIGTERM);

    #[test]
    fn requests_arrive_in_order_and_are_taken_once() {
        let (stop, requests) = channel().unwrap();
        assert_eq!(requests.take(), None);
        let made = [
            StopRequest::PowerButton(TERMINATED),
            StopRequest::End(TERMINATED),
            StopRequest::End(StopCause::Escape),
            StopRequest::End(StopCause::Fault),
        ];
        for request in made {
            stop.try_clone().unwrap().request(request);
        }
        for request in made {
            assert_eq!(requests.take(), Some(request));
        }
        assert_eq!(requests.take(), None);
    }

    #[test]
    fn nobody_waits_on_a_full_line() {
        let (stop, requests) = channel().unwrap();
        let request = StopRequest::End(StopCause::Escape);
        for _ in 0..1_000_000 {
            stop.request(request);
        }
        assert_eq!(requests.take(), Some(request));
    }

    #[test]
    fn a_grace_is_whole_seconds_up_to_a_day() {
        assert_eq!(Grace::parse("0").unwrap().duration(), Duration::ZERO);
        assert_eq!(Grace::parse("86400").unwrap().to_string(), "86400 s");
        for text in ["", "-1", "+1", "1.5", "5s", "86401", "99999999999999"] {
            let error = Grace::parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("'{text}'")), "{error}");
        }
    }
}
