//! Reads, writes and flushes that the kernel does meanwhile, many at once: an io_uring.
//!
//! A disk that does one request after another leaves the host's disk idle most of the time. So requests
//! that need nothing of us but to be passed on are handed to the kernel, a burst in one call, and answered
//! when it is done with them, in whatever order that is. Until then the guest's memory that they are
//! about is the kernel's to touch: whoever takes a ring down waits for all of them first.
//!
//! A ring can do almost anything a system call can, behind the back of [`crate::seccomp`]; so each is
//! made with *restrictions*, for good, to the three operations here (io_uring_register(2), Linux 5.10).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::opcode::{Fsync, Readv, Writev};
use io_uring::register::Restriction;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, squeue};

/// Requests that can be under way. It costs 12 KiB and is more than a host's disk does at a time.
const DEPTH: u32 = 128;

/// What the kernel is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Fill the buffers from this offset on.
    Read(u64),
    /// Write them there.
    Write(u64),
    /// Have everything on the medium.
    Flush,
}

/// A request that is under way, as its owner knows it.
pub trait Flight {
    /// What is read into, or written. It stays where it is until the flight has landed.
    fn parts(&self) -> &[libc::iovec];
}

/// A ring, and what is under way.
pub struct Ring<F: Flight> {
    ring: IoUring,
    /// By number, which the kernel is told.
    flights: Vec<Option<F>>,
    free: Vec<u16>,
}

impl<F: Flight> Ring<F> {
    /// A ring with nothing under way.
    ///
    /// # Errors
    /// The kernel has none, or none that can be restricted, or not for us.
    pub fn new() -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_r_disabled()
            .dontfork()
            .build(DEPTH)?;
        let mut only = [Readv::CODE, Writev::CODE, Fsync::CODE].map(Restriction::sqe_op);
        ring.submitter().register_restrictions(&mut only)?;
        ring.submitter().register_enable_rings()?;
        Ok(Self {
            ring,
            flights: (0..DEPTH).map(|_| None).collect(),
            free: (0..DEPTH as u16).collect(),
        })
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.free.len() == self.flights.len()
    }

    /// Can be read when something has landed.
    pub fn landed(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the ring is there, which is borrowed for as long.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    /// Prepares a flight on a file that stays open; [`Ring::submit`] starts it. `false`: there is no room
    /// until another has landed.
    pub fn prepare(&mut self, file: &File, operation: Operation, flight: F) -> bool {
        let Some(number) = self.free.pop() else {
            return false;
        };
        let entry = entry(Fd(file.as_raw_fd()), operation, flight.parts());
        let entry = entry.user_data(number.into());
        // SAFETY: the parts are memory that the flight keeps where it is, and the flight is kept below
        // until the kernel says that it is done with it.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        // It is, always: the queue has an entry for each number.
        if pushed.is_ok() {
            self.flights[usize::from(number)] = Some(flight);
        } else {
            self.free.push(number);
        }
        pushed.is_ok()
    }

    /// Hands the kernel what is prepared; `false` if it takes not all of it now, for want of memory.
    pub fn submit(&mut self) -> bool {
        if !self.ring.submission().is_empty()
            && let Err(error) = self.ring.submit()
        {
            pause(&error);
        }
        self.ring.submission().is_empty()
    }

    /// The next flight that has landed, and what the system call would have answered.
    pub fn next(&mut self) -> Option<(F, io::Result<usize>)> {
        loop {
            let landed = self.ring.completion().next()?;
            let number = landed.user_data() as u16;
            let flight = self.flights.get_mut(usize::from(number));
            // The kernel gives back what it was told.
            let Some(flight) = flight.and_then(Option::take) else {
                continue;
            };
            self.free.push(number);
            let count = usize::try_from(landed.result());
            let result = count.map_err(|_| io::Error::from_raw_os_error(-landed.result()));
            return Some((flight, result));
        }
    }

    /// Sleeps until something has landed, if anything is under way.
    pub fn wait(&mut self) {
        while !self.is_idle() && self.ring.completion().is_empty() {
            if let Err(error) = self.ring.submit_and_wait(1) {
                pause(&error);
            }
        }
    }
}

impl<F: Flight> Drop for Ring<F> {
    fn drop(&mut self) {
        while !self.is_idle() {
            self.wait();
            while self.next().is_some() {}
        }
    }
}

fn entry(file: Fd, operation: Operation, parts: &[libc::iovec]) -> squeue::Entry {
    // A request has no more parts than IOV_MAX.
    let (first, count) = (parts.as_ptr(), parts.len() as u32);
    match operation {
        Operation::Read(at) => Readv::new(file, first, count).offset(at).build(),
        Operation::Write(at) => Writev::new(file, first, count).offset(at).build(),
        Operation::Flush => Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
    }
}

/// The kernel has no memory left, or was interrupted: it is asked again a little later.
fn pause(error: &io::Error) {
    if error.kind() != io::ErrorKind::Interrupted {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
