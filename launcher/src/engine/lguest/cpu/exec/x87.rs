//! The x87 instructions. They are rare in kernels and libcs, so what an instruction does is asked when
//! it runs: an operation's `imm` says it, the bits of which are the constants below.
//!
//! Here is what all of them begin with, and how they reach memory; a family a file is behind.

mod calculate;
mod compare;
mod functions;
mod moves;
mod unit;

use crate::engine::lguest::cpu::fpu::convert;
use crate::engine::lguest::cpu::fpu::extended::{Environment, Extended, INDEFINITE};
use crate::engine::lguest::cpu::op::Op;
use crate::engine::lguest::cpu::state::{Core, Outcome, Segment, Step};
use crate::engine::lguest::memory::GuestMemory;

pub(in super::super) use calculate::*;
pub(in super::super) use compare::*;
pub(in super::super) use functions::*;
pub(in super::super) use moves::*;
pub(in super::super) use unit::*;

/// The format of a memory operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Size {
    Single,
    Double,
    Extended,
    Word,
    Long,
    Quad,
    Decimal,
}

impl Size {
    const ALL: [Self; 7] = [
        Self::Single,
        Self::Double,
        Self::Extended,
        Self::Word,
        Self::Long,
        Self::Quad,
        Self::Decimal,
    ];

    fn of(op: &Op) -> Self {
        Self::ALL[(op.imm >> 8) as usize % 7]
    }

    fn bytes(self) -> u32 {
        match self {
            Self::Word => 2,
            Self::Single | Self::Long => 4,
            Self::Double | Self::Quad => 8,
            Self::Extended | Self::Decimal => 10,
        }
    }
}

/// Pops once, or with 2 twice: in bits 4 and 5.
pub(in super::super) const POP: u32 = 1 << 4;

/// What begins all but control instructions: #NM, #MF; and notes where it is.
fn begin(core: &mut Core, op: &Op) -> Step {
    wait(core)?;
    let selector = core.segments[Segment::Cs as usize].selector;
    core.fpu.last_code = (op.eip(core), selector);
    Ok(())
}

/// What begins control instructions: #NM.
fn control(core: &mut Core) -> Step {
    if core.task_switched {
        Err(core.fault(7, None))
    } else {
        Ok(())
    }
}

fn wait(core: &mut Core) -> Step {
    control(core)?;
    if core.fpu.pending() {
        Err(core.fault(16, None))
    } else {
        Ok(())
    }
}

/// `fwait`.
pub(in super::super) fn fwait(core: &mut Core, _: &GuestMemory, _: &Op) -> Step {
    wait(core)
}

/// The linear address of the operand.
fn operand(core: &mut Core, op: &Op, bytes: u32, write: bool) -> Outcome<u32> {
    core.linear(op.segment(), op.offset_any(core), bytes, write)
}

fn note_operand(core: &mut Core, op: &Op) {
    let selector = core.segments[op.segment() as usize].selector;
    core.fpu.last_data = (op.offset_any(core), selector);
}

fn read_bytes<const N: usize>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Outcome<[u8; N]> {
    let linear = operand(core, op, N as u32, false)?;
    let mut bytes = [0; N];
    for (n, pair) in bytes.chunks_mut(2).enumerate() {
        let word = core.load::<u16>(memory, linear.wrapping_add(2 * n as u32))?;
        pair.copy_from_slice(&(word as u16).to_le_bytes()[..pair.len()]);
    }
    Ok(bytes)
}

/// Writes an even number of bytes, all or none.
fn write_bytes(core: &mut Core, memory: &GuestMemory, op: &Op, bytes: &[u8]) -> Step {
    let linear = opened(core, memory, op, bytes.len() as u32)?;
    let mut step = Ok(());
    for (n, pair) in bytes.chunks_exact(2).enumerate() {
        let word = u16::from_le_bytes([pair[0], pair[1]]);
        let stored = core.store::<u16>(memory, linear.wrapping_add(2 * n as u32), word.into());
        step = step.and(stored);
    }
    step
}

fn opened(core: &mut Core, memory: &GuestMemory, op: &Op, bytes: u32) -> Outcome<u32> {
    let linear = operand(core, op, bytes, true)?;
    core.open_range(memory, linear, bytes)?;
    Ok(linear)
}

/// Reads a memory operand as a number.
fn read(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
    env: &mut Environment,
) -> Outcome<Extended> {
    Ok(match Size::of(op) {
        Size::Single => {
            convert::from_single(u32::from_le_bytes(read_bytes(core, memory, op)?), env)
        }
        Size::Double => {
            convert::from_double(u64::from_le_bytes(read_bytes(core, memory, op)?), env)
        }
        Size::Extended => extended_from(&read_bytes(core, memory, op)?),
        Size::Word => {
            convert::from_integer(i16::from_le_bytes(read_bytes(core, memory, op)?).into())
        }
        Size::Long => {
            convert::from_integer(i32::from_le_bytes(read_bytes(core, memory, op)?).into())
        }
        Size::Quad => convert::from_integer(i64::from_le_bytes(read_bytes(core, memory, op)?)),
        Size::Decimal => convert::from_decimal(&read_bytes(core, memory, op)?),
    })
}

fn extended_from(bytes: &[u8; 10]) -> Extended {
    let mut low = [0; 8];
    low.copy_from_slice(&bytes[..8]);
    Extended {
        low: u64::from_le_bytes(low),
        high: u16::from_le_bytes([bytes[8], bytes[9]]),
    }
}

fn extended_to(value: Extended) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&value.low.to_le_bytes());
    bytes[8..].copy_from_slice(&value.high.to_le_bytes());
    bytes
}

fn pops(core: &mut Core, op: &Op) {
    for _ in 0..op.imm >> 4 & 3 {
        core.fpu.pop();
    }
}

/// Pushes; after an underflow nobody looks for an overflow as well.
fn push(core: &mut Core, value: Extended, underflow: bool) {
    if underflow {
        core.fpu.rotate(7);
        core.fpu.write(0, INDEFINITE);
    } else {
        core.fpu.push(value);
    }
}
