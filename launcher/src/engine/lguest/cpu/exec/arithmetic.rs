//! Addition, subtraction and logic: most of what is executed.

use super::{Form, Kind, by_address, by_width};
use crate::engine::lguest::cpu::access::Address;
use crate::engine::lguest::cpu::flags::{AF, Flags};
use crate::engine::lguest::cpu::op::{Handler, Op, Width};
use crate::engine::lguest::cpu::state::{Core, Step};
use crate::engine::lguest::memory::GuestMemory;

/// `a + b + carry` and its flags.
#[inline(always)]
pub(in super::super) fn sum<T: Width>(flags: &mut Flags, a: u32, b: u32, carry: u32) -> u32 {
    let result = a.wrapping_add(b).wrapping_add(carry);
    // A position carries if both bits are set, or one is and the sum's is not.
    let carries = (a & b) | ((a | b) & !result);
    flags.carry = carries << (32 - T::BITS);
    flags.fix = (a ^ b ^ result) & AF;
    flags.result = T::extend(result);
    result
}

/// `a - b - borrow` and its flags.
#[inline(always)]
pub(in super::super) fn difference<T: Width>(
    flags: &mut Flags,
    a: u32,
    b: u32,
    borrow: u32,
) -> u32 {
    let result = a.wrapping_sub(b).wrapping_sub(borrow);
    let borrows = (!a & b) | ((!a | b) & result);
    flags.carry = borrows << (32 - T::BITS);
    flags.fix = (a ^ b ^ result) & AF;
    flags.result = T::extend(result);
    result
}

/// The flags of a logical result.
#[inline(always)]
pub(in super::super) fn logic<T: Width>(flags: &mut Flags, result: u32) -> u32 {
    flags.carry = 0;
    flags.fix = 0;
    flags.result = T::extend(result);
    result
}

/// An operation on two operands.
pub(in super::super) trait Binary {
    /// Whether the result goes to the first operand, or only to the flags.
    const STORES: bool = true;

    fn apply<T: Width>(flags: &mut Flags, a: u32, b: u32) -> u32;
}

macro_rules! binary {
    ($($name:ident $stores:literal |$flags:ident, $a:ident, $b:ident| $body:expr;)*) => { $(
        pub(in super::super) struct $name;
        impl Binary for $name {
            const STORES: bool = $stores;
            #[inline(always)]
            fn apply<T: Width>($flags: &mut Flags, $a: u32, $b: u32) -> u32 { $body }
        }
    )* };
}

binary! {
    Add true |flags, a, b| sum::<T>(flags, a, b, 0);
    Adc true |flags, a, b| { let carry = flags.cf().into(); sum::<T>(flags, a, b, carry) };
    Sub true |flags, a, b| difference::<T>(flags, a, b, 0);
    Sbb true |flags, a, b| { let borrow = flags.cf().into(); difference::<T>(flags, a, b, borrow) };
    Cmp false |flags, a, b| difference::<T>(flags, a, b, 0);
    And true |flags, a, b| logic::<T>(flags, a & b);
    Or true |flags, a, b| logic::<T>(flags, a | b);
    Xor true |flags, a, b| logic::<T>(flags, a ^ b);
    Test false |flags, a, b| logic::<T>(flags, a & b);
}

#[inline(always)]
pub(super) fn register_register<K: Binary, T: Width>(
    core: &mut Core,
    _: &GuestMemory,
    op: &Op,
) -> Step {
    let (a, b) = (T::get(core, op.reg), T::get(core, op.other));
    let result = K::apply::<T>(&mut core.flags, a, b);
    if K::STORES {
        T::set(core, op.reg, result);
    }
    Ok(())
}

#[inline(always)]
pub(super) fn register_immediate<K: Binary, T: Width>(
    core: &mut Core,
    _: &GuestMemory,
    op: &Op,
) -> Step {
    let a = T::get(core, op.reg);
    let result = K::apply::<T>(&mut core.flags, a, op.imm & T::MASK);
    if K::STORES {
        T::set(core, op.reg, result);
    }
    Ok(())
}

#[inline(always)]
pub(super) fn register_memory<K: Binary, T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    let b = T::load::<A>(core, memory, op)?;
    let a = T::get(core, op.reg);
    let result = K::apply::<T>(&mut core.flags, a, b);
    if K::STORES {
        T::set(core, op.reg, result);
    }
    Ok(())
}

#[inline(always)]
pub(super) fn memory_register<K: Binary, T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    let b = T::get(core, op.other);
    on_memory::<K, T, A>(core, memory, op, b)
}

fn memory_immediate<K: Binary, T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    on_memory::<K, T, A>(core, memory, op, op.imm & T::MASK)
}

#[inline(always)]
fn on_memory<K: Binary, T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
    b: u32,
) -> Step {
    if K::STORES {
        T::modify::<A>(core, memory, op, |core, a| {
            K::apply::<T>(&mut core.flags, a, b)
        })
    } else {
        let a = T::load::<A>(core, memory, op)?;
        K::apply::<T>(&mut core.flags, a, b);
        Ok(())
    }
}

/// The handler of an operation on two operands.
pub(in super::super) fn two<K: Binary>(form: &Form) -> Option<Handler> {
    let flat = form.flat;
    Some(match (form.kinds[0], form.kinds[1]) {
        (Kind::Register, Kind::Register) => by_width!(form, T => register_register::<K, T>),
        (Kind::Register, Kind::Immediate) => by_width!(form, T => register_immediate::<K, T>),
        (Kind::Register, Kind::Memory) => {
            by_width!(form, T => by_address!(flat, A => register_memory::<K, T, A>))
        }
        (Kind::Memory, Kind::Register) => {
            by_width!(form, T => by_address!(flat, A => memory_register::<K, T, A>))
        }
        (Kind::Memory, Kind::Immediate) => {
            by_width!(form, T => by_address!(flat, A => memory_immediate::<K, T, A>))
        }
        _ => return None,
    })
}

/// An operation on one operand.
pub(in super::super) trait Unary {
    fn apply<T: Width>(flags: &mut Flags, a: u32) -> u32;
}

macro_rules! unary {
    ($($name:ident |$flags:ident, $a:ident| $body:expr;)*) => { $(
        pub(in super::super) struct $name;
        impl Unary for $name {
            #[inline(always)]
            fn apply<T: Width>($flags: &mut Flags, $a: u32) -> u32 { $body }
        }
    )* };
}

/// CF as it was in `carry`, and this OF.
#[inline(always)]
fn keep_carry(flags: &mut Flags, carry: u32, of: bool) {
    let cf = carry & 1 << 31;
    flags.carry = cf | cf >> 1 ^ u32::from(of) << 30;
}

unary! {
    // These two leave the carry alone.
    Inc |flags, a| {
        let carry = flags.carry;
        let result = sum::<T>(flags, a, 1, 0);
        keep_carry(flags, carry, result & T::MASK == T::SIGN);
        result
    };
    Dec |flags, a| {
        let carry = flags.carry;
        let result = difference::<T>(flags, a, 1, 0);
        keep_carry(flags, carry, a == T::SIGN);
        result
    };
    Neg |flags, a| difference::<T>(flags, 0, a, 0);
    Not |_flags, a| !a;
}

#[inline(always)]
pub(super) fn on_register<K: Unary, T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let a = T::get(core, op.reg);
    let result = K::apply::<T>(&mut core.flags, a);
    T::set(core, op.reg, result);
    Ok(())
}

fn in_memory<K: Unary, T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    T::modify::<A>(core, memory, op, |core, a| {
        K::apply::<T>(&mut core.flags, a)
    })
}

/// The handler of an operation on one operand.
pub(in super::super) fn one<K: Unary>(form: &Form) -> Option<Handler> {
    Some(match form.kinds[0] {
        Kind::Register => by_width!(form, T => on_register::<K, T>),
        Kind::Memory => by_width!(form, T => by_address!(form.flat, A => in_memory::<K, T, A>)),
        _ => return None,
    })
}
