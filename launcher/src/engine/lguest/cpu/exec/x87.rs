//! The x87 instructions. They are rare in kernels and libcs, so what an instruction does is asked when
//! it runs: an operation's `imm` says it, the bits of which are the constants below.

use crate::engine::lguest::cpu::flags::{CF, PF, ZF};
use crate::engine::lguest::cpu::fpu::arithmetic::{self, Order, compare};
use crate::engine::lguest::cpu::fpu::extended::{Class, Environment, Extended, INDEFINITE};
use crate::engine::lguest::cpu::fpu::{C0, C1, C2, C3, IE, PE, SF, convert, transcendental};
use crate::engine::lguest::cpu::op::{Op, Width};
use crate::engine::lguest::cpu::state::{Core, Leave, Outcome, Segment, Step};
use crate::engine::lguest::memory::GuestMemory;

use super::branch::Condition;

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

/// The two-operand operations, as machine code numbers them.
pub(in super::super) const ADD: u32 = 0;
pub(in super::super) const MUL: u32 = 1;
pub(in super::super) const SUB: u32 = 4;
pub(in super::super) const SUBR: u32 = 5;
pub(in super::super) const DIV: u32 = 6;
pub(in super::super) const DIVR: u32 = 7;
/// Pops once, or with 2 twice: in bits 4 and 5.
pub(in super::super) const POP: u32 = 1 << 4;
/// A comparison that takes quiet NaNs.
pub(in super::super) const QUIET: u32 = 1 << 6;
/// A comparison that goes to eflags.
pub(in super::super) const FLAGS: u32 = 1 << 7;

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

/// `fld` and its kin: pushes a memory operand.
pub(in super::super) fn load(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
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
pub(in super::super) fn store(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
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
pub(in super::super) fn with_memory(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
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
pub(in super::super) fn between(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
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
pub(in super::super) fn compare_memory(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    begin(core, op)?;
    let mut env = core.fpu.environment();
    let b = read(core, memory, op, &mut env)?;
    note_operand(core, op);
    compare_with(core, op, Some(b), env);
    Ok(())
}

/// `fcom` and its kin, of st(0) with st(`other`).
pub(in super::super) fn compare_register(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
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
pub(in super::super) fn test(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    begin(core, op)?;
    let env = core.fpu.environment();
    compare_with(core, op, Some(Extended::zero(false)), env);
    Ok(())
}

/// `fld` of a register.
pub(in super::super) fn load_register(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    begin(core, op)?;
    let empty = core.fpu.is_empty(op.reg);
    if let Some(value) = core.fpu.read(op.reg) {
        push(core, value, empty);
    }
    Ok(())
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

/// `fst` to a register.
pub(in super::super) fn store_register(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    begin(core, op)?;
    core.fpu.set_condition(C1, 0);
    if let Some(value) = core.fpu.read(0) {
        core.fpu.write(op.reg, value);
        pops(core, op);
    }
    Ok(())
}

/// `fxch`.
pub(in super::super) fn exchange(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
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
pub(in super::super) fn move_if<C: Condition>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
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
pub(in super::super) fn constant(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
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

/// Instructions of st(0) and perhaps st(1), in `imm`.
pub(in super::super) const CHS: u32 = 0;
pub(in super::super) const ABS: u32 = 1;
pub(in super::super) const XAM: u32 = 2;
pub(in super::super) const SQRT: u32 = 3;
pub(in super::super) const RNDINT: u32 = 4;
pub(in super::super) const SCALE: u32 = 5;
pub(in super::super) const PREM: u32 = 6;
pub(in super::super) const PREM1: u32 = 7;
pub(in super::super) const XTRACT: u32 = 8;
pub(in super::super) const SIN: u32 = 9;
pub(in super::super) const COS: u32 = 10;
pub(in super::super) const SINCOS: u32 = 11;
pub(in super::super) const PTAN: u32 = 12;
pub(in super::super) const PATAN: u32 = 13;
pub(in super::super) const F2XM1: u32 = 14;
pub(in super::super) const YL2X: u32 = 15;
pub(in super::super) const YL2XP1: u32 = 16;

/// Those instructions.
pub(in super::super) fn function(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
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

/// Instructions that change only the unit's own state.
pub(in super::super) const INIT: u32 = 0;
pub(in super::super) const CLEAR: u32 = 1;
pub(in super::super) const NOTHING: u32 = 2;
pub(in super::super) const INCREMENT: u32 = 3;
pub(in super::super) const DECREMENT: u32 = 4;
pub(in super::super) const FREE: u32 = 5;
/// `ffreep`, undocumented and everywhere.
pub(in super::super) const FREE_AND_POP: u32 = 6;

/// Those instructions.
pub(in super::super) fn own_state(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    match op.imm {
        INIT => {
            control(core)?;
            core.fpu.initialize();
            return Ok(());
        }
        CLEAR => {
            control(core)?;
            core.fpu.clear_exceptions();
            return Ok(());
        }
        _ => begin(core, op)?,
    }
    match op.imm {
        INCREMENT => core.fpu.rotate(1),
        DECREMENT => core.fpu.rotate(7),
        FREE => core.fpu.free(op.reg),
        FREE_AND_POP => {
            core.fpu.free(op.reg);
            core.fpu.pop();
        }
        _ => {}
    }
    if matches!(op.imm, INCREMENT | DECREMENT) {
        core.fpu.set_condition(C1, 0);
    }
    Ok(())
}

/// `fnstsw` and `fnstcw`: `imm` 0 the status, 1 the control word; to ax, or memory.
pub(in super::super) fn store_word(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    control(core)?;
    let word = if op.imm & 1 != 0 {
        core.fpu.control
    } else {
        core.fpu.status()
    };
    if op.imm & TO_AX != 0 {
        u16::set(core, 0, word.into());
        return Ok(());
    }
    write_bytes(core, memory, op, &word.to_le_bytes())
}

/// The word goes to ax.
pub(in super::super) const TO_AX: u32 = 2;

/// `fldcw`.
pub(in super::super) fn load_control(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    wait(core)?;
    let word = u16::from_le_bytes(read_bytes(core, memory, op)?);
    core.fpu.set_control(word);
    Ok(())
}

/// Images are of 16 bits a word.
pub(in super::super) const NARROW: u32 = 1;
/// With the registers: `fnsave` and `frstor`.
pub(in super::super) const WHOLE: u32 = 2;
/// The longest image, in bytes.
const IMAGE: usize = 28 + 80;

/// `fnstenv` and `fnsave`.
pub(in super::super) fn store_image(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    control(core)?;
    let mut bytes = [0; IMAGE];
    let mut end = 0;
    let mut put = |part: &[u8]| {
        bytes[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    };
    for word in core.fpu.image() {
        if op.imm & NARROW != 0 {
            put(&(word as u16).to_le_bytes());
        } else {
            put(&word.to_le_bytes());
        }
    }
    if op.imm & WHOLE != 0 {
        for n in 0..8 {
            put(&extended_to(core.fpu.raw(n)));
        }
    }
    let step = write_bytes(core, memory, op, &bytes[..end]);
    if step == Err(Leave::Fault) {
        return step;
    }
    if op.imm & WHOLE != 0 {
        core.fpu.initialize();
    } else {
        // Storing the environment masks everything.
        let control = core.fpu.control | 0x3F;
        core.fpu.set_control(control);
    }
    step
}

/// `fldenv` and `frstor`.
pub(in super::super) fn load_image(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    wait(core)?;
    let narrow = op.imm & NARROW != 0;
    let head = if narrow { 14 } else { 28 };
    let all = if op.imm & WHOLE != 0 { head + 80 } else { head };
    let linear = operand(core, op, all, false)?;
    let mut bytes = [0; IMAGE];
    for n in 0..all / 2 {
        let word = core.load::<u16>(memory, linear.wrapping_add(2 * n))? as u16;
        bytes[2 * n as usize..][..2].copy_from_slice(&word.to_le_bytes());
    }
    let mut image = [0; 7];
    for (n, word) in image.iter_mut().enumerate() {
        *word = if narrow {
            u16::from_le_bytes([bytes[2 * n], bytes[2 * n + 1]]).into()
        } else {
            u32::from_le_bytes([
                bytes[4 * n],
                bytes[4 * n + 1],
                bytes[4 * n + 2],
                bytes[4 * n + 3],
            ])
        };
    }
    core.fpu.set_image(&image);
    if op.imm & WHOLE != 0 {
        for n in 0..8 {
            let mut ten = [0; 10];
            ten.copy_from_slice(&bytes[head as usize + 10 * n..][..10]);
            core.fpu.restore(n as u8, extended_from(&ten));
        }
    }
    Ok(())
}
