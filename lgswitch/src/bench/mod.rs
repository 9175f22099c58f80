//! How fast is a segment here? Measured between processes, beside what this machine can do at best.
//!
//! # The tour
//!
//! 1. [`crew`]: processes of this program, a processor each, that play tasks in step, and never
//!    sleep between two of them: a virtual machine's host moves a processor that rests.
//! 2. [`player`]: what such a process does; [`station`] is its part on a segment, [`bare`] on the
//!    least that carries frames from one process to another, [`words`] on a bare cache line or futex.
//!    What they share apart from the segment is the [`arena`].
//! 3. [`distance`]: how far apart the two processors are at the moment. In a virtual machine it
//!    changes within seconds, and with it every figure, up to sevenfold.
//! 4. [`neighbours`]: so a figure and its bound are measured in turns of a few milliseconds, with the
//!    distance taken between, and only neighbours at one distance are held against each other.
//! 5. [`alone`]: what one process finds out by itself: cost of a frame, of waiting, of memory.
//! 6. [`report`]: all of it, in order.
//!
//! Receivers poll unless it is said that they sleep. Frames are copied out of private buffers by the
//! sender and into private buffers by the receiver, as packets of any real program would be.

pub mod alone;
pub mod arena;
pub mod bare;
pub mod crew;
pub mod distance;
pub mod neighbours;
pub mod player;
pub mod report;
pub mod station;
pub mod words;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Frames in a burst.
pub const BURST: usize = 32;
/// Bytes in a burst: of large frames there are less, or a ring would be full and empty by turns.
const BURST_BYTES: usize = 256 << 10;

/// Frames of that size in a burst.
fn burst(size: usize) -> usize {
    (BURST_BYTES / size.max(1)).clamp(1, BURST)
}

/// Nothing heard for so long means that the other side is gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a player found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Frames, or round trips.
    pub count: u64,
    /// Bytes of frames.
    pub bytes: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Of a receiver: frames of each other player.
    pub from: Vec<u64>,
    /// Of a receiver: frames that were sent and that it did not get.
    pub lost: u64,
    /// Of round trips: [`PERCENTILES`], in microseconds.
    pub trips: [f64; PERCENTILES.len()],
    /// Of the distance: nanoseconds.
    pub near: f64,
}

/// Shares of round trips that took at most the time given.
pub const PERCENTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

impl Measured {
    /// Millions a second.
    pub fn mega_per_second(&self) -> f64 {
        self.count as f64 / self.seconds / 1e6
    }

    /// Gigabits of frames a second.
    pub fn gigabits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.seconds / 1e9
    }

    /// Of round trips, each so many nanoseconds long.
    fn of_round_trips(mut nanoseconds: Vec<u32>) -> Self {
        nanoseconds.sort_unstable();
        let at = |share: f64| {
            let index = (nanoseconds.len().saturating_sub(1)) as f64 * share;
            f64::from(nanoseconds.get(index as usize).copied().unwrap_or(0)) / 1e3
        };
        Self {
            count: nanoseconds.len() as u64,
            seconds: nanoseconds.iter().map(|&n| f64::from(n)).sum::<f64>() / 1e9,
            trips: PERCENTILES.map(at),
            ..Self::default()
        }
    }
}

/// The middle one; not a number if there is none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Runs this thread on one processor.
pub fn pin(processor: usize) -> Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(processor)
        .and_then(|()| nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set))
        .with_context(|| format!("Can't run on processor {processor}"))
}

/// Polls until it has waited too long for the other side.
struct Patience {
    polls: u32,
    since: Option<Instant>,
}

impl Patience {
    fn new() -> Self {
        Self {
            polls: 0,
            since: None,
        }
    }

    /// Once a poll that found nothing; the clock is looked at seldom.
    #[inline]
    fn poll(&mut self) -> Result<()> {
        std::hint::spin_loop();
        self.polls = self.polls.wrapping_add(1);
        match self.polls.is_multiple_of(1 << 14) {
            true => self.check(),
            false => Ok(()),
        }
    }

    /// As [`poll`](Self::poll), for waits that take their time.
    #[cold]
    fn check(&mut self) -> Result<()> {
        let since = self.since.get_or_insert_with(Instant::now);
        if since.elapsed() > PATIENCE {
            bail!("The other process that measures is gone, or does nothing any more");
        }
        Ok(())
    }
}

/// Says when it is time to end, looking at the clock once in so many bytes.
struct Timer {
    end: Instant,
    bursts: u32,
    every: u32,
}

impl Timer {
    fn new(seconds: f64, size: usize) -> Self {
        Self {
            end: Instant::now() + Duration::from_secs_f64(seconds),
            bursts: 0,
            // Some microseconds apart: a look costs some ten nanoseconds.
            every: (1024 / size.max(1)).clamp(1, 16) as u32,
        }
    }

    /// After each burst.
    #[inline]
    fn is_over(&mut self) -> bool {
        self.bursts = self.bursts.wrapping_add(1);
        self.bursts.is_multiple_of(self.every) && Instant::now() >= self.end
    }
}

/// Private memory for frames of one size, gone round: the pool a real program takes its packets from.
///
/// Such pools hand out what was freed last, so what is warm is a few bursts: two are kept here, and
/// not more than a quarter of a usual second-level cache (1 MiB). Both sides of a segment, of the
/// bare ring and of the plain copies have the same.
struct Buffers {
    bytes: Vec<u8>,
    /// The first byte that is at the start of a cache line.
    first: usize,
    stride: usize,
    next: usize,
    end: usize,
}

impl Buffers {
    /// Frames in two bursts, less one: two addresses that are the same in their last twelve bits get
    /// into each other's way in a processor, and 64 frames of 64 bytes would keep in step with a ring
    /// for ever, in whatever way they happened to lie.
    const MOST: usize = 2 * BURST - 1;
    /// Bytes of all buffers.
    const BYTES: usize = 256 << 10;
    /// Where buffers start, as in any pool.
    const LINE: usize = 64;

    fn new(size: usize) -> Self {
        let stride = size.next_multiple_of(Self::LINE);
        let count = (Self::BYTES / stride).clamp(2, Self::MOST);
        let bytes = vec![0x5a; stride * count + Self::LINE];
        let first = bytes.as_ptr().align_offset(Self::LINE).min(Self::LINE);
        Self {
            bytes,
            first,
            stride,
            next: first,
            end: first + stride * count,
        }
    }

    fn count(&self) -> usize {
        (self.end - self.first) / self.stride
    }

    /// The next buffer, for a frame of `size` bytes; at most what it was made for, up to a whole line.
    #[inline]
    fn next(&mut self, size: usize) -> &mut [u8] {
        let start = self.next;
        self.next += self.stride;
        if self.next == self.end {
            self.next = self.first;
        }
        &mut self.bytes[start..start + size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_sorted_round_trips() {
        let trips = Measured::of_round_trips((1..=1000).rev().map(|us| us * 1000).collect());
        assert_eq!(trips.trips, [500.0, 900.0, 990.0, 999.0]);
        assert_eq!(Measured::of_round_trips(Vec::new()).trips[0], 0.0);
    }

    #[test]
    fn buffers_of_any_size_are_bounded_and_gone_round() {
        for size in [60, 64, 1500, 9000, 65_000, 1 << 20] {
            let mut buffers = Buffers::new(size);
            assert!((2..=Buffers::MOST).contains(&buffers.count()));
            let first = buffers.next(size).as_ptr();
            for _ in 1..buffers.count() {
                assert_ne!(buffers.next(size).as_ptr(), first);
            }
            assert_eq!(buffers.next(size).as_ptr(), first);
        }
    }
}
