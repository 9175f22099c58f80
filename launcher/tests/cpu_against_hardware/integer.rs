//! Cases of integer instructions: bytes around an opcode, and registers that make them meet memory.
//!
//! An instruction is not built from a list of forms but found: random bytes behind an opcode, read
//! by iced-x86, which tells what they are, what memory they use, and which flags they leave open.
//! So no form is forgotten, nor any encoding of one.

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register,
    RflagsBits,
};

use super::case::{
    CODE, Case, DATA, ECX, ESP, Faults, Memory, Open, PAGE, READ_ONLY, Registers, STACK,
};
use super::random::Random;
use super::software::{USER_CODE, USER_DATA};

/// Selectors: null, ours, those of ring 0, beyond the table, of an LDT there is not. None has bits
/// that, taken for flags, would trap or check alignment.
const SELECTORS: [u16; 14] = [
    0, 1, 3, 0x20, 0x21, 0x23, 0x23, 0x23, 0x28, 0x2B, 0x2B, 0x10, 0x1B, 0x203,
];

/// What the processor in software offers; all else is none of its instructions.
const OFFERED: [CpuidFeature; 14] = [
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::CMOV,
    CpuidFeature::CX8,
    CpuidFeature::CPUID,
    CpuidFeature::TSC,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
];

pub fn offered(instruction: &Instruction) -> bool {
    instruction
        .cpuid_features()
        .iter()
        .all(|feature| OFFERED.contains(feature))
}

/// These are for [`super::x87`], which knows the coprocessor's state.
fn is_x87(instruction: &Instruction) -> bool {
    use CpuidFeature::{FPU, FPU287, FPU387};
    instruction
        .cpuid_features()
        .iter()
        .any(|feature| [FPU, FPU287, FPU387].contains(feature))
}

/// Those that can't be compared by single steps in ring 3, and why.
fn cannot_be_compared(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    match instruction.mnemonic() {
        // The host's own answers, or its own clock.
        Cpuid | Rdtsc | Rdpmc | Sgdt | Sidt | Sldt | Str | Smsw => true,
        // System calls of the child, or the debugger's own traps.
        Int | Int1 | Int3 | Syscall | Sysenter | Sysexit | Sysret => true,
        // A reserved combination, which not every processor reads as the instruction alone.
        Loop | Loope | Loopne => instruction.has_rep_prefix() || instruction.has_repne_prefix(),
        // A prefetch to some processors, nothing to others.
        Reservednop => true,
        // The manual leaves the result open.
        Bswap => instruction.op0_register().size() == 2,
        _ => false,
    }
}

impl Opcode {
    /// How many times the usual number of tries it gets: the middle of the byte behind some makes eight
    /// instructions of them.
    pub fn rounds(self) -> usize {
        let group = match self.second_map {
            false => matches!(
                self.byte,
                0x80..=0x83 | 0x8F | 0xC0 | 0xC1 | 0xC6 | 0xC7 | 0xD0..=0xD3 | 0xE0..=0xE3 | 0xF6 | 0xF7 | 0xFE | 0xFF
            ),
            true => matches!(self.byte, 0x00 | 0x01 | 0x18..=0x1F | 0xBA | 0xC7),
        };
        if group { 12 } else { 2 }
    }
}

/// Whether there are cases of it here.
pub fn is_comparable(instruction: &Instruction) -> bool {
    !instruction.is_invalid()
        && offered(instruction)
        && !is_x87(instruction)
        && !cannot_be_compared(instruction)
}

fn faults(instruction: &Instruction) -> Faults {
    use Mnemonic::*;
    match instruction.mnemonic() {
        // Two operands in memory, of different kinds.
        Cmpsb | Cmpsw | Cmpsd | Movsb | Movsw | Movsd | Enter => Faults::Any,
        Pusha | Pushad | Popa | Popad | Retf | Iret | Iretd | Bound | Call => Faults::NotWhere,
        Lds | Les | Lss | Lfs | Lgs => Faults::NotWhere,
        _ if is_far_indirect(instruction) => Faults::NotWhere,
        _ => Faults::All,
    }
}

fn uses_selectors(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    let segment = |n| {
        instruction.op_count() > n
            && instruction.op_kind(n) == OpKind::Register
            && instruction.op_register(n).is_segment_register()
    };
    matches!(
        instruction.mnemonic(),
        Lds | Les | Lss | Lfs | Lgs | Retf | Iret | Iretd | Arpl | Lar | Lsl | Verr | Verw
    ) || matches!(
        instruction.op0_kind(),
        OpKind::FarBranch16 | OpKind::FarBranch32
    ) || is_far_indirect(instruction)
        || segment(0)
}

fn is_far_indirect(instruction: &Instruction) -> bool {
    matches!(
        instruction.code(),
        Code::Call_m1616 | Code::Call_m1632 | Code::Jmp_m1616 | Code::Jmp_m1632
    )
}

/// Loading ss but by `lss` keeps the trap of a single step off until after the next instruction.
fn shadows_a_trap(instruction: &Instruction) -> bool {
    let to_ss =
        instruction.op0_kind() == OpKind::Register && instruction.op0_register() == Register::SS;
    to_ss && matches!(instruction.mnemonic(), Mnemonic::Mov | Mnemonic::Pop)
}

/// An opcode of the first map, or of the second behind 0x0F.
#[derive(Clone, Copy)]
pub struct Opcode {
    pub second_map: bool,
    pub byte: u8,
}

/// A case for this opcode, with what hardware leaves open in it, and the instruction for the
/// report; nothing if the bytes came out as an instruction that can't be compared.
pub fn case(
    random: &mut Random,
    memory: &Memory,
    opcode: Opcode,
) -> Option<(Case, Open, Instruction)> {
    let mut bytes = Vec::new();
    for (prefix, times) in [(0x66, 3), (0x67, 20), (0xF0, 30), (0xF2, 16), (0xF3, 8)] {
        if random.once_in(times) {
            bytes.push(prefix);
        }
    }
    if random.once_in(10) {
        bytes.push(random.pick(&[0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65]));
    }
    if opcode.second_map {
        bytes.push(0x0F);
    }
    bytes.push(opcode.byte);
    bytes.push(random.byte());
    while bytes.len() < 15 + 4 {
        let byte = random.byte();
        bytes.push(random.pick(&[byte, byte, 0, 1, 0x7F, 0x80, 0xFF]));
    }

    let mut decoder = Decoder::with_ip(32, &bytes, CODE.into(), DecoderOptions::NONE);
    let instruction = decoder.decode();
    if !is_comparable(&instruction) {
        return None;
    }
    bytes.truncate(instruction.len());
    bytes.extend([0x90; 8]);

    let mut start = registers(random);
    let mut memory = memory.clone();
    if instruction.mnemonic() == Mnemonic::Iret || instruction.mnemonic() == Mnemonic::Iretd {
        start.eflags &= !0x4000; // NT: a return to another task
    }
    if matches!(instruction.mnemonic(), Mnemonic::Popa | Mnemonic::Popad) {
        // If its stack ends in its middle, some processors have loaded the first registers by then.
        start.general[ESP] = STACK + PAGE / 2;
    }
    let string = instruction.is_string_instruction();
    if string {
        for register in [6, 7] {
            start.general[register] = target(random, 64);
        }
        start.general[ECX] = random.below(12);
    }
    let address = point_at_memory(&instruction, &mut start, random);
    if let Some(address) = address {
        let value = random.value();
        memory.write(address, &value.to_le_bytes());
    }
    if uses_selectors(&instruction) {
        for register in &mut start.general {
            if random.once_in(2) && !(STACK..STACK + PAGE).contains(register) {
                *register = *register & 0xFFFF_0000 | u32::from(random.pick(&SELECTORS));
            }
        }
        let address = point_at_memory(&instruction, &mut start, random);
        for at in address.into_iter().chain([start.general[ESP]]) {
            for half in 0..8 {
                memory.write(
                    at.wrapping_add(2 * half),
                    &random.pick(&SELECTORS).to_le_bytes(),
                );
            }
        }
        if matches!(
            instruction.op0_kind(),
            OpKind::FarBranch16 | OpKind::FarBranch32
        ) {
            let selector = random.pick(&SELECTORS).to_le_bytes();
            let end = instruction.len();
            bytes[end - 2..end].copy_from_slice(&selector);
        }
    } else if matches!(instruction.mnemonic(), Mnemonic::Popf | Mnemonic::Popfd) {
        // Not TF, nor AC.
        let flags = random.value() & !0x4_0100;
        memory.write(start.general[ESP], &flags.to_le_bytes());
    }
    if instruction.mnemonic() == Mnemonic::Retf && instruction.op_count() == 1 {
        // Hardware looks at the stack behind what it gives up before it knows that it may not return.
        let end = instruction.len();
        bytes[end - 1] = 0;
    }
    let open = open(&instruction, &start)?;
    let case = Case {
        code: bytes,
        instructions: if shadows_a_trap(&instruction) { 2 } else { 1 },
        steps: 1,
        start,
        memory,
    };
    Some((case, open, instruction))
}

/// Any values, a stack in the middle of its page, flags of any kind.
fn registers(random: &mut Random) -> Registers {
    let mut general = [0; 8];
    for register in &mut general {
        *register = if random.once_in(3) {
            target(random, 16)
        } else {
            random.value()
        };
    }
    general[ESP] = STACK + PAGE / 2 + 4 * random.below(16);
    if random.once_in(20) {
        // At the stack's either end.
        general[ESP] = random.pick(&[STACK, STACK + 2, STACK + 4, STACK + PAGE - 2, STACK + PAGE]);
    }
    Registers {
        general,
        eip: CODE,
        // Carry, parity, adjust, zero, sign, direction, overflow.
        eflags: 2 | random.next() as u32 & 0x08D5 | if random.once_in(4) { 0x400 } else { 0 },
        segments: [USER_DATA, USER_CODE, USER_DATA, USER_DATA, 0, 0],
    }
}

/// An address for `bytes` bytes: mostly in the data, sometimes over an edge or where it must fault.
fn target(random: &mut Random, bytes: u32) -> u32 {
    match random.below(20) {
        0 | 1 => DATA + PAGE - random.below(bytes + 1),
        2 => DATA + 2 * PAGE - random.below(bytes + 1),
        3 => READ_ONLY + random.below(PAGE),
        4 => READ_ONLY + PAGE + random.below(PAGE),
        _ => DATA + 64 + random.below(2 * PAGE - 256),
    }
}

/// Makes the instruction's memory operand point at something, if a register can do that, and
/// gives where it points.
fn point_at_memory(
    instruction: &Instruction,
    start: &mut Registers,
    random: &mut Random,
) -> Option<u32> {
    let operand =
        (0..instruction.op_count()).find(|&n| instruction.op_kind(n) == OpKind::Memory)?;
    let wide = [instruction.memory_base(), instruction.memory_index()]
        .iter()
        .all(|register| *register == Register::None || register.is_gpr32());
    let at = |start: &Registers, register: Register| {
        if register == Register::None {
            0
        } else {
            start.general[register.number()]
        }
    };
    let index =
        at(start, instruction.memory_index()).wrapping_mul(instruction.memory_index_scale());
    let displacement = instruction.memory_displacement32();
    let base = instruction.memory_base();
    if wide && base != Register::None && base != Register::ESP && base != instruction.memory_index()
    {
        let bytes = instruction.memory_size().size().max(1) as u32;
        let to = target(random, bytes);
        start.general[base.number()] = to.wrapping_sub(index).wrapping_sub(displacement);
        // Bit strings reach far beyond their operand.
        if matches!(
            instruction.mnemonic(),
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
        ) && operand == 0
            && instruction.op1_kind() == OpKind::Register
        {
            let bits = instruction.op1_register();
            if bits.full_register32() != base
                && bits.full_register32() != instruction.memory_index()
                && bits.full_register32() != Register::ESP
            {
                start.general[bits.number() & 7] = random.value() & 0x1FF;
            }
        }
        return Some(to);
    }
    Some(
        at(start, base)
            .wrapping_add(index)
            .wrapping_add(displacement),
    )
}

/// What hardware leaves open after this instruction; nothing if that is the result itself.
fn open(instruction: &Instruction, start: &Registers) -> Option<Open> {
    use Mnemonic::*;
    let mut open = Open {
        flags: eflags(instruction.rflags_undefined()),
        faults: faults(instruction),
        bits: Vec::new(),
    };
    let mnemonic = instruction.mnemonic();
    if matches!(
        mnemonic,
        Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd
    ) {
        let last = instruction.op_count() - 1;
        let count = match instruction.op_kind(last) {
            OpKind::Immediate8 => u32::from(instruction.immediate8()),
            _ => start.general[ECX],
        } & 31;
        let bits = match instruction.op0_kind() {
            OpKind::Register => instruction.op0_register().size() as u32 * 8,
            _ => instruction.memory_size().size() as u32 * 8,
        };
        if matches!(mnemonic, Shld | Shrd) && count > bits {
            return None;
        }
        open.flags = match count {
            0 => 0,
            1 => open.flags & !0x800,
            // A rotation by the whole width is none, but overflow is open all the same.
            _ => open.flags | 0x800,
        };
        if matches!(mnemonic, Shl | Sal | Shr | Sar) && count > 0 {
            open.flags |= 0x10; // adjust
            if count >= bits {
                open.flags |= 1;
            }
        }
    }
    if matches!(mnemonic, Pushf | Pushfd) {
        // The single step itself shows, as TF; and ID is as the last case to set it left it.
        let bytes = if mnemonic == Pushf { 2 } else { 4 };
        let at = start.general[ESP].wrapping_sub(bytes);
        open.bits.extend([(at + 1, 1), (at + 2, 0x20)]);
    }
    if mnemonic == Push
        && instruction.op0_register().is_segment_register()
        && instruction.stack_pointer_increment() == -4
    {
        // Older processors extend with zeros, newer ones leave the upper half as it was.
        let at = start.general[ESP].wrapping_sub(2);
        open.bits.extend([(at, 0xFF), (at + 1, 0xFF)]);
    }
    Some(open)
}

/// iced-x86's names of flags as the processor's bits.
pub fn eflags(bits: u32) -> u32 {
    [
        (RflagsBits::CF, 0x1),
        (RflagsBits::PF, 0x4),
        (RflagsBits::AF, 0x10),
        (RflagsBits::ZF, 0x40),
        (RflagsBits::SF, 0x80),
        (RflagsBits::DF, 0x400),
        (RflagsBits::OF, 0x800),
    ]
    .iter()
    .filter(|(name, _)| bits & name != 0)
    .map(|(_, bit)| bit)
    .sum()
}
