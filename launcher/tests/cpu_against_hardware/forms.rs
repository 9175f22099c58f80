//! That no form of an instruction is forgotten: all that iced-x86 can read in front of any byte of an opcode and
//! the one behind it, with and without a prefix for operands of 16 bits, against what the cases consist of.

use std::collections::BTreeSet;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind};
use libtest_mimic::Failed;

use super::case::Memory;
use super::compare::{SEED, TRIES, X87_ROUNDS};
use super::integer::{self, Opcode};
use super::random::Random;
use super::x87;

/// An instruction by its encoding, which has the widths and kinds of its operands but for one: whether what
/// may be a register or memory is memory.
type Form = (String, bool);

fn form(instruction: &Instruction) -> Form {
    let memory = (0..instruction.op_count()).any(|n| instruction.op_kind(n) == OpKind::Memory);
    (format!("{:?}", instruction.code()), memory)
}

/// All there are to be compared.
fn possible() -> BTreeSet<Form> {
    let mut forms = BTreeSet::new();
    for second_map in [false, true] {
        for (byte, next) in (0..=u16::MAX).map(|n| n.to_le_bytes()).map(|[a, b]| (a, b)) {
            if !second_map && byte == 0x0F {
                continue;
            }
            for narrow in [false, true] {
                let mut bytes = Vec::new();
                bytes.extend(narrow.then_some(0x66));
                bytes.extend(second_map.then_some(0x0F));
                bytes.extend([byte, next]);
                bytes.resize(15, 0);
                let instruction = Decoder::with_ip(32, &bytes, 0, DecoderOptions::NONE).decode();
                let x87 = !second_map && matches!(byte, 0xD8..=0xDF);
                let comparable = match x87 {
                    // Ones of 16 bits have images of another size: no register is in it twice.
                    true => x87::is_comparable(&instruction),
                    false => integer::is_comparable(&instruction),
                };
                if comparable {
                    forms.insert(form(&instruction));
                }
            }
        }
    }
    forms
}

/// All that the usual cases have.
fn generated() -> BTreeSet<Form> {
    let mut forms = BTreeSet::new();
    let mut random = Random::new(SEED);
    let memory = Memory::filled(|| random.byte());
    for second_map in [false, true] {
        for byte in 0..=u8::MAX {
            let opcode = Opcode { second_map, byte };
            let x87 = !second_map && matches!(byte, 0xD8..=0xDF);
            let rounds = if x87 { X87_ROUNDS } else { opcode.rounds() };
            for _ in 0..TRIES * rounds {
                let case = match x87 {
                    true => x87::case(&mut random, &memory, byte),
                    false => integer::case(&mut random, &memory, opcode),
                };
                forms.extend(case.map(|(_, _, instruction)| form(&instruction)));
            }
        }
    }
    forms
}

pub fn are_all_among_the_cases() -> Result<(), Failed> {
    let possible = possible();
    let missing: Vec<_> = possible.difference(&generated()).cloned().collect();
    if missing.is_empty() && possible.len() > 500 && possible.contains(&form_of_add()) {
        return Ok(());
    }
    Err(Failed::from(format!(
        "of {} forms no case has {} of them: {missing:?}",
        possible.len(),
        missing.len()
    )))
}

/// One that must be there, or the list is empty for a reason.
fn form_of_add() -> Form {
    (format!("{:?}", Code::Add_rm32_r32), true)
}
