//! What only ring 0 may do (#GP, for the host to make something of), and the few questions any ring
//! may ask about the system.

use std::time::Instant;

use super::{Form, Kind, by_address, by_wide};
use crate::engine::lguest::cpu::access::Address;
use crate::engine::lguest::cpu::op::{Handler, Op, Width};
use crate::engine::lguest::cpu::state::{Clock, Core, Register, Step};
use crate::engine::lguest::memory::GuestMemory;

/// #GP(0): ports, `hlt`, `cli`, control registers, descriptor tables.
pub(in super::super) fn privileged(core: &mut Core, _: &GuestMemory, _: &Op) -> Step {
    Err(core.fault(13, Some(0)))
}

/// #UD: no instruction of this processor.
pub(in super::super) fn undefined(core: &mut Core, _: &GuestMemory, _: &Op) -> Step {
    Err(core.fault(6, None))
}

/// Family 6, model 7: what lguest guests of 2007 ran on and know.
const SIGNATURE: u32 = 0x673;
/// FPU, TSC, CX8, CMOV (Intel SDM volume 2, `CPUID`, leaf 1 edx).
const FEATURES: u32 = 1 | 1 << 4 | 1 << 8 | 1 << 15;

/// `cpuid`.
pub(in super::super) fn cpuid(core: &mut Core, _: &GuestMemory, _: &Op) -> Step {
    let word = |text: &[u8; 4]| u32::from_le_bytes(*text);
    let [eax, ebx, ecx, edx] = match core.register(Register::Eax) {
        0 => [1, word(b"Genu"), word(b"ntel"), word(b"ineI")],
        1 => [SIGNATURE, 0, 0, FEATURES],
        _ => [0; 4],
    };
    core.set_register(Register::Eax, eax);
    core.set_register(Register::Ebx, ebx);
    core.set_register(Register::Ecx, ecx);
    core.set_register(Register::Edx, edx);
    Ok(())
}

/// `rdtsc`.
pub(in super::super) fn rdtsc(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let count = match core.clock {
        Clock::Since(start) => Instant::now().saturating_duration_since(start).as_nanos() as u64,
        Clock::Instructions => core.retired.wrapping_add(op.number.into()),
    };
    core.set_register(Register::Eax, count as u32);
    core.set_register(Register::Edx, (count >> 32) as u32);
    Ok(())
}

/// The value of a register only the system has; `imm` says which.
pub(in super::super) const LDT: u32 = 0;
/// The task register.
pub(in super::super) const TASK: u32 = 1;
/// The machine status word: cr0.
pub(in super::super) const STATUS: u32 = 2;

fn system_register(core: &Core, op: &Op) -> u32 {
    match op.imm {
        // The slot lguest's host has its TSS in.
        TASK => 0x80,
        // PE, MP, ET, NE, WP, AM, PG, and TS.
        STATUS => 0x8005_0033 | u32::from(core.task_switched) << 3,
        _ => 0,
    }
}

fn store_register<T: Width>(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    let value = system_register(core, op);
    T::set(core, op.reg, value);
    Ok(())
}

fn store_memory<A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    let value = system_register(core, op);
    u16::store::<A>(core, memory, op, value)
}

/// `sldt`, `str`, `smsw`.
pub(in super::super) fn store(form: &Form) -> Option<Handler> {
    Some(match form.kinds[0] {
        Kind::Register => by_wide!(form, T => store_register::<T>),
        Kind::Memory => by_address!(form.flat, A => store_memory::<A>),
        _ => return None,
    })
}

/// The tables are the host's, in the top 4 MiB; `imm` is the limit.
fn store_table_at<A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    const BASE: u32 = 0xFFC0_0000;
    let linear = A::linear(core, op, 6, true)?;
    core.open_range(memory, linear, 6)?;
    let first = core.store::<u16>(memory, linear, op.imm);
    core.store::<u32>(memory, linear.wrapping_add(2), BASE)
        .and(first)
}

/// `sgdt`, `sidt`.
pub(in super::super) fn store_table(form: &Form) -> Option<Handler> {
    (form.kinds[0] == Kind::Memory).then(|| by_address!(form.flat, A => store_table_at::<A>))
}
