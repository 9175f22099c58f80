//! `lgswitch bench`: how fast a segment is on this machine.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use lgswitch::bench::report::{At, Plan, Report};
use lgswitch::bench::{arena, player};
use lgswitch::layout::Geometry;
use nix::sys::signal::{SigSet, Signal};

use super::create::parse_size;
use super::link::print_json;
use super::table;

/// What `--help` says below the options.
const ABOUT: &str = "\
Every figure is taken in short turns with its bound, and with the distance of the two processors:
the round trip of a cache line between them, which in a virtual machine changes at the host's will.
A line of a table is what was found at one distance; ratios are medians of the turns' own.

The bounds are a bare ring that copies twice and does nothing else, plain copies on both
processors at once, and the round trip of a bare word by cache line or futex.";

/// Measure a fresh segment between processes
#[derive(Debug, Args)]
#[command(after_help = ABOUT)]
pub struct BenchCommand {
    /// Bytes of a frame; above 9014 it crosses as one large segment
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_values_t = [64, 512, 1500, 9000, 65_000])]
    sizes: Vec<usize>,
    /// Processes where many send to one and one sends to many; 2 leaves this out
    #[arg(long, value_name = "N", default_value_t = 4)]
    ports: usize,
    /// Turns for each figure, of which it is the median
    #[arg(long, value_name = "N", default_value_t = 21)]
    rounds: usize,
    /// Seconds of one measurement, of which a turn has two or three
    #[arg(long, default_value_t = 0.05)]
    seconds: f64,
    /// Size of a ring, ours and the bare one, as 2M [default: a segment's default]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value_t = Geometry::DEFAULT_RING, hide_default_value = true)]
    ring: u64,
    /// Only rates between two processes
    #[arg(long)]
    rates_only: bool,
    /// Folder for the segments; memory-backed, or a disk is measured
    #[arg(long, default_value = "/dev/shm")]
    folder: PathBuf,
}

/// A process that measures; for the program itself.
#[derive(Debug, Args)]
pub struct ChildCommand {
    player: String,
}

impl ChildCommand {
    /// Plays.
    pub fn run(self) -> Result<()> {
        player::play(serde_json::from_str(&self.player).context("That is nobody to be")?)
    }
}

impl BenchCommand {
    /// Measures and prints.
    pub fn run(self, json: bool) -> Result<()> {
        if self.rounds == 0 || self.sizes.iter().any(|s| !(60..=65_536).contains(s)) {
            bail!("It takes at least one round, and frames of 60 to 65536 bytes");
        }
        if !(0.001..=10.0).contains(&self.seconds) {
            bail!("A measurement takes 0.001 to 10 seconds");
        }
        if !(2..=arena::MAX_PLAYERS).contains(&self.ports) {
            bail!("--ports takes 2 to {}", arena::MAX_PLAYERS);
        }
        let processors = processors()?;
        let folder = Folder::new(&self.folder)?;
        folder.remove_on_signals()?;
        let plan = Plan {
            sizes: self.sizes,
            seconds: self.seconds,
            turns: self.rounds,
            ports: self.ports,
            ring_bytes: self.ring,
            rates_only: self.rates_only,
            processors,
            folder: folder.0.clone(),
        };
        let report = plan.measure(progress);
        progress("");
        let report = report?;
        if json {
            return print_json(&report);
        }
        print(&report);
        Ok(())
    }
}

/// The processors we may run on.
fn processors() -> Result<Vec<usize>> {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))?;
    let allowed = (0..nix::sched::CpuSet::count()).filter(|&p| set.is_set(p).unwrap_or(false));
    let processors: Vec<_> = allowed.take(arena::MAX_PLAYERS).collect();
    match processors.len() {
        0 | 1 => bail!("Two processes that poll need two processors, and there is one"),
        _ => Ok(processors),
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

    /// Has a thread wait for the signals that end a program, so that they leave no folder; the other
    /// processes go with this one.
    fn remove_on_signals(&self) -> Result<()> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals.thread_block().context("Can't block signals")?;
        let path = self.0.clone();
        std::thread::spawn(move || {
            if let Ok(signal) = signals.wait() {
                progress("");
                // Somebody may be making a file in it.
                while path.exists() && std::fs::remove_dir_all(&path).is_err() {
                    std::thread::yield_now();
                }
                std::process::exit(128 + signal as i32);
            }
        });
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn number(n: f64) -> String {
    format!("{n:.2}")
}

fn distance(at: &At) -> String {
    format!("{}, {:.0} ns", at.distance, at.near)
}

fn print(report: &Report) {
    println!(
        "Medians of {} turns of {} s on processors {:?}, rings of {} KiB; ratios are to bounds of the same turn.",
        report.turns,
        report.seconds,
        report.processors,
        report.ring_bytes >> 10
    );
    let rows = report.rates.iter().map(|r| {
        [
            r.size.to_string(),
            distance(&r.at),
            r.at.turns.to_string(),
            number(r.mpps),
            number(r.gbps),
            number(r.bare_mpps),
            number(r.of_bare),
            number(r.of_memcpy),
        ]
    });
    section(
        "One way, two processes",
        [
            "BYTES",
            "DISTANCE",
            "TURNS",
            "MPPS",
            "GBIT/S",
            "BARE RING MPPS",
            "OF BARE RING",
            "OF MEMCPY",
        ],
        rows,
    );
    let rows = report.round_trips.iter().map(|t| {
        let [a, b, c, d] = t.us.map(number);
        [
            if t.asleep { "asleep" } else { "polling" }.to_owned(),
            distance(&t.at),
            t.at.turns.to_string(),
            a,
            b,
            c,
            d,
            number(t.bare_us[0]),
            number(t.over_bare),
        ]
    });
    section(
        "Round trip of 64 bytes, microseconds",
        [
            "BOTH SIDES",
            "DISTANCE",
            "TURNS",
            "P50",
            "P90",
            "P99",
            "P99.9",
            "BARE P50",
            "OVER BARE",
        ],
        rows,
    );
    let rows = report.crowds.iter().map(|c| {
        [
            format!("{} to {}", c.from, c.to),
            distance(&c.at),
            c.at.turns.to_string(),
            number(c.mpps),
            number(c.of_one),
            format!("{:.0} %", c.received * 100.0),
            table::cell(c.fairness.map(number)),
        ]
    });
    section(
        "Many processes, 64 bytes; several senders to one wait for room, a broadcast waits for nobody",
        [
            "PROCESSES",
            "DISTANCE",
            "TURNS",
            "MPPS",
            "OF 1 TO 1",
            "RECEIVED BY EACH",
            "FAIRNESS",
        ],
        rows,
    );
    let rows = report.costs.iter().map(|c| {
        [
            c.what.clone(),
            number(c.value),
            c.unit.clone(),
            c.ratio
                .map_or("-".to_owned(), |ratio| format!("{ratio:.2} x {}", c.bound)),
        ]
    });
    section("Costs", ["OF", "VALUE", "UNIT", "RATIO"], rows);
}

/// A table with its title, if it has rows.
fn section<const N: usize>(
    title: &str,
    headings: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) {
    let rows: Vec<_> = rows.collect();
    if !rows.is_empty() {
        println!("\n{title}");
        table::print(headings, &rows);
    }
}
