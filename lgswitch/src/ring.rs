//! Unicast: the byte ring from one port to one other.
//!
//! One writer, one reader. `head` counts the bytes ever published and only the writer stores it;
//! `tail` counts the bytes ever taken and only the reader stores it. Neither wraps (at 100 Gbit/s
//! a u64 lasts 47 years) nor is ever reset: whoever comes to hold a slot starts reading at the
//! writers' heads and writing at its own, so a port that died leaves nothing to repair.
//!
//! # Why it is safe
//!
//! * *Publish.* The writer stores records, then `head` with `Release`; the reader loads `head`
//!   with `Acquire`, so it sees the records whole.
//! * *Reuse.* The reader copies a record out, then stores `tail` with `Release`; the writer loads
//!   `tail` with `Acquire` before it writes over those bytes.
//! * *Crash.* A writer that dies before the store of `head` has published nothing. A reader that
//!   dies stops moving `tail`; its ring fills and costs its writer a counted drop a frame.
//! * *Hostility.* A writer keeps its `head` in private memory and takes a `tail` that is not within
//!   one capacity behind it for a full ring. A reader keeps its `tail` in private memory and
//!   takes whatever [`record::read`] calls garbage for loss: it counts it and goes on at `head`.
//! * *Healing.* A word that somebody scribbled over is stored anew by its owner: `tail` when the
//!   reader sweeps, `head` when the writer meets a `tail` that can't be.

use std::io;
use std::sync::atomic::Ordering;

use crate::frame::{Gather, VnetHeader};
use crate::layout::{Geometry, PAGE, PAIR_HEAD, PAIR_TAIL};
use crate::map::Mapping;
use crate::pace::Pace;
use crate::record::{self, Found, Head, Shape};
use crate::segment::Segment;
use crate::slot::SlotIndex;

/// How much of a ring or log is made sure of at a time, the first time round: a pair that only
/// ever said hello costs this much, and a full filesystem is met here, as an error.
const POPULATE_STEP: u64 = 64 << 10;

/// How far before the record at hand a reader has the next ones fetched, in bytes: a few small
/// records, so that their way from the writer's cache is one wait and not several; or two large ones.
const AHEAD: u64 = 512;

/// Which pages of a ring or log its writer has made sure of. They stay for the file's life.
#[derive(Debug)]
pub(crate) struct Populated {
    /// Bytes before this position exist; u64::MAX once all do.
    until: u64,
    /// All do, once it has come here.
    all: u64,
}

impl Populated {
    /// For a writer that starts at `position`: nothing is known.
    pub(crate) fn from(position: u64, shape: Shape) -> Self {
        Self {
            until: position - position % POPULATE_STEP,
            all: position + shape.stride(),
        }
    }

    /// Makes sure of all pages that what is written before `end` touches.
    #[inline]
    pub(crate) fn ensure(
        &mut self,
        map: &Mapping,
        segment: &Segment,
        file_offset: u64,
        shape: Shape,
        end: u64,
    ) -> io::Result<()> {
        while self.until < end {
            let at = shape.place(self.until);
            // Beyond its end nothing is ever written.
            if at < shape.bytes() {
                let step = POPULATE_STEP.min(shape.bytes() - at);
                map.populate(segment.file(), file_offset, at, step)?;
            }
            self.until += POPULATE_STEP;
            if self.until >= self.all {
                self.until = u64::MAX;
            }
        }
        Ok(())
    }
}

/// The writing end.
#[derive(Debug)]
pub struct RingWriter {
    map: Mapping,
    shape: Shape,
    offset: u64,
    pair: u64,
    head: u64,
    published: u64,
    /// How far its reader has come, when we last looked.
    tail: u64,
    /// Records may be written up to here, and no thought be given to it: there is room, the pages are there,
    /// the lap goes so far, and the burst's time is taken if it is to be.
    ready: u64,
    populated: Populated,
    pace: Pace,
    /// Reader and writer do not agree where they are; the reader is to start at `head`.
    estranged: bool,
}

/// Why a ring did not take a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The reader has not made room yet.
    Full,
    /// The filesystem has no room for the ring's pages.
    NoMemory,
}

impl RingWriter {
    /// The end that `from`, who is us, writes to `to`. It goes on where its last writer stopped.
    pub fn open(segment: &Segment, from: SlotIndex, to: SlotIndex) -> Result<Self, Refused> {
        let geometry: &Geometry = segment.geometry();
        let offset = geometry.ring(from.get(), to.get());
        let shape = Shape::of(geometry.ring_bytes());
        let map = Mapping::new(segment.file(), offset, shape.bytes(), true)
            .map_err(|_| Refused::NoMemory)?;
        let pair = geometry.pair(from.get(), to.get());
        // Its reader need not have heard of us yet.
        segment
            .control()
            .populate(segment.file(), 0, pair - pair % PAGE, PAGE)
            .map_err(|_| Refused::NoMemory)?;
        let word = |at| segment.control().word64(pair + at).load(Ordering::Acquire);
        let found = word(PAIR_HEAD);
        let head = shape.sane(found);
        Ok(Self {
            map,
            shape,
            offset,
            pair,
            head,
            published: head,
            // Its reader may still be busy with what our predecessor sent.
            tail: word(PAIR_TAIL),
            ready: head,
            populated: Populated::from(head, shape),
            pace: Pace::new(shape.bytes()),
            estranged: head != found,
        })
    }

    /// Makes sure that frames of these lengths can be written, one after another.
    pub fn reserve(
        &mut self,
        segment: &Segment,
        lengths: impl Iterator<Item = usize>,
    ) -> Result<(), Refused> {
        let end = lengths.fold(self.head, |at, len| self.shape.after(at, len));
        self.make_room(segment, end)
    }

    /// Makes sure that there is room up to `end`, and the pages.
    fn make_room(&mut self, segment: &Segment, end: u64) -> Result<(), Refused> {
        let capacity = self.shape.stride();
        // A tail from the future, or further back than the ring is long, is a lie: nothing is free.
        let is_full =
            |tail| self.head.wrapping_sub(tail) > capacity || end.wrapping_sub(tail) > capacity;
        if is_full(self.tail) {
            let tail = segment.control().word64(self.pair + PAIR_TAIL);
            self.tail = tail.load(Ordering::Acquire);
            self.estranged |= self.head.wrapping_sub(self.tail) > capacity;
            if is_full(self.tail) {
                return Err(Refused::Full);
            }
        }
        self.populated
            .ensure(&self.map, segment, self.offset, self.shape, end)
            .map_err(|_| Refused::NoMemory)
    }

    /// Makes sure that the record of a frame of `len` bytes can be written at `head`, which goes to the next
    /// lap where it has to.
    #[inline(never)]
    fn make_ready(&mut self, segment: &Segment, len: usize) -> Result<(), Refused> {
        let start = self.shape.start(self.head, len);
        self.make_room(segment, start + record::size(len))?;
        if self.head == self.published {
            self.pace.begin();
        }
        if start != self.head {
            record::fill(&self.map, self.shape.place(self.head));
            self.head = start;
        }
        let room = self.tail.wrapping_add(self.shape.stride());
        let lap = self.shape.lap_end(start);
        self.ready = self.populated.until.min(room).min(lap);
        Ok(())
    }

    /// Writes a frame, unpublished.
    #[inline(always)]
    pub fn write(
        &mut self,
        segment: &Segment,
        sequence: u64,
        header: &VnetHeader,
        frame: &Gather<'_>,
    ) -> Result<(), Refused> {
        let size = record::size(frame.len());
        if self.head + size > self.ready {
            self.make_ready(segment, frame.len())?;
        }
        let head = Head {
            sequence,
            count: 0,
            header,
        };
        let place = self.shape.place(self.head);
        record::write(&self.map, place, head, frame, self.pace.streams());
        self.head += size;
        Ok(())
    }

    /// Lets the reader see everything written; `false` if there is nothing new to see.
    #[inline]
    pub fn publish(&mut self, segment: &Segment) -> bool {
        if self.published == self.head && !std::mem::take(&mut self.estranged) {
            return false;
        }
        if self.pace.streams() {
            self.map.drain();
        }
        self.pace.end(self.head.wrapping_sub(self.published));
        self.published = self.head;
        if self.pace.is_due() {
            self.ready = self.head;
        }
        let head = segment.control().word64(self.pair + PAIR_HEAD);
        head.store(self.head, Ordering::Release);
        true
    }
}

/// The reading end.
#[derive(Debug)]
pub struct RingReader {
    map: Option<Mapping>,
    shape: Shape,
    offset: u64,
    pair: u64,
    /// Everything before this position may be read.
    head: u64,
    tail: u64,
    taken: u64,
    /// Records taken and not released.
    records: u64,
    /// What we last took was one record.
    lone: bool,
    /// How far ahead is fetched.
    ahead: u64,
}

impl RingReader {
    /// The end that `to`, who is us and has just taken the slot, reads from `from`: what was
    /// written for the holder before us is skipped.
    pub fn open(segment: &Segment, from: SlotIndex, to: SlotIndex) -> Self {
        let mut ring = Self::new(segment.geometry(), from, to);
        ring.refresh(segment);
        ring.skip_all();
        ring.taken = ring.tail;
        ring.reassert(segment);
        ring
    }

    /// The end that `to` reads from a slot that nobody had before: at the beginning of time, where its
    /// first holder starts writing.
    pub fn new(geometry: &Geometry, from: SlotIndex, to: SlotIndex) -> Self {
        Self {
            map: None,
            shape: Shape::of(geometry.ring_bytes()),
            offset: geometry.ring(from.get(), to.get()),
            pair: geometry.pair(from.get(), to.get()),
            head: 0,
            tail: 0,
            taken: 0,
            records: 0,
            lone: false,
            ahead: AHEAD,
        }
    }

    /// Looks how far the writer has come.
    #[inline]
    pub fn refresh(&mut self, segment: &Segment) {
        let head = segment.control().word64(self.pair + PAIR_HEAD);
        self.head = head.load(Ordering::Acquire);
    }

    /// Whether everything seen by the last [`refresh`](Self::refresh) has been taken.
    #[inline]
    pub fn is_drained(&self) -> bool {
        self.head == self.tail
    }

    /// Fetches the place of the next record, which is not there yet: when it comes, and we see that
    /// it has, the processor has asked for it already. But of a burst that is on its way we would take the
    /// lines away from who writes it, so it is for lone frames only.
    #[inline]
    pub fn await_next(&self) {
        if let Some(map) = self.map.as_ref().filter(|_| self.lone) {
            map.prefetch(self.shape.place(self.tail));
        }
    }

    /// The next record, which stays until [`take`](Self::take)n.
    #[inline(always)]
    pub fn peek(&mut self, segment: &Segment) -> Found<'_> {
        if self.map.is_none() {
            if self.is_drained() {
                return Found::Nothing;
            }
            let bytes = self.shape.bytes();
            self.map = Mapping::new(segment.file(), self.offset, bytes, true).ok();
        }
        match &self.map {
            Some(map) => {
                // Not beyond what is published, or we take the writer's lines away from it.
                if self.head.wrapping_sub(self.tail) > self.ahead {
                    let ahead = self.tail.wrapping_add(self.ahead);
                    map.prefetch(self.shape.place(ahead));
                }
                record::read(map, self.shape, self.tail, self.head)
            }
            // No memory to map it: as good as lost.
            None => Found::Garbage,
        }
    }

    /// Is done with everything before `end`, which a peeked record gave.
    #[inline]
    pub fn take(&mut self, end: u64) {
        self.records += 1;
        self.tail = end;
    }

    /// Gives up what is there and goes on with what comes next.
    pub fn skip_all(&mut self) {
        self.tail = self.head;
    }

    /// Says again how far we are, in case somebody scribbled over it.
    pub fn reassert(&self, segment: &Segment) {
        let tail = segment.control().word64(self.pair + PAIR_TAIL);
        if tail.load(Ordering::Relaxed) != self.taken {
            tail.store(self.taken, Ordering::Release);
        }
    }

    /// Lets the writer have the room of everything taken.
    #[inline]
    pub fn release(&mut self, segment: &Segment) {
        if self.taken != self.tail {
            // What was skipped may be anything.
            let bytes = self.tail.wrapping_sub(self.taken).min(self.shape.stride());
            let records = std::mem::take(&mut self.records);
            self.lone = records == 1;
            self.ahead = AHEAD.max(2 * bytes.checked_div(records).unwrap_or(0));
            self.taken = self.tail;
            let tail = segment.control().word64(self.pair + PAIR_TAIL);
            tail.store(self.tail, Ordering::Release);
        }
    }
}
