//! The mapped bytes: the one place that touches memory which others write.
//!
//! Other processes store into a mapping at any moment, so no Rust reference to its plain bytes
//! may exist: there are atomics for the words of the protocol, and copies in and out for the
//! bytes of frames. A copy may come out torn; whoever needs it whole checks afterwards, by the
//! protocol of its module. Rust's rules for data races speak of one program's threads; against
//! another process a raw copy is what `read(2)` from the page would be.
//!
//! # Why this is `unsafe`, and why it is sound
//!
//! A [`Mapping`] stays mapped as long as it lives, and every access is checked against its length,
//! in release builds too. A file cut short under us raises SIGBUS, which [`crate::sigbus`] turns
//! into a sentence.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use nix::sys::mman::munmap;

use crate::frame::Gather;
use crate::stream::{self, LINE, Stream};
use crate::sync::{self, AtomicU8, AtomicU32, AtomicU64};

/// A range of a sharenet file, mapped shared.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is an address range of the process, not of a thread; all access to its bytes
// is by atomics or by raw copies.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes at `offset`, both multiples of the host's page size (the last page of a
    /// file apart), for reading and, if `writable`, writing.
    pub fn new(file: &File, offset: u64, len: u64, writable: bool) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let len = usize::try_from(len)
            .ok()
            .and_then(NonZeroUsize::new)
            .ok_or_else(invalid)?;
        let offset = libc::off64_t::try_from(offset).map_err(|_| invalid())?;
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: a fresh shared mapping at an address of the kernel's choice touches nothing. (`mmap64`, since
        // a sharenet is larger than an offset of 32 bits says.)
        let start = unsafe {
            libc::mmap64(
                std::ptr::null_mut(),
                len.get(),
                protection,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::Other)?;
        crate::sigbus::watch(start.as_ptr() as usize, len.get());
        Ok(Self {
            start,
            len: len.get(),
        })
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// A mapping is never empty; said for those who ask.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `len` bytes at `offset` are inside.
    #[inline(always)]
    pub fn has(&self, offset: u64, len: usize) -> bool {
        // What an address can't say is outside.
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        at <= self.len && len <= self.len - at
    }

    /// The address of `len` bytes at `offset`, if they are inside and `align` divides the place.
    #[inline(always)]
    fn at(&self, offset: u64, len: usize, align: usize) -> *mut u8 {
        if !self.has(offset, len) || !offset.is_multiple_of(align as u64) {
            self.outside(offset, len);
        }
        // SAFETY: just checked to be inside.
        unsafe { self.start.as_ptr().add(offset as usize) }
    }

    #[cold]
    fn outside(&self, offset: u64, len: usize) -> ! {
        panic!(
            "offset {offset} + {len} outside a mapping of {} bytes: a bug in this program",
            self.len
        );
    }

    /// The byte at `offset`.
    #[inline]
    pub fn byte(&self, offset: u64) -> &AtomicU8 {
        // SAFETY: in bounds, and mapped as long as `self` is.
        unsafe { AtomicU8::from_ptr(self.at(offset, 1, 1)) }
    }

    /// The aligned word of 32 bits at `offset`.
    #[inline]
    pub fn word32(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: in bounds, aligned (mappings start on a page), and mapped as long as `self` is.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4, 4).cast()) }
    }

    /// The aligned word of 64 bits at `offset`.
    #[inline]
    pub fn word64(&self, offset: u64) -> &AtomicU64 {
        // SAFETY: as for `word32`.
        unsafe { AtomicU64::from_ptr(self.at(offset, 8, 8).cast()) }
    }

    /// `N` aligned words of 64 bits from `offset` on.
    #[inline]
    pub fn words<const N: usize>(&self, offset: u64) -> [&AtomicU64; N] {
        let first: *mut u64 = self.at(offset, N * 8, 8).cast();
        // SAFETY: as for `word32`, all of them.
        std::array::from_fn(|i| unsafe { AtomicU64::from_ptr(first.add(i)) })
    }

    /// Asks the processor to fetch the two cache lines at `offset`, which is only a wish: a place outside
    /// the mapping is none.
    #[inline]
    pub fn prefetch(&self, offset: u64) {
        let line = self.start.as_ptr().wrapping_add(offset as usize);
        for line in [line, line.wrapping_add(LINE)] {
            prefetch(line);
        }
    }

    /// Copies bytes out. They may be torn if somebody writes them now.
    #[inline]
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        self.bytes(offset, out.len()).copy_to(out);
    }

    /// Copies bytes in. For what is ours to write, and on a writable mapping only.
    #[inline]
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let to = self.at(offset, bytes.len(), 1);
        sync::before_copy();
        // SAFETY: in bounds; private memory and a mapping do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    /// A view of bytes, to be copied from.
    #[inline]
    pub fn bytes(&self, offset: u64, len: usize) -> SharedBytes<'_> {
        SharedBytes {
            start: self.at(offset, len, 1),
            len,
            _life: std::marker::PhantomData,
        }
    }

    /// Copies a record in: four words, little endian, and the frame after them. As
    /// [`write`](Self::write); `offset` is at the start of a cache line, and the frame's parts are private
    /// memory, a guest's, or another mapping's, never where it is put.
    #[inline(always)]
    pub fn put(&self, offset: u64, head: [u64; 4], frame: &Gather<'_>) {
        let to = self.at(offset, size_of_val(&head) + frame.len(), LINE);
        sync::before_copy();
        // SAFETY: in bounds; private memory and a mapping do not overlap.
        unsafe { put_words(to, head) };
        // SAFETY: in bounds.
        let to = unsafe { to.add(size_of_val(&head)) };
        match frame.parts() {
            [whole] => {
                sync::before_copy();
                // SAFETY: it is as long as the frame, which is in bounds, and apart from it.
                unsafe { whole.copy_to_raw(to) }
            }
            parts => put_parts(to, parts),
        }
    }

    /// As [`put`](Self::put), past the caches; the rest of the last line is filled with zeroes. Who says that
    /// the record is there must see to [`drain`](Self::drain) first.
    #[inline(always)]
    pub fn stream(&self, offset: u64, head: [u64; 4], frame: &Gather<'_>) {
        let len = size_of_val(&head) + frame.len();
        let to = self.at(offset, len.next_multiple_of(LINE), LINE);
        sync::before_copy();
        // SAFETY: all its lines are in bounds and apart from the frame.
        let mut stream = unsafe { Stream::to(to, head) };
        for part in frame.parts() {
            sync::before_copy();
            stream.put(*part);
        }
        stream.finish();
    }

    /// What was streamed comes before every later store.
    #[inline]
    pub fn drain(&self) {
        stream::drain();
    }

    /// Makes sure that the pages of `len` bytes at `offset` exist, so that storing to them can
    /// not meet a full filesystem. The error says so if it is full.
    pub fn populate(&self, file: &File, file_offset: u64, offset: u64, len: u64) -> io::Result<()> {
        let start = self.at(offset, len as usize, 1);
        // SAFETY: the range is inside the mapping; populating changes no byte.
        let result = unsafe { libc::madvise(start.cast(), len as usize, MADV_POPULATE_WRITE) };
        if result == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            // Linux before 5.14: let the filesystem do it.
            e if e.raw_os_error() == Some(libc::EINVAL) => {
                let at = (file_offset + offset) as libc::off64_t;
                // SAFETY: a system call on a descriptor that is open; it makes room and changes no byte.
                match unsafe { libc::fallocate64(file.as_raw_fd(), 0, at, len as libc::off64_t) } {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            }
            // Cut short under us: a store will meet SIGBUS, which has the sentence for it.
            e if e.raw_os_error() == Some(libc::EFAULT)
                && file.metadata()?.len() < file_offset + offset + len =>
            {
                Ok(())
            }
            // EFAULT is what a store would have met as SIGBUS.
            e if e.raw_os_error() == Some(libc::EFAULT) => {
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            }
            e => Err(e),
        }
    }
}

/// Copies `len` bytes. Small frames without a call, which would store to the stack: a processor
/// that is storing to lines another one has is at its best while it stores to nothing else. And
/// without a loop, whose end it would have to guess: from both ends to the middle, where some are copied
/// twice.
///
/// # Safety
/// As [`std::ptr::copy_nonoverlapping`].
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    const STEP: usize = 16;
    // SAFETY: no step is beyond `len`; the caller's promise.
    unsafe {
        if !(STEP..=8 * STEP).contains(&len) {
            return std::ptr::copy_nonoverlapping(from, to, len);
        }
        let step = |at: usize| std::ptr::copy_nonoverlapping(from.add(at), to.add(at), STEP);
        step(0);
        if len > 2 * STEP {
            step(STEP);
            if len > 4 * STEP {
                step(2 * STEP);
                step(3 * STEP);
                step(len - 4 * STEP);
                step(len - 3 * STEP);
            }
            step(len - 2 * STEP);
        }
        step(len - STEP);
    }
}

/// Copies four words in, little endian, as few stores as the processor can make of it: a
/// writer whose reader is on another core is held up by the number of its stores.
///
/// # Safety
/// 32 bytes at `to` must be writable.
#[inline(always)]
pub(crate) unsafe fn put_words(to: *mut u8, words: [u64; 4]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm_set_epi64x, _mm_storeu_si128};
        let [a, b, c, d] = words.map(|word| word as i64);
        // SAFETY: the caller's promise; unaligned stores; SSE2 is part of x86-64.
        unsafe {
            _mm_storeu_si128(to.cast(), _mm_set_epi64x(b, a));
            _mm_storeu_si128(to.add(16).cast(), _mm_set_epi64x(d, c));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    for (i, word) in words.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { to.add(i * 8).cast::<[u8; 8]>().write(word.to_le_bytes()) }
    }
}

/// Copies parts to `to`, one after another.
fn put_parts(mut to: *mut u8, parts: &[SharedBytes<'_>]) {
    for part in parts {
        sync::before_copy();
        // SAFETY: the parts of a frame that is in bounds there, and apart from it.
        unsafe {
            part.copy_to_raw(to);
            to = to.add(part.len());
        }
    }
}

/// Asks the processor to fetch a cache line, to be read. A hint: it can't fault, whatever the address.
#[inline]
pub(crate) fn prefetch(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: see above; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// As [`prefetch`], to be written: other processors' copies are called back meanwhile.
#[cfg(target_pointer_width = "64")]
#[inline]
pub(crate) fn prefetch_to_write(line: *const u8) {
    // Said by hand: the compiler's own `_MM_HINT_ET0` is a plain `prefetcht0` unless all processors it
    // builds for are known to have `prefetchw`. Those of x86-64 that have not take it for a `nop`.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as there.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Not yet named by the `libc` crate on every target (`include/uapi/asm-generic/mman-common.h`).
const MADV_POPULATE_WRITE: libc::c_int = 23;

impl Drop for Mapping {
    fn drop(&mut self) {
        crate::sigbus::forget(self.start.as_ptr() as usize);
        // SAFETY: mapped by `new`, and nothing borrows it any more.
        let _ = unsafe { munmap(self.start.cast(), self.len) };
    }
}

/// A run of bytes that others may write while we look. Only to be copied from.
#[derive(Debug, Clone, Copy)]
pub struct SharedBytes<'a> {
    start: *const u8,
    len: usize,
    _life: std::marker::PhantomData<&'a u8>,
}

// SAFETY: reading them is as sound from one thread as from another; see the module.
unsafe impl Send for SharedBytes<'_> {}

impl<'a> SharedBytes<'a> {
    /// A view of memory that lives elsewhere, a guest's for one.
    ///
    /// # Safety
    /// `len` bytes at `start` must be readable for all of `'a`. Others may write them.
    #[inline]
    pub unsafe fn from_raw(start: *const u8, len: usize) -> Self {
        Self {
            start,
            len,
            _life: std::marker::PhantomData,
        }
    }

    /// Where they are, for a system call that reads them.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.start
    }

    /// How many.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part from `start`, at most `len` bytes of it.
    #[inline]
    pub fn part(&self, start: usize, len: usize) -> SharedBytes<'a> {
        let start = start.min(self.len);
        SharedBytes {
            // SAFETY: `start` is at most `len`.
            start: unsafe { self.start.add(start) },
            len: len.min(self.len - start),
            _life: std::marker::PhantomData,
        }
    }

    /// Whether they are the same as `bytes`, as far as one can say of bytes that may change.
    #[inline]
    pub fn equal(&self, bytes: &[u8]) -> bool {
        // SAFETY: both are `len` long; see the module for bytes that change as they are read.
        self.len == bytes.len()
            && unsafe { libc::memcmp(self.start.cast(), bytes.as_ptr().cast(), self.len) } == 0
    }

    /// Copies as many as fit to `out`; tells how many.
    #[inline]
    pub fn copy_to(&self, out: &mut [u8]) -> usize {
        let n = self.len.min(out.len());
        // SAFETY: both are at least `n` long; `out` is private memory.
        unsafe { copy(self.start, out.as_mut_ptr(), n) };
        n
    }

    /// The `N` bytes from `start` on, if it has them: for headers, whose size is known when this is compiled.
    #[inline]
    pub fn array<const N: usize>(&self, start: usize) -> Option<[u8; N]> {
        if start > self.len || N > self.len - start {
            return None;
        }
        // SAFETY: just checked to be inside; bytes have no alignment.
        Some(unsafe { self.start.add(start).cast::<[u8; N]>().read_unaligned() })
    }

    /// Copies all to memory that is not Rust's: a ring, a guest.
    ///
    /// # Safety
    /// [`len`](Self::len) bytes at `to` must be writable, and apart from these.
    #[inline]
    pub unsafe fn copy_to_raw(&self, to: *mut u8) {
        // SAFETY: the caller's promise, and ours.
        unsafe { copy(self.start, to, self.len) }
    }

    /// All of them, copied out.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = vec![0; self.len];
        self.copy_to(&mut out);
        out
    }
}

impl<'a> From<&'a [u8]> for SharedBytes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        // SAFETY: a borrowed slice is readable for its life.
        unsafe { Self::from_raw(bytes.as_ptr(), bytes.len()) }
    }
}
