//! How far apart two processors are: the round trip of one cache line between them.
//!
//! In a virtual machine this is not a constant. The host moves virtual processors about, so two
//! of them are the two threads of one core now, cores on one cache a second later, and then on
//! different dies: the round trip changes sevenfold, and with it whatever two processes can pass
//! through shared memory. A rate says little without it, and two rates compare only where it
//! was the same.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::pin;
use crate::sync::AtomicU64;

/// The lower quartile is taken: readings in which a side was interrupted say nothing.
const READING: Duration = Duration::from_micros(500);
/// Round trips between two looks at the clock.
const BATCH: u32 = 200;
/// Looks for an answer before it is asked whether there will be one.
const LOOKS: u32 = 1_000_000;

/// The class of a distance.
///
/// The bounds lie in the gaps between what today's servers show: 20 to 60 ns between the two
/// threads of a core, 75 to 140 ns between cores that share a cache, 300 ns and more where they
/// do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distance {
    /// Two threads of one core.
    Core,
    /// Two cores on one cache.
    Cache,
    /// Neither.
    Apart,
    /// They came nearer or went away meanwhile.
    Moved,
}

impl Distance {
    /// The class of a round trip, in nanoseconds.
    pub fn of_round_trip(nanoseconds: f64) -> Self {
        match nanoseconds {
            n if n < 67.0 => Self::Core,
            n if n < 170.0 => Self::Cache,
            _ => Self::Apart,
        }
    }

    /// The class of what lies between readings: theirs, if they agree.
    pub fn of_readings(nanoseconds: &[f64]) -> Self {
        let mut classes = nanoseconds.iter().map(|&n| Self::of_round_trip(n));
        let first = classes.next().unwrap_or(Self::Moved);
        match classes.all(|class| class == first) {
            true => first,
            false => Self::Moved,
        }
    }
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Core => "threads of a core",
            Self::Cache => "cores on a cache",
            Self::Apart => "cores apart",
            Self::Moved => "moved",
        })
    }
}

/// Nanoseconds of a round trip of `ball` to whoever [`answer`]s, by that many readings of half a
/// millisecond; nothing once `left` says that nobody does.
pub fn ask(ball: &AtomicU64, readings: usize, left: impl Fn() -> bool) -> Option<f64> {
    let mut all = Vec::with_capacity(readings);
    for _ in 0..readings {
        let (start, mut trips) = (Instant::now(), 0);
        while start.elapsed() < READING {
            for _ in 0..BATCH {
                let number = ball.load(Ordering::Relaxed) + 1;
                ball.store(number, Ordering::Release);
                let mut looks = 0u32;
                while ball.load(Ordering::Acquire) == number {
                    looks = looks.wrapping_add(1);
                    // Seldom: asking costs more than the trip.
                    if looks.is_multiple_of(LOOKS) && left() {
                        return None;
                    }
                }
            }
            trips += BATCH;
        }
        all.push(start.elapsed().as_nanos() as f64 / f64::from(trips));
    }
    all.sort_by(f64::total_cmp);
    all.get(readings / 4).copied()
}

/// Plays every odd number back as the next even one, until it is [`OVER`] or `left` says so.
pub fn answer(ball: &AtomicU64, left: impl Fn() -> bool) {
    let mut looks = 0u32;
    loop {
        let number = ball.load(Ordering::Acquire);
        if number == OVER {
            return;
        }
        if number % 2 == 1 {
            ball.store(number + 1, Ordering::Release);
            looks = 0;
        }
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(LOOKS) && left() {
            return;
        }
    }
}

/// The number that ends the game; even, as all that are not to be answered.
pub const OVER: u64 = u64::MAX - 1;

/// A word with its cache lines for itself (two, as some processors fetch them in pairs).
#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// Nanoseconds of a round trip between two processors, by two threads of this process.
pub fn between(here: usize, there: usize) -> Result<f64> {
    let (ball, over) = (Line::default(), AtomicBool::new(false));
    let is_over = || over.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| -> Result<()> {
            pin(there)?;
            answer(&ball.0, is_over);
            Ok(())
        });
        let asked = pin(here).map(|()| ask(&ball.0, 20, || other.is_finished()));
        over.store(true, Ordering::Relaxed);
        ball.0.store(OVER, Ordering::Release);
        match (other.join(), asked) {
            (Ok(Err(error)), _) | (_, Err(error)) => Err(error),
            (Ok(Ok(())), Ok(Some(nanoseconds))) => Ok(nanoseconds),
            _ => bail!("Nobody answered on processor {there}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_that_is_not_there_is_an_error_and_no_wait() {
        assert!(between(0, 1023).is_err());
    }

    #[test]
    fn readings_that_disagree_are_of_no_distance() {
        assert_eq!(Distance::of_readings(&[55.0, 52.0, 60.0]), Distance::Core);
        assert_eq!(Distance::of_readings(&[81.0, 84.0]), Distance::Cache);
        assert_eq!(Distance::of_readings(&[54.0, 54.0, 350.0]), Distance::Moved);
    }
}
