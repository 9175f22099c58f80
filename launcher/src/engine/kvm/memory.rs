//! The guest's memory: anonymous, private, untouched pages of this process that KVM shows to the
//! guest as its RAM. What the guest never touches costs nothing.
//!
//! A file is [read](read_file) into it. What most guests only read, a linked kernel, is
//! [mapped](map_file) over it instead: privately, so that a guest's writes stay its own, while guests that
//! start from one file share its pages. That costs a fault a page, where large pages cost one for 512, and
//! each first write a flush of what the processors know of the guest's memory.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;

use vm_memory::mmap::{MmapRegion, MmapRegionBuilder, MmapRegionError};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap,
};

use super::KvmError;
use super::layout::{GAP_END, GAP_START};
use crate::plan::memory::MemorySize;

/// A page, in bytes.
pub const PAGE: u64 = 4096;

/// A large page, in bytes.
const HUGE: usize = 2 << 20;

/// Mappings made to have the next one where it should be. One will do, but in a gap too small for both.
const MOST_ON_TOP: usize = 4;

/// The guest's RAM: (address, length in bytes) of each stretch.
pub fn ranges(size: MemorySize) -> Vec<(u64, u64)> {
    let bytes = size.bytes();
    let low = bytes.min(GAP_START);
    let mut ranges = vec![(0, low)];
    if bytes > low {
        ranges.push((GAP_END, bytes - low));
    }
    ranges
}

/// Makes a guest's memory.
///
/// # Errors
/// The host has not so much address space left for us.
pub fn allocate(size: MemorySize) -> Result<GuestMemoryMmap, KvmError> {
    let refused = |error| KvmError::Memory { size, error };
    let mut regions = Vec::new();
    for (start, len) in ranges(size) {
        let too_much = || refused(io::Error::from_raw_os_error(libc::ENOMEM));
        let len = usize::try_from(len).map_err(|_| too_much())?;
        let mapping = map_aligned(len).map_err(|error| refused(io::Error::other(error)))?;
        let region = GuestRegionMmap::new(mapping, GuestAddress(start)).ok_or_else(too_much)?;
        Pages::of(&region, 0, region.len())
            .map_err(refused)?
            .prefer_large();
        regions.push(region);
    }
    GuestMemoryMmap::from_regions(regions).map_err(|error| refused(io::Error::other(error)))
}

/// Maps memory at a multiple of [`HUGE`], as the guest's addresses are: only then a large page here is one
/// for the guest, too, and its processors find their way by tables of a level less. Kernels before Linux
/// 6.7 do not see to that. If it can't be had, the memory is as good, and slower.
fn map_aligned(len: usize) -> Result<MmapRegion, MmapRegionError> {
    // The kernel shall not set swap aside for it: guests rarely use all of theirs.
    let map = |len, rights| {
        MmapRegionBuilder::new(len)
            .with_mmap_prot(rights)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
            .build()
    };
    // Mappings are made below each other, from the top of the highest gap that has room: what is put on top,
    // for now, pushes the next one down. It is as large, or it would go into a smaller gap; and nothing is
    // unmapped meanwhile, for Linux 6.1 does not always see two gaps side by side as one.
    let mut mapping = map(len, libc::PROT_READ | libc::PROT_WRITE)?;
    let mut on_top = Vec::new();
    while len >= HUGE && on_top.len() < MOST_ON_TOP {
        let address = mapping.as_ptr() as usize;
        if address.is_multiple_of(HUGE) {
            break;
        }
        let below = address.wrapping_sub(len).wrapping_sub(len) % HUGE;
        let filler = map(len + below, libc::PROT_NONE);
        let next = map(len, libc::PROT_READ | libc::PROT_WRITE);
        let (Ok(filler), Ok(next)) = (filler, next) else {
            break;
        };
        on_top.push([std::mem::replace(&mut mapping, next), filler]);
    }
    Ok(mapping)
}

/// Makes it as it was when it was new: all zeros, and none of it used.
///
/// # Errors
/// The kernel has no memory for its own records of it.
pub fn clear(memory: &GuestMemoryMmap) -> io::Result<()> {
    for region in memory.iter() {
        let pages = Pages::of(region, 0, region.len())?;
        pages.replace(libc::MAP_ANONYMOUS, None)?;
        pages.prefer_large();
    }
    Ok(())
}

/// Reads `len` bytes of a file, from `offset` on, to `address` of the guest's memory.
///
/// # Errors
/// The bytes do not fit in one stretch of the guest's RAM, or the file cannot be read or is shorter.
pub fn read_file(
    memory: &GuestMemoryMmap,
    address: u64,
    mut file: &File,
    offset: u64,
    len: u64,
) -> io::Result<()> {
    let len = usize::try_from(len).map_err(|_| outside())?;
    file.seek(SeekFrom::Start(offset))?;
    memory
        .read_exact_volatile_from(GuestAddress(address), &mut file, len)
        .map_err(|error| match error {
            GuestMemoryError::IOError(error) => error,
            _ => outside(),
        })
}

/// Maps a part of a file over the guest's memory, if both lie alike in their pages; the rest of its last
/// page, or all of it, is read. Arguments and errors as [`read_file`] has them.
///
/// # Errors
/// See above.
pub fn map_file(
    memory: &GuestMemoryMmap,
    address: u64,
    file: &File,
    offset: u64,
    len: u64,
) -> io::Result<()> {
    let is_alike = [address, offset].iter().all(|at| at.is_multiple_of(PAGE));
    let mapped = if is_alike { len & !(PAGE - 1) } else { 0 };
    if mapped > 0 {
        let (region, start) = memory
            .to_region_addr(GuestAddress(address))
            .ok_or_else(outside)?;
        Pages::of(region, start.0, mapped)?.replace(0, Some((file, offset)))?;
    }
    read_file(
        memory,
        address + mapped,
        file,
        offset + mapped,
        len - mapped,
    )
}

/// Pages of a region of guest memory.
struct Pages {
    address: *mut libc::c_void,
    len: usize,
}

impl Pages {
    /// `len` bytes from `start` of a region on, in whole pages.
    fn of(region: &GuestRegionMmap, start: u64, len: u64) -> io::Result<Self> {
        if region
            .len()
            .checked_sub(start)
            .is_none_or(|rest| len > rest)
        {
            return Err(outside());
        }
        // Both are within a mapping of ours, and so are numbers of this host's size.
        Ok(Self {
            address: region.as_ptr().wrapping_add(start as usize).cast(),
            len: len as usize,
        })
    }

    /// Asks for large pages, which many a host gives only to who does, and halves a guest's way to its memory.
    fn prefer_large(&self) {
        // SAFETY: the advice changes no byte of it, nor what may be done with it. A kernel without large
        // pages refuses it, and the memory is as good.
        unsafe { libc::madvise(self.address, self.len, libc::MADV_HUGEPAGE) };
    }

    /// Maps something else there: the file from the offset, or nothing but zeros.
    fn replace(&self, flags: i32, file: Option<(&File, u64)>) -> io::Result<()> {
        let (fd, offset) = file.map_or((-1, 0), |(file, offset)| (file.as_raw_fd(), offset));
        let offset = libc::off_t::try_from(offset).map_err(|_| outside())?;
        // SAFETY: the pages replaced are inside a region's own mapping, as `of` has checked, and
        // stay mapped with the same rights until the region unmaps them with the rest of it.
        // Nothing holds references into guest memory: all access is volatile, so its bytes may
        // change at any time.
        let answer = unsafe {
            libc::mmap(
                self.address,
                self.len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE | flags,
                fd,
                offset,
            )
        };
        if answer == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// What is to be loaded lies where the guest has no RAM.
fn outside() -> io::Error {
    io::Error::other("it does not fit in the guest's memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    fn mib(mib: u64) -> MemorySize {
        MemorySize::from_mib(mib).unwrap()
    }

    #[test]
    fn ram_goes_round_the_gap() {
        assert_eq!(ranges(mib(64)), [(0, 64 << 20)]);
        assert_eq!(ranges(mib(3072)), [(0, 3 << 30)]);
        assert_eq!(ranges(mib(4096)), [(0, 3 << 30), (4 << 30, 1 << 30)]);
        let memory = allocate(mib(3073)).unwrap();
        memory.write_obj(7u8, GuestAddress((4 << 30) + 5)).unwrap();
        assert!(memory.write_obj(7u8, GuestAddress(3 << 30)).is_err());
    }

    #[test]
    fn large_pages_here_are_large_pages_there() {
        // Whatever was mapped before them, and whatever small gaps are left.
        let mut kept: Vec<_> = (0..128)
            .map(|_| map_aligned(PAGE as usize).unwrap())
            .collect();
        let mut number = 0;
        kept.retain(|_| {
            number += 1;
            number % 2 == 0
        });
        for pages in 1..20 {
            kept.push(map_aligned(pages * PAGE as usize).unwrap());
            let memory = allocate(mib(3074)).unwrap();
            for region in memory.iter() {
                assert_eq!(region.as_ptr() as usize % HUGE, 0, "{pages}");
            }
        }
    }

    type Place = fn(&GuestMemoryMmap, u64, &File, u64, u64) -> io::Result<()>;
    const BOTH: [Place; 2] = [read_file, map_file];

    #[test]
    fn a_files_part_is_there_as_it_is_and_written_to_no_avail() {
        let bytes: Vec<u8> = (0..3 * PAGE + 100).map(|i| (i % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        for place in BOTH {
            let memory = allocate(mib(1)).unwrap();
            for (address, offset) in [(PAGE, 0), (PAGE + 8, 0), (8 * PAGE, PAGE), (8 * PAGE, 1)] {
                let expected = &bytes[offset as usize..];
                place(&memory, address, &file, offset, expected.len() as u64).unwrap();
                let mut got = vec![0; expected.len()];
                memory.read_slice(&mut got, GuestAddress(address)).unwrap();
                assert!(got == expected, "{address:x} {offset}");
            }
            memory
                .write_slice(&[0; 64], GuestAddress(8 * PAGE))
                .unwrap();
            let mut kept = vec![0; bytes.len()];
            file.read_exact_at(&mut kept, 0).unwrap();
            assert!(kept == bytes);
        }
    }

    #[test]
    fn a_file_may_end_where_the_guests_memory_ends() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(PAGE).unwrap();
        let memory = allocate(mib(1)).unwrap();
        for place in BOTH {
            place(&memory, (1 << 20) - PAGE, &file, 0, PAGE).unwrap();
        }
    }

    #[test]
    fn a_file_that_has_become_shorter_is_told() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(PAGE).unwrap();
        let memory = allocate(mib(1)).unwrap();
        assert!(read_file(&memory, PAGE, &file, 0, PAGE + 1).is_err());
        assert!(map_file(&memory, PAGE, &file, 0, PAGE + 1).is_err());
    }

    #[test]
    fn cleared_memory_is_new() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 4 * PAGE as usize]).unwrap();
        let memory = allocate(mib(1)).unwrap();
        map_file(&memory, PAGE, &file, 0, 4 * PAGE).unwrap();
        memory.write_obj(9u64, GuestAddress(5 * PAGE)).unwrap();
        clear(&memory).unwrap();
        let mut all = vec![1; 1 << 20];
        memory.read_slice(&mut all, GuestAddress(0)).unwrap();
        assert!(all.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_file_never_reaches_past_the_guests_memory() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(2 << 20).unwrap();
        let memory = allocate(mib(1)).unwrap();
        for (address, len) in [
            (0, 2 << 20),
            (PAGE, 1 << 20),
            (1, 1 << 20),
            (1 << 20, 1),
            (3 << 30, PAGE),
        ] {
            for place in BOTH {
                assert!(
                    place(&memory, address, &file, 0, len).is_err(),
                    "{address:x}"
                );
            }
        }
    }
}
