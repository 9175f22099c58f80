//! The stack: push and pop, flags, all registers at once, frames.

use super::{Form, Kind, by_address, by_wide, handler};
use crate::engine::lguest::cpu::access::{Address, Segmented};
use crate::engine::lguest::cpu::flags::{RF, VM};
use crate::engine::lguest::cpu::op::{Handler, Op, Width, ZERO};
use crate::engine::lguest::cpu::state::{Core, Leave, Outcome, Register, Segment, Step, landed};
use crate::engine::lguest::memory::GuestMemory;

const ESP: u8 = Register::Esp as u8;
const EBP: u8 = Register::Ebp as u8;

impl Core {
    /// The bits of esp that count: a stack of 16 bits has sp.
    pub(in super::super) fn stack_mask(&self) -> u32 {
        if self.segments[Segment::Ss as usize].wide {
            u32::MAX
        } else {
            0xFFFF
        }
    }

    /// Moves the stack pointer, in the bits that count.
    pub(in super::super) fn set_stack(&mut self, esp: u32) {
        let mask = self.stack_mask();
        let esp = self.reg(ESP) & !mask | esp & mask;
        self.set_reg(ESP, esp);
    }
}

/// An address operand that is just an offset in ss.
#[inline(always)]
fn at(offset: u32) -> Op {
    Op {
        run: handler!(nothing),
        imm: 0,
        disp: offset,
        reg: 0,
        other: 0,
        base: ZERO,
        index: ZERO,
        address: (Segment::Ss as u8) << 2,
        number: 0,
        at: 0,
        end: 0,
    }
}

/// `nop`.
pub(in super::super) fn nothing(_: &mut Core, _: &GuestMemory, _: &Op) -> Step {
    Ok(())
}

/// The offset `bytes` below the top of the stack.
#[inline(always)]
fn below<S: Address>(core: &Core, bytes: u32) -> u32 {
    let esp = core.reg(ESP).wrapping_sub(bytes);
    if S::FLAT {
        esp
    } else {
        esp & core.stack_mask()
    }
}

#[inline(always)]
fn move_to<S: Address>(core: &mut Core, esp: u32) {
    if S::FLAT {
        core.set_reg(ESP, esp);
    } else {
        core.set_stack(esp);
    }
}

/// Pushes a value.
#[inline(always)]
pub(in super::super) fn push<T: Width, S: Address>(
    core: &mut Core,
    memory: &GuestMemory,
    value: u32,
) -> Step {
    let esp = below::<S>(core, T::BYTES);
    let stored = landed(T::store::<S>(core, memory, &at(esp), value))?;
    move_to::<S>(core, esp);
    stored
}

/// Reads the top of the stack.
#[inline(always)]
fn top<T: Width, S: Address>(core: &mut Core, memory: &GuestMemory) -> Outcome<u32> {
    let esp = below::<S>(core, 0);
    T::load::<S>(core, memory, &at(esp))
}

/// Pops a value.
#[inline(always)]
pub(in super::super) fn pop<T: Width, S: Address>(
    core: &mut Core,
    memory: &GuestMemory,
) -> Outcome<u32> {
    let value = top::<T, S>(core, memory)?;
    let esp = core.reg(ESP).wrapping_add(T::BYTES);
    move_to::<S>(core, esp);
    Ok(value)
}

/// Reads the n-th value from the top of the stack, without popping.
pub(in super::super) fn peek<T: Width>(
    core: &mut Core,
    memory: &GuestMemory,
    n: u32,
) -> Outcome<u32> {
    let offset = core.reg(ESP).wrapping_add(n * T::BYTES) & core.stack_mask();
    T::load::<Segmented>(core, memory, &at(offset))
}

/// Throws away bytes at the top of the stack.
#[inline(always)]
pub(in super::super) fn release(core: &mut Core, bytes: u32) {
    if bytes != 0 {
        let esp = core.reg(ESP).wrapping_add(bytes);
        core.set_stack(esp);
    }
}

/// Makes sure that `bytes` bytes below the top of the stack can be written, all of them.
pub(in super::super) fn reserve(core: &mut Core, memory: &GuestMemory, bytes: u32) -> Step {
    let esp = below::<Segmented>(core, bytes);
    let linear = core.linear(Segment::Ss, esp, bytes, true)?;
    core.open_range(memory, linear, bytes)
}

fn push_register<T: Width, S: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let value = T::get(core, op.reg);
    push::<T, S>(core, memory, value)
}

fn push_immediate<T: Width, S: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    push::<T, S>(core, memory, op.imm)
}

/// What is flat is so for the stack as well ([`Mode`](super::super::state::Mode)).
fn push_memory<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let value = T::load::<A>(core, memory, op)?;
    push::<T, A>(core, memory, value)
}

fn push_segment<T: Width, S: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let selector = core.segments[usize::from(op.reg) % 6].selector;
    push::<T, S>(core, memory, selector.into())
}

/// `push`.
pub(in super::super) fn pushing(form: &Form) -> Option<Handler> {
    let stack = form.flat_stack;
    Some(match form.kinds[0] {
        Kind::Register => by_wide!(form, T => by_address!(stack, S => push_register::<T, S>)),
        Kind::Immediate => by_wide!(form, T => by_address!(stack, S => push_immediate::<T, S>)),
        Kind::Segment => by_wide!(form, T => by_address!(stack, S => push_segment::<T, S>)),
        Kind::Memory => by_wide!(form, T => by_address!(form.flat, A => push_memory::<T, A>)),
        Kind::None => return None,
    })
}

fn pop_register<T: Width, S: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let value = pop::<T, S>(core, memory)?;
    T::set(core, op.reg, value);
    Ok(())
}

fn pop_memory<T: Width, A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let before = core.reg(ESP);
    let value = pop::<T, A>(core, memory)?;
    // An address made from esp is made from what it is after the pop.
    let stored = T::store::<A>(core, memory, op, value);
    if landed(stored).is_err() {
        core.set_reg(ESP, before);
    }
    stored
}

/// `pop`, without segment registers.
pub(in super::super) fn popping(form: &Form) -> Option<Handler> {
    let stack = form.flat_stack;
    Some(match form.kinds[0] {
        Kind::Register => by_wide!(form, T => by_address!(stack, S => pop_register::<T, S>)),
        Kind::Memory => by_wide!(form, T => by_address!(form.flat, A => pop_memory::<T, A>)),
        _ => return None,
    })
}

fn push_flags<T: Width>(core: &mut Core, memory: &GuestMemory, _: &Op) -> Step {
    let flags = core.flags.get() & !(RF | VM);
    push::<T, Segmented>(core, memory, flags)
}

fn pop_flags<T: Width>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let value = pop::<T, Segmented>(core, memory)?;
    let kept = core.flags.get() & !T::MASK;
    core.flags.set((kept | value) & !RF);
    // TF may have changed, and that ends a block.
    core.eip = op.next(core);
    Err(Leave::Jump)
}

/// `pushf`.
pub(in super::super) fn pushf(form: &Form) -> Option<Handler> {
    Some(by_wide!(form, T => push_flags::<T>))
}

/// `popf`.
pub(in super::super) fn popf(form: &Form) -> Option<Handler> {
    Some(by_wide!(form, T => pop_flags::<T>))
}

fn push_all<T: Width>(core: &mut Core, memory: &GuestMemory, _: &Op) -> Step {
    reserve(core, memory, 8 * T::BYTES)?;
    let mut before = [0; 8];
    before.copy_from_slice(&core.regs[..8]);
    let mut step = Ok(());
    for register in &before {
        if let Err(leave) = push::<T, Segmented>(core, memory, *register) {
            step = Err(leave);
        }
    }
    step
}

fn pop_all<T: Width>(core: &mut Core, memory: &GuestMemory, _: &Op) -> Step {
    let mut values = [0; 8];
    for (n, value) in values.iter_mut().enumerate() {
        *value = peek::<T>(core, memory, n as u32)?;
    }
    for (register, value) in (0..8).rev().zip(values) {
        if register != ESP {
            T::set(core, register, value);
        }
    }
    release(core, 8 * T::BYTES);
    Ok(())
}

/// `pusha`.
pub(in super::super) fn pusha(form: &Form) -> Option<Handler> {
    Some(by_wide!(form, T => push_all::<T>))
}

/// `popa`.
pub(in super::super) fn popa(form: &Form) -> Option<Handler> {
    Some(by_wide!(form, T => pop_all::<T>))
}

/// `enter`: a frame of `imm` bytes, nested `reg` deep (`reg` and `disp` hold its two immediates).
fn enter_frame<T: Width>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let depth = u32::from(op.reg) % 32;
    let mask = core.stack_mask();
    // All that will be read and written is looked at first.
    reserve(core, memory, (depth + 1) * T::BYTES)?;
    let mut outer = [0; 32];
    let ebp = core.reg(EBP);
    for n in 1..depth {
        let offset = ebp.wrapping_sub(n * T::BYTES) & mask;
        outer[n as usize] = T::load::<Segmented>(core, memory, &at(offset))?;
    }
    // The processor probes the end of the new frame as well.
    let frame = core.reg(ESP).wrapping_sub(T::BYTES);
    let end = frame.wrapping_sub(depth * T::BYTES).wrapping_sub(op.imm) & mask;
    let linear = core.linear(Segment::Ss, end, T::BYTES, true)?;
    core.open::<T>(memory, linear)?;
    let mut step = push::<T, Segmented>(core, memory, ebp);
    for value in outer.iter().take(depth as usize).skip(1) {
        step = push::<T, Segmented>(core, memory, *value).and(step);
    }
    if depth > 0 {
        step = push::<T, Segmented>(core, memory, frame).and(step);
    }
    let kept = core.reg(EBP) & !(mask & T::MASK);
    core.set_reg(EBP, kept | frame & mask & T::MASK);
    core.set_stack(end);
    step
}

/// `enter`.
pub(in super::super) fn enter(form: &Form) -> Option<Handler> {
    Some(by_wide!(form, T => enter_frame::<T>))
}

fn leave_frame<T: Width, S: Address>(core: &mut Core, memory: &GuestMemory, _: &Op) -> Step {
    let ebp = if S::FLAT {
        core.reg(EBP)
    } else {
        core.reg(EBP) & core.stack_mask()
    };
    let value = T::load::<S>(core, memory, &at(ebp))?;
    move_to::<S>(core, ebp.wrapping_add(T::BYTES));
    T::set(core, EBP, value);
    Ok(())
}

/// `leave`.
pub(in super::super) fn leave(form: &Form) -> Option<Handler> {
    Some(by_wide!(form, T => by_address!(form.flat_stack, S => leave_frame::<T, S>)))
}
