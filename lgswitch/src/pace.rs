//! Which way of storing is the faster one for a ring, found out by trying.
//!
//! Ordinary stores put a frame into the writer's cache; streaming ones ([`crate::stream`]) past
//! all caches. Which is faster depends on where the reader runs: on the same core or a cache they share
//! the first by two to four times, on cores that share none the second by as much. No program
//! can know that, least of all in a virtual machine, whose processors the host moves about. But the writer
//! notices: it is the one who is held up. So now and then it takes the time of some bursts each
//! way, and goes on with the way that took less for a byte.

use std::time::{Duration, Instant};

/// Bursts smaller than this say nothing: the processor takes so much without having stored it yet.
const TELLING: u64 = 2048;
/// For how many times as long as a trial took there is no other: one that loses is to cost a few
/// hundredths.
const REST: f64 = 32.0;

/// Laps after a change of ways that are still about the way before: where the ring's lines are has to
/// become what the new way makes of it.
const SETTLING: u64 = 3;

/// The pace of one ring's writer.
#[derive(Debug)]
pub struct Pace {
    streams: bool,
    /// Bytes of a lap of the ring: after so many, where its lines are is as the way in use has it.
    lap: u64,
    /// Bytes until the next trial.
    rest: u64,
    began: Option<Instant>,
    trial: Option<Trial>,
}

/// A lap of the way in use, then some of the other, of which the last one tells.
#[derive(Debug, Default)]
struct Trial {
    bytes: u64,
    spent: Duration,
    /// Nanoseconds for a byte of each burst, of the way that was in use and of the other.
    took: [Vec<f32>; 2],
}

impl Pace {
    /// For a ring of `lap` bytes. The first trial comes after two laps: in the first one nobody has read
    /// those lines yet.
    pub fn new(lap: u64) -> Self {
        Self {
            streams: false,
            lap,
            rest: 2 * lap,
            began: None,
            trial: None,
        }
    }

    /// Whether frames are to be streamed.
    #[inline]
    pub fn streams(&self) -> bool {
        self.streams
    }

    /// Whether it is to be told when the next burst begins.
    #[inline]
    pub fn is_due(&self) -> bool {
        self.rest == 0
    }

    /// A burst begins.
    pub fn begin(&mut self) {
        if self.is_due() {
            self.began = Some(Instant::now());
        }
    }

    /// It has ended, `bytes` long.
    #[inline]
    pub fn end(&mut self, bytes: u64) {
        self.rest = self.rest.saturating_sub(bytes);
        if let Some(began) = self.began.take() {
            self.tried(began.elapsed(), bytes);
        }
    }

    #[cold]
    fn tried(&mut self, took: Duration, bytes: u64) {
        let trial = self.trial.get_or_insert_default();
        let lap = trial.bytes / self.lap;
        trial.bytes += bytes;
        trial.spent += took;
        let way = match lap {
            0 => Some(0),
            1..=SETTLING => None,
            _ => Some(1),
        };
        if let Some(way) = way
            && bytes >= TELLING
        {
            trial.took[way].push(took.as_nanos() as f32 / bytes as f32);
        }
        let next = trial.bytes / self.lap;
        if lap == 0 && next > 0 {
            self.streams = !self.streams;
        }
        if next > SETTLING + 1 {
            let [used, other] = trial.took.each_mut().map(|each| median(each));
            if used <= other {
                self.streams = !self.streams;
            }
            // Bursts too small to tell: there is not much to win, and it is not looked for soon.
            let best = Some(used.min(other)).filter(|ns| ns.is_finite());
            let byte_ns = f64::from(best.unwrap_or(0.0).max(0.001));
            let rest = REST * trial.spent.as_nanos() as f64 / byte_ns;
            self.rest = (rest as u64).max(self.lap);
            self.trial = None;
        }
    }
}

/// The middle one: a burst in which the processor was taken away says nothing. Infinite if there is none.
fn median(each: &mut [f32]) -> f32 {
    let middle = each.len() / 2;
    if each.is_empty() {
        return f32::INFINITY;
    }
    *each.select_nth_unstable_by(middle, f32::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAP: u64 = 16 * TELLING;
    /// Laps of a trial.
    const TRIAL: u64 = 1 + SETTLING + 1;

    /// Sends bursts of which a byte takes so many nanoseconds, ordinarily and streamed; tells how many
    /// laps were streamed.
    fn send(pace: &mut Pace, laps: u64, burst: u64, each: [u64; 2]) -> u64 {
        let mut streamed = 0;
        for i in 0..laps * LAP / burst {
            pace.begin();
            pace.rest = pace.rest.saturating_sub(burst);
            streamed += u64::from(pace.streams()) * burst;
            // Now and then the processor is taken away.
            let lost = if i % 5 == 0 { 1000 } else { 1 };
            if pace.began.take().is_some() {
                let each = each[usize::from(pace.streams())];
                pace.tried(Duration::from_nanos(lost * each * burst), burst);
            }
        }
        streamed / LAP
    }

    #[test]
    fn the_faster_way_is_found_soon_and_found_again_when_it_changes() {
        let mut pace = Pace::new(LAP);
        send(&mut pace, 2 + TRIAL, TELLING, [6, 2]);
        assert!(pace.streams());
        while pace.rest > 0 {
            send(&mut pace, 1, TELLING, [2, 6]);
            assert!(pace.streams());
        }
        send(&mut pace, TRIAL, TELLING, [2, 6]);
        assert!(!pace.streams());
    }

    #[test]
    fn a_trial_that_loses_is_short_and_then_there_is_rest() {
        let mut pace = Pace::new(LAP);
        assert_eq!(send(&mut pace, 2 + TRIAL, TELLING, [2, 6]), TRIAL - 1);
        assert!(!pace.streams() && pace.rest >= LAP);
    }

    #[test]
    fn small_bursts_decide_nothing() {
        let mut pace = Pace::new(LAP);
        send(&mut pace, 2 + TRIAL, TELLING / 2, [6, 2]);
        assert!(!pace.streams() && pace.rest >= LAP);
    }
}
