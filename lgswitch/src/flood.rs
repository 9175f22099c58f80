//! Broadcast, multicast and unknown unicast: the log of one port, read by all.
//!
//! The payload is written once, whatever the number of readers, and the writer never waits: it
//! goes round and writes over what is oldest. A reader that was lapped knows it, counts the
//! frames it missed and goes on at the newest.
//!
//! # Why it is safe
//!
//! A sequence lock over bytes. The writer first stores `reserved`, the position up to which it
//! is about to write, then (release fence) the record, then `head` with `Release`. A reader copies
//! a record out, then (acquire fence) loads `reserved`: if the writer has not reserved a whole
//! capacity beyond the start of the record, no byte of the copy was written over meanwhile. If it
//! has, the copy is thrown away. Each reader's position is its own and in private memory, so there
//! is nothing a dead or hostile reader could do to anyone.

use std::sync::atomic::Ordering;

use crate::frame::{Gather, VnetHeader};
use crate::layout::Geometry;
use crate::layout::slot_record::{FLOOD_FRAMES, FLOOD_HEAD, FLOOD_RESERVED};
use crate::map::Mapping;
use crate::record::{self, Found, Head, Shape};
use crate::ring::{Populated, Refused};
use crate::segment::Segment;
use crate::slot::SlotIndex;
use crate::sync::fence;

/// The part of a log that a writer reserves at once, ahead of what it writes: all readers look at the line
/// where that stands, so it is not stored to for each frame. One that is so much less than a lap behind
/// takes itself for lapped.
const RESERVED_AHEAD: u64 = 64;

/// The writing end: one a port.
#[derive(Debug)]
pub struct LogWriter {
    map: Option<Mapping>,
    shape: Shape,
    offset: u64,
    slot: u64,
    head: u64,
    published: u64,
    reserved: u64,
    /// Bytes reserved at once.
    step: u64,
    frames: u64,
    populated: Populated,
}

impl LogWriter {
    /// The log of `from`, who is us. It goes on where its last writer stopped.
    pub fn open(segment: &Segment, from: SlotIndex) -> Self {
        let geometry = segment.geometry();
        let slot = geometry.slot(from.get());
        let word = |at| segment.control().word64(slot + at).load(Ordering::Relaxed);
        let shape = Shape::of(geometry.log_bytes());
        let head = shape.sane(word(FLOOD_HEAD));
        // A writer that died may have written beyond what it published, over the oldest frames:
        // `reserved` keeps saying so, and can't be a whole log ahead.
        let reserved = word(FLOOD_RESERVED).clamp(head, head + geometry.log_bytes());
        let store = |at, value| {
            segment
                .control()
                .word64(slot + at)
                .store(value, Ordering::Release)
        };
        store(FLOOD_RESERVED, reserved);
        store(FLOOD_HEAD, head);
        Self {
            map: None,
            shape,
            offset: geometry.log(from.get()),
            slot,
            head,
            published: head,
            reserved,
            step: (geometry.log_bytes() / RESERVED_AHEAD) & !(record::ALIGN - 1),
            frames: word(FLOOD_FRAMES),
            populated: Populated::from(head, shape),
        }
    }

    /// Writes a frame, unpublished.
    #[inline(never)]
    pub fn write(
        &mut self,
        segment: &Segment,
        sequence: u64,
        header: &VnetHeader,
        frame: &Gather<'_>,
    ) -> Result<(), Refused> {
        let capacity = self.shape.bytes();
        let start = self.shape.start(self.head, frame.len());
        let end = start + record::size(frame.len());
        // A burst that goes round the log would be lost before anyone could see it.
        if end - self.published > capacity / 2 {
            self.publish(segment);
        }
        let map = match &mut self.map {
            Some(map) => map,
            none => {
                let map = Mapping::new(segment.file(), self.offset, capacity, true);
                none.insert(map.map_err(|_| Refused::NoMemory)?)
            }
        };
        self.populated
            .ensure(map, segment, self.offset, self.shape, end)
            .map_err(|_| Refused::NoMemory)?;
        if self.reserved < end {
            self.reserved = end + self.step;
            let reserved = segment.control().word64(self.slot + FLOOD_RESERVED);
            reserved.store(self.reserved, Ordering::Relaxed);
            fence(Ordering::Release);
        }
        let head = Head {
            sequence,
            count: self.frames as u32,
            header,
        };
        if start != self.head {
            record::fill(map, self.shape.place(self.head));
        }
        record::write(map, self.shape.place(start), head, frame, false);
        self.frames = self.frames.wrapping_add(1);
        self.head = end;
        Ok(())
    }

    /// Lets everyone see everything written.
    #[inline]
    pub fn publish(&mut self, segment: &Segment) {
        if self.published != self.head {
            self.published = self.head;
            let word = |at| segment.control().word64(self.slot + at);
            // Said again, in case somebody scribbled over it.
            word(FLOOD_RESERVED).store(self.reserved, Ordering::Relaxed);
            word(FLOOD_HEAD).store(self.head, Ordering::Release);
            word(FLOOD_FRAMES).store(self.frames, Ordering::Release);
        }
    }
}

/// The reading end: each port has one for each other port.
#[derive(Debug)]
pub struct LogReader {
    map: Option<Mapping>,
    shape: Shape,
    offset: u64,
    slot: u64,
    head: u64,
    position: u64,
    /// The writer's count of the frame we expect next.
    expected: u32,
    /// Frames missed and not yet told.
    missed: u64,
}

/// The frame at the front of a log, copied out and known to be whole.
#[derive(Debug, Clone, Copy)]
pub struct Copied {
    /// The source's sequence number.
    pub sequence: u64,
    /// What stands beside it.
    pub header: VnetHeader,
    end: u64,
    count: u32,
}

impl LogReader {
    /// Listens to `from` from now on.
    pub fn open(segment: &Segment, from: SlotIndex) -> Self {
        let mut log = Self::new(segment.geometry(), from);
        let frames = segment.control().word64(log.slot + FLOOD_FRAMES);
        log.expected = frames.load(Ordering::Acquire) as u32;
        log.refresh(segment);
        log.position = log.head;
        log
    }

    /// Listens to a slot that nobody had before, from the beginning of time.
    pub fn new(geometry: &Geometry, from: SlotIndex) -> Self {
        Self {
            map: None,
            shape: Shape::of(geometry.log_bytes()),
            offset: geometry.log(from.get()),
            slot: geometry.slot(from.get()),
            head: 0,
            position: 0,
            expected: 0,
            missed: 0,
        }
    }

    /// Looks how far the writer has come.
    #[inline]
    pub fn refresh(&mut self, segment: &Segment) {
        let head = segment.control().word64(self.slot + FLOOD_HEAD);
        self.head = head.load(Ordering::Acquire);
    }

    /// Whether everything seen by the last [`refresh`](Self::refresh) has been taken.
    #[inline]
    pub fn is_drained(&self) -> bool {
        self.head == self.position
    }

    /// Copies the next frame to `out`, whole or not at all; it stays until [`take`](Self::take)n.
    pub fn peek(&mut self, segment: &Segment, out: &mut Vec<u8>) -> Option<Copied> {
        // Twice: if we were lapped, we jump, and what we jumped to may be lapped too. Then the
        // writer is faster than we are, and the next sweep is time enough.
        for _ in 0..2 {
            if self.is_drained() {
                return None;
            }
            if self.map.is_none() {
                let bytes = segment.geometry().log_bytes();
                // Writable because hosts may refuse a mapping that is not what others are; we
                // never store to it.
                self.map = Mapping::new(segment.file(), self.offset, bytes, true).ok();
            }
            let Some(map) = &self.map else {
                self.jump(segment);
                return None;
            };
            if let Found::Frame(found) = record::read(map, self.shape, self.position, self.head) {
                out.resize(found.frame.len(), 0);
                found.frame.copy_to(out);
                fence(Ordering::Acquire);
                let reserved = segment.control().word64(self.slot + FLOOD_RESERVED);
                let ahead = reserved.load(Ordering::Relaxed).wrapping_sub(self.position);
                if ahead <= map.len() as u64 {
                    return Some(Copied {
                        sequence: found.sequence,
                        header: found.header,
                        end: found.end,
                        count: found.count,
                    });
                }
            }
            self.jump(segment);
        }
        None
    }

    /// Gives up everything published so far.
    fn jump(&mut self, segment: &Segment) {
        // The count first: the writer stores it after the head, so the head we find is no older
        // than the count says. What is beyond it is missed too, which the next frame's count tells.
        let frames = segment.control().word64(self.slot + FLOOD_FRAMES);
        let frames = frames.load(Ordering::Acquire) as u32;
        self.refresh(segment);
        self.position = self.head;
        self.expect(frames);
    }

    /// Is done with the frame that was peeked.
    pub fn take(&mut self, frame: &Copied) {
        self.position = frame.end;
        self.expect(frame.count);
        self.expected = frame.count.wrapping_add(1);
    }

    /// The next frame is number `count`: those before it that we did not see are missed. A count
    /// that goes back is a new holder's whose predecessor died before it counted its last frame.
    fn expect(&mut self, count: u32) {
        let skipped = count.wrapping_sub(self.expected) as i32;
        self.missed += u64::try_from(skipped).unwrap_or(0);
        self.expected = count;
    }

    /// Frames missed since last asked.
    pub fn missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }
}
