//! Whether to look again before going to sleep.
//!
//! To be woken takes a system call of whoever wakes, and a while; to look costs a processor. So
//! looking goes on for a moment only, and only where waits have lately ended within such a moment.
//! Between two looks whoever else wants the processor gets it: two ends that share one do each
//! other's waiting, and where there is nobody else the call returns at once.

use std::time::{Duration, Instant};

/// The longest to look, as long as a hypervisor looks for a processor that waits (`halt_poll_ns` of
/// KVM): with bursts of hundreds of frames going to and fro it is that long between two.
const LONGEST: Duration = Duration::from_micros(200);
/// The first step up from not looking at all.
const SHORTEST: Duration = Duration::from_micros(5);

/// The looking habits of one that waits.
#[derive(Debug, Default)]
pub struct Polling {
    /// How long to look at present.
    window: Duration,
    /// Since when there is nothing to do.
    idle_since: Option<Instant>,
}

impl Polling {
    /// There is nothing to do. Gives way to others, then tells whether to look again (or else to
    /// sleep).
    pub fn once_more(&mut self) -> bool {
        let now = Instant::now();
        let since = *self.idle_since.get_or_insert(now);
        let again = now - since < self.window;
        if again {
            std::thread::yield_now();
        }
        again
    }

    /// There is something to do.
    #[inline]
    pub fn busy(&mut self) {
        if let Some(since) = self.idle_since.take() {
            self.learn(since.elapsed());
        }
    }

    /// A wait took this long, with sleep or without.
    fn learn(&mut self, wait: Duration) {
        if wait > LONGEST {
            self.window /= 2;
            if self.window < SHORTEST {
                self.window = Duration::ZERO;
            }
        } else if wait > self.window {
            self.window = (self.window * 2).clamp(SHORTEST, LONGEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_waits_make_it_look_and_long_ones_make_it_sleep() {
        let mut polling = Polling::default();
        assert!(!polling.once_more());
        for _ in 0..8 {
            polling.learn(LONGEST);
        }
        assert_eq!(polling.window, LONGEST);
        for _ in 0..8 {
            polling.learn(LONGEST * 2);
        }
        assert_eq!(polling.window, Duration::ZERO);
        // What was too long for any look teaches no looking.
        polling.learn(Duration::from_secs(1));
        assert_eq!(polling.window, Duration::ZERO);
    }
}
