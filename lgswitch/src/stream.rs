//! Copying past the caches: how frames are put into a ring whose reader shares none with the writer.
//!
//! An ordinary store first fetches its cache line, and of a ring the line is in the cache of whoever read
//! it a lap ago: on another core, so that each store waits for a message there and back, line after
//! line. A streaming store (`MOVNTDQ`) writes whole lines to memory, wherever copies of them are, and
//! waits for nobody; the reader's processor sees that it reads on and on, and fetches ahead. Between
//! cores that share no cache that is four to six times as fast, for frames of any size; where
//! they share one it may be half as fast. [`crate::pace`] finds out.
//!
//! Streaming stores are not ordered with other stores: [`drain`] stands between them and whatever
//! says that they are there.
//!
//! `unsafe`, because it writes where [`crate::map`] says, which has checked that the place is the writer's;
//! and because these stores are the processor's own.

use crate::map::{self, SharedBytes};

/// Bytes of a cache line, all of which a streaming store should write.
pub const LINE: usize = 64;

/// Writes bytes one after another, in whole lines. The last one is filled up with zeroes.
pub struct Stream {
    to: *mut u8,
    line: Line,
    filled: usize,
}

#[repr(align(64))]
struct Line([u8; LINE]);

impl Stream {
    /// To write at `to`, words first, little endian.
    ///
    /// # Safety
    /// `to` is at the start of a line; all lines of what will be put must be writable, and apart
    /// from what it is copied from.
    #[inline(always)]
    pub unsafe fn to(to: *mut u8, words: [u64; 4]) -> Self {
        let mut line = Line([0; LINE]);
        // SAFETY: a line has room for them.
        unsafe { map::put_words(line.0.as_mut_ptr(), words) };
        let filled = size_of_val(&words);
        Self { to, line, filled }
    }

    /// Writes these.
    #[inline]
    pub fn put(&mut self, mut bytes: SharedBytes<'_>) {
        if self.filled > 0 {
            let (_, free) = self.line.0.split_at_mut(self.filled);
            let taken = bytes.copy_to(free);
            self.filled += taken;
            if self.filled < LINE {
                return;
            }
            self.whole(self.line.0.as_ptr());
            bytes = bytes.part(taken, bytes.len());
        }
        let whole = bytes.len() / LINE;
        for line in 0..whole {
            self.whole(bytes.as_ptr().wrapping_add(line * LINE));
        }
        let rest = bytes.part(whole * LINE, LINE);
        self.line = Line([0; LINE]);
        self.filled = rest.copy_to(&mut self.line.0);
    }

    /// Writes what is left.
    #[inline]
    pub fn finish(mut self) {
        if self.filled > 0 {
            self.whole(self.line.0.as_ptr());
        }
    }

    /// Writes the line at `from`.
    #[inline(always)]
    fn whole(&mut self, from: *const u8) {
        // SAFETY: `from` is a whole line of ours or of what is put; `to` is, by the promise made to
        // `Stream::to`.
        unsafe {
            store(from, self.to);
            self.to = self.to.add(LINE);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn store(from: *const u8, to: *mut u8) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
    let (from, to) = (from.cast::<__m128i>(), to.cast::<__m128i>());
    // SAFETY: the caller's promise; `to` is aligned to a line. SSE2 is part of x86-64.
    unsafe {
        let line: [__m128i; 4] = std::array::from_fn(|i| _mm_loadu_si128(from.add(i)));
        for (i, part) in line.into_iter().enumerate() {
            _mm_stream_si128(to.add(i), part);
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn store(from: *const u8, to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, to, LINE) }
}

/// What was streamed comes before every later store.
#[inline]
pub fn drain() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a fence; SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_streamed_in_parts_stands_there_whole_with_zeroes_up_to_the_line(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
        ) {
            let words = [1, 2, 3, u64::MAX];
            let mut whole = words.map(u64::to_le_bytes).concat();
            whole.extend(parts.concat());
            let lines = whole.len().div_ceil(LINE);
            let mut memory: Vec<Line> = (0..=lines).map(|_| Line([0xaa; LINE])).collect();
            // SAFETY: aligned, and one line longer than what is put.
            let mut stream = unsafe { Stream::to(memory.as_mut_ptr().cast(), words) };
            for part in &parts {
                stream.put(SharedBytes::from(part.as_slice()));
            }
            stream.finish();
            drain();
            let mut expected = whole;
            expected.resize(lines * LINE, 0);
            expected.resize((lines + 1) * LINE, 0xaa);
            let written: Vec<u8> = memory.iter().flat_map(|line| line.0).collect();
            prop_assert_eq!(written, expected);
        }
    }
}
