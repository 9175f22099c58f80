//! Which handler does an instruction.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use crate::engine::lguest::cpu::exec::string::{ONCE, WHILE_EQUAL, WHILE_UNEQUAL};
use crate::engine::lguest::cpu::exec::{
    Form, Kind, arithmetic, bits, branch, decimal, exchange, far, handler, moves, multiply,
    segments, shift, stack, string, system,
};
use crate::engine::lguest::cpu::op::{Handler, NARROW, Op};

/// A handler, and whether it ends its block.
type Choice = Option<(Handler, bool)>;

/// The handler for an instruction. None: this processor has no such instruction.
pub(super) fn choose(instruction: &Instruction, form: &Form, op: &mut Op) -> Choice {
    straight(instruction, form, op)
        .or_else(|| system_or_flag(instruction, form, op))
        .map(|handler| (handler, false))
        .or_else(|| strings(instruction, form, op).map(|handler| (handler, false)))
        .or_else(|| super::x87::choose(instruction, op).map(|handler| (handler, false)))
        .or_else(|| ending(instruction, form, op).map(|handler| (handler, true)))
}

/// What goes on with the next instruction and is no question of the system.
fn straight(instruction: &Instruction, form: &Form, op: &mut Op) -> Option<Handler> {
    use Mnemonic as M;
    match instruction.mnemonic() {
        M::Add => arithmetic::two::<arithmetic::Add>(form),
        M::Adc => arithmetic::two::<arithmetic::Adc>(form),
        M::Sub => arithmetic::two::<arithmetic::Sub>(form),
        M::Sbb => arithmetic::two::<arithmetic::Sbb>(form),
        M::Cmp => arithmetic::two::<arithmetic::Cmp>(form),
        M::And => arithmetic::two::<arithmetic::And>(form),
        M::Or => arithmetic::two::<arithmetic::Or>(form),
        M::Xor => arithmetic::two::<arithmetic::Xor>(form),
        M::Test => arithmetic::two::<arithmetic::Test>(form),
        M::Inc => arithmetic::one::<arithmetic::Inc>(form),
        M::Dec => arithmetic::one::<arithmetic::Dec>(form),
        M::Neg => arithmetic::one::<arithmetic::Neg>(form),
        M::Not => arithmetic::one::<arithmetic::Not>(form),
        M::Mov if form.kinds[1] == Kind::Segment => segments::mov_from(form),
        M::Mov if form.kinds[0] != Kind::Segment && !privileged_move(instruction) => {
            moves::mov(form)
        }
        M::Movzx => moves::movzx(form, source_width(instruction)),
        M::Movsx => moves::movsx(form, source_width(instruction)),
        M::Lea => moves::lea(form, op.narrow_address()),
        M::Xlatb => {
            // ebx alone: al is added when it runs.
            op.index = crate::engine::lguest::cpu::op::ZERO;
            moves::xlat(form)
        }
        M::Cbw => Some(handler!(moves::cbw)),
        M::Cwde => Some(handler!(moves::cwde)),
        M::Cwd => Some(moves::CWD),
        M::Cdq => Some(moves::CDQ),
        M::Shl | M::Sal => shift::shift::<shift::Shl>(form),
        M::Shr => shift::shift::<shift::Shr>(form),
        M::Sar => shift::shift::<shift::Sar>(form),
        M::Rol => shift::shift::<shift::Rol>(form),
        M::Ror => shift::shift::<shift::Ror>(form),
        M::Rcl => shift::shift::<shift::Rcl>(form),
        M::Rcr => shift::shift::<shift::Rcr>(form),
        M::Shld => shift::doubles::<true>(form),
        M::Shrd => shift::doubles::<false>(form),
        M::Mul => multiply::accumulator::<multiply::Mul>(form),
        M::Div => multiply::accumulator::<multiply::Div>(form),
        M::Idiv => multiply::accumulator::<multiply::Idiv>(form),
        M::Imul => multiply::imul(form),
        M::Bt => bits::bit::<bits::Bt>(form),
        M::Bts => bits::bit::<bits::Bts>(form),
        M::Btr => bits::bit::<bits::Btr>(form),
        M::Btc => bits::bit::<bits::Btc>(form),
        // A processor that does not know the newer ones ignores their prefix.
        M::Bsf | M::Tzcnt => bits::scan::<true>(form),
        M::Bsr | M::Lzcnt => bits::scan::<false>(form),
        M::Bswap => bits::bswap(form),
        M::Xchg => {
            if form.kinds[1] == Kind::Memory {
                return None;
            }
            exchange::xchg(form)
        }
        M::Xadd => exchange::xadd(form),
        M::Cmpxchg => exchange::cmpxchg(form),
        M::Cmpxchg8b => exchange::cmpxchg8b(form),
        M::Push => stack::pushing(form),
        M::Pop if form.kinds[0] != Kind::Segment => stack::popping(form),
        M::Pushf | M::Pushfd => stack::pushf(form),
        M::Pusha | M::Pushad => stack::pusha(form),
        M::Popa | M::Popad => stack::popa(form),
        M::Enter => {
            op.imm = instruction.immediate16().into();
            op.reg = instruction.immediate8_2nd();
            stack::enter(form)
        }
        M::Leave => stack::leave(form),
        _ => condition(instruction).and_then(|condition| match instruction.op_count() {
            2 => moves::cmov(form, condition),
            _ if form.width == 1 => moves::set(form, condition),
            _ => None,
        }),
    }
}

/// A move to or from a control, debug or test register.
fn privileged_move(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|n| {
        let register = instruction.op_register(n);
        instruction.op_kind(n) == OpKind::Register
            && (register.is_cr() || register.is_dr() || register.is_tr())
    })
}

/// Bytes of the second operand.
fn source_width(instruction: &Instruction) -> u32 {
    match instruction.op_kind(1) {
        OpKind::Register => instruction.op_register(1).size() as u32,
        _ => instruction.memory_size().size() as u32,
    }
}

/// The number of a conditional instruction's condition.
pub(super) fn condition(instruction: &Instruction) -> Option<u8> {
    use iced_x86::ConditionCode as C;
    Some(match instruction.condition_code() {
        C::o => 0,
        C::no => 1,
        C::b => 2,
        C::ae => 3,
        C::e => 4,
        C::ne => 5,
        C::be => 6,
        C::a => 7,
        C::s => 8,
        C::ns => 9,
        C::p => 10,
        C::np => 11,
        C::l => 12,
        C::ge => 13,
        C::le => 14,
        C::g => 15,
        C::None => return None,
    })
}

fn system_or_flag(instruction: &Instruction, form: &Form, op: &mut Op) -> Option<Handler> {
    use Mnemonic as M;
    let mut with = |imm: u32, handler: Option<Handler>| {
        op.imm = imm;
        handler
    };
    match instruction.mnemonic() {
        M::Nop | M::Pause | M::Reservednop | M::Endbr32 | M::Endbr64 => {
            Some(handler!(stack::nothing))
        }
        M::Prefetchnta | M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2 => {
            Some(handler!(stack::nothing))
        }
        M::Clc => with(0, Some(handler!(decimal::carry))),
        M::Cmc => with(3, Some(handler!(decimal::carry))),
        M::Stc => with(2, Some(handler!(decimal::carry))),
        M::Cld => with(0, Some(handler!(decimal::direction))),
        M::Std => with(1, Some(handler!(decimal::direction))),
        M::Lahf => Some(handler!(decimal::lahf)),
        M::Sahf => Some(handler!(decimal::sahf)),
        M::Salc => Some(handler!(decimal::salc)),
        M::Daa => Some(handler!(decimal::daa)),
        M::Das => Some(handler!(decimal::das)),
        M::Aaa => Some(handler!(decimal::aaa)),
        M::Aas => Some(handler!(decimal::aas)),
        M::Aam => Some(handler!(decimal::aam)),
        M::Aad => Some(handler!(decimal::aad)),
        M::Into => Some(handler!(far::into)),
        M::Bound => far::bound(form),
        M::Cpuid => Some(handler!(system::cpuid)),
        M::Rdtsc => Some(handler!(system::rdtsc)),
        M::Sldt => with(system::LDT, system::store(form)),
        M::Str => with(system::TASK, system::store(form)),
        M::Smsw => with(system::STATUS, system::store(form)),
        M::Sgdt => with(0xFF, system::store_table(form)),
        M::Sidt => with(0x7FF, system::store_table(form)),
        M::Arpl => segments::arpl(form),
        M::Lar => segments::question::<segments::Lar>(form),
        M::Lsl => segments::question::<segments::Lsl>(form),
        M::Verr => segments::question::<segments::Verr>(form),
        M::Verw => segments::question::<segments::Verw>(form),
        _ => None,
    }
}

fn strings(instruction: &Instruction, form: &Form, op: &mut Op) -> Option<Handler> {
    use Mnemonic as M;
    let repetition = if instruction.has_repne_prefix() {
        WHILE_UNEQUAL
    } else if instruction.has_rep_prefix() {
        WHILE_EQUAL
    } else {
        ONCE
    };
    let mnemonic = instruction.mnemonic();
    let width = match mnemonic {
        M::Movsb | M::Stosb | M::Lodsb | M::Scasb | M::Cmpsb => 1,
        M::Movsw | M::Stosw | M::Lodsw | M::Scasw | M::Cmpsw => 2,
        M::Movsd | M::Stosd | M::Lodsd | M::Scasd | M::Cmpsd => 4,
        _ => return None,
    };
    // One SSE2 instruction of the same name has registers.
    if instruction.op_kind(0) == OpKind::Register && instruction.op_register(0).is_xmm()
        || instruction.op_count() > 2
        || (0..instruction.op_count()).any(|n| instruction.op_kind(n) == OpKind::Memory)
    {
        return None;
    }
    let form = &Form { width, ..*form };
    op.imm = repetition;
    match mnemonic {
        M::Movsb | M::Movsw | M::Movsd => string::string::<string::Movs>(form, repetition),
        M::Stosb | M::Stosw | M::Stosd => string::string::<string::Stos>(form, repetition),
        M::Lodsb | M::Lodsw | M::Lodsd => string::string::<string::Lods>(form, repetition),
        M::Scasb | M::Scasw | M::Scasd => string::string::<string::Scas>(form, repetition),
        _ => string::string::<string::Cmps>(form, repetition),
    }
}

/// What ends its block: it jumps, changes how code is decoded, or always faults.
fn ending(instruction: &Instruction, form: &Form, op: &mut Op) -> Option<Handler> {
    use Mnemonic as M;
    let counts_cx = matches!(
        instruction.code(),
        Code::Loop_rel8_16_CX
            | Code::Loop_rel8_32_CX
            | Code::Loope_rel8_16_CX
            | Code::Loope_rel8_32_CX
            | Code::Loopne_rel8_16_CX
            | Code::Loopne_rel8_32_CX
            | Code::Jcxz_rel8_16
            | Code::Jcxz_rel8_32
    );
    if counts_cx {
        op.address |= NARROW;
    }
    match instruction.mnemonic() {
        M::Jmp if is_far(instruction) => far::jmp(form),
        M::Jmp => branch::jmp(form),
        M::Call if is_far(instruction) => far::call(form),
        M::Call => branch::call(form),
        M::Ret => branch::ret(form),
        M::Retf => far::retf(form),
        M::Iret | M::Iretd => far::iret(form),
        M::Jcxz | M::Jecxz => branch::jecxz(form),
        M::Loop => branch::looping::<2>(form),
        M::Loope => branch::looping::<1>(form),
        M::Loopne => branch::looping::<0>(form),
        M::Int => Some(handler!(far::int)),
        M::Int3 => Some(handler!(far::int3)),
        M::Mov if form.kinds[0] == Kind::Segment && instruction.op_register(0) != Register::CS => {
            segments::mov_to(form)
        }
        M::Mov if privileged_move(instruction) => Some(handler!(system::privileged)),
        M::Pop if form.kinds[0] == Kind::Segment => segments::pop(form),
        M::Popf | M::Popfd => stack::popf(form),
        M::Lds => load_far(form, op, 3),
        M::Les => load_far(form, op, 0),
        M::Lss => load_far(form, op, 2),
        M::Lfs => load_far(form, op, 4),
        M::Lgs => load_far(form, op, 5),
        M::Cli
        | M::Sti
        | M::Hlt
        | M::Clts
        | M::Lgdt
        | M::Lidt
        | M::Lldt
        | M::Ltr
        | M::Lmsw
        | M::Invd
        | M::Wbinvd
        | M::Invlpg
        | M::Rdmsr
        | M::Wrmsr
        | M::Rdpmc => Some(handler!(system::privileged)),
        // Without I/O privilege and a permission map all ports are refused.
        M::In | M::Out | M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd => {
            Some(handler!(system::privileged))
        }
        _ if instruction.is_jcc_short_or_near() => {
            condition(instruction).and_then(|c| branch::jcc(form, c))
        }
        _ => None,
    }
}

fn load_far(form: &Form, op: &mut Op, segment: u32) -> Option<Handler> {
    op.imm = segment;
    segments::lds(form)
}

fn is_far(instruction: &Instruction) -> bool {
    instruction.is_call_far()
        || instruction.is_call_far_indirect()
        || instruction.is_jmp_far()
        || instruction.is_jmp_far_indirect()
}
