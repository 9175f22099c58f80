//! From stdin to the guest.
//!
//! A guest may stop listening (it crashed, it is busy), and the way out of it must still work, so
//! this thread never waits for the guest alone: what the guest does not take is kept, up to a
//! limit. Past that, what is typed at a terminal is dropped, as a real line drops it; a pipe or
//! file is simply not read on until there is room.

use std::io::{self, stdin};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::read;
use std::os::fd::AsRawFd;

use super::escape::Escape;
use super::terminal;
use crate::error::Error;
use crate::seccomp;
use crate::stop::{StopCause, StopRequest, StopSender};

/// How much is kept for a guest that does not listen, in bytes.
const LIMIT: usize = 64 << 10;

/// How often a background job looks whether the terminal has become its own.
const LOOK: Duration = Duration::from_millis(500);

/// Starts the thread. It ends with the input or with the guest's end, and is never waited for:
/// it may be asleep reading when the process ends.
pub(super) fn start(guest: UnixStream, stop: StopSender) -> Result<(), Error> {
    thread::Builder::new()
        .name("console input".into())
        .spawn(move || {
            Input {
                guest,
                stop,
                escape: Escape::default(),
                kept: Vec::new(),
                ended: false,
            }
            .run()
        })
        .map(drop)
        .map_err(Error::system::<io::Error>("start a thread"))
}

struct Input {
    guest: UnixStream,
    stop: StopSender,
    escape: Escape,
    /// Read, and not yet taken by the guest.
    kept: Vec<u8>,
    /// There is no more to read.
    ended: bool,
}

impl Input {
    fn run(mut self) {
        seccomp::confine(seccomp::Work::AtTheConsole);
        let is_terminal = terminal::is_one();
        while !(self.ended && self.kept.is_empty()) {
            if is_terminal && !terminal::is_foreground() {
                thread::sleep(LOOK);
                continue;
            }
            terminal::enter();
            let may_read = !self.ended && (is_terminal || self.kept.len() < LIMIT);
            let Ok((typed, room)) = self.wait(may_read) else {
                return;
            };
            if room && self.pass_on().is_err() {
                return;
            }
            if typed {
                self.take_in();
            }
        }
    }

    /// Sleeps until there is something to read (if we `may_read`) or room for what is kept.
    fn wait(&self, may_read: bool) -> Result<(bool, bool), Errno> {
        let stdin = stdin();
        let wish = |wanted, flag| if wanted { flag } else { PollFlags::empty() };
        let mut fds = [
            PollFd::new(stdin.as_fd(), wish(may_read, PollFlags::POLLIN)),
            PollFd::new(
                self.guest.as_fd(),
                wish(!self.kept.is_empty(), PollFlags::POLLOUT),
            ),
        ];
        // Without something to read from, stdin is left out: a hang-up would wake us for nothing.
        let fds = if may_read {
            &mut fds[..]
        } else {
            &mut fds[1..]
        };
        match poll(fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        let ready = |fd: Option<&PollFd>| fd.and_then(PollFd::any).unwrap_or(false);
        let room = ready(fds.last());
        let typed = may_read && ready(fds.first());
        if room && self.kept.is_empty() {
            // Nothing was asked of the guest's end, so it speaks of its own end.
            return Err(Errno::EPIPE);
        }
        Ok((typed, room))
    }

    /// Reads what is there.
    fn take_in(&mut self) {
        let mut buffer = [0; 4096];
        match read(stdin(), &mut buffer) {
            Ok(0) => self.ended = true,
            Ok(n) => {
                let bytes = &buffer[..n];
                if self.escape.typed(bytes, Instant::now()) {
                    self.stop.request(StopRequest::End(StopCause::Escape));
                }
                let room = (LIMIT + buffer.len()).saturating_sub(self.kept.len());
                self.kept.extend_from_slice(&bytes[..n.min(room)]);
                // A guest that listens gets it without another round.
                self.ended |= self.pass_on().is_err();
            }
            // EIO: the terminal is some other job's just now, or gone for good.
            Err(Errno::EIO) if terminal::is_one() && !terminal::is_foreground() => {}
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => self.ended = true,
        }
    }

    /// Gives the guest as much of what is kept as it takes now.
    fn pass_on(&mut self) -> Result<(), Errno> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.guest.as_raw_fd(), &self.kept, flags) {
            Ok(n) => {
                self.kept.drain(..n);
                Ok(())
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
