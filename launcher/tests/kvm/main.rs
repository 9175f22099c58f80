//! The engine `kvm` on this machine's own /dev/kvm, with guests of a few instructions: ports,
//! registers in memory, the ways to end. They are so small that even a host whose KVM emulates
//! instructions runs them. Stock kernels are the system tests' business.
//!
//! Without a /dev/kvm to open, these tests are ignored, and say why.

// What a test does to set itself up either works or is the test's failure.
#![allow(clippy::unwrap_used)]

mod code;
mod guest;

use std::fs::OpenOptions;
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};

use code::{Code, Port};
use guest::Guest;

/// Nothing here takes longer, whatever else this machine does.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let missing = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .err();
    let tests: [(&str, fn()); 10] = [
        ("a_guest_prints_and_powers_off", prints_and_powers_off),
        ("a_guest_resets_itself_by_either_register", resets_itself),
        ("a_triple_fault_is_a_crash", triple_fault),
        (
            "a_kernel_starts_where_it_says_and_not_where_it_begins",
            entry_elsewhere,
        ),
        (
            "a_kernel_finds_its_command_line_by_the_zero_page",
            command_line,
        ),
        ("a_kernel_with_a_pvh_note_starts_by_it", pvh),
        (
            "a_device_answers_at_its_address_and_nobody_elsewhere",
            registers_in_memory,
        ),
        ("what_is_typed_reaches_the_guest", typed),
        (
            "a_guest_that_heeds_nothing_is_ended_by_a_signal",
            ended_by_signal,
        ),
        ("a_guest_that_reboots_starts_again_as_it_was", starts_again),
    ];
    let tests = tests.map(|(name, test)| {
        let run = move || -> Result<(), Failed> {
            test();
            Ok(())
        };
        let kind = missing.as_ref().map(|error| format!("/dev/kvm: {error}"));
        let trial = Trial::test(name, run).with_ignored_flag(missing.is_some());
        match kind {
            Some(why) => trial.with_kind(why),
            None => trial,
        }
    });
    libtest_mimic::run(&Arguments::from_args(), tests.into()).exit_code()
}

fn prints_and_powers_off() {
    let ended = Guest::of(Code::new().print("from ring 0\n").power_off()).run();
    ended.is(0, "from ring 0\n");
}

fn resets_itself() {
    for reset in [
        Code::new().out(Port::Reset, 1),
        Code::new().out(Port::Keyboard, 0xfe),
    ] {
        let ended = Guest::of(reset.hang()).with(&["--verbose"]).run();
        ended.is(0, "");
        assert!(ended.stderr.contains("rebooted"), "{}", ended.stderr);
    }
}

fn triple_fault() {
    let ended = Guest::of(Code::new().print("x").fault()).run();
    ended.is(1, "x");
    assert!(ended.stderr.contains("triple fault"), "{}", ended.stderr);
}

fn entry_elsewhere() {
    let mut guest = Guest::of(Code::new().print("entry\n").power_off());
    // The code goes into the higher of two segments; the lower one is no code at all.
    guest.below = vec![0x0f, 0x0b, 0x0f, 0x0b];
    guest.run().is(0, "entry\n");
}

fn command_line() {
    let guest = Guest::of(Code::new().print_command_line().power_off());
    guest
        .with_arguments(&["console=none", "panic=0", "hello", "guest"])
        .run()
        .is(0, "console=none panic=0 hello guest");
}

fn pvh() {
    let mut guest = Guest::of(
        Code::new()
            .check_protected_mode()
            .print("pvh\n")
            .power_off(),
    );
    guest.pvh = true;
    guest.run().is(0, "pvh\n");
}

fn registers_in_memory() {
    let code = Code::new()
        .print_memory(0xd000_0000)
        .print_memory(0xdf00_0000)
        .power_off();
    let ended = Guest::of(code).run();
    assert_eq!(ended.stdout, b"virt\xff\xff\xff\xff", "{ended:?}");
}

fn typed() {
    let code = Code::new().echo_until(b'.').power_off();
    Guest::of(code)
        .type_in("typed by hand, and more than fits into one FIFO of 64 bytes at once.")
        .run()
        .is(
            0,
            "typed by hand, and more than fits into one FIFO of 64 bytes at once.",
        );
}

fn ended_by_signal() {
    let guest = Guest::of(Code::new().print("up\n").hang()).with(&["--grace=0"]);
    let ended = guest.run_until("up\n", |guest| guest.terminate());
    ended.is(143, "up\n");
}

fn starts_again() {
    // Memory the kernel's file does not fill is zero at each start, or it would not stop counting.
    let code = Code::new()
        .print("start\n")
        .count_in_memory(0x20_0000)
        .out(Port::Reset, 1)
        .hang();
    let guest = Guest::of(code).with(&["--on-reset=reboot", "--grace=0"]);
    let ended = guest.run_until("start\n1start\n1start\n1", |guest| guest.terminate());
    assert_eq!(ended.status, Some(143), "{ended:?}");
    assert!(
        !String::from_utf8_lossy(&ended.stdout).contains('2'),
        "{ended:?}"
    );
}
