//! Comparisons, whose outcome goes to the condition codes or to eflags.

use super::{begin, note_operand, pops, read};
use crate::engine::lguest::cpu::flags::{CF, PF, ZF};
use crate::engine::lguest::cpu::fpu::arithmetic::{Order, compare};
use crate::engine::lguest::cpu::fpu::extended::{Environment, Extended, INDEFINITE};
use crate::engine::lguest::cpu::fpu::{C0, C1, C2, C3, IE, SF};
use crate::engine::lguest::cpu::op::Op;
use crate::engine::lguest::cpu::state::{Core, Step};
use crate::engine::lguest::memory::GuestMemory;

/// A comparison that takes quiet NaNs.
pub(in super::super::super) const QUIET: u32 = 1 << 6;
/// A comparison that goes to eflags.
pub(in super::super::super) const FLAGS: u32 = 1 << 7;

/// Puts the outcome of a comparison where it belongs.
fn compared(core: &mut Core, op: &Op, order: Order) {
    let [zf, pf, cf] = match order {
        Order::Greater => [false, false, false],
        Order::Less => [false, false, true],
        Order::Equal => [true, false, false],
        Order::Unordered => [true, true, true],
    };
    let pick = |on: bool, bit: u32| if on { bit } else { 0 };
    if op.imm & FLAGS != 0 {
        let flags = pick(zf, ZF) | pick(pf, PF) | pick(cf, CF);
        core.flags.set_arithmetic(flags);
    } else {
        let codes = pick(zf, C3.into()) | pick(pf, C2.into()) | pick(cf, C0.into());
        core.fpu.set_condition(C0 | C1 | C2 | C3, codes as u16);
    }
}

fn compare_with(core: &mut Core, op: &Op, b: Option<Extended>, mut env: Environment) {
    let empty = core.fpu.is_empty(0)
        || b.is_none()
        || op.imm & FROM_REGISTER != 0 && core.fpu.is_empty(op.other);
    if empty {
        core.fpu.set_condition(C1, 0);
        compared(core, op, Order::Unordered);
        if core.fpu.note(IE | SF) {
            pops(core, op);
        }
        return;
    }
    let (a, b) = (core.fpu.raw(0), b.unwrap_or(INDEFINITE));
    let order = compare(a, b, op.imm & QUIET != 0, &mut env);
    env.outrank_denormal(a, b);
    compared(core, op, order);
    if core.fpu.note(env.exceptions) {
        pops(core, op);
    }
}

/// The other operand of a comparison is a register.
const FROM_REGISTER: u32 = 1 << 12;

/// `fcom` and its kin, with a memory operand.
pub(in super::super::super) fn compare_memory(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    begin(core, op)?;
    let mut env = core.fpu.environment();
    let b = read(core, memory, op, &mut env)?;
    note_operand(core, op);
    compare_with(core, op, Some(b), env);
    Ok(())
}

/// `fcom` and its kin, of st(0) with st(`other`).
pub(in super::super::super) fn compare_register(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    begin(core, op)?;
    let b = core.fpu.raw(op.other);
    let op = Op {
        imm: op.imm | FROM_REGISTER,
        ..*op
    };
    let env = core.fpu.environment();
    compare_with(core, &op, Some(b), env);
    Ok(())
}

/// `ftst`.
pub(in super::super::super) fn test(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    begin(core, op)?;
    let env = core.fpu.environment();
    compare_with(core, op, Some(Extended::zero(false)), env);
    Ok(())
}
