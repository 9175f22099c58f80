//! String instructions, repeated or not.
//!
//! A repeated one moves its registers with every element, so that a fault, or the end of its share
//! of time, leaves it to be gone on with: eip is still at it.

use super::Form;
use super::arithmetic::difference;
use crate::engine::lguest::cpu::access::Address;
use crate::engine::lguest::cpu::op::{Handler, Op, Width};
use crate::engine::lguest::cpu::state::{Core, Leave, Register, Segment, Step, landed};
use crate::engine::lguest::memory::GuestMemory;

/// Elements a repeated instruction does before it gives way.
const SHARE: u32 = 4096;

/// Repetition, in an [`Op`]'s `imm`.
pub(in super::super) const ONCE: u32 = 0;
/// `rep`, `repe`.
pub(in super::super) const WHILE_EQUAL: u32 = 1;
/// `repne`.
pub(in super::super) const WHILE_UNEQUAL: u32 = 2;

const EAX: u8 = Register::Eax as u8;
const ESI: u8 = Register::Esi as u8;
const EDI: u8 = Register::Edi as u8;
const ECX: u8 = Register::Ecx as u8;

/// One element of an instruction.
pub(in super::super) trait Element {
    /// Whether a repetition looks at ZF.
    const COMPARES: bool = false;
    /// Whether it moves esi, and edi.
    const MOVES: (bool, bool);

    /// Handles the elements at esi and edi, without moving those.
    fn element<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step;
}

/// A register as an address: esi in an overridable segment, edi in es. Or as a count.
fn register(core: &Core, op: &Op, n: u8) -> u32 {
    if op.narrow_address() {
        core.reg(n) & 0xFFFF
    } else {
        core.reg(n)
    }
}

fn add(core: &mut Core, op: &Op, n: u8, by: u32) {
    let value = core.reg(n).wrapping_add(by);
    if op.narrow_address() {
        u16::set(core, n, value);
    } else {
        core.set_reg(n, value);
    }
}

#[inline(always)]
fn source<T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Result<u32, Leave> {
    let offset = register(core, op, ESI);
    let linear = if A::FLAT {
        offset
    } else {
        core.linear(op.segment(), offset, T::BYTES, false)?
    };
    core.load::<T>(memory, linear)
}

#[inline(always)]
fn destination<T: Width, A: Address>(core: &mut Core, op: &Op, write: bool) -> Result<u32, Leave> {
    let offset = register(core, op, EDI);
    if A::FLAT {
        Ok(offset)
    } else {
        core.linear(Segment::Es, offset, T::BYTES, write)
    }
}

pub(in super::super) struct Movs;
pub(in super::super) struct Stos;
pub(in super::super) struct Lods;
pub(in super::super) struct Scas;
pub(in super::super) struct Cmps;

impl Element for Movs {
    const MOVES: (bool, bool) = (true, true);

    #[inline(always)]
    fn element<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
        let value = source::<T, A>(core, memory, op)?;
        let linear = destination::<T, A>(core, op, true)?;
        core.store::<T>(memory, linear, value)
    }
}

impl Element for Stos {
    const MOVES: (bool, bool) = (false, true);

    #[inline(always)]
    fn element<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
        let value = T::get(core, EAX);
        let linear = destination::<T, A>(core, op, true)?;
        core.store::<T>(memory, linear, value)
    }
}

impl Element for Lods {
    const MOVES: (bool, bool) = (true, false);

    #[inline(always)]
    fn element<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
        let value = source::<T, A>(core, memory, op)?;
        T::set(core, EAX, value);
        Ok(())
    }
}

impl Element for Scas {
    const COMPARES: bool = true;
    const MOVES: (bool, bool) = (false, true);

    #[inline(always)]
    fn element<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
        let linear = destination::<T, A>(core, op, false)?;
        let b = core.load::<T>(memory, linear)?;
        let a = T::get(core, EAX);
        difference::<T>(&mut core.flags, a, b, 0);
        Ok(())
    }
}

impl Element for Cmps {
    const COMPARES: bool = true;
    const MOVES: (bool, bool) = (true, true);

    #[inline(always)]
    fn element<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
        let a = source::<T, A>(core, memory, op)?;
        let linear = destination::<T, A>(core, op, false)?;
        let b = core.load::<T>(memory, linear)?;
        difference::<T>(&mut core.flags, a, b, 0);
        Ok(())
    }
}

#[inline(always)]
fn one<K: Element, T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let done = landed(K::element::<T, A>(core, memory, op))?;
    let step = if core.flags.down() {
        T::BYTES.wrapping_neg()
    } else {
        T::BYTES
    };
    if K::MOVES.0 {
        add(core, op, ESI, step);
    }
    if K::MOVES.1 {
        add(core, op, EDI, step);
    }
    done
}

fn once<K: Element, T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    one::<K, T, A>(core, memory, op)
}

fn repeated<K: Element, T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    for _ in 0..SHARE {
        if register(core, op, ECX) == 0 {
            return Ok(());
        }
        let done = landed(one::<K, T, A>(core, memory, op))?;
        add(core, op, ECX, u32::MAX);
        let over = K::COMPARES && core.flags.zf() != (op.imm == WHILE_EQUAL);
        if over || register(core, op, ECX) == 0 {
            return done;
        }
        if done.is_err() {
            // Code was written, perhaps this instruction.
            return Err(Leave::Again);
        }
    }
    Err(Leave::Again)
}

/// A string instruction, with its repetition.
pub(in super::super) fn string<K: Element>(form: &Form, repetition: u32) -> Option<Handler> {
    use super::{by_address, by_width};
    Some(if repetition == ONCE {
        by_width!(form, T => by_address!(form.flat, A => once::<K, T, A>))
    } else {
        by_width!(form, T => by_address!(form.flat, A => repeated::<K, T, A>))
    })
}
