//! All there is to measure, in order, and what comes of it.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use super::alone::{Cost, Question};
use super::crew::Crew;
use super::distance::Distance;
use super::neighbours::{Group, Turn, groups, measure};
use super::player::Task;
use super::{Measured, PERCENTILES};

/// Bytes of the frames of round trips and of many ports.
const SMALL: usize = 64;
/// Who shares a processor gets it for some milliseconds at a time: measurements of many processes
/// take as many times longer than those of two.
const CROWD: f64 = 4.0;
/// Seconds that waiting ports are looked at.
const IDLE: f64 = 4.0;

/// What is to be measured, and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Bytes of frames; those above 9014 cross as one large segment each.
    pub sizes: Vec<usize>,
    /// Of one measurement.
    pub seconds: f64,
    /// Turns for each figure.
    pub turns: usize,
    /// Processes where many send to one, and one to many; 2 leaves these out.
    pub ports: usize,
    /// Only rates between two.
    pub rates_only: bool,
    /// Where processes run: the first on the first.
    pub processors: Vec<usize>,
    /// Bytes of a ring, ours and the bare one.
    pub ring_bytes: u64,
    /// Memory-backed folder for the segments.
    pub folder: PathBuf,
}

/// A figure's turns at one distance.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct At {
    /// The class.
    pub distance: Distance,
    /// Round trip of a cache line, in nanoseconds.
    pub near: f64,
    /// How many turns.
    pub turns: usize,
}

/// One way between two, one frame size.
#[derive(Debug, Serialize)]
pub struct Rate {
    /// Bytes of a frame.
    pub size: usize,
    #[serde(flatten)]
    /// Where and how often.
    pub at: At,
    /// Million frames a second.
    pub mpps: f64,
    /// Gigabits of frames a second.
    pub gbps: f64,
    /// The bare ring's.
    pub bare_mpps: f64,
    /// Times as fast as the bare ring.
    pub of_bare: f64,
    /// Times as fast as both processors copy private memory.
    pub of_memcpy: f64,
}

/// Round trips of a small frame.
#[derive(Debug, Serialize)]
pub struct RoundTrip {
    /// Whether both sides sleep meanwhile, or poll.
    pub asleep: bool,
    #[serde(flatten)]
    /// Where and how often.
    pub at: At,
    /// Microseconds, for each of [`PERCENTILES`].
    pub us: [f64; PERCENTILES.len()],
    /// The same of a bare futex or cache line.
    pub bare_us: [f64; PERCENTILES.len()],
    /// Times as long, by the halves.
    pub over_bare: f64,
}

/// Many processes, small frames.
#[derive(Debug, Serialize)]
pub struct Crowd {
    /// From how many.
    pub from: usize,
    /// To how many.
    pub to: usize,
    #[serde(flatten)]
    /// Where and how often.
    pub at: At,
    /// Million frames a second, sent.
    pub mpps: f64,
    /// Times as fast as from one to one of them.
    pub of_one: f64,
    /// Share of what was sent that a receiver got.
    pub received: f64,
    /// Of several senders: Jain's index of what they got through, 1 for equal shares and 1/n if one
    /// has it all (Jain, Chiu, Hawe 1984).
    pub fairness: Option<f64>,
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Seconds of one measurement.
    pub seconds: f64,
    /// Turns wanted.
    pub turns: usize,
    /// The processors.
    pub processors: Vec<usize>,
    /// Bytes of a ring.
    pub ring_bytes: u64,
    /// One way between two.
    pub rates: Vec<Rate>,
    /// There and back.
    pub round_trips: Vec<RoundTrip>,
    /// Between many.
    pub crowds: Vec<Crowd>,
    /// Of a frame, of waiting, of memory.
    pub costs: Vec<Cost>,
}

impl Plan {
    /// Measures all; `progress` is told what at the moment.
    pub fn measure(&self, mut progress: impl FnMut(&str)) -> Result<Report> {
        let mut report = Report {
            seconds: self.seconds,
            turns: self.turns,
            processors: self.processors.clone(),
            ring_bytes: self.ring_bytes,
            rates: Vec::new(),
            round_trips: Vec::new(),
            crowds: Vec::new(),
            costs: Vec::new(),
        };
        let mut two = Crew::start(&self.folder, 2, &self.processors, self.ring_bytes)?;
        for &size in &self.sizes {
            let what = format!("{size}-byte frames");
            let turns = self.turns(&mut two, &what, &rate(size, self.seconds), &mut progress)?;
            report
                .rates
                .extend(groups(&turns).iter().map(|group| Rate::of(size, group)));
        }
        if self.rates_only {
            return Ok(report);
        }
        for asleep in [false, true] {
            let what = match asleep {
                true => "round trips, asleep",
                false => "round trips, polling",
            };
            let tasks = round_trip(asleep, self.seconds);
            let turns = self.turns(&mut two, what, &tasks, &mut progress)?;
            let found = groups(&turns);
            let found = found.iter().map(|group| RoundTrip::of(asleep, group));
            report.round_trips.extend(found);
        }
        drop(two);
        if self.ports > 2 {
            let mut many =
                Crew::start(&self.folder, self.ports, &self.processors, self.ring_bytes)?;
            let others = self.ports - 1;
            for (from, to) in [(others, 1), (1, others)] {
                let what = format!("{from} to {to}");
                let tasks = crowd(from, to, self.seconds * CROWD);
                let turns = self.turns(&mut many, &what, &tasks, &mut progress)?;
                let found = groups(&turns);
                let found = found.iter().map(|group| Crowd::of(from, to, group));
                report.crowds.extend(found);
            }
        }
        let mut single = Crew::single(&self.folder, self.processors[0])?;
        let folder = || self.folder.clone();
        progress("cost of a frame");
        let seconds = self.seconds * self.turns as f64;
        report.costs = single.ask(Question::Frames {
            folder: folder(),
            seconds,
        })?;
        progress("idle ports");
        report.costs.extend(single.ask(Question::Idle {
            folder: folder(),
            seconds: IDLE,
        })?);
        progress("memory");
        report
            .costs
            .extend(single.ask(Question::Memory { folder: folder() })?);
        Ok(report)
    }

    fn turns(
        &self,
        crew: &mut Crew,
        what: &str,
        measurements: &[Vec<Task>],
        progress: &mut impl FnMut(&str),
    ) -> Result<Vec<Turn>> {
        measure(crew, measurements, self.turns, |done| {
            progress(&format!("{what}: {done} of {} turns", self.turns));
        })
    }
}

/// Ours, the bare ring, plain copies. The second player sends to the first.
fn rate(size: usize, seconds: f64) -> [Vec<Task>; 3] {
    let copy = Task::Copy {
        size,
        seconds: seconds / 4.0,
    };
    [
        one_to_one(size, seconds),
        vec![Task::BareReceive { size }, Task::BareSend { size, seconds }],
        vec![copy.clone(), copy],
    ]
}

fn one_to_one(size: usize, seconds: f64) -> Vec<Task> {
    let to = vec![0];
    vec![
        Task::Receive { senders: 1, size },
        Task::Send { to, size, seconds },
    ]
}

/// Ours, a bare word.
fn round_trip(sleepy: bool, seconds: f64) -> [Vec<Task>; 2] {
    let size = SMALL;
    let [ping, pong] = [
        Task::Ping {
            to: 1,
            size,
            sleepy,
            seconds,
        },
        Task::Pong {
            to: 0,
            size,
            sleepy,
        },
    ];
    let [bare_ping, bare_pong] = [
        Task::BarePing { sleepy, seconds },
        Task::BarePong { sleepy },
    ];
    [vec![ping, pong], vec![bare_ping, bare_pong]]
}

/// From some to some, and from one of them to one. The first player is the one, or the first of
/// those who are one.
fn crowd(from: usize, to: usize, seconds: f64) -> [Vec<Task>; 2] {
    let size = SMALL;
    let receive = |senders| Task::Receive { senders, size };
    let send = |to: Vec<usize>| Task::Send { to, size, seconds };
    if from > 1 {
        let all = std::iter::once(receive(from)).chain((0..from).map(|_| send(vec![0])));
        [all.collect(), one_to_one(size, seconds)]
    } else {
        let all = std::iter::once(send((1..=to).collect())).chain((0..to).map(|_| receive(1)));
        [all.collect(), vec![send(vec![1]), receive(1)]]
    }
}

impl At {
    fn of(group: &Group<'_>) -> Self {
        Self {
            distance: group.distance,
            near: group.median(|turn| turn.near),
            turns: group.turns.len(),
        }
    }
}

impl Rate {
    fn of(size: usize, group: &Group<'_>) -> Self {
        // The receiver is the first player; of two who copy, the slower counts.
        let received = |turn: &Turn, measurement: usize| -> f64 {
            turn.found[measurement][0].mega_per_second()
        };
        let copied = |turn: &Turn| {
            let copied = turn.found[2].iter().map(Measured::mega_per_second);
            copied.fold(f64::INFINITY, f64::min)
        };
        Self {
            size,
            at: At::of(group),
            mpps: group.median(|turn| received(turn, 0)),
            gbps: group.median(|turn| turn.found[0][0].gigabits()),
            bare_mpps: group.median(|turn| received(turn, 1)),
            of_bare: group.median(|turn| received(turn, 0) / received(turn, 1)),
            of_memcpy: group.median(|turn| received(turn, 0) / copied(turn)),
        }
    }
}

impl RoundTrip {
    fn of(asleep: bool, group: &Group<'_>) -> Self {
        let us = |measurement: usize, percentile: usize| {
            group.median(|turn| turn.found[measurement][0].trips[percentile])
        };
        Self {
            asleep,
            at: At::of(group),
            us: std::array::from_fn(|i| us(0, i)),
            bare_us: std::array::from_fn(|i| us(1, i)),
            over_bare: group.median(|turn| turn.found[0][0].trips[0] / turn.found[1][0].trips[0]),
        }
    }
}

impl Crowd {
    fn of(from: usize, to: usize, group: &Group<'_>) -> Self {
        // What came in, or where it is many who hear the same, what went out.
        let mpps = |found: &[Measured]| found[0].mega_per_second();
        let received = |turn: &Turn| {
            let hearers = turn.found[0].iter().skip(1);
            let shares = hearers.map(|m| m.count as f64 / (m.count + m.lost).max(1) as f64);
            shares.sum::<f64>() / to as f64
        };
        Self {
            from,
            to,
            at: At::of(group),
            mpps: group.median(|turn| mpps(&turn.found[0])),
            of_one: group.median(|turn| mpps(&turn.found[0]) / mpps(&turn.found[1])),
            received: match to {
                1 => 1.0,
                _ => group.median(received),
            },
            fairness: (from > 1)
                .then(|| group.median(|turn| fairness(&turn.found[0][0].from[1..=from]))),
        }
    }
}

fn fairness(shares: &[u64]) -> f64 {
    let shares = || shares.iter().map(|&n| n as f64);
    let squares: f64 = shares().map(|n| n * n).sum();
    shares().sum::<f64>().powi(2) / (shares().count() as f64 * squares.max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fairness_is_one_for_equals_and_a_share_for_a_winner() {
        assert!((fairness(&[5, 5, 5]) - 1.0).abs() < 1e-9);
        assert!((fairness(&[9, 0, 0]) - 1.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn in_each_measurement_there_is_somebody_to_receive_what_is_sent() {
        let count =
            |tasks: &[Task], what: fn(&Task) -> bool| tasks.iter().filter(|t| what(t)).count();
        for (from, to) in [(3, 1), (1, 3)] {
            for tasks in crowd(from, to, 0.1) {
                assert!(count(&tasks, |t| matches!(t, Task::Send { .. })) >= 1);
                assert!(count(&tasks, |t| matches!(t, Task::Receive { .. })) >= 1);
            }
        }
    }
}
