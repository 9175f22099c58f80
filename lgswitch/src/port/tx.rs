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
use crate::slot::{SlotIndex, SlotSet};

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
    /// Its generation when the ring was opened: another one is another holder.
    generation: u64,
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
    dirty: SlotSet,
    any_dirty: bool,
    sequence: u64,
    /// Ticks of the forwarding database, as of this burst.
    now: u64,
    /// The table of peers is as of this burst.
    fresh: bool,
    counters: Counters,
    finished: Finished,
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
        Self {
            peers: Peers::new(held.slot),
            rings: (0..slots).map(|_| None).collect(),
            log: LogWriter::open(&held.segment, held.slot),
            dirty: SlotSet::new(),
            any_dirty: false,
            // Beyond all that holders before us have used: readers compare.
            sequence: generation << 40,
            now: held.fdb.now(),
            fresh: false,
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
    pub fn send(&mut self, header: &VnetHeader, frame: &Gather<'_>) -> Sent {
        let mut ethernet = [0; ETHERNET_HEADER];
        if frame.peek(&mut ethernet) < ETHERNET_HEADER {
            return self.drop(TxDrop::Malformed);
        }
        let ordinary = self.held.segment.mtu() as usize + ETHERNET_HEADER + TAGS;
        let limit = match header.gso_type {
            VnetHeader::GSO_NONE => ordinary.min(MAX_FRAME),
            _ => MAX_FRAME,
        };
        if frame.len() > limit {
            return self.drop(TxDrop::TooBig);
        }
        let Some(needs) = header.needs() else {
            return self.drop(TxDrop::Malformed);
        };
        let number =
            |at: usize| u64::from_be_bytes(std::array::from_fn(|i| ethernet[at + i])) >> 16;
        let (to, from) = (number(0), number(6));
        if !self.fresh {
            self.refresh();
        }
        if from != self.held.mac_number && !is_group(from) {
            self.held.fdb.learn(from, self.held.slot, self.now);
        }
        match self.target(to) {
            Target::Nobody => self.drop(TxDrop::Filtered),
            Target::Everyone => self.flood(header, needs, frame),
            Target::One(slot) => self.unicast(slot, to, header, needs, frame),
        }
    }

    fn refresh(&mut self) {
        self.peers.refresh(&self.held.segment);
        self.now = self.held.fdb.now();
        self.fresh = true;
    }

    /// Unicast by the peers page, then by what was learned, then to all.
    fn target(&self, to: u64) -> Target {
        if is_group(to) {
            return Target::Everyone;
        }
        match self.peers.owner(to) {
            Owner::One(slot) => Target::One(slot),
            // Let them all hear.
            Owner::Several => Target::Everyone,
            Owner::Nobody if to == self.held.mac_number => Target::Nobody,
            Owner::Nobody => match self.held.fdb.lookup(to, self.now) {
                Some(slot) if slot == self.held.slot => Target::Nobody,
                Some(slot) if self.peers.used().contains(slot) => Target::One(slot),
                _ => Target::Everyone,
            },
        }
    }

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
            Err(TxDrop::RingFull) => {
                if !self.bury(slot) {
                    return Sent::Full(slot);
                }
                // Nobody is there any more. What does its address say now?
                self.refresh();
                return match self.target(to) {
                    Target::One(other) if other != slot => {
                        self.unicast(other, to, header, needs, frame)
                    }
                    _ => self.flood(header, needs, frame),
                };
            }
            Err(reason) => return self.drop(reason),
        }
        self.counters.count(frame.len());
        // Those who want every frame.
        if self.peers.any_promiscuous() {
            let mut others = self.peers.promiscuous().clone();
            others.remove(slot);
            for other in others.iter() {
                match self.write(other, header, needs, frame) {
                    Ok(()) => {}
                    Err(TxDrop::RingFull) if self.bury(other) => self.fresh = false,
                    Err(TxDrop::RingFull) => self.count_drop(TxDrop::CopyFull),
                    Err(reason) => self.count_drop(reason),
                }
            }
        }
        Sent::Done
    }

    /// Writes a frame to one ring, finished as far as its reader needs it.
    fn write(
        &mut self,
        slot: SlotIndex,
        header: &VnetHeader,
        needs: Offloads,
        frame: &Gather<'_>,
    ) -> Result<(), TxDrop> {
        let segment = &self.held.segment;
        let record = segment.geometry().slot(slot.get());
        let word = |at| {
            segment
                .control()
                .word32(record + at)
                .load(Ordering::Acquire)
        };
        let takes = Offloads::from_bits(word(rec::OFFLOADS));
        let generation = segment
            .control()
            .word64(record + rec::GENERATION)
            .load(Ordering::Acquire);
        let refused = |refused| match refused {
            Refused::Full => TxDrop::RingFull,
            Refused::NoMemory => TxDrop::NoMemory,
        };
        let place = &mut self.rings[slot.get()];
        let peer = match place {
            Some(peer) => peer,
            None => place.insert(Box::new(Peer {
                ring: RingWriter::open(segment, self.held.slot, slot).map_err(refused)?,
                generation,
                asked_alive: Instant::now(),
            })),
        };
        if peer.generation != generation {
            // What stood behind the holder before need not stand behind this one.
            peer.generation = generation;
            self.held.fdb.forget(Some(slot), self.now);
        }
        // Whatever comes of it, there may be something its reader is to see.
        self.dirty.insert(slot);
        self.any_dirty = true;
        let sequence = self.sequence;
        self.sequence += 1;
        if takes.contains(needs) {
            peer.ring
                .write(segment, sequence, header, frame)
                .map_err(refused)?;
        } else {
            self.finished
                .finish(header, frame)
                .map_err(|_| TxDrop::Malformed)?;
            // All of them or none: half a segment is worth nothing.
            if !peer
                .ring
                .has_room(segment, self.finished.frames().map(<[u8]>::len))
            {
                return Err(TxDrop::RingFull);
            }
            for packet in self.finished.frames() {
                let part = [SharedBytes::from(packet)];
                peer.ring
                    .write(
                        segment,
                        sequence,
                        &VnetHeader::default(),
                        &Gather::new(&part),
                    )
                    .map_err(refused)?;
            }
        }
        Ok(())
    }

    /// Writes a frame to the log: whole packets with whole checksums, whoever listens.
    fn flood(&mut self, header: &VnetHeader, needs: Offloads, frame: &Gather<'_>) -> Sent {
        // The log shows frames at once; what was sent before must not come after.
        self.publish();
        let segment = &self.held.segment;
        let mut write = |header: &VnetHeader, frame: &Gather<'_>| {
            let sequence = self.sequence;
            self.sequence += 1;
            self.log.write(segment, sequence, header, frame)
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
        if result.is_err() {
            return self.drop(TxDrop::NoMemory);
        }
        self.counters.count(frame.len());
        for slot in self.peers.used().iter() {
            let record = segment.geometry().slot(slot.get());
            doorbell::ring(segment.control(), record, self.held.slot);
        }
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

    fn publish(&mut self) {
        if !std::mem::take(&mut self.any_dirty) {
            return;
        }
        let segment = &self.held.segment;
        for slot in std::mem::take(&mut self.dirty).iter() {
            let Some(peer) = &mut self.rings[slot.get()] else {
                continue;
            };
            if peer.ring.publish(segment) {
                let record = segment.geometry().slot(slot.get());
                doorbell::ring(segment.control(), record, self.held.slot);
            }
        }
    }

    /// Ends a burst: receivers see what was sent, and are woken if they sleep.
    pub fn flush(&mut self) {
        self.publish();
        self.fresh = false;
        let record = self.held.record();
        self.counters.show(self.held.control(), record + rec::SENT);
    }

    /// What it has sent and dropped.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
