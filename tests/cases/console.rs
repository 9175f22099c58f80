//! Claims about the launcher as a program: its console, its ends, its exit status.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use system_tests::process;
use system_tests::terminal::Terminal;
use system_tests::wait::PATIENCE;
use system_tests::{Claim, Lab, Need, claim};

fn main() {
    system_tests::main(claims())
}

/// Also run on hardware virtualisation, by `kvm.rs`.
pub fn claims() -> Vec<Claim> {
    const NEEDS: &[Need] = &[Need::Guests];
    const TERMINAL: &[Need] = &[Need::Guests, Need::Tool("setsid")];
    vec![
        claim(
            "power_off_ends_the_launcher_with_0",
            NEEDS,
            power_off_ends_with_0,
        ),
        claim(
            "a_kernel_panic_ends_it_with_1_and_says_why",
            NEEDS,
            a_panic_says_why,
        ),
        claim(
            "a_dead_engine_ends_it_with_1_and_says_so",
            NEEDS,
            a_dead_engine_says_so,
        ),
        claim(
            "the_end_of_stdin_does_not_end_the_guest",
            NEEDS,
            the_end_of_stdin,
        ),
        claim(
            "one_interrupt_goes_to_the_guest",
            TERMINAL,
            one_interrupt_goes_to_the_guest,
        ),
        claim(
            "three_interrupts_end_it_with_2_and_restore_the_terminal",
            TERMINAL,
            three_interrupts_end_it,
        ),
        claim(
            "power_off_restores_the_terminal",
            TERMINAL,
            power_off_restores_the_terminal,
        ),
        claim(
            "a_console_argument_of_the_users_is_respected",
            NEEDS,
            a_console_argument_is_respected,
        ),
    ]
}

fn power_off_ends_with_0() -> Result<()> {
    let lab = Lab::new()?;
    lab.guest("guest").boot()?.powers_off()
}

fn a_panic_says_why() -> Result<()> {
    let lab = Lab::new()?;
    let mut guest = lab.guest("guest").boot()?;
    guest.console.send(b"echo c >/proc/sysrq-trigger\n")?;
    let status = guest.ends()?;
    ensure!(
        status.code() == Some(1),
        "It ended with {status}: {}",
        guest.errors()
    );
    let errors = guest.errors();
    ensure!(
        errors.contains("panic") && errors.trim().lines().count() == 1,
        "The reason it gives is: {errors}"
    );
    Ok(())
}

fn a_dead_engine_says_so() -> Result<()> {
    let lab = Lab::new()?;
    let mut guest = lab.guest("guest").option("--sharenet=lan0").boot()?;
    let processes = guest.processes()?;
    let engine = processes
        .iter()
        .find(|process| process.name.starts_with("qemu"))
        .with_context(|| format!("There is no QEMU among {processes:?}"))?;
    engine.kill();
    let status = guest.ends()?;
    ensure!(
        status.code() == Some(1),
        "It ended with {status}: {}",
        guest.errors()
    );
    ensure!(
        guest.errors().trim().lines().count() == 1,
        "The reason it gives is: {}",
        guest.errors()
    );
    Ok(())
}

fn the_end_of_stdin() -> Result<()> {
    let lab = Lab::new()?;
    let output = lab
        .guest("guest")
        .kernel_argument("run=\"sleep 2; echo the guest lives on\"")
        .command()?
        .stdin(Stdio::null())
        .output()
        .context("Running the launcher")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.code() == Some(0) && text.contains("the guest lives on"),
        "{output:?}"
    );
    Ok(())
}

fn one_interrupt_goes_to_the_guest() -> Result<()> {
    let lab = Lab::new()?;
    let (mut guest, terminal) = Terminal::start(&lab.guest("guest"), "guest")?;
    guest.booted()?;
    ensure!(terminal.is_raw()?, "The terminal keeps keys from the guest");
    // What speaks is what is to be interrupted: a key typed while the shell is about to start a
    // command goes to the shell, which heeds it once the command is over.
    guest
        .console
        .start("sh -c 'echo it $((6*7))s; exec sleep 1000'")?;
    guest.console.expect("it 42s", PATIENCE)?;
    guest.console.send(b"\x03")?;
    // The guest's shell ends the command and drops the rest of that line.
    let answer = guest.run("true")?;
    ensure!(answer.status == 0, "{answer:?}");
    ensure!(guest.power_off()?.code() == Some(0), "{}", guest.errors());
    Ok(())
}

fn three_interrupts_end_it() -> Result<()> {
    let lab = Lab::new()?;
    let (mut guest, terminal) =
        Terminal::start(&lab.guest("guest").option("--sharenet=lan0"), "guest")?;
    guest.booted()?;
    let processes = guest.processes()?;
    ensure!(terminal.is_raw()?, "The terminal keeps keys from the guest");
    guest.console.send(b"\x03\x03\x03")?;
    let status = guest.ends()?;
    ensure!(
        status.code() == Some(2),
        "It ended with {status}: {}",
        guest.errors()
    );
    ensure!(terminal.is_as_before()?, "The terminal is not as it was");
    process::gone(&processes)
}

fn power_off_restores_the_terminal() -> Result<()> {
    let lab = Lab::new()?;
    let (mut guest, terminal) = Terminal::start(&lab.guest("guest"), "guest")?;
    guest.booted()?;
    ensure!(terminal.is_raw()?, "The terminal keeps keys from the guest");
    ensure!(guest.power_off()?.code() == Some(0), "{}", guest.errors());
    ensure!(terminal.is_as_before()?, "The terminal is not as it was");
    Ok(())
}

fn a_console_argument_is_respected() -> Result<()> {
    let lab = Lab::new()?;
    let mut guest = lab
        .guest("guest")
        .kernel_argument("console=ttyS0,115200")
        .boot()?;
    let line = guest.succeeds("cat /proc/cmdline")?;
    ensure!(
        line.matches("console=").count() == 1,
        "The kernel's command line is: {line}"
    );
    let mut guest = lab.guest("guest").boot()?;
    let line = guest.succeeds("cat /proc/cmdline")?;
    ensure!(
        line.matches("console=ttyS0").count() == 1,
        "The kernel's command line is: {line}"
    );
    Ok(())
}
