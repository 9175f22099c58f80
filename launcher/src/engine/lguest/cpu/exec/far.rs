//! Transfers to other code segments: far jumps, calls and returns, `iret`, software interrupts.
//!
//! Jumps and calls stay in their ring: gates are the host's business, and the GDT has none. Returns
//! may go from ring 1 to ring 3; then the stack changes too, and data segments that ring 3 may not
//! have are cleared.

use super::segments::far_pointer;
use super::{Form, Kind, by_address, by_wide};
use crate::engine::lguest::cpu::access::{Address, Segmented};
use crate::engine::lguest::cpu::exec::stack::{peek, push, release, reserve};
use crate::engine::lguest::cpu::exit::Exit;
use crate::engine::lguest::cpu::flags::NT;
use crate::engine::lguest::cpu::op::{Handler, Op, Width};
use crate::engine::lguest::cpu::segment::SegmentRegister;
use crate::engine::lguest::cpu::state::{Core, Leave, Outcome, Register, Segment, Step, landed};
use crate::engine::lguest::memory::GuestMemory;

/// Vector of `int3`.
const BREAKPOINT: u8 = 3;
/// Vector of `into`.
const OVERFLOW: u8 = 4;

/// The code segment a far jump or call goes to.
fn target(core: &mut Core, selector: u16, offset: u32) -> Outcome<SegmentRegister> {
    if selector & !3 == 0 {
        return Err(core.fault(13, Some(0)));
    }
    let conforming = core.descriptor(selector).is_some_and(|d| d.is_conforming());
    if !conforming && selector as u8 & 3 > core.ring {
        return Err(core.fault(13, Some(u32::from(selector & !3))));
    }
    let ring = core.ring;
    let loaded = core
        .code_segment(selector, ring)
        .map_err(|fault| core.segment_fault(fault))?;
    if !loaded.contains(offset, 1) {
        return Err(core.fault(13, Some(0)));
    }
    Ok(loaded)
}

fn go(core: &mut Core, code: SegmentRegister, offset: u32) -> Step {
    core.set_segment(Segment::Cs, code);
    core.eip = offset;
    Err(Leave::Jump)
}

fn jump_to(core: &mut Core, selector: u16, offset: u32) -> Step {
    let code = target(core, selector, offset)?;
    go(core, code, offset)
}

fn call_to<T: Width>(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
    selector: u16,
    offset: u32,
) -> Step {
    let code = target(core, selector, offset)?;
    reserve(core, memory, 2 * T::BYTES)?;
    let old = core.segments[Segment::Cs as usize].selector;
    let next = op.next(core);
    // What was written is found out at the next block.
    let _ = landed(push::<T, Segmented>(core, memory, old.into()))?;
    let _ = landed(push::<T, Segmented>(core, memory, next))?;
    go(core, code, offset)
}

/// The selector is in `disp`, the offset in `imm`.
fn jump_direct<T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    jump_to(core, op.disp as u16, op.imm & T::MASK)
}

fn jump_memory<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let (offset, selector) = far_pointer::<T, A>(core, memory, op)?;
    jump_to(core, selector, offset)
}

fn call_direct<T: Width>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    call_to::<T>(core, memory, op, op.disp as u16, op.imm & T::MASK)
}

fn call_memory<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let (offset, selector) = far_pointer::<T, A>(core, memory, op)?;
    call_to::<T>(core, memory, op, selector, offset)
}

/// `jmp` far.
pub(in super::super) fn jmp(form: &Form) -> Option<Handler> {
    Some(match form.kinds[0] {
        Kind::Memory => by_wide!(form, T => by_address!(form.flat, A => jump_memory::<T, A>)),
        _ => by_wide!(form, T => jump_direct::<T>),
    })
}

/// `call` far.
pub(in super::super) fn call(form: &Form) -> Option<Handler> {
    Some(match form.kinds[0] {
        Kind::Memory => by_wide!(form, T => by_address!(form.flat, A => call_memory::<T, A>)),
        _ => by_wide!(form, T => call_direct::<T>),
    })
}

/// Returns to what the top of the stack says: eip, cs, `skipped` more words, then, if cs is of an
/// outer ring, `released` bytes, esp and ss; without, `released` bytes are thrown away. Nothing is
/// changed if this faults.
fn return_to<T: Width>(core: &mut Core, memory: &GuestMemory, skipped: u32, released: u32) -> Step {
    let offset = peek::<T>(core, memory, 0)?;
    let selector = peek::<T>(core, memory, 1)? as u16;
    let ring = selector as u8 & 3;
    let bad = u32::from(selector & !3);
    if bad == 0 || ring < core.ring {
        return Err(core.fault(13, Some(bad)));
    }
    let code = core
        .code_segment(selector, ring)
        .map_err(|fault| core.segment_fault(fault))?;
    let popped = (2 + skipped) * T::BYTES + released;
    if ring == core.ring {
        if !code.contains(offset, 1) {
            return Err(core.fault(13, Some(0)));
        }
        release(core, popped);
        return go(core, code, offset);
    }
    let outer = core.register(Register::Esp).wrapping_add(popped) & core.stack_mask();
    let linear = core.linear(Segment::Ss, outer, 2 * T::BYTES, false)?;
    let esp = core.load::<T>(memory, linear)?;
    let ss = core.load::<T>(memory, linear.wrapping_add(T::BYTES))? as u16;
    if ss & !3 == 0 {
        return Err(core.fault(13, Some(0)));
    }
    let stack = core
        .stack_segment(ss, ring)
        .map_err(|fault| core.segment_fault(fault))?;
    if !code.contains(offset, 1) {
        return Err(core.fault(13, Some(0)));
    }
    core.ring = ring;
    core.set_segment(Segment::Ss, stack);
    let mask = core.stack_mask();
    let kept = core.register(Register::Esp) & !mask;
    core.set_register(Register::Esp, kept | esp.wrapping_add(released) & mask);
    for segment in [Segment::Es, Segment::Ds, Segment::Fs, Segment::Gs] {
        let selector = core.segments[segment as usize].selector;
        let keeps = core
            .descriptor(selector)
            .is_some_and(|d| d.is_conforming() || d.dpl() >= ring);
        if !keeps {
            core.set_segment(segment, SegmentRegister::null(0));
        }
    }
    go(core, code, offset)
}

fn return_far<T: Width>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    return_to::<T>(core, memory, 0, op.imm)
}

/// `retf`, releasing `imm` bytes.
pub(in super::super) fn retf(form: &Form) -> Option<Handler> {
    Some(by_wide!(form, T => return_far::<T>))
}

fn return_from_interrupt<T: Width>(core: &mut Core, memory: &GuestMemory, _: &Op) -> Step {
    let before = core.flags.get();
    if before & NT != 0 {
        // A return to the task the TSS links to; there is none.
        return Err(core.fault(10, Some(0)));
    }
    let flags = peek::<T>(core, memory, 2)?;
    let step = return_to::<T>(core, memory, 1, 0);
    if step == Err(Leave::Jump) {
        core.flags.set(before & !T::MASK | flags);
    }
    step
}

/// `iret`.
pub(in super::super) fn iret(form: &Form) -> Option<Handler> {
    Some(by_wide!(form, T => return_from_interrupt::<T>))
}

fn interrupt(core: &mut Core, op: &Op, vector: u8) -> Step {
    core.exit = Exit::Interrupt {
        vector,
        at: op.eip(core),
    };
    Err(Leave::Trap)
}

/// `int n`.
pub(in super::super) fn int(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    interrupt(core, op, op.imm as u8)
}

/// `int3`.
pub(in super::super) fn int3(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    interrupt(core, op, BREAKPOINT)
}

/// `into`.
pub(in super::super) fn into(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    if core.flags.of() {
        interrupt(core, op, OVERFLOW)
    } else {
        Ok(())
    }
}

fn check_bounds<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let linear = A::linear(core, op, 2 * T::BYTES, false)?;
    let low = core.load::<T>(memory, linear)?;
    let high = core.load::<T>(memory, linear.wrapping_add(T::BYTES))?;
    let signed = |value| T::extend(value) as i32;
    let index = signed(T::get(core, op.reg));
    if index < signed(low) || index > signed(high) {
        return Err(core.fault(5, None));
    }
    Ok(())
}

/// `bound`.
pub(in super::super) fn bound(form: &Form) -> Option<Handler> {
    (form.kinds[1] == Kind::Memory)
        .then(|| by_wide!(form, T => by_address!(form.flat, A => check_bounds::<T, A>)))
}
