//! The claims: sixteen opcodes each, every one tried many times on both processors.

use iced_x86::Instruction;
use libtest_mimic::{Completion, Failed, Trial};

use super::case::{self, Case, END, End, Memory, Open};
use super::forms;
use super::hardware::Hardware;
use super::integer::{self, Opcode};
use super::random::Random;
use super::software::Software;
use super::x87;

/// Reports no more than this many differences of an opcode.
const MOST_REPORTS: usize = 3;
/// The usual seed, and number of tries an opcode gets.
pub const SEED: u64 = 2007;
pub const TRIES: usize = 100;
/// How many times that one of the x87's gets.
pub const X87_ROUNDS: usize = 16;

pub fn claims() -> Vec<Trial> {
    let integer = [false, true].into_iter().flat_map(|second_map| {
        (0_u8..16).map(move |row| {
            let map = if second_map { "0f_" } else { "" };
            let name = format!(
                "opcodes_{map}{:02x}_to_{map}{:02x}_do_what_hardware_does",
                row << 4,
                row << 4 | 15
            );
            claim(name, move |compare| {
                for byte in row << 4..=row << 4 | 15 {
                    let is_prefix_or_x87 = !second_map && matches!(byte, 0x0F | 0xD8..=0xDF);
                    if !is_prefix_or_x87 {
                        let opcode = Opcode { second_map, byte };
                        for _ in 0..opcode.rounds() {
                            compare
                                .opcode(|random, memory| integer::case(random, memory, opcode))?;
                        }
                    }
                }
                Ok(())
            })
        })
    });
    let x87 = (0xD8_u8..=0xDF).map(|byte| {
        claim(
            format!("x87_opcodes_{byte:02x}_do_what_hardware_does"),
            move |compare| {
                // One opcode of these is eight instructions and more.
                for _ in 0..X87_ROUNDS {
                    compare.opcode(|random, memory| x87::case(random, memory, byte))?;
                }
                Ok(())
            },
        )
    });
    let forms = Trial::test(
        "every_form_of_every_instruction_is_among_the_cases",
        forms::are_all_among_the_cases,
    );
    integer.chain(x87).chain([forms]).collect()
}

fn claim(
    name: String,
    body: impl FnOnce(&mut Compare) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || {
        let hardware = match Hardware::start() {
            Ok(hardware) => hardware,
            Err(error) => {
                return Ok(Completion::ignored_with(format!(
                    "needs to trace a 32-bit program: {error}"
                )));
            }
        };
        let mut compare = Compare::new(hardware);
        body(&mut compare)?;
        if compare.reports.is_empty() {
            return Ok(Completion::Completed);
        }
        Err(Failed::from(format!(
            "{} of {} cases differ:\n{}",
            compare.differ,
            compare.cases,
            compare.reports.join("\n")
        )))
    })
}

struct Compare {
    hardware: Hardware,
    software: Software,
    random: Random,
    memory: Memory,
    tries: usize,
    cases: usize,
    differ: usize,
    reports: Vec<String>,
}

impl Compare {
    fn new(hardware: Hardware) -> Self {
        let number = |name, default| {
            std::env::var(name)
                .ok()
                .and_then(|text| text.parse().ok())
                .unwrap_or(default)
        };
        let mut random = Random::new(number("CPU_SEED", SEED));
        Self {
            hardware,
            software: Software::new(),
            memory: Memory::filled(|| random.byte()),
            random,
            tries: number("CPU_CASES", TRIES as u64) as usize,
            cases: 0,
            differ: 0,
            reports: Vec::new(),
        }
    }

    fn opcode(
        &mut self,
        generate: impl Fn(&mut Random, &Memory) -> Option<(Case, Open, Instruction)>,
    ) -> Result<(), Failed> {
        let mut reports = 0;
        for _ in 0..self.tries {
            let Some((case, open, instruction)) = generate(&mut self.random, &self.memory) else {
                continue;
            };
            let mut ours = self.software.run(&case);
            let hardware = self
                .hardware
                .run(&case)
                .map_err(|error| Failed::from(format!("{instruction:?}: {error}")))?;
            self.cases += 1;
            if outside(ours.end) || outside(hardware.end) {
                continue;
            }
            if x87::is_transcendental(instruction.mnemonic()) {
                x87::allow_last_bits(&mut ours.memory, &hardware.memory);
            }
            if let Some(difference) = case::difference(&ours, &hardware, &open) {
                self.differ += 1;
                reports += 1;
                if reports <= MOST_REPORTS {
                    self.reports.push(format!(
                        "{:?} {:02x?}: {difference}\n    from {:x?}",
                        instruction.code(),
                        &case.code,
                        case.start
                    ));
                }
            }
        }
        Ok(())
    }
}

/// A page fault where the child may have memory of which ours knows nothing.
fn outside(end: End) -> bool {
    matches!(end, End::Trap { vector: 14, cr2, .. } if cr2 >= END)
}
