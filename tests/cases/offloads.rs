//! Claims about offloads between those who do not take the same: whatever a sender leaves undone, its
//! receiver gets what it can take, and a capture shows what a plain wire would have carried.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lgswitch::VnetHeader;
use lgswitch::frame::Offloads;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use system_tests::machine::{self, binary};
use system_tests::plug::Plug;
use system_tests::qemu::{Card, Plugged};
use system_tests::wait::{self, PATIENCE};
use system_tests::{Guest, Lab, Namespace, Need, Wiretap, claim};

/// Large UDP datagrams pass taps since this one.
const UDP: Need = Need::Kernel(6, 2);

fn main() {
    const NEEDS: &[Need] = &[Need::Binaries, Need::Root, UDP];
    const PAIRS: &[Need] = &[
        Need::Guests,
        Need::Root,
        UDP,
        Need::Tool("qemu-system-x86_64"),
        Need::Tool("tshark"),
        Need::Tool("busybox"),
    ];
    system_tests::main(vec![
        claim(
            "udp_to_be_cut_crosses_whole_to_who_cuts_it_and_in_datagrams_to_who_does_not",
            NEEDS,
            udp_to_be_cut_crosses,
        ),
        claim("every_card_reaches_every_other_card", PAIRS, every_pair),
    ])
}

/// Bytes of a datagram, of several of which the kernel is handed one large one.
const DATAGRAM: usize = 1400;

/// What makes 30 datagrams.
fn datagrams() -> Vec<u8> {
    (0..29 * DATAGRAM + 100)
        .map(|i| ((i * i) >> 7) as u8)
        .collect()
}

/// Sends bytes from `host`, at once, that are to be cut into datagrams.
fn sends(host: &Namespace, to: &str, bytes: &[u8]) -> Result<()> {
    host.within(|| {
        let socket = UdpSocket::bind("[::]:0").or_else(|_| UdpSocket::bind("0.0.0.0:0"))?;
        let size = i32::try_from(DATAGRAM)?;
        setsockopt(&socket, sockopt::UdpGsoSegment, &size).context("UDP_SEGMENT")?;
        socket
            .send_to(bytes, to)
            .with_context(|| format!("Sending to {to}"))
    })?;
    Ok(())
}

fn udp_to_be_cut_crosses() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    let (left, right) = (Namespace::new()?, Namespace::new()?);
    let addresses = |n: u8| [format!("10.0.0.{n}/24"), format!("fd00::{n}/64")];
    let _plugs = [
        Plug::tap(&lab, "lan0", &left, "t0", &addresses(1))?,
        Plug::tap(&lab, "lan0", &right, "t0", &addresses(2))?,
    ];
    let whole = Wiretap::on(&lab.segment("lan0"), Offloads::ALL)?;
    let cut = Wiretap::on(&lab.segment("lan0"), Offloads::NONE)?;
    let sent = datagrams();
    for (address, headers) in [("10.0.0.2:7000", 42), ("[fd00::2]:7000", 62)] {
        // An address that is new to its host may not be used yet.
        let socket = wait::until("an address to be usable", PATIENCE, || {
            right.within(|| Ok(UdpSocket::bind(address).ok()))
        })?;
        // What waits too long for its receiver's address to be resolved is dropped, as datagrams may be.
        socket.set_read_timeout(Some(PATIENCE / 100))?;
        wait::until("a datagram to arrive", PATIENCE, || {
            sends(&left, address, &[0])?;
            Ok(socket.recv(&mut [0]).ok())
        })?;
        socket.set_read_timeout(Some(PATIENCE))?;
        sends(&left, address, &sent)?;

        let mut got = Vec::new();
        let mut buffer = [0; 2 * DATAGRAM];
        while got.len() < sent.len() {
            let length = socket
                .recv(&mut buffer)
                .with_context(|| format!("{} of {} bytes came", got.len(), sent.len()))?;
            if got.is_empty() && length == 1 {
                continue; // another of the first ones
            }
            ensure!(
                length == DATAGRAM.min(sent.len() - got.len()),
                "A datagram of {length} bytes"
            );
            got.extend_from_slice(&buffer[..length]);
        }
        ensure!(got == sent, "What came is not what was sent");

        whole.hears("all of it in one frame, to be cut", |frame| {
            frame.header.gso_type == VnetHeader::GSO_UDP_L4
                && usize::from(frame.header.gso_size) == DATAGRAM
                && frame.bytes.len() == headers + sent.len()
                && frame.bytes.ends_with(&sent)
        })?;
        for piece in sent.chunks(DATAGRAM) {
            cut.hears("each datagram in a frame of its own", |frame| {
                !frame.header.is_unfinished()
                    && frame.bytes.len() == headers + piece.len()
                    && frame.bytes.ends_with(piece)
            })?;
        }
    }
    Ok(())
}

/// Kinds of cards: what QEMU is told of them.
const KINDS: [(&str, &str); 5] = [
    ("takes all", ""),
    ("merges no buffers", "mrg_rxbuf=off"),
    ("cuts IPv4 alone", "host_tso6=off,guest_tso6=off"),
    (
        "sums alone",
        "host_tso4=off,host_tso6=off,host_ecn=off,guest_tso4=off,guest_tso6=off,guest_ecn=off",
    ),
    (
        "takes nothing",
        "csum=off,gso=off,host_tso4=off,host_tso6=off,host_ecn=off,\
         guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,mrg_rxbuf=off",
    ),
];
/// The host's tap among the cards that send.
const TAP: usize = KINDS.len();
/// Bytes that go from each to each.
const LENGTH: usize = 200_000;

/// The network between what sends as `from` and the card `to`, in which `end` is 1 or 2.
fn addresses(from: usize, to: usize, end: u8) -> [String; 2] {
    // From 1 on: there is only one way to write them.
    let (from, to) = (from + 1, to + 1);
    [
        format!("10.{from}.{to}.{end}"),
        format!("fd00:{from}:{to}::{end}"),
    ]
}

/// With their lengths of prefix.
fn with_prefixes([v4, v6]: [String; 2]) -> [String; 2] {
    [v4 + "/24", v6 + "/64"]
}

/// A guest with a card of each kind.
fn guest(lab: &Lab, name: &str, number: usize) -> Result<Plugged> {
    let cards: Vec<Card> = (0..KINDS.len())
        .map(|kind| Card {
            mac: format!("52:54:00:00:{number:02x}:{kind:02x}"),
            pairs: 1,
            properties: KINDS[kind].1,
        })
        .collect();
    let up: Vec<String> = (0..cards.len()).map(|i| format!("eth{i}=up")).collect();
    Plugged::start(lab, name, "lan0", 1, &cards, &up.join(" "))
}

/// Gives each card an address in the network it shares with each of `others`.
fn is_addressed(guest: &mut Guest, networks: &[(usize, usize, usize)], end: u8) -> Result<()> {
    // All cards are on one wire; each answers for its own addresses alone.
    guest.succeeds("echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore")?;
    for &(card, from, to) in networks {
        for address in with_prefixes(addresses(from, to, end)) {
            guest.succeeds(&format!("ip address add {address} dev eth{card}"))?;
        }
    }
    Ok(())
}

fn every_pair() -> Result<()> {
    let lab = Lab::new()?;
    // Twelve ports, and room for what a burst makes when it is cut.
    lab.lgswitch(&["create", "lan0"])?;
    let host = Namespace::new()?;
    let mut left = guest(&lab, "left", 1)?;
    let mut right = guest(&lab, "right", 2)?;
    let taps: Vec<String> = (0..KINDS.len())
        .flat_map(|to| with_prefixes(addresses(TAP, to, 1)))
        .collect();
    let _tap = Plug::tap(&lab, "lan0", &host, "t0", &taps)?;
    let (left, right) = (&mut left.guest, &mut right.guest);
    left.booted()?;
    right.booted()?;
    let kinds = || 0..KINDS.len();
    let pairs = |from: usize| kinds().map(move |to| (from, to));
    let sending: Vec<_> = kinds().flat_map(pairs).map(|(i, j)| (i, i, j)).collect();
    let receiving: Vec<_> = (0..=TAP).flat_map(pairs).map(|(i, j)| (j, i, j)).collect();
    is_addressed(left, &sending, 1)?;
    is_addressed(right, &receiving, 2)?;

    let capture = Capture::on(&lab, "lan0")?;
    let digest = left.makes_a_file("/tmp/data", LENGTH)?;
    right.makes_a_file("/tmp/data", LENGTH)?;
    right.serves_a_digest(7000)?;
    right.serves_a_file(7001, "/tmp/data")?;
    for from in kinds() {
        let wrong = left.succeeds(&format!(
            "for a in {}; do s=$(nc $a 7000 </tmp/data); [ \"$s\" = '{}' ] || echo \"$a: $s\"; done",
            kinds().flat_map(|to| addresses(from, to, 2)).collect::<Vec<_>>().join(" "),
            digest.trim()
        ))?;
        ensure!(
            wrong.trim().is_empty(),
            "What {} sent is not what came: {wrong}",
            KINDS[from].0
        );
    }
    tcp_with_the_host(&lab, &host, right)?;
    let sent = udp_from_the_host(&host, right)?;

    let packets = capture.packets()?;
    packets.are_those_of_a_wire()?;
    for (from, to) in (0..=TAP).flat_map(pairs) {
        for (address, full) in addresses(from, to, 2).iter().zip([1448, 1428]) {
            packets.have_full_segments_to(address, full)?;
        }
    }
    for (address, bytes) in sent {
        ensure!(
            packets.datagrams_to(&address) == bytes,
            "The capture has not the datagrams that were sent to {address}"
        );
    }
    Ok(())
}

/// The host's TCP with each of `guest`'s cards, both ways.
fn tcp_with_the_host(lab: &Lab, host: &Namespace, guest: &mut Guest) -> Result<()> {
    let busybox = machine::tool("busybox").context("No busybox")?;
    let (busybox, data) = (busybox.display(), lab.path("data"));
    fs::write(&data, vec![0xa5; LENGTH])?;
    let digest = |line: &str| -> Result<String> {
        let output = host.command("sh").args(["-c", line]).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let sent = digest(&format!("sha256sum <{}", data.display()))?;
    let served = guest.succeeds("sha256sum </tmp/data")?;
    for address in (0..KINDS.len()).flat_map(|to| addresses(TAP, to, 2)) {
        let there = digest(&format!("{busybox} nc {address} 7000 <{}", data.display()))?;
        let back = digest(&format!("{busybox} nc {address} 7001 | sha256sum"))?;
        ensure!(
            (&*there, &*back) == (&*sent, served.trim()),
            "To {address} and back: {there} is not {sent}, or {back} not {served}"
        );
    }
    Ok(())
}

/// Datagrams to be cut, from the host to each of `guest`'s cards, none of which cuts them. What was
/// sent to whom.
fn udp_from_the_host(host: &Namespace, guest: &mut Guest) -> Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    for address in (0..KINDS.len()).flat_map(|to| addresses(TAP, to, 2)) {
        let v6 = address.contains(':');
        let table = if v6 {
            "/proc/net/snmp6"
        } else {
            "/proc/net/snmp"
        };
        // Datagrams for a port that nobody listens on are summed like others, and counted.
        let count = |guest: &mut Guest| -> Result<(u64, u64)> {
            let text = guest.succeeds(&format!("cat {table}"))?;
            let count = |name| counter(&text, name).with_context(|| format!("No {name}: {text}"));
            Ok(if v6 {
                (count("Udp6NoPorts")?, count("Udp6InCsumErrors")?)
            } else {
                (count("NoPorts")?, count("InCsumErrors")?)
            })
        };
        let (before, bad_before) = count(guest)?;
        let to = if v6 {
            format!("[{address}]:9")
        } else {
            format!("{address}:9")
        };
        let sent = datagrams();
        sends(host, &to, &sent)?;
        let datagrams = sent.len().div_ceil(DATAGRAM) as u64;
        let end = wait::until("all datagrams to be counted", PATIENCE, || {
            let (now, bad) = count(guest)?;
            Ok((now + bad >= before + bad_before + datagrams).then_some((now, bad)))
        })?;
        ensure!(
            end == (before + datagrams, bad_before),
            "{address}: {end:?} datagrams and wrong sums, before {before} and {bad_before}"
        );
        all.push((address, sent));
    }
    Ok(all)
}

/// A counter of UDP's in `/proc/net/snmp` or `snmp6`.
fn counter(text: &str, name: &str) -> Option<u64> {
    // A line for each counter, or one of names and one of numbers.
    let mut lines = text.lines().filter(|line| line.starts_with("Udp"));
    while let Some(line) = lines.next() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words.first()? {
            "Udp:" => {
                let place = words.iter().position(|word| *word == name)?;
                return lines.next()?.split_whitespace().nth(place)?.parse().ok();
            }
            first if first == name => return words.get(1)?.parse().ok(),
            _ => {}
        }
    }
    None
}

/// A running `lgswitch capture`.
struct Capture {
    child: Child,
    file: PathBuf,
}

impl Capture {
    fn on(lab: &Lab, segment: &str) -> Result<Self> {
        let file = lab.path("capture.pcapng");
        let child = lab
            .command(binary("lgswitch")?)
            .args(["capture", segment, "-w"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("Running lgswitch capture")?;
        let capture = Capture { child, file };
        wait::until_true("lgswitch capture to have its port", PATIENCE, || {
            let report = lab.inspect(segment)?;
            let ports = report["ports"].as_array().cloned().unwrap_or_default();
            Ok(ports.iter().any(|port| port["name"] == "capture"))
        })?;
        Ok(capture)
    }

    /// What it has captured; it ends.
    fn packets(mut self) -> Result<Packets> {
        // What was sent is in its ring; it is written before the end.
        std::thread::sleep(Duration::from_millis(100));
        kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            Signal::SIGINT,
        )?;
        let status = self.child.wait()?;
        ensure!(status.success(), "lgswitch capture ended with {status}");
        Packets::read(&self.file)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // It may have ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Packets of a capture, as tshark reads them.
struct Packets {
    all: Vec<Packet>,
}

#[derive(Debug)]
struct Packet {
    length: usize,
    to: String,
    /// Of IPv4, TCP, UDP: "1" is good, "0" is bad.
    sums: [String; 3],
    tcp_payload: Option<usize>,
    udp_payload: String,
}

impl Packets {
    fn read(file: &Path) -> Result<Self> {
        let mut command = Command::new("tshark");
        for protocol in ["ip", "tcp", "udp"] {
            command.args(["-o", &format!("{protocol}.check_checksum:TRUE")]);
        }
        command.args(["-o", "tcp.desegment_tcp_streams:FALSE", "-r"]);
        command.arg(file).args(["-T", "fields"]);
        for field in [
            "frame.len",
            "ip.dst",
            "ipv6.dst",
            "ip.checksum.status",
            "tcp.checksum.status",
            "udp.checksum.status",
            "tcp.checksum",
            "tcp.len",
            "udp.payload",
        ] {
            command.args(["-e", field]);
        }
        // A part of a packet, which ICMP sends back, has the checksum of the whole.
        let output = command.args(["-Y", "!icmp && !icmpv6"]).output()?;
        if !output.status.success() {
            bail!("tshark said: {}", String::from_utf8_lossy(&output.stderr));
        }
        let packet = |line: &str| -> Option<Packet> {
            let fields: Vec<&str> = line.split('\t').collect();
            let [length, v4, v6, ip, tcp, udp, sum, payload, datagram] = fields[..] else {
                return None;
            };
            // Linux writes 0xffff for 0 itself (`skb_checksum_help`), which tshark takes for a mistake.
            let tcp = if sum == "0xffff" { "1" } else { tcp };
            Some(Packet {
                length: length.parse().ok()?,
                to: format!("{v4}{v6}"),
                sums: [ip, tcp, udp].map(String::from),
                tcp_payload: payload.parse().ok(),
                udp_payload: datagram.to_owned(),
            })
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let all: Option<Vec<_>> = text.lines().map(packet).collect();
        let all = all.with_context(|| format!("tshark printed {text}"))?;
        Ok(Packets { all })
    }

    /// None is longer than a plain wire carries, and none has a wrong checksum.
    fn are_those_of_a_wire(&self) -> Result<()> {
        for packet in &self.all {
            ensure!(
                packet.length <= 1514 && packet.sums.iter().all(|sum| sum.is_empty() || sum == "1"),
                "No wire carries {packet:?}"
            );
        }
        Ok(())
    }

    /// TCP to this address came in segments of `full` bytes, and none was longer.
    fn have_full_segments_to(&self, address: &str, full: usize) -> Result<()> {
        let packets = self.all.iter().filter(|packet| packet.to == address);
        let longest = packets.filter_map(|packet| packet.tcp_payload).max();
        ensure!(
            longest == Some(full),
            "The longest segment to {address} has {longest:?} bytes"
        );
        Ok(())
    }

    /// The payload of all datagrams to this address.
    fn datagrams_to(&self, address: &str) -> Vec<u8> {
        let packets = self.all.iter().filter(|packet| packet.to == address);
        let text: String = packets.map(|packet| packet.udp_payload.as_str()).collect();
        let digits = text.as_bytes().chunks(2);
        digits
            .filter_map(|two| u8::from_str_radix(str::from_utf8(two).ok()?, 16).ok())
            .collect()
    }
}
