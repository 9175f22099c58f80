//! Exchanges. There is one processor, so `lock` has nothing to add.

use super::arithmetic::{difference, sum};
use super::{Form, Kind, by_address, by_width};
use crate::engine::lguest::cpu::access::Address;
use crate::engine::lguest::cpu::op::{Handler, Op, Width};
use crate::engine::lguest::cpu::state::{Core, Register, Step, landed};
use crate::engine::lguest::memory::GuestMemory;

fn registers<T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let (a, b) = (T::get(core, op.reg), T::get(core, op.other));
    T::set(core, op.reg, b);
    T::set(core, op.other, a);
    Ok(())
}

fn with_memory<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let new = T::get(core, op.other);
    let mut old = 0;
    let stored = landed(T::modify::<A>(core, memory, op, |_, value| {
        old = value;
        new
    }))?;
    T::set(core, op.other, old);
    stored
}

/// `xchg`; a register and memory in this order are turned round by the decoder.
pub(in super::super) fn xchg(form: &Form) -> Option<Handler> {
    Some(match form.kinds[0] {
        Kind::Register => by_width!(form, T => registers::<T>),
        Kind::Memory => by_width!(form, T => by_address!(form.flat, A => with_memory::<T, A>)),
        _ => return None,
    })
}

fn add_registers<T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let (a, b) = (T::get(core, op.reg), T::get(core, op.other));
    let result = sum::<T>(&mut core.flags, a, b, 0);
    T::set(core, op.other, a);
    T::set(core, op.reg, result);
    Ok(())
}

fn add_memory<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let b = T::get(core, op.other);
    let mut old = 0;
    let stored = landed(T::modify::<A>(core, memory, op, |core, a| {
        old = a;
        sum::<T>(&mut core.flags, a, b, 0)
    }))?;
    T::set(core, op.other, old);
    stored
}

/// `xadd`.
pub(in super::super) fn xadd(form: &Form) -> Option<Handler> {
    Some(match form.kinds[0] {
        Kind::Register => by_width!(form, T => add_registers::<T>),
        Kind::Memory => by_width!(form, T => by_address!(form.flat, A => add_memory::<T, A>)),
        _ => return None,
    })
}

const EAX: u8 = Register::Eax as u8;

fn compare_registers<T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let (expected, found) = (T::get(core, EAX), T::get(core, op.reg));
    difference::<T>(&mut core.flags, expected, found, 0);
    if expected == found {
        let new = T::get(core, op.other);
        T::set(core, op.reg, new);
    } else {
        T::set(core, EAX, found);
    }
    Ok(())
}

/// Memory is written in either case, if only with what it held.
fn compare_memory<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let expected = T::get(core, EAX);
    let new = T::get(core, op.other);
    let mut found = expected;
    let stored = landed(T::modify::<A>(core, memory, op, |core, value| {
        found = value;
        difference::<T>(&mut core.flags, expected, value, 0);
        if expected == value { new } else { value }
    }))?;
    if found != expected {
        T::set(core, EAX, found);
    }
    stored
}

/// `cmpxchg`.
pub(in super::super) fn cmpxchg(form: &Form) -> Option<Handler> {
    Some(match form.kinds[0] {
        Kind::Register => by_width!(form, T => compare_registers::<T>),
        Kind::Memory => by_width!(form, T => by_address!(form.flat, A => compare_memory::<T, A>)),
        _ => return None,
    })
}

fn compare_eight<A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let linear = A::linear(core, op, 8, true)?;
    let low = core.open::<u32>(memory, linear)?;
    let high = core.open::<u32>(memory, linear.wrapping_add(4))?;
    let found = [
        core.load_place::<u32>(memory, low)?,
        core.load_place::<u32>(memory, high)?,
    ];
    let expected = [core.register(Register::Eax), core.register(Register::Edx)];
    let equal = found == expected;
    let new = if equal {
        [core.register(Register::Ebx), core.register(Register::Ecx)]
    } else {
        core.set_register(Register::Eax, found[0]);
        core.set_register(Register::Edx, found[1]);
        found
    };
    let flags = core.flags.arithmetic() & !crate::engine::lguest::cpu::flags::ZF;
    let zero = if equal {
        crate::engine::lguest::cpu::flags::ZF
    } else {
        0
    };
    core.flags.set_arithmetic(flags | zero);
    let first = core.store_place::<u32>(memory, low, new[0]);
    core.store_place::<u32>(memory, high, new[1]).and(first)
}

/// `cmpxchg8b`.
pub(in super::super) fn cmpxchg8b(form: &Form) -> Option<Handler> {
    (form.kinds[0] == Kind::Memory).then(|| by_address!(form.flat, A => compare_eight::<A>))
}
