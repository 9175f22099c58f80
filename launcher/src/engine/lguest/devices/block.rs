//! A disk. The guest writes what it wants into the device's page and sends a block there; for each such
//! request one block is bound, which is the answer.
//!
//! | in the page at | what | written by |
//! |---|---|---|
//! | 0 | 0 read, 1 write | guest |
//! | 4 | first sector | guest |
//! | 8 | bytes it expects to be moved | guest |
//! | 12 | 0 pending, 1 done, 2 failed | guest, then we |
//! | 16 | sectors of the disk | we, once |
//!
//! To write, the block that is sent has the data; to read, the one that is bound has the room.

use std::io;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::{Device, Line, Trouble};
use crate::backend::block::{Disk, SECTOR};
use crate::engine::lguest::dma::Block;
use crate::engine::lguest::host::Bound;
use crate::engine::lguest::memory::{GuestMemory, OutOfBounds};

const KIND: u32 = 0;
const FIRST_SECTOR: u32 = 4;
const EXPECTED: u32 = 8;
const RESULT: u32 = 12;
const SECTORS: u32 = 16;

const READ: u32 = 0;
const WRITE: u32 = 1;

const DONE: u32 = 1;
const FAILED: u32 = 2;

/// The largest unit of direct I/O in use, in bytes: buffers start at a multiple of it.
const DIRECT_UNIT: usize = 4096;
/// The most one block can move: 16 pieces of a page.
const MOST: usize = 16 * 4096;

/// A disk on the bus.
#[derive(Debug)]
pub struct BlockDevice {
    disk: Disk,
    page: u32,
    /// Room for one request, wherever in it direct I/O wants to start.
    buffer: Vec<u8>,
}

impl BlockDevice {
    /// Puts a disk behind the page at `page`.
    ///
    /// # Errors
    /// The page is not in memory.
    pub fn new(memory: &GuestMemory, page: u32, disk: Disk) -> Result<Self, OutOfBounds> {
        // The guest counts in 32 bits; of a disk of more than 2 TiB it has the first.
        let sectors = u32::try_from(disk.size / SECTOR).unwrap_or(u32::MAX);
        memory.store(page + SECTORS, sectors)?;
        Ok(Self {
            disk,
            page,
            buffer: vec![0; MOST + DIRECT_UNIT],
        })
    }

    /// Moves what a request asks for; gives how many bytes it moved.
    fn request(
        &mut self,
        memory: &GuestMemory,
        kind: u32,
        sector: u32,
        sent: &Block,
        bound: &Block,
    ) -> Result<usize, Trouble> {
        let at = u64::from(sector) * SECTOR;
        let left = self.disk.size.saturating_sub(at);
        let name = self.disk.path.display();
        if left == 0 {
            let why = format!("the disk {name} ends before sector {sector}, which it asked for");
            return Err(Trouble::Guest(why));
        }
        let start = self
            .buffer
            .as_ptr()
            .align_offset(DIRECT_UNIT)
            .min(DIRECT_UNIT);
        let buffer = &mut self.buffer[start..start + MOST];
        match kind {
            READ => {
                let wanted = bound.len().min(MOST).min(left.min(MOST as u64) as usize);
                let buffer = &mut buffer[..wanted];
                let moved = read(&mut self.disk, buffer, at).unwrap_or(0);
                Ok(bound.fill(memory, &buffer[..moved])?)
            }
            WRITE if !self.disk.read_only => {
                let len = sent.copy_to(memory, buffer)?;
                let fits = len.min(left.min(MOST as u64) as usize);
                let moved = write(&mut self.disk, &buffer[..fits], at).unwrap_or(0);
                if fits < len {
                    let name = self.disk.path.display();
                    let why =
                        format!("it wrote past the end of the disk {name}, which does not grow");
                    return Err(Trouble::Guest(why));
                }
                Ok(moved)
            }
            _ => Ok(0),
        }
    }
}

impl Device for BlockDevice {
    fn sent(&mut self, line: &mut Line<'_>, block: &Block, _offset: u32) -> Result<u32, Trouble> {
        let word = |at: u32| line.memory.load::<u32>(self.page + at);
        let (kind, sector, expected) = (word(KIND)?, word(FIRST_SECTOR)?, word(EXPECTED)?);
        let Bound::Free { block: answer, irq } = line.host.get_dma(self.page)? else {
            let name = self.disk.path.display();
            let why = format!(
                "it asked for something of the disk {name} and bound no block for the answer"
            );
            return Err(Trouble::Guest(why));
        };
        let answer = Block::read(line.memory, answer)?;
        let moved = self.request(line.memory, kind, sector, block, &answer)?;
        let used = if kind == READ { moved as u32 } else { 0 };
        answer.set_used(line.memory, used)?;
        let result = if moved == expected as usize {
            DONE
        } else {
            FAILED
        };
        line.memory.store(self.page + RESULT, result)?;
        line.raise(irq)?;
        Ok(block.len() as u32)
    }

    /// It answers when it is asked, and else has nothing to say.
    fn poll(&mut self, _line: &mut Line<'_>, _ready: bool) -> Result<(), Trouble> {
        Ok(())
    }
}

/// Reads as much as there is.
fn read(disk: &mut Disk, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    all(disk, buffer.len(), |disk, done| {
        disk.file.read_at(&mut buffer[done..], at + done as u64)
    })
}

/// Writes all.
fn write(disk: &mut Disk, buffer: &[u8], at: u64) -> io::Result<usize> {
    all(disk, buffer.len(), |disk, done| {
        disk.file.write_at(&buffer[done..], at + done as u64)
    })
}

/// Moves bytes until `len` are moved, or no more can be.
fn all(
    disk: &mut Disk,
    len: usize,
    mut step: impl FnMut(&Disk, usize) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut done = 0;
    while done < len {
        match step(disk, done) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Direct I/O in smaller units than this file takes: from here on through the host's cache.
            Err(error) if disk.direct && error.raw_os_error() == Some(libc::EINVAL) => {
                let flags = OFlag::from_bits_retain(fcntl(&disk.file, FcntlArg::F_GETFL)?);
                fcntl(&disk.file, FcntlArg::F_SETFL(flags - OFlag::O_DIRECT))?;
                disk.direct = false;
            }
            Err(error) => {
                tracing::warn!("The disk {} failed: {error}", disk.path.display());
                return Err(error);
            }
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Stub, block};
    use super::*;
    use crate::engine::lguest::inputs::Inputs;
    use crate::plan::disk::BlockPlan;

    const PAGE: u32 = 0x8000;
    const ANSWER: u32 = 0x1000;
    const IRQ: u8 = 3;

    struct Bench {
        file: tempfile::NamedTempFile,
        memory: GuestMemory,
        inputs: Inputs,
    }

    impl Bench {
        fn new(sectors: u64) -> Self {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(sectors * SECTOR).unwrap();
            Self {
                file,
                memory: GuestMemory::new(0xa000).unwrap(),
                inputs: Inputs::new().unwrap(),
            }
        }

        fn device(&self, read_only: bool) -> BlockDevice {
            let plan = BlockPlan {
                path: self.file.path().to_owned(),
                read_only,
                serial: None,
                ..Default::default()
            };
            BlockDevice::new(&self.memory, PAGE, Disk::open(&plan).unwrap()).unwrap()
        }

        /// Makes one request; gives the result and the answer's length.
        fn request(
            &self,
            device: &mut BlockDevice,
            kind: u32,
            sector: u32,
            sent: &[(u32, u16)],
            bound: &[(u32, u16)],
            expected: u32,
        ) -> Result<(u32, u32), Trouble> {
            let mut host = Stub::new(&self.memory);
            host.bindings.bind(PAGE, ANSWER, 1, IRQ);
            let sent = block(&self.memory, 0x1100, sent);
            block(&self.memory, ANSWER, bound);
            for (at, word) in [
                (KIND, kind),
                (FIRST_SECTOR, sector),
                (EXPECTED, expected),
                (RESULT, 0),
            ] {
                self.memory.store(PAGE + at, word).unwrap();
            }
            device.sent(&mut host.line(&self.inputs), &sent, 0)?;
            assert_eq!(host.raised, [IRQ]);
            Ok((
                self.memory.load(PAGE + RESULT).unwrap(),
                self.memory.load(ANSWER).unwrap(),
            ))
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let bench = Bench::new(64);
        let mut device = bench.device(false);
        assert_eq!(bench.memory.load::<u32>(PAGE + SECTORS), Ok(64));
        bench.memory.write_bytes(0x2ffe, b"lguest").unwrap();
        let data = [(0x2e00, 512), (0x3000, 512)];
        let written = bench.request(&mut device, WRITE, 5, &data, &[], 1024);
        assert_eq!(written.unwrap(), (DONE, 0));
        let room = [(0x4000, 4096)];
        let read = bench.request(&mut device, READ, 5, &[], &room, 1024);
        // More room than was asked for is filled, and that is not what was expected.
        assert_eq!(read.unwrap(), (FAILED, 4096));
        let read = bench.request(&mut device, READ, 5, &[], &[(0x4000, 1024)], 1024);
        assert_eq!(read.unwrap(), (DONE, 1024));
        let mut got = [0; 6];
        bench.memory.read_bytes(0x4000 + 0x1fe, &mut got).unwrap();
        assert_eq!(&got, b"lguest");
    }

    #[test]
    fn a_write_past_the_end_is_cut_and_the_guest_stopped() {
        let bench = Bench::new(8);
        let mut device = bench.device(false);
        bench.memory.write_bytes(0x2000, &[7; 1024]).unwrap();
        let end = bench.request(&mut device, WRITE, 7, &[(0x2000, 1024)], &[], 1024);
        let why = end.unwrap_err().to_string();
        assert!(why.contains("past the end"), "{why}");
        let bytes = std::fs::read(bench.file.path()).unwrap();
        assert_eq!(bytes.len(), 8 * 512);
        assert_eq!(bytes[7 * 512..], [7; 512]);
        for sector in [8, u32::MAX] {
            let end = bench.request(&mut device, READ, sector, &[], &[(0x2000, 512)], 512);
            assert!(end.unwrap_err().to_string().contains("ends before"));
        }
        // A read that begins inside is short.
        let read = bench.request(&mut device, READ, 7, &[], &[(0x2000, 1024)], 1024);
        assert_eq!(read.unwrap(), (FAILED, 512));
    }

    #[test]
    fn a_read_only_disk_and_requests_nobody_knows_fail() {
        let bench = Bench::new(8);
        let mut device = bench.device(true);
        let write = bench.request(&mut device, WRITE, 0, &[(0x2000, 512)], &[], 512);
        assert_eq!(write.unwrap(), (FAILED, 0));
        let odd = bench.request(&mut device, 9, 0, &[(0x2000, 512)], &[], 512);
        assert_eq!(odd.unwrap(), (FAILED, 0));
    }
}
