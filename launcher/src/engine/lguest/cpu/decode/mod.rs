//! From machine code to operations: iced-x86 says what the bytes mean, [`table`] which handler does it.

mod improve;
mod table;
mod x87;

use iced_x86::{
    Code, Decoder, DecoderError, DecoderOptions, Instruction, MemorySize, OpKind, Register,
};

pub(super) use improve::improve;

use super::exec::system::undefined;
use super::exec::{Form, Kind, handler};
use super::op::{NARROW, Op, ZERO};
use super::state::{Mode, Segment};

/// The longest instruction, in bytes.
pub(super) const LONGEST: usize = 15;

/// An operation, and what the decoder needs to know of it.
#[derive(Debug)]
pub(super) struct Decoded {
    pub op: Op,
    pub instruction: Instruction,
    /// Nothing of the block comes after it.
    pub ends: bool,
}

/// Reads one instruction after another from bytes. Positions count from the first of them.
pub(super) struct Reader<'a> {
    decoder: Decoder<'a>,
    mode: Mode,
}

impl<'a> Reader<'a> {
    /// Reads code of 32 bits, or of 16.
    pub fn new(bytes: &'a [u8], mode: Mode, wide: bool) -> Self {
        let bits = if wide { 32 } else { 16 };
        Self {
            decoder: Decoder::with_ip(bits, bytes, 0, DecoderOptions::NONE),
            mode,
        }
    }

    /// How many bytes were read.
    pub fn position(&self) -> usize {
        self.decoder.position()
    }

    /// The next instruction. None: the bytes end before it does. `before` is how many came before it.
    pub fn next(&mut self, before: u32) -> Option<Decoded> {
        let start = self.decoder.position();
        let mut instruction = Instruction::default();
        self.decoder.decode_out(&mut instruction);
        if self.decoder.last_error() == DecoderError::NoMoreBytes {
            return None;
        }
        let mut op = operands(&instruction);
        op.at = start as u8;
        op.end = self.decoder.position() as u8;
        op.number = before as u8;
        let form = form(&instruction, &op, self.mode);
        let chosen = if instruction.is_invalid() {
            None
        } else {
            table::choose(&instruction, &form, &mut op)
        };
        let ends = match chosen {
            Some((handler, ends)) => {
                op.run = handler;
                ends
            }
            None => true,
        };
        Some(Decoded {
            op,
            instruction,
            ends,
        })
    }
}

/// What any instruction's operands become: registers, the last immediate, the address.
fn operands(instruction: &Instruction) -> Op {
    let number = |n: u32| match instruction.op_kind(n) {
        OpKind::Register => instruction.op_register(n).number() as u8,
        _ => 0,
    };
    let mut op = Op {
        run: handler!(undefined),
        imm: 0,
        disp: 0,
        reg: 0,
        other: 0,
        base: ZERO,
        index: ZERO,
        address: (Segment::Ds as u8) << 2,
        number: 0,
        at: 0,
        end: 0,
    };
    for n in 0..instruction.op_count() {
        match instruction.op_kind(n) {
            OpKind::Register if n == 0 => op.reg = number(0),
            OpKind::Register if n == 1 => op.other = number(1),
            OpKind::Register => {}
            OpKind::NearBranch16 => op.imm = instruction.near_branch16().into(),
            OpKind::NearBranch32 => op.imm = instruction.near_branch32(),
            OpKind::FarBranch16 => {
                op.imm = instruction.far_branch16().into();
                op.disp = instruction.far_branch_selector().into();
            }
            OpKind::FarBranch32 => {
                op.imm = instruction.far_branch32();
                op.disp = instruction.far_branch_selector().into();
            }
            OpKind::Memory => address(instruction, &mut op),
            OpKind::MemorySegSI | OpKind::MemorySegESI => {
                op.set_segment(segment_number(instruction.memory_segment()));
                narrow(&mut op, instruction.op_kind(n) == OpKind::MemorySegSI);
            }
            OpKind::MemoryESDI | OpKind::MemoryESEDI => {
                narrow(&mut op, instruction.op_kind(n) == OpKind::MemoryESDI);
            }
            _ => op.imm = instruction.try_immediate(n).unwrap_or(0) as u32,
        }
    }
    op
}

fn narrow(op: &mut Op, yes: bool) {
    if yes {
        op.address |= NARROW;
    }
}

fn segment_number(register: Register) -> u8 {
    register.number() as u8 % 6
}

fn address(instruction: &Instruction, op: &mut Op) {
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    let number = |register: Register| {
        if register == Register::None {
            ZERO
        } else {
            register.number() as u8
        }
    };
    op.base = number(base);
    op.index = number(index);
    op.address |= instruction.memory_index_scale().trailing_zeros() as u8;
    op.disp = instruction.memory_displacement32();
    op.set_segment(segment_number(instruction.memory_segment()));
    narrow(
        op,
        base.is_gpr16() || index.is_gpr16() || instruction.memory_displ_size() == 2,
    );
}

/// Width and kinds of operands.
fn form(instruction: &Instruction, op: &Op, mode: Mode) -> Form {
    let mut kinds = [Kind::None; 3];
    for (n, kind) in kinds
        .iter_mut()
        .enumerate()
        .take(instruction.op_count() as usize)
    {
        *kind = match instruction.op_kind(n as u32) {
            OpKind::Register if instruction.op_register(n as u32).is_segment_register() => {
                Kind::Segment
            }
            OpKind::Register => Kind::Register,
            OpKind::Memory => Kind::Memory,
            _ => Kind::Immediate,
        };
    }
    let flat_segment = [Segment::Ds, Segment::Es, Segment::Ss].contains(&op.segment());
    Form {
        width: width(instruction),
        flat: mode.flat && flat_segment && !op.narrow_address(),
        flat_stack: mode.flat,
        kinds,
    }
}

/// Bytes of the operation.
fn width(instruction: &Instruction) -> u32 {
    use Code::*;
    match instruction.code() {
        Pushw_imm8 | Push_imm16 | Pushfw | Popfw | Pushaw | Popaw | Enterw_imm16_imm8 | Leavew
        | Iretw | Retnw | Retnw_imm16 | Retfw | Retfw_imm16 | Pushw_ES | Pushw_CS | Pushw_SS
        | Pushw_DS | Pushw_FS | Pushw_GS | Popw_ES | Popw_SS | Popw_DS | Popw_FS | Popw_GS => {
            return 2;
        }
        Pushd_ES | Pushd_CS | Pushd_SS | Pushd_DS | Pushd_FS | Pushd_GS | Popd_ES | Popd_SS
        | Popd_DS | Popd_FS | Popd_GS => return 4,
        _ => {}
    }
    if instruction.op_count() == 0 {
        return 4;
    }
    match instruction.op_kind(0) {
        OpKind::Register => instruction.op_register(0).size() as u32,
        OpKind::NearBranch16 | OpKind::FarBranch16 => 2,
        OpKind::Memory => match instruction.memory_size() {
            MemorySize::SegPtr16 => 2,
            MemorySize::SegPtr32 => 4,
            size => size.size() as u32,
        },
        _ => 4,
    }
}
