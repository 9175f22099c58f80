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

use super::words::{GuestWords, Listener};

/// How long the line must be silent for all to be said: the engine's own buffers come after.
const SILENCE: Duration = Duration::from_millis(20);

/// How long silence is waited for. A stdout that takes nothing holds up what comes behind.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is heard of a guest. Clones share it.
#[derive(Debug, Clone)]
pub struct Hearing {
    guest: Arc<UnixStream>,
    /// Held while bytes are taken off the line, so that none are off the line and not heard yet.
    listener: Arc<Mutex<Listener>>,
}

impl Hearing {
    /// Listens to what comes out of `guest`.
    pub fn new(guest: UnixStream) -> Self {
        Self {
            guest: Arc::new(guest),
            listener: Arc::default(),
        }
    }

    /// Waits for the guest to say something, and hears it. Nothing: it will say no more.
    pub(super) fn read<'b>(&self, buffer: &'b mut [u8]) -> &'b [u8] {
        loop {
            let mut fds = [PollFd::new(self.guest.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return &[],
            }
            let mut listener = self.listener();
            match recv(self.guest.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(n) => {
                    let bytes = &buffer[..n];
                    listener.hear(bytes);
                    return bytes;
                }
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                // The guest's end died without reading all that was typed.
                Err(_) => return &[],
            }
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
        !matches!(recv(self.guest.as_raw_fd(), &mut [0], flags), Ok(1..))
    }

    fn listener(&self) -> MutexGuard<'_, Listener> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
