//! The sending half: where a frame goes, and in what form.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Held;
use super::counters::{Counters, TxDrop};
use crate::doorbell;
use crate::flood::LogWriter;
use crate::frame::{ETHERNET_HEADER, Gather, Offloads, VnetHeader};
use crate::layout::MAX_FRAME;
use crate::layout::slot_record as rec;
use crate::map::SharedBytes;
use crate::offload::Finished;
use crate::peers::{Owner, Peers, is_group};
use crate::ring::{Refused, RingWriter};
use crate::slot::SlotIndex;

/// Two 802.1Q tags: what a frame may be longer than the MTU says.
const TAGS: usize = 8;
/// How often at most a full ring makes us ask the kernel whether its reader is alive.
const BURY_INTERVAL: Duration = Duration::from_millis(100);

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way; [`PortTx::flush`] lets the receivers see it.
    Done,
    /// It was dropped, and counted.
    Dropped(TxDrop),
    /// This slot's ring is full. Nothing was counted: try again soon, or [`PortTx::give_up`].
    Full(SlotIndex),
}

/// What we know of a port we have sent to.
#[derive(Debug)]
struct Peer {
    ring: RingWriter,
    /// The burst in which the rest was looked up.
    burst: u64,
    /// Its generation: another one is another holder.
    generation: u64,
    /// What it takes unfinished.
    takes: Offloads,
    asked_alive: Instant,
}

/// The sending half of a port.
#[derive(Debug)]
pub struct PortTx {
    held: Arc<Held>,
    peers: Peers,
    rings: Vec<Option<Box<Peer>>>,
    log: LogWriter,
    /// Rings written to and not published.
    dirty: Vec<SlotIndex>,
    /// Whose rings were published, and who does not know it yet.
    untold: Vec<SlotIndex>,
    /// Nobody was told yet of what was written to the log.
    flooded: bool,
    sequence: u64,
    /// Counts bursts: what is looked up once a burst remembers when it was.
    burst: u64,
    /// The burst in which the table of peers was brought up to date.
    refreshed: u64,
    /// Ticks of the forwarding database, if they were asked for in this burst.
    now: Option<u64>,
    last: Last,
    /// Bytes that a frame may have that nobody will cut.
    ordinary: usize,
    counters: Counters,
    finished: Finished,
}

/// Where the last frame of this burst went, if the next one to that address needs no more thought: it
/// goes there and nowhere else, and after nothing that is not published yet.
#[derive(Debug, Clone, Copy)]
struct Last {
    to: u64,
    /// The addresses of a frame from us to there, as they stand in it.
    addresses: [u8; 12],
    way: Way,
}

impl Last {
    const NOWHERE: Self = Self::new(0, 0, Way::Nowhere);

    /// A frame from `from`, who is us.
    const fn new(to: u64, from: u64, way: Way) -> Self {
        let [_, _, _, _, addresses @ ..] = ((to as u128) << 48 | from as u128).to_be_bytes();
        Self { to, addresses, way }
    }
}

/// By what a frame goes.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// That is to be found out.
    Nowhere,
    /// The log, for all to hear.
    Log,
    /// The ring of this slot, which is looked up.
    Ring(SlotIndex),
}

/// Who is to get a frame.
enum Target {
    Everyone,
    One(SlotIndex),
    Nobody,
}

impl PortTx {
    pub(super) fn new(held: Arc<Held>, generation: u64) -> Self {
        let slots = held.segment.slots();
        let ordinary = held.segment.mtu() as usize + ETHERNET_HEADER + TAGS;
        Self {
            peers: Peers::new(held.slot),
            rings: (0..slots).map(|_| None).collect(),
            log: LogWriter::open(&held.segment, held.slot),
            dirty: Vec::new(),
            untold: Vec::new(),
            flooded: false,
            // Beyond all that holders before us have used: readers compare.
            sequence: generation << 40,
            burst: 1,
            refreshed: 0,
            now: None,
            last: Last::NOWHERE,
            ordinary: ordinary.min(MAX_FRAME),
            counters: Counters::default(),
            finished: Finished::default(),
            held,
        }
    }

    /// The slot it sends from.
    pub fn slot(&self) -> SlotIndex {
        self.held.slot
    }

    /// Sends a frame: to the ring of its destination, or to everyone. Receivers see it after the
    /// next [`flush`](Self::flush).
    #[inline]
    pub fn send(&mut self, header: &VnetHeader, frame: &Gather<'_>) -> Sent {
        match self.send_after(header, frame) {
            true => Sent::Done,
            false => self.send_first(header, frame),
        }
    }

    /// Sends a finished frame of our own to where the one before it went, if it is to go there. This is
    /// what is done for each frame of a burst, so nothing else is: on its way to another processor's
    /// caches a frame waits for every store before it, a register saved to the stack as well as a frame.
    #[inline(always)]
    fn send_after(&mut self, header: &VnetHeader, frame: &Gather<'_>) -> bool {
        let goes_there = frame.raw_addresses() == Some(self.last.addresses)
            && !header.is_unfinished()
            && frame.len() <= self.ordinary;
        if !goes_there {
            return false;
        }
        self.sequence += 1;
        let (segment, sequence) = (&self.held.segment, self.sequence);
        let written = match self.last.way {
            Way::Nowhere => return false,
            Way::Log => self.log.write(segment, sequence, header, frame),
            Way::Ring(slot) => match self.rings.get_mut(slot.get()) {
                Some(Some(peer)) => peer.ring.write(segment, sequence, header, frame),
                _ => return false,
            },
        };
        if written.is_ok() {
            self.counters.count(frame.len());
        }
        written.is_ok()
    }

    /// Sends a frame of which nothing is known.
    #[inline(never)]
    fn send_first(&mut self, header: &VnetHeader, frame: &Gather<'_>) -> Sent {
        let (to, from, needs) = match self.admit(header, frame) {
            Ok(admitted) => admitted,
            Err(reason) => return self.drop(reason),
        };
        if from != self.held.mac_number && !is_group(from) {
            let now = self.now();
            self.held.fdb.learn(from, self.held.slot, now);
        }
        let target = match self.last {
            Last {
                to: last,
                way: Way::Ring(slot),
                ..
            } if last == to => Target::One(slot),
            _ => self.target(to),
        };
        match target {
            Target::Nobody => self.drop(TxDrop::Filtered),
            Target::Everyone => self.flood(to, header, needs, frame),
            Target::One(slot) => self.unicast(slot, to, header, needs, frame),
        }
    }

    /// Sends a frame to the port at `slot`, whatever address it bears. For a guest of 2007, which reads
    /// the peers page itself and sends a copy to each that is to have one.
    pub fn send_to(&mut self, slot: SlotIndex, header: &VnetHeader, frame: &Gather<'_>) -> Sent {
        let needs = match self.admit(header, frame) {
            Ok((_, _, needs)) => needs,
            Err(reason) => return self.drop(reason),
        };
        if !self.peers.used().contains(slot) {
            return self.drop(TxDrop::Filtered);
        }
        match self.write(slot, header, needs, frame) {
            Ok(()) => {
                self.counters.count(frame.len());
                Sent::Done
            }
            Err(TxDrop::RingFull) if !self.bury(slot) => Sent::Full(slot),
            Err(reason) => self.drop(reason),
        }
    }

    /// Refuses what no port may send. Gives destination, source, and what a receiver must take unfinished.
    #[inline(always)]
    fn admit(
        &mut self,
        header: &VnetHeader,
        frame: &Gather<'_>,
    ) -> Result<(u64, u64, Offloads), TxDrop> {
        let (Some((to, from)), Some(needs)) = (frame.addresses(), header.needs()) else {
            return Err(TxDrop::Malformed);
        };
        let limit = match header.gso_type {
            VnetHeader::GSO_NONE => self.ordinary,
            _ => MAX_FRAME,
        };
        if frame.len() > limit {
            return Err(TxDrop::TooBig);
        }
        if self.refreshed != self.burst {
            self.refresh();
        }
        Ok((to, from, needs))
    }

    /// Brings up to date what is looked up once a burst.
    #[inline(never)]
    fn refresh(&mut self) {
        self.peers.refresh(&self.held.segment);
        self.now = None;
        self.last = Last::NOWHERE;
        self.refreshed = self.burst;
    }

    /// Ticks of the forwarding database.
    fn now(&mut self) -> u64 {
        *self.now.get_or_insert_with(|| self.held.fdb.now())
    }

    /// Unicast by the peers page, then by what was learned, then to all.
    fn target(&mut self, to: u64) -> Target {
        if is_group(to) {
            return Target::Everyone;
        }
        match self.peers.owner(to) {
            Owner::One(slot) => Target::One(slot),
            // Let them all hear.
            Owner::Several => Target::Everyone,
            Owner::Nobody if to == self.held.mac_number => Target::Nobody,
            Owner::Nobody => {
                let now = self.now();
                match self.held.fdb.lookup(to, now) {
                    Some(slot) if slot == self.held.slot => Target::Nobody,
                    Some(slot) if self.peers.used().contains(slot) => Target::One(slot),
                    _ => Target::Everyone,
                }
            }
        }
    }

    #[inline]
    fn unicast(
        &mut self,
        slot: SlotIndex,
        to: u64,
        header: &VnetHeader,
        needs: Offloads,
        frame: &Gather<'_>,
    ) -> Sent {
        match self.write(slot, header, needs, frame) {
            Ok(()) => {}
            Err(TxDrop::RingFull) => return self.full(slot, to, header, needs, frame),
            Err(reason) => return self.drop(reason),
        }
        self.counters.count(frame.len());
        match self.peers.any_promiscuous() {
            true => self.copy_to_promiscuous(slot, header, needs, frame),
            false => self.last = Last::new(to, self.held.mac_number, Way::Ring(slot)),
        }
        Sent::Done
    }

    /// The ring of a frame's receiver is full.
    #[cold]
    fn full(
        &mut self,
        slot: SlotIndex,
        to: u64,
        header: &VnetHeader,
        needs: Offloads,
        frame: &Gather<'_>,
    ) -> Sent {
        if !self.bury(slot) {
            return Sent::Full(slot);
        }
        // Nobody is there any more. What does its address say now?
        self.refresh();
        match self.target(to) {
            Target::One(other) if other != slot => self.unicast(other, to, header, needs, frame),
            _ => self.flood(to, header, needs, frame),
        }
    }

    /// A frame that was sent to `slot`, for those who want every frame.
    #[cold]
    fn copy_to_promiscuous(
        &mut self,
        slot: SlotIndex,
        header: &VnetHeader,
        needs: Offloads,
        frame: &Gather<'_>,
    ) {
        let mut others = self.peers.promiscuous().clone();
        others.remove(slot);
        for other in others.iter() {
            match self.write(other, header, needs, frame) {
                Ok(()) => {}
                Err(TxDrop::RingFull) if self.bury(other) => self.refreshed = 0,
                Err(TxDrop::RingFull) => self.count_drop(TxDrop::CopyFull),
                Err(reason) => self.count_drop(reason),
            }
        }
    }

    /// Writes a frame to one ring, finished as far as its reader needs it.
    #[inline]
    fn write(
        &mut self,
        slot: SlotIndex,
        header: &VnetHeader,
        needs: Offloads,
        frame: &Gather<'_>,
    ) -> Result<(), TxDrop> {
        self.last = Last::NOWHERE;
        // What was sent before must not be seen after.
        self.log.publish(&self.held.segment);
        let peer = match &mut self.rings[slot.get()] {
            Some(peer) if peer.burst == self.burst => peer,
            _ => {
                self.look_up(slot)?;
                match &mut self.rings[slot.get()] {
                    Some(peer) => peer,
                    // It was just made.
                    None => return Err(TxDrop::NoMemory),
                }
            }
        };
        self.sequence += 1;
        if !peer.takes.contains(needs) {
            return self.write_finished(slot, header, frame);
        }
        let segment = &self.held.segment;
        let written = peer.ring.write(segment, self.sequence, header, frame);
        written.map_err(TxDrop::from)
    }

    /// Writes a frame to the ring of one who can't take it as it is.
    #[inline(never)]
    fn write_finished(
        &mut self,
        slot: SlotIndex,
        header: &VnetHeader,
        frame: &Gather<'_>,
    ) -> Result<(), TxDrop> {
        let finished = self.finished.finish(header, frame);
        finished.map_err(|_| TxDrop::Malformed)?;
        let segment = &self.held.segment;
        let Some(Peer { ring, .. }) = self.rings[slot.get()].as_deref_mut() else {
            return Ok(());
        };
        // All of them or none: half a segment is worth nothing.
        ring.reserve(segment, self.finished.frames().map(<[u8]>::len))?;
        for packet in self.finished.frames() {
            let part = [SharedBytes::from(packet)];
            let header = VnetHeader::default();
            ring.write(segment, self.sequence, &header, &Gather::new(&part))?;
        }
        Ok(())
    }

    /// Looks up what we go by for the rest of a burst in which something is sent to `slot`.
    #[inline(never)]
    fn look_up(&mut self, slot: SlotIndex) -> Result<(), Refused> {
        let segment = &self.held.segment;
        let (control, record) = (segment.control(), segment.geometry().slot(slot.get()));
        let generation = control.word64(record + rec::GENERATION);
        let generation = generation.load(Ordering::Acquire);
        let peer = match &mut self.rings[slot.get()] {
            Some(peer) => peer,
            none => none.insert(Box::new(Peer {
                ring: RingWriter::open(segment, self.held.slot, slot)?,
                burst: 0,
                generation,
                takes: Offloads::NONE,
                asked_alive: Instant::now(),
            })),
        };
        let takes = control.word32(record + rec::OFFLOADS);
        peer.takes = Offloads::from_bits(takes.load(Ordering::Acquire));
        peer.burst = self.burst;
        if peer.generation != generation {
            // What stood behind the holder before need not stand behind this one.
            peer.generation = generation;
            self.held.fdb.forget(Some(slot), self.held.fdb.now());
        }
        // Whatever comes of it, there may be something its reader is to see.
        self.dirty.push(slot);
        Ok(())
    }

    /// Writes a frame to the log: whole packets with whole checksums, whoever listens.
    #[inline(never)]
    fn flood(&mut self, to: u64, header: &VnetHeader, needs: Offloads, frame: &Gather<'_>) -> Sent {
        // What was sent before must not be seen after.
        self.publish_rings();
        let segment = &self.held.segment;
        let mut write = |header: &VnetHeader, frame: &Gather<'_>| {
            self.sequence += 1;
            self.log.write(segment, self.sequence, header, frame)
        };
        let result = if needs == Offloads::NONE {
            write(header, frame)
        } else {
            if self.finished.finish(header, frame).is_err() {
                return self.drop(TxDrop::Malformed);
            }
            self.finished.frames().try_for_each(|packet| {
                write(
                    &VnetHeader::default(),
                    &Gather::new(&[SharedBytes::from(packet)]),
                )
            })
        };
        // Some of it may be there even if not all is.
        self.flooded = true;
        if result.is_err() {
            return self.drop(TxDrop::NoMemory);
        }
        self.last = Last::new(to, self.held.mac_number, Way::Log);
        self.counters.count(frame.len());
        Sent::Done
    }

    /// Whether the full ring of `slot` is a dead port's; if so, the slot is free now.
    fn bury(&mut self, slot: SlotIndex) -> bool {
        let Some(peer) = &mut self.rings[slot.get()] else {
            return false;
        };
        if peer.asked_alive.elapsed() < BURY_INTERVAL {
            return false;
        }
        peer.asked_alive = Instant::now();
        self.held.bury_if_dead(slot)
    }

    fn count_drop(&mut self, reason: TxDrop) {
        self.counters.dropped[reason as usize] += 1;
    }

    fn drop(&mut self, reason: TxDrop) -> Sent {
        self.count_drop(reason);
        Sent::Dropped(reason)
    }

    /// A frame that met [`Sent::Full`] will not be tried again.
    pub fn give_up(&mut self) {
        self.count_drop(TxDrop::RingFull);
    }

    /// Lets receivers see what is in their rings.
    #[inline]
    fn publish_rings(&mut self) {
        self.last = Last::NOWHERE;
        let segment = &self.held.segment;
        for slot in self.dirty.drain(..) {
            if let Some(peer) = &mut self.rings[slot.get()] {
                // To be looked up, and be dirty, again before more is written.
                peer.burst = 0;
                if peer.ring.publish(segment) {
                    self.untold.push(slot);
                }
            }
        }
    }

    /// Ends a burst: receivers see what was sent, and are woken if they sleep.
    pub fn flush(&mut self) {
        self.publish_rings();
        let segment = &self.held.segment;
        let (control, me) = (segment.control(), self.held.slot);
        let record = |slot: SlotIndex| segment.geometry().slot(slot.get());
        if std::mem::take(&mut self.flooded) {
            self.log.publish(segment);
            doorbell::ring(control, self.peers.used().iter().map(record), me);
        }
        if !self.untold.is_empty() {
            doorbell::ring(control, self.untold.iter().copied().map(record), me);
            self.untold.clear();
        }
        self.burst += 1;
        self.counters.show(control, self.held.record() + rec::SENT);
    }

    /// What it has sent and dropped.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
