//! The guest's memory: one mapping from guest-physical 0 up, RAM first, then the pages of devices.
//!
//! Parts of it may be files: a kernel's segments (private, so that guests of one kernel share its
//! pages), the peers page of a sharenet (shared, so that other processes change it under us).
//! Hence every access is volatile, and no reference to a byte of it is ever made.
//!
//! The memory also knows which of its 64-byte lines the processor has decoded ([`watch`]). A write
//! to such a line, by the guest or by a device, notes the page, and the processor forgets what it
//! decoded there before it executes anything more. Writes by *other processes* are not noticed:
//! nobody executes the peers page.
//!
//! The module `/dev/lguest` of 2.6.23 takes a guest's physical addresses for ours, so for it the memory begins
//! at address 0 (`at_zero`). The byte there we leave to the guest: a pointer to it is null, and no pointer of Rust's.
//!
//! `unsafe`: the only place of it in this engine. The mapping lives as long as [`GuestMemory`],
//! and each access is preceded by a comparison with its length.
//!
//! [`watch`]: GuestMemory::watch

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::sys::mman::{self, MapFlags, ProtFlags};

/// A page of an i386, in bytes.
pub const PAGE: u32 = 4096;

/// An access beyond the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes at guest-physical {at:#x} are not in the guest's memory")]
pub struct OutOfBounds {
    /// Guest-physical address.
    pub at: u32,
    /// How many bytes from there.
    pub bytes: usize,
}

/// Who sees what the guest writes to a page that is a file's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// The guest alone.
    Private,
    /// All who map the file.
    Shared,
}

/// A number as the guest stores it: little endian, at any address.
pub trait Word: Copy + sealed::Bits {}
impl Word for u8 {}
impl Word for u16 {}
impl Word for u32 {}
impl Word for u64 {}

mod sealed {
    /// Integers of which every bit pattern is one.
    pub trait Bits: Copy {
        fn little(self) -> Self;
    }
    macro_rules! bits { ($($t:ty)*) => { $(impl Bits for $t {
        #[inline(always)]
        fn little(self) -> Self { self.to_le() }
    })* } }
    bits!(u8 u16 u32 u64);
}

/// A value of alignment 1, so that one volatile access reads it from anywhere.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned<T>(T);

/// The guest's memory.
#[derive(Debug)]
pub struct GuestMemory {
    base: *mut u8,
    /// Length in bytes, whole pages.
    len: usize,
    /// What tells the user why, if a file mapped into it is cut short.
    files: Option<lgswitch::sigbus::GuestFiles>,
    /// For each page, the 64-byte lines the processor has decoded code from.
    watched: Box<[AtomicU64]>,
    /// Whether `written` has anything in it: what the processor looks at.
    has_written: AtomicBool,
    /// Pages of which watched lines were written.
    written: Mutex<Vec<u32>>,
}

// SAFETY: the pointer is to a mapping that this owns alone, that no reference points into, and of which
// values are copied out before they are looked at; what other threads or processes write meanwhile is
// just other bytes.
unsafe impl Send for GuestMemory {}
// SAFETY: as above.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Zeroed memory of `bytes` bytes, rounded up to whole pages; the host gives pages as they are used.
    ///
    /// # Errors
    /// The kernel's, if there is no room in the address space.
    pub fn new(bytes: u32) -> io::Result<Self> {
        let pages = bytes.div_ceil(PAGE).max(1) as usize;
        let len = pages
            .checked_mul(PAGE as usize)
            .and_then(NonZeroUsize::new)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let base = unsafe {
            mman::mmap_anonymous(
                None,
                len,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
            )
        }?;
        Ok(Self {
            base: base.cast().as_ptr(),
            len: len.get(),
            files: None,
            watched: (0..pages).map(|_| AtomicU64::new(0)).collect(),
            has_written: AtomicBool::new(false),
            written: Mutex::new(Vec::new()),
        })
    }

    /// The same at the process's own addresses from 0 on, where nothing else may be. The first byte is not to be
    /// read or written from here.
    ///
    /// # Errors
    /// Something is in the way, or `vm.mmap_min_addr` is: `AddrInUse`; the kernel's.
    #[cfg(target_arch = "x86")]
    pub fn at_zero(bytes: u32) -> io::Result<Self> {
        let pages = bytes.div_ceil(PAGE).max(2) as usize;
        let len = pages
            .checked_mul(PAGE as usize)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let map = |at: usize, len, flags| {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | flags;
            let at = std::ptr::without_provenance_mut(at);
            // SAFETY: with a wish for an address, the kernel puts nothing where something is. Fixed is only what
            // such a mapping of ours already has, and the page at 0, which nobody is ever given.
            let at = unsafe { libc::mmap(at, len, protection, flags, -1, 0) };
            match at {
                libc::MAP_FAILED => Err(io::Error::last_os_error()),
                at => Ok(at.expose_provenance()),
            }
        };
        let rest = len - PAGE as usize;
        let got = map(PAGE as usize, rest, 0)?;
        let unmap = |at: usize, len| {
            // SAFETY: mapped here, and nobody knows of it.
            unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(at), len) }
        };
        if got != PAGE as usize {
            unmap(got, rest);
            return Err(io::ErrorKind::AddrInUse.into());
        }
        if let Err(error) = map(0, PAGE as usize, libc::MAP_FIXED) {
            unmap(got, rest);
            return Err(error);
        }
        Ok(Self {
            base: std::ptr::with_exposed_provenance_mut(0),
            len,
            files: None,
            watched: (0..pages).map(|_| AtomicU64::new(0)).collect(),
            has_written: AtomicBool::new(false),
            written: Mutex::new(Vec::new()),
        })
    }

    /// Puts `bytes` bytes of a file, from `offset` on, at guest-physical `at`. All three count in
    /// whole pages of the host.
    ///
    /// # Errors
    /// `InvalidInput` for what is not whole pages inside this memory; the kernel's.
    pub fn map_file(
        &mut self,
        at: u32,
        file: &File,
        offset: u64,
        bytes: u32,
        sharing: Sharing,
    ) -> io::Result<()> {
        // A page of the host's, a power of two.
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.unwrap_or(4096) as u64;
        let whole = |n: u64| n.is_multiple_of(page);
        let fits = self.check(at, bytes as usize).is_ok();
        let (Some(length), Some(place), true) = (
            NonZeroUsize::new(bytes as usize),
            NonZeroUsize::new((self.base as usize).wrapping_add(at as usize)),
            fits && whole(at.into()) && whole(offset) && whole(bytes.into()),
        ) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let offset = offset.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
        self.files.get_or_insert_with(|| {
            lgswitch::sigbus::GuestFiles::watch(self.base as usize, self.len)
        });
        let flags = match sharing {
            Sharing::Private => MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
            Sharing::Shared => MapFlags::MAP_SHARED,
        };
        // SAFETY: replaces pages of our own mapping, all inside it as checked above; no reference
        // to them exists.
        unsafe {
            mman::mmap(
                Some(place),
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                flags | MapFlags::MAP_FIXED,
                file.as_fd(),
                offset,
            )
        }?;
        Ok(())
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: there is at least a page.
    pub fn is_empty(&self) -> bool {
        false
    }

    #[inline(always)]
    fn check(&self, at: u32, bytes: usize) -> Result<usize, OutOfBounds> {
        // One comparison, and no overflow: both are at most what an address space of 32 bits, or a slice, holds.
        if u64::from(at) + bytes as u64 <= self.len as u64 && !self.is_null(at) {
            Ok(at as usize)
        } else {
            Err(OutOfBounds { at, bytes })
        }
    }

    /// Whether this is the byte at address 0. On a host of 64 bits nothing is mapped there.
    #[inline(always)]
    fn is_null(&self, at: u32) -> bool {
        cfg!(target_arch = "x86") && at == 0 && self.base.is_null()
    }

    /// Where a byte of the mapping is. Never null, if `start` was checked.
    #[inline(always)]
    fn place(&self, start: usize) -> *mut u8 {
        self.base.wrapping_add(start)
    }

    /// Reads a number at a place in the mapping.
    ///
    /// # Safety
    /// `start` and the bytes of T after it are inside the mapping.
    #[inline(always)]
    unsafe fn get<T: Word>(&self, start: usize) -> T {
        // SAFETY: inside, says the caller; the type read has alignment 1, and every bit pattern is a T.
        let value = unsafe { self.place(start).cast::<Unaligned<T>>().read_volatile() };
        { value.0 }.little()
    }

    /// Writes a number at a place in the mapping.
    ///
    /// A plain write: who else looks at the mapping sees it all the same, since the compiler can't know
    /// that nobody does, and a volatile one of an unaligned type goes round by the stack.
    ///
    /// # Safety
    /// As for [`get`](Self::get).
    #[inline(always)]
    unsafe fn put<T: Word>(&self, start: usize, value: T) {
        // SAFETY: inside, says the caller; no alignment is asked for.
        unsafe {
            self.place(start)
                .cast::<T>()
                .write_unaligned(value.little());
        }
    }

    /// Reads a number.
    ///
    /// # Errors
    /// If it is not all inside.
    #[inline(always)]
    pub fn load<T: Word>(&self, at: u32) -> Result<T, OutOfBounds> {
        let start = self.check(at, size_of::<T>())?;
        // SAFETY: just checked.
        Ok(unsafe { self.get(start) })
    }

    /// Writes a number.
    ///
    /// # Errors
    /// If it is not all inside; then nothing is written.
    #[inline(always)]
    pub fn store<T: Word>(&self, at: u32, value: T) -> Result<(), OutOfBounds> {
        self.store_unwatched(at, value)?;
        self.note(at, size_of::<T>());
        Ok(())
    }

    /// Writes a number where the processor knows that no decoded code stands.
    ///
    /// # Errors
    /// If it is not all inside; then nothing is written.
    #[inline(always)]
    pub(super) fn store_unwatched<T: Word>(&self, at: u32, value: T) -> Result<(), OutOfBounds> {
        let start = self.check(at, size_of::<T>())?;
        // SAFETY: just checked.
        unsafe { self.put(start, value) };
        Ok(())
    }

    /// Replaces a number by what `change` makes of it, where no decoded code stands.
    ///
    /// # Errors
    /// If it is not all inside; then `change` was not called.
    #[inline(always)]
    pub(super) fn change_unwatched<T: Word>(
        &self,
        at: u32,
        change: impl FnOnce(T) -> T,
    ) -> Result<(), OutOfBounds> {
        let start = self.check(at, size_of::<T>())?;
        // SAFETY: just checked.
        let old = unsafe { self.get(start) };
        let new = change(old);
        // SAFETY: as above; a mapping never shrinks.
        unsafe { self.put(start, new) };
        Ok(())
    }

    /// Reads as many bytes as `into` takes.
    ///
    /// # Errors
    /// If they are not all inside; then `into` is as it was.
    pub fn read_bytes(&self, at: u32, into: &mut [u8]) -> Result<(), OutOfBounds> {
        let start = self.check(at, into.len())?;
        // SAFETY: the source is inside the mapping (checked); the destination is Rust's own, so the
        // two do not overlap. Another process may write a shared page meanwhile: the copy is of
        // plain bytes, whose values nothing here relies on.
        unsafe {
            std::ptr::copy_nonoverlapping(self.place(start), into.as_mut_ptr(), into.len());
        }
        Ok(())
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// If they would not all be inside; then nothing is written.
    pub fn write_bytes(&self, at: u32, from: &[u8]) -> Result<(), OutOfBounds> {
        let start = self.check(at, from.len())?;
        // SAFETY: as in `read_bytes`, the other way round.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), self.place(start), from.len());
        }
        self.note(at, from.len());
        Ok(())
    }

    /// Zeroes bytes.
    ///
    /// # Errors
    /// If they are not all inside; then nothing is written.
    pub fn zero(&self, at: u32, bytes: usize) -> Result<(), OutOfBounds> {
        let start = self.check(at, bytes)?;
        // SAFETY: inside the mapping (checked), and no reference to these bytes exists.
        unsafe { std::ptr::write_bytes(self.place(start), 0, bytes) };
        self.note(at, bytes);
        Ok(())
    }

    /// From now on a write to one of these bytes notes its page: they were decoded. They lie in one
    /// page. Says whether they are the first of it.
    pub(super) fn watch(&self, at: u32, bytes: u32) -> bool {
        match self.watched.get((at / PAGE) as usize) {
            Some(page) => page.fetch_or(lines(at % PAGE, bytes), Ordering::Relaxed) == 0,
            None => false,
        }
    }

    /// Whether any line of this page is watched.
    pub(super) fn is_watched(&self, page: u32) -> bool {
        self.watched
            .get(page as usize)
            .is_some_and(|lines| lines.load(Ordering::Relaxed) != 0)
    }

    /// Whether there is anything to take with [`take_written`](Self::take_written).
    #[inline(always)]
    pub(super) fn has_written(&self) -> bool {
        self.has_written.load(Ordering::Acquire)
    }

    /// The pages whose watched lines were written since this was last called. They are watched no longer.
    pub(super) fn take_written(&self) -> Vec<u32> {
        self.has_written.store(false, Ordering::Relaxed);
        let mut written = self
            .written
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut pages = std::mem::take(&mut *written);
        pages.sort_unstable();
        pages.dedup();
        for page in &pages {
            if let Some(lines) = self.watched.get(*page as usize) {
                lines.store(0, Ordering::Relaxed);
            }
        }
        pages
    }

    /// Notes the pages of which watched lines were just written.
    #[inline]
    fn note(&self, at: u32, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut at = at;
        let mut left = bytes as u64;
        while left > 0 {
            let here = left.min(u64::from(PAGE - at % PAGE)) as u32;
            let watched = self.watched.get((at / PAGE) as usize);
            if watched
                .is_some_and(|page| page.load(Ordering::Relaxed) & lines(at % PAGE, here) != 0)
            {
                self.note_page(at / PAGE);
            }
            at = at.wrapping_add(here);
            left -= u64::from(here);
        }
    }

    #[cold]
    fn note_page(&self, page: u32) {
        let mut written = self
            .written
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        // A device that fills a page of old code a word at a time notes it once.
        if written.last() != Some(&page) {
            written.push(page);
        }
        self.has_written.store(true, Ordering::Release);
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        self.files = None;
        // SAFETY: our own mapping, whole, and nobody has a pointer into it any more. A failure
        // would leave it mapped, which harms nobody.
        let _ = unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// One bit for each 64-byte line that `bytes` bytes from `offset` in a page touch; they end in the page.
fn lines(offset: u32, bytes: u32) -> u64 {
    let first = offset / 64;
    let last = (offset + bytes.max(1) - 1) / 64;
    let count = (last - first + 1).min(64);
    (u64::MAX >> (64 - count)) << (first & 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_or_written_beyond_the_end() {
        let memory = GuestMemory::new(2 * PAGE).unwrap();
        assert_eq!(memory.load::<u8>(2 * PAGE - 1), Ok(0));
        for at in [2 * PAGE - 3, 2 * PAGE, u32::MAX] {
            assert!(memory.load::<u32>(at).is_err());
            assert!(memory.store(at, 1_u32).is_err());
            assert!(memory.write_bytes(at, &[1, 2, 3, 4]).is_err());
            assert!(memory.zero(at, 4).is_err());
        }
        assert_eq!(memory.load::<u16>(2 * PAGE - 2), Ok(0));
    }

    #[cfg(target_arch = "x86")]
    #[test]
    #[ignore = "needs memory at address 0: root's, or vm.mmap_min_addr=0"]
    fn memory_at_zero_is_at_the_addresses_it_says_and_its_first_byte_is_the_guests() {
        let memory = GuestMemory::at_zero(0x3000).unwrap();
        memory.store(0x2004, 0x1234_5678_u32).unwrap();
        // SAFETY: mapped, as just seen.
        let there = unsafe { std::ptr::with_exposed_provenance::<u32>(0x2004).read_volatile() };
        assert_eq!(there, 0x1234_5678);
        assert_eq!(memory.load::<u8>(1), Ok(0));
        assert!(memory.load::<u32>(0).is_err());
        assert!(memory.write_bytes(0, &[1]).is_err());
        assert!(memory.load::<u8>(0x3000).is_err());
        let second = GuestMemory::at_zero(0x3000);
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(memory);
        assert!(GuestMemory::at_zero(0x3000).is_ok());
    }

    #[test]
    fn numbers_are_little_endian_at_any_address() {
        let memory = GuestMemory::new(PAGE).unwrap();
        memory.store(3, 0x1234_5678_u32).unwrap();
        let mut bytes = [0; 4];
        memory.read_bytes(3, &mut bytes).unwrap();
        assert_eq!(bytes, [0x78, 0x56, 0x34, 0x12]);
        assert_eq!(memory.load::<u16>(5), Ok(0x1234));
    }

    #[test]
    fn a_write_to_a_watched_line_is_told_once_and_to_others_never() {
        let memory = GuestMemory::new(3 * PAGE).unwrap();
        assert!(memory.watch(PAGE + 100, 60));
        assert!(!memory.watch(PAGE + 300, 1));
        memory.store(PAGE + 60, 1_u32).unwrap();
        memory.store(PAGE + 192, 1_u32).unwrap();
        assert!(!memory.has_written());
        memory.store(PAGE + 62, 1_u32).unwrap();
        memory.write_bytes(PAGE - 8, &[0; 200]).unwrap();
        assert!(memory.has_written());
        assert_eq!(memory.take_written(), [1]);
        assert!(!memory.has_written());
        memory.store(PAGE + 100, 1_u32).unwrap();
        assert!(!memory.has_written());
    }

    #[test]
    fn a_shared_file_shows_both_ways_and_a_private_one_keeps_the_file() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let mut shared = GuestMemory::new(0x20000).unwrap();
        let mut private = GuestMemory::new(0x20000).unwrap();
        let map =
            |memory: &mut GuestMemory, sharing| memory.map_file(0x10000, &file, 0, 4096, sharing);
        map(&mut shared, Sharing::Shared).unwrap();
        map(&mut private, Sharing::Private).unwrap();
        shared.store(0x10004, 7_u32).unwrap();
        assert_eq!(private.load::<u32>(0x10004), Ok(7));
        private.store(0x10004, 8_u32).unwrap();
        assert_eq!(shared.load::<u32>(0x10004), Ok(7));
        assert!(
            shared
                .map_file(0x1F000, &file, 0, 8192, Sharing::Shared)
                .is_err()
        );
        assert!(
            shared
                .map_file(0x1001, &file, 0, 4096, Sharing::Shared)
                .is_err()
        );
    }
}
