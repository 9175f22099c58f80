//! Claims about guests on hardware virtualisation, and about the machine they are tested on where
//! this one has none ([`system_tests::test_host`]).
//!
//! What a guest must be whatever its engine is claimed in the other files; here the same claims
//! are tested on the engine `kvm`, which is what the launcher takes on such a machine.

#[expect(dead_code, reason = "it has a main of its own")]
#[path = "console.rs"]
mod console;
#[expect(dead_code, reason = "it has a main of its own")]
#[path = "devices.rs"]
mod devices;
#[expect(dead_code, reason = "it has a main of its own")]
#[path = "lguest.rs"]
mod lguest;
#[expect(dead_code, reason = "it has a main of its own")]
#[path = "segment.rs"]
mod segment;
#[expect(dead_code, reason = "it has a main of its own")]
#[path = "tap.rs"]
mod tap;

use std::path::Path;

use anyhow::{Result, ensure};
use system_tests::{Claim, Lab, Namespace, Need, archive, claim, ending, machine, process};

fn main() {
    let mut claims = vec![
        claim(
            "the_host_has_kvm_taps_vhost_and_a_slow_wire_for_who_wants_one",
            &[Need::Root],
            the_host_has_what_claims_need,
        ),
        claim(
            "a_stock_kernel_boots_on_kvm_without_being_asked_to",
            &[Need::Guests],
            a_stock_kernel_boots,
        ),
        claim(
            "a_linked_kernel_boots_with_little_memory",
            &[Need::Guests, Need::Tool("lz4")],
            a_linked_kernel_boots,
        ),
        claim(
            "a_guest_has_as_many_processors_as_asked_for",
            &[Need::Guests],
            a_guest_has_many_processors,
        ),
        claim(
            "a_killed_launcher_leaves_no_process_and_no_slot",
            &[Need::Guests],
            a_killed_launcher_leaves_nothing,
        ),
    ];
    claims.extend(of(
        &console::claims(),
        &[
            "power_off_ends_the_launcher_with_0",
            "a_kernel_panic_ends_it_with_1_and_says_why",
            "three_interrupts_end_it_with_2_and_restore_the_terminal",
        ],
    ));
    claims.extend(devices::claims());
    claims.extend(of(
        &segment::claims(),
        &[
            "two_guests_ping_each_other_over_ipv4_and_ipv6",
            "every_frame_is_counted_once",
        ],
    ));
    claims.extend(of(
        &tap::claims(),
        &[
            "a_guest_on_a_bridge_reaches_the_lan",
            "tcp_over_a_tap_arrives_intact_both_ways",
        ],
    ));
    claims.extend(of(
        &lguest::claims(),
        &["a_tiny_guest_and_a_stock_kernel_ping_each_other"],
    ));
    system_tests::test_host::main(claims)
}

/// Those of `claims` with these names: each guest takes a while to boot in the test host, and what
/// is the switch's affair needs no engine of its own.
fn of(claims: &[Claim], names: &[&str]) -> Vec<Claim> {
    let chosen: Vec<Claim> = claims
        .iter()
        .filter(|claim| names.contains(&claim.name))
        .copied()
        .collect();
    assert_eq!(chosen.len(), names.len(), "A claim was renamed: {names:?}");
    chosen
}

fn the_host_has_what_claims_need() -> Result<()> {
    for device in ["/dev/kvm", "/dev/net/tun", "/dev/vhost-net"] {
        ensure!(Path::new(device).exists(), "There is no {device}");
    }
    let (here, there) = (Namespace::new()?, Namespace::new()?);
    here.cable("port0", &there, "port1")?;
    here.run("ip address add 10.0.0.1/24 dev port0")?;
    there.run("ip address add 10.0.0.2/24 dev port1")?;
    here.run("tc qdisc add dev port0 root netem delay 300ms")?;
    let answer = here.run("ping -n -c 2 -i 0.5 -W 10 10.0.0.2")?;
    let milliseconds = answer
        .split("time=")
        .nth(1)
        .and_then(|rest| rest.split(['.', ' ']).next()?.parse::<u32>().ok());
    ensure!(
        milliseconds.is_some_and(|milliseconds| milliseconds >= 300),
        "A wire that delays by 300 ms does not: {answer}"
    );
    Ok(())
}

fn a_stock_kernel_boots() -> Result<()> {
    let lab = Lab::new()?;
    let mut guest = lab.guest("guest").option("--verbose").boot()?;
    ensure!(
        guest.errors().contains("engine kvm, because"),
        "It does not say that it took kvm: {}",
        guest.errors()
    );
    // What the guest's kernel found underneath it.
    guest.succeeds("dmesg | grep 'Hypervisor detected: KVM'")?;
    guest.succeeds(
        "test $(cat /sys/devices/system/clocksource/*/current_clocksource) = kvm-clock",
    )?;
    ensure!(guest.power_off()?.code() == Some(0), "{}", guest.errors());
    Ok(())
}

fn a_linked_kernel_boots() -> Result<()> {
    let lab = Lab::new()?;
    let (kernel, initrd) = (lab.path("vmlinux"), lab.path("initrd"));
    system_tests::vmlinux::unpack(&machine::image()?.kernel, &kernel)?;
    // A kernel of Debian takes 62 MiB until it is up; the initramfs of other guests would not fit.
    let init =
        "#!/bin/busybox sh\n/bin/busybox echo The kernel is linked\n/bin/busybox poweroff -f\n";
    archive::of_busybox(init, &initrd)?;
    let mut command = lab.command(machine::binary("launcher")?);
    let output = ending::of(
        command
            .arg("--initrd")
            .args([&initrd, Path::new("96"), &kernel])
            .arg("quiet"),
    )?;
    ensure!(
        output.status.code() == Some(0)
            && String::from_utf8_lossy(&output.stdout).contains("The kernel is linked"),
        "It ended so: {output:?}"
    );
    Ok(())
}

fn a_guest_has_many_processors() -> Result<()> {
    let lab = Lab::new()?;
    let mut guest = lab.guest("guest").option("--cpus=2").boot()?;
    let online = guest.succeeds("cat /sys/devices/system/cpu/online")?;
    ensure!(online.trim() == "0-1", "Processors online: {online}");
    // Both run, and both hear interrupts of each other.
    guest.succeeds(
        "taskset 1 sh -c 'seq 1000 | tail -n1' && taskset 2 sh -c 'seq 1000 | tail -n1'",
    )?;
    ensure!(guest.power_off()?.code() == Some(0), "{}", guest.errors());
    Ok(())
}

fn a_killed_launcher_leaves_nothing() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    let mut guest = lab.guest("guest").option("--sharenet=lan0").boot()?;
    let processes = guest.processes()?;
    guest.kill()?;
    process::gone(&processes)?;
    let seen = lab.inspect("lan0")?;
    ensure!(
        system_tests::inspect::held(&seen).is_empty(),
        "Its slot is still held: {seen}"
    );
    Ok(())
}
