//! The engine `lguest` with the guest of `examples/guest`: what it prints is what happened to it.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::{Lab, Need, claim, ending, machine};

/// What these need: the guest is built here, by the example's own script.
const NEEDS: &[Need] = &[Need::Binaries, Need::Tool("gcc"), Need::Tool("timeout")];

fn main() {
    system_tests::main(vec![
        claim(
            "a_guest_prints_and_powers_off",
            NEEDS,
            a_guest_prints_and_powers_off,
        ),
        claim(
            "what_a_guest_writes_is_on_its_disk",
            NEEDS,
            what_a_guest_writes_is_on_its_disk,
        ),
        claim(
            "two_guests_ping_each_other",
            NEEDS,
            two_guests_ping_each_other,
        ),
        claim(
            "a_guest_that_breaks_a_rule_dies_with_the_reason",
            NEEDS,
            a_guest_that_breaks_a_rule_dies_with_the_reason,
        ),
    ])
}

/// Builds the guest in the lab's folder.
fn build(lab: &Lab) -> Result<PathBuf> {
    let guest = lab.path("guest");
    let script = machine::repository().join("examples/guest/build.sh");
    let output = Command::new(script).arg(&guest).output()?;
    ensure!(
        output.status.success(),
        "The guest is not built: {output:?}"
    );
    Ok(guest)
}

/// A launcher with this guest: options before, kernel arguments after `4 guest`.
fn launcher(lab: &Lab, options: &[&str], arguments: &[&str]) -> Result<Command> {
    // A guest that hangs is a failed claim, not a hung run.
    let mut command = lab.command("timeout");
    command
        .arg("60")
        .arg(machine::binary("launcher")?)
        .arg("--engine=lguest")
        .args(options)
        .arg("4")
        .arg(build(lab)?)
        .args(arguments)
        .stdin(Stdio::null());
    Ok(command)
}

fn run(lab: &Lab, options: &[&str], arguments: &[&str]) -> Result<Output> {
    ending::of(&mut launcher(lab, options, arguments)?)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).replace('\r', "")
}

fn a_guest_prints_and_powers_off() -> Result<()> {
    let lab = Lab::new()?;
    let output = run(&lab, &[], &["off"])?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(
        said(&output).contains("is up: 0 sectors of disk, no network card"),
        "{output:?}"
    );
    Ok(())
}

fn what_a_guest_writes_is_on_its_disk() -> Result<()> {
    let lab = Lab::new()?;
    let disk = lab.path("disk");
    let mut sectors = vec![0; 64 * 512];
    sectors[7 * 512..7 * 512 + 5].copy_from_slice(b"there");
    std::fs::write(&disk, &sectors)?;
    let option = format!("--block={}", disk.display());
    let output = run(
        &lab,
        &[&option],
        &["read=7", "write=63:here", "read=63", "off"],
    )?;
    ensure!(output.status.success(), "{output:?}");
    for line in [
        "sector 7 says 'there'",
        "sector 63 is written",
        "sector 63 says 'here'",
    ] {
        ensure!(said(&output).contains(line), "no '{line}' in {output:?}");
    }
    sectors[63 * 512..63 * 512 + 4].copy_from_slice(b"here");
    ensure!(
        std::fs::read(&disk)? == sectors,
        "The disk is not what was written"
    );
    Ok(())
}

/// A guest that stays until this goes.
struct Staying(Child);

impl Drop for Staying {
    fn drop(&mut self) {
        // `timeout` hands this on to the launcher; a SIGKILL it could not.
        let pid = Pid::from_raw(self.0.id().cast_signed());
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn two_guests_ping_each_other() -> Result<()> {
    let lab = Lab::new()?;
    let segment = format!("--sharenet={}", lab.segment("lan0").display());
    let mut command = launcher(&lab, &[&segment], &["ip=10.0.0.1"])?;
    let mut there = Staying(command.stdout(Stdio::piped()).spawn()?);
    let stdout = there.0.stdout.take().context("its output")?;
    let first = BufReader::new(stdout)
        .lines()
        .next()
        .context("it said nothing")??;
    ensure!(first.contains("is up"), "{first}");
    let output = run(
        &lab,
        &[&segment],
        &[
            "ip=10.0.0.2",
            "count=20",
            "interval=1",
            "size=1000",
            "ping=10.0.0.1",
            "off",
        ],
    )?;
    ensure!(
        said(&output).contains("ping: 20 of 20 answered"),
        "{output:?}"
    );
    Ok(())
}

fn a_guest_that_breaks_a_rule_dies_with_the_reason() -> Result<()> {
    let lab = Lab::new()?;
    for (misdeed, reason) in [
        ("hypercall", "Bad hypercall 99"),
        ("init", "second LGUEST_INIT"),
        ("gdt", "too many gdt entries"),
        ("gate", "bad IDT type"),
        ("ring", "bad stack segment"),
        ("stack", "bad stack page"),
        ("key", "bad DMA key"),
        ("oddkey", "bad DMA key"),
        ("block", "bad address"),
        ("piece", "bad DMA entry"),
        ("directory", "bad page directory entry"),
        ("cr3", "bad address"),
        ("nogate", "unhandled trap 6"),
        ("nostack", "bad stack"),
        ("queue", "Bad hypercall"),
    ] {
        let output = run(&lab, &[], &[&format!("misdeed={misdeed}"), "off"])?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(1) && error.contains(reason),
            "{misdeed}: {output:?}"
        );
    }
    Ok(())
}
