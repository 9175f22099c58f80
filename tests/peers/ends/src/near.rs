//! How far apart two processors are: the round trip of one cache line between them.
//!
//! In a virtual machine this is not a constant. The host moves virtual processors about, so two
//! of them are the two threads of one core now, cores on one cache a second later, and then on
//! different dies: the round trip changes sevenfold, and with it whatever two processes can pass
//! through shared memory. A rate says little without it, and two rates compare only where it
//! was the same.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::processor;

/// Readings, of which the lower quartile is taken: those in which a side was interrupted say nothing.
const READINGS: usize = 20;
const READING: Duration = Duration::from_millis(1);
/// Round trips between two looks at the clock.
const BATCH: u32 = 200;

/// A word with its cache lines for itself (two, as some processors fetch them in pairs).
#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// Nanoseconds of a round trip between two processors.
pub fn round_trip(processors: &[usize]) -> Result<f64> {
    let &[here, there] = processors else {
        bail!("A round trip is between two processors");
    };
    let (ball, over) = (Line::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| -> Result<()> {
            processor::pin(there)?;
            // Plays every odd number back as the next even one.
            while !over.load(Ordering::Relaxed) {
                let number = ball.0.load(Ordering::Acquire);
                if number % 2 == 1 {
                    ball.0.store(number + 1, Ordering::Release);
                }
            }
            Ok(())
        });
        let measured = processor::pin(here).and_then(|()| {
            let mut readings = Vec::with_capacity(READINGS);
            for _ in 0..READINGS {
                match reading(&ball.0, || other.is_finished()) {
                    Some(nanoseconds) => readings.push(nanoseconds),
                    None => bail!("Nobody plays on processor {there}"),
                }
            }
            readings.sort_by(f64::total_cmp);
            Ok(readings[READINGS / 4])
        });
        over.store(true, Ordering::Relaxed);
        match other.join() {
            Ok(played) => played.and(measured),
            Err(_) => bail!("The player on processor {there} broke off"),
        }
    })
}

/// One reading, or nothing if the other side has left.
fn reading(ball: &AtomicU64, left: impl Fn() -> bool) -> Option<f64> {
    let (start, mut trips) = (Instant::now(), 0);
    while start.elapsed() < READING {
        for _ in 0..BATCH {
            let number = ball.load(Ordering::Relaxed) + 1;
            ball.store(number, Ordering::Release);
            let mut looks = 0u32;
            while ball.load(Ordering::Acquire) == number {
                looks = looks.wrapping_add(1);
                // Seldom: asking costs more than the trip.
                if looks.is_multiple_of(1_000_000) && left() {
                    return None;
                }
            }
        }
        trips += BATCH;
    }
    Some(start.elapsed().as_nanos() as f64 / f64::from(trips))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_that_is_not_there_is_an_error_and_no_wait() {
        assert!(round_trip(&[0, 1023]).is_err());
        assert!(round_trip(&[0]).is_err());
    }
}
