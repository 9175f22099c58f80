//! Who was heard behind whom: the forwarding database.
//!
//! A guest that bridges sends frames whose source is not its own MAC. The receiving half of a port
//! learns that the source stands behind that slot, the sending half asks. The two halves run in
//! two threads; an entry is one atomic word, so there is nothing to lock:
//!
//! ```text
//! bits 0..48  MAC     48..58  slot     58..64  when it was last heard, in ticks of 8 s, mod 64
//! ```
//!
//! The table has a fixed size and each MAC one place in it, so a flood of forged sources can push
//! entries out but never make it grow. What is pushed out or too old is flooded again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::peers::place;
use crate::slot::SlotIndex;

const ENTRIES: usize = 4096;
const TICK_SECONDS: u64 = 8;
/// Entries older than this many ticks are forgotten: 304 s, the ageing time of bridges
/// (IEEE 802.1Q-2018, 8.8.3: 300 s) in whole ticks.
const MAX_AGE: u64 = 38;
const TICKS: u64 = 64;

/// The table of one port.
#[derive(Debug)]
pub struct Fdb {
    entries: Box<[AtomicU64]>,
    start: Instant,
}

impl Default for Fdb {
    fn default() -> Self {
        Self {
            entries: (0..ENTRIES).map(|_| AtomicU64::new(0)).collect(),
            start: Instant::now(),
        }
    }
}

impl Fdb {
    /// Ticks since this port was opened; ask once a burst.
    pub fn now(&self) -> u64 {
        self.start.elapsed().as_secs() / TICK_SECONDS
    }

    #[inline]
    fn place(&self, mac: u64) -> &AtomicU64 {
        &self.entries[place(mac, ENTRIES)]
    }

    /// `mac` was heard behind `slot`.
    #[inline]
    pub fn learn(&self, mac: u64, slot: SlotIndex, now: u64) {
        let entry = mac | (slot.get() as u64) << 48 | (now % TICKS) << 58;
        let place = self.place(mac);
        // The line stays shared between the halves while nothing changes.
        if place.load(Ordering::Relaxed) != entry {
            place.store(entry, Ordering::Relaxed);
        }
    }

    /// Behind whom `mac` was last heard, if it was lately.
    #[inline]
    pub fn lookup(&self, mac: u64, now: u64) -> Option<SlotIndex> {
        let entry = self.place(mac).load(Ordering::Relaxed);
        let heard = entry != 0 && entry & ((1 << 48) - 1) == mac && age(entry, now) <= MAX_AGE;
        heard.then(|| SlotIndex::new(slot(entry)))?
    }

    /// Forgets what is too old, before its tick comes round again, and everything behind `slot` if
    /// one is given: it has a new holder.
    pub fn forget(&self, behind: Option<SlotIndex>, now: u64) {
        for place in &self.entries {
            let entry = place.load(Ordering::Relaxed);
            let gone = age(entry, now) > MAX_AGE || behind.is_some_and(|s| slot(entry) == s.get());
            if entry != 0 && gone {
                // If it was learned anew just now, that stands.
                let _ = place.compare_exchange(entry, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }
}

fn slot(entry: u64) -> usize {
    (entry >> 48 & 0x3ff) as usize
}

fn age(entry: u64, now: u64) -> u64 {
    (now % TICKS + TICKS - (entry >> 58)) % TICKS
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: u64 = 0x0200_0000_0009;

    #[test]
    fn an_address_is_where_it_was_last_heard() {
        let fdb = Fdb::default();
        let [a, b] = [1, 681].map(|i| SlotIndex::new(i).unwrap());
        assert_eq!(fdb.lookup(MAC, 0), None);
        fdb.learn(MAC, a, 0);
        fdb.learn(MAC, b, 1);
        assert_eq!(fdb.lookup(MAC, 2), Some(b));
        fdb.forget(Some(b), 2);
        assert_eq!(fdb.lookup(MAC, 2), None);
    }

    #[test]
    fn what_is_old_is_forgotten_and_stays_so_when_ticks_come_round() {
        let fdb = Fdb::default();
        fdb.learn(MAC, SlotIndex::new(3).unwrap(), 60);
        assert!(fdb.lookup(MAC, 60 + MAX_AGE).is_some());
        assert!(fdb.lookup(MAC, 61 + MAX_AGE).is_none());
        fdb.forget(None, 61 + MAX_AGE);
        assert!(fdb.lookup(MAC, 60 + TICKS).is_none());
    }
}
