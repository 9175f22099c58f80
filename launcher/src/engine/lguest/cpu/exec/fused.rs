//! A comparison and the jump that depends on it, as one operation: most blocks end so.
//!
//! The flags are left as the comparison leaves them; what is saved is a dispatch, and asking for the
//! condition by way of the flags' three words.

use super::arithmetic::{self, Add, And, Binary, Cmp, Dec, Inc, Or, Sub, Test, Unary};
use super::branch::{Condition, by_condition};
use super::{Form, Kind, by_address, by_width};
use crate::engine::lguest::cpu::access::Address;
use crate::engine::lguest::cpu::op::{Handler, Op, Width};
use crate::engine::lguest::cpu::state::{Core, Leave, Step};
use crate::engine::lguest::memory::GuestMemory;

/// Where a jump goes, and what it compares with: an operation has two words, and with an address
/// one of them is taken.
pub(in super::super) struct Words {
    pub target: u32,
    pub immediate: u32,
}

impl Words {
    /// Puts them where the handlers find them. False: they don't fit.
    pub fn put(&self, form: &Form, op: &mut Op) -> bool {
        match (form.kinds[0], form.kinds[1]) {
            (Kind::Memory, Kind::Immediate) => {
                op.other = self.immediate as u8;
                op.imm = self.target;
                self.immediate as i8 as u32 == self.immediate
            }
            (_, Kind::Immediate) => {
                op.imm = self.immediate;
                op.disp = self.target;
                true
            }
            _ => {
                op.imm = self.target;
                true
            }
        }
    }
}

#[inline(always)]
fn jump<C: Condition>(core: &mut Core, op: &Op, target: u32) -> Step {
    if C::holds(&core.flags) {
        core.eip = core.eip.wrapping_add(target);
        Err(Leave::Taken)
    } else {
        core.eip = op.next(core);
        Err(Leave::NotTaken)
    }
}

fn register_register<K: Binary, C: Condition, T: Width>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    arithmetic::register_register::<K, T>(core, memory, op)?;
    jump::<C>(core, op, op.imm)
}

fn register_immediate<K: Binary, C: Condition, T: Width>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    arithmetic::register_immediate::<K, T>(core, memory, op)?;
    jump::<C>(core, op, op.disp)
}

fn register_alone<K: Unary, C: Condition, T: Width>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    arithmetic::on_register::<K, T>(core, memory, op)?;
    jump::<C>(core, op, op.imm)
}

/// Compares memory, which only reads it. The number is not where an operation alone has it.
fn memory_immediate<K: Binary, C: Condition, T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    let a = T::load::<A>(core, memory, op)?;
    K::apply::<T>(&mut core.flags, a, op.other as i8 as u32 & T::MASK);
    jump::<C>(core, op, op.imm)
}

fn memory_register<K: Binary, C: Condition, T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    arithmetic::memory_register::<K, T, A>(core, memory, op)?;
    jump::<C>(core, op, op.imm)
}

fn register_memory<K: Binary, C: Condition, T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    arithmetic::register_memory::<K, T, A>(core, memory, op)?;
    jump::<C>(core, op, op.imm)
}

/// A comparison (its mnemonic's `Binary`) and a jump.
pub(in super::super) fn comparison<K: Binary>(form: &Form, condition: u8) -> Option<Handler> {
    let flat = form.flat;
    Some(match (form.kinds[0], form.kinds[1]) {
        (Kind::Register, Kind::Register) => {
            by_condition!(condition, C => by_width!(form, T => register_register::<K, C, T>))
        }
        (Kind::Register, Kind::Immediate) => {
            by_condition!(condition, C => by_width!(form, T => register_immediate::<K, C, T>))
        }
        (Kind::Memory, Kind::Immediate) => {
            by_condition!(condition, C => by_width!(form, T => by_address!(flat, A => memory_immediate::<K, C, T, A>)))
        }
        (Kind::Memory, Kind::Register) => {
            by_condition!(condition, C => by_width!(form, T => by_address!(flat, A => memory_register::<K, C, T, A>)))
        }
        (Kind::Register, Kind::Memory) => {
            by_condition!(condition, C => by_width!(form, T => by_address!(flat, A => register_memory::<K, C, T, A>)))
        }
        _ => return None,
    })
}

/// An operation on registers of 32 bits and a jump.
fn operation<K: Binary>(form: &Form, condition: u8) -> Option<Handler> {
    Some(match (form.kinds[0], form.kinds[1], form.width) {
        (Kind::Register, Kind::Register, 4) => {
            by_condition!(condition, C => register_register::<K, C, u32>)
        }
        (Kind::Register, Kind::Immediate, 4) => {
            by_condition!(condition, C => register_immediate::<K, C, u32>)
        }
        _ => return None,
    })
}

fn step<K: Unary>(form: &Form, condition: u8) -> Option<Handler> {
    match (form.kinds[0], form.width) {
        (Kind::Register, 4) => Some(by_condition!(condition, C => register_alone::<K, C, u32>)),
        _ => None,
    }
}

/// The handler of an instruction and a jump behind it.
pub(in super::super) fn fuse(
    mnemonic: iced_x86::Mnemonic,
    form: &Form,
    condition: u8,
) -> Option<Handler> {
    use iced_x86::Mnemonic as M;
    match mnemonic {
        M::Cmp => comparison::<Cmp>(form, condition),
        M::Test => comparison::<Test>(form, condition),
        M::Add => operation::<Add>(form, condition),
        M::Sub => operation::<Sub>(form, condition),
        M::And => operation::<And>(form, condition),
        M::Or => operation::<Or>(form, condition),
        M::Inc => step::<Inc>(form, condition),
        M::Dec => step::<Dec>(form, condition),
        _ => None,
    }
}
