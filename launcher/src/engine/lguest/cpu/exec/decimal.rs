//! Decimal adjustment, and the moves between ah and the flags.

use super::arithmetic::logic;
use crate::engine::lguest::cpu::flags::{AF, ARITHMETIC, CF, OF};
use crate::engine::lguest::cpu::op::{Op, Width};
use crate::engine::lguest::cpu::state::{Core, Step};
use crate::engine::lguest::memory::GuestMemory;

const AL: u8 = 0;
const AH: u8 = 4;
const AX: u8 = 0;

/// Sets flags by the result in al, with these carries.
fn settle(core: &mut Core, al: u32, af: bool, cf: bool) {
    u8::set(core, AL, al);
    logic::<u8>(&mut core.flags, al & 0xFF);
    core.flags.set_carry_overflow(cf, false);
    core.flags.fix = if af { AF } else { 0 };
}

fn adjust_packed<const SUBTRACT: bool>(core: &mut Core) -> Step {
    let old = u8::get(core, AL);
    let old_carry = core.flags.cf();
    let low = old & 0xF > 9 || core.flags.af();
    let high = old > 0x99 || old_carry;
    let correction = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
    // After subtraction the correction of the low digit can borrow on its own.
    let borrowed = SUBTRACT && low && old < 6;
    let new = if SUBTRACT {
        old.wrapping_sub(correction)
    } else {
        old + correction
    };
    settle(core, new, low, high || borrowed);
    Ok(())
}

/// `daa`.
pub(in super::super) fn daa(core: &mut Core, _: &GuestMemory, _: &Op) -> Step {
    adjust_packed::<false>(core)
}

/// `das`.
pub(in super::super) fn das(core: &mut Core, _: &GuestMemory, _: &Op) -> Step {
    adjust_packed::<true>(core)
}

fn adjust_digit<const SUBTRACT: bool>(core: &mut Core) -> Step {
    let carried = u8::get(core, AL) & 0xF > 9 || core.flags.af();
    if carried {
        let ax = u16::get(core, AX);
        u16::set(
            core,
            AX,
            if SUBTRACT {
                ax.wrapping_sub(0x106)
            } else {
                ax.wrapping_add(0x106)
            },
        );
    }
    let digit = u8::get(core, AL) & 0xF;
    settle(core, digit, carried, carried);
    Ok(())
}

/// `aaa`.
pub(in super::super) fn aaa(core: &mut Core, _: &GuestMemory, _: &Op) -> Step {
    adjust_digit::<false>(core)
}

/// `aas`.
pub(in super::super) fn aas(core: &mut Core, _: &GuestMemory, _: &Op) -> Step {
    adjust_digit::<true>(core)
}

/// `aam`, whose base is its immediate.
pub(in super::super) fn aam(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let al = u8::get(core, AL);
    let base = op.imm & 0xFF;
    let Some(quotient) = al.checked_div(base) else {
        return Err(core.fault(0, None));
    };
    u8::set(core, AH, quotient);
    settle(core, al % base, false, false);
    Ok(())
}

/// `aad`, whose base is its immediate.
pub(in super::super) fn aad(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let value = u8::get(core, AL) + u8::get(core, AH) * (op.imm & 0xFF);
    u8::set(core, AH, 0);
    settle(core, value & 0xFF, false, false);
    Ok(())
}

/// `lahf`.
pub(in super::super) fn lahf(core: &mut Core, _: &GuestMemory, _: &Op) -> Step {
    let flags = core.flags.get();
    u8::set(core, AH, flags);
    Ok(())
}

/// `sahf`.
pub(in super::super) fn sahf(core: &mut Core, _: &GuestMemory, _: &Op) -> Step {
    let flags = core.flags.arithmetic() & OF | u8::get(core, AH) & ARITHMETIC;
    core.flags.set_arithmetic(flags);
    Ok(())
}

/// `salc`.
pub(in super::super) fn salc(core: &mut Core, _: &GuestMemory, _: &Op) -> Step {
    let value = if core.flags.cf() { 0xFF } else { 0 };
    u8::set(core, AL, value);
    Ok(())
}

/// `clc`, `stc`, `cmc`: the new carry is the old one and `imm` bit 0, inverted by bit 1.
pub(in super::super) fn carry(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let old = core.flags.arithmetic() & CF;
    core.flags.set_carry((old & op.imm ^ op.imm >> 1) & 1 != 0);
    Ok(())
}

/// `cld` and `std`.
pub(in super::super) fn direction(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    use crate::engine::lguest::cpu::flags::DF;
    core.flags.control = core.flags.control & !DF | if op.imm != 0 { DF } else { 0 };
    Ok(())
}
