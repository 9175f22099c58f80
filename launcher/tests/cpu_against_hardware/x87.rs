//! Cases of x87 instructions. The coprocessor's state travels through memory: `frstor`, the
//! instruction, `fnsave`; what is compared is the image that the last one leaves.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register, RflagsBits};

use super::case::{CODE, Case, DATA, EAX, ESP, Faults, Memory, Open, PAGE, Registers, STACK};
use super::integer::{eflags, offered};
use super::random::Random;
use super::software::{USER_CODE, USER_DATA};

/// Where the images are, behind what instructions may write.
const BEFORE: u32 = DATA + PAGE + 0x800;
const AFTER: u32 = DATA + PAGE + 0xC00;
/// An image: seven words of environment, eight registers of ten bytes.
const ENVIRONMENT: u32 = 28;
const STATUS: u32 = 4;

/// `frstor`, the instruction, `fnsave`, and a random state for it.
pub fn case(random: &mut Random, memory: &Memory, opcode: u8) -> Option<(Case, Open, Instruction)> {
    let mut bytes = vec![0xDD, 0x25]; // frstor [disp32]
    bytes.extend(BEFORE.to_le_bytes());
    let begin = bytes.len();
    let narrow = random.once_in(6);
    bytes.extend(narrow.then_some(0x66));
    bytes.push(opcode);
    // A register form, or memory at [eax], or at an absolute address.
    let reg = random.below(8) as u8;
    let at = DATA + 64 + random.below(0x400);
    match random.below(3) {
        0 => bytes.push(reg << 3),
        1 => {
            bytes.push(reg << 3 | 5);
            bytes.extend(at.to_le_bytes());
        }
        _ => bytes.push(0xC0 | random.byte()),
    }
    let mut padded = bytes[begin..].to_vec();
    padded.resize(15, 0);
    let instruction =
        Decoder::with_ip(32, &padded, u64::from(CODE) + 6, DecoderOptions::NONE).decode();
    if !is_comparable(&instruction) || instruction.len() != bytes.len() - begin {
        return None;
    }
    bytes.extend([0xDD, 0x35]); // fnsave [disp32]
    bytes.extend(AFTER.to_le_bytes());
    bytes.extend([0x90; 4]);

    let mut memory = memory.clone();
    memory.write(
        BEFORE,
        &image(
            random,
            is_transcendental(instruction.mnemonic()),
            u32::to_le_bytes,
        ),
    );
    memory.write(at, &operand(random, &instruction, narrow));
    let mut general = [0; 8];
    for register in &mut general {
        *register = random.value();
    }
    general[EAX] = at;
    general[ESP] = STACK + PAGE / 2;
    let case = Case {
        code: bytes,
        instructions: 3,
        steps: 3,
        start: Registers {
            general,
            eip: CODE,
            eflags: 2 | random.next() as u32 & 0x08D5,
            segments: [USER_DATA, USER_CODE, USER_DATA, USER_DATA, 0, 0],
        },
        memory,
    };
    Some((case, open(&instruction, at), instruction))
}

/// Whether there are cases of it here.
pub fn is_comparable(instruction: &Instruction) -> bool {
    // `fstpnce` is in no manual, and not every processor has it.
    !instruction.is_invalid() && offered(instruction) && instruction.mnemonic() != Mnemonic::Fstpnce
}

/// Whether iced-x86 calls this a transcendental function, whose last bits may differ.
pub fn is_transcendental(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Fsin | Fcos | Fsincos | Fptan | Fpatan | F2xm1 | Fyl2x | Fyl2xp1
    )
}

/// A state of the coprocessor. A tame one is for functions whose last bits differ: all exceptions
/// are masked, so that inexact is no trap, and all numbers are small.
fn image<const N: usize>(
    random: &mut Random,
    tame: bool,
    word_of_environment: impl Fn(u32) -> [u8; N],
) -> Vec<u8> {
    let control = 0x40
        | random.pick(&[0_u16, 0x200, 0x300, 0x300, 0x300])
        | random.pick(&[0_u16, 0, 0x400, 0x800, 0xC00])
        | if !tame && random.once_in(8) {
            random.byte() as u16 & 0x3F
        } else {
            0x3F
        };
    let flags = if random.once_in(4) {
        random.byte() as u16 & 0x7F & !(!control & 0x3F)
    } else {
        0
    };
    let status = flags | (random.next() as u16 & 0x7F00);
    let tags = (0..8).fold(0_u16, |tags, _| {
        tags << 2 | if random.once_in(4) { 3 } else { 0 }
    });
    let mut image = Vec::new();
    for word in [control, status, tags, 0, 0, 0, 0] {
        image.extend(word_of_environment(word.into()));
    }
    for _ in 0..8 {
        image.extend(extended(random, tame));
    }
    image
}

/// An 80-bit number: of every class, and near enough to its neighbours for sums to be interesting.
fn extended(random: &mut Random, tame: bool) -> [u8; 10] {
    let integer_bit = 1_u64 << 63;
    let (exponent, fraction): (u16, u64) = match random.below(14) {
        // Less than a quarter: there all of these functions are defined.
        _ if tame => (
            0x3FF0 + random.below(13) as u16,
            integer_bit | random.next(),
        ),
        0 => (0, 0),
        1 => (0x7FFF, integer_bit),
        2 => (0x7FFF, integer_bit | random.next()),
        3 => (0x7FFF, integer_bit | 1 << 62 | random.next()),
        4 => (0, random.next() & !integer_bit),
        5 => (0x3FFF, integer_bit),
        6 => (
            0x3FFF + random.below(70) as u16,
            integer_bit | random.next() & !0 << random.below(63),
        ),
        7 => (random.next() as u16 & 0x7FFF, integer_bit | random.next()),
        8 => (
            random.pick(&[1, 0x7FFE, 0x3C01, 0x3F81, 0x43FE, 0x407E]),
            integer_bit | random.next(),
        ),
        _ => (
            0x3FFF - 8 + random.below(16) as u16,
            integer_bit | random.next(),
        ),
    };
    let sign = if random.once_in(2) { 0x8000 } else { 0 };
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&fraction.to_le_bytes());
    bytes[8..].copy_from_slice(&(exponent | sign).to_le_bytes());
    bytes
}

/// What lies in memory, so that it makes sense to the instruction.
fn operand(random: &mut Random, instruction: &Instruction, narrow: bool) -> Vec<u8> {
    use Mnemonic::*;
    match (instruction.mnemonic(), instruction.memory_size().size()) {
        (Fldcw, _) => (0x40 | 0x3F | random.next() as u16 & 0xF00)
            .to_le_bytes()
            .to_vec(),
        (Frstor | Fldenv, _) if narrow => image(random, false, |word| (word as u16).to_le_bytes()),
        (Frstor | Fldenv, _) => image(random, false, u32::to_le_bytes),
        (Fbld, _) => {
            let mut digits: Vec<u8> = (0..9)
                .map(|_| (random.below(10) << 4 | random.below(10)) as u8)
                .collect();
            digits.push(if random.once_in(2) { 0x80 } else { 0 });
            digits
        }
        (_, 10) => extended(random, false).to_vec(),
        (_, 4) if random.once_in(2) => (f32::from_bits(random.value())).to_le_bytes().to_vec(),
        (_, 4) => ((random.value() as i32 as f32) / 256.0)
            .to_le_bytes()
            .to_vec(),
        (_, 8) if random.once_in(2) => ((random.value() as i32 as f64) / 65536.0)
            .to_le_bytes()
            .to_vec(),
        _ => random.next().to_le_bytes().to_vec(),
    }
}

/// What the manual leaves open, and what our processor does not keep: where the last instruction
/// and its operand were, and the upper halves of the environment's words.
fn open(instruction: &Instruction, at: u32) -> Open {
    let undefined = instruction.rflags_undefined();
    let mut open = Open {
        flags: eflags(undefined),
        faults: Faults::All,
        bits: Vec::new(),
    };
    let conditions: u8 = [
        (RflagsBits::C0, 1),
        (RflagsBits::C1, 2),
        (RflagsBits::C2, 4),
        (RflagsBits::C3, 0x40),
    ]
    .iter()
    .filter(|(name, _)| undefined & name != 0)
    .map(|(_, bit)| bit)
    .sum();
    open.bits.push((AFTER + STATUS + 1, conditions));
    hide_environment(&mut open, AFTER);
    if matches!(instruction.mnemonic(), Mnemonic::Fnsave | Mnemonic::Fnstenv) {
        if matches!(instruction.memory_size().size(), 14 | 94) {
            open.bits.extend((at + 6..at + 14).map(|at| (at, 0xFF)));
        } else {
            hide_environment(&mut open, at);
        }
    }
    if instruction.mnemonic() == Mnemonic::Fnstsw && instruction.op0_kind() == OpKind::Register {
        debug_assert_eq!(instruction.op0_register(), Register::AX);
    }
    open
}

fn hide_environment(open: &mut Open, image: u32) {
    for word in 0..3 {
        open.bits
            .extend([(image + 4 * word + 2, 0xFF), (image + 4 * word + 3, 0xFF)]);
    }
    open.bits
        .extend((image + 12..image + ENVIRONMENT).map(|at| (at, 0xFF)));
}

/// Our transcendental functions are exact to the 53 bits of a double: makes equal what is that
/// near, in the image that `fnsave` left, and in what says how it was rounded.
pub fn allow_last_bits(ours: &mut Memory, hardware: &Memory) {
    let offset = |at: u32| (at - DATA) as usize;
    for register in 0..8 {
        let at = offset(AFTER + ENVIRONMENT) + 10 * register;
        let (a, b) = (
            number(&ours.data[at..at + 10]),
            number(&hardware.data[at..at + 10]),
        );
        let near = a == b || (a - b).abs() <= b.abs().max(f64::MIN_POSITIVE) * 1e-14;
        if near {
            let theirs = hardware.data[at..at + 10].to_vec();
            ours.data[at..at + 10].copy_from_slice(&theirs);
        }
    }
    // Precision and underflow exceptions, and C1.
    let status = offset(AFTER + STATUS);
    for (byte, bits) in [(status, 0x30), (status + 1, 2)] {
        ours.data[byte] = ours.data[byte] & !bits | hardware.data[byte] & bits;
    }
}

/// An 80-bit number as a double.
fn number(bytes: &[u8]) -> f64 {
    let mut fraction = [0; 8];
    fraction.copy_from_slice(&bytes[..8]);
    let top = u16::from_le_bytes([bytes[8], bytes[9]]);
    let exponent = i32::from(top & 0x7FFF) - 0x3FFF - 63;
    let magnitude = u64::from_le_bytes(fraction) as f64 * 2_f64.powi(exponent.clamp(-1000, 960));
    if top & 0x8000 != 0 {
        -magnitude
    } else {
        magnitude
    }
}
