//! What one process finds out alone: the cost of a frame, of being many, and of waiting.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use pnet_base::MacAddr;
use serde::{Deserialize, Serialize};

use super::crew::Name;
use super::{BURST, Buffers, median};
use crate::frame::{Gather, VnetHeader};
use crate::port::{Caller, Port, PortOptions, PortRx, PortTx, Sent, Verdict};
use crate::segment::{CreateOptions, Segment};

/// Bytes of a frame.
const FRAME: usize = 64;
/// Bursts sent before what came is taken, so that looking at the clock costs nothing; the ring and
/// the log have room for more.
const BURSTS: usize = 16;
/// Ports of a large segment.
const MANY: usize = 64;
/// Ports that hear a broadcast.
const HEARERS: usize = 16;

/// What can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Question {
    /// What a frame costs, for so many seconds.
    Frames {
        /// Folder for segments.
        folder: PathBuf,
        /// How long to look.
        seconds: f64,
    },
    /// What waiting costs.
    Idle {
        /// Folder for segments.
        folder: PathBuf,
        /// How long to look.
        seconds: f64,
    },
    /// What memory a segment takes.
    Memory {
        /// Folder for segments.
        folder: PathBuf,
    },
}

/// A cost, and what it is held against.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cost {
    /// Of what.
    pub what: String,
    /// How much.
    pub value: f64,
    /// Of which unit.
    pub unit: String,
    /// Times as much as its bound, in the same turn.
    pub ratio: Option<f64>,
    /// The bound.
    pub bound: String,
}

impl Cost {
    fn new(what: &str, value: f64, unit: &str) -> Self {
        Self {
            what: what.to_owned(),
            value,
            unit: unit.to_owned(),
            ratio: None,
            bound: String::new(),
        }
    }

    fn over(mut self, ratio: f64, bound: &str) -> Self {
        (self.ratio, self.bound) = (Some(ratio), bound.to_owned());
        self
    }
}

/// Answers.
pub fn answer(question: &Question) -> Result<Vec<Cost>> {
    match question {
        Question::Frames { folder, seconds } => frames(folder, *seconds),
        Question::Idle { folder, seconds } => idle(folder, *seconds),
        Question::Memory { folder } => memory(folder),
    }
}

/// A segment, and ports on it. It has lost its name.
fn segment(folder: &Path, ports: usize) -> Result<(Arc<Segment>, Vec<Port>)> {
    let name = Name::new(folder, "alone");
    let segment = Segment::create(&name.0, &CreateOptions::default())?;
    let port = |n: usize| {
        let options = PortOptions {
            mac: Some(mac(n)),
            name: format!("bench {n}"),
            ..PortOptions::default()
        };
        Ok(segment.port(options)?)
    };
    let ports = (0..ports).map(port).collect::<Result<_>>()?;
    Ok((segment, ports))
}

fn mac(n: usize) -> MacAddr {
    let [high, low] = (n as u16).to_be_bytes();
    MacAddr(2, 0, 0, 1, high, low)
}

/// A sender, and all who may receive.
struct Lan {
    tx: PortTx,
    others: Vec<PortRx>,
    to: MacAddr,
    buffers: Buffers,
}

/// Nanoseconds a frame sent.
#[derive(Debug, Clone, Copy)]
struct Spent {
    sending: f64,
    /// By one receiver.
    receiving: f64,
}

impl Lan {
    fn new(folder: &Path, ports: usize, to: MacAddr) -> Result<Self> {
        let (_segment, ports) = segment(folder, ports)?;
        let mut ports = ports.into_iter().map(Port::split);
        let Some((tx, _)) = ports.next() else {
            bail!("A segment without ports");
        };
        let mut buffers = Buffers::new(FRAME);
        for _ in 0..buffers.count() {
            let frame = buffers.next(FRAME);
            frame[..6].copy_from_slice(&to.octets());
            frame[6..12].copy_from_slice(&mac(0).octets());
        }
        Ok(Self {
            tx,
            // A port is there as long as one of its halves is.
            others: ports.map(|(_, rx)| rx).collect(),
            to,
            buffers,
        })
    }

    /// Sends and receives once.
    fn turn(&mut self) -> Result<Spent> {
        let start = Instant::now();
        for _ in 0..BURSTS {
            for _ in 0..BURST {
                let parts = [(&*self.buffers.next(FRAME)).into()];
                let sent = self.tx.send(&VnetHeader::default(), &Gather::new(&parts));
                if sent != Sent::Done {
                    bail!("A frame to {} was not sent: {sent:?}", self.to);
                }
            }
            self.tx.flush();
        }
        let sending = start.elapsed();
        // Private memory to copy to, as everywhere.
        let buffers = &mut self.buffers;
        let mut spare = [0; FRAME];
        let mut receiving = Duration::ZERO;
        let mut hearers = 0;
        for rx in &mut self.others {
            let start = Instant::now();
            let mut taken = 0;
            loop {
                match rx.recv(BURST, |frame| {
                    frame.bytes.copy_to(&mut spare);
                    Verdict::Taken
                }) {
                    0 => break,
                    n => taken += n,
                }
            }
            if taken > 0 {
                receiving += start.elapsed();
                hearers += 1;
            }
        }
        std::hint::black_box((spare, buffers.count()));
        let frames = (BURST * BURSTS) as f64;
        Ok(Spent {
            sending: sending.as_nanos() as f64 / frames,
            receiving: receiving.as_nanos() as f64 / frames / f64::from(hearers.max(1)),
        })
    }
}

/// Four segments take turns, so that whatever slows this processor for a while slows all of them.
fn frames(folder: &Path, seconds: f64) -> Result<Vec<Cost>> {
    let mut lans = [
        Lan::new(folder, 2, mac(1))?,
        Lan::new(folder, MANY, mac(MANY - 1))?,
        Lan::new(folder, 1 + HEARERS, mac(HEARERS))?,
        Lan::new(folder, 1 + HEARERS, MacAddr::broadcast())?,
    ];
    let start = Instant::now();
    let mut turns = Vec::new();
    while start.elapsed().as_secs_f64() < seconds || turns.is_empty() {
        let [a, b, c, d] = &mut lans;
        turns.push([a.turn()?, b.turn()?, c.turn()?, d.turn()?]);
    }
    let over = |f: &dyn Fn(&[Spent; 4]) -> f64| median(turns.iter().map(f));
    let ratio = |a: usize, b: usize, f: &dyn Fn(&Spent) -> f64| over(&|t| f(&t[a]) / f(&t[b]));
    let sending = |s: &Spent| s.sending;
    let both = |s: &Spent| s.sending + s.receiving;
    let ns = |what: &str, lan: usize, f: &dyn Fn(&Spent) -> f64| {
        Cost::new(what, over(&|t| f(&t[lan])), "ns a frame")
    };
    Ok(vec![
        ns("send, of 2 ports", 0, &sending),
        ns("send and receive, of 2 ports", 0, &both),
        ns("send and receive, of 64 ports", 1, &both).over(ratio(1, 0, &both), "of 2 ports"),
        ns("send to one of 16", 2, &sending),
        ns("send to all 16", 3, &sending).over(ratio(3, 2, &sending), "to one of 16"),
    ])
}

/// Processor time and wake-ups of ports that wait.
fn idle(folder: &Path, seconds: f64) -> Result<Vec<Cost>> {
    let (_segment, ports) = segment(folder, MANY)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers: Vec<Caller> = Vec::new();
    let mut threads = Vec::new();
    for port in ports {
        let (_tx, mut rx) = port.split();
        callers.push(rx.caller());
        let stop = Arc::clone(&stop);
        threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                while rx.recv(BURST, |_| Verdict::Taken) > 0 {}
                rx.wait(Duration::from_secs(3600));
            }
        }));
    }
    // Let them all fall asleep.
    std::thread::sleep(Duration::from_millis(200));
    let (before, start) = (usage()?, Instant::now());
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let (after, elapsed) = (usage()?, start.elapsed().as_secs_f64());
    stop.store(true, Ordering::SeqCst);
    callers.iter().for_each(Caller::call);
    for thread in threads {
        let _ = thread.join();
    }
    let share = (processor_time(&after) - processor_time(&before)) / elapsed;
    let slept = (after.voluntary_context_switches() - before.voluntary_context_switches()) as f64;
    Ok(vec![
        Cost::new("64 idle ports", share * 100.0, "% of a processor"),
        Cost::new(
            "64 idle ports, wake-ups of each",
            slept / elapsed / MANY as f64,
            "a second",
        ),
    ])
}

fn usage() -> Result<Usage> {
    getrusage(UsageWho::RUSAGE_SELF).context("Can't read our own usage")
}

/// Seconds of processor time.
fn processor_time(usage: &Usage) -> f64 {
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    micros as f64 / 1e6
}

/// Memory of a segment after two of its ports have filled their rings with each other's frames.
fn memory(folder: &Path) -> Result<Vec<Cost>> {
    let (segment, mut ports) = segment(folder, MANY)?;
    let empty = segment.allocated_bytes();
    let two: Vec<_> = ports.drain(..2).map(Port::split).collect();
    let [(mut tx0, mut rx0), (mut tx1, mut rx1)] =
        <[_; 2]>::try_from(two).map_err(|_| anyhow::anyhow!("A segment without ports"))?;
    let mut frame = [0; 1500];
    // Round the ring, and once more.
    let bursts = 2 * segment.geometry().ring_bytes() as usize / (BURST * frame.len());
    for _ in 0..=bursts {
        for (tx, rx, from, to) in [(&mut tx0, &mut rx1, 0, 1), (&mut tx1, &mut rx0, 1, 0)] {
            frame[..6].copy_from_slice(&mac(to).octets());
            frame[6..12].copy_from_slice(&mac(from).octets());
            for _ in 0..BURST {
                let parts = [frame.as_slice().into()];
                if tx.send(&VnetHeader::default(), &Gather::new(&parts)) != Sent::Done {
                    bail!("A frame was not sent");
                }
            }
            tx.flush();
            while rx.recv(BURST, |_| Verdict::Taken) > 0 {}
        }
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    Ok(vec![
        Cost::new("64 ports that are silent", mib(empty), "MiB"),
        Cost::new(
            "64 ports, 2 of which talk",
            mib(segment.allocated_bytes()),
            "MiB",
        ),
    ])
}
