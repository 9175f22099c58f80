//! `lgswitch bench`: how fast a segment is on this machine.
//!
//! Each round plays every measurement once, ours and its bound side by side; figures are medians
//! over the rounds, ratios are medians of the rounds' own ratios.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use lgswitch::bench::stage::{Part, Role, perform, play};
use lgswitch::bench::{self, BURST, Measured, alone, bare};
use lgswitch::{CreateOptions, Segment};
use serde::Serialize;

use super::link::print_json;
use super::table;

/// Measure a fresh segment between two processes.
#[derive(Debug, Args)]
pub struct BenchCommand {
    /// Frame sizes in bytes; those above 1514 that are not jumbo cross as one large segment
    #[arg(long, value_delimiter = ',', default_values_t = [64, 512, 1500, 9000, 65_000])]
    sizes: Vec<usize>,
    /// Seconds a measurement
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Rounds; figures are their medians
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only rates, no round trips and no costs
    #[arg(long)]
    rates_only: bool,
    /// Folder for the segment, memory-backed
    #[arg(long, default_value = "/dev/shm")]
    folder: PathBuf,
}

/// A part of a measurement; for the program itself.
#[derive(Debug, Args)]
pub struct ChildCommand {
    part: String,
}

/// One frame size.
#[derive(Serialize)]
struct Rate {
    size: usize,
    mpps: f64,
    gbps: f64,
    bare_mpps: f64,
    of_bare: f64,
    of_memcpy: f64,
}

/// A pair of round trips, ours and the bound.
#[derive(Serialize)]
struct RoundTrip {
    how: &'static str,
    median_us: f64,
    p99_us: f64,
    bare_median_us: f64,
    over_bare: f64,
}

/// A cost against another.
#[derive(Serialize)]
struct Cost {
    what: &'static str,
    value: f64,
    unit: &'static str,
    against: Option<f64>,
}

/// All of it.
#[derive(Serialize)]
struct Report {
    rounds: usize,
    seconds: f64,
    processors: [usize; 2],
    rates: Vec<Rate>,
    round_trips: Vec<RoundTrip>,
    costs: Vec<Cost>,
}

impl ChildCommand {
    /// Plays the part.
    pub fn run(self) -> Result<()> {
        let part: Part = serde_json::from_str(&self.part).context("Not a part to play")?;
        let result = play(&part, || println!("ready"))?;
        println!("{}", serde_json::to_string(&result)?);
        Ok(())
    }
}

impl BenchCommand {
    /// Measures and prints.
    pub fn run(self, json: bool) -> Result<()> {
        if self.rounds == 0 || self.sizes.iter().any(|s| !(60..=65_536).contains(s)) {
            bail!("At least one round, and frames of 60 to 65536 bytes");
        }
        if !(0.01..=60.0).contains(&self.seconds) {
            bail!("A measurement takes 0.01 to 60 seconds");
        }
        let processors = two_processors()?;
        let stage = Stage {
            seconds: self.seconds,
            processors,
            folder: Folder::new(&self.folder)?,
        };
        let mut report = Report {
            rounds: self.rounds,
            seconds: self.seconds,
            processors,
            rates: Vec::new(),
            round_trips: Vec::new(),
            costs: Vec::new(),
        };
        for &size in &self.sizes {
            report.rates.push(stage.rate(size, self.rounds)?);
        }
        if !self.rates_only {
            let polling = [Role::Ping, Role::Pong, Role::BarePing, Role::BarePong];
            let asleep = [
                Role::SleepyPing,
                Role::SleepyPong,
                Role::FutexPing,
                Role::FutexPong,
            ];
            for (how, roles) in [("polling", polling), ("asleep", asleep)] {
                report
                    .round_trips
                    .push(stage.round_trip(how, roles, self.rounds)?);
            }
            report.costs = stage.costs(self.rounds)?;
        }
        progress("");
        if json {
            return print_json(&report);
        }
        print(&report);
        Ok(())
    }
}

/// The first two processors we may run on.
fn two_processors() -> Result<[usize; 2]> {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))?;
    let mut allowed = (0..nix::sched::CpuSet::count()).filter(|&p| set.is_set(p).unwrap_or(false));
    match (allowed.next(), allowed.next()) {
        (Some(a), Some(b)) => Ok([a, b]),
        _ => bail!("Two processes that poll need two processors, and there is one"),
    }
}

/// A line that comes and goes, for whoever waits.
fn progress(what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{what}");
    }
}

/// A folder of ours, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(parent: &Path) -> Result<Self> {
        let path = parent.join(format!("lgswitch-bench.{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("Can't make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Stage {
    seconds: f64,
    processors: [usize; 2],
    folder: Folder,
}

impl Stage {
    /// A fresh segment, or bare ring, for one measurement.
    fn fresh<T>(
        &self,
        bare: bool,
        mtu: u32,
        measure: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<T> {
        let path = self.folder.0.join("lan0");
        if bare {
            bare::create(&path)?;
        } else {
            let options = CreateOptions {
                mtu,
                ..CreateOptions::default()
            };
            Segment::create(&path, &options)?;
        }
        let result = measure(&path);
        std::fs::remove_file(&path)?;
        result
    }

    fn part(&self, path: &Path, role: Role, size: usize, processor: usize) -> Part {
        Part {
            role,
            path: path.to_owned(),
            size,
            seconds: self.seconds,
            burst: BURST,
            processor: self.processors[processor],
        }
    }

    /// Plays `roles` (first, second), each on its processor; gives the result of one.
    fn play(
        &self,
        bare: bool,
        roles: [Role; 2],
        size: usize,
        result_of: usize,
    ) -> Result<Measured> {
        let mtu = if size <= 9014 {
            (size as u32 - 14).max(1500)
        } else {
            1500
        };
        self.fresh(bare, mtu, |path| {
            let first = self.part(path, roles[0], size, 1);
            let second = self.part(path, roles[1], size, 0);
            perform(&first, &second, result_of)
        })
    }

    fn rate(&self, size: usize, rounds: usize) -> Result<Rate> {
        let mut all = Vec::new();
        for round in 1..=rounds {
            progress(&format!("{size}-byte frames, round {round} of {rounds}"));
            let ours = self.play(false, [Role::Receive, Role::Send], size, 0)?;
            let bare = self.play(true, [Role::BareReceive, Role::BareSend], size, 0)?;
            let copy = alone::memcpy(size, self.seconds / 10.0);
            all.push([ours, bare, copy]);
        }
        let over = |f: &dyn Fn(&[Measured; 3]) -> f64| bench::median(all.iter().map(f));
        Ok(Rate {
            size,
            mpps: over(&|m| m[0].mega_per_second()),
            gbps: over(&|m| m[0].gigabits()),
            bare_mpps: over(&|m| m[1].mega_per_second()),
            of_bare: over(&|m| m[0].mega_per_second() / m[1].mega_per_second()),
            of_memcpy: over(&|m| m[0].mega_per_second() / m[2].mega_per_second()),
        })
    }

    fn round_trip(&self, how: &'static str, roles: [Role; 4], rounds: usize) -> Result<RoundTrip> {
        let [ping, pong, bare_ping, bare_pong] = roles;
        let mut all = Vec::new();
        for round in 1..=rounds {
            progress(&format!("round trips, {how}, round {round} of {rounds}"));
            let ours = self.play(false, [pong, ping], 64, 1)?;
            let bare = self.play(true, [bare_pong, bare_ping], 64, 1)?;
            all.push([ours, bare]);
        }
        let over = |f: &dyn Fn(&[Measured; 2]) -> f64| bench::median(all.iter().map(f));
        Ok(RoundTrip {
            how,
            median_us: over(&|m| m[0].median_us),
            p99_us: over(&|m| m[0].p99_us),
            bare_median_us: over(&|m| m[1].median_us),
            over_bare: over(&|m| m[0].median_us / m[1].median_us),
        })
    }

    fn costs(&self, rounds: usize) -> Result<Vec<Cost>> {
        let send = |receivers, broadcast| {
            let seconds = self.seconds / 4.0;
            self.fresh(false, 1500, |path| {
                alone::sending(path, receivers, broadcast, seconds)
            })
        };
        let mut all = Vec::new();
        for round in 1..=rounds {
            progress(&format!("costs, round {round} of {rounds}"));
            let few = send(1, false)?;
            let many = send(63, false)?;
            let sixteen = send(16, false)?;
            let everyone = send(16, true)?;
            all.push([few, many, sixteen, everyone].map(|m| m.nanoseconds()));
        }
        let over = |f: &dyn Fn(&[f64; 4]) -> f64| bench::median(all.iter().map(f));
        progress("64 idle ports");
        let idle = self.fresh(false, 1500, |path| {
            alone::idle(path, 64, self.seconds.max(4.0))
        })?;
        let resident = self.resident()?;
        let cost = |what, value, unit, against| Cost {
            what,
            value,
            unit,
            against,
        };
        Ok(vec![
            cost("send to one of 2 ports", over(&|m| m[0]), "ns", None),
            cost(
                "send to one of 64 ports",
                over(&|m| m[1]),
                "ns",
                Some(over(&|m| m[1] / m[0])),
            ),
            cost(
                "send to all of 17 ports",
                over(&|m| m[3]),
                "ns",
                Some(over(&|m| m[3] / m[2])),
            ),
            cost("64 idle ports", idle * 100.0, "% of a processor", None),
            cost("64 ports, 2 of which talk", resident, "MiB", None),
        ])
    }

    /// Memory of a segment with 64 ports after two of them have exchanged all they could.
    fn resident(&self) -> Result<f64> {
        self.fresh(false, 1500, |path| {
            let segment = Segment::open(path)?;
            let idle = (0..62).map(|_| segment.port(lgswitch::PortOptions::default()));
            let _idle = idle.collect::<Result<Vec<_>, _>>()?;
            let receive = self.part(path, Role::Receive, 1500, 1);
            let send = self.part(path, Role::Send, 1500, 0);
            perform(&receive, &send, 0)?;
            Ok(segment.allocated_bytes() as f64 / 1_048_576.0)
        })
    }
}

fn print(report: &Report) {
    println!(
        "Medians of {} rounds of {} s, processors {} and {}; ratios to bounds of the same round.",
        report.rounds, report.seconds, report.processors[0], report.processors[1]
    );
    let number = |n: f64| format!("{n:.2}");
    let rates: Vec<_> = report
        .rates
        .iter()
        .map(|r| {
            let numbers = [r.mpps, r.gbps, r.bare_mpps, r.of_bare, r.of_memcpy].map(number);
            let [mpps, gbps, bare, of_bare, of_memcpy] = numbers;
            [r.size.to_string(), mpps, gbps, bare, of_bare, of_memcpy]
        })
        .collect();
    table::print(
        [
            "SIZE",
            "MPPS",
            "GBIT/S",
            "BARE RING MPPS",
            "OF BARE",
            "OF MEMCPY",
        ],
        &rates,
    );
    let trips: Vec<_> = report
        .round_trips
        .iter()
        .map(|t| {
            let [median, p99, bare, over] =
                [t.median_us, t.p99_us, t.bare_median_us, t.over_bare].map(number);
            [t.how.to_owned(), median, p99, bare, over]
        })
        .collect();
    table::print(
        ["ROUND TRIP", "MEDIAN US", "P99 US", "BARE US", "OVER BARE"],
        &trips,
    );
    let costs: Vec<_> = report
        .costs
        .iter()
        .map(|c| {
            [
                c.what.to_owned(),
                number(c.value),
                c.unit.to_owned(),
                table::cell(c.against.map(number)),
            ]
        })
        .collect();
    table::print(["COST", "VALUE", "UNIT", "OVER ALONE"], &costs);
}
