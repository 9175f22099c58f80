//! Claims about guests on a segment: that it is Ethernet to them, whatever they do with it.

use anyhow::{Context, Result, ensure};
use lgswitch::frame::Offloads;
use pnet_base::MacAddr;
use pnet_packet::Packet;
use pnet_packet::ethernet::EtherTypes;
use pnet_packet::vlan::VlanPacket;
use system_tests::{Claim, Guest, Lab, Need, Wiretap, claim};

fn main() {
    system_tests::main(claims())
}

/// Also run on hardware virtualisation, by `kvm.rs`.
pub fn claims() -> Vec<Claim> {
    vec![
        claim(
            "two_guests_ping_each_other_over_ipv4_and_ipv6",
            &[Need::Guests],
            two_guests_ping_each_other,
        ),
        claim(
            "a_launcher_makes_the_segment_if_there_is_none",
            &[Need::Guests],
            a_launcher_makes_the_segment,
        ),
        claim(
            "broadcast_and_multicast_reach_every_port",
            &[Need::Guests],
            broadcast_and_multicast_reach_every_port,
        ),
        claim(
            "vlan_tags_cross_the_wire_intact",
            &[Need::Guests],
            vlan_tags_cross_the_wire_intact,
        ),
        claim(
            "frames_of_9000_bytes_cross_a_segment_made_for_them",
            &[Need::Guests],
            jumbo_frames_cross,
        ),
        claim(
            "a_guest_that_bridges_two_segments_lets_others_talk",
            &[Need::Guests],
            a_guest_that_bridges,
        ),
        claim(
            "a_port_does_not_hear_itself",
            &[Need::Guests],
            a_port_does_not_hear_itself,
        ),
        claim(
            "every_frame_is_counted_once",
            &[Need::Guests],
            every_frame_is_counted_once,
        ),
        claim(
            "two_ports_of_one_launcher_take_two_slots",
            &[Need::Guests],
            two_ports_of_one_launcher,
        ),
    ]
}

fn two_guests_ping_each_other() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    let (mut left, mut right) = lab.two_guests()?;
    ping_each_other(&mut left, &mut right)
}

/// The two guests of a lab do, over IPv4 and IPv6.
pub fn ping_each_other(left: &mut Guest, right: &mut Guest) -> Result<()> {
    for (guest, peer) in [(left, 2), (right, 1)] {
        guest.pings(&format!("10.0.0.{peer}"))?;
        guest.pings(&format!("fd00::{peer}"))?;
        ensure!(
            guest.run("/usr/bin/ping -n -c 1 -W 1 10.0.0.77")?.status != 0,
            "An address nobody has answers"
        );
    }
    Ok(())
}

fn a_launcher_makes_the_segment() -> Result<()> {
    let lab = Lab::new()?;
    let (mut left, _right) = lab.two_guests()?;
    ensure!(
        lab.segment("lan0").is_file(),
        "There is no file behind lan0"
    );
    left.pings("10.0.0.2")
}

fn broadcast_and_multicast_reach_every_port() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    let wiretap = Wiretap::on(&lab.segment("lan0"), Offloads::NONE)?;
    let (mut left, mut right) = lab.two_guests()?;
    let mac = left.mac("eth0")?;

    left.pings("10.0.0.2")?;
    wiretap.hears("an ARP request to everyone", |frame| {
        frame.ethernet().is_some_and(|frame| {
            frame.get_ethertype() == EtherTypes::Arp
                && frame.get_destination().is_broadcast()
                && frame.get_source() == mac
        })
    })?;

    left.pings("fd00::2")?;
    // RFC 4291, section 2.7.1: the solicited-node group of fd00::2; RFC 2464, section 7: its MAC.
    let group = MacAddr::new(0x33, 0x33, 0xff, 0x00, 0x00, 0x02);
    wiretap.hears("a neighbour solicitation", |frame| {
        frame
            .ethernet()
            .is_some_and(|frame| frame.get_destination() == group && frame.get_source() == mac)
    })?;

    // All nodes on this link answer, and that is how the right guest is known to have heard.
    let link_local = right
        .succeeds("ip -6 addr show dev eth0 scope link | sed -n 's/.*inet6 \\([^/]*\\).*/\\1/p'")?;
    let answer = left.run("/usr/bin/ping -n -c 3 -i 0.5 ff02::1%eth0")?;
    ensure!(
        answer.text.contains(link_local.trim()),
        "{link_local} does not answer to ff02::1:\n{}",
        answer.text
    );

    // And IPv4's: a ping of the subnet's broadcast address.
    right.succeeds("echo 0 >/proc/sys/net/ipv4/icmp_echo_ignore_broadcasts")?;
    let answer = left.run("/usr/bin/ping -n -b -c 2 -i 0.5 10.0.0.255")?;
    ensure!(
        answer.text.contains("from 10.0.0.2"),
        "10.0.0.2 does not answer to 10.0.0.255:\n{}",
        answer.text
    );
    Ok(())
}

fn vlan_tags_cross_the_wire_intact() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    let wiretap = Wiretap::on(&lab.segment("lan0"), Offloads::NONE)?;
    let (mut left, mut right) = lab.two_guests()?;
    let mac = left.mac("eth0")?;
    for (guest, number) in [(&mut left, 1), (&mut right, 2)] {
        guest.succeeds("ip link add link eth0 name vlan42 type vlan id 42")?;
        // Linux gives packets the priority 0 by default; another one shows that it arrives.
        guest.succeeds("vconfig set_egress_map vlan42 0 5")?;
        guest.succeeds(&format!(
            "ip addr add 10.42.0.{number}/24 dev vlan42 && ip link set vlan42 up"
        ))?;
    }
    left.pings("10.42.0.2")?;
    let heard = wiretap.hears("a ping with the tag 42", |frame| {
        frame.ethernet().is_some_and(|frame| {
            frame.get_ethertype() == EtherTypes::Vlan
                && frame.get_source() == mac
                && VlanPacket::new(frame.payload())
                    .is_some_and(|tag| tag.get_ethertype() == EtherTypes::Ipv4)
        })
    })?;
    let frame = heard.ethernet().context("No Ethernet frame")?;
    let tag = VlanPacket::new(frame.payload()).context("No tag")?;
    ensure!(
        tag.get_vlan_identifier() == 42 && tag.get_priority_code_point().0 == 5,
        "The tag is {tag:?}"
    );

    // A tagged packet of the full MTU makes a frame 4 bytes longer than an untagged one's.
    left.succeeds("/usr/bin/ping -n -c 1 -W 5 -M do -s 1472 10.42.0.2")?;
    wiretap.hears("a tagged frame of 1518 bytes", |frame| {
        frame.bytes.len() == 1518
    })?;
    Ok(())
}

fn jumbo_frames_cross() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0", "--mtu", "9000"])?;
    let wiretap = Wiretap::on(&lab.segment("lan0"), Offloads::NONE)?;
    let (mut left, mut right) = lab.two_guests()?;
    for guest in [&mut left, &mut right] {
        let mtu = guest.succeeds("cat /sys/class/net/eth0/mtu")?;
        ensure!(
            mtu.trim() == "9000",
            "The guest was not told of the segment's MTU: it has {mtu}"
        );
    }
    // 20 bytes of IPv4 header, 8 of ICMP's; `-M do`: not in fragments.
    left.succeeds("/usr/bin/ping -n -c 3 -i 0.2 -W 5 -M do -s 8972 10.0.0.2")?;
    wiretap.hears("a frame with a packet of 9000 bytes", |frame| {
        frame.bytes.len() == 9014
    })?;
    Ok(())
}

fn a_guest_that_bridges() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    lab.lgswitch(&["create", "lan1"])?;
    let mut middle = lab
        .guest("middle")
        .option("--sharenet=lan0")
        .option("--sharenet=lan1")
        .start()?;
    let start = |name, option: &str, number| {
        lab.guest(name)
            .option(option)
            .kernel_argument(&format!("eth0=10.0.0.{number}/24,fd00::{number}/64"))
            .start()
    };
    let mut left = start("left", "--sharenet=lan0", 1)?;
    let mut right = start("right", "--sharenet=lan1", 2)?;
    for guest in [&mut middle, &mut left, &mut right] {
        guest.booted()?;
    }
    ensure!(
        left.run("/usr/bin/ping -n -c 1 -W 1 10.0.0.2")?.status != 0,
        "The segments are not apart"
    );

    middle.succeeds("ip link add br0 type bridge")?;
    for link in ["eth0", "eth1", "br0"] {
        middle.succeeds(&format!("ip link set {link} up"))?;
    }
    middle.succeeds("ip link set eth0 master br0 && ip link set eth1 master br0")?;
    left.pings("10.0.0.2")?;
    right.pings("10.0.0.1")?;
    left.pings("fd00::2")?;

    // The bridging guest sends with addresses that are not its own, and TCP's large segments.
    left.serves_a_digest(7000)?;
    let sent = right.makes_a_file("/tmp/data", 2 << 20)?;
    let arrived = right.succeeds("nc 10.0.0.1 7000 </tmp/data")?;
    ensure!(sent == arrived, "Sent {sent}, arrived {arrived}");
    Ok(())
}

fn two_ports_of_one_launcher() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    let mut guest = lab
        .guest("both")
        .option("--sharenet=lan0")
        .option("--sharenet=lan0")
        .boot()?;
    let seen = lab.inspect("lan0")?;
    let ports = system_tests::inspect::held(&seen);
    ensure!(ports.len() == 2, "Two slots should be held: {seen}");
    for (port, link) in ports.iter().zip(["eth0", "eth1"]) {
        ensure!(
            port["pid"] == guest.pid(),
            "The slot is not the launcher's: {port}"
        );
        ensure!(
            port["mac"] == guest.mac(link)?.to_string(),
            "The slot's MAC is not {link}'s: {port}"
        );
    }

    // Each is a port of its own: what one sends, the other hears.
    guest.succeeds(
        "ip link set eth0 up && ip addr add 10.0.0.1/24 dev eth0 && ip link set eth1 up",
    )?;
    guest.succeeds("sleep 1; cat /sys/class/net/eth1/statistics/rx_packets >/tmp/before")?;
    guest.run("/usr/bin/ping -n -c 2 -i 0.2 -W 1 10.0.0.9")?;
    guest
        .succeeds("test $(cat /sys/class/net/eth1/statistics/rx_packets) -gt $(cat /tmp/before)")?;
    Ok(())
}

fn every_frame_is_counted_once() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    let (mut left, mut right) = lab.two_guests()?;
    left.pings("10.0.0.2")?;
    right.pings("fd00::1")?;
    is_counted(&lab, &mut left, &mut right)
}

/// Every frame is that the two guests of a lab have sent so far. Their links are down afterwards.
pub fn is_counted(lab: &Lab, left: &mut Guest, right: &mut Guest) -> Result<()> {
    // From now on nothing is sent: what the guests' kernels say has to be what the ports say.
    for guest in [&mut *left, right] {
        guest.succeeds("ip link set eth0 down")?;
    }
    let packets = |guest: &mut Guest, direction: &str| -> Result<u64> {
        let text = guest.succeeds(&format!(
            "cat /sys/class/net/eth0/statistics/{direction}_packets"
        ))?;
        text.trim()
            .parse()
            .with_context(|| format!("{direction}_packets of a guest is `{text}`"))
    };
    let sent = [packets(left, "tx")?, packets(right, "tx")?];
    let mut macs = [
        left.mac("eth0")?.to_string(),
        right.mac("eth0")?.to_string(),
    ];
    let seen = lab.inspect("lan0")?;
    let ports = system_tests::inspect::held(&seen);
    let port = |mac: &str| {
        ports
            .iter()
            .find(|port| port["mac"] == mac)
            .with_context(|| format!("No {mac} in {seen}"))
    };
    for (mac, sent) in macs.iter().zip(sent) {
        ensure!(
            port(mac)?["sent"]["frames"] == sent,
            "The guest {mac} has sent {sent} frames: {seen}"
        );
    }
    // With two ports, what one sends the other receives or drops.
    macs.reverse();
    for (mac, sent) in macs.iter().zip(sent) {
        let received = &port(mac)?["received"];
        let dropped: u64 = received["dropped"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(_, n)| n.as_u64())
            .sum();
        let frames = received["frames"].as_u64().context("No number of frames")?;
        ensure!(
            frames + dropped == sent,
            "The guest {mac} was sent {sent} frames: {seen}"
        );
    }
    Ok(())
}

fn a_port_does_not_hear_itself() -> Result<()> {
    let lab = Lab::new()?;
    let mut alone = lab
        .guest("alone")
        .option("--sharenet=lan0")
        .kernel_argument("eth0=10.0.0.1/24,fd00::1/64")
        .boot()?;
    // Broadcasts (who has 10.0.0.2?) and multicasts (fd00::2?), for longer than a sleeping port
    // may miss something.
    alone.fails("/usr/bin/ping -n -c 5 -i 0.5 -W 1 10.0.0.2")?;
    alone.fails("/usr/bin/ping -n -c 5 -i 0.5 -W 1 fd00::2")?;
    let heard = alone.succeeds("cat /sys/class/net/eth0/statistics/rx_packets")?;
    ensure!(
        heard.trim() == "0",
        "Alone on its segment, it heard {heard} frames"
    );
    Ok(())
}
