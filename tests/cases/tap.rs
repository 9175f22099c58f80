//! Claims about guests on taps: the host, its bridges, and the LAN behind them.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::wait::{PATIENCE, until_true};
use system_tests::{Claim, Guest, Lab, Namespace, Need, claim};

fn main() {
    system_tests::main(claims())
}

/// Also run on hardware virtualisation, by `kvm.rs`.
pub fn claims() -> Vec<Claim> {
    const NEEDS: &[Need] = &[Need::Guests, Need::Root];
    vec![
        claim(
            "the_hosts_end_of_a_tunnet_has_its_address",
            NEEDS,
            the_hosts_end_has_its_address,
        ),
        claim(
            "a_guest_on_a_bridge_reaches_the_lan_and_tcp_arrives_intact_both_ways",
            &[Need::Guests, Need::Root, Need::Tool("busybox")],
            a_guest_on_a_bridge,
        ),
        claim(
            "guests_on_macvtaps_reach_each_other_and_the_lan_and_leave_nothing",
            &[Need::Guests, Need::Root, Need::Macvtaps],
            guests_on_macvtaps,
        ),
        claim(
            "a_guest_between_segment_and_bridge_routes",
            NEEDS,
            a_guest_between_segment_and_bridge,
        ),
    ]
}

/// The one link in `host` that is a tap.
fn the_tap(host: &Namespace) -> Result<Value> {
    let links = host.links()?;
    links
        .iter()
        .find(|link| link["linkinfo"]["info_kind"] == "tun")
        .cloned()
        .with_context(|| format!("There is no tap among {links:?}"))
}

fn the_hosts_end_has_its_address() -> Result<()> {
    let lab = Lab::new()?;
    let host = Namespace::new()?;
    let mut guest = lab
        .guest("guest")
        .inside(&host)
        .option("--tunnet=192.168.19.1")
        .kernel_argument("eth0=192.168.19.2/24")
        .boot()?;
    let tap = the_tap(&host)?;
    let flags = tap["flags"].as_array().cloned().unwrap_or_default();
    ensure!(flags.contains(&"UP".into()), "The tap is not up: {tap}");
    let addresses = tap["addr_info"].as_array().cloned().unwrap_or_default();
    ensure!(
        addresses
            .iter()
            .any(|address| address["local"] == "192.168.19.1" && address["prefixlen"] == 24),
        "The tap has not the address 192.168.19.1/24: {tap}"
    );
    guest.pings("192.168.19.1")?;
    host.run("ping -n -c 3 -i 0.2 -W 5 192.168.19.2")?;

    ensure!(
        guest.power_off()?.success(),
        "Power-off is no success: {}",
        guest.errors()
    );
    ensure!(
        host.link_names()?.is_empty(),
        "The tap is still there: {:?}",
        host.links()?
    );
    Ok(())
}

/// A host with a bridge, and behind it a LAN with one more host, 10.7.0.1.
fn bridged_lan() -> Result<(Namespace, Namespace)> {
    let (host, lan) = (Namespace::new()?, Namespace::new()?);
    host.run("ip link add br0 type bridge")?;
    host.run("ip link set br0 up")?;
    host.cable("lan0", &lan, "eth0")?;
    host.run("ip link set lan0 master br0")?;
    lan.run("ip address add 10.7.0.1/24 dev eth0")?;
    lan.run("ip address add fd07::1/64 dev eth0 nodad")?;
    Ok((host, lan))
}

fn guests_on_macvtaps() -> Result<()> {
    let lab = Lab::new()?;
    let (host, lan) = (Namespace::new()?, Namespace::new()?);
    host.cable("lan0", &lan, "eth0")?;
    lan.run("ip address add 10.7.0.1/24 dev eth0")?;
    lan.run("ip address add fd07::1/64 dev eth0 nodad")?;
    let guest = |name, number| {
        lab.guest(name)
            .inside(&host)
            .option("--tunnet=macvtap:lan0")
            .kernel_argument(&format!("eth0=10.7.0.{number}/24,fd07::{number}/64"))
            .start()
    };
    let (mut left, mut right) = (guest("left", 2)?, guest("right", 3)?);
    left.booted()?;
    right.booted()?;
    left.pings("10.7.0.3")?;
    left.pings("fd07::3")?;
    right.pings("10.7.0.1")?;
    right.pings("fd07::1")?;
    lan.run("ping -n -c 3 -i 0.2 -W 5 10.7.0.2")?;
    // Large segments and their checksums, on their way out and back.
    let digest = left.makes_a_file("/tmp/data", SENT)?;
    left.serves_a_file(7001, "/tmp/data")?;
    let received = right.succeeds("nc 10.7.0.2 7001 </dev/null | sha256sum")?;
    ensure!(
        received.trim() == digest.trim(),
        "Sent {digest}, arrived {received}"
    );

    ensure!(
        host.link_names()? == ["lan0"],
        "The host should see no macvtap: {:?}",
        host.link_names()?
    );
    // What it sees is that its link listens to every group for them.
    let carries = || Ok::<_, anyhow::Error>(host.links()?[0]["allmulti"].clone());
    ensure!(carries()? == 2, "lan0 carries {}", carries()?);
    left.kill()?;
    until_true("a killed guest's macvtap to go", PATIENCE, || {
        Ok(carries()? == 1)
    })?;
    ensure!(right.power_off()?.success(), "{}", right.errors());
    until_true("the other's to go", PATIENCE, || Ok(carries()? == 0))
}

fn a_guest_on_a_bridge() -> Result<()> {
    let lab = Lab::new()?;
    let (host, lan) = bridged_lan()?;
    let mut guest = lab
        .guest("guest")
        .inside(&host)
        .option("--tunnet=bridge:br0")
        .kernel_argument("eth0=10.7.0.2/24,fd07::2/64")
        .boot()?;
    let tap = the_tap(&host)?;
    ensure!(
        tap["master"] == "br0",
        "The tap is no port of the bridge: {tap}"
    );
    guest.pings("10.7.0.1")?;
    guest.pings("fd07::1")?;
    lan.run("ping -n -c 3 -i 0.2 -W 5 10.7.0.2")?;
    tcp_arrives_intact(&lab, &mut guest, &lan)?;
    ensure!(
        guest.power_off()?.success(),
        "Power-off is no success: {}",
        guest.errors()
    );
    let mut names = host.link_names()?;
    names.sort();
    ensure!(
        names == ["br0", "lan0"],
        "What was there, and only that, should be left: {names:?}"
    );
    Ok(())
}

/// Bytes that are sent: some dozens of the largest segments. Emulated guests take seconds for their digest.
const SENT: usize = 2 << 20;

/// Between the guest at 10.7.0.2 and a host of the LAN, both ways.
fn tcp_arrives_intact(lab: &Lab, guest: &mut Guest, lan: &Namespace) -> Result<()> {
    let digest = guest.makes_a_file("/tmp/data", SENT)?;
    guest.serves_a_file(7001, "/tmp/data")?;
    // From the guest: its checksums and large segments, finished on the host's side of the tap.
    let shell = "busybox timeout 60 busybox nc 10.7.0.2 7001 </dev/null | sha256sum";
    let output = lan.command("sh").args(["-c", shell]).output()?;
    let received = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(received == digest, "Sent {digest}, arrived {received}");

    // To the guest: the host's large segments.
    guest.serves_a_digest(7002)?;
    let data = lab.path("data");
    std::fs::write(
        &data,
        (0..SENT as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect::<Vec<_>>(),
    )?;
    let shell = format!(
        "sha256sum <{0}; busybox nc 10.7.0.2 7002 <{0}",
        data.display()
    );
    let output = lan.command("sh").args(["-c", &shell]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<_> = text.lines().collect();
    ensure!(
        lines.len() == 2 && lines[0] == lines[1],
        "What was sent, and what arrived:\n{text}"
    );
    Ok(())
}

fn a_guest_between_segment_and_bridge() -> Result<()> {
    let lab = Lab::new()?;
    let (host, lan) = bridged_lan()?;
    let mut router = lab
        .guest("router")
        .inside(&host)
        .option("--sharenet=lan1")
        .option("--tunnet=bridge:br0")
        .kernel_argument("eth0=10.0.0.1/24")
        .kernel_argument("eth1=10.7.0.2/24")
        .start()?;
    let mut inner = lab
        .guest("inner")
        .option("--sharenet=lan1")
        .kernel_argument("eth0=10.0.0.2/24")
        .start()?;
    router.booted()?;
    inner.booted()?;
    router.succeeds("echo 1 >/proc/sys/net/ipv4/ip_forward")?;
    inner.succeeds("ip route add default via 10.0.0.1")?;
    lan.run("ip route add 10.0.0.0/24 via 10.7.0.2")?;
    inner.pings("10.7.0.1")?;
    lan.run("ping -n -c 3 -i 0.2 -W 5 10.0.0.2")?;
    router.power_off()?;
    until_true("the tap to go", PATIENCE, || {
        Ok(!host
            .link_names()?
            .iter()
            .any(|name| name.starts_with("tap")))
    })
}
