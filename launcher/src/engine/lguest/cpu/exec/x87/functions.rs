//! What is done to st(0), and perhaps st(1): signs, roots, remainders, transcendental functions.

use super::{begin, push};
use crate::engine::lguest::cpu::fpu::extended::{Class, Environment, Extended, INDEFINITE};
use crate::engine::lguest::cpu::fpu::{
    C0, C1, C2, C3, IE, SF, arithmetic, convert, transcendental,
};
use crate::engine::lguest::cpu::op::Op;
use crate::engine::lguest::cpu::state::{Core, Step};
use crate::engine::lguest::memory::GuestMemory;

/// Instructions of st(0) and perhaps st(1), in `imm`.
pub(in super::super::super) const CHS: u32 = 0;
pub(in super::super::super) const ABS: u32 = 1;
pub(in super::super::super) const XAM: u32 = 2;
pub(in super::super::super) const SQRT: u32 = 3;
pub(in super::super::super) const RNDINT: u32 = 4;
pub(in super::super::super) const SCALE: u32 = 5;
pub(in super::super::super) const PREM: u32 = 6;
pub(in super::super::super) const PREM1: u32 = 7;
pub(in super::super::super) const XTRACT: u32 = 8;
pub(in super::super::super) const SIN: u32 = 9;
pub(in super::super::super) const COS: u32 = 10;
pub(in super::super::super) const SINCOS: u32 = 11;
pub(in super::super::super) const PTAN: u32 = 12;
pub(in super::super::super) const PATAN: u32 = 13;
pub(in super::super::super) const F2XM1: u32 = 14;
pub(in super::super::super) const YL2X: u32 = 15;
pub(in super::super::super) const YL2XP1: u32 = 16;

/// Those instructions.
pub(in super::super::super) fn function(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    begin(core, op)?;
    if op.imm == XAM {
        examine(core);
        return Ok(());
    }
    let partial = matches!(op.imm, SIN | COS | SINCOS | PTAN | PREM | PREM1);
    core.fpu
        .set_condition(if partial { C1 | C2 } else { C1 }, 0);
    let two = matches!(op.imm, SCALE | PREM | PREM1 | PATAN | YL2X | YL2XP1);
    let empty = core.fpu.is_empty(0) || two && core.fpu.is_empty(1);
    let Some(a) = core.fpu.read(0) else {
        return Ok(());
    };
    let b = if two {
        let Some(b) = core.fpu.read(1) else {
            return Ok(());
        };
        b
    } else {
        a
    };
    if matches!(op.imm, XTRACT | SINCOS | PTAN) && !core.fpu.is_empty(7) && !empty {
        // There is no room for the second result: neither is one.
        core.fpu.set_condition(C1, C1);
        return if core.fpu.note(IE | SF) {
            underflown(core, op.imm)
        } else {
            Ok(())
        };
    }
    let mut env = core.fpu.environment();
    match op.imm {
        _ if empty => underflown(core, op.imm),
        CHS => replace(core, a.negated(), &env),
        ABS => replace(core, a.absolute(), &env),
        SQRT => {
            let result = arithmetic::root(a, &mut env);
            replace(core, result, &env)
        }
        RNDINT => {
            let result = arithmetic::round_to_integer(a, &mut env);
            replace(core, result, &env)
        }
        SCALE => {
            let result = arithmetic::scale(a, b, &mut env);
            replace(core, result, &env)
        }
        PREM | PREM1 => {
            let found = arithmetic::remainder(a, b, op.imm == PREM1, &mut env);
            let bit = |n: u32, code: u16| {
                if found.quotient >> n & 1 != 0 {
                    code
                } else {
                    0
                }
            };
            let step = replace(core, found.value, &env);
            if core.fpu.stops(env.exceptions) {
                core.fpu.set_condition(C1 | C2, 0);
                return step;
            }
            let codes = bit(0, C1) | bit(1, C3) | bit(2, C0) | if found.partial { C2 } else { 0 };
            // Without a quotient its bits stay what they were.
            let none = matches!(found.value.class(), Class::Nan { .. });
            let mask = if none { C1 | C2 } else { C0 | C1 | C2 | C3 };
            core.fpu.set_condition(mask, codes);
            step
        }
        XTRACT => {
            let (exponent, significand) = arithmetic::extract(a, &mut env);
            push_second(core, exponent, significand, &env)
        }
        F2XM1 => {
            let result = transcendental::power(a, &mut env);
            replace(core, result, &env)
        }
        PATAN => {
            let result = transcendental::angle(b, a, &mut env);
            replace_two(core, result, &env)
        }
        YL2X | YL2XP1 => {
            let result = transcendental::logarithm(b, a, op.imm == YL2XP1, &mut env);
            replace_two(core, result, &env)
        }
        _ => trigonometric(core, op.imm, a, env),
    }
}

/// The result of what found an empty register, which is noted already.
fn underflown(core: &mut Core, which: u32) -> Step {
    match which {
        PATAN | YL2X | YL2XP1 => {
            core.fpu.write(1, INDEFINITE);
            core.fpu.pop();
        }
        XTRACT | SINCOS | PTAN => {
            core.fpu.write(0, INDEFINITE);
            push(core, INDEFINITE, true);
        }
        _ => {
            if matches!(which, PREM | PREM1) {
                core.fpu.set_condition(C2, 0);
            }
            core.fpu.write(0, INDEFINITE);
        }
    }
    Ok(())
}

fn trigonometric(core: &mut Core, which: u32, a: Extended, mut env: Environment) -> Step {
    if !transcendental::in_range(a) {
        core.fpu.set_condition(C2, C2);
        return Ok(());
    }
    core.fpu.set_condition(C2, 0);
    match which {
        SIN => {
            let result = transcendental::sine(a, &mut env);
            replace(core, result, &env)
        }
        COS => {
            let result = transcendental::cosine(a, &mut env);
            replace(core, result, &env)
        }
        SINCOS => {
            let sine = transcendental::sine(a, &mut env);
            let cosine = transcendental::cosine(a, &mut env);
            push_second(core, sine, cosine, &env)
        }
        _ => {
            let tangent = transcendental::tangent(a, &mut env);
            let one = match tangent.class() {
                Class::Nan { .. } => tangent,
                _ => convert::from_integer(1),
            };
            push_second(core, tangent, one, &env)
        }
    }
}

fn replace(core: &mut Core, result: Extended, env: &Environment) -> Step {
    if core.fpu.settle(env) {
        core.fpu.write(0, result);
    }
    Ok(())
}

/// The result goes to st(1), which becomes the top.
fn replace_two(core: &mut Core, result: Extended, env: &Environment) -> Step {
    if core.fpu.settle(env) {
        core.fpu.write(1, result);
        core.fpu.pop();
    }
    Ok(())
}

/// One result replaces st(0), the other is pushed.
fn push_second(core: &mut Core, first: Extended, second: Extended, env: &Environment) -> Step {
    if core.fpu.settle(env) {
        core.fpu.write(0, first);
        core.fpu.push(second);
    }
    Ok(())
}

/// `fxam`.
fn examine(core: &mut Core) {
    let value = core.fpu.raw(0);
    let class = if core.fpu.is_empty(0) {
        C3 | C0
    } else {
        match value.class() {
            Class::Unsupported => 0,
            Class::Nan { .. } => C0,
            Class::Infinite => C2 | C0,
            Class::Zero => C3,
            Class::Finite(_) if value.exponent() == 0 => C3 | C2,
            Class::Finite(_) => C2,
        }
    };
    let sign = if value.sign() { C1 } else { 0 };
    core.fpu.set_condition(C0 | C1 | C2 | C3, class | sign);
}
