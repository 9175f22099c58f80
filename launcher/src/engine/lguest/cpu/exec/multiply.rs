//! Multiplication and division.

use super::{Form, Kind, by_address, by_wide, by_width};
use crate::engine::lguest::cpu::access::Address;
use crate::engine::lguest::cpu::flags::Flags;
use crate::engine::lguest::cpu::op::{Handler, Op, Width};
use crate::engine::lguest::cpu::state::{Core, Register, Step};
use crate::engine::lguest::memory::GuestMemory;

const EAX: u8 = Register::Eax as u8;
const EDX: u8 = Register::Edx as u8;

/// The flags after a product: carry and overflow say that it did not fit. The others are
/// undefined: those of the low half.
fn product_flags<T: Width>(flags: &mut Flags, low: u32, lost: bool) {
    flags.result = T::extend(low);
    flags.fix = 0;
    flags.set_carry_overflow(lost, lost);
}

/// The accumulator of twice the width: ax for bytes, else edx and eax.
fn set_double<T: Width>(core: &mut Core, low: u32, high: u32) {
    if T::BITS == 8 {
        u16::set(core, EAX, low & 0xFF | high << 8);
    } else {
        T::set(core, EAX, low);
        T::set(core, EDX, high);
    }
}

fn double<T: Width>(core: &Core) -> u64 {
    if T::BITS == 8 {
        u16::get(core, EAX).into()
    } else {
        u64::from(T::get(core, EDX)) << T::BITS | u64::from(T::get(core, EAX))
    }
}

/// An operation of the accumulator with one operand. None: the quotient does not fit (#DE).
pub(in super::super) trait Accumulator {
    fn apply<T: Width>(core: &mut Core, operand: u32) -> Option<()>;
}

pub(in super::super) struct Mul;
pub(in super::super) struct Imul;
pub(in super::super) struct Div;
pub(in super::super) struct Idiv;

impl Accumulator for Mul {
    #[inline(always)]
    fn apply<T: Width>(core: &mut Core, operand: u32) -> Option<()> {
        let product = u64::from(T::get(core, EAX)) * u64::from(operand);
        let (low, high) = (product as u32 & T::MASK, (product >> T::BITS) as u32);
        set_double::<T>(core, low, high);
        product_flags::<T>(&mut core.flags, low, high != 0);
        Some(())
    }
}

impl Accumulator for Imul {
    #[inline(always)]
    fn apply<T: Width>(core: &mut Core, operand: u32) -> Option<()> {
        let (product, lost) = signed_product::<T>(T::get(core, EAX), operand);
        let low = product as u32 & T::MASK;
        set_double::<T>(core, low, (product >> T::BITS) as u32);
        product_flags::<T>(&mut core.flags, low, lost);
        Some(())
    }
}

impl Accumulator for Div {
    #[inline(always)]
    fn apply<T: Width>(core: &mut Core, operand: u32) -> Option<()> {
        let dividend = double::<T>(core);
        let quotient = dividend.checked_div(operand.into())?;
        if quotient > T::MASK.into() {
            return None;
        }
        let remainder = dividend % u64::from(operand);
        set_double::<T>(core, quotient as u32, remainder as u32);
        Some(())
    }
}

impl Accumulator for Idiv {
    #[inline(always)]
    fn apply<T: Width>(core: &mut Core, operand: u32) -> Option<()> {
        // The dividend with its sign, which stands in the top bit of twice the width.
        let unused = 64 - 2 * T::BITS;
        let dividend = (double::<T>(core) << unused) as i64 >> unused;
        let divisor = i64::from(T::extend(operand) as i32);
        let quotient = dividend.checked_div(divisor)?;
        if quotient != i64::from(T::extend(quotient as u32) as i32) {
            return None;
        }
        let remainder = dividend.checked_rem(divisor)?;
        set_double::<T>(core, quotient as u32, remainder as u32);
        Some(())
    }
}

/// The whole product, and whether it needs more than the width.
#[inline(always)]
fn signed_product<T: Width>(a: u32, b: u32) -> (i64, bool) {
    let product = i64::from(T::extend(a) as i32) * i64::from(T::extend(b) as i32);
    (
        product,
        product != i64::from(T::extend(product as u32) as i32),
    )
}

#[inline(always)]
fn with_accumulator<K: Accumulator, T: Width>(core: &mut Core, operand: u32) -> Step {
    match K::apply::<T>(core, operand) {
        Some(()) => Ok(()),
        None => Err(core.fault(0, None)),
    }
}

fn accumulator_register<K: Accumulator, T: Width>(
    core: &mut Core,
    _: &GuestMemory,
    op: &Op,
) -> Step {
    let operand = T::get(core, op.reg);
    with_accumulator::<K, T>(core, operand)
}

fn accumulator_memory<K: Accumulator, T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    let operand = T::load::<A>(core, memory, op)?;
    with_accumulator::<K, T>(core, operand)
}

/// `mul`, `div`, `idiv`, and `imul` with one operand.
pub(in super::super) fn accumulator<K: Accumulator>(form: &Form) -> Option<Handler> {
    Some(match form.kinds[0] {
        Kind::Register => by_width!(form, T => accumulator_register::<K, T>),
        Kind::Memory => {
            by_width!(form, T => by_address!(form.flat, A => accumulator_memory::<K, T, A>))
        }
        _ => return None,
    })
}

#[inline(always)]
fn multiply<T: Width>(core: &mut Core, op: &Op, a: u32, b: u32) -> Step {
    let (product, lost) = signed_product::<T>(a, b);
    let low = product as u32;
    T::set(core, op.reg, low);
    product_flags::<T>(&mut core.flags, low, lost);
    Ok(())
}

fn registers<T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let (a, b) = (T::get(core, op.reg), T::get(core, op.other));
    multiply::<T>(core, op, a, b)
}

fn register_memory<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let b = T::load::<A>(core, memory, op)?;
    let a = T::get(core, op.reg);
    multiply::<T>(core, op, a, b)
}

fn register_immediate<T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let a = T::get(core, op.other);
    multiply::<T>(core, op, a, op.imm)
}

fn memory_immediate<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let a = T::load::<A>(core, memory, op)?;
    multiply::<T>(core, op, a, op.imm)
}

/// `imul` with any number of operands.
pub(in super::super) fn imul(form: &Form) -> Option<Handler> {
    Some(match (form.kinds[1], form.kinds[2]) {
        (Kind::None, _) => return accumulator::<Imul>(form),
        (Kind::Register, Kind::None) => by_wide!(form, T => registers::<T>),
        (Kind::Memory, Kind::None) => {
            by_wide!(form, T => by_address!(form.flat, A => register_memory::<T, A>))
        }
        (Kind::Register, Kind::Immediate) => by_wide!(form, T => register_immediate::<T>),
        (Kind::Memory, Kind::Immediate) => {
            by_wide!(form, T => by_address!(form.flat, A => memory_immediate::<T, A>))
        }
        _ => return None,
    })
}
