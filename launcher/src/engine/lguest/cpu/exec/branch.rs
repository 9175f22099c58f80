//! Jumps and calls within a segment, and conditions.
//!
//! Where a direct jump leads is kept from the start of its block, so that a block serves wherever
//! its page is mapped.

use super::{Form, Kind, by_address, by_wide};
use crate::engine::lguest::cpu::access::Address;
use crate::engine::lguest::cpu::exec::stack::{self, pop, push};
use crate::engine::lguest::cpu::flags::Flags;
use crate::engine::lguest::cpu::op::{Handler, Op, Width};
use crate::engine::lguest::cpu::state::{Core, Leave, Register, Step, landed};
use crate::engine::lguest::memory::GuestMemory;

/// A condition of the sixteen.
pub(in super::super) trait Condition {
    fn holds(flags: &Flags) -> bool;
}

macro_rules! conditions {
    ($($name:ident |$flags:ident| $body:expr;)*) => { $(
        pub(in super::super) struct $name;
        impl Condition for $name {
            #[inline(always)]
            fn holds($flags: &Flags) -> bool { $body }
        }
    )* };
}

conditions! {
    O |f| f.of();
    No |f| !f.of();
    B |f| f.cf();
    Ae |f| !f.cf();
    E |f| f.zf();
    Ne |f| !f.zf();
    Be |f| f.cf() || f.zf();
    A |f| !f.cf() && !f.zf();
    S |f| f.sf();
    Ns |f| !f.sf();
    P |f| f.pf();
    Np |f| !f.pf();
    L |f| f.sf() != f.of();
    Ge |f| f.sf() == f.of();
    Le |f| f.zf() || f.sf() != f.of();
    G |f| !f.zf() && f.sf() == f.of();
}

/// The handler for a condition, by its number in machine code.
macro_rules! by_condition {
    ($condition:expr, $C:ident => $($choice:tt)*) => {
        $crate::engine::lguest::cpu::exec::branch::by_condition!(
            @ $condition, $C, [$($choice)*], 0 O 1 No 2 B 3 Ae 4 E 5 Ne 6 Be 7 A 8 S 9 Ns 10 P 11 Np 12 L 13 Ge 14 Le 15 G
        )
    };
    (@ $condition:expr, $C:ident, $choice:tt, $($n:literal $name:ident)*) => {
        match $condition {
            $($n => {
                type $C = $crate::engine::lguest::cpu::exec::branch::$name;
                $crate::engine::lguest::cpu::exec::chosen!($choice)
            })*
            _ => return None,
        }
    };
}
pub(in super::super) use by_condition;

/// eip after a jump: with an operand of 16 bits it is cut to that.
#[inline(always)]
fn land<T: Width>(eip: u32) -> u32 {
    eip & T::MASK
}

fn jump_if<C: Condition, T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    if C::holds(&core.flags) {
        core.eip = land::<T>(core.eip.wrapping_add(op.imm));
        Err(Leave::Taken)
    } else {
        core.eip = op.next(core);
        Err(Leave::NotTaken)
    }
}

/// `jcc`.
pub(in super::super) fn jcc(form: &Form, condition: u8) -> Option<Handler> {
    Some(by_condition!(condition, C => by_wide!(form, T => jump_if::<C, T>)))
}

fn jump<T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    core.eip = land::<T>(core.eip.wrapping_add(op.imm));
    Err(Leave::Taken)
}

fn jump_register<T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    core.eip = T::get(core, op.reg);
    Err(Leave::Jump)
}

fn jump_memory<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    core.eip = T::load::<A>(core, memory, op)?;
    Err(Leave::Jump)
}

/// `jmp` near.
pub(in super::super) fn jmp(form: &Form) -> Option<Handler> {
    Some(match form.kinds[0] {
        Kind::Immediate => by_wide!(form, T => jump::<T>),
        Kind::Register => by_wide!(form, T => jump_register::<T>),
        Kind::Memory => by_wide!(form, T => by_address!(form.flat, A => jump_memory::<T, A>)),
        _ => return None,
    })
}

/// Pushes where the next instruction is, and goes elsewhere.
#[inline(always)]
fn call_to<T: Width, S: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
    to: u32,
    leave: Leave,
) -> Step {
    let next = op.next(core);
    let pushed = landed(push::<T, S>(core, memory, next))?;
    core.eip = to;
    // After a jump to who knows where, what was written is looked at; after a direct one it is not.
    Err(if pushed.is_ok() { leave } else { Leave::Jump })
}

fn call_direct<T: Width, S: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let to = land::<T>(core.eip.wrapping_add(op.imm));
    call_to::<T, S>(core, memory, op, to, Leave::Taken)
}

fn call_register<T: Width, S: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let to = T::get(core, op.reg);
    call_to::<T, S>(core, memory, op, to, Leave::Jump)
}

fn call_memory<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let to = T::load::<A>(core, memory, op)?;
    call_to::<T, A>(core, memory, op, to, Leave::Jump)
}

/// `call` near.
pub(in super::super) fn call(form: &Form) -> Option<Handler> {
    let stack = form.flat_stack;
    Some(match form.kinds[0] {
        Kind::Immediate => by_wide!(form, T => by_address!(stack, S => call_direct::<T, S>)),
        Kind::Register => by_wide!(form, T => by_address!(stack, S => call_register::<T, S>)),
        Kind::Memory => by_wide!(form, T => by_address!(form.flat, A => call_memory::<T, A>)),
        _ => return None,
    })
}

fn return_near<T: Width, S: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    core.eip = pop::<T, S>(core, memory)?;
    stack::release(core, op.imm);
    Err(Leave::Jump)
}

/// `ret` near, releasing `imm` bytes.
pub(in super::super) fn ret(form: &Form) -> Option<Handler> {
    Some(by_wide!(form, T => by_address!(form.flat_stack, S => return_near::<T, S>)))
}

/// The count of `loop` and `jecxz`: ecx, or cx where addresses are of 16 bits.
fn count(core: &Core, op: &Op) -> u32 {
    let ecx = core.register(Register::Ecx);
    if op.narrow_address() {
        ecx & 0xFFFF
    } else {
        ecx
    }
}

fn take<T: Width>(core: &mut Core, op: &Op, taken: bool) -> Step {
    if taken {
        core.eip = land::<T>(core.eip.wrapping_add(op.imm));
        Err(Leave::Taken)
    } else {
        core.eip = op.next(core);
        Err(Leave::NotTaken)
    }
}

fn jump_if_no_count<T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let taken = count(core, op) == 0;
    take::<T>(core, op, taken)
}

/// Counts down, and jumps unless that gave zero or ZF is not as wanted (0 clear, 1 set, 2 any).
fn count_and_jump<T: Width, const ZF: u8>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let left = count(core, op).wrapping_sub(1);
    if op.narrow_address() {
        u16::set(core, Register::Ecx as u8, left);
    } else {
        core.set_register(Register::Ecx, left);
    }
    let taken = count(core, op) != 0 && (ZF == 2 || core.flags.zf() == (ZF == 1));
    take::<T>(core, op, taken)
}

/// `jecxz` and `jcxz`.
pub(in super::super) fn jecxz(form: &Form) -> Option<Handler> {
    Some(by_wide!(form, T => jump_if_no_count::<T>))
}

/// `loop`, and with 0 `loopne`, with 1 `loope`.
pub(in super::super) fn looping<const ZF: u8>(form: &Form) -> Option<Handler> {
    Some(by_wide!(form, T => count_and_jump::<T, ZF>))
}
