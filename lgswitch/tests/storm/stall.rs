//! How long an operation of a port takes by its own doing.
//!
//! On a busy machine a thread may be off its processor for any time in the middle of anything, and
//! that is nobody's promise. What a port promises is that it neither waits for a peer nor works on
//! for its sake, and the kernel accounts for both apart from the machine's other business: the
//! processor time of the thread, and how often it gave the processor up of itself because it had to wait
//! (`getrusage(2)`, `RUSAGE_THREAD`). So an operation's *own* time is its processor time, and all of
//! its time by the clock as soon as it waited even once.

use std::time::{Duration, Instant};

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};

/// No operation of a port may take longer by its own doing.
const STALL: Duration = Duration::from_millis(50);

/// What the operations of one thread took.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Operations {
    /// The longest one's own time. The kernel counts it up at its ticks, 10 ms apart at most.
    pub longest: Duration,
    /// The longest by the clock: what the machine did to them, too.
    pub longest_by_clock: Duration,
    /// How many waited for anything.
    pub waited: u64,
}

fn own(usage: &Usage) -> Duration {
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.unsigned_abs())
}

fn usage() -> Usage {
    getrusage(UsageWho::RUSAGE_THREAD).unwrap()
}

impl Operations {
    /// Runs one.
    pub fn time<T>(&mut self, operation: impl FnOnce() -> T) -> T {
        let (before, start) = (usage(), Instant::now());
        let result = operation();
        let (by_clock, after) = (start.elapsed(), usage());
        let waits = after.voluntary_context_switches() - before.voluntary_context_switches();
        let took = match waits {
            0 => own(&after).saturating_sub(own(&before)),
            _ => by_clock,
        };
        self.longest = self.longest.max(took);
        self.longest_by_clock = self.longest_by_clock.max(by_clock);
        self.waited += u64::from(waits > 0);
        result
    }

    /// The claim.
    pub fn assert_no_stall(&self, whose: &str) {
        assert!(self.longest < STALL, "{whose} stalled: {self:?}");
    }
}
