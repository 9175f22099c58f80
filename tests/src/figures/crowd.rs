//! Sixteen small guests, started together from the same kernel file: when they are ready, and
//! what they share.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::table::{Goal, Table};
use super::vmm::{Running, Vmm, Wanted};
use super::{FIRST_LINE, Rounds, cost};
use crate::lab::Lab;

const GUESTS: usize = 16;
/// MiB.
const MEMORY: u32 = 64;

/// Words for their kernel. Debian's takes 46 MiB as it is linked, and would fill much of the rest with the files
/// of its tracer until it is "deadlocked on memory".
const ARGUMENTS: &str = "quiet initcall_blacklist=tracer_init_tracefs";

/// For all of them. On two emulated processors they take minutes.
const PATIENCE: Duration = Duration::from_secs(600);

pub(super) fn measure(lab: &Lab, _: Rounds, table: &mut Table) -> Result<()> {
    // Linked: what a bzImage unpacks itself to is shared with nobody.
    let (kernel, initrd) = (lab.path("vmlinux"), lab.path("initrd"));
    let start = |name: &str| {
        let wanted = Wanted {
            name,
            memory: MEMORY,
            kernel: &kernel,
            initrd: &initrd,
            arguments: ARGUMENTS,
            wire: None,
        };
        Vmm::Launcher.start(lab, &wanted)
    };
    // One alone shares its kernel's pages with nobody.
    let mut alone = start("alone")?;
    alone.guest.console.expect(FIRST_LINE, PATIENCE)?;
    let alone_takes = takes(&alone)?;
    drop(alone);

    let begin = Instant::now();
    let mut guests = (0..GUESTS)
        .map(|number| start(&format!("guest{number}")))
        .collect::<Result<Vec<_>>>()?;
    // Each is looked at until it is ready, so that the first and the last are known.
    let mut ready = [None; GUESTS];
    crate::wait::until_true("all guests to be ready", PATIENCE, || {
        for (guest, ready) in guests.iter_mut().zip(&mut ready) {
            if ready.is_none() && guest.guest.console.transcript().contains(FIRST_LINE) {
                *ready = Some(begin.elapsed().as_secs_f64());
            }
        }
        Ok(ready.iter().all(Option::is_some))
    })
    .with_context(|| format!("Ready, in seconds: {ready:?}"))?;
    let seconds = || ready.iter().flatten().copied();
    let (first, last) = (
        seconds().fold(f64::INFINITY, f64::min),
        seconds().fold(0.0, f64::max),
    );
    let mut together = 0.0;
    for guest in &guests {
        together += takes(guest)?;
    }
    table.row(
        "16 guests of 64 MiB: the first is ready after, s",
        first,
        None,
        Goal::None,
    );
    table.row("  the last, s", last, None, Goal::None);
    table.row(
        "  memory of one guest alone, with its launcher, MiB",
        alone_takes,
        None,
        Goal::None,
    );
    table.row(
        "  memory of one of the 16, MiB",
        together / GUESTS as f64,
        None,
        Goal::Below(alone_takes),
    );
    Ok(())
}

/// MiB, the guest's and its VMM's.
fn takes(running: &Running) -> Result<f64> {
    let memory = cost::memory(&running.guest, u64::from(MEMORY) << 20)?;
    Ok((memory.guest + memory.own) / 1024.0)
}
