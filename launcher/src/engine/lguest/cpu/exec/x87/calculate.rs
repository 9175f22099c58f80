//! Addition and its kin, on two operands.

use super::{begin, note_operand, pops, read};
use crate::engine::lguest::cpu::fpu::arithmetic;
use crate::engine::lguest::cpu::fpu::extended::{Environment, Extended, INDEFINITE};
use crate::engine::lguest::cpu::op::Op;
use crate::engine::lguest::cpu::state::{Core, Step};
use crate::engine::lguest::memory::GuestMemory;

/// The two-operand operations, as machine code numbers them.
pub(in super::super::super) const ADD: u32 = 0;
pub(in super::super::super) const MUL: u32 = 1;
pub(in super::super::super) const SUB: u32 = 4;
pub(in super::super::super) const SUBR: u32 = 5;
pub(in super::super::super) const DIV: u32 = 6;
pub(in super::super::super) const DIVR: u32 = 7;

fn combine(operation: u32, a: Extended, b: Extended, env: &mut Environment) -> Extended {
    match operation & 7 {
        ADD => arithmetic::add(a, b, env),
        MUL => arithmetic::multiply(a, b, env),
        SUB => arithmetic::subtract(a, b, env),
        SUBR => arithmetic::subtract(b, a, env),
        DIV => arithmetic::divide(a, b, env),
        _ => arithmetic::divide(b, a, env),
    }
}

/// `fadd` and its kin, with a memory operand.
pub(in super::super::super) fn with_memory(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    begin(core, op)?;
    let mut env = core.fpu.environment();
    let b = read(core, memory, op, &mut env)?;
    note_operand(core, op);
    if let Some(a) = core.fpu.read(0) {
        let empty = core.fpu.is_empty(0);
        let result = if empty {
            INDEFINITE
        } else {
            let result = combine(op.imm, a, b, &mut env);
            env.outrank_denormal(a, b);
            result
        };
        if empty || core.fpu.settle(&env) {
            core.fpu.write(0, result);
        }
    }
    Ok(())
}

/// `fadd` and its kin, between registers: `reg` and `other`, to `reg`.
pub(in super::super::super) fn between(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    begin(core, op)?;
    let empty = core.fpu.is_empty(op.reg) || core.fpu.is_empty(op.other);
    let (Some(a), Some(b)) = (core.fpu.read(op.reg), core.fpu.read(op.other)) else {
        return Ok(());
    };
    let mut env = core.fpu.environment();
    let result = if empty {
        INDEFINITE
    } else {
        combine(op.imm, a, b, &mut env)
    };
    if empty || core.fpu.settle(&env) {
        core.fpu.write(op.reg, result);
        pops(core, op);
    }
    Ok(())
}
