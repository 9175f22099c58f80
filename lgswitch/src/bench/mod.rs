//! How fast is a segment here? Measured between processes, beside what this machine can do at best.
//!
//! Every figure of ours stands beside a bound measured in the same round, by the same harness, so
//! that a busy or slow machine slows both: the [`bare`] two-copy ring for rates, a bare cache-line or
//! futex ping-pong for round trips. What a round measures is done by two child processes, each
//! pinned to a processor; [`stage`] starts them, [`wire`] and [`bare`] are what they do.
//!
//! Receivers poll unless it is said that they sleep; frames are copied out of private buffers by
//! the sender and into private buffers by the receiver, as packets of any real program would be.

pub mod alone;
pub mod bare;
pub mod stage;
pub mod wire;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Frames in a burst.
pub const BURST: usize = 32;
/// Nothing heard for so long means that the other side is gone.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bursts between two looks at the clock.
const CLOCK: u64 = 64;
/// Private buffers a side goes round: more than a burst, less than a cache.
const BUFFERS: usize = 256;

/// What one measurement found.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Frames, round trips, or operations.
    pub count: u64,
    /// Bytes of frames.
    pub bytes: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Round trips: half took at most this long, in microseconds.
    pub median_us: f64,
    /// Round trips: 99 of 100 took at most this long, in microseconds.
    pub p99_us: f64,
}

impl Measured {
    /// Millions a second.
    pub fn mega_per_second(&self) -> f64 {
        self.count as f64 / self.seconds / 1e6
    }

    /// Gigabits of frames a second.
    pub fn gigabits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.seconds / 1e9
    }

    /// Nanoseconds each.
    pub fn nanoseconds(&self) -> f64 {
        self.seconds * 1e9 / self.count as f64
    }

    /// Of round trips, each so many nanoseconds long.
    pub fn of_round_trips(mut nanoseconds: Vec<u32>) -> Self {
        nanoseconds.sort_unstable();
        let at = |share: f64| {
            let index = (nanoseconds.len().saturating_sub(1)) as f64 * share;
            f64::from(nanoseconds.get(index as usize).copied().unwrap_or(0)) / 1e3
        };
        Self {
            count: nanoseconds.len() as u64,
            bytes: 0,
            seconds: nanoseconds.iter().map(|&n| f64::from(n)).sum::<f64>() / 1e9,
            median_us: at(0.5),
            p99_us: at(0.99),
        }
    }
}

/// The middle one.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Private memory for frames of one size, gone round.
pub(crate) struct Buffers {
    bytes: Vec<u8>,
    stride: usize,
    next: usize,
}

impl Buffers {
    pub(crate) fn new(size: usize) -> Self {
        let stride = size.next_multiple_of(64);
        Self {
            bytes: vec![0x5a; stride * BUFFERS],
            stride,
            next: 0,
        }
    }

    /// The next buffer, for a frame of `size` bytes.
    #[inline]
    pub(crate) fn next(&mut self, size: usize) -> &mut [u8] {
        let start = self.next * self.stride;
        self.next = (self.next + 1) % BUFFERS;
        &mut self.bytes[start..start + size]
    }
}
