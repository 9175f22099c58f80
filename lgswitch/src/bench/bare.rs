//! What this machine can do at best: the least that carries frames between two processes.
//!
//! The bare ring copies each frame in and out, as a segment does; it knows no peers, learns nothing,
//! counts nothing, trusts its other side, and never sleeps. It is made to be hard to beat: lengths
//! stand apart from the bytes, sixteen to a cache line, so that a frame of 64 bytes is one line and a
//! reader's loads do not wait for each other; each side keeps the other's position in private
//! memory until it runs out; and both publish once a burst.

use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Result;

use super::arena::{Arena, RING, RING_BYTES};
use super::{BURST, Buffers, Measured, Patience, Timer};

/// Bytes of a length.
const LENGTH: u64 = 4;
/// Room for the bytes of frames; the lengths have the rest of what a sharenet's ring takes, which
/// is enough for as many frames as there are cache lines.
const DATA_BYTES: u64 = RING_BYTES - LENGTHS * LENGTH;
/// Lengths there is room for.
const LENGTHS: u64 = RING_BYTES / 64;
const DATA: u64 = RING + LENGTHS * LENGTH;
/// A frame of this length ends the measurement.
const LAST: u32 = 0;

/// Where one side is: frames, and bytes of data since the beginning. Both count alike.
#[derive(Debug, Clone, Copy, Default)]
struct Position {
    frames: u64,
    bytes: u64,
}

impl Position {
    /// Where the length of the next frame is.
    #[inline]
    fn length(&self) -> u64 {
        RING + self.frames % LENGTHS * LENGTH
    }

    /// Goes past a frame of `len` bytes; gives where it is. A frame is in one piece, so one that does
    /// not fit at the end is at the start.
    #[inline]
    fn advance(&mut self, len: usize) -> u64 {
        let size = (len as u64).next_multiple_of(64);
        let to_end = DATA_BYTES - self.bytes % DATA_BYTES;
        if size > to_end {
            self.bytes += to_end;
        }
        let at = self.bytes % DATA_BYTES;
        self.bytes += size;
        self.frames += 1;
        DATA + at
    }
}

/// The writing end.
#[derive(Debug, Default)]
pub struct Writer {
    position: Position,
    tail: u64,
}

impl Writer {
    #[inline]
    fn write(&mut self, arena: &Arena, frame: &[u8]) -> Result<()> {
        let length = self.position.length();
        let mut after = self.position;
        let at = after.advance(frame.len());
        if after.bytes - self.tail > DATA_BYTES {
            self.await_room(arena, after.bytes)?;
        }
        let map = arena.map();
        map.word32(length)
            .store(frame.len() as u32, Ordering::Relaxed);
        map.write(at, frame);
        self.position = after;
        Ok(())
    }

    #[cold]
    fn await_room(&mut self, arena: &Arena, end: u64) -> Result<()> {
        let mut patience = Patience::new();
        self.tail = arena.tail().load(Ordering::Acquire);
        while end - self.tail > DATA_BYTES {
            self.publish(arena);
            patience.poll()?;
            self.tail = arena.tail().load(Ordering::Acquire);
        }
        Ok(())
    }

    #[inline]
    fn publish(&self, arena: &Arena) {
        arena.head().store(self.position.frames, Ordering::Release);
    }

    /// Writes bursts for the time given.
    pub fn send(
        &mut self,
        arena: &Arena,
        size: usize,
        seconds: f64,
        ready: impl FnOnce() -> Result<()>,
    ) -> Result<Measured> {
        let mut buffers = Buffers::new(size);
        ready()?;
        let mut timer = Timer::new(seconds, size);
        loop {
            for _ in 0..BURST {
                self.write(arena, buffers.next(size))?;
            }
            self.publish(arena);
            if timer.is_over() {
                break;
            }
        }
        self.write(arena, &[])?;
        self.publish(arena);
        Ok(Measured::default())
    }
}

/// The reading end.
#[derive(Debug, Default)]
pub struct Reader {
    position: Position,
    head: u64,
}

impl Reader {
    /// Reads until the last.
    pub fn receive(
        &mut self,
        arena: &Arena,
        size: usize,
        ready: impl FnOnce() -> Result<()>,
    ) -> Result<Measured> {
        let map = arena.map();
        let mut buffers = Buffers::new(size);
        ready()?;
        let mut start = None;
        let mut result = Measured::default();
        let mut patience = Patience::new();
        loop {
            if self.head == self.position.frames {
                self.head = arena.head().load(Ordering::Acquire);
                if self.head == self.position.frames {
                    patience.poll()?;
                    continue;
                }
            }
            let start = *start.get_or_insert_with(Instant::now);
            let burst = (self.head - self.position.frames).min(BURST as u64);
            let mut last = false;
            for _ in 0..burst {
                let length = map.word32(self.position.length()).load(Ordering::Relaxed);
                let at = self.position.advance(length as usize);
                last = length == LAST;
                map.read(at, buffers.next(length as usize));
                result.bytes += u64::from(length);
            }
            result.count += burst;
            arena.tail().store(self.position.bytes, Ordering::Release);
            if last {
                result.seconds = start.elapsed().as_secs_f64();
                return Ok(result);
            }
            patience = Patience::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_find_a_frame_at_the_same_place_and_in_one_piece() {
        let (mut writer, mut reader) = (Position::default(), Position::default());
        for len in [64, 65_000, 1500, 60, 0].into_iter().cycle().take(1000) {
            let at = writer.advance(len);
            assert_eq!(at, reader.advance(len));
            assert!(at >= DATA && at + len as u64 <= RING + RING_BYTES);
        }
        assert_eq!(writer.frames, 1000);
    }
}
