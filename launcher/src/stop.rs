//! Requests to end the guest: three ^C on the console, or a signal to the launcher.
//!
//! They come from any thread and go to the engine, which waits on [`StopRequests`] beside
//! whatever else it waits on: it is a file descriptor, readable while a request is there.
//!
//! Signals are blocked in all threads and collected by one that does nothing else
//! (`sigwait`), so no code of ours ever runs in a signal handler. If the engine does not heed a
//! first signal, a second one ends the process from that thread.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use nix::sys::signal::{SigSet, Signal};

use crate::backend::console::terminal;
use crate::error::Error;

/// Who wants the guest to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopRequest {
    /// The person at the console, by three ^C within a second.
    Escape,
    /// Whoever sent this signal.
    Signal(Signal),
}

/// Where requests are made. Clones share one line.
#[derive(Debug)]
pub struct StopSender(UnixStream);

/// Where requests arrive, one byte each.
#[derive(Debug)]
pub struct StopRequests(UnixStream);

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
        let byte = match request {
            StopRequest::Escape => 0,
            StopRequest::Signal(signal) => signal as u8,
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
        match (&self.0).read(&mut byte) {
            Ok(1) => match byte[0] {
                0 => Some(StopRequest::Escape),
                n => Signal::try_from(i32::from(n)).ok().map(StopRequest::Signal),
            },
            _ => None,
        }
    }
}

impl AsFd for StopRequests {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The signals that ask a program to end.
const ENDING: [Signal; 4] = [
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
];

/// Blocks the signals that ask a program to end, those it gets for touching a terminal from the
/// background, and `SIGCONT`; and starts the thread that collects them. Call it before any other
/// thread is made, since threads inherit the block.
///
/// A signal that was ignored when we were started (`nohup`, a shell's background jobs) stays so.
///
/// # Errors
/// No thread is left.
pub fn watch_signals(stop: &StopSender) -> Result<(), Error> {
    let mut collected = SigSet::empty();
    for signal in ENDING.into_iter().filter(|&signal| !is_ignored(signal)) {
        collected.add(signal);
    }
    collected.add(Signal::SIGCONT);
    let mut blocked = collected;
    blocked.add(Signal::SIGTTIN);
    blocked.add(Signal::SIGTTOU);
    blocked
        .thread_block()
        .map_err(Error::system("block signals"))?;

    let stop = stop.try_clone()?;
    let collect = move || {
        let mut asked = false;
        while let Ok(signal) = collected.wait() {
            if signal == Signal::SIGCONT {
                // Whoever had the terminal meanwhile, a shell, left it in its own mode.
                terminal::resume();
            } else if asked {
                terminal::restore();
                std::process::exit(128 + signal as i32);
            } else {
                asked = true;
                stop.request(StopRequest::Signal(signal));
            }
        }
    };
    thread::Builder::new()
        .name("signals".into())
        .spawn(collect)
        .map(drop)
        .map_err(Error::system::<io::Error>("start a thread"))
}

/// Whether we were started with this signal ignored. A blocked signal is delivered to `sigwait`
/// all the same, so this has to be asked.
fn is_ignored(signal: Signal) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with a null new action, sigaction only writes the old one, to memory of its size.
    let answer = unsafe { libc::sigaction(signal as i32, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: it was zeroed, which is a valid value, before the kernel filled it in.
    answer == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_arrive_in_order_and_are_taken_once() {
        let (stop, requests) = channel().unwrap();
        assert_eq!(requests.take(), None);
        stop.request(StopRequest::Signal(Signal::SIGTERM));
        stop.try_clone().unwrap().request(StopRequest::Escape);
        assert_eq!(requests.take(), Some(StopRequest::Signal(Signal::SIGTERM)));
        assert_eq!(requests.take(), Some(StopRequest::Escape));
        assert_eq!(requests.take(), None);
    }

    #[test]
    fn nobody_waits_on_a_full_line() {
        let (stop, requests) = channel().unwrap();
        for _ in 0..1_000_000 {
            stop.request(StopRequest::Escape);
        }
        assert_eq!(requests.take(), Some(StopRequest::Escape));
    }
}
