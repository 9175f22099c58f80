//! A disk (Virtual I/O Device 1.2, 5.2): requests of the guest become reads and writes of the
//! [`Disk`]'s file.
//!
//! A request says what, where, and how much; all of it is checked against the disk's size before
//! anything is touched. Reads, writes and flushes are then handed to the kernel, which works in the
//! guest's memory, many at a time ([`ring`]). What takes more than to be passed on (an odd alignment, a
//! discard, a kernel without rings) is done here and now, alone, when all else has landed ([`content`]).
//! So nothing is said of the order of requests that the guest has under way together, as on any disk;
//! and a flush covers all writes that were answered before it was asked for (5.2.6.2).
//!
//! What can't be done is answered with an error, which the guest's filesystem sees; only a request that
//! has no place for an answer breaks the device.

mod content;
mod layers;
mod raw;
mod ring;

use std::io;

use nix::poll::PollFlags;
use virtio_bindings::virtio_blk::*;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use vm_memory::ByteValued;

use super::chain::{Broken, Buffers, Chain, Held};
use super::description::{Config, Description};
use super::device::Device;
use super::vring::{Outcome, Vring};
use super::worker::{self, Source, Work};
use crate::backend::block::{Disk, SECTOR};
use crate::plan::disk::DiskSerial;
use content::Content;
use layers::Layers;
use raw::Raw;
use ring::{Flight, Operation, Ring};

/// Requests that can wait, and, less the header and the answer, the runs of memory in one.
const QUEUE: u16 = 256;
/// Sectors that one request may discard or zero: 1 GiB and 64 MiB, for zeroes may have to be written.
const MOST_DISCARDED: u32 = 1 << 21;
const MOST_ZEROED: u32 = 1 << 17;

/// Where fields of the configuration are (5.2.4), and how long it is.
mod config {
    pub const CAPACITY: usize = 0;
    pub const SEG_MAX: usize = 12;
    pub const BLK_SIZE: usize = 20;
    pub const MAX_DISCARD_SECTORS: usize = 36;
    pub const MAX_DISCARD_SEG: usize = 40;
    pub const DISCARD_SECTOR_ALIGNMENT: usize = 44;
    pub const MAX_WRITE_ZEROES_SECTORS: usize = 48;
    pub const MAX_WRITE_ZEROES_SEG: usize = 52;
    pub const WRITE_ZEROES_MAY_UNMAP: usize = 56;
    pub const LEN: usize = 60;
}

/// What a request starts with (5.2.6).
#[derive(Debug, Default, Clone, Copy)]
#[repr(C)]
struct Header {
    kind: u32,
    reserved: u32,
    sector: u64,
}

/// What is to be discarded or zeroed.
#[derive(Debug, Default, Clone, Copy)]
#[repr(C)]
struct Range {
    sector: u64,
    sectors: u32,
    flags: u32,
}

// SAFETY: plain numbers, without padding: 4 + 4 + 8 bytes aligned to 8, twice.
unsafe impl ByteValued for Header {}
// SAFETY: as above.
unsafe impl ByteValued for Range {}

/// Why a request was not done.
#[derive(Debug)]
enum Failure {
    /// There is nothing of the kind.
    Unsupported,
    /// It is outside the disk, or the disk's file can't do it.
    Io,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        tracing::debug!("a guest's disk: {error}");
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Self::Unsupported,
            _ => Self::Io,
        }
    }
}

struct Block {
    content: Box<dyn Content>,
    /// In bytes.
    size: u64,
    /// None if the kernel has none for us.
    ring: Option<Ring<Asked>>,
    /// What has landed, and is to be given back: heads, and bytes written.
    landed: Vec<(u16, u32)>,
    read_only: bool,
    id: [u8; VIRTIO_BLK_ID_BYTES as usize],
}

/// A request that is under way.
struct Asked {
    head: u16,
    operation: Operation,
    data: Held,
    /// The byte for its answer.
    answer: Held,
}

impl Flight for Asked {
    fn parts(&self) -> &[libc::iovec] {
        self.data.parts()
    }
}

impl Asked {
    /// Says how it went; gives what the queue is to be told.
    fn answered(self, done: &Result<usize, Failure>) -> (u16, u32) {
        (self.head, answer(&mut self.answer.buffers(), done))
    }
}

/// Says how a request went, in the last byte of it; tells how many bytes were written in all.
fn answer(place: &mut Buffers<'_>, done: &Result<usize, Failure>) -> u32 {
    let (status, written) = match done {
        Ok(written) => (VIRTIO_BLK_S_OK, *written),
        Err(Failure::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
        Err(Failure::Io) => (VIRTIO_BLK_S_IOERR, 0),
    };
    place.write(&[status as u8]);
    // Together they are less than 4 GiB, as the chain is.
    written as u32 + 1
}

/// Makes the device of `disk`, number `number` of the guest's.
///
/// # Errors
/// No descriptor or no thread is left.
pub fn device(mut disk: Disk, number: usize) -> io::Result<Device> {
    let mut features = [
        VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_BLK_SIZE,
        VIRTIO_BLK_F_FLUSH,
    ]
    .to_vec();
    features.extend(match disk.read_only {
        true => [VIRTIO_BLK_F_RO].as_slice(),
        false => &[VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES],
    });
    let description = Description {
        id: VIRTIO_ID_BLOCK,
        features: features.iter().fold(0, |all, bit| all | 1 << bit),
        queues: vec![QUEUE],
        config: Config::new(configuration(disk.size), 0..0),
    };
    let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
    let serial = disk
        .serial
        .as_ref()
        .map_or("", DiskSerial::as_str)
        .as_bytes();
    for (to, from) in id.iter_mut().zip(serial) {
        *to = *from;
    }
    let read_only = disk.read_only;
    let block = Block {
        read_only,
        size: disk.size,
        content: match disk.access().map_err(io::Error::other)? {
            Some(access) => Box::new(Layers::new(access)),
            None => Box::new(Raw::new(disk)),
        },
        ring: Ring::new()
            .inspect_err(|error| tracing::debug!("a disk without io_uring: {error}"))
            .ok(),
        landed: Vec::new(),
        id,
    };
    worker::device(&format!("disk {number}"), description, block)
}

fn configuration(size: u64) -> Vec<u8> {
    let mut bytes = vec![0; config::LEN];
    let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    let capacity = size / SECTOR;
    put(config::CAPACITY, capacity as u32);
    put(config::CAPACITY + 4, (capacity >> 32) as u32);
    put(config::SEG_MAX, u32::from(QUEUE) - 2);
    put(config::BLK_SIZE, SECTOR as u32);
    put(config::MAX_DISCARD_SECTORS, MOST_DISCARDED);
    put(config::MAX_DISCARD_SEG, 1);
    put(config::DISCARD_SECTOR_ALIGNMENT, 8);
    put(config::MAX_WRITE_ZEROES_SECTORS, MOST_ZEROED);
    put(config::MAX_WRITE_ZEROES_SEG, 1);
    bytes[config::WRITE_ZEROES_MAY_UNMAP] = 1;
    bytes
}

impl Work for Block {
    fn serve(&mut self, _: usize, queue: &mut Vring) -> Result<bool, Broken> {
        self.land(false);
        queue.complete(self.landed.drain(..))?;
        let more = queue.serve(|chain| self.take_on(chain))?;
        let all_submitted = self.ring.as_mut().is_none_or(Ring::submit);
        queue.complete(self.landed.drain(..))?;
        Ok(more || !all_submitted)
    }

    fn sources(&self) -> Vec<Source<'_>> {
        let under_way = self.ring.as_ref().filter(|ring| !ring.is_idle());
        let source = under_way.map(|ring| Source {
            fd: ring.landed(),
            event: PollFlags::POLLIN,
            queue: 0,
        });
        source.into_iter().collect()
    }

    fn stop(&mut self) {
        self.land(true);
        self.landed.clear();
    }
}

impl Block {
    /// Does a request, or has the kernel do it.
    fn take_on(&mut self, chain: &mut Chain<'_>) -> Result<Outcome, Broken> {
        let header = chain.readable.read_object::<Header>();
        let header = header.ok_or(Broken("a request of a disk without a header"))?;
        let room = chain.writable.len().checked_sub(1);
        let room = room.ok_or(Broken("a request of a disk without a place for its answer"))?;
        let wanted = chain.writable.take(room);
        let done = match self.operation(header, &chain.readable, &wanted) {
            Err(failure) => Err(failure),
            Ok(None) => self.other(header, &mut chain.readable, wanted),
            Ok(Some(operation)) => {
                let data = match operation {
                    Operation::Read(_) => wanted,
                    Operation::Write(_) => chain.readable.clone(),
                    Operation::Flush => chain.readable.take(0),
                };
                match (&mut self.ring, self.content.passes_on(operation, &data)) {
                    (Some(ring), Some(file)) => {
                        let asked = Asked {
                            head: chain.head,
                            operation,
                            data: data.hold(),
                            answer: chain.writable.hold(),
                        };
                        return Ok(match ring.prepare(file, operation, asked) {
                            true => Outcome::UnderWay,
                            false => Outcome::Later,
                        });
                    }
                    _ => {
                        self.land(true);
                        self.carry_out(operation, data)
                    }
                }
            }
        };
        Ok(Outcome::Done(answer(&mut chain.writable, &done)))
    }

    /// Takes what has landed; all that is under way, if `all` is to be waited for.
    fn land(&mut self, all: bool) {
        let Some(ring) = &mut self.ring else { return };
        let mut anew = Vec::new();
        loop {
            while let Some((asked, result)) = ring.next() {
                let len = asked.data.buffers().len();
                match (asked.operation, result) {
                    (Operation::Flush, Ok(_)) => self.landed.push(asked.answered(&Ok(0))),
                    (Operation::Read(_), Ok(count)) if count == len => {
                        self.landed.push(asked.answered(&Ok(len)));
                    }
                    (Operation::Write(_), Ok(count)) if count == len => {
                        self.landed.push(asked.answered(&Ok(0)));
                    }
                    // In part, or not at all.
                    _ => anew.push(asked),
                }
            }
            if ring.is_idle() || !all && anew.is_empty() {
                break;
            }
            ring.wait();
        }
        // By the way that knows the exceptions, and whose error counts.
        for asked in anew {
            let done = self.carry_out(asked.operation, asked.data.buffers());
            self.landed.push(asked.answered(&done));
        }
    }

    /// Does a request here and now. Nothing else is to be under way.
    fn carry_out(&mut self, operation: Operation, mut data: Buffers<'_>) -> Result<usize, Failure> {
        match operation {
            Operation::Read(at) => {
                let len = data.len();
                self.content.read(at, data)?;
                return Ok(len);
            }
            Operation::Write(at) => self.content.write(at, &mut data)?,
            Operation::Flush => self.content.flush()?,
        }
        Ok(0)
    }

    /// What the kernel could do of a request, which is inside the disk then.
    fn operation(
        &self,
        header: Header,
        given: &Buffers<'_>,
        wanted: &Buffers<'_>,
    ) -> Result<Option<Operation>, Failure> {
        let sector = u64::from_le(header.sector);
        Ok(Some(match u32::from_le(header.kind) {
            VIRTIO_BLK_T_IN => Operation::Read(self.place(sector, wanted.len() as u64)?),
            VIRTIO_BLK_T_OUT => {
                self.may_change()?;
                Operation::Write(self.place(sector, given.len() as u64)?)
            }
            VIRTIO_BLK_T_FLUSH => Operation::Flush,
            _ => return Ok(None),
        }))
    }

    fn may_change(&self) -> Result<(), Failure> {
        match self.read_only {
            true => Err(Failure::Io),
            false => Ok(()),
        }
    }

    /// Does a request of another kind: with `given` by the guest, and `wanted` by it. Gives the bytes
    /// written there.
    fn other(
        &mut self,
        header: Header,
        given: &mut Buffers<'_>,
        mut wanted: Buffers<'_>,
    ) -> Result<usize, Failure> {
        match u32::from_le(header.kind) {
            VIRTIO_BLK_T_GET_ID => return Ok(wanted.write(&self.id)),
            VIRTIO_BLK_T_DISCARD => {
                let (at, len, flags) = self.range(given, MOST_DISCARDED)?;
                if flags != 0 {
                    return Err(Failure::Unsupported);
                }
                self.land(true);
                self.content.discard(at, len)?;
            }
            VIRTIO_BLK_T_WRITE_ZEROES => {
                let (at, len, flags) = self.range(given, MOST_ZEROED)?;
                if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 {
                    return Err(Failure::Unsupported);
                }
                self.land(true);
                self.content.zero(at, len, flags != 0)?;
            }
            _ => return Err(Failure::Unsupported),
        }
        Ok(0)
    }

    /// The one range that a request is about, in bytes, and its flags.
    fn range(&self, given: &mut Buffers<'_>, most: u32) -> Result<(u64, u64, u32), Failure> {
        self.may_change()?;
        let range: Range = given.read_object().ok_or(Failure::Io)?;
        let sectors = u32::from_le(range.sectors);
        if sectors > most || !given.is_empty() {
            return Err(Failure::Io);
        }
        let len = u64::from(sectors) * SECTOR;
        let at = self.place(u64::from_le(range.sector), len)?;
        Ok((at, len, u32::from_le(range.flags)))
    }

    /// Where `sector` is in the file, if `len` bytes from there on are whole sectors of the disk.
    fn place(&self, sector: u64, len: u64) -> Result<u64, Failure> {
        let at = sector.checked_mul(SECTOR).ok_or(Failure::Io)?;
        let end = at.checked_add(len).ok_or(Failure::Io)?;
        match len.is_multiple_of(SECTOR) && end <= self.size {
            true => Ok(at),
            false => Err(Failure::Io),
        }
    }
}
