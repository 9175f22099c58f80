//! Segment registers: loading and storing them, far pointers, and questions about selectors.
//!
//! A load may change how what follows is to be decoded (see `Mode`), so it ends its block.

use super::{Form, Kind, by_address, by_wide, handler};
use crate::engine::lguest::cpu::access::Address;
use crate::engine::lguest::cpu::exec::stack::peek;
use crate::engine::lguest::cpu::flags::ZF;
use crate::engine::lguest::cpu::op::{Handler, Op, Width};
use crate::engine::lguest::cpu::segment::Descriptor;
use crate::engine::lguest::cpu::state::{Core, Leave, Segment, Step, landed};
use crate::engine::lguest::memory::GuestMemory;

impl Core {
    /// Loads a segment register other than cs, as the guest does it.
    pub(in super::super) fn load_segment(&mut self, segment: Segment, selector: u16) -> Step {
        let loaded = if segment == Segment::Ss {
            self.stack_segment(selector, self.ring)
        } else {
            self.data_segment(selector)
        };
        let loaded = loaded.map_err(|fault| self.segment_fault(fault))?;
        self.set_segment(segment, loaded);
        Ok(())
    }
}

/// The register an [`Op`] names by number in `reg`.
fn named(op: &Op) -> Segment {
    let mut op = *op;
    op.set_segment(op.reg);
    op.segment()
}

fn ended(core: &mut Core, op: &Op) -> Step {
    core.eip = op.next(core);
    Err(Leave::Jump)
}

fn from_register(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let selector = u16::get(core, op.other) as u16;
    core.load_segment(named(op), selector)?;
    ended(core, op)
}

fn from_memory<A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let selector = u16::load::<A>(core, memory, op)? as u16;
    core.load_segment(named(op), selector)?;
    ended(core, op)
}

/// `mov` to a segment register.
pub(in super::super) fn mov_to(form: &Form) -> Option<Handler> {
    Some(match form.kinds[1] {
        Kind::Register => handler!(from_register),
        Kind::Memory => by_address!(form.flat, A => from_memory::<A>),
        _ => return None,
    })
}

fn selector(core: &Core, n: u8) -> u32 {
    core.segments[usize::from(n) % 6].selector.into()
}

fn to_register<T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let value = selector(core, op.other);
    T::set(core, op.reg, value);
    Ok(())
}

fn to_memory<A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let value = selector(core, op.other);
    u16::store::<A>(core, memory, op, value)
}

/// `mov` from a segment register: to a register of 32 bits zero-extended, to memory 16 bits.
pub(in super::super) fn mov_from(form: &Form) -> Option<Handler> {
    Some(match form.kinds[0] {
        Kind::Register => by_wide!(form, T => to_register::<T>),
        Kind::Memory => by_address!(form.flat, A => to_memory::<A>),
        _ => return None,
    })
}

fn pop_segment<T: Width>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let selector = peek::<T>(core, memory, 0)? as u16;
    // The stack pointer moves in the stack that was popped from.
    let mut popped = core.reg(4).wrapping_add(T::BYTES);
    let mask = core.stack_mask();
    popped = core.reg(4) & !mask | popped & mask;
    core.load_segment(named(op), selector)?;
    core.set_reg(4, popped);
    ended(core, op)
}

/// `pop` to a segment register.
pub(in super::super) fn pop(form: &Form) -> Option<Handler> {
    Some(by_wide!(form, T => pop_segment::<T>))
}

/// `imm` is the number of the segment register.
fn load_far<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let (offset, selector) = far_pointer::<T, A>(core, memory, op)?;
    core.load_segment(
        named(&Op {
            reg: op.imm as u8,
            ..*op
        }),
        selector,
    )?;
    T::set(core, op.reg, offset);
    ended(core, op)
}

/// Reads the far pointer an address operand names.
pub(in super::super) fn far_pointer<T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Result<(u32, u16), Leave> {
    let linear = A::linear(core, op, T::BYTES + 2, false)?;
    let offset = core.load::<T>(memory, linear)?;
    let selector = core.load::<u16>(memory, linear.wrapping_add(T::BYTES))?;
    Ok((offset, selector as u16))
}

/// `lds` and its kin.
pub(in super::super) fn lds(form: &Form) -> Option<Handler> {
    (form.kinds[1] == Kind::Memory)
        .then(|| by_wide!(form, T => by_address!(form.flat, A => load_far::<T, A>)))
}

/// A question about a selector: what it says is in ZF.
pub(in super::super) trait Question {
    /// The answer, with the value for the register if the question has one; None for no.
    fn ask(core: &Core, selector: u16, descriptor: Descriptor) -> Option<u32>;
    /// Whether the answer goes to a register.
    const VALUE: bool;
}

/// Whether a descriptor is in reach from this ring with this RPL.
fn in_reach(core: &Core, selector: u16, descriptor: Descriptor) -> bool {
    descriptor.is_conforming() || descriptor.dpl() >= core.ring.max(selector as u8 & 3)
}

pub(in super::super) struct Lar;
pub(in super::super) struct Lsl;
pub(in super::super) struct Verr;
pub(in super::super) struct Verw;

impl Question for Lar {
    const VALUE: bool = true;
    fn ask(core: &Core, selector: u16, descriptor: Descriptor) -> Option<u32> {
        // Tasks, the LDT, call gates and the task gate.
        let valid =
            descriptor.is_segment() || matches!(descriptor.system_type(), 1..=5 | 9 | 11 | 12);
        (valid && in_reach(core, selector, descriptor)).then(|| descriptor.high() & 0x00FF_FF00)
    }
}

impl Question for Lsl {
    const VALUE: bool = true;
    fn ask(core: &Core, selector: u16, descriptor: Descriptor) -> Option<u32> {
        let valid = descriptor.is_segment() || matches!(descriptor.system_type(), 1..=3 | 9 | 11);
        (valid && in_reach(core, selector, descriptor)).then(|| descriptor.limit())
    }
}

impl Question for Verr {
    const VALUE: bool = false;
    fn ask(core: &Core, selector: u16, descriptor: Descriptor) -> Option<u32> {
        (descriptor.is_readable() && in_reach(core, selector, descriptor)).then_some(0)
    }
}

impl Question for Verw {
    const VALUE: bool = false;
    fn ask(core: &Core, selector: u16, descriptor: Descriptor) -> Option<u32> {
        (descriptor.is_writable() && in_reach(core, selector, descriptor)).then_some(0)
    }
}

fn answer<K: Question, T: Width>(core: &mut Core, op: &Op, selector: u16) -> Step {
    let answer = core
        .descriptor(selector)
        .and_then(|descriptor| K::ask(core, selector, descriptor));
    let flags = core.flags.arithmetic() & !ZF;
    core.flags
        .set_arithmetic(flags | if answer.is_some() { ZF } else { 0 });
    if let (true, Some(value)) = (K::VALUE, answer) {
        T::set(core, op.reg, value);
    }
    Ok(())
}

fn ask_register<K: Question, T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let register = if K::VALUE { op.other } else { op.reg };
    let selector = u16::get(core, register) as u16;
    answer::<K, T>(core, op, selector)
}

fn ask_memory<K: Question, T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    let selector = u16::load::<A>(core, memory, op)? as u16;
    answer::<K, T>(core, op, selector)
}

/// `lar`, `lsl`, `verr`, `verw`.
pub(in super::super) fn question<K: Question>(form: &Form) -> Option<Handler> {
    Some(match form.kinds[usize::from(K::VALUE)] {
        Kind::Register => by_wide!(form, T => ask_register::<K, T>),
        Kind::Memory => by_wide!(form, T => by_address!(form.flat, A => ask_memory::<K, T, A>)),
        _ => return None,
    })
}

/// The selector with the other's RPL, if that is larger.
fn adjusted(selector: u32, other: u32) -> Option<u32> {
    (selector & 3 < other & 3).then_some(selector & !3 | other & 3)
}

fn note_adjusted(core: &mut Core, changed: bool) {
    let flags = core.flags.arithmetic() & !ZF;
    core.flags
        .set_arithmetic(flags | if changed { ZF } else { 0 });
}

fn adjust_register(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let changed = adjusted(u16::get(core, op.reg), u16::get(core, op.other));
    if let Some(selector) = changed {
        u16::set(core, op.reg, selector);
    }
    note_adjusted(core, changed.is_some());
    Ok(())
}

/// Memory is written only if that changes it.
fn adjust_memory<A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let changed = adjusted(u16::load::<A>(core, memory, op)?, u16::get(core, op.other));
    let stored = match changed {
        Some(selector) => landed(u16::store::<A>(core, memory, op, selector))?,
        None => Ok(()),
    };
    note_adjusted(core, changed.is_some());
    stored
}

/// `arpl`.
pub(in super::super) fn arpl(form: &Form) -> Option<Handler> {
    Some(match form.kinds[0] {
        Kind::Register => handler!(adjust_register),
        Kind::Memory => by_address!(form.flat, A => adjust_memory::<A>),
        _ => return None,
    })
}
