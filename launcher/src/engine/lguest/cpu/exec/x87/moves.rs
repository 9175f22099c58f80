//! What brings values in and out, and about: loads, stores, exchanges, constants.

use super::{Size, begin, extended_to, note_operand, opened, pops, push, read, write_bytes};
use crate::engine::lguest::cpu::exec::branch::Condition;
use crate::engine::lguest::cpu::fpu::extended::{Extended, INDEFINITE};
use crate::engine::lguest::cpu::fpu::{C1, IE, PE, convert};
use crate::engine::lguest::cpu::op::Op;
use crate::engine::lguest::cpu::state::{Core, Step};
use crate::engine::lguest::memory::GuestMemory;

/// `fld` and its kin: pushes a memory operand.
pub(in super::super::super) fn load(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    begin(core, op)?;
    let mut env = core.fpu.environment();
    let value = read(core, memory, op, &mut env)?;
    note_operand(core, op);
    // Of a number for which there is no room nothing else is said; and one that is denormal is there,
    // whoever is told.
    let full = !core.fpu.is_empty(7);
    if full || core.fpu.note(env.exceptions) || env.exceptions & IE == 0 {
        core.fpu.push(value);
    }
    Ok(())
}

/// `fst` and its kin, to memory.
pub(in super::super::super) fn store(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    begin(core, op)?;
    let size = Size::of(op);
    opened(core, memory, op, size.bytes())?;
    note_operand(core, op);
    let Some(value) = core.fpu.read(0) else {
        return Ok(());
    };
    let empty = core.fpu.is_empty(0);
    let mut env = core.fpu.environment();
    let mut bytes = [0; 10];
    match size {
        Size::Single => {
            bytes[..4].copy_from_slice(&convert::to_single(value, &mut env).to_le_bytes())
        }
        Size::Double => {
            bytes[..8].copy_from_slice(&convert::to_double(value, &mut env).to_le_bytes())
        }
        Size::Extended => bytes = extended_to(value),
        Size::Word => bytes[..2]
            .copy_from_slice(&(convert::to_integer(value, 16, &mut env) as i16).to_le_bytes()),
        Size::Long => bytes[..4]
            .copy_from_slice(&(convert::to_integer(value, 32, &mut env) as i32).to_le_bytes()),
        Size::Quad => {
            bytes[..8].copy_from_slice(&convert::to_integer(value, 64, &mut env).to_le_bytes())
        }
        Size::Decimal => bytes = convert::to_decimal(value, &mut env),
    }
    // To memory, unmasked overflow and underflow store nothing either.
    if core.fpu.stops_store(&env) {
        env.exceptions &= !PE; // nothing is cut off where nothing is stored
    }
    let kept = empty || core.fpu.settle(&env) && !core.fpu.stops_store(&env);
    if !kept {
        return Ok(());
    }
    let step = write_bytes(core, memory, op, &bytes[..size.bytes() as usize]);
    pops(core, op);
    step
}

/// `fld` of a register.
pub(in super::super::super) fn load_register(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    begin(core, op)?;
    let empty = core.fpu.is_empty(op.reg);
    if let Some(value) = core.fpu.read(op.reg) {
        push(core, value, empty);
    }
    Ok(())
}

/// `fst` to a register.
pub(in super::super::super) fn store_register(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    begin(core, op)?;
    core.fpu.set_condition(C1, 0);
    if let Some(value) = core.fpu.read(0) {
        core.fpu.write(op.reg, value);
        pops(core, op);
    }
    Ok(())
}

/// `fxch`.
pub(in super::super::super) fn exchange(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    begin(core, op)?;
    core.fpu.set_condition(C1, 0);
    let (Some(a), Some(b)) = (core.fpu.read(0), core.fpu.read(op.other)) else {
        return Ok(());
    };
    core.fpu.write(0, b);
    core.fpu.write(op.other, a);
    Ok(())
}

/// `fcmovcc`.
pub(in super::super::super) fn move_if<C: Condition>(
    core: &mut Core,
    _: &GuestMemory,
    op: &Op,
) -> Step {
    begin(core, op)?;
    let empty = core.fpu.is_empty(0) || core.fpu.is_empty(op.other);
    let (Some(_), Some(value)) = (core.fpu.read(0), core.fpu.read(op.other)) else {
        return Ok(());
    };
    if empty {
        core.fpu.write(0, INDEFINITE);
    } else if C::holds(&core.flags) {
        core.fpu.write(0, value);
    }
    Ok(())
}

/// The constants, in the order of their opcodes: exponent, significand cut, and the next bit and
/// whether more follows, for rounding.
const CONSTANTS: [(u16, u64, bool); 7] = [
    (0x3FFF, 0x8000_0000_0000_0000, false),
    // log2 of 10
    (0x4000, 0xD49A_784B_CD1B_8AFE, false),
    // log2 of e
    (0x3FFF, 0xB8AA_3B29_5C17_F0BB, true),
    // pi
    (0x4000, 0xC90F_DAA2_2168_C234, true),
    // log10 of 2
    (0x3FFD, 0x9A20_9A84_FBCF_F798, true),
    // ln of 2
    (0x3FFE, 0xB172_17F7_D1CF_79AB, true),
    (0, 0, false),
];

/// `fld1` and its kin; `imm` counts opcodes from there.
pub(in super::super::super) fn constant(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    begin(core, op)?;
    let n = op.imm as usize % 7;
    let (exponent, cut, half) = CONSTANTS[n];
    let inexact = !matches!(n, 0 | 6);
    let env = core.fpu.environment();
    let up = inexact && env.rounds_up(false, cut & 1 != 0, half, true);
    core.fpu
        .push(Extended::new(false, exponent, cut + u64::from(up)));
    Ok(())
}
