//! The run loop: block after block, until the budget is used up or the host is needed.
//!
//! Within a block each operation goes on to the next by itself (`exec::handler`), and this loop sees a
//! block's end only. `benches/i386.rs` has how fast that is beside QEMU's compiled code.

use std::sync::atomic::{AtomicBool, Ordering};

use super::blocks::{Blocks, Id};
use super::decode::{LONGEST, Reader};
use super::exit::Exit;
use super::flags::TF;
use super::op::{self, Op, Run};
use super::state::{Core, Leave, Segment};
use crate::engine::lguest::memory::{GuestMemory, PAGE};

/// Instructions between two looks at whether to stop.
const SLICE: u64 = 8192;

/// Runs; see [`super::Cpu::run`].
pub(super) fn run(
    core: &mut Core,
    blocks: &mut Blocks,
    memory: &GuestMemory,
    budget: u64,
    stop: &AtomicBool,
) -> Exit {
    let end = core.retired.saturating_add(budget);
    while core.retired < end {
        if stop.load(Ordering::Relaxed) {
            return Exit::Stopped;
        }
        let until = end.min(core.retired.saturating_add(SLICE));
        if slice(core, blocks, memory, until).is_err() {
            return core.exit;
        }
    }
    Exit::Budget
}

/// Runs until so many instructions were completed. An error: `core.exit` says why.
fn slice(core: &mut Core, blocks: &mut Blocks, memory: &GuestMemory, until: u64) -> Result<(), ()> {
    // Where a direct jump came from, to remember where it led.
    let mut from: Option<(Id, usize)> = None;
    while core.retired < until {
        if memory.has_written() {
            blocks.forget_written(core, memory);
            from = None;
        }
        if !core.mode.plain || core.flags.control & TF != 0 {
            single(core, memory)?;
            from = None;
            continue;
        }
        let stamp = core.paging.stamp();
        let mut id = blocks.find(core, memory, false).map_err(drop)?;
        if let Some((block, way)) = from.take()
            && stamp == core.paging.stamp()
        {
            blocks.link(block, way, id, stamp);
        }
        'linked: loop {
            let (block, ops) = blocks.get(id);
            let count = u64::from(block.count);
            // Again and again as long as it leads to itself: then all is at hand.
            let way = loop {
                if until - core.retired < count {
                    return finish(core, blocks, memory, until);
                }
                let run = op::run(core, memory, ops);
                let way = if let Some(way) = run.way() {
                    way
                } else if run == Run::DONE {
                    core.eip = core.eip.wrapping_add(block.bytes.into());
                    1
                } else {
                    settle(core, run)?;
                    break 'linked;
                };
                core.retired += count;
                match block.linked(way, core.paging.stamp()) {
                    Some(next) if next == id => {}
                    Some(next) => {
                        id = next;
                        continue 'linked;
                    }
                    None => break way,
                }
            };
            from = Some((id, way));
            break;
        }
    }
    Ok(())
}

/// Runs the last instructions of a budget, which end within a block: one operation each.
fn finish(
    core: &mut Core,
    blocks: &mut Blocks,
    memory: &GuestMemory,
    until: u64,
) -> Result<(), ()> {
    let left = until - core.retired;
    if left == 0 {
        return Ok(());
    }
    let id = blocks.find(core, memory, true).map_err(drop)?;
    let (_, ops) = blocks.get(id);
    let part = &ops[..ops.len().min(left as usize)];
    let Some(last) = part.last() else {
        return Ok(());
    };
    let mut run = op::run(core, memory, part);
    if run == Run::DONE {
        run = last.leave(Leave::Written);
    }
    settle(core, run)
}

/// Brings eip and the count up to date when not all of a block was run.
fn settle(core: &mut Core, run: Run) -> Result<(), ()> {
    let Some(leave) = run.left() else {
        return Ok(());
    };
    let [number, at, end] = run.place();
    let before = u64::from(number);
    let here = core.eip.wrapping_add(at.into());
    let next = core.eip.wrapping_add(end.into());
    core.retired += if leave == Leave::Fault {
        before
    } else {
        before + 1
    };
    match leave {
        Leave::Taken | Leave::NotTaken | Leave::Jump => Ok(()),
        Leave::Written => {
            core.eip = next;
            Ok(())
        }
        Leave::Again | Leave::Missed => {
            core.eip = here;
            Ok(())
        }
        Leave::Trap => {
            core.eip = next;
            Err(())
        }
        Leave::Fault => {
            core.eip = here;
            Err(())
        }
    }
}

/// Runs one instruction without keeping it: where cs is not flat, and for single steps.
#[cold]
fn single(core: &mut Core, memory: &GuestMemory) -> Result<(), ()> {
    let stepping = core.flags.control & TF != 0;
    let op = fetch_one(core, memory).map_err(drop)?;
    let mut run = (op.run)(core, memory, &op, &[]);
    if run == Run::DONE {
        run = op.leave(Leave::Written);
    }
    settle(core, run)?;
    if stepping && run.left() != Some(Leave::Again) {
        // Vector 1, a trap: eip is behind the instruction.
        core.fault(1, None);
        return Err(());
    }
    Ok(())
}

/// Decodes one instruction, wherever cs is.
fn fetch_one(core: &mut Core, memory: &GuestMemory) -> Result<Op, Leave> {
    let cs = core.segments[Segment::Cs as usize];
    let linear = cs.base.wrapping_add(core.eip);
    let place = core.fetch(memory, linear)?;
    let mut bytes = [0; LONGEST];
    let in_page = ((PAGE - place % PAGE) as usize).min(LONGEST);
    memory
        .read_bytes(place, &mut bytes[..in_page])
        .map_err(|_| core.beyond(linear))?;
    let mut decoded = Reader::new(&bytes[..in_page], core.mode, cs.wide).next(0);
    if decoded.is_none() && in_page < LONGEST {
        let next = core.fetch(memory, (linear & !(PAGE - 1)).wrapping_add(PAGE))?;
        memory
            .read_bytes(next, &mut bytes[in_page..])
            .map_err(|_| core.beyond(linear))?;
        decoded = Reader::new(&bytes, core.mode, cs.wide).next(0);
    }
    match decoded {
        Some(decoded) if cs.contains(core.eip, decoded.op.end.into()) => Ok(decoded.op),
        // Longer than instructions may be, or not all in the segment.
        _ => Err(core.fault(13, Some(0))),
    }
}
