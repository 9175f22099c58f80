//! Claims about TCP with offloads: unfinished checksums and 64 KiB segments that cross the wire
//! as they are to peers that take them, finished to peers that do not.

use anyhow::{Result, ensure};
use lgswitch::VnetHeader;
use lgswitch::frame::Offloads;
use system_tests::{Guest, Lab, Need, Wiretap, claim};

fn main() {
    const NEEDS: &[Need] = &[Need::Guests, Need::Tool("ethtool")];
    system_tests::main(vec![
        claim(
            "tcp_with_offloads_on_arrives_intact_both_ways",
            NEEDS,
            offloads_on_arrive_intact,
        ),
        claim(
            "tcp_between_offloads_on_and_off_arrives_intact_both_ways",
            NEEDS,
            on_and_off_arrive_intact,
        ),
        claim(
            "guests_with_offloads_exchange_whole_segments",
            NEEDS,
            guests_exchange_whole_segments,
        ),
        claim(
            "a_capture_shows_finished_packets",
            NEEDS,
            a_capture_shows_finished_packets,
        ),
    ])
}

/// Two guests on lan0; everything is served twice, over IPv4 and IPv6.
fn two_guests(lab: &Lab) -> Result<(Guest, Guest)> {
    let (mut left, mut right) = lab.two_guests()?;
    for guest in [&mut left, &mut right] {
        let features = guest.succeeds("ethtool -k eth0")?;
        for feature in ["tx-checksumming: on", "tcp-segmentation-offload: on"] {
            ensure!(
                features.contains(feature),
                "The guest was not offered `{feature}`:\n{features}"
            );
        }
    }
    Ok((left, right))
}

/// Moves `length` bytes from `client` to `server` and back, over IPv4 and IPv6, and compares the
/// digests of what was sent with those of what arrived.
fn bytes_arrive(
    client: &mut Guest,
    server: &mut Guest,
    server_number: u8,
    length: usize,
) -> Result<()> {
    let sent = client.makes_a_file("/tmp/data", length)?;
    server.serves_a_digest(7000)?;
    for address in [
        format!("10.0.0.{server_number}"),
        format!("fd00::{server_number}"),
    ] {
        let arrived = client.succeeds(&format!("nc {address} 7000 </tmp/data"))?;
        ensure!(
            sent == arrived,
            "To {address}: sent {sent}, arrived {arrived}"
        );
    }
    let sent = server.makes_a_file("/tmp/data", length)?;
    server.serves_a_file(7001, "/tmp/data")?;
    for address in [
        format!("10.0.0.{server_number}"),
        format!("fd00::{server_number}"),
    ] {
        let arrived = client.succeeds(&format!("nc {address} 7001 | sha256sum"))?;
        ensure!(
            sent == arrived,
            "From {address}: sent {sent}, arrived {arrived}"
        );
    }
    Ok(())
}

fn offloads_on_arrive_intact() -> Result<()> {
    let lab = Lab::new()?;
    let (mut left, mut right) = two_guests(&lab)?;
    bytes_arrive(&mut right, &mut left, 1, 16 << 20)
}

fn on_and_off_arrive_intact() -> Result<()> {
    let lab = Lab::new()?;
    let (mut left, mut right) = two_guests(&lab)?;
    // Its own driver then finishes all it sends. What it may be sent it has agreed on with its
    // device; a guest that did not agree is `wiretap` in the claims below.
    left.run("ethtool -K eth0 tx off rx off sg off tso off gso off gro off")?;
    let features = left.succeeds("ethtool -k eth0")?;
    for feature in ["tx-checksumming: off", "tcp-segmentation-offload: off"] {
        ensure!(
            features.contains(feature),
            "The guest did not turn off `{feature}`:\n{features}"
        );
    }
    bytes_arrive(&mut right, &mut left, 1, 4 << 20)
}

fn guests_exchange_whole_segments() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    let (mut left, mut right) = two_guests(&lab)?;
    let wiretap = Wiretap::on(&lab.segment("lan0"), Offloads::ALL)?;
    left.serves_a_digest(7000)?;
    let sent = right.makes_a_file("/tmp/data", 4 << 20)?;
    ensure!(
        sent == right.succeeds("nc 10.0.0.1 7000 </tmp/data")?,
        "The data did not arrive intact"
    );
    wiretap.hears(
        "a TCP segment much longer than the MTU, its checksum left to do",
        |frame| {
            frame.header.gso_type & !VnetHeader::GSO_ECN == VnetHeader::GSO_TCPV4
                && frame.header.flags & VnetHeader::NEEDS_CHECKSUM != 0
                && frame.bytes.len() > 4 * 1514
        },
    )?;
    Ok(())
}

fn a_capture_shows_finished_packets() -> Result<()> {
    let lab = Lab::new()?;
    lab.lgswitch(&["create", "lan0"])?;
    let (mut left, mut right) = two_guests(&lab)?;
    let wiretap = Wiretap::on(&lab.segment("lan0"), Offloads::NONE)?;
    left.serves_a_digest(7000)?;
    let sent = right.makes_a_file("/tmp/data", 256 << 10)?;
    ensure!(
        sent == right.succeeds("nc 10.0.0.1 7000 </tmp/data")?,
        "The data did not arrive intact"
    );
    let segments: Vec<_> = wiretap
        .heard()
        .into_iter()
        .filter_map(|frame| frame.tcp4().map(|tcp| (frame, tcp)))
        .collect();
    for (frame, tcp) in &segments {
        ensure!(
            frame.header == VnetHeader::default() || !frame.header.is_unfinished(),
            "Unfinished: {:?}",
            frame.header
        );
        ensure!(
            frame.bytes.len() <= 1514,
            "A frame of {} bytes on a wire with an MTU of 1500",
            frame.bytes.len()
        );
        ensure!(
            tcp.sums_are_right,
            "A checksum is wrong in {:02x?}",
            frame.bytes
        );
    }
    // Nothing was lost on the way to the wiretap, either.
    let payload: usize = segments.iter().map(|(_, tcp)| tcp.payload).sum();
    ensure!(
        payload >= 256 << 10,
        "Only {payload} bytes of TCP were heard, of {}",
        256 << 10
    );
    Ok(())
}
