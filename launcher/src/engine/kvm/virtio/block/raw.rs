//! A raw disk's file, and the ways into it.
//!
//! Direct I/O goes between the file's blocks and the guest's pages without a copy, if offset, length and
//! addresses are multiples of a *unit* that depends on the filesystem: 512 bytes, or 4096. There is no
//! asking for it on all kernels, so it is tried: the first `EINVAL` tells. Guests mostly keep to
//! it. What does not goes through a buffer of ours, in whole units; a write that covers a unit in part
//! reads that first. (Nobody writes in between: nothing else is under way then.)

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FallocateFlags, fallocate};
use vm_memory::VolatileSlice;

use super::content::Content;
use super::ring::Operation;
use crate::backend::block::{Disk, SECTOR};
use crate::engine::kvm::virtio::chain::Buffers;

/// The largest unit in use, in bytes. A disk that is accessed directly is a multiple of it.
const LARGEST_UNIT: u64 = 4096;
/// Bytes that go through our buffer at a time.
const PIECE: u64 = 256 << 10;

/// The file.
#[derive(Debug)]
pub struct Raw {
    disk: Disk,
    /// What offsets and addresses are to be multiples of; 1 if anything goes.
    unit: u64,
    /// Made when it is needed first.
    buffer: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

impl Raw {
    /// A disk's.
    pub fn new(disk: Disk) -> Self {
        Self {
            unit: if disk.direct { SECTOR } else { 1 },
            disk,
            buffer: Vec::new(),
        }
    }

    fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        self.allocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE, at, len)
    }

    fn allocate(&self, flag: FallocateFlags, at: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let flags = flag | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let number = |n| i64::try_from(n).map_err(|_| io::Error::from(ErrorKind::InvalidInput));
        Ok(fallocate(
            &self.disk.file,
            flags,
            number(at)?,
            number(len)?,
        )?)
    }

    fn write_zeroes(&mut self, mut at: u64, mut len: u64) -> io::Result<()> {
        while len > 0 {
            let span = self.span(at, usize::try_from(len).unwrap_or(usize::MAX));
            let buffer = aligned(&mut self.buffer, span.len);
            if span.count < span.len {
                self.disk.file.read_exact_at(buffer, span.start)?;
            }
            buffer[span.skip..span.skip + span.count].fill(0);
            self.disk.file.write_all_at(buffer, span.start)?;
            at += span.count as u64;
            len -= span.count as u64;
        }
        Ok(())
    }

    /// Moves all of `buffers` without a copy, if that is possible. If not, perhaps after a part of it,
    /// nothing is taken off `buffers`: it is to be done anew.
    fn is_direct(
        &mut self,
        way: Direction,
        at: u64,
        buffers: &mut Buffers<'_>,
    ) -> io::Result<bool> {
        if !self.fits(at, buffers) {
            return Ok(false);
        }
        let mut rest = buffers.clone();
        let mut at = at;
        while !rest.is_empty() {
            match vectored(&self.disk.file, way, at, &rest) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    rest.take(count);
                    at += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if error.raw_os_error() == Some(libc::EINVAL)
                        && self.disk.direct
                        && self.unit < LARGEST_UNIT =>
                {
                    self.unit = LARGEST_UNIT;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Whether they are aligned for direct I/O, if that is how the file is accessed.
    fn fits(&self, at: u64, buffers: &Buffers<'_>) -> bool {
        let fits = |n: u64| n.is_multiple_of(self.unit);
        let fit = |run: &VolatileSlice<'_>| {
            fits(run.ptr_guard().as_ptr() as u64) && fits(run.len() as u64)
        };
        fits(at) && buffers.runs().iter().all(fit)
    }

    /// The first piece of `len` bytes at `at` that goes through the buffer.
    fn span(&self, at: u64, len: usize) -> Span {
        // Our buffer is aligned for any unit, so the smallest one costs nothing more, and the largest
        // is right even before it is known to be needed.
        let unit = if self.unit == 1 { 1 } else { LARGEST_UNIT };
        let start = at / unit * unit;
        let end = (at + len as u64).min(start + PIECE);
        Span {
            start,
            skip: (at - start) as usize,
            count: (end - at) as usize,
            len: (end.next_multiple_of(unit) - start) as usize,
        }
    }
}

impl Content for Raw {
    fn read(&mut self, at: u64, mut buffers: Buffers<'_>) -> io::Result<()> {
        if self.is_direct(Direction::Read, at, &mut buffers)? {
            return Ok(());
        }
        let mut at = at;
        while !buffers.is_empty() {
            let span = self.span(at, buffers.len());
            let buffer = aligned(&mut self.buffer, span.len);
            self.disk.file.read_exact_at(buffer, span.start)?;
            at += buffers.write(&buffer[span.skip..span.skip + span.count]) as u64;
        }
        Ok(())
    }

    fn write(&mut self, at: u64, buffers: &mut Buffers<'_>) -> io::Result<()> {
        if self.is_direct(Direction::Write, at, buffers)? {
            return Ok(());
        }
        let mut at = at;
        while !buffers.is_empty() {
            let span = self.span(at, buffers.len());
            let buffer = aligned(&mut self.buffer, span.len);
            if span.count < span.len {
                self.disk.file.read_exact_at(buffer, span.start)?;
            }
            at += buffers.read(&mut buffer[span.skip..span.skip + span.count]) as u64;
            self.disk.file.write_all_at(buffer, span.start)?;
        }
        Ok(())
    }

    fn passes_on(&self, operation: Operation, buffers: &Buffers<'_>) -> Option<&File> {
        let fits = match operation {
            Operation::Read(at) | Operation::Write(at) => self.fits(at, buffers),
            Operation::Flush => true,
        };
        fits.then_some(&self.disk.file)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.disk.file.sync_data()
    }

    fn discard(&mut self, at: u64, len: u64) -> io::Result<()> {
        match self.punch(at, len) {
            Err(error) if is_too_much_asked(&error) => Ok(()),
            done => done,
        }
    }

    fn zero(&mut self, at: u64, len: u64, unmap: bool) -> io::Result<()> {
        let done = match unmap {
            true => self.punch(at, len),
            false => self.allocate(FallocateFlags::FALLOC_FL_ZERO_RANGE, at, len),
        };
        match done {
            Err(error) if is_too_much_asked(&error) => self.write_zeroes(at, len),
            done => done,
        }
    }
}

/// A piece of the file in whole units, and the bytes in it that are meant.
struct Span {
    start: u64,
    /// How many bytes come before those,
    skip: usize,
    /// how many are meant,
    count: usize,
    /// and how many there are in all.
    len: usize,
}

/// `len` bytes, at most a piece, aligned for any unit.
fn aligned(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.is_empty() {
        buffer.resize((PIECE + LARGEST_UNIT) as usize, 0);
    }
    let skip = buffer.as_ptr().align_offset(LARGEST_UNIT as usize);
    &mut buffer[skip..skip + len]
}

/// Whether the filesystem only does not know how.
fn is_too_much_asked(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS)
    )
}

/// One system call: moves some bytes between the file and the guest's memory.
fn vectored(file: &File, way: Direction, at: u64, buffers: &Buffers<'_>) -> io::Result<usize> {
    let guards: Vec<_> = buffers
        .runs()
        .iter()
        .map(|run| run.ptr_guard_mut())
        .collect();
    let parts: Vec<_> = guards
        .iter()
        .map(|guard| libc::iovec {
            iov_base: guard.as_ptr().cast(),
            iov_len: guard.len(),
        })
        .collect();
    let at = libc::off_t::try_from(at).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
    // A chain has no more runs than the kernel takes.
    let count = parts.len() as libc::c_int;
    let (file, parts) = (file.as_raw_fd(), parts.as_ptr());
    // SAFETY: each part is a run of the guest's memory, mapped while `buffers` is there, and no
    // reference to it exists; the kernel reads or writes it, as the guest may at the same time.
    let done = unsafe {
        match way {
            Direction::Read => libc::preadv(file, parts, count, at),
            Direction::Write => libc::pwritev(file, parts, count, at),
        }
    };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}
