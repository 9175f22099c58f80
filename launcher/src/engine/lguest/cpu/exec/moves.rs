//! Moves: between registers and memory, with and without a change of width or a condition.

use super::branch::{self, Condition};
use super::{Form, Kind, by_address, by_wide, by_width, handler};
use crate::engine::lguest::cpu::access::Address;
use crate::engine::lguest::cpu::op::{Handler, Op, Width};
use crate::engine::lguest::cpu::state::{Core, Register, Step};
use crate::engine::lguest::memory::GuestMemory;

fn register_register<T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let value = T::get(core, op.other);
    T::set(core, op.reg, value);
    Ok(())
}

fn register_immediate<T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    T::set(core, op.reg, op.imm);
    Ok(())
}

fn register_memory<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let value = T::load::<A>(core, memory, op)?;
    T::set(core, op.reg, value);
    Ok(())
}

fn memory_register<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let value = T::get(core, op.other);
    T::store::<A>(core, memory, op, value)
}

fn memory_immediate<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    T::store::<A>(core, memory, op, op.imm)
}

/// `mov`, without segment registers.
pub(in super::super) fn mov(form: &Form) -> Option<Handler> {
    let flat = form.flat;
    Some(match (form.kinds[0], form.kinds[1]) {
        (Kind::Register, Kind::Register) => by_width!(form, T => register_register::<T>),
        (Kind::Register, Kind::Immediate) => by_width!(form, T => register_immediate::<T>),
        (Kind::Register, Kind::Memory) => {
            by_width!(form, T => by_address!(flat, A => register_memory::<T, A>))
        }
        (Kind::Memory, Kind::Register) => {
            by_width!(form, T => by_address!(flat, A => memory_register::<T, A>))
        }
        (Kind::Memory, Kind::Immediate) => {
            by_width!(form, T => by_address!(flat, A => memory_immediate::<T, A>))
        }
        _ => return None,
    })
}

/// What `movzx` and `movsx` do to the narrow value.
trait Widen {
    fn widen<S: Width>(value: u32) -> u32;
}
struct Zero;
struct Sign;
impl Widen for Zero {
    #[inline(always)]
    fn widen<S: Width>(value: u32) -> u32 {
        value
    }
}
impl Widen for Sign {
    #[inline(always)]
    fn widen<S: Width>(value: u32) -> u32 {
        S::extend(value)
    }
}

fn widen_register<K: Widen, S: Width, T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let value = K::widen::<S>(S::get(core, op.other));
    T::set(core, op.reg, value);
    Ok(())
}

fn widen_memory<K: Widen, S: Width, T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    let value = K::widen::<S>(S::load::<A>(core, memory, op)?);
    T::set(core, op.reg, value);
    Ok(())
}

fn widening<K: Widen>(form: &Form, source: u32) -> Option<Handler> {
    macro_rules! from {
        ($S:ty) => {
            match form.kinds[1] {
                Kind::Register => by_wide!(form, T => widen_register::<K, $S, T>),
                Kind::Memory => by_wide!(form, T => by_address!(form.flat, A => widen_memory::<K, $S, T, A>)),
                _ => return None,
            }
        };
    }
    Some(if source == 1 { from!(u8) } else { from!(u16) })
}

/// `movzx` from so many bytes.
pub(in super::super) fn movzx(form: &Form, source: u32) -> Option<Handler> {
    widening::<Zero>(form, source)
}

/// `movsx` from so many bytes.
pub(in super::super) fn movsx(form: &Form, source: u32) -> Option<Handler> {
    widening::<Sign>(form, source)
}

fn lea32(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let offset = op.offset(core);
    core.set_reg(op.reg, offset);
    Ok(())
}

fn lea_any<T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let offset = op.offset_any(core);
    T::set(core, op.reg, offset);
    Ok(())
}

/// `lea`.
pub(in super::super) fn lea(form: &Form, narrow_address: bool) -> Option<Handler> {
    Some(if form.width == 4 && !narrow_address {
        handler!(lea32)
    } else {
        by_wide!(form, T => lea_any::<T>)
    })
}

fn move_register_if<C: Condition, T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    if C::holds(&core.flags) {
        let value = T::get(core, op.other);
        T::set(core, op.reg, value);
    }
    Ok(())
}

/// The memory is read whatever the condition.
fn move_memory_if<C: Condition, T: Width, A: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    let value = T::load::<A>(core, memory, op)?;
    if C::holds(&core.flags) {
        T::set(core, op.reg, value);
    }
    Ok(())
}

/// `cmovcc`.
pub(in super::super) fn cmov(form: &Form, condition: u8) -> Option<Handler> {
    Some(match form.kinds[1] {
        Kind::Register => {
            branch::by_condition!(condition, C => by_wide!(form, T => move_register_if::<C, T>))
        }
        Kind::Memory => branch::by_condition!(condition, C => by_wide!(form, T => {
            by_address!(form.flat, A => move_memory_if::<C, T, A>)
        })),
        _ => return None,
    })
}

fn set_register_if<C: Condition>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let value = C::holds(&core.flags).into();
    u8::set(core, op.reg, value);
    Ok(())
}

fn set_memory_if<C: Condition, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let value = C::holds(&core.flags).into();
    u8::store::<A>(core, memory, op, value)
}

/// `setcc`.
pub(in super::super) fn set(form: &Form, condition: u8) -> Option<Handler> {
    Some(match form.kinds[0] {
        Kind::Register => branch::by_condition!(condition, C => set_register_if::<C>),
        Kind::Memory => {
            branch::by_condition!(condition, C => by_address!(form.flat, A => set_memory_if::<C, A>))
        }
        _ => return None,
    })
}

/// `cbw`.
pub(in super::super) fn cbw(core: &mut Core, _: &GuestMemory, _: &Op) -> Step {
    let value = u8::extend(u8::get(core, 0));
    u16::set(core, 0, value);
    Ok(())
}

/// `cwde`.
pub(in super::super) fn cwde(core: &mut Core, _: &GuestMemory, _: &Op) -> Step {
    let value = u16::extend(u16::get(core, 0));
    core.set_reg(0, value);
    Ok(())
}

/// `cwd` and `cdq`.
fn sign_to_dx<T: Width>(core: &mut Core, _: &GuestMemory, _: &Op) -> Step {
    let sign = (T::extend(T::get(core, 0)) as i32 >> 31) as u32;
    T::set(core, Register::Edx as u8, sign);
    Ok(())
}

/// `cwd`.
pub(in super::super) const CWD: Handler = handler!(sign_to_dx::<u16>);
/// `cdq`.
pub(in super::super) const CDQ: Handler = handler!(sign_to_dx::<u32>);

fn xlat_at<A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    // Its address is ebx + al: an index the decoder can't express.
    let mut op = *op;
    op.disp = op.disp.wrapping_add(core.regs[0] & 0xFF);
    let value = u8::load::<A>(core, memory, &op)?;
    u8::set(core, 0, value);
    Ok(())
}

/// `xlat`; the decoder gives its base, ebx.
pub(in super::super) fn xlat(form: &Form) -> Option<Handler> {
    Some(by_address!(form.flat, A => xlat_at::<A>))
}
