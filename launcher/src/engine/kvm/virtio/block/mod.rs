//! A disk (Virtual I/O Device 1.2, 5.2): requests of the guest become reads and writes of the
//! [`Disk`]'s file.
//!
//! One thread a disk does them one after another, in the guest's memory where the kernel can
//! ([`image`] has the exceptions). A request says what, where, and how much; all of it is checked
//! against the disk's size before anything is touched. What can't be done is answered with an error,
//! which the guest's filesystem sees; only a request that has no place for an answer breaks the device.

mod image;

use std::io;

use virtio_bindings::virtio_blk::*;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use vm_memory::ByteValued;

use super::chain::{Broken, Buffers, Chain};
use super::description::{Config, Description};
use super::device::Device;
use super::vring::{Outcome, Vring};
use super::worker::{self, Work};
use crate::backend::block::{Disk, SECTOR};
use crate::plan::disk::DiskSerial;
use image::Image;

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
    image: Image,
    read_only: bool,
    id: [u8; VIRTIO_BLK_ID_BYTES as usize],
}

/// Makes the device of `disk`, number `number` of the guest's.
///
/// # Errors
/// No descriptor or no thread is left.
pub fn device(disk: Disk, number: usize) -> io::Result<Device> {
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
    let block = Block {
        read_only: disk.read_only,
        image: Image::new(disk),
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
        queue.serve(|chain| self.answer(chain).map(Outcome::Done))
    }
}

impl Block {
    /// Does a request and says how it went, in the last byte of it; gives the number of bytes
    /// written.
    fn answer(&mut self, chain: &mut Chain<'_>) -> Result<u32, Broken> {
        let header = chain.readable.read_object::<Header>();
        let header = header.ok_or(Broken("a request of a disk without a header"))?;
        let room = chain.writable.len().checked_sub(1);
        let room = room.ok_or(Broken("a request of a disk without a place for its answer"))?;
        let data = chain.writable.take(room);
        let (status, written) = match self.request(header, &mut chain.readable, data) {
            Ok(written) => (VIRTIO_BLK_S_OK, written),
            Err(Failure::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
            Err(Failure::Io) => (VIRTIO_BLK_S_IOERR, 0),
        };
        chain.writable.write(&[status as u8]);
        // Together they are less than 4 GiB, as the chain is.
        Ok(written as u32 + 1)
    }

    /// Does a request: with `given` by the guest, and `wanted` by it. Gives the bytes written there.
    fn request(
        &mut self,
        header: Header,
        given: &mut Buffers<'_>,
        mut wanted: Buffers<'_>,
    ) -> Result<usize, Failure> {
        let sector = u64::from_le(header.sector);
        let kind = u32::from_le(header.kind);
        let changes = matches!(
            kind,
            VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES
        );
        if changes && self.read_only {
            return Err(Failure::Io);
        }
        match kind {
            VIRTIO_BLK_T_IN => {
                let len = wanted.len();
                let at = self.place(sector, len as u64)?;
                self.image.read(at, wanted)?;
                return Ok(len);
            }
            VIRTIO_BLK_T_OUT => {
                let at = self.place(sector, given.len() as u64)?;
                self.image.write(at, given)?;
            }
            VIRTIO_BLK_T_FLUSH => self.image.flush()?,
            VIRTIO_BLK_T_GET_ID => return Ok(wanted.write(&self.id)),
            VIRTIO_BLK_T_DISCARD => {
                let (at, len, flags) = self.range(given, MOST_DISCARDED)?;
                if flags != 0 {
                    return Err(Failure::Unsupported);
                }
                self.image.discard(at, len)?;
            }
            VIRTIO_BLK_T_WRITE_ZEROES => {
                let (at, len, flags) = self.range(given, MOST_ZEROED)?;
                if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 {
                    return Err(Failure::Unsupported);
                }
                self.image.zero(at, len, flags != 0)?;
            }
            _ => return Err(Failure::Unsupported),
        }
        Ok(0)
    }

    /// The one range that a request is about, in bytes, and its flags.
    fn range(&self, given: &mut Buffers<'_>, most: u32) -> Result<(u64, u64, u32), Failure> {
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
        match len.is_multiple_of(SECTOR) && end <= self.image.size() {
            true => Ok(at),
            false => Err(Failure::Io),
        }
    }
}
