//! The receiving half: collecting what others have published for us.

use std::ops::ControlFlow;
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
use crate::peers::{NO_MAC, is_group};
use crate::record::Found;
use crate::ring::RingReader;
use crate::segment::Segment;
use crate::slot::{SlotIndex, SlotSet};

/// A port that only ever polls looks at the clock, and leaves alone sources that are quiet, once in
/// so many polls.
const SETTLE: u32 = 1024;
/// How long a port that has caught up with a burst leaves its writer alone. Who reads close behind takes
/// lines away from a writer that is still filling them, its processor's own prefetching more of them than
/// were asked for: both then go at a third of their speed, and the reader never falls behind by itself. A few bursts
/// ahead, the writer is undisturbed, and the reader has work until it ends. A lone frame's answer does not wait.
const REST: Duration = Duration::from_micros(2);

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
    /// Frames of its log that went by before we read them.
    lapped: u64,
}

impl Source {
    /// What `from` sends us from now on.
    fn open(held: &Held, from: SlotIndex) -> Self {
        let ring = RingReader::open(&held.segment, from, held.slot);
        Self::with(ring, LogReader::open(&held.segment, from))
    }

    /// All that `from` has ever sent: it came after us.
    fn new(held: &Held, from: SlotIndex) -> Self {
        let ring = RingReader::new(held.segment.geometry(), from, held.slot);
        Self::with(ring, LogReader::new(held.segment.geometry(), from))
    }

    fn with(ring: RingReader, log: LogReader) -> Self {
        Self {
            ring,
            log,
            buffer: Vec::new(),
            waiting: None,
            lapped: 0,
        }
    }

    /// Whether a fresh look shows anything that was not taken.
    fn has_something(&mut self, segment: &Segment) -> bool {
        self.ring.refresh(segment);
        self.log.refresh(segment);
        !self.ring.is_drained() || !self.log.is_drained() || self.waiting.is_some()
    }
}

/// Sources that are looked at every time: they have something, or lately had.
#[derive(Debug, Default)]
struct Hot {
    list: Vec<SlotIndex>,
    /// The same.
    set: SlotSet,
    /// Beyond all of them.
    end: usize,
}

impl Hot {
    fn add(&mut self, slot: SlotIndex) {
        if !self.set.contains(slot) {
            self.set.insert(slot);
            self.list.push(slot);
            self.end = self.end.max(slot.get() + 1);
        }
    }

    /// Adds the slots of a word of bits.
    #[inline]
    fn add_word(&mut self, word: usize, bits: u64) {
        let fresh = bits & !self.set.word(word);
        if fresh != 0 {
            let mut slots = SlotSet::new();
            slots.insert_word(word, fresh);
            slots.iter().for_each(|slot| self.add(slot));
        }
    }
}

/// The receiving half of a port.
#[derive(Debug)]
pub struct PortRx {
    held: Arc<Held>,
    /// Those who have been there, as far as we know; the others take no memory.
    sources: Vec<Source>,
    hot: Hot,
    /// Whose turn it is among them.
    turn: usize,
    polls: u32,
    /// The last look found a burst: one that finds nothing has caught up with its writer.
    chasing: bool,
    /// Ticks of the forwarding database when we last looked.
    now: u64,
    swept: Instant,
    counters: Counters,
}

impl PortRx {
    /// The longest a port sleeps before it looks at all sources itself: bits and bells are hints, and a
    /// source may die between what it publishes and the bell. Idle ports cost nothing but this.
    pub const SWEEP: Duration = Duration::from_secs(4);

    /// With that many sources, whose pair records are there.
    pub(super) fn new(held: Arc<Held>, sources: usize) -> Self {
        // Positions start at the heads as of now.
        let sources = (0..sources).filter_map(SlotIndex::new);
        Self {
            sources: sources.map(|from| Source::open(&held, from)).collect(),
            hot: Hot::default(),
            turn: 0,
            polls: 0,
            chasing: false,
            now: held.fdb.now(),
            swept: Instant::now(),
            counters: Counters::default(),
            held,
        }
    }

    /// How many sources it knows.
    #[cfg(all(test, not(lgswitch_loom)))]
    pub(super) fn sources(&self) -> usize {
        self.sources.len()
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
        self.polls += 1;
        if self.polls == SETTLE {
            self.polls = 0;
            self.settle();
            self.look_at_the_clock();
        }
        loop {
            let handled = self.go_round(budget, &mut take);
            if handled > 0 || !std::mem::take(&mut self.chasing) {
                self.chasing = handled > 1;
                return handled;
            }
            rest();
        }
    }

    /// Visits everyone who may have something, once.
    #[inline]
    fn go_round(&mut self, budget: usize, take: &mut impl FnMut(&Frame<'_>) -> Verdict) -> usize {
        let record = self.held.record();
        let hot = &mut self.hot;
        doorbell::peek(
            self.held.control(),
            record,
            self.held.segment.slots(),
            |word, bits| hot.add_word(word, bits),
        );
        if hot.end > self.sources.len() {
            self.meet_newcomers();
        }
        let mut visit = Visit {
            held: &self.held,
            now: self.now,
            counters: &mut self.counters,
            lost: false,
        };
        let mut handled = 0;
        for _ in 0..self.hot.list.len() {
            if self.turn >= self.hot.list.len() {
                self.turn = 0;
            }
            let from = self.hot.list[self.turn];
            self.turn += 1;
            // Our own log is not for us, whoever says so.
            let Some(source) = self
                .sources
                .get_mut(from.get())
                .filter(|_| from != self.held.slot)
            else {
                continue;
            };
            match visit.drain(from, source, budget - handled, take) {
                ControlFlow::Continue(count) => handled += count,
                ControlFlow::Break(count) => {
                    handled += count;
                    break;
                }
            }
            if handled == budget {
                break;
            }
        }
        if handled > 0 || visit.lost {
            self.counters
                .show(self.held.control(), record + rec::RECEIVED);
        }
        handled
    }

    /// Somebody is heard of whose slot nobody had when we came.
    #[cold]
    fn meet_newcomers(&mut self) {
        let end = self.hot.end.min(self.held.segment.slots());
        // Without room they are not looked at, and forgotten until heard of again.
        if self.held.populate_pairs(end).is_ok() {
            let newcomers = (self.sources.len()..end).filter_map(SlotIndex::new);
            self.sources
                .extend(newcomers.map(|from| Source::new(&self.held, from)));
        }
        self.hot.end = 0;
    }

    /// From here on only sources that have something are looked at every time; the others set
    /// their bits and ring. Tells whether there is any.
    fn settle(&mut self) -> bool {
        let hot = &mut self.hot;
        doorbell::collect(
            self.held.control(),
            self.held.record(),
            self.held.segment.slots(),
            |word, bits| hot.add_word(word, bits),
        );
        let segment = &self.held.segment;
        hot.list.retain(|&from| {
            let has_something = from != self.held.slot
                && self
                    .sources
                    .get_mut(from.get())
                    .is_some_and(|source| source.has_something(segment));
            if !has_something {
                hot.set.remove(from);
            }
            has_something
        });
        !hot.list.is_empty()
    }

    /// Tells whether it was time to [`sweep`](Self::sweep).
    fn look_at_the_clock(&mut self) -> bool {
        self.now = self.held.fdb.now();
        let due = self.swept.elapsed() >= Self::SWEEP;
        if due {
            self.sweep();
        }
        due
    }

    /// Looks at everyone who may be there at the next [`recv`](Self::recv), and says again what
    /// somebody may have scribbled over.
    pub(super) fn sweep(&mut self) {
        self.swept = Instant::now();
        (0..self.held.segment.high_water())
            .filter_map(SlotIndex::new)
            .for_each(|slot| self.hot.add(slot));
        for source in &self.sources {
            source.ring.reassert(&self.held.segment);
        }
        self.held.reassert();
        self.held.fdb.forget(None, self.now);
    }

    /// Sleeps until there is something to receive, or [`Caller::call`] was called, or `timeout`
    /// is over, or it is time to sweep. May return early.
    pub fn wait(&mut self, timeout: Duration) {
        let called = || self.held.called.load(Ordering::SeqCst);
        // After a call there may be room for what `recv` left behind.
        if !called() && !self.settle() && !self.look_at_the_clock() {
            let timeout = timeout.min(Self::SWEEP.saturating_sub(self.swept.elapsed()));
            let held = &self.held;
            let called = || held.called.load(Ordering::SeqCst);
            doorbell::sleep(held.control(), held.record(), timeout, called);
        }
        // A swap, for what the caller did before it called is to be seen from here on.
        self.held.called.swap(false, Ordering::SeqCst);
    }

    /// For who sleeps on a [`Bell`](crate::bell::Bell): all that [`wait`](Self::wait) does but sleep. From
    /// here on sources set their bits, and what is there already the next [`recv`](Self::recv) finds.
    pub fn settle_down(&mut self) {
        if !self.settle() {
            self.look_at_the_clock();
        }
    }

    /// As [`wait`](Self::wait), but what is there does not end it: for when the taker had no room.
    pub fn wait_for_call(&mut self, timeout: Duration) {
        let held = Arc::clone(&self.held);
        let called = || held.called.load(Ordering::SeqCst);
        let deadline = Instant::now() + timeout;
        while !called() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // Or a source's bit would keep us awake.
            self.settle();
            doorbell::sleep(held.control(), held.record(), left, called);
        }
        held.called.swap(false, Ordering::SeqCst);
    }

    /// What it has received and lost.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Of what it has lost, that which went round in the flood log of `from`, whoever held that slot.
    pub fn lapped(&self, from: SlotIndex) -> u64 {
        self.sources
            .get(from.get())
            .map_or(0, |source| source.lapped)
    }
}

/// Lets a writer get ahead of us.
#[cold]
fn rest() {
    let since = Instant::now();
    while since.elapsed() < REST {
        std::hint::spin_loop();
    }
}

/// A round of visits to sources.
struct Visit<'a> {
    held: &'a Held,
    now: u64,
    counters: &'a mut Counters,
    /// Frames were lost before we came.
    lost: bool,
}

impl Visit<'_> {
    /// Takes what the source has, in the order it was sent.
    ///
    /// Ring and log are published apart, so what stands at the front of one may have something
    /// before it in the other that we have not seen. But a source publishes in order: once we have
    /// seen a frame, a fresh look at the other stream shows everything before it. So if the log,
    /// looked at after the ring, has nothing, all we see of the ring comes next.
    ///
    /// Tells how many it dealt with; breaks off where `take` had no room.
    fn drain(
        &mut self,
        from: SlotIndex,
        source: &mut Source,
        budget: usize,
        take: &mut impl FnMut(&Frame<'_>) -> Verdict,
    ) -> ControlFlow<usize, usize> {
        let segment: &Segment = &self.held.segment;
        source.ring.refresh(segment);
        source.log.refresh(segment);
        let handled = match source.waiting.is_none() && source.log.is_drained() {
            true => self.drain_ring(from, &mut source.ring, budget, take),
            false => self.drain_both(from, source, budget, take),
        };
        source.ring.release(segment);
        handled
    }

    /// Takes what the ring has.
    fn drain_ring(
        &mut self,
        from: SlotIndex,
        ring: &mut RingReader,
        budget: usize,
        take: &mut impl FnMut(&Frame<'_>) -> Verdict,
    ) -> ControlFlow<usize, usize> {
        if ring.is_drained() {
            ring.await_next();
            return ControlFlow::Continue(0);
        }
        let mut learned = NO_MAC;
        for handled in 0..budget {
            match ring.peek(&self.held.segment) {
                Found::Nothing => return ControlFlow::Continue(handled),
                Found::Garbage => self.skip(ring),
                Found::Frame(record) => {
                    let frame = Frame {
                        from,
                        header: record.header,
                        bytes: record.frame,
                    };
                    if self.hand_over(&frame, &mut learned, take) == Verdict::Later {
                        return ControlFlow::Break(handled);
                    }
                    let end = record.end;
                    ring.take(end);
                }
            }
        }
        ControlFlow::Continue(budget)
    }

    /// Garbage is dealt with, and counts as such, or a source that writes nothing else would keep us here.
    #[cold]
    fn skip(&mut self, ring: &mut RingReader) {
        self.counters.dropped[RxDrop::Corrupt as usize] += 1;
        ring.skip_all();
    }

    /// Takes what ring and log have, put in order.
    fn drain_both(
        &mut self,
        from: SlotIndex,
        source: &mut Source,
        budget: usize,
        take: &mut impl FnMut(&Frame<'_>) -> Verdict,
    ) -> ControlFlow<usize, usize> {
        let segment: &Segment = &self.held.segment;
        let mut learned = NO_MAC;
        let mut handled = 0;
        while handled < budget {
            if source.waiting.is_none() {
                source.waiting = source.log.peek(segment, &mut source.buffer);
            }
            // Whenever the log's frame may be next: the log was looked at after the ring.
            if source.waiting.is_some() && source.ring.is_drained() {
                source.ring.refresh(segment);
                source.log.refresh(segment);
            }
            let missed = source.log.missed();
            self.lost |= missed > 0;
            self.counters.dropped[RxDrop::Lapped as usize] += missed;
            source.lapped += missed;
            let verdict = match (source.ring.peek(segment), source.waiting) {
                (Found::Nothing, None) => return ControlFlow::Continue(handled),
                (Found::Garbage, _) => {
                    self.skip(&mut source.ring);
                    Verdict::Refused
                }
                (Found::Frame(record), waiting)
                    if waiting.is_none_or(|w| record.sequence < w.sequence) =>
                {
                    let frame = Frame {
                        from,
                        header: record.header,
                        bytes: record.frame,
                    };
                    let verdict = self.hand_over(&frame, &mut learned, take);
                    if verdict != Verdict::Later {
                        let end = record.end;
                        source.ring.take(end);
                    }
                    verdict
                }
                (_, Some(waiting)) => {
                    let frame = Frame {
                        from,
                        header: waiting.header,
                        bytes: SharedBytes::from(source.buffer.as_slice()),
                    };
                    let verdict = self.hand_over(&frame, &mut learned, take);
                    if verdict != Verdict::Later {
                        source.log.take(&waiting);
                        source.waiting = None;
                    }
                    verdict
                }
                // The arms above have it all: a frame of the ring alone is the third.
                (Found::Frame(_), None) => return ControlFlow::Continue(handled),
            };
            match verdict {
                Verdict::Later => return ControlFlow::Break(handled),
                Verdict::Taken | Verdict::Refused => handled += 1,
            }
        }
        ControlFlow::Continue(handled)
    }

    /// Learns where an address is.
    #[cold]
    fn learn(&self, source: u64, from: SlotIndex) {
        if !is_group(source) {
            self.held.fdb.learn(source, from, self.now);
        }
    }

    /// Learns from a frame, checks that we take its kind, hands it over, counts it. Its source is not
    /// learned again if it is the one `learned` just now.
    #[inline(always)]
    fn hand_over(
        &mut self,
        frame: &Frame<'_>,
        learned: &mut u64,
        take: &mut impl FnMut(&Frame<'_>) -> Verdict,
    ) -> Verdict {
        let takes = |needs| self.held.offloads().contains(needs);
        if frame.header.is_unfinished() && !frame.header.needs().is_some_and(takes) {
            self.counters.dropped[RxDrop::Unfinished as usize] += 1;
            return Verdict::Refused;
        }
        let verdict = take(frame);
        match verdict {
            Verdict::Taken => {
                // The source's address, and two bytes more.
                let source = frame.bytes.array(6).map_or(0, u64::from_be_bytes) >> 16;
                if source != *learned {
                    *learned = source;
                    self.learn(source, frame.from);
                }
                self.counters.count(frame.bytes.len());
            }
            Verdict::Refused => self.counters.dropped[RxDrop::Backend as usize] += 1,
            Verdict::Later => {}
        }
        verdict
    }
}
