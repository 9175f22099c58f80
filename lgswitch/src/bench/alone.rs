//! What one process finds out alone: the cost of sending, of being many, and of waiting.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use pnet_base::MacAddr;

use super::{BURST, Measured};
use crate::frame::{Gather, VnetHeader};
use crate::port::{Caller, Port, PortOptions, Verdict};
use crate::segment::Segment;

const FRAME: usize = 64;

/// Copies `size` bytes twice, out of one private buffer into another and out of that into a third: what
/// no transport that copies twice can be faster than.
pub fn memcpy(size: usize, seconds: f64) -> Measured {
    let buffers = super::BUFFERS;
    let mut memory = [(); 3].map(|()| vec![1u8; size * buffers]);
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed().as_secs_f64() < seconds {
        let [a, b, c] = &mut memory;
        for i in (0..buffers).map(|i| i * size) {
            b[i..i + size].copy_from_slice(std::hint::black_box(&a[i..i + size]));
            c[i..i + size].copy_from_slice(std::hint::black_box(&b[i..i + size]));
        }
        count += buffers as u64;
    }
    Measured {
        count,
        bytes: count * size as u64,
        seconds: start.elapsed().as_secs_f64(),
        ..Measured::default()
    }
}

fn port(segment: &Arc<Segment>, n: usize) -> Result<Port> {
    let [high, low] = (n as u16).to_be_bytes();
    let mac = Some(MacAddr(2, 0, 0, 1, high, low));
    let name = format!("bench {n}");
    let options = PortOptions {
        mac,
        name,
        ..PortOptions::default()
    };
    Ok(segment.port(options)?)
}

/// What sending costs the sender, a burst at a time, with `receivers` others who are up: to one of
/// them, or to all. They take what comes between the timed bursts.
pub fn sending(path: &Path, receivers: usize, broadcast: bool, seconds: f64) -> Result<Measured> {
    let segment = Segment::open(path)?;
    let (mut tx, _rx) = port(&segment, 0)?.split();
    let others = (1..=receivers).map(|n| Ok(port(&segment, n)?.split()));
    let mut others = others.collect::<Result<Vec<_>>>()?;
    let to = match broadcast {
        true => MacAddr::broadcast(),
        false => MacAddr(2, 0, 0, 1, 0, 1),
    };
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&to.octets());
    frame[6..12].copy_from_slice(&[2, 0, 0, 1, 0, 0]);
    let parts = [frame.as_slice().into()];
    let gather = Gather::new(&parts);
    let start = Instant::now();
    let mut result = Measured::default();
    let mut spent = Duration::ZERO;
    while start.elapsed().as_secs_f64() < seconds {
        let burst = Instant::now();
        for _ in 0..BURST {
            tx.send(&VnetHeader::default(), &gather);
        }
        tx.flush();
        spent += burst.elapsed();
        result.count += BURST as u64;
        for (_, rx) in &mut others {
            while rx.recv(BURST, |_| Verdict::Taken) > 0 {}
        }
    }
    result.seconds = spent.as_secs_f64();
    Ok(result)
}

/// Processor time that `ports` waiting ports take, as a share of one processor.
pub fn idle(path: &Path, ports: usize, seconds: f64) -> Result<f64> {
    let segment = Segment::open(path)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers: Vec<Caller> = Vec::new();
    let mut threads = Vec::new();
    for n in 0..ports {
        let (_tx, mut rx) = port(&segment, n)?.split();
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
    let (before, start) = (processor_time()?, Instant::now());
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let share = (processor_time()? - before) / start.elapsed().as_secs_f64();
    stop.store(true, Ordering::SeqCst);
    callers.iter().for_each(Caller::call);
    for thread in threads {
        let _ = thread.join();
    }
    Ok(share)
}

/// Seconds of processor time this process has used.
fn processor_time() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("Can't read our own usage")?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(micros as f64 / 1e6)
}
