//! The same operations on registers where nobody will ask for their flags: another operation of the same
//! block sets them all before anything looks, or could fault and show them.

use super::arithmetic::{Add, And, Binary, Dec, Inc, Neg, Or, Sub, Unary, Xor};
use super::shift::{Sar, Shift, Shl, Shr};
use super::{Form, Kind, by_width};
use crate::engine::lguest::cpu::op::{Handler, Op, Width};
use crate::engine::lguest::cpu::state::{Core, Step};
use crate::engine::lguest::memory::GuestMemory;

// The flags go to a copy that is thrown away, and the compiler with it throws away their making.

fn registers<K: Binary, T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let (a, b) = (T::get(core, op.reg), T::get(core, op.other));
    let result = K::apply::<T>(&mut core.flags.clone(), a, b);
    T::set(core, op.reg, result);
    Ok(())
}

fn register_immediate<K: Binary, T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let a = T::get(core, op.reg);
    let result = K::apply::<T>(&mut core.flags.clone(), a, op.imm & T::MASK);
    T::set(core, op.reg, result);
    Ok(())
}

fn register_alone<K: Unary, T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let a = T::get(core, op.reg);
    let result = K::apply::<T>(&mut core.flags.clone(), a);
    T::set(core, op.reg, result);
    Ok(())
}

fn shifted<K: Shift, T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let a = T::get(core, op.reg);
    // A count of zero is no shift either; its flags are not wanted.
    let result = if op.imm.is_multiple_of(32) {
        a
    } else {
        K::apply::<T>(&mut core.flags.clone(), a, op.imm % 32)
    };
    T::set(core, op.reg, result);
    Ok(())
}

fn two<K: Binary>(form: &Form) -> Option<Handler> {
    Some(match (form.kinds[0], form.kinds[1]) {
        (Kind::Register, Kind::Register) => by_width!(form, T => registers::<K, T>),
        (Kind::Register, Kind::Immediate) => by_width!(form, T => register_immediate::<K, T>),
        _ => return None,
    })
}

fn one<K: Unary>(form: &Form) -> Option<Handler> {
    (form.kinds[0] == Kind::Register).then(|| by_width!(form, T => register_alone::<K, T>))
}

fn shift<K: Shift>(form: &Form) -> Option<Handler> {
    (form.kinds[..2] == [Kind::Register, Kind::Immediate])
        .then(|| by_width!(form, T => shifted::<K, T>))
}

/// The handler of an instruction whose flags nobody wants, if it has one.
pub(in super::super) fn quiet(mnemonic: iced_x86::Mnemonic, form: &Form) -> Option<Handler> {
    use iced_x86::Mnemonic as M;
    match mnemonic {
        M::Add => two::<Add>(form),
        M::Sub => two::<Sub>(form),
        M::And => two::<And>(form),
        M::Or => two::<Or>(form),
        M::Xor => two::<Xor>(form),
        M::Inc => one::<Inc>(form),
        M::Dec => one::<Dec>(form),
        M::Neg => one::<Neg>(form),
        M::Shl | M::Sal => shift::<Shl>(form),
        M::Shr => shift::<Shr>(form),
        M::Sar => shift::<Sar>(form),
        _ => None,
    }
}
