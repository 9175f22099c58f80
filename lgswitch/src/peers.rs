//! Who is there: a port's own copy of the peers page, made to be looked up.
//!
//! The page is compared with the copy once a burst (six bytes a slot up to the highest one ever
//! taken), and the table is built anew only if it changed. So a MAC that a guest of 2007 writes
//! straight to the page is heard as one that a port of today puts there.

use std::collections::HashMap;

use pnet_base::MacAddr;

use crate::layout::{MAC_BYTES, PROMISCUOUS, UNUSED};
use crate::segment::Segment;
use crate::slot::{SlotIndex, SlotSet};

/// Whether a MAC is a group's: broadcast or multicast.
#[inline]
pub fn is_group(mac: &MacAddr) -> bool {
    mac.0 & 1 != 0
}

/// Reads a slot's entry of the peers page: its MAC, and whether it wants every frame.
pub fn entry(bytes: [u8; MAC_BYTES]) -> Option<(MacAddr, bool)> {
    let [first, a, b, c, d, e] = bytes;
    let mac = MacAddr::new(first & !PROMISCUOUS, a, b, c, d, e);
    (first != UNUSED).then_some((mac, first & PROMISCUOUS != 0))
}

/// The table.
#[derive(Debug)]
pub struct Peers {
    me: SlotIndex,
    page: Vec<u8>,
    fresh: Vec<u8>,
    by_mac: HashMap<MacAddr, Vec<SlotIndex>>,
    /// Who wants every frame.
    promiscuous: SlotSet,
    /// Who is there at all.
    used: SlotSet,
}

impl Peers {
    /// An empty table for the port `me`, which never is its own peer.
    pub fn new(me: SlotIndex) -> Self {
        Self {
            me,
            page: Vec::new(),
            fresh: Vec::new(),
            by_mac: HashMap::new(),
            promiscuous: SlotSet::new(),
            used: SlotSet::new(),
        }
    }

    /// Brings it up to date.
    #[inline]
    pub fn refresh(&mut self, segment: &Segment) {
        self.fresh.resize(segment.high_water() * MAC_BYTES, 0);
        segment.control().read(0, &mut self.fresh);
        if self.fresh != self.page {
            self.rebuild();
        }
    }

    #[cold]
    fn rebuild(&mut self) {
        std::mem::swap(&mut self.page, &mut self.fresh);
        self.by_mac.clear();
        self.promiscuous = SlotSet::new();
        self.used = SlotSet::new();
        for (i, bytes) in self.page.chunks_exact(MAC_BYTES).enumerate() {
            let bytes = std::array::from_fn(|b| bytes[b]);
            let (Some(slot), Some((mac, all))) = (SlotIndex::new(i), entry(bytes)) else {
                continue;
            };
            if slot == self.me {
                continue;
            }
            self.used.insert(slot);
            self.by_mac.entry(mac).or_default().push(slot);
            if all {
                self.promiscuous.insert(slot);
            }
        }
    }

    /// The slots whose MAC it is; more than one if two guests were given the same.
    #[inline]
    pub fn with_mac(&self, mac: &MacAddr) -> &[SlotIndex] {
        self.by_mac.get(mac).map_or(&[], Vec::as_slice)
    }

    /// The slots that want every frame.
    pub fn promiscuous(&self) -> &SlotSet {
        &self.promiscuous
    }

    /// The slots in use.
    pub fn used(&self) -> &SlotSet {
        &self.used
    }
}
