//! The unit's own state: its words, its stack's top, its image in memory.

use super::{begin, control, extended_from, extended_to, operand, read_bytes, wait, write_bytes};
use crate::engine::lguest::cpu::fpu::C1;
use crate::engine::lguest::cpu::op::{Op, Width};
use crate::engine::lguest::cpu::state::{Core, Leave, Step};
use crate::engine::lguest::memory::GuestMemory;

/// Instructions that change only the unit's own state.
pub(in super::super::super) const INIT: u32 = 0;
pub(in super::super::super) const CLEAR: u32 = 1;
pub(in super::super::super) const NOTHING: u32 = 2;
pub(in super::super::super) const INCREMENT: u32 = 3;
pub(in super::super::super) const DECREMENT: u32 = 4;
pub(in super::super::super) const FREE: u32 = 5;
/// `ffreep`, undocumented and everywhere.
pub(in super::super::super) const FREE_AND_POP: u32 = 6;

/// Those instructions.
pub(in super::super::super) fn own_state(core: &mut Core, _: &GuestMemory, op: &Op) -> Step {
    match op.imm {
        INIT => {
            control(core)?;
            core.fpu.initialize();
            return Ok(());
        }
        CLEAR => {
            control(core)?;
            core.fpu.clear_exceptions();
            return Ok(());
        }
        _ => begin(core, op)?,
    }
    match op.imm {
        INCREMENT => core.fpu.rotate(1),
        DECREMENT => core.fpu.rotate(7),
        FREE => core.fpu.free(op.reg),
        FREE_AND_POP => {
            core.fpu.free(op.reg);
            core.fpu.pop();
        }
        _ => {}
    }
    if matches!(op.imm, INCREMENT | DECREMENT) {
        core.fpu.set_condition(C1, 0);
    }
    Ok(())
}

/// `fnstsw` and `fnstcw`: `imm` 0 the status, 1 the control word; to ax, or memory.
pub(in super::super::super) fn store_word(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    control(core)?;
    let word = if op.imm & 1 != 0 {
        core.fpu.control
    } else {
        core.fpu.status()
    };
    if op.imm & TO_AX != 0 {
        u16::set(core, 0, word.into());
        return Ok(());
    }
    write_bytes(core, memory, op, &word.to_le_bytes())
}

/// The word goes to ax.
pub(in super::super::super) const TO_AX: u32 = 2;

/// `fldcw`.
pub(in super::super::super) fn load_control(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
) -> Step {
    wait(core)?;
    let word = u16::from_le_bytes(read_bytes(core, memory, op)?);
    core.fpu.set_control(word);
    Ok(())
}

/// Images are of 16 bits a word.
pub(in super::super::super) const NARROW: u32 = 1;
/// With the registers: `fnsave` and `frstor`.
pub(in super::super::super) const WHOLE: u32 = 2;
/// The longest image, in bytes.
const IMAGE: usize = 28 + 80;

/// `fnstenv` and `fnsave`.
pub(in super::super::super) fn store_image(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    control(core)?;
    let mut bytes = [0; IMAGE];
    let mut end = 0;
    let mut put = |part: &[u8]| {
        bytes[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    };
    for word in core.fpu.image() {
        if op.imm & NARROW != 0 {
            put(&(word as u16).to_le_bytes());
        } else {
            put(&word.to_le_bytes());
        }
    }
    if op.imm & WHOLE != 0 {
        for n in 0..8 {
            put(&extended_to(core.fpu.raw(n)));
        }
    }
    let step = write_bytes(core, memory, op, &bytes[..end]);
    if step == Err(Leave::Fault) {
        return step;
    }
    if op.imm & WHOLE != 0 {
        core.fpu.initialize();
    } else {
        // Storing the environment masks everything.
        let control = core.fpu.control | 0x3F;
        core.fpu.set_control(control);
    }
    step
}

/// `fldenv` and `frstor`.
pub(in super::super::super) fn load_image(core: &mut Core, memory: &GuestMemory, op: &Op) -> Step {
    wait(core)?;
    let narrow = op.imm & NARROW != 0;
    let head = if narrow { 14 } else { 28 };
    let all = if op.imm & WHOLE != 0 { head + 80 } else { head };
    let linear = operand(core, op, all, false)?;
    let mut bytes = [0; IMAGE];
    for n in 0..all / 2 {
        let word = core.load::<u16>(memory, linear.wrapping_add(2 * n))? as u16;
        bytes[2 * n as usize..][..2].copy_from_slice(&word.to_le_bytes());
    }
    let mut image = [0; 7];
    for (n, word) in image.iter_mut().enumerate() {
        *word = if narrow {
            u16::from_le_bytes([bytes[2 * n], bytes[2 * n + 1]]).into()
        } else {
            u32::from_le_bytes([
                bytes[4 * n],
                bytes[4 * n + 1],
                bytes[4 * n + 2],
                bytes[4 * n + 3],
            ])
        };
    }
    core.fpu.set_image(&image);
    if op.imm & WHOLE != 0 {
        for n in 0..8 {
            let mut ten = [0; 10];
            ten.copy_from_slice(&bytes[head as usize + 10 * n..][..10]);
            core.fpu.restore(n as u8, extended_from(&ten));
        }
    }
    Ok(())
}
