//! What this machine can do at best: the least that carries frames between two processes.
//!
//! The bare ring copies each frame in and out, as a segment does; it knows no peers, learns nothing,
//! counts nothing, trusts its other side, and never sleeps. It is made to be hard to beat:
//!
//! * Lengths stand apart from the bytes, sixteen to a cache line, so that a frame of 64 bytes is one
//!   line and a reader's loads do not wait for each other.
//! * Each side keeps the other's position in private memory until it runs out, asks for room once a
//!   burst, and publishes once a burst; of large frames a burst is what makes 64 KiB, so that both
//!   sides copy at the same time.
//! * Nothing else is stored between the lines of a burst. A processor retires stores in order, so one
//!   that hits its cache (a spilled register, a return address) holds up the fetching of lines behind
//!   it: small frames are copied a line at a time in registers, and no function is called. That alone
//!   is worth a factor of 1.7.

use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Result;

use super::arena::{Arena, RING};
use super::{BURST, Buffers, Measured, Patience, Timer};

/// Bytes of a length.
const LENGTH: u64 = 4;
/// A frame of this length ends the measurement.
const LAST: u32 = 0;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Frames up to this are copied line by line, longer ones by `memcpy`, which then is faster.
const SHORT: usize = 2 * LINE;

/// Frames of that size in a burst.
fn burst(size: usize) -> usize {
    ((64 << 10) / size.max(1)).clamp(1, BURST)
}

/// How the ring's bytes are used: lengths for as many frames as there are cache lines, and the frames.
#[derive(Debug, Clone, Copy)]
struct Shape {
    lengths: u64,
    data: u64,
    data_bytes: u64,
}

impl Shape {
    fn of(ring_bytes: u64) -> Self {
        let lengths = (ring_bytes / LINE as u64).next_power_of_two();
        Self {
            lengths,
            data: RING + lengths * LENGTH,
            data_bytes: ring_bytes - lengths * LENGTH,
        }
    }
}

/// Where one side is. Both count alike.
#[derive(Debug, Clone, Copy, Default)]
struct Position {
    /// Frames since the beginning.
    frames: u64,
    /// Bytes since the beginning.
    bytes: u64,
    /// Where that is in the ring.
    at: u64,
}

impl Position {
    /// Where the length of the next frame is.
    #[inline]
    fn length(&self, shape: &Shape) -> u64 {
        RING + (self.frames & (shape.lengths - 1)) * LENGTH
    }

    /// Goes past a frame of `len` bytes; gives where it is. A frame is in one piece, so one that does
    /// not fit at the end is at the start.
    #[inline]
    fn advance(&mut self, shape: &Shape, len: usize) -> u64 {
        let size = len.next_multiple_of(LINE) as u64;
        let to_end = shape.data_bytes - self.at;
        if size > to_end {
            self.bytes += to_end;
            self.at = 0;
        }
        let at = self.at;
        self.at += size;
        self.bytes += size;
        self.frames += 1;
        shape.data + at
    }
}

/// The writing end.
#[derive(Debug, Default)]
pub struct Writer {
    position: Position,
    tail: u64,
}

impl Writer {
    /// Writes `count` frames of `len` bytes, and lets the reader see them.
    #[inline(never)]
    fn write(
        &mut self,
        arena: &Arena,
        buffers: &mut Buffers,
        len: usize,
        count: usize,
    ) -> Result<()> {
        let shape = Shape::of(arena.ring_bytes());
        let mut end = self.position;
        for _ in 0..count {
            end.advance(&shape, len);
        }
        if end.bytes - self.tail > shape.data_bytes {
            self.await_room(arena, end.bytes - shape.data_bytes)?;
        }
        let map = arena.map();
        let mut position = self.position;
        for _ in 0..count {
            let length = map.word32(position.length(&shape));
            length.store(len as u32, Ordering::Relaxed);
            let at = position.advance(&shape, len);
            if len <= SHORT {
                let lines = buffers.next(len.next_multiple_of(LINE)).as_chunks::<LINE>();
                for (at, line) in (at..).step_by(LINE).zip(lines.0) {
                    map.write(at, line);
                }
            } else {
                map.write(at, buffers.next(len));
            }
        }
        self.position = position;
        arena.head().store(position.frames, Ordering::Release);
        Ok(())
    }

    #[cold]
    fn await_room(&mut self, arena: &Arena, tail: u64) -> Result<()> {
        let mut patience = Patience::new();
        loop {
            self.tail = arena.tail().load(Ordering::Acquire);
            if self.tail >= tail {
                return Ok(());
            }
            patience.poll()?;
        }
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
        let burst = burst(size);
        ready()?;
        let mut timer = Timer::new(seconds, size);
        loop {
            self.write(arena, &mut buffers, size, burst)?;
            if timer.is_over() {
                break;
            }
        }
        self.write(arena, &mut buffers, LAST as usize, 1)?;
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
    /// Reads `count` frames that are there; gives their bytes, and whether one was the last.
    #[inline(never)]
    fn read(&mut self, arena: &Arena, buffers: &mut Buffers, count: u64) -> (u64, bool) {
        let shape = Shape::of(arena.ring_bytes());
        let map = arena.map();
        let mut position = self.position;
        let (mut bytes, mut last) = (0, false);
        for _ in 0..count {
            let length = map.word32(position.length(&shape)).load(Ordering::Relaxed);
            let len = length as usize;
            let at = position.advance(&shape, len);
            if len <= SHORT {
                let buffer = buffers.next(len.next_multiple_of(LINE));
                let lines = buffer.as_chunks_mut::<LINE>();
                for (at, line) in (at..).step_by(LINE).zip(lines.0) {
                    map.read(at, line);
                }
            } else {
                map.read(at, buffers.next(len));
            }
            last |= length == LAST;
            bytes += u64::from(length);
        }
        self.position = position;
        arena.tail().store(position.bytes, Ordering::Release);
        (bytes, last)
    }

    /// Reads until the last.
    pub fn receive(
        &mut self,
        arena: &Arena,
        size: usize,
        ready: impl FnOnce() -> Result<()>,
    ) -> Result<Measured> {
        let mut buffers = Buffers::new(size);
        let burst = burst(size) as u64;
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
            let count = burst.min(self.head - self.position.frames);
            let (bytes, last) = self.read(arena, &mut buffers, count);
            result.count += count;
            result.bytes += bytes;
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
        let ring_bytes = 1 << 20;
        let shape = Shape::of(ring_bytes);
        let (mut writer, mut reader) = (Position::default(), Position::default());
        for len in [64, 65_000, 1500, 60, 0].into_iter().cycle().take(1000) {
            let at = writer.advance(&shape, len);
            assert_eq!(at, reader.advance(&shape, len));
            assert!(at >= shape.data && at + len as u64 <= RING + ring_bytes);
        }
        assert_eq!(writer.frames, 1000);
    }
}
