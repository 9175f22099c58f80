//! The receiving half: collecting what others have published for us.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::counters::{Counters, RxDrop};
use super::{Caller, Held};
use crate::doorbell;
use crate::flood::{Copied, LogReader};
use crate::frame::Frame;
use crate::layout::slot_record as rec;
use crate::map::SharedBytes;
use crate::peers::is_group;
use crate::record::Found;
use crate::ring::RingReader;
use crate::segment::Segment;
use crate::slot::{SlotIndex, SlotSet};

/// The longest a port sleeps before it looks at all sources itself: bits and bells are hints.
const SWEEP: Duration = Duration::from_secs(2);

/// What became of a frame that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Taken.
    Taken,
    /// There is no room now; it stays, and so do those behind it.
    Later,
    /// It can't be taken at all; it is dropped, and counted.
    Refused,
}

/// The two streams of one source, and the frame of its log that waits to be put in order.
#[derive(Debug)]
struct Source {
    ring: RingReader,
    log: LogReader,
    buffer: Vec<u8>,
    waiting: Option<Copied>,
}

/// The receiving half of a port.
#[derive(Debug)]
pub struct PortRx {
    held: Arc<Held>,
    sources: Vec<Source>,
    /// Sources that may have something.
    todo: SlotSet,
    next: usize,
    swept: Instant,
    counters: Counters,
}

impl PortRx {
    pub(super) fn new(held: Arc<Held>) -> Self {
        let mut rx = Self {
            sources: Vec::new(),
            todo: SlotSet::new(),
            next: 0,
            swept: Instant::now(),
            counters: Counters::default(),
            held,
        };
        // Everyone there may be, now or later: positions start at the heads as of now.
        for from in (0..rx.held.segment.slots()).filter_map(SlotIndex::new) {
            rx.sources.push(Source {
                ring: RingReader::open(&rx.held.segment, from, rx.held.slot),
                log: LogReader::open(&rx.held.segment, from),
                buffer: Vec::new(),
                waiting: None,
            });
        }
        rx
    }

    /// The slot it receives at.
    pub fn slot(&self) -> SlotIndex {
        self.held.slot
    }

    /// Something to call this half out of its sleep with.
    pub fn caller(&self) -> Caller {
        Caller(Arc::clone(&self.held))
    }

    /// Hands over up to `budget` frames, in the order each source sent them and with all sources
    /// taking turns. Tells how many were dealt with; 0 is "nothing there", unless `take` said
    /// [`Verdict::Later`].
    pub fn recv(&mut self, budget: usize, mut take: impl FnMut(&Frame<'_>) -> Verdict) -> usize {
        let record = self.held.record();
        doorbell::collect(self.held.control(), record, &mut self.todo);
        if self.swept.elapsed() >= SWEEP {
            self.sweep();
        }
        let now = self.held.fdb.now();
        let mut handled = 0;
        // Each source that has something gets its turn once.
        let mut turns = self.todo.iter().count();
        while turns > 0 && handled < budget {
            turns -= 1;
            let Some(from) = self.todo.next_from(self.next) else {
                break;
            };
            self.next = from.get() + 1;
            // Our own log is not for us, whoever says so.
            let Some(source) = self
                .sources
                .get_mut(from.get())
                .filter(|_| from != self.held.slot)
            else {
                self.todo.remove(from);
                continue;
            };
            let mut visit = Visit {
                held: &self.held,
                from,
                now,
                counters: &mut self.counters,
            };
            let (count, end) = visit.drain(source, budget - handled, &mut take);
            handled += count;
            match end {
                End::Drained => self.todo.remove(from),
                End::Budget => {}
                End::Later => break,
            }
        }
        self.counters
            .show(self.held.control(), record + rec::RECEIVED);
        handled
    }

    /// Looks at everyone who may be there at the next [`recv`](Self::recv).
    fn sweep(&mut self) {
        self.swept = Instant::now();
        (0..self.held.segment.high_water())
            .filter_map(SlotIndex::new)
            .for_each(|slot| self.todo.insert(slot));
        for source in &self.sources {
            source.ring.reassert(&self.held.segment);
        }
        self.held.reassert_offloads();
        self.held.fdb.forget(None, self.held.fdb.now());
    }

    /// Sleeps until there is something to receive, or [`Caller::call`] was called, or `timeout`
    /// is over, or it is time to sweep. May return early.
    pub fn wait(&mut self, timeout: Duration) {
        let held = &self.held;
        let timeout = timeout.min(SWEEP.saturating_sub(self.swept.elapsed()));
        let called = || held.called.load(Ordering::SeqCst);
        // After a call there may be room for what `recv` left behind.
        if self.todo.is_empty() && !called() {
            doorbell::sleep(held.control(), held.record(), timeout, called);
        }
        // A swap, for what the caller did before it called is to be seen from here on.
        held.called.swap(false, Ordering::SeqCst);
    }

    /// As [`wait`](Self::wait), but what is there does not end it: for when the taker had no room.
    pub fn wait_for_call(&mut self, timeout: Duration) {
        let held = &self.held;
        let called = || held.called.load(Ordering::SeqCst);
        let deadline = Instant::now() + timeout;
        while !called() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // Or a source's bit would keep us awake.
            doorbell::collect(held.control(), held.record(), &mut self.todo);
            doorbell::sleep(held.control(), held.record(), left, called);
        }
        held.called.swap(false, Ordering::SeqCst);
    }

    /// What it has received and lost.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// Why a visit to a source ended.
enum End {
    Drained,
    Budget,
    Later,
}

/// A visit to one source.
struct Visit<'a> {
    held: &'a Held,
    from: SlotIndex,
    now: u64,
    counters: &'a mut Counters,
}

impl Visit<'_> {
    /// Takes what the source has, in the order it was sent.
    ///
    /// Ring and log are published apart, so what stands at the front of one may have something
    /// before it in the other that we have not seen. But a source publishes in order: once we have
    /// seen a frame, a fresh look at the other stream shows everything before it.
    fn drain(
        &mut self,
        source: &mut Source,
        budget: usize,
        take: &mut impl FnMut(&Frame<'_>) -> Verdict,
    ) -> (usize, End) {
        let segment: &Segment = &self.held.segment;
        source.ring.refresh(segment);
        source.log.refresh(segment);
        let mut handled = 0;
        let end = loop {
            if handled == budget {
                break End::Budget;
            }
            if source.waiting.is_none() {
                source.waiting = source.log.peek(segment, &mut source.buffer);
            }
            // Whenever the log's frame may be next: the log was looked at after the ring.
            if source.waiting.is_some() && source.ring.is_drained() {
                source.ring.refresh(segment);
                source.log.refresh(segment);
            }
            self.counters.dropped[RxDrop::Lapped as usize] += source.log.missed();
            let verdict = match (source.ring.peek(segment), source.waiting) {
                (Found::Nothing, None) => break End::Drained,
                (Found::Garbage, _) => {
                    self.counters.dropped[RxDrop::Corrupt as usize] += 1;
                    source.ring.skip_all();
                    // Dealt with, or a source that writes nothing else would keep us here.
                    handled += 1;
                    continue;
                }
                (Found::Frame(record), waiting)
                    if waiting.is_none_or(|w| record.sequence < w.sequence) =>
                {
                    let frame = Frame {
                        from: self.from,
                        header: record.header,
                        bytes: record.frame,
                    };
                    let verdict = self.hand_over(&frame, take);
                    if verdict != Verdict::Later {
                        let end = record.end;
                        source.ring.take(end);
                    }
                    verdict
                }
                (_, Some(waiting)) => {
                    let frame = Frame {
                        from: self.from,
                        header: waiting.header,
                        bytes: SharedBytes::from(source.buffer.as_slice()),
                    };
                    let verdict = self.hand_over(&frame, take);
                    if verdict != Verdict::Later {
                        source.log.take(&waiting);
                        source.waiting = None;
                    }
                    verdict
                }
                // The arms above have it all: a frame of the ring alone is the third.
                (Found::Frame(_), None) => break End::Drained,
            };
            match verdict {
                Verdict::Later => break End::Later,
                Verdict::Taken | Verdict::Refused => handled += 1,
            }
        };
        source.ring.release(segment);
        (handled, end)
    }

    /// Learns from a frame, checks that we take its kind, hands it over, counts it.
    fn hand_over(
        &mut self,
        frame: &Frame<'_>,
        take: &mut impl FnMut(&Frame<'_>) -> Verdict,
    ) -> Verdict {
        let takes = self.held.offloads();
        if !frame
            .header
            .needs()
            .is_some_and(|needs| takes.contains(needs))
        {
            self.counters.dropped[RxDrop::Unfinished as usize] += 1;
            return Verdict::Refused;
        }
        let verdict = take(frame);
        match verdict {
            Verdict::Taken => {
                // The source's address, and two bytes more.
                let mut source = [0; 8];
                frame.bytes.part(6, 8).copy_to(&mut source);
                let source = u64::from_be_bytes(source) >> 16;
                if !is_group(source) {
                    self.held.fdb.learn(source, self.from, self.now);
                }
                self.counters.count(frame.bytes.len());
            }
            Verdict::Refused => self.counters.dropped[RxDrop::Backend as usize] += 1,
            Verdict::Later => {}
        }
        verdict
    }
}
