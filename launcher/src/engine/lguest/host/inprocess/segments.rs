//! The guest's descriptor table, as the host lets it be.
//!
//! The guest runs one ring above where it thinks it does, so whatever it gives for ring 0 becomes ring
//! 1's; and some places of the table are the host's own.

/// Entries of the table.
pub const ENTRIES: usize = 32;

/// The guest kernel's code, as a selector for ring 1.
pub const KERNEL_CS: u16 = 12 << 3 | 1;
/// The guest kernel's data and stack.
pub const KERNEL_DS: u16 = 13 << 3 | 1;

/// Where thread-local segments are.
pub const TLS: usize = 6;

/// The host's: its own code and data, its TSS, and the one for double faults.
const HOSTS: [usize; 4] = [10, 11, 16, 31];

/// Flat code and data for ring 1, accessed (SDM volume 3, 3.4.5).
const FLAT_CODE: u64 = 0x00cf_bb00_0000_ffff;
const FLAT_DATA: u64 = 0x00cf_b300_0000_ffff;

const DPL: u64 = 3 << 45;
const DPL_1: u64 = 1 << 45;
const ACCESSED: u64 = 1 << 40;

/// The table.
#[derive(Debug, Clone)]
pub struct Table(pub [u64; ENTRIES]);

impl Default for Table {
    /// What the guest starts with.
    fn default() -> Self {
        let mut entries = [0; ENTRIES];
        entries[usize::from(KERNEL_CS >> 3)] = FLAT_CODE;
        entries[usize::from(KERNEL_DS >> 3)] = FLAT_DATA;
        Self(entries)
    }
}

impl Table {
    /// Takes the guest's entries from number `first` on.
    pub fn load(&mut self, first: usize, given: &[u64]) {
        for (index, entry) in (first..).zip(given) {
            if let Some(place) = self.0.get_mut(index).filter(|_| !HOSTS.contains(&index)) {
                *place = admit(*entry);
            }
        }
    }
}

/// An entry of the guest's, as it may be: never for ring 0, and accessed, so that the processor need not
/// write it.
fn admit(entry: u64) -> u64 {
    let entry = if entry & DPL == 0 {
        entry | DPL_1
    } else {
        entry
    };
    entry | ACCESSED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_0_becomes_ring_1_and_ring_3_stays() {
        let mut table = Table::default();
        let user = 0x00cf_fa00_0000_ffff;
        table.load(12, &[0x00cf_9a00_0000_ffff, 0x00cf_9200_0000_ffff, user]);
        assert_eq!(table.0[12], FLAT_CODE);
        assert_eq!(table.0[13], FLAT_DATA);
        assert_eq!(table.0[14], user | ACCESSED);
    }

    #[test]
    fn the_hosts_entries_are_not_the_guests_to_give() {
        let mut table = Table::default();
        table.load(0, &[u64::MAX; ENTRIES + 5]);
        for index in HOSTS {
            assert_eq!(table.0[index], 0);
        }
        assert_eq!(table.0[6], u64::MAX);
    }
}
