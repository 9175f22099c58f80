//! The processor of the engine `lguest` against the one of this machine: the same instruction, the
//! same registers and memory, on both; whatever differs afterwards is wrong with ours.
//!
//! # The tour
//!
//! 1. [`case`]: what both are given, what they make of it, and how that is compared.
//! 2. [`integer`] and [`x87`] make cases, from [`random`] bytes behind every opcode.
//! 3. [`forms`]: that none is missing.
//! 4. [`hardware`]: a 32-bit child under ptrace. [`software`]: ours.
//!
//! Flags and bits that the manual leaves open are not compared. What ring 3 can't do or see
//! (page tables, `iret` to another ring, segments with limits) is in the processor's own tests.
//!
//! `CPU_CASES` is the number of tries an opcode gets (default 100), `CPU_SEED` chooses others than usual.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod case;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod compare;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod forms;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod hardware;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod integer;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod random;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod software;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod x87;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, claims()).exit()
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn claims() -> Vec<Trial> {
    compare::claims()
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn claims() -> Vec<Trial> {
    vec![Trial::ignorable_test(
        "every_instruction_does_what_hardware_does",
        || {
            Ok(libtest_mimic::Completion::ignored_with(
                "this machine's processor is of another kind",
            ))
        },
    )]
}
