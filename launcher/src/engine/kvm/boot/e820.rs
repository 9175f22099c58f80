//! The memory map a kernel is given: what is RAM and what is not, in the form a PC's BIOS would
//! tell it (its function E820).

use crate::engine::kvm::memory;
use crate::plan::memory::MemorySize;

/// Where RAM ends that a kernel may use below 640 KiB: a BIOS keeps the last KiB.
const LOW_END: u64 = 0x9_fc00;

/// Where the firmware's part of the first megabyte begins, with our ACPI tables in it.
const FIRMWARE: u64 = 0xe_0000;

/// Where RAM goes on.
const HIGH_START: u64 = 1 << 20;

/// What a stretch of addresses is (ACPI specification 6.5, 15: address range types).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// RAM to use.
    Ram = 1,
    /// Not to be touched.
    Reserved = 2,
}

/// A stretch of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its first address.
    pub start: u64,
    /// Its length, in bytes.
    pub len: u64,
    /// What it is.
    pub kind: Kind,
}

/// The whole map, in order of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryMap(Vec<Entry>);

impl MemoryMap {
    /// The map of a guest with so much memory.
    pub fn of(size: MemorySize) -> Self {
        let entry = |start, end: u64, kind| Entry {
            start,
            len: end - start,
            kind,
        };
        let mut map = vec![
            entry(0, LOW_END, Kind::Ram),
            entry(FIRMWARE, HIGH_START, Kind::Reserved),
        ];
        for (start, len) in memory::ranges(size) {
            let (start, end) = (start.max(HIGH_START), start + len);
            if end > start {
                map.push(entry(start, end, Kind::Ram));
            }
        }
        Self(map)
    }

    /// The stretches.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// Where the RAM that begins at 1 MiB ends.
    pub fn low_end(&self) -> u64 {
        self.0
            .iter()
            .find(|entry| entry.start == HIGH_START)
            .map_or(HIGH_START, |entry| entry.start + entry.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ram_is_told_of_once_but_the_first_megabytes_last_part() {
        for mib in [1, 2, 64, 3071, 3072, 3073, 5000] {
            let size = MemorySize::from_mib(mib).unwrap();
            let map = MemoryMap::of(size);
            let ram = |map: &MemoryMap| -> u64 {
                let ram = map.entries().iter().filter(|e| e.kind == Kind::Ram);
                ram.map(|e| e.len).sum()
            };
            assert_eq!(ram(&map), size.bytes() - (HIGH_START - LOW_END), "{mib}");
            let in_order = map
                .entries()
                .windows(2)
                .all(|pair| pair[0].start + pair[0].len <= pair[1].start);
            assert!(in_order, "{map:?}");
        }
    }

    #[test]
    fn no_ram_is_where_devices_are() {
        let map = MemoryMap::of(MemorySize::from_mib(8192).unwrap());
        assert_eq!(map.low_end(), 3 << 30);
        let last = map.entries().last().unwrap();
        assert_eq!((last.start, last.len), (4 << 30, 5 << 30));
    }
}
