//! What the world may have for the guest: descriptors that become readable.
//!
//! One set holds them all, and is itself a descriptor, so that "is there anything?" and "wait until there is"
//! are one system call each, whoever asks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;

/// Who waits for a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Somebody wants the guest to end.
    Stop,
    /// This device.
    Device(u8),
}

/// Which sources have something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ready(u64);

/// The set.
#[derive(Debug)]
pub struct Inputs {
    set: Epoll,
}

impl Source {
    fn bit(self) -> u64 {
        match self {
            Self::Stop => 1 << 63,
            Self::Device(index) => 1 << (index % 63),
        }
    }
}

impl Ready {
    /// Whether this source has something.
    pub fn has(self, source: Source) -> bool {
        self.0 & source.bit() != 0
    }
}

impl Inputs {
    /// An empty set.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            set: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        })
    }

    /// From now on `fd` counts, whenever it can be read.
    ///
    /// # Errors
    /// The kernel is out of memory.
    pub fn add(&self, fd: impl AsFd, source: Source) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, source.bit());
        Ok(self.set.add(fd, event)?)
    }

    /// From now on `fd` counts, once each time it is made readable: it need not be read.
    ///
    /// # Errors
    /// The kernel is out of memory.
    pub fn add_bell(&self, fd: impl AsFd, source: Source) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        Ok(self.set.add(fd, EpollEvent::new(flags, source.bit()))?)
    }

    /// `fd` does not count any more: what it has can't be taken now.
    ///
    /// # Errors
    /// It did not count.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(self.set.delete(fd)?)
    }

    /// Readable when there is something.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.0.as_fd()
    }

    /// What there is now. Does not wait.
    ///
    /// # Errors
    /// None that is known.
    pub fn ready(&self) -> io::Result<Ready> {
        let mut events = [EpollEvent::empty(); 32];
        match self.set.wait(&mut events, EpollTimeout::ZERO) {
            Ok(count) => Ok(Ready(
                events[..count]
                    .iter()
                    .fold(0, |bits, event| bits | event.data()),
            )),
            Err(Errno::EINTR) => Ok(Ready::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until there is something, or until then. May return early.
    ///
    /// # Errors
    /// The kernel is out of memory.
    pub fn wait(&self, until: Option<Instant>) -> io::Result<()> {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        wait_for(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], left)
    }
}

/// Waits for one of some descriptors, at most `timeout`. May return early.
///
/// # Errors
/// The kernel is out of memory.
pub fn wait_for(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    match ppoll(fds, timeout.map(TimeSpec::from_duration), None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::eventfd::EventFd;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_can_be_read_is_ready_until_it_was_and_a_bell_once() {
        let inputs = Inputs::new().unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let bell = EventFd::new().unwrap();
        inputs.add(&near, Source::Stop).unwrap();
        inputs.add_bell(&bell, Source::Device(3)).unwrap();
        assert_eq!(inputs.ready().unwrap(), Ready::default());
        (&far).write_all(b"x").unwrap();
        bell.write(1).unwrap();
        inputs.wait(None).unwrap();
        let ready = inputs.ready().unwrap();
        assert!(ready.has(Source::Stop) && ready.has(Source::Device(3)));
        assert!(!ready.has(Source::Device(4)));
        let ready = inputs.ready().unwrap();
        assert!(ready.has(Source::Stop) && !ready.has(Source::Device(3)));
        inputs.remove(&near).unwrap();
        inputs.wait(Some(Instant::now())).unwrap();
        assert_eq!(inputs.ready().unwrap(), Ready::default());
    }
}
