//! A guest's memory: mapped from the descriptors its VMM sent, or by the launcher's own VMM.
//!
//! Every descriptor of every frame is an address to be found here, so the table is flat (a few
//! regions, each three numbers) and starts with the region of the last hit.
//!
//! # Why this is `unsafe`, and why it is sound
//!
//! A [`Run`] borrows the memory it is in, which stays mapped for that long. The guest writes its
//! memory at any time: runs are read by copies and by atomics alone. A VMM that cuts the file short
//! under us does not end this process: its region is put on pages of nobody's
//! ([`crate::sigbus`]), and [`Memory::is_lost`] tells.

use std::cell::Cell;
use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU16;

use vm_memory::{
    Address, FileOffset, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MmapRegion,
};

use crate::map::{self, SharedBytes};
use crate::sigbus::Watch;
use crate::stream::LINE;

/// Regions a guest's memory may be in.
pub const MAX_REGIONS: usize = 8;

/// A region as the VMM describes it, all in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Where it is in the guest's address space.
    pub guest_address: u64,
    /// Where it is in the VMM's.
    pub vmm_address: u64,
    /// How large it is.
    pub size: u64,
    /// Where it starts in its file.
    pub offset: u64,
}

#[derive(Debug)]
struct Region {
    place: Place,
    start: *mut u8,
    /// Of a file that somebody else may cut short.
    watch: Option<Watch>,
    /// Unmaps it; `None` if it is not ours to unmap.
    _mapping: Option<MmapRegion>,
}

/// The memory of one guest.
#[derive(Debug, Default)]
pub struct Memory {
    /// By guest address, ascending, none touching another.
    regions: Vec<Region>,
    /// The region of the last hit.
    last: Cell<usize>,
    /// Keeps mapped what is not ours to unmap.
    _owner: Option<GuestMemoryMmap>,
}

// SAFETY: a mapping is an address range of the process, not of a thread.
unsafe impl Send for Memory {}

/// What the device does with memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The guest sends.
    Read,
    /// The guest wants to receive.
    Write,
}

/// A run of guest memory.
#[derive(Debug, Clone, Copy)]
pub struct Run<'m> {
    start: *mut u8,
    len: usize,
    _life: PhantomData<&'m Memory>,
}

impl Memory {
    /// Maps regions, each with its file. The error says what is wrong with them.
    pub fn map(places: Vec<(Place, OwnedFd)>) -> Result<Self, &'static str> {
        if places.len() > MAX_REGIONS {
            return Err("memory has 8 regions at most");
        }
        let mut regions = places
            .into_iter()
            .map(|(place, file)| Region::map(place, file))
            .collect::<Result<Vec<_>, _>>()?;
        regions.sort_by_key(|region| region.place.guest_address);
        let apart = |pair: &[Region]| pair[0].end() <= pair[1].place.guest_address;
        if !regions.windows(2).all(apart) {
            return Err("regions that overlap");
        }
        Ok(Self {
            regions,
            ..Self::default()
        })
    }

    /// The memory of a guest of this process's own, as it is mapped already. It stays mapped for as
    /// long as this is there.
    pub fn of(guest: &GuestMemoryMmap) -> Self {
        // Ascending and apart: that is what makes a `GuestMemoryMmap`.
        let regions = guest.iter().map(|region| Region {
            place: Place {
                guest_address: region.start_addr().raw_value(),
                vmm_address: region.as_ptr() as u64,
                size: region.len(),
                offset: 0,
            },
            start: region.as_ptr(),
            watch: None,
            _mapping: None,
        });
        Self {
            regions: regions.collect(),
            last: Cell::new(0),
            _owner: Some(guest.clone()),
        }
    }

    /// The guest address of what the VMM has at `address`.
    pub fn guest_address(&self, vmm_address: u64) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = vmm_address.checked_sub(region.place.vmm_address)?;
            (offset < region.place.size).then(|| region.place.guest_address + offset)
        })
    }

    /// Whether a file was cut short: what was there since is nobody's.
    pub fn is_lost(&self) -> bool {
        let mut watches = self
            .regions
            .iter()
            .filter_map(|region| region.watch.as_ref());
        watches.any(Watch::is_lost)
    }

    /// `len` bytes at guest address `address`, if they are in one region.
    #[inline]
    pub fn run(&self, address: u64, len: usize) -> Option<Run<'_>> {
        match self.regions.get(self.last.get())?.run(address, len) {
            None => self.search(address, len),
            found => found,
        }
    }

    fn search(&self, address: u64, len: usize) -> Option<Run<'_>> {
        let found = self.regions.iter().zip(0..);
        found
            .filter_map(|(region, index)| Some((region.run(address, len)?, index)))
            .map(|(run, index)| {
                self.last.set(index);
                run
            })
            .next()
    }

    /// Calls `each` with the runs that `len` bytes at `address` are made of: several where regions
    /// touch. `false` if not all of it is the guest's.
    #[inline]
    pub fn runs<'m>(&'m self, address: u64, len: usize, mut each: impl FnMut(Run<'m>)) -> bool {
        match self.run(address, len) {
            Some(run) => each(run),
            None => return self.pieces(address, len, &mut each),
        }
        true
    }

    #[cold]
    fn pieces<'m>(
        &'m self,
        mut address: u64,
        mut len: usize,
        each: &mut dyn FnMut(Run<'m>),
    ) -> bool {
        while len > 0 {
            let inside = |r: &&Region| r.place.guest_address <= address && address < r.end();
            let Some(region) = self.regions.iter().find(inside) else {
                return false;
            };
            let part = len.min((region.end() - address) as usize);
            region.run(address, part).into_iter().for_each(&mut *each);
            address += part as u64;
            len -= part;
        }
        true
    }
}

impl Region {
    /// Maps a region, which must be inside its file: touching what is not would be SIGBUS.
    fn map(place: Place, file: OwnedFd) -> Result<Self, &'static str> {
        const OUTSIDE: &str = "a region that is not in its file";
        let file = File::from(file);
        let end = place.offset.checked_add(place.size).ok_or(OUTSIDE)?;
        place
            .guest_address
            .checked_add(place.size)
            .ok_or("a region past the end of all addresses")?;
        if place.size == 0 || !file.metadata().is_ok_and(|file| end <= file.len()) {
            return Err(OUTSIDE);
        }
        let size = usize::try_from(place.size).map_err(|_| OUTSIDE)?;
        let mapping = MmapRegion::from_file(FileOffset::new(file, place.offset), size)
            .map_err(|_| "a region that can't be mapped")?;
        let start = mapping.as_ptr();
        // SAFETY: this much is mapped there; the watch is dropped before the mapping, being the
        // field before it, and nothing else is ever put there.
        let watch = unsafe { Watch::replaceable(start as usize, size) };
        Ok(Self {
            place,
            start,
            watch: Some(watch),
            _mapping: Some(mapping),
        })
    }

    /// The guest address after it.
    fn end(&self) -> u64 {
        self.place.guest_address + self.place.size
    }

    #[inline]
    fn run(&self, address: u64, len: usize) -> Option<Run<'_>> {
        let offset = address.wrapping_sub(self.place.guest_address);
        if offset >= self.place.size || len as u64 > self.place.size - offset {
            return None;
        }
        Some(Run {
            // SAFETY: inside the region.
            start: unsafe { self.start.add(offset as usize) },
            len,
            _life: PhantomData,
        })
    }
}

impl<'m> Run<'m> {
    /// Bytes of it.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is a place without bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it starts on a multiple of `align`.
    #[inline]
    pub fn is_aligned(&self, align: usize) -> bool {
        (self.start as usize).is_multiple_of(align)
    }

    /// The aligned 16-bit word at `offset`.
    #[inline]
    pub fn word(&self, offset: usize) -> &'m AtomicU16 {
        assert!(offset + 2 <= self.len && (self.start as usize + offset).is_multiple_of(2));
        // SAFETY: inside the run, which is mapped for 'm, and aligned.
        unsafe { AtomicU16::from_ptr(self.start.add(offset).cast()) }
    }

    /// The `N` bytes at `offset`. They may be torn if the guest writes them now.
    #[inline]
    pub fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
        assert!(offset <= self.len && N <= self.len - offset);
        let mut out = [0; N];
        // SAFETY: inside the run, which is mapped.
        unsafe { std::ptr::copy_nonoverlapping(self.start.add(offset), out.as_mut_ptr(), N) };
        out
    }

    /// Writes `bytes` at `offset`; both must be inside.
    #[inline]
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset <= self.len && bytes.len() <= self.len - offset);
        // SAFETY: inside the run, which is mapped; `bytes` is private memory.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(offset), bytes.len())
        };
    }

    /// Writes a header at its start: the first `bytes` (10 or 12) of two words. `false` if it does not
    /// fit.
    ///
    /// Small stores from registers: from a buffer, they would be read across the words that were
    /// just written to it, which has to wait for all stores before.
    #[inline]
    pub fn write_words(&self, words: [u64; 2], bytes: usize) -> bool {
        if bytes > self.len {
            return false;
        }
        let at = self.start;
        // SAFETY: inside the run, as just checked; stores need no alignment.
        unsafe {
            at.cast::<u64>().write_unaligned(words[0].to_le());
            let rest = at.add(8);
            match bytes {
                12 => rest
                    .cast::<u32>()
                    .write_unaligned((words[1] as u32).to_le()),
                _ => rest
                    .cast::<u16>()
                    .write_unaligned((words[1] as u16).to_le()),
            }
        }
        true
    }

    /// Copies all of `bytes` to `offset`; both must be inside.
    #[inline]
    pub fn copy_from(&self, offset: usize, bytes: &SharedBytes<'_>) {
        assert!(offset <= self.len && bytes.len() <= self.len - offset);
        // SAFETY: inside the run, which is mapped; the source is a sharenet or our own memory, never the guest's.
        unsafe { bytes.copy_to_raw(self.start.add(offset)) };
    }

    /// The same, to be copied from.
    #[inline]
    pub fn bytes(&self) -> SharedBytes<'m> {
        // SAFETY: mapped for 'm.
        unsafe { SharedBytes::from_raw(self.start, self.len) }
    }

    /// Has the processor fetch the `lines` cache lines at `offset`.
    #[inline]
    pub fn prefetch(&self, offset: usize, lines: usize, access: Access) {
        for line in 0..lines {
            let at = self.start.wrapping_add(offset + line * LINE);
            match access {
                Access::Read => map::prefetch(at),
                Access::Write => map::prefetch_to_write(at),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest whose memory is `size` bytes at each of these guest addresses, of one file.
    fn guest(size: u64, addresses: &[u64]) -> Result<Memory, &'static str> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size * addresses.len() as u64).unwrap();
        let place = |(&guest_address, index): (&u64, u64)| Place {
            guest_address,
            vmm_address: 0x7000_0000 + index * size,
            size,
            offset: index * size,
        };
        let file = || file.try_clone().unwrap().into();
        Memory::map(
            addresses
                .iter()
                .zip(0..)
                .map(place)
                .map(|p| (p, file()))
                .collect(),
        )
    }

    #[test]
    fn a_buffer_across_two_regions_is_two_runs_and_one_outside_is_none() {
        let memory = guest(0x1000, &[0x1000, 0x0, 0x4000]).unwrap();
        let mut runs = Vec::new();
        assert!(memory.runs(0xff0, 0x30, |run| runs.push(run)));
        assert_eq!(runs.iter().map(Run::len).collect::<Vec<_>>(), [0x10, 0x20]);
        for (address, len) in [
            (0x1ff0, 0x11),
            (0x3fff, 2),
            (u64::MAX, 1),
            (0x4fff, usize::MAX),
        ] {
            assert!(!memory.runs(address, len, |_| ()), "{address:#x} {len}");
            assert!(memory.run(address, len).is_none());
        }
        assert_eq!(memory.guest_address(0x7000_0001), Some(0x1001));
        assert_eq!(memory.guest_address(0x7000_3000), None);
    }

    #[test]
    fn memory_mapped_by_others_stays_as_long_as_it_is_known_here() {
        use vm_memory::{Bytes, GuestAddress};
        let ranges = [(GuestAddress(0), 0x1000), (GuestAddress(0x4000), 0x1000)];
        let owner = GuestMemoryMmap::<()>::from_ranges(&ranges).unwrap();
        owner.write_obj(7u16, GuestAddress(0x4010)).unwrap();
        let memory = Memory::of(&owner);
        drop(owner);
        assert_eq!(memory.run(0x4010, 2).unwrap().read(0), [7, 0]);
        assert!(memory.run(0x1000, 1).is_none());
        assert!(!memory.is_lost());
    }

    #[test]
    fn regions_overlap_with_none_and_wrap_nowhere() {
        assert!(guest(0x1000, &[0, 0xfff]).is_err());
        assert!(guest(0x1000, &[u64::MAX - 0xffe]).is_err());
        assert!(guest(0, &[0]).is_err());
        assert!(guest(0x1000, &[0; 9]).is_err());
    }
}
