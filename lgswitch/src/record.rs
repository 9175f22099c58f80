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

/// A record's first word, without the length.
const FRAME: u64 = 1 << 32;
const FILLER: u64 = 2 << 32;
/// That of the shortest frame, and what may be added to it.
const SHORTEST: u64 = FRAME | ETHERNET_HEADER as u64;
const LONGER: u64 = (MAX_FRAME - ETHERNET_HEADER) as u64;

/// Bytes a record of a frame of `len` bytes takes.
#[inline]
pub fn size(len: usize) -> u64 {
    (HEAD_BYTES + len as u64 + (ALIGN - 1)) & !(ALIGN - 1)
}

/// The shape of a ring or log.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Bytes of it, a multiple of [`ALIGN`].
    bytes: u64,
    /// What positions are counted in, a power of two: from one lap to the next it is so many.
    stride: u64,
    /// No record goes beyond this place: there is room for a filler, where one is needed.
    limit: u64,
}

impl Shape {
    /// That of a ring or log of `bytes`.
    pub fn of(bytes: u64) -> Self {
        let stride = bytes.next_power_of_two();
        Self {
            bytes,
            stride,
            limit: if bytes == stride {
                bytes
            } else {
                bytes - ALIGN
            },
        }
    }

    /// Bytes of it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Positions from one lap to the next.
    pub fn stride(&self) -> u64 {
        self.stride
    }

    /// Where a writer may go on that finds `head` where its last writer stopped. Somebody may have
    /// scribbled over it: then it goes on elsewhere, which readers take for a gap and skip.
    pub fn sane(&self, head: u64) -> u64 {
        let place = self.place(head);
        if !head.is_multiple_of(ALIGN) || head >= 1 << 62 {
            0
        } else if place > self.limit {
            head - place
        } else {
            head
        }
    }

    /// Where `position` is.
    #[inline]
    pub fn place(&self, position: u64) -> u64 {
        position & (self.stride - 1)
    }

    /// The position at which the lap of `position` ends: no record goes beyond it.
    #[inline]
    pub fn lap_end(&self, position: u64) -> u64 {
        position - self.place(position) + self.limit
    }

    /// Where a record of a frame of `len` bytes begins that is written at `position`: there, or, behind
    /// a [`filler`](fill), where the next lap does.
    #[inline]
    pub fn start(&self, position: u64, len: usize) -> u64 {
        let place = self.place(position);
        match place + size(len) <= self.limit {
            true => position,
            false => position - place + self.stride,
        }
    }

    /// The position after it.
    #[inline]
    pub fn after(&self, position: u64, len: usize) -> u64 {
        self.start(position, len) + size(len)
    }
}

/// What stands in a record before the frame, save its length.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// The source's sequence number.
    pub sequence: u64,
    /// The log's frame count, or 0.
    pub count: u32,
    /// What is left to do to the frame.
    pub header: &'a VnetHeader,
}

/// Writes a filler at `place`: what comes after it is at the beginning.
#[cold]
pub fn fill(map: &Mapping, place: u64) {
    map.word64(place).store(FILLER, Ordering::Relaxed);
}

/// Writes a record at `place`. The caller owns that space and publishes it afterwards; before that it
/// drains what it had streamed.
#[inline(always)]
pub fn write(map: &Mapping, place: u64, head: Head<'_>, frame: &Gather<'_>, stream: bool) {
    let [low, high] = head.header.words();
    let first = FRAME | frame.len() as u64;
    let high = high | u64::from(head.count) << 32;
    match stream {
        true => self::stream(map, place, first, head.sequence, low, high, frame),
        false => map.put(place, [first, head.sequence, low, high], frame),
    }
}

/// A call, and its arguments in registers: words that must be in memory for it would be put there for
/// [`Mapping::put`] too, which loads them in pairs. A load of what two stores have just made waits until both
/// are done, and they until those before them are, lines of the ring among them.
#[inline(never)]
fn stream(map: &Mapping, at: u64, a: u64, b: u64, c: u64, d: u64, frame: &Gather<'_>) {
    map.stream(at, [a, b, c, d], frame);
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
#[inline(always)]
pub fn read(map: &Mapping, shape: Shape, position: u64, published: u64) -> Found<'_> {
    let mut position = position;
    // Goes round again behind a filler: once, for one at the beginning skips no less than could be left.
    loop {
        let left = published.wrapping_sub(position);
        if left == 0 {
            return Found::Nothing;
        }
        let at = shape.place(position);
        let aligned = (left | position).is_multiple_of(ALIGN);
        if left > shape.stride || !aligned || !map.has(at, ALIGN as usize) {
            return Found::Garbage;
        }
        let head = map.words::<4>(at);
        let word = |i: usize| head[i].load(Ordering::Relaxed);
        let first = word(0);
        // Kind and length in one look.
        let longer = first.wrapping_sub(SHORTEST);
        if longer <= LONGER {
            let len = ETHERNET_HEADER + longer as usize;
            let size = size(len);
            if size > left || at + size > shape.limit {
                return Found::Garbage;
            }
            let (sequence, low, high) = (word(1), word(2), word(3));
            return Found::Frame(Record {
                sequence,
                count: (high >> 32) as u32,
                header: VnetHeader::from_words([low, high]),
                frame: map.bytes(at + HEAD_BYTES, len),
                end: position.wrapping_add(size),
            });
        }
        let skip = shape.stride - at;
        if first >> 32 != FILLER >> 32 || skip >= left {
            return Found::Garbage;
        }
        position = position.wrapping_add(skip);
    }
}
