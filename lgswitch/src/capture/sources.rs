//! Whose packets these are, and how many never reached us.
//!
//! A slot is known by its number and what its holder calls itself. When a slot changes hands, its
//! new holder is another source: a capture shows both under their own names.
//!
//! A packet is lost at one of two places. A sender that finds our ring full counts a `copy-full` in
//! its own slot record; we read that record now and then. (It counts for all promiscuous ports: with
//! two captures at once, each shows what both have lost.) And what our own port could not take it
//! counts itself: above all `lapped`, frames of a flood log that went round before we read it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pnet_base::MacAddr;
use serde::Serialize;

use crate::layout::slot_record as rec;
use crate::port::counters::{Counters, RxDrop, TxDrop};
use crate::report::SegmentReport;
use crate::segment::Viewed;
use crate::slot::{SlotIndex, SlotSet};
use crate::{PortRx, Segment};

/// Sources a capture tells apart. Slots that change hands more often than that, or pretend to, are
/// from then on shown under the name of an earlier holder.
const MAX_SOURCES: usize = 8192;

/// The number of a source in [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourceId(usize);

/// One holder of one slot.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its slot.
    pub slot: SlotIndex,
    /// "slot3 guest-a".
    pub name: String,
    /// "MAC 02:00:00:00:00:01, process 4711 (launcher)".
    pub description: String,
    /// Its address on the peers page.
    pub mac: Option<MacAddr>,
    /// Frames it sent and had no room to copy to us.
    pub copy_full: u64,
    /// Frames it sent to all that were overwritten before we read them.
    pub lapped: u64,
}

impl Source {
    /// All of its frames that we did not get.
    pub fn lost(&self) -> u64 {
        self.copy_full.saturating_add(self.lapped)
    }
}

/// Frames that passed and were not captured, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Losses {
    /// Broadcasts and the like that were overwritten before they were read.
    pub lapped: u64,
    /// Bytes no sharenet port would have written.
    pub corrupt: u64,
    /// Frames left to be cut in a way nobody knows.
    pub unfinished: u64,
    /// Unicast frames for whose copies there was no room.
    pub copy_full: u64,
}

impl Losses {
    /// All together.
    pub fn total(&self) -> u64 {
        let lost = self.lapped.saturating_add(self.copy_full);
        lost.saturating_add(self.own())
    }

    /// What was lost at our port, nobody knows whose.
    pub fn own(&self) -> u64 {
        self.corrupt.saturating_add(self.unfinished)
    }
}

/// "3 lapped, 4 copy-full", in the words of `lgswitch inspect`.
impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons = [
            (self.lapped, "lapped"),
            (self.corrupt, "corrupt"),
            (self.unfinished, "unfinished"),
            (self.copy_full, "copy-full"),
        ];
        let mut between = "";
        for (count, reason) in reasons.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{between}{count} {reason}")?;
            between = ", ";
        }
        Ok(())
    }
}

/// What we know of a slot.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// Its holder as of the last frame, and the generation of that.
    source: Option<(SourceId, u64)>,
    /// What its counter of `copy-full` last said.
    copy_full: u64,
    /// What of its log was lost as of then.
    lapped: u64,
}

/// All sources, and what was lost.
#[derive(Debug)]
pub struct Sources {
    segment: Arc<Segment>,
    me: SlotIndex,
    only: Option<SlotSet>,
    all: Vec<Source>,
    places: Vec<Place>,
    losses: Losses,
}

impl Sources {
    pub(super) fn new(segment: Arc<Segment>, me: SlotIndex, only: Option<&SlotSet>) -> Self {
        // What was lost before us is not ours.
        let place = |slot| Place {
            source: None,
            copy_full: copy_full(&segment, slot),
            lapped: 0,
        };
        let slots = (0..segment.slots()).filter_map(SlotIndex::new);
        Self {
            places: slots.map(place).collect(),
            me,
            only: only.cloned(),
            all: Vec::new(),
            losses: Losses::default(),
            segment,
        }
    }

    /// The capture's own slot.
    pub fn me(&self) -> SlotIndex {
        self.me
    }

    /// Every source there was.
    pub fn ids(&self) -> impl Iterator<Item = SourceId> + use<> {
        (0..self.all.len()).map(SourceId)
    }

    /// A source.
    pub fn get(&self, id: SourceId) -> &Source {
        &self.all[id.0]
    }

    /// What was lost, as of the last look.
    pub fn losses(&self) -> Losses {
        self.losses
    }

    /// Who holds `slot` now.
    #[inline]
    pub(super) fn of(&mut self, slot: SlotIndex) -> SourceId {
        let record = self.segment.geometry().slot(slot.get());
        let generation = self.segment.control().word64(record + rec::GENERATION);
        let generation = generation.load(Ordering::Acquire);
        match self.places[slot.get()].source {
            Some((id, known)) if known == generation => id,
            Some((id, _)) if self.all.len() >= MAX_SOURCES => id,
            _ => self.meet(slot, generation),
        }
    }

    #[cold]
    fn meet(&mut self, slot: SlotIndex, generation: u64) -> SourceId {
        let id = SourceId(self.all.len());
        self.all.push(describe(&self.segment, slot));
        self.places[slot.get()].source = Some((id, generation));
        id
    }

    /// Looks what was lost since the last look: at senders, and at our port, which is `rx`.
    pub(super) fn settle(&mut self, rx: &PortRx) {
        let dropped = &rx.counters().dropped;
        self.losses.corrupt = dropped[RxDrop::Corrupt as usize];
        self.losses.unfinished = dropped[RxDrop::Unfinished as usize];
        for slot in (0..self.segment.high_water()).filter_map(SlotIndex::new) {
            if self.only.as_ref().is_some_and(|only| !only.contains(slot)) {
                continue;
            }
            let (full, lapped) = (copy_full(&self.segment, slot), rx.lapped(slot));
            let place = &mut self.places[slot.get()];
            let full_before = std::mem::replace(&mut place.copy_full, full);
            // A new holder starts from zero.
            let full = full.checked_sub(full_before).unwrap_or(full);
            let lapped = lapped - std::mem::replace(&mut place.lapped, lapped);
            if full > 0 || lapped > 0 {
                let SourceId(source) = self.of(slot);
                let source = &mut self.all[source];
                for (count, lost) in [
                    (&mut source.copy_full, full),
                    (&mut source.lapped, lapped),
                    (&mut self.losses.copy_full, full),
                    (&mut self.losses.lapped, lapped),
                ] {
                    *count = count.saturating_add(lost);
                }
            }
        }
    }
}

/// Copies for promiscuous ports that the holder of `slot` could not make.
fn copy_full(segment: &Segment, slot: SlotIndex) -> u64 {
    let record = segment.geometry().slot(slot.get());
    let sent = Counters::read(segment.control(), record + rec::SENT);
    sent.dropped[TxDrop::CopyFull as usize]
}

/// What `lgswitch inspect` would say of a slot; its number alone, if it says nothing.
fn describe(segment: &Arc<Segment>, slot: SlotIndex) -> Source {
    let report = SegmentReport::of(&Viewed::Segment(Arc::clone(segment))).ok();
    let port = report.and_then(|report| report.ports.into_iter().find(|p| p.slot == slot.get()));
    let port = port.as_ref();
    let name = match port.and_then(|p| p.name.as_deref()) {
        Some(name) => format!("slot{slot} {name}"),
        None => format!("slot{slot}"),
    };
    let mac = port.and_then(|p| p.mac.as_deref());
    let mut parts: Vec<_> = mac.iter().map(|mac| format!("MAC {mac}")).collect();
    parts.extend(port.and_then(|p| match (p.pid, &p.command) {
        (Some(pid), Some(command)) => Some(format!("process {pid} ({command})")),
        (Some(pid), None) => Some(format!("process {pid}")),
        (None, _) => None,
    }));
    Source {
        slot,
        name,
        description: parts.join(", "),
        mac: mac.and_then(|mac| mac.parse().ok()),
        copy_full: 0,
        lapped: 0,
    }
}
