//! A comparison and the jump that depends on it, as one operation: most blocks end so.
//!
//! The flags are left as the comparison leaves them; what is saved is a dispatch, and asking for the
//! condition by way of the flags' three words.

use super::arithmetic::{self, Add, And, Binary, Cmp, Dec, Inc, Or, Sub, Test, Unary};
use super::branch::{Condition, by_condition};
use super::{Form, Kind, by_width};
use crate::engine::lguest::cpu::access::{Address, Flat, Segmented};
use crate::engine::lguest::cpu::flags::Flags;
use crate::engine::lguest::cpu::op::{Handler, Op, Run, Width};
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

/// Jumps, or does not.
#[inline(always)]
fn jump(core: &mut Core, op: &Op, target: u32, holds: bool) -> Leave {
    if holds {
        core.eip = core.eip.wrapping_add(target);
        Leave::Taken
    } else {
        core.eip = op.next(core);
        Leave::NotTaken
    }
}

fn register_register<K: Binary, C: Condition, T: Width>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    arithmetic::register_register::<K, T>(core, memory, op)?;
    let holds = C::holds(&core.flags);
    Err(jump(core, op, op.imm, holds))
}

fn register_immediate<K: Binary, C: Condition, T: Width>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    arithmetic::register_immediate::<K, T>(core, memory, op)?;
    let holds = C::holds(&core.flags);
    Err(jump(core, op, op.disp, holds))
}

fn register_alone<K: Unary, C: Condition, T: Width>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    arithmetic::on_register::<K, T>(core, memory, op)?;
    let holds = C::holds(&core.flags);
    Err(jump(core, op, op.imm, holds))
}

/// Compares memory with a number, which is not where an operation alone has it.
fn memory_immediate<K: Binary, T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    let a = T::load::<A>(core, memory, op)?;
    K::apply::<T>(&mut core.flags, a, op.other as i8 as u32 & T::MASK);
    Ok(())
}

/// Compares once more, on the long way, and jumps. One for all conditions: there would be hundreds.
#[cold]
#[inline(never)]
fn over(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
    comparison: fn(&mut Core, &GuestMemory, &Op) -> Step,
    holds: fn(&Flags) -> bool,
) -> Run {
    op.leave(match comparison(core, memory, op) {
        Ok(()) => {
            let holds = holds(&core.flags);
            jump(core, op, op.imm, holds)
        }
        Err(leave) => leave,
    })
}

/// The handler of a comparison with memory in flat segments, of 8 or 32 bits, and a jump.
macro_rules! with_memory {
    ($form:expr, $condition:expr, $T:ident, $A:ident => $comparison:expr) => {
        match $form.width {
            1 => {
                type $T = u8;
                by_condition!($condition, C => compared!(C, $A => $comparison))
            }
            4 => {
                type $T = u32;
                by_condition!($condition, C => compared!(C, $A => $comparison))
            }
            _ => return None,
        }
    };
}

/// One of them.
macro_rules! compared {
    ($C:ident, $A:ident => $comparison:expr) => {{
        let handler: Handler = |core, memory, op, _| {
            type $A = Flat;
            match $comparison(core, memory, op) {
                Ok(()) => {
                    let holds = $C::holds(&core.flags);
                    op.leave(jump(core, op, op.imm, holds))
                }
                Err(Leave::Missed) => {
                    type $A = Segmented;
                    over(core, memory, op, $comparison, $C::holds)
                }
                Err(leave) => op.leave(leave),
            }
        };
        handler
    }};
}

/// A comparison (its mnemonic's `Binary`) and a jump.
pub(in super::super) fn comparison<K: Binary>(form: &Form, condition: u8) -> Option<Handler> {
    use arithmetic::{memory_register, register_memory};
    Some(match (form.kinds[0], form.kinds[1]) {
        (Kind::Register, Kind::Register) => {
            by_condition!(condition, C => by_width!(form, T => register_register::<K, C, T>))
        }
        (Kind::Register, Kind::Immediate) => {
            by_condition!(condition, C => by_width!(form, T => register_immediate::<K, C, T>))
        }
        // Others are rare, and would be four times as much code.
        _ if !form.flat => return None,
        (Kind::Memory, Kind::Immediate) => {
            with_memory!(form, condition, T, A => memory_immediate::<K, T, A>)
        }
        (Kind::Memory, Kind::Register) => {
            with_memory!(form, condition, T, A => memory_register::<K, T, A>)
        }
        (Kind::Register, Kind::Memory) => {
            with_memory!(form, condition, T, A => register_memory::<K, T, A>)
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
