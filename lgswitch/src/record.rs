//! A record is one frame as it stands in a ring or a log.
//!
//! ```text
//! 0   u32  length of the frame
//! 4   u32  kind: 1 frame, 2 filler up to the end of the ring
//! 8   u64  sequence number of the source
//! 16  ..   virtio-net header, 10 bytes
//! 26  u16  0
//! 28  u32  low half of the log's frame count (0 in a ring)
//! 32  ..   the frame
//! ```
//!
//! Records start on a cache line and never wrap: what does not fit before the end of the ring is
//! skipped over by a filler. The sequence number counts a source's frames over all its rings and
//! its log, so that a reader can put unicast and flood in order again.

use std::sync::atomic::Ordering;

use crate::frame::{ETHERNET_HEADER, Gather, VnetHeader};
use crate::layout::MAX_FRAME;
use crate::map::{Mapping, SharedBytes};

/// Bytes before the frame.
pub const HEAD_BYTES: u64 = 32;
/// Records start on multiples of this: a cache line.
pub const ALIGN: u64 = 64;

const FRAME: u32 = 1;
const FILLER: u32 = 2;

/// Bytes a record of a frame of `len` bytes takes.
#[inline]
pub fn size(len: usize) -> u64 {
    (HEAD_BYTES + len as u64).next_multiple_of(ALIGN)
}

/// The space that a record needs at `position` of a ring of `capacity` bytes: its filler and itself.
#[inline]
pub fn space(position: u64, capacity: u64, len: usize) -> u64 {
    let size = size(len);
    let to_end = capacity - position % capacity;
    if size <= to_end { size } else { to_end + size }
}

/// Writes a record, and a filler before it if need be, at `position`; tells the position after
/// it. The caller owns that space and publishes it afterwards.
#[inline]
pub fn write(
    map: &Mapping,
    position: u64,
    sequence: u64,
    count: u32,
    header: &VnetHeader,
    frame: &Gather<'_>,
) -> u64 {
    let capacity = map.len() as u64;
    let size = size(frame.len());
    let mut at = position % capacity;
    let mut end = position + size;
    if size > capacity - at {
        write_head(map, at, 0, FILLER, 0);
        end += capacity - at;
        at = 0;
    }
    write_head(map, at, frame.len() as u32, FRAME, sequence);
    let mut rest = [0; 16];
    rest[..VnetHeader::BYTES].copy_from_slice(&header.encode());
    rest[12..].copy_from_slice(&count.to_le_bytes());
    map.write(at + 16, &rest);
    map.put(at + HEAD_BYTES, frame);
    end
}

#[inline]
fn write_head(map: &Mapping, at: u64, len: u32, kind: u32, sequence: u64) {
    map.word64(at)
        .store(u64::from(len) | u64::from(kind) << 32, Ordering::Relaxed);
    map.word64(at + 8).store(sequence, Ordering::Relaxed);
}

/// A record found at some position, its numbers checked.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// The source's sequence number; may be anything.
    pub sequence: u64,
    /// The log's frame count; may be anything.
    pub count: u32,
    /// What stands beside the frame; may be anything.
    pub header: VnetHeader,
    /// The frame: 14 to [`MAX_FRAME`] bytes inside the mapping.
    pub frame: SharedBytes<'a>,
    /// The position after it, at most the published one.
    pub end: u64,
}

/// What stands at a position.
#[derive(Debug, Clone, Copy)]
pub enum Found<'a> {
    /// Nothing more is published.
    Nothing,
    /// A frame.
    Frame(Record<'a>),
    /// Bytes that no writer of this format would have published.
    Garbage,
}

/// Looks at `position`, with everything before `published` there to be read. Each number is read
/// once. `position` is the reader's own; `published` may be anything.
#[inline]
pub fn read(map: &Mapping, position: u64, published: u64) -> Found<'_> {
    let capacity = map.len() as u64;
    let mut position = position;
    let mut left = published.wrapping_sub(position);
    if left == 0 {
        return Found::Nothing;
    }
    if left > capacity || !left.is_multiple_of(ALIGN) || !position.is_multiple_of(ALIGN) {
        return Found::Garbage;
    }
    let mut at = position % capacity;
    let mut head = map.word64(at).load(Ordering::Relaxed);
    if (head >> 32) as u32 == FILLER {
        let skip = capacity - at;
        if skip >= left {
            return Found::Garbage;
        }
        position = position.wrapping_add(skip);
        left -= skip;
        at = 0;
        head = map.word64(at).load(Ordering::Relaxed);
    }
    let (len, kind) = (head as u32 as usize, (head >> 32) as u32);
    let plausible = kind == FRAME && (ETHERNET_HEADER..=MAX_FRAME).contains(&len);
    if !plausible || size(len) > left.min(capacity - at) {
        return Found::Garbage;
    }
    let mut rest = [0; 16];
    map.read(at + 16, &mut rest);
    Found::Frame(Record {
        sequence: map.word64(at + 8).load(Ordering::Relaxed),
        count: u32::from_le_bytes([rest[12], rest[13], rest[14], rest[15]]),
        header: VnetHeader::decode(&std::array::from_fn(|i| rest[i])),
        frame: map.bytes(at + HEAD_BYTES, len),
        end: position.wrapping_add(size(len)),
    })
}
