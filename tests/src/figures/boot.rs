//! From the VMM's start to the guest's first line of user space: time, processor time; and what
//! the VMM then takes of the host's memory besides the guest's own.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::table::{Goal, Table, median};
use super::vmm::{BOTH, Vmm, Wanted};
use super::{FIRST_LINE, Rounds, cost, tried};
use crate::lab::Lab;
use crate::machine;

/// MiB of the guest: the least a Debian kernel unpacks itself in, and some.
const MEMORY: u32 = 128;

/// Emulated, and with others on the machine, it takes half a minute.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Taken {
    seconds: Vec<f64>,
    processor: Vec<f64>,
    own: Vec<f64>,
}

pub(super) fn measure(lab: &Lab, rounds: Rounds, table: &mut Table) -> Result<()> {
    let mut taken = [Taken::default(), Taken::default()];
    for round in 1..=rounds.0 {
        for (vmm, taken) in BOTH.iter().zip(&mut taken) {
            tried(|| once(lab, *vmm, taken))?;
            eprintln!(
                "boot {round}, {vmm:?}: {:.2?} s, {:.2?} s of processor time",
                taken.seconds.last(),
                taken.processor.last()
            );
        }
    }
    let [ours, theirs] = taken;
    let mut row = |what, ours, theirs, goal| {
        table.row(what, median(ours), Some(median(theirs)), goal);
    };
    row(
        "start to first line of user space, s",
        ours.seconds,
        theirs.seconds,
        Goal::Times(1.3),
    );
    row(
        "the same, processor time of the process, s",
        ours.processor,
        theirs.processor,
        Goal::Times(1.3),
    );
    row(
        "memory beyond the guest's, MiB",
        ours.own.clone(),
        theirs.own,
        Goal::Times(4.0),
    );
    table.row("the same", median(ours.own), None, Goal::Below(5.0));
    Ok(())
}

fn once(lab: &Lab, vmm: Vmm, taken: &mut Taken) -> Result<()> {
    let kernel = machine::image()?.kernel;
    let initrd = lab.path("initrd");
    let wanted = Wanted {
        name: "small",
        memory: MEMORY,
        kernel: &kernel,
        initrd: &initrd,
        arguments: "quiet",
        wire: None,
    };
    let begin = Instant::now();
    let mut running = vmm.start(lab, &wanted)?;
    running.guest.console.expect(FIRST_LINE, PATIENCE)?;
    let seconds = begin.elapsed().as_secs_f64();
    let processor = cost::processor_time(&running.guest)?.as_secs_f64();
    let memory = cost::memory(&running.guest, u64::from(MEMORY) << 20)?;
    taken.seconds.push(seconds);
    taken.processor.push(processor);
    taken.own.push(memory.own / 1024.0);
    Ok(())
}
