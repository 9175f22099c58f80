//! Shifts and rotations.
//!
//! The count is cut to five bits; a count of zero changes no flag. Where the manual leaves a flag
//! undefined, here is what comes out most simply.

use super::{Form, Kind, by_address, by_wide, by_width};
use crate::engine::lguest::cpu::access::Address;
use crate::engine::lguest::cpu::flags::Flags;
use crate::engine::lguest::cpu::op::{Handler, Op, Width};
use crate::engine::lguest::cpu::state::{Core, Register, Step};
use crate::engine::lguest::memory::GuestMemory;

/// A shift of one operand. `count` is 1 to 31.
pub(in super::super) trait Shift {
    fn apply<T: Width>(flags: &mut Flags, a: u32, count: u32) -> u32;
}

macro_rules! shifts {
    ($($name:ident |$flags:ident, $a:ident, $count:ident| $body:expr;)*) => { $(
        pub(in super::super) struct $name;
        impl Shift for $name {
            #[inline(always)]
            fn apply<T: Width>($flags: &mut Flags, $a: u32, $count: u32) -> u32 { $body }
        }
    )* };
}

fn top<T: Width>(value: u32) -> bool {
    value & T::SIGN != 0
}

/// Sign, zero and parity of a result, and the carry and overflow that go with it.
#[inline(always)]
fn set<T: Width>(flags: &mut Flags, result: u32, cf: bool, of: bool) -> u32 {
    flags.result = T::extend(result);
    flags.fix = 0;
    flags.set_carry_overflow(cf, of);
    result
}

shifts! {
    Shl |flags, a, count| {
        let wide = u64::from(a) << count;
        let cf = wide >> T::BITS & 1 != 0;
        let result = wide as u32;
        set::<T>(flags, result, cf, top::<T>(result) != cf)
    };
    Shr |flags, a, count| {
        let cf = a >> (count - 1) & 1 != 0;
        let result = a >> count;
        // Differs from the sign before only when the count is 1.
        let of = top::<T>(result ^ result << 1);
        set::<T>(flags, result, cf, of)
    };
    Sar |flags, a, count| {
        let signed = T::extend(a) as i32;
        let cf = signed >> (count - 1) & 1 != 0;
        set::<T>(flags, (signed >> count) as u32, cf, false)
    };
    Rol |flags, a, count| {
        let result = rotated::<T>(a, count);
        let cf = result & 1 != 0;
        flags.set_carry_overflow(cf, top::<T>(result) != cf);
        result
    };
    Ror |flags, a, count| {
        let result = rotated::<T>(a, T::BITS - count % T::BITS);
        flags.set_carry_overflow(top::<T>(result), top::<T>(result ^ result << 1));
        result
    };
    Rcl |flags, a, count| {
        let count = count % (T::BITS + 1);
        let result = rotated_through_carry::<T>(flags.cf(), a, count);
        let cf = result >> T::BITS & 1 != 0;
        flags.set_carry_overflow(cf, top::<T>(result as u32) != cf);
        result as u32
    };
    Rcr |flags, a, count| {
        let count = count % (T::BITS + 1);
        let result = rotated_through_carry::<T>(flags.cf(), a, T::BITS + 1 - count);
        let cf = result >> T::BITS & 1 != 0;
        let low = result as u32;
        flags.set_carry_overflow(cf, top::<T>(low ^ low << 1));
        result as u32
    };
}

#[inline(always)]
fn rotated<T: Width>(a: u32, left: u32) -> u32 {
    let left = left % T::BITS;
    // Two shifts, so that none is by the whole width.
    a << left | a >> 1 >> (T::BITS - 1 - left)
}

/// The carry stands above the top bit.
#[inline(always)]
fn rotated_through_carry<T: Width>(carry: bool, a: u32, left: u32) -> u64 {
    let all = u64::from(carry) << T::BITS | u64::from(a);
    let left = left % (T::BITS + 1);
    (all << left | all >> (T::BITS + 1 - left)) & (u64::MAX >> (63 - T::BITS))
}

/// Where a count comes from.
trait Count {
    fn count(core: &Core, op: &Op) -> u32;
}
struct Fixed;
struct Cl;
impl Count for Fixed {
    #[inline(always)]
    fn count(_: &Core, op: &Op) -> u32 {
        op.imm % 32
    }
}
impl Count for Cl {
    #[inline(always)]
    fn count(core: &Core, _: &Op) -> u32 {
        core.register(Register::Ecx) % 32
    }
}

fn on_register<K: Shift, C: Count, T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let count = C::count(core, op);
    if count != 0 {
        let a = T::get(core, op.reg);
        let result = K::apply::<T>(&mut core.flags, a, count);
        T::set(core, op.reg, result);
    }
    Ok(())
}

fn on_memory<K: Shift, C: Count, T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    let count = C::count(core, op);
    T::modify::<A>(core, memory, op, |core, a| {
        if count == 0 {
            a
        } else {
            K::apply::<T>(&mut core.flags, a, count)
        }
    })
}

/// The handler of a shift.
pub(in super::super) fn shift<K: Shift>(form: &Form) -> Option<Handler> {
    let flat = form.flat;
    Some(match (form.kinds[0], form.kinds[1]) {
        (Kind::Register, Kind::Immediate) => by_width!(form, T => on_register::<K, Fixed, T>),
        (Kind::Register, _) => by_width!(form, T => on_register::<K, Cl, T>),
        (Kind::Memory, Kind::Immediate) => {
            by_width!(form, T => by_address!(flat, A => on_memory::<K, Fixed, T, A>))
        }
        (Kind::Memory, _) => by_width!(form, T => by_address!(flat, A => on_memory::<K, Cl, T, A>)),
        _ => return None,
    })
}

/// Shifts `a`, bits of `b` coming in. `LEFT`: `shld`, otherwise `shrd`. `count` is 1 to 31; more
/// than the width, which 16 bits allow, is undefined: here `a` comes in behind `b`.
#[inline(always)]
fn double<T: Width, const LEFT: bool>(flags: &mut Flags, a: u32, b: u32, count: u32) -> u32 {
    let (result, cf) = if LEFT {
        let all = (u64::from(a) << T::BITS | u64::from(b)) << (64 - 2 * T::BITS);
        let all = if T::BITS == 16 {
            all | u64::from(a) << 16
        } else {
            all
        };
        let shifted = all << (count - 1);
        ((shifted << 1 >> (64 - T::BITS)) as u32, shifted >> 63 != 0)
    } else {
        let all = u64::from(b) << T::BITS | u64::from(a);
        let all = if T::BITS == 16 {
            all | u64::from(a) << 32
        } else {
            all
        };
        let shifted = all >> (count - 1);
        ((shifted >> 1) as u32 & T::MASK, shifted & 1 != 0)
    };
    set::<T>(flags, result, cf, top::<T>(result ^ a))
}

fn double_register<C: Count, T: Width, const LEFT: bool>(
    core: &mut Core,
    _: &GuestMemory,
    op: &Op,
) -> Step {
    let count = C::count(core, op);
    if count != 0 {
        let (a, b) = (T::get(core, op.reg), T::get(core, op.other));
        let result = double::<T, LEFT>(&mut core.flags, a, b, count);
        T::set(core, op.reg, result);
    }
    Ok(())
}

fn double_memory<C: Count, T: Width, A: Address, const LEFT: bool>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    let count = C::count(core, op);
    let b = T::get(core, op.other);
    T::modify::<A>(core, memory, op, |core, a| {
        if count == 0 {
            a
        } else {
            double::<T, LEFT>(&mut core.flags, a, b, count)
        }
    })
}

/// `shld` and `shrd`.
pub(in super::super) fn doubles<const LEFT: bool>(form: &Form) -> Option<Handler> {
    let flat = form.flat;
    Some(match (form.kinds[0], form.kinds[2]) {
        (Kind::Register, Kind::Immediate) => by_wide!(form, T => double_register::<Fixed, T, LEFT>),
        (Kind::Register, _) => by_wide!(form, T => double_register::<Cl, T, LEFT>),
        (Kind::Memory, Kind::Immediate) => {
            by_wide!(form, T => by_address!(flat, A => double_memory::<Fixed, T, A, LEFT>))
        }
        (Kind::Memory, _) => {
            by_wide!(form, T => by_address!(flat, A => double_memory::<Cl, T, A, LEFT>))
        }
        _ => return None,
    })
}
