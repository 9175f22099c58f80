//! The test host: a whole second Linux machine, with hardware virtualisation, where this one has
//! none.
//!
//! What boots on hardware virtualisation can be claimed only where there is some. A machine that
//! builds this (a container, a virtual machine in a cloud) often has none, but it can emulate one
//! that has: QEMU's interpreter knows AMD's SVM, nested paging included, and Linux' own KVM runs on
//! it. Slow, but the real thing: same ioctls, same exits, same interrupts.
//!
//! The claims do not know. On a machine with hardware virtualisation, a claim's body runs here.
//! On another one the *same test program* is put on the test host's disk, and the claim is what it
//! answers in there when it is run for this one name:
//!
//! ```text
//! cargo test --test kvm                        (no hardware virtualisation here)
//!   claim a ──▶ TestHost ── ttyS0 ──▶ kvm --exact a     (in the test host: body runs)
//!   claim b ──▶   the same   ──────▶  kvm --exact b
//! ```
//!
//! The host is booted once, by the first claim that needs it, and shared by the others. A claim
//! that does not answer in time costs the host: the next one gets a new one.
//!
//! * [`host`]: the machine itself. `tests/test-host` makes and starts it, for people too.

pub mod host;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::claim::{Claim, unmet};
use crate::machine;
use host::{TINY_GUEST, TestHost};

/// In the test host this is set for the test program: it has no other host to turn to.
const INSIDE: &str = "INSIDE_TEST_HOST";

/// How long a claim may take in the test host. Each guest it boots takes about 12 s on an idle
/// machine, and every wait of the claim itself is shorter.
const PATIENCE: Duration = Duration::from_secs(240);

/// What the launcher says of a guest whose processor met a triple fault.
///
/// In the test host that may be QEMU's doing. Its emulation of SVM (7.2) lets an interrupt of the host's in
/// right behind `VMRUN`, now and then, where the processor would hold it back until `STGI`; the host's kernel still has
/// the guest's segments then. Once its console told so itself: page fault in page fault, until the stack was full, on top of
/// a timer's interrupt on top of `__svm_vcpu_run`. Mostly something else is lost: a guest's interrupt, its page tables for
/// a moment (`-d int` shows a page fault on the next instruction, another on the interrupt table, and the third), or all of the host.
/// QEMU's own guests die alike on the same host: of five each that print all they have to say to another process, the
/// launcher lost 1, QEMU (`-accel kvm -serial stdio`) 3 on a q35 and 1 on a microvm. Who prints much leaves the guest often, and
/// that is where it goes wrong; pinned to one processor none did. A claim
/// that fails by this is tested once more, and that is told; what the launcher does wrong each time it does twice.
const TRIPLE_FAULT: &str = "its processor met a triple fault";

/// What is said of a guest whose kernel never came to its shell: it waits for an interrupt which never
/// comes, once in some dozens of boots. See [`TRIPLE_FAULT`].
const SILENT: &str = ":/root# `; it said:";

/// The one test host of this test program, if it is booted.
static HOST: Mutex<Option<TestHost>> = Mutex::new(None);

/// The claim's outcome where there is hardware virtualisation.
fn judge(claim: Claim) -> Result<Completion, Failed> {
    if std::env::var_os(INSIDE).is_some() || machine::has_kvm() {
        return claim.judge();
    }
    match unmet(host::NEEDS) {
        Some(reason) => Ok(Completion::ignored_with(reason)),
        None => in_test_host(claim.name)
            .unwrap_or_else(|error| Outcome::Fails(format!("{error:#}")))
            .into(),
    }
}

/// The claim's outcome in the test host. If that, or a guest on it, crashes or hangs, it may be the emulator's
/// doing, and the claim is tested once more: on a new host, if the old one is lost.
fn in_test_host(name: &str) -> Result<Outcome> {
    match ask_test_host(name) {
        Ok(outcome) if !outcome.may_be_the_emulators() => return Ok(outcome),
        Ok(_) => {
            eprintln!("{name}: a guest crashed or hung, which may be QEMU's doing; once more.")
        }
        Err(error) => eprintln!("{name}: the test host is lost; once more on a new one. {error:#}"),
    }
    ask_test_host(name)
}

/// What the test program says of the claim in the test host.
fn ask_test_host(name: &str) -> Result<Outcome> {
    let program = std::env::current_exe().context("Finding the test's own path")?;
    let inside = program
        .file_name()
        .context("The test program has no name")?;
    let mut shared = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    // Taken out: put back only if it is still good.
    let mut host = match shared.take() {
        Some(host) => host,
        None => TestHost::boot("claims", &[&program]).context("Booting the test host")?,
    };
    let answer = host.run(
        &format!(
            "[ ! -e {TINY_GUEST} ] || export TINY_GUEST={TINY_GUEST}; {INSIDE}=1 {} --color never --exact {name}",
            inside.to_string_lossy()
        ),
        PATIENCE,
    )?;
    *shared = Some(host);
    Ok(Outcome::of(name, answer.status, &answer.text))
}

/// What the test program said of one claim.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Holds,
    Ignored(String),
    Fails(String),
}

impl Outcome {
    /// Whether the claim failed by what the emulated processor does by itself; see [`TRIPLE_FAULT`] and
    /// [`SILENT`].
    fn may_be_the_emulators(&self) -> bool {
        let says = |what| matches!(self, Outcome::Fails(why) if why.contains(what));
        says(TRIPLE_FAULT) || says(SILENT)
    }

    /// Reads the harness's line "test NAME ... ok", "... ignored (REASON)" or "... FAILED".
    fn of(name: &str, status: i32, text: &str) -> Outcome {
        let said = text
            .lines()
            .find_map(|line| {
                line.strip_prefix("test ")?
                    .strip_prefix(name)?
                    .strip_prefix(" ")
            })
            .map(|rest| rest.trim_start().trim_start_matches('.').trim());
        match said {
            Some("ok") if status == 0 => Outcome::Holds,
            Some(said) if status == 0 && said.starts_with("ignored") => {
                let reason = said.trim_start_matches("ignored");
                Outcome::Ignored(format!("in the test host:{reason}"))
            }
            _ => Outcome::Fails(format!("In the test host (exit status {status}):\n{text}")),
        }
    }
}

impl From<Outcome> for Result<Completion, Failed> {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Holds => Ok(Completion::Completed),
            Outcome::Ignored(reason) => Ok(Completion::ignored_with(reason)),
            Outcome::Fails(why) => Err(why.into()),
        }
    }
}

/// Runs the claims of one file, one after the other: the test host has one console.
pub fn main(claims: Vec<Claim>) -> ! {
    let mut arguments = Arguments::from_args();
    // Not on request either: the kernel ends the test host with the thread that started it.
    arguments.test_threads = Some(1);
    let trial = |claim: Claim| Trial::ignorable_test(claim.name, move || judge(claim));
    let trials = claims.into_iter().map(trial).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(HOST.lock().unwrap_or_else(PoisonError::into_inner).take());
    conclusion.exit()
}

#[cfg(test)]
mod tests {
    use super::{Outcome, TRIPLE_FAULT};

    const NAME: &str = "a_guest_boots";

    fn outcome(status: i32, line: &str) -> Outcome {
        Outcome::of(NAME, status, &format!("\nrunning 1 test\n{line}\n\n"))
    }

    #[test]
    fn a_claim_holds_only_if_its_own_line_says_ok() {
        assert_eq!(outcome(0, "test a_guest_boots ... ok"), Outcome::Holds);
        for (status, line) in [
            (0, ""),
            (0, "test another ... ok"),
            (0, "test a_guest_boots_twice ... ok"),
            (101, "test a_guest_boots ... FAILED"),
            (139, "test a_guest_boots ... ok"),
        ] {
            assert!(
                matches!(outcome(status, line), Outcome::Fails(text) if text.contains(line)),
                "{status} {line}"
            );
        }
    }

    #[test]
    fn only_a_crash_or_a_boot_without_end_may_be_the_emulators() {
        let silent = "The console was silent while waiting for `guest:/root# `; it said:";
        for why in [TRIPLE_FAULT, silent] {
            let says = |status, said: &str| {
                let line = format!("test a_guest_boots ... {said}\nThe reason: {why}");
                outcome(status, &line).may_be_the_emulators()
            };
            assert!(says(101, "FAILED"));
            assert!(!says(0, "ok") && !says(0, "ignored"));
        }
        assert!(!outcome(101, "test a_guest_boots ... FAILED").may_be_the_emulators());
    }

    #[test]
    fn what_is_ignored_there_is_ignored_here_with_the_reason() {
        assert_eq!(
            outcome(0, "test a_guest_boots ... ignored (needs root)"),
            Outcome::Ignored("in the test host: (needs root)".into())
        );
    }
}
