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
#[path = "lifecycle.rs"]
mod lifecycle;
#[expect(dead_code, reason = "it has a main of its own")]
#[path = "segment.rs"]
mod segment;
#[expect(dead_code, reason = "it has a main of its own")]
#[path = "tap.rs"]
mod tap;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::wait::{self, PATIENCE};
use system_tests::{Claim, Guest, Lab, Namespace, Need, archive, claim, ending, machine, process};

fn main() {
    let mut claims = vec![
        claim(
            "the_host_has_kvm_taps_vhost_and_a_slow_wire_for_who_wants_one",
            &[Need::Root],
            the_host_has_what_claims_need,
        ),
        claim(
            "a_stock_kernel_boots_on_kvm_without_being_asked_to_and_its_host_gets_back_what_it_frees",
            &[Need::Guests],
            a_stock_kernel_boots,
        ),
        claim(
            "a_linked_kernel_boots_with_little_memory",
            &[Need::Guests, Need::Tool("lz4")],
            a_linked_kernel_boots,
        ),
        claim(
            "each_processor_has_its_queues_of_a_tap_and_the_kernel_serves_them",
            &[Need::Guests, Need::Root],
            each_processor_has_its_queues,
        ),
        claim(
            "a_triple_fault_ends_it_with_1_and_the_registers_of_all_processors_are_told",
            &[Need::Guests],
            a_triple_fault_ends_it,
        ),
        claim(
            "guests_of_three_engines_ping_each_other_every_frame_is_counted_and_a_killed_one_leaves_nothing",
            &[
                Need::Guests,
                Need::TinyGuests,
                Need::Tool("qemu-system-x86_64"),
            ],
            guests_on_a_segment,
        ),
    ];
    claims.extend(of(
        &console::claims(),
        &["three_interrupts_end_it_with_2_and_restore_the_terminal"],
    ));
    claims.extend(of(
        &lifecycle::claims(),
        &[
            "a_signal_presses_the_power_button_and_a_guest_that_heeds_it_ends_with_0",
            "a_guest_that_does_not_heed_it_is_ended_after_the_grace",
            "a_guest_that_reboots_starts_again_and_one_that_panics_ends",
        ],
    ));
    claims.extend(devices::claims());
    claims.extend(of(
        &tap::claims(),
        &[
            "a_guest_on_a_bridge_reaches_the_lan_and_tcp_arrives_intact_both_ways",
            "guests_on_macvtaps_reach_each_other_and_the_lan_and_leave_nothing",
        ],
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
    what_it_frees(&mut guest)?;
    ensure!(guest.power_off()?.code() == Some(0), "{}", guest.errors());
    Ok(())
}

fn a_linked_kernel_boots() -> Result<()> {
    let lab = Lab::new()?;
    let (kernel, initrd) = (lab.path("vmlinux"), lab.path("initrd"));
    system_tests::vmlinux::unpack(&machine::image()?.kernel, &kernel)?;
    // Debian's kernel takes 46 MiB of them; the initramfs of other guests would not fit, nor its tracer's files.
    let init =
        "#!/bin/busybox sh\n/bin/busybox echo The kernel is linked\n/bin/busybox poweroff -f\n";
    archive::of_busybox(init, &initrd)?;
    let mut command = lab.command(machine::binary("launcher")?);
    let output = ending::of(
        command
            .arg("--initrd")
            .args([&initrd, Path::new("64"), &kernel])
            .args(["quiet", "initcall_blacklist=tracer_init_tracefs"]),
    )?;
    ensure!(
        output.status.code() == Some(0)
            && String::from_utf8_lossy(&output.stdout).contains("The kernel is linked"),
        "It ended so: {output:?}"
    );
    Ok(())
}

fn each_processor_has_its_queues() -> Result<()> {
    // In the test host, four die of the emulator's fault too often; see `test_host`.
    const CPUS: usize = 2;
    let lab = Lab::new()?;
    let host = Namespace::new()?;
    let mut guest = lab
        .guest("guest")
        .inside(&host)
        .option(format!("--cpus={CPUS}"))
        .option("--tunnet=192.168.19.1")
        .kernel_argument("eth0=192.168.19.2/24")
        .boot()?;
    let online = guest.succeeds("cat /sys/devices/system/cpu/online")?;
    ensure!(online.trim() == "0-1", "Processors online: {online}");
    // All of them run, and hear interrupts of each other.
    guest.succeeds("for cpu in 1 2; do taskset $cpu sh -c 'seq 100 | tail -n1'; done")?;
    let queues = guest.succeeds("ls /sys/class/net/eth0/queues")?;
    ensure!(
        queues.matches("rx-").count() == CPUS && queues.matches("tx-").count() == CPUS,
        "The card's queues: {queues}"
    );
    guest.succeeds(&format!("ethtool -L eth0 combined {CPUS}"))?;
    host.run("ping -n -c 3 -i 0.2 -W 5 192.168.19.2")?;
    guest.pings("192.168.19.1")?;

    if Path::new("/dev/vhost-net").exists() {
        let pumps = open_files(guest.pid(), "/dev/vhost-net")?;
        ensure!(pumps == CPUS, "{pumps} queues are served by the kernel");
    }
    ensure!(guest.power_off()?.code() == Some(0), "{}", guest.errors());
    Ok(())
}

/// How often a process has opened this file.
fn open_files(pid: u32, path: &str) -> Result<usize> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).context("Reading a launcher's files")?;
    // What is closed meanwhile is not it.
    let targets = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    Ok(targets.filter(|target| target == Path::new(path)).count())
}

/// The host gets it back, and the guest can have it again.
fn what_it_frees(guest: &mut Guest) -> Result<()> {
    const FILLED: u64 = 64;
    // What its kernel used to start comes back first, by and by.
    let before = settled(guest.pid())?;
    guest.succeeds(&format!(
        "dd if=/dev/zero of=/tmp/filled bs=1M count={FILLED}"
    ))?;
    let filled = resident(guest.pid())?;
    // Not all: some of the pages the kernel had used before.
    ensure!(
        filled >= before + FILLED / 2,
        "{FILLED} MiB of a guest's memory make {before} MiB {filled}"
    );
    guest.succeeds("rm /tmp/filled")?;
    wait::until_true("the host to have its memory back", PATIENCE, || {
        Ok(resident(guest.pid())? + FILLED * 3 / 4 <= filled)
    })?;
    guest.succeeds(&format!(
        "dd if=/dev/zero of=/tmp/filled bs=1M count={FILLED}"
    ))?;
    Ok(())
}

/// The same once it has changed by no more than one in three seconds: longer than a guest keeps free pages to
/// itself (two seconds, `mm/page_reporting.c`).
fn settled(pid: u32) -> Result<u64> {
    let mut last = resident(pid)?;
    wait::until("its memory to settle", PATIENCE, || {
        std::thread::sleep(Duration::from_secs(3));
        let before = std::mem::replace(&mut last, resident(pid)?);
        Ok((last.abs_diff(before) <= 1).then_some(last))
    })
}

/// MiB of this process that are in memory.
fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("The launcher")?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"))
        .context("It takes no memory")?;
    Ok(kib.trim().parse::<u64>()? / 1024)
}

fn a_triple_fault_ends_it() -> Result<()> {
    let lab = Lab::new()?;
    let mut guest = lab
        .guest("guest")
        .option("--verbose")
        .option("--cpus=2")
        .option("--on-reset=reboot")
        .kernel_argument("reboot=triple")
        .boot()?;
    // Such a kernel resets the machine by a triple fault, and this way does not announce it.
    guest.console.send(b"echo b >/proc/sysrq-trigger\n")?;
    let status = guest.ends()?;
    let errors = guest.errors();
    ensure!(
        status.code() == Some(1) && errors.contains("triple fault"),
        "It ended with {status}: {errors}"
    );
    for cpu in 0..2 {
        ensure!(
            errors.contains(&format!("cpu {cpu}: rip 0x")),
            "The registers of processor {cpu} are missing: {errors}"
        );
    }
    Ok(())
}

fn guests_on_a_segment() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    let (mut left, mut right) = lab.two_guests()?;
    segment::ping_each_other(&mut left, &mut right)?;
    segment::is_counted(&lab, &mut left, &mut right)?;

    let processes = left.processes()?;
    left.kill()?;
    process::gone(&processes)?;
    let seen = lab.inspect("lan0")?;
    ensure!(
        system_tests::inspect::held(&seen).len() == 1,
        "Its slot is still held: {seen}"
    );
    // Guests of the two other engines take its place, and one its address.
    let mut third = on_engine_qemu(&lab)?;
    right.succeeds("ip link set eth0 up")?;
    lguest::pings_a_tiny_guest(&lab, &mut right, "10.0.0.2")?;
    third.booted()?;
    lguest::pings_a_tiny_guest(&lab, &mut third, "10.0.0.3")?;
    third.pings("10.0.0.2")?;
    right.pings("10.0.0.3")
}

/// A guest of the engine `qemu` at 10.0.0.3 on lan0, which boots while the caller goes on. In the test host QEMU would
/// emulate on an emulated processor, for tens of minutes: what the engine runs is a script, which has KVM run the guest.
fn on_engine_qemu(lab: &Lab) -> Result<Guest> {
    const SCRIPT: &str = "#!/bin/sh
for word; do
    shift
    case $word in tcg) word=kvm ;; max) word=host ;; esac
    set -- \"$@\" \"$word\"
done
PATH=${PATH#*:} exec qemu-system-x86_64 \"$@\"
";
    let folder = lab.path("programs");
    let script = folder.join("qemu-system-x86_64");
    fs::create_dir(&folder).context("Making a folder for a script")?;
    fs::write(&script, SCRIPT).context("Writing a script")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let path = std::env::var("PATH").context("There is no $PATH")?;
    lab.guest("third")
        .option("--engine=qemu")
        .option("--sharenet=lan0")
        .kernel_argument("eth0=10.0.0.3/24")
        .by(&["env", &format!("PATH={}:{path}", folder.display())])
        .start()
}
