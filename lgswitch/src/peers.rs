//! Who is there: a port's own copy of the peers page, made to be looked up.
//!
//! The page is compared with the copy once a burst (six bytes a slot up to the highest one ever
//! taken), and the table is built anew only if it changed. So a MAC that a guest of 2007 writes
//! straight to the page is heard as one that a port of today puts there.

use pnet_base::MacAddr;

use crate::layout::{MAC_BYTES, PROMISCUOUS, UNUSED};
use crate::segment::Segment;
use crate::slot::{SlotIndex, SlotSet};

/// Whether a MAC is a group's: broadcast or multicast.
#[inline]
pub fn is_group(mac: u64) -> bool {
    mac >> 40 & 1 != 0
}

/// A MAC as a number, its first byte highest: what it is on the packet path.
#[inline]
pub fn number(mac: &MacAddr) -> u64 {
    let MacAddr(a, b, c, d, e, f) = *mac;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// What no MAC is as a number: it has 49 bits.
pub const NO_MAC: u64 = 1 << 48;

/// Where a MAC goes in a table of `places` (a power of two). Fibonacci hashing: the high bits of the
/// product depend on all bits of the address.
#[inline]
pub fn place(mac: u64, places: usize) -> usize {
    (mac.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & (places - 1)
}

/// Who has a MAC on the peers page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Nobody.
    Nobody,
    /// This slot.
    One(SlotIndex),
    /// Several: two guests were given the same.
    Several,
}

/// A place of the table: a MAC (48 bits) and a slot above it. Nobody has the MAC 0.
const EMPTY: u64 = 0;
/// The part of an entry that is the MAC.
const MAC: u64 = (1 << 48) - 1;
/// Instead of a slot: several.
const SEVERAL: u64 = 1 << 63;

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
    /// Open addressing, at most half full.
    by_mac: Vec<u64>,
    /// Who wants every frame.
    promiscuous: SlotSet,
    any_promiscuous: bool,
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
            by_mac: vec![EMPTY; 2],
            promiscuous: SlotSet::new(),
            any_promiscuous: false,
            used: SlotSet::new(),
        }
    }

    /// Brings it up to date.
    #[inline]
    pub fn refresh(&mut self, segment: &Segment) {
        let bytes = segment.high_water() * MAC_BYTES;
        let page = segment.control().bytes(0, bytes);
        if bytes != self.page.len() || !page.equal(&self.page) {
            self.fresh.resize(bytes, 0);
            page.copy_to(&mut self.fresh);
            self.rebuild();
        }
    }

    #[cold]
    fn rebuild(&mut self) {
        std::mem::swap(&mut self.page, &mut self.fresh);
        let slots = self.page.len() / MAC_BYTES;
        self.by_mac.clear();
        self.by_mac
            .resize((2 * slots).next_power_of_two().max(2), EMPTY);
        self.promiscuous = SlotSet::new();
        self.used = SlotSet::new();
        for i in 0..slots {
            let bytes = std::array::from_fn(|b| self.page[i * MAC_BYTES + b]);
            let (Some(slot), Some((mac, all))) = (SlotIndex::new(i), entry(bytes)) else {
                continue;
            };
            if slot == self.me {
                continue;
            }
            self.used.insert(slot);
            self.insert(number(&mac), slot);
            if all {
                self.promiscuous.insert(slot);
            }
        }
        self.any_promiscuous = !self.promiscuous.is_empty();
    }

    fn insert(&mut self, mac: u64, slot: SlotIndex) {
        let at = self.find(mac);
        self.by_mac[at] = match self.by_mac[at] {
            EMPTY => mac | (slot.get() as u64) << 48,
            _ => mac | SEVERAL,
        };
    }

    /// The place of a MAC, or the free one where it would be.
    #[inline]
    fn find(&self, mac: u64) -> usize {
        let mut at = place(mac, self.by_mac.len());
        while self.by_mac[at] != EMPTY && self.by_mac[at] & MAC != mac {
            at = (at + 1) & (self.by_mac.len() - 1);
        }
        at
    }

    /// Who has this MAC.
    #[inline]
    pub fn owner(&self, mac: u64) -> Owner {
        match self.by_mac[self.find(mac)] {
            EMPTY => Owner::Nobody,
            entry if entry & SEVERAL != 0 => Owner::Several,
            entry => SlotIndex::new((entry >> 48) as usize).map_or(Owner::Nobody, Owner::One),
        }
    }

    /// Whether anybody wants every frame.
    #[inline]
    pub fn any_promiscuous(&self) -> bool {
        self.any_promiscuous
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mac_of_a_full_page_is_found_and_doubles_are_told() {
        let me = SlotIndex::new(0).unwrap();
        let mut peers = Peers::new(me);
        peers.fresh = (0..682u32)
            .flat_map(|i| {
                let [.., a, b] = (i % 681).to_be_bytes();
                [2, 0, 0, 0, a, b]
            })
            .collect();
        peers.rebuild();
        for i in 1..681 {
            assert_eq!(
                peers.owner(0x0200_0000_0000 | i),
                Owner::One(SlotIndex::new(i as usize).unwrap())
            );
        }
        // Slot 0 is us; slot 681 has its address, and we are not our own peer.
        assert_eq!(
            peers.owner(0x0200_0000_0000),
            Owner::One(SlotIndex::new(681).unwrap())
        );
        assert_eq!(peers.owner(0x0200_0000_0fff), Owner::Nobody);
        peers.fresh = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [3, 0, 0, 0, 0, 2]].concat();
        peers.rebuild();
        assert_eq!(peers.owner(0x0200_0000_0002), Owner::Several);
        assert!(peers.any_promiscuous());
    }
}
