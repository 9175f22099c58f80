//! Slots are numbered places on a segment; a port is a slot that somebody holds.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::layout::MAX_SLOTS;

/// The number of a slot, `0..682`. A segment may have fewer; see [`crate::Segment::slots`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SlotIndex(u16);

impl SlotIndex {
    /// Slot `index`, if the format has that many.
    pub fn new(index: usize) -> Option<Self> {
        (index < MAX_SLOTS).then_some(Self(index as u16))
    }

    /// The plain number, for arithmetic on offsets.
    pub fn get(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for SlotIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SlotIndex {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| format!("'{text}' is not a slot: slots are 0 to {}", MAX_SLOTS - 1))
    }
}

/// How many words a set of all slots takes.
pub const SLOT_WORDS: usize = MAX_SLOTS.div_ceil(64);

/// A set of slots, one bit each: what a port still has to look at, or who wants every frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotSet([u64; SLOT_WORDS]);

impl SlotSet {
    /// No slot.
    pub const fn new() -> Self {
        Self([0; SLOT_WORDS])
    }

    /// Adds one slot.
    pub fn insert(&mut self, slot: SlotIndex) {
        self.0[slot.get() / 64] |= 1 << (slot.get() % 64);
    }

    /// Takes one slot out.
    pub fn remove(&mut self, slot: SlotIndex) {
        self.0[slot.get() / 64] &= !(1 << (slot.get() % 64));
    }

    /// Whether `slot` is in the set.
    pub fn contains(&self, slot: SlotIndex) -> bool {
        self.0[slot.get() / 64] & (1 << (slot.get() % 64)) != 0
    }

    /// Adds the 64 slots of word `word` whose bits are set in `bits`. Bits past the last slot are
    /// ignored: the word may come from a hostile peer.
    pub fn insert_word(&mut self, word: usize, bits: u64) {
        let valid = match MAX_SLOTS - word * 64 {
            n if n >= 64 => u64::MAX,
            n => (1 << n) - 1,
        };
        self.0[word] |= bits & valid;
    }

    /// The 64 slots of word `word`.
    pub fn word(&self, word: usize) -> u64 {
        self.0[word]
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&w| w == 0)
    }

    /// The slots in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = SlotIndex> + Clone + '_ {
        self.0.iter().enumerate().flat_map(|(w, &bits)| {
            std::iter::successors(Some(bits), |b| Some(b & b.wrapping_sub(1)))
                .take_while(|&b| b != 0)
                .filter_map(move |b| SlotIndex::new(w * 64 + b.trailing_zeros() as usize))
        })
    }
}

impl Default for SlotSet {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(i: usize) -> SlotIndex {
        SlotIndex::new(i).unwrap()
    }

    #[test]
    fn a_set_gives_back_what_was_put_in() {
        let mut set = SlotSet::new();
        for i in [0, 63, 64, 681] {
            set.insert(slot(i));
        }
        let all: Vec<_> = set.iter().map(SlotIndex::get).collect();
        assert_eq!(all, [0, 63, 64, 681]);
        set.remove(slot(63));
        assert!(!set.contains(slot(63)) && set.contains(slot(64)));
        assert_eq!(set.iter().count(), 3);
    }

    #[test]
    fn bits_past_the_last_slot_are_ignored() {
        let mut set = SlotSet::new();
        set.insert_word(SLOT_WORDS - 1, u64::MAX);
        assert_eq!(set.iter().last(), Some(slot(681)));
    }

    #[test]
    fn only_slots_of_the_format_parse() {
        assert_eq!("681".parse(), Ok(slot(681)));
        for text in ["682", "-1", "", "x"] {
            assert!(text.parse::<SlotIndex>().is_err());
        }
    }
}
