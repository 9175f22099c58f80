//! The x87 instructions' handlers.

use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind, Register};

use crate::engine::lguest::cpu::exec::x87::{self, POP, QUIET, Size};
use crate::engine::lguest::cpu::exec::{branch, handler};
use crate::engine::lguest::cpu::op::{Handler, Op};

/// The handler of an x87 instruction. None: it is none.
pub(super) fn choose(instruction: &Instruction, op: &mut Op) -> Option<Handler> {
    let (handler, imm) = operation(instruction, op)?;
    op.imm = imm;
    Some(handler)
}

fn size(instruction: &Instruction) -> Option<u32> {
    let size = match instruction.memory_size() {
        MemorySize::Float32 => Size::Single,
        MemorySize::Float64 => Size::Double,
        MemorySize::Float80 => Size::Extended,
        MemorySize::Int16 => Size::Word,
        MemorySize::Int32 => Size::Long,
        MemorySize::Int64 => Size::Quad,
        MemorySize::Bcd => Size::Decimal,
        _ => return None,
    };
    Some((size as u32) << 8)
}

fn operation(instruction: &Instruction, op: &mut Op) -> Option<(Handler, u32)> {
    use Mnemonic as M;
    let in_memory = instruction.op_kind(0) == OpKind::Memory && instruction.op_count() > 0;
    let arithmetic = |operation: u32, pop: u32| {
        Some(if in_memory {
            (handler!(x87::with_memory), operation | size(instruction)?)
        } else {
            (handler!(x87::between), operation | pop)
        })
    };
    let comparison = |bits: u32| {
        Some(if in_memory {
            (handler!(x87::compare_memory), bits | size(instruction)?)
        } else {
            (handler!(x87::compare_register), bits)
        })
    };
    let storing = |bits: u32| {
        Some(if in_memory {
            (handler!(x87::store), bits | size(instruction)?)
        } else {
            (handler!(x87::store_register), bits)
        })
    };
    let function = |which: u32| Some((handler!(x87::function), which));
    let constant = |which: u32| Some((handler!(x87::constant), which));
    let own = |which: u32| Some((handler!(x87::own_state), which));
    let image = |bits: u32| {
        let narrow = matches!(
            instruction.memory_size(),
            MemorySize::FpuEnv14 | MemorySize::FpuState94
        );
        bits | if narrow { x87::NARROW } else { 0 }
    };
    let to_ax = || {
        let ax = instruction.op_kind(0) == OpKind::Register
            && instruction.op_register(0) == Register::AX;
        if ax { x87::TO_AX } else { 0 }
    };
    let conditional = |condition: u8| {
        let handler = branch::by_condition!(condition, C => x87::move_if::<C>);
        Some((handler, 0))
    };
    match instruction.mnemonic() {
        M::Wait => Some((handler!(x87::fwait), 0)),
        M::Fadd | M::Fiadd => arithmetic(x87::ADD, 0),
        M::Faddp => arithmetic(x87::ADD, POP),
        M::Fmul | M::Fimul => arithmetic(x87::MUL, 0),
        M::Fmulp => arithmetic(x87::MUL, POP),
        M::Fsub | M::Fisub => arithmetic(x87::SUB, 0),
        M::Fsubp => arithmetic(x87::SUB, POP),
        M::Fsubr | M::Fisubr => arithmetic(x87::SUBR, 0),
        M::Fsubrp => arithmetic(x87::SUBR, POP),
        M::Fdiv | M::Fidiv => arithmetic(x87::DIV, 0),
        M::Fdivp => arithmetic(x87::DIV, POP),
        M::Fdivr | M::Fidivr => arithmetic(x87::DIVR, 0),
        M::Fdivrp => arithmetic(x87::DIVR, POP),
        M::Fcom | M::Ficom => comparison(0),
        M::Fcomp | M::Ficomp => comparison(POP),
        M::Fcompp => {
            op.other = 1;
            Some((handler!(x87::compare_register), 2 * POP))
        }
        M::Fucom => comparison(QUIET),
        M::Fucomp => comparison(QUIET | POP),
        M::Fucompp => {
            op.other = 1;
            Some((handler!(x87::compare_register), QUIET | (2 * POP)))
        }
        M::Fcomi => comparison(x87::FLAGS),
        M::Fcomip => comparison(x87::FLAGS | POP),
        M::Fucomi => comparison(x87::FLAGS | QUIET),
        M::Fucomip => comparison(x87::FLAGS | QUIET | POP),
        M::Ftst => Some((handler!(x87::test), 0)),
        M::Fld if !in_memory => Some((handler!(x87::load_register), 0)),
        M::Fld | M::Fild | M::Fbld => Some((handler!(x87::load), size(instruction)?)),
        M::Fst | M::Fist => storing(0),
        M::Fstp | M::Fistp | M::Fbstp => storing(POP),
        M::Fxch => Some((handler!(x87::exchange), 0)),
        M::Fcmovb => conditional(2),
        M::Fcmovnb => conditional(3),
        M::Fcmove => conditional(4),
        M::Fcmovne => conditional(5),
        M::Fcmovbe => conditional(6),
        M::Fcmovnbe => conditional(7),
        M::Fcmovu => conditional(10),
        M::Fcmovnu => conditional(11),
        M::Fld1 => constant(0),
        M::Fldl2t => constant(1),
        M::Fldl2e => constant(2),
        M::Fldpi => constant(3),
        M::Fldlg2 => constant(4),
        M::Fldln2 => constant(5),
        M::Fldz => constant(6),
        M::Fchs => function(x87::CHS),
        M::Fabs => function(x87::ABS),
        M::Fxam => function(x87::XAM),
        M::Fsqrt => function(x87::SQRT),
        M::Frndint => function(x87::RNDINT),
        M::Fscale => function(x87::SCALE),
        M::Fprem => function(x87::PREM),
        M::Fprem1 => function(x87::PREM1),
        M::Fxtract => function(x87::XTRACT),
        M::Fsin => function(x87::SIN),
        M::Fcos => function(x87::COS),
        M::Fsincos => function(x87::SINCOS),
        M::Fptan => function(x87::PTAN),
        M::Fpatan => function(x87::PATAN),
        M::F2xm1 => function(x87::F2XM1),
        M::Fyl2x => function(x87::YL2X),
        M::Fyl2xp1 => function(x87::YL2XP1),
        M::Fninit => own(x87::INIT),
        M::Fnclex => own(x87::CLEAR),
        // The last three spoke to the 8087 and the 287.
        M::Fnop | M::Fneni | M::Fndisi | M::Fnsetpm => own(x87::NOTHING),
        M::Fincstp => own(x87::INCREMENT),
        M::Fdecstp => own(x87::DECREMENT),
        M::Ffree => own(x87::FREE),
        M::Ffreep => own(x87::FREE_AND_POP),
        M::Fnstsw => Some((handler!(x87::store_word), to_ax())),
        M::Fnstcw => Some((handler!(x87::store_word), 1)),
        M::Fldcw => Some((handler!(x87::load_control), 0)),
        M::Fnstenv => Some((handler!(x87::store_image), image(0))),
        M::Fnsave => Some((handler!(x87::store_image), image(x87::WHOLE))),
        M::Fldenv => Some((handler!(x87::load_image), image(0))),
        M::Frstor => Some((handler!(x87::load_image), image(x87::WHOLE))),
        _ => None,
    }
}
