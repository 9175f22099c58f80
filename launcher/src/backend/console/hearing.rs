//! The guest's end of the console, read and listened to: by the thread that prints what the guest
//! says, and by whoever needs to know what it has said.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

use super::words::{GuestWords, Heard, Listener};
use crate::plan::life::ReadyText;
use crate::status::{Event, Status};
use crate::transcript::Transcript;

/// How long the line must be silent for all to be said: the engine's own buffers come after.
const SILENCE: Duration = Duration::from_millis(20);

/// How long silence is waited for. A stdout that takes nothing holds up what comes behind.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is heard of a guest. Clones share it.
#[derive(Debug, Clone)]
pub struct Hearing(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    guest: UnixStream,
    /// Held while bytes are taken off the line, so that none are off the line and not heard yet.
    listener: Mutex<Listener>,
    ears: Ears,
}

/// Who wants to know what the guest says, besides whoever reads it.
#[derive(Debug, Default)]
pub struct Ears {
    /// What marks it ready.
    pub ready: Option<ReadyText>,
    /// Where all it says is written down.
    pub log: Option<Transcript>,
    /// Where it is told that it is ready, or in trouble.
    pub status: Status,
}

/// What there is on the line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<'b> {
    /// Nothing just now.
    Nothing,
    /// This.
    Bytes(&'b [u8]),
    /// Nothing ever again.
    End,
}

impl Hearing {
    /// Listens to what comes out of `guest`.
    pub fn new(guest: UnixStream, mut ears: Ears) -> Self {
        Self(Arc::new(Shared {
            guest,
            listener: Mutex::new(Listener::new(ears.ready.take())),
            ears,
        }))
    }

    /// Hears what the guest has to say now. Never waits.
    pub(super) fn take<'b>(&self, buffer: &'b mut [u8]) -> Said<'b> {
        let mut listener = self.listener();
        match recv(self.0.guest.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(n @ 1..) => {
                let bytes = &buffer[..n];
                if let Some(log) = &self.0.ears.log {
                    log.guest(bytes);
                }
                for heard in listener.hear(bytes) {
                    self.tell(&heard);
                }
                Said::Bytes(bytes)
            }
            Err(Errno::EINTR | Errno::EAGAIN) => Said::Nothing,
            // Closed, or dead without having read all that was typed.
            Ok(_) | Err(_) => Said::End,
        }
    }

    /// Waits for the guest to say something, and hears it. Nothing: it will say no more.
    pub(super) fn wait<'b>(&self, buffer: &'b mut [u8]) -> &'b [u8] {
        loop {
            let mut fds = [PollFd::new(self.0.guest.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return &[],
            }
            // Through a length: the borrow checker will not let go of a slice that is not returned.
            let said = match self.take(buffer) {
                Said::Nothing => continue,
                Said::Bytes(bytes) => bytes.len(),
                Said::End => 0,
            };
            return &buffer[..said];
        }
    }

    fn tell(&self, heard: &Heard) {
        match heard {
            Heard::Ready => {
                tracing::debug!("The guest is ready");
                self.0.ears.status.tell(Event::Ready);
            }
            Heard::Oops(line) => self.0.ears.status.tell(Event::Oops(line)),
        }
    }

    /// What the guest has said up to now. Waits, for a moment and not for ever, until the line is
    /// silent.
    pub fn words(&self) -> GuestWords {
        let start = Instant::now();
        let mut since = start;
        while since.elapsed() < SILENCE && start.elapsed() < PATIENCE {
            if !self.is_silent() {
                since = Instant::now();
            }
            thread::sleep(Duration::from_millis(2));
        }
        self.heard()
    }

    /// What has been heard up to now.
    pub fn heard(&self) -> GuestWords {
        self.listener().words()
    }

    /// The guest starts again, and nothing it said before tells of its next end.
    pub fn start_again(&self) {
        self.listener().start_again();
    }

    fn is_silent(&self) -> bool {
        let _nobody_reads = self.listener();
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        !matches!(recv(self.0.guest.as_raw_fd(), &mut [0], flags), Ok(1..))
    }

    /// The line itself, to wait on and to type on.
    pub(super) fn line(&self) -> &UnixStream {
        &self.0.guest
    }

    fn listener(&self) -> MutexGuard<'_, Listener> {
        self.0
            .listener
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
