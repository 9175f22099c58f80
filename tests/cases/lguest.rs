//! The engine `lguest` with the guest of `examples/guest`: what it prints is what happened to it.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Output;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use system_tests::wait::PATIENCE;
use system_tests::{Claim, Guest, GuestBuilder, Lab, Namespace, Need, claim, ending, machine};

fn main() {
    system_tests::main(claims())
}

/// Those that need more than one engine are also run on hardware virtualisation, by `kvm.rs`.
pub fn claims() -> Vec<Claim> {
    const NEEDS: &[Need] = &[Need::TinyGuests];
    const BOUNDED: &[Need] = &[Need::TinyGuests, Need::Tool("timeout")];
    const BOTH: &[Need] = &[Need::TinyGuests, Need::Guests];
    const NETWORK: &[Need] = &[Need::TinyGuests, Need::Root, Need::Tool("unshare")];
    vec![
        claim(
            "a_guest_prints_and_powers_off",
            BOUNDED,
            prints_and_powers_off,
        ),
        claim(
            "what_a_guest_writes_is_on_its_disk",
            BOUNDED,
            writes_its_disk,
        ),
        claim(
            "two_guests_ping_each_other",
            NEEDS,
            two_guests_ping_each_other,
        ),
        claim(
            "a_tiny_guest_and_a_stock_kernel_ping_each_other",
            BOTH,
            a_tiny_guest_and_a_stock_kernel,
        ),
        claim(
            "a_tiny_guest_and_its_host_ping_each_other",
            NETWORK,
            a_tiny_guest_and_its_host,
        ),
        claim(
            "a_tiny_guest_sends_back_what_its_echo_port_gets",
            NETWORK,
            echo_sends_back,
        ),
        claim(
            "what_the_traffic_generator_sends_arrives_and_is_counted",
            NEEDS,
            traffic_arrives,
        ),
        claim(
            "a_spinning_guest_ends_at_the_first_signal",
            NEEDS,
            a_spinning_guest_ends,
        ),
        claim(
            "a_guest_that_breaks_a_rule_dies_with_the_reason",
            BOUNDED,
            a_guest_that_breaks_a_rule_dies,
        ),
        claim(
            "all_guests_of_the_hundred_answer_and_leave_nothing",
            &[Need::TinyGuests, Need::Tool("gcc"), Need::Tool("timeout")],
            the_hundred_answer,
        ),
    ]
}

/// Adds jobs, in the order in which they are done.
fn with<'a>(guest: GuestBuilder<'a>, jobs: &[&str]) -> GuestBuilder<'a> {
    jobs.iter()
        .fold(guest, |guest, job| guest.kernel_argument(job))
}

/// Runs a guest to its end. One that hangs is a failed claim, not a hung run.
fn run(guest: &GuestBuilder<'_>) -> Result<Output> {
    ending::of(&mut guest.command_after(&["timeout", "60"])?)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).replace('\r', "")
}

fn prints_and_powers_off() -> Result<()> {
    let lab = Lab::new()?;
    let output = run(&with(lab.tiny_guest("guest"), &["off"]))?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(
        said(&output).contains("is up: 0 sectors of disk, no network card"),
        "{output:?}"
    );
    Ok(())
}

fn writes_its_disk() -> Result<()> {
    let lab = Lab::new()?;
    let disk = lab.path("disk");
    let mut sectors = vec![0; 64 * 512];
    sectors[7 * 512..7 * 512 + 5].copy_from_slice(b"there");
    std::fs::write(&disk, &sectors)?;
    let guest = lab
        .tiny_guest("guest")
        .option(format!("--block={}", disk.display()));
    let output = run(&with(guest, &["read=7", "write=63:here", "read=63", "off"]))?;
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

/// A tiny guest on lan0, at 10.0.0.`number`, that has told it is up. It stays until it is dropped,
/// unless its jobs end it.
fn on_the_segment(lab: &Lab, number: u8, jobs: &[&str]) -> Result<Guest> {
    let guest = lab
        .tiny_guest(&format!("tiny{number}"))
        .option("--sharenet=lan0")
        .kernel_argument(&format!("ip=10.0.0.{number}"));
    let mut guest = with(guest, jobs).start()?;
    guest.prints("is up")?;
    Ok(guest)
}

fn two_guests_ping_each_other() -> Result<()> {
    let lab = Lab::new()?;
    let _there = on_the_segment(&lab, 1, &[])?;
    let jobs = ["count=20", "interval=1", "size=1000", "ping=10.0.0.1"];
    let mut here = on_the_segment(&lab, 2, &jobs)?;
    let answers = here.prints("ping: ")?;
    ensure!(answers.starts_with("20 of 20 answered"), "{answers}");
    Ok(())
}

/// A guest of 2007's kind and one of today's, each on its own engine.
fn a_tiny_guest_and_a_stock_kernel() -> Result<()> {
    let lab = Lab::new()?;
    let mut linux = lab
        .guest("linux")
        .option("--sharenet=lan0")
        .kernel_argument("eth0=10.0.0.2/24")
        .boot()?;
    pings_a_tiny_guest(&lab, &mut linux, "10.0.0.2")
}

/// `linux`, at this address on lan0, and a tiny guest, at 10.0.0.1, ping each other.
pub fn pings_a_tiny_guest(lab: &Lab, linux: &mut Guest, address: &str) -> Result<()> {
    let ping = format!("ping={address}");
    let jobs = ["count=3", "interval=100", "size=1000", &ping];
    let mut tiny = on_the_segment(lab, 1, &jobs)?;
    let answers = tiny.prints("ping: ")?;
    ensure!(answers.starts_with("3 of 3 answered"), "{answers}");
    linux.pings("10.0.0.1")
}

/// A tiny guest at 192.168.19.2, on a tap of this network.
fn on_a_tap(lab: &Lab, host: &Namespace, jobs: &[&str]) -> Result<Guest> {
    let guest = lab
        .tiny_guest("tiny")
        .inside(host)
        .option("--tunnet=192.168.19.1")
        .kernel_argument("ip=192.168.19.2");
    let mut guest = with(guest, jobs).start()?;
    guest.prints("is up")?;
    Ok(guest)
}

fn a_tiny_guest_and_its_host() -> Result<()> {
    let (lab, host) = (Lab::new()?, Namespace::new()?);
    let jobs = ["count=3", "interval=100", "size=1000", "ping=192.168.19.1"];
    let mut guest = on_a_tap(&lab, &host, &jobs)?;
    let answers = guest.prints("ping: ")?;
    ensure!(answers.starts_with("3 of 3 answered"), "{answers}");
    host.run("ping -n -c 3 -i 0.2 -W 5 192.168.19.2")?;
    drop(guest);
    ensure!(
        host.link_names()?.is_empty(),
        "The tap is still there: {:?}",
        host.links()?
    );
    Ok(())
}

/// The ports of RFC 862, and one where nobody listens.
const ECHO: u16 = 7;
const NOBODY: u16 = 8;

fn echo_sends_back() -> Result<()> {
    let (lab, host) = (Lab::new()?, Namespace::new()?);
    let _guest = on_a_tap(&lab, &host, &["echo"])?;
    host.within(|| {
        let socket = UdpSocket::bind((Ipv4Addr::new(192, 168, 19, 1), 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let guest = Ipv4Addr::new(192, 168, 19, 2);
        // No bytes, an odd number, and as many as a frame holds.
        for length in [0, 1, 7, 512, 1472] {
            let sent: Vec<u8> = (0..length).map(|n: usize| (n * 7 + length) as u8).collect();
            socket.send_to(b"not this one", (guest, NOBODY))?;
            socket.send_to(&sent, (guest, ECHO))?;
            let mut bytes = [0; 2000];
            let (count, from) = socket
                .recv_from(&mut bytes)
                .with_context(|| format!("Waiting for an echo of {length} bytes"))?;
            ensure!(from == (guest, ECHO).into(), "It came from {from}");
            ensure!(
                bytes[..count] == sent,
                "{count} other bytes came back than the {length} that were sent"
            );
        }
        Ok(())
    })
}

fn traffic_arrives() -> Result<()> {
    let lab = Lab::new()?;
    let mut sink = on_the_segment(&lab, 1, &["sink=2000"])?;
    let jobs = ["count=5000", "size=1000", "interval=0", "traffic=10.0.0.1"];
    let mut source = on_the_segment(&lab, 2, &jobs)?;
    let sent = source.prints("traffic: ")?;
    let arrived = sink.prints("sink: ")?;
    // "N datagrams, B bytes in T us, R kbit/s"; those that found no room were not sent.
    let count = |line: &str| line.split(" in ").next().map(String::from);
    ensure!(
        sent.starts_with(|first: char| ('1'..='9').contains(&first))
            && count(&sent) == count(&arrived),
        "Sent were {sent}, arrived are {arrived}"
    );
    Ok(())
}

fn a_spinning_guest_ends() -> Result<()> {
    let lab = Lab::new()?;
    for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let guest = lab
            .tiny_guest("spinning")
            // Longer than this waits: there is no power button on it, so no time is given for it.
            .option("--grace=3600")
            .option("--verbose");
        let mut guest = with(guest, &["misdeed=spin"]).start()?;
        guest.prints("misdeed: spin")?;
        guest.signal(signal)?;
        let ended = guest.ends()?;
        let errors = guest.errors();
        ensure!(
            ended.code() == Some(status) && errors.contains(signal.as_str()),
            "{signal} ended it with {ended}: {errors}"
        );
        ensure!(
            !errors.contains("power button is pressed"),
            "It has no power button: {errors}"
        );
    }
    Ok(())
}

fn a_guest_that_breaks_a_rule_dies() -> Result<()> {
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
        let misdeed = format!("misdeed={misdeed}");
        let output = run(&with(lab.tiny_guest("guest"), &[&misdeed, "off"]))?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(1) && error.contains(reason),
            "{misdeed}: {output:?}"
        );
    }
    Ok(())
}

/// The example, with fewer guests than it is named for.
fn the_hundred_answer() -> Result<()> {
    let lab = Lab::new()?;
    let launcher = machine::binary("launcher")?;
    let mut script = lab.command("timeout");
    script
        .arg("240")
        .arg(machine::repository().join("examples/hundred.sh"))
        .arg("20")
        .env(
            "BIN",
            launcher.parent().context("The launcher is in no folder")?,
        );
    let output = ending::of(&mut script)?;
    ensure!(
        output.status.success() && said(&output).contains("ping: 60 of 60 answered"),
        "{output:?}"
    );
    let left: Vec<_> = std::fs::read_dir(lab.path("tmp"))?.collect();
    ensure!(left.is_empty(), "Files are left: {left:?}");
    Ok(())
}
