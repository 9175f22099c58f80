//! Lines for known packets, and that nothing else than a line comes of any bytes.

use proptest::prelude::*;

use super::Summary;

/// Ethernet from 02:..:01 to 02:..:02, then `parts`.
fn frame(parts: &[&[u8]]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    frame
}

/// An IPv4 header, its type before it.
fn v4(protocol: u8, fragment: u16, payload: usize) -> Vec<u8> {
    let mut header = vec![8, 0, 0x45, 0];
    header.extend((20 + payload as u16).to_be_bytes());
    header.extend([0, 1]);
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    header
}

/// An IPv6 header, its type before it.
fn v6(next: u8, payload: usize) -> Vec<u8> {
    let mut header = vec![0x86, 0xdd, 0x60, 0, 0, 0];
    header.extend((payload as u16).to_be_bytes());
    header.extend([next, 64]);
    for last in [1, 2] {
        header.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    header
}

const TCP: [u8; 22] = [
    0x9c, 0x40, 0, 80, 0, 0, 0, 7, 0, 0, 0, 9, 0x50, 0x12, 1, 0, 0, 0, 0, 0, b'h', b'i',
];
const UDP: [u8; 12] = [0, 53, 0x9c, 0x40, 0, 12, 0, 0, 1, 2, 3, 4];
const ECHO: [u8; 8] = [8, 0, 0, 0, 0, 5, 0, 6];
const TAG: [u8; 4] = [0x81, 0, 0x20, 5];

fn line(parts: &[&[u8]]) -> String {
    let line = Summary::of(&frame(parts)).to_string();
    let (head, rest) = line.split_at("02:00:00:00:00:01 > 02:00:00:00:00:02, ".len());
    assert_eq!(head, "02:00:00:00:00:01 > 02:00:00:00:00:02, ");
    rest.to_owned()
}

#[test]
fn what_is_told_of_common_packets() {
    let arp = |operation: u8| {
        let mut arp = vec![8, 6, 0, 1, 8, 0, 6, 4, 0, operation];
        arp.extend([2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
        arp
    };
    let solicitation = [&[135, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0x80][..], &[0; 13], &[2]].concat();
    for (parts, expected) in [
        (
            vec![v4(6, 0, 22), TCP.to_vec()],
            "length 56: 10.0.0.1.40000 > 10.0.0.2.80: TCP [S.], seq 7, ack 9, win 256, length 2",
        ),
        (
            vec![TAG.to_vec(), v4(17, 0, 12), UDP.to_vec()],
            "vlan 5, length 50: 10.0.0.1.53 > 10.0.0.2.40000: UDP, length 4",
        ),
        (
            vec![v4(1, 0, 8), ECHO.to_vec()],
            "length 42: 10.0.0.1 > 10.0.0.2: ICMP echo request, id 5, seq 6, length 8",
        ),
        (
            // More fragments, at 1480; its bytes are nobody's header.
            vec![v4(17, 0x2000 | 185, 12), UDP.to_vec()],
            "length 46: 10.0.0.1 > 10.0.0.2: protocol 17, fragment at 1480, more follow",
        ),
        (
            vec![arp(1)],
            "length 42: ARP who-has 10.0.0.2 tell 10.0.0.1",
        ),
        (
            vec![arp(2)],
            "length 42: ARP reply 10.0.0.1 is-at 02:00:00:00:00:01",
        ),
        (
            vec![v6(58, 24), solicitation],
            "length 78: fe80::1 > fe80::2: ICMPv6 neighbor solicitation, about fe80::2, length 24",
        ),
        (
            // Hop-by-hop options, then UDP.
            vec![v6(0, 20), vec![17, 0, 0, 0, 0, 0, 0, 0], UDP.to_vec()],
            "length 74: fe80::1.53 > fe80::2.40000: UDP, length 4",
        ),
        (vec![vec![0x88, 0xb5, 0]], "length 15: ethertype 0x88b5"),
        (
            vec![v4(6, 0, 5), vec![0; 5]],
            "length 39: 10.0.0.1 > 10.0.0.2: malformed TCP",
        ),
        (vec![vec![8, 0, 0x45]], "length 15: malformed IPv4"),
    ] {
        let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
        assert_eq!(line(&parts), expected);
    }
}

#[test]
fn padding_behind_a_packet_is_not_its_payload() {
    let expected = "length 64: 10.0.0.1.53 > 10.0.0.2.40000: UDP, length 4";
    assert_eq!(line(&[&v4(17, 0, 12), &UDP, &[0; 18]]), expected);
}

#[test]
fn json_has_the_layers_by_name() {
    let frame = frame(&[&TAG, &v4(6, 0, 22), &TCP]);
    let json = serde_json::to_value(Summary::of(&frame)).unwrap();
    assert_eq!(json["from"], "02:00:00:00:00:01");
    assert_eq!(json["vlan"][0], 5);
    assert_eq!(json["ip"]["source"], "10.0.0.1");
    assert_eq!(json["ip"]["tcp"]["flags"], "S.");
}

/// Any bytes make one printable line, and a JSON object.
fn survives(bytes: &[u8]) {
    let summary = Summary::of(bytes);
    let line = summary.to_string();
    assert!(line.is_ascii() && !line.contains(|c: char| c.is_control()));
    assert!(serde_json::to_value(&summary).unwrap().is_object());
}

proptest! {
    #[test]
    fn any_bytes_make_a_line(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        survives(&bytes);
    }

    /// Packets that are nearly right get further into the parsers than noise does.
    #[test]
    fn damaged_and_cut_packets_make_a_line(
        kind in 0..6usize,
        tags in 0..6usize,
        damage in prop::collection::vec((0..120usize, any::<u8>()), 0..6),
        length in 0..160usize,
    ) {
        let packet = match kind {
            0 => [v4(6, 0, 22), TCP.to_vec()].concat(),
            1 => [v4(17, 0, 12), UDP.to_vec()].concat(),
            2 => [v4(1, 0, 8), ECHO.to_vec()].concat(),
            3 => [v6(44, 20), vec![6, 0, 0, 1, 0, 0, 0, 0], TCP.to_vec()].concat(),
            4 => [v6(60, 60), vec![58, 1], vec![0; 14], vec![136; 44]].concat(),
            _ => [vec![8, 6, 0, 1, 8, 0, 6, 4, 0, 1], vec![7; 30]].concat(),
        };
        let mut bytes = frame(&[&TAG.repeat(tags), &packet]);
        for (at, byte) in damage {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(length);
        survives(&bytes);
    }
}
