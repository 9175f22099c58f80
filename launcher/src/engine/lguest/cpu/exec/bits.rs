//! Single bits: test, set, reset, complement, search. And bytes the other way round.

use super::{Form, Kind, by_address, by_wide, handler};
use crate::engine::lguest::cpu::access::Address;
use crate::engine::lguest::cpu::op::{Handler, Op, Width};
use crate::engine::lguest::cpu::state::{Core, Step};
use crate::engine::lguest::memory::GuestMemory;

/// What is done to the bit after it was copied to the carry.
pub(in super::super) trait Change {
    const STORES: bool = true;
    fn change(value: u32, bit: u32) -> u32;
}

macro_rules! changes {
    ($($name:ident $stores:literal |$value:ident, $bit:ident| $body:expr;)*) => { $(
        pub(in super::super) struct $name;
        impl Change for $name {
            const STORES: bool = $stores;
            #[inline(always)]
            fn change($value: u32, $bit: u32) -> u32 { $body }
        }
    )* };
}

changes! {
    Bt false |value, _bit| value;
    Bts true |value, bit| value | bit;
    Btr true |value, bit| value & !bit;
    Btc true |value, bit| value ^ bit;
}

#[inline(always)]
fn apply<K: Change, T: Width>(core: &mut Core, value: u32, index: u32) -> u32 {
    let bit = 1 << (index % T::BITS);
    core.flags.set_carry(value & bit != 0);
    K::change(value, bit)
}

fn register_register<K: Change, T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let index = T::get(core, op.other);
    on_register::<K, T>(core, op, index)
}

fn register_immediate<K: Change, T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    on_register::<K, T>(core, op, op.imm)
}

#[inline(always)]
fn on_register<K: Change, T: Width>(core: &mut Core, op: &Op, index: u32) -> Step {
    let value = T::get(core, op.reg);
    let result = apply::<K, T>(core, value, index);
    if K::STORES {
        T::set(core, op.reg, result);
    }
    Ok(())
}

/// The index in a register is signed, and reaches beyond the word the address names.
fn memory_register<K: Change, T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    let index = T::extend(T::get(core, op.other));
    let words = index as i32 >> T::BITS.trailing_zeros();
    let mut op = *op;
    op.disp = op.disp.wrapping_add((words as u32).wrapping_mul(T::BYTES));
    on_memory::<K, T, A>(core, memory, &op, index)
}

fn memory_immediate<K: Change, T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    on_memory::<K, T, A>(core, memory, op, op.imm)
}

#[inline(always)]
fn on_memory<K: Change, T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
    index: u32,
) -> Step {
    if K::STORES {
        T::modify::<A>(core, memory, op, |core, value| {
            apply::<K, T>(core, value, index)
        })
    } else {
        let value = T::load::<A>(core, memory, op)?;
        apply::<K, T>(core, value, index);
        Ok(())
    }
}

/// `bt` and its kin.
pub(in super::super) fn bit<K: Change>(form: &Form) -> Option<Handler> {
    let flat = form.flat;
    Some(match (form.kinds[0], form.kinds[1]) {
        (Kind::Register, Kind::Register) => by_wide!(form, T => register_register::<K, T>),
        (Kind::Register, Kind::Immediate) => by_wide!(form, T => register_immediate::<K, T>),
        (Kind::Memory, Kind::Register) => {
            by_wide!(form, T => by_address!(flat, A => memory_register::<K, T, A>))
        }
        (Kind::Memory, Kind::Immediate) => {
            by_wide!(form, T => by_address!(flat, A => memory_immediate::<K, T, A>))
        }
        _ => return None,
    })
}

/// A search that found nothing leaves its register alone. Flags other than ZF are undefined.
#[inline(always)]
fn search<T: Width, const UP: bool>(core: &mut Core, op: &Op, value: u32) -> Step {
    let found = if UP {
        value.trailing_zeros()
    } else {
        31 - (value | 1).leading_zeros()
    };
    core.flags.result = T::extend(value);
    core.flags.fix = 0;
    core.flags.carry = 0;
    if value != 0 {
        T::set(core, op.reg, found);
    }
    Ok(())
}

fn search_register<T: Width, const UP: bool>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let value = T::get(core, op.other);
    search::<T, UP>(core, op, value)
}

fn search_memory<T: Width, A: Address, const UP: bool>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    let value = T::load::<A>(core, memory, op)?;
    search::<T, UP>(core, op, value)
}

/// `bsf` (up) and `bsr`.
pub(in super::super) fn scan<const UP: bool>(form: &Form) -> Option<Handler> {
    Some(match form.kinds[1] {
        Kind::Register => by_wide!(form, T => search_register::<T, UP>),
        Kind::Memory => by_wide!(form, T => by_address!(form.flat, A => search_memory::<T, A, UP>)),
        _ => return None,
    })
}

/// `bswap`. Of 16 bits, which is undefined, it gives zero as processors do.
pub(in super::super) fn bswap(form: &Form) -> Option<Handler> {
    fn swap(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
        let value = core.reg(op.reg).swap_bytes();
        core.set_reg(op.reg, value);
        Ok(())
    }
    fn clear(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
        u16::set(core, op.reg, 0);
        Ok(())
    }
    Some(if form.width == 2 {
        handler!(clear)
    } else {
        handler!(swap)
    })
}
