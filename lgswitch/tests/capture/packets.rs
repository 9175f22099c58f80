//! Packets of stations `n`, which have the addresses 02:00:00:00:00:`n` and 10.0.0.`n`.

use std::net::Ipv4Addr;

use lgswitch::{MacAddr, VnetHeader};
use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet_packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet_packet::tcp::{MutableTcpPacket, TcpFlags};
use pnet_packet::udp::MutableUdpPacket;
use pnet_packet::util;

use crate::lan::{BROADCAST, mac};

/// Where a transport begins.
const TRANSPORT: usize = 34;

fn ip(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, n)
}

/// A frame of a type for experiments.
pub fn ether(to: MacAddr, from: MacAddr, len: usize) -> Vec<u8> {
    let mut frame = [to.octets(), from.octets()].concat();
    frame.extend([0x88, 0xb5]);
    frame.resize(14 + len, 0x5a);
    frame
}

/// "Who has 10.0.0.99?"
pub fn arp(from: u8) -> Vec<u8> {
    let mut frame = [BROADCAST.octets(), mac(from).octets()].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac(from).octets());
    frame.extend(ip(from).octets());
    frame.extend([0; 6]);
    frame.extend(ip(99).octets());
    frame
}

fn v4(from: u8, to: u8, protocol: IpNextHeaderProtocol, len: usize) -> Vec<u8> {
    let mut frame = [mac(to).octets(), mac(from).octets()].concat();
    frame.extend([8, 0]);
    frame.resize(TRANSPORT + len, 0x5a);
    let mut packet = MutableIpv4Packet::new(&mut frame[14..]).unwrap();
    packet.set_version(4);
    packet.set_header_length(5);
    packet.set_dscp(0);
    packet.set_ecn(0);
    packet.set_total_length(20 + len as u16);
    packet.set_identification(7);
    packet.set_flags(2);
    packet.set_fragment_offset(0);
    packet.set_ttl(64);
    packet.set_next_level_protocol(protocol);
    packet.set_source(ip(from));
    packet.set_destination(ip(to));
    packet.set_checksum(0);
    let sum = ipv4::checksum(&packet.to_immutable());
    packet.set_checksum(sum);
    frame
}

/// The sum of the pseudo header, which is what stands in a checksum that is to be completed.
fn pseudo_sum(frame: &[u8]) -> u16 {
    let ip = Ipv4Packet::new(&frame[14..]).unwrap();
    let (from, to) = (ip.get_source(), ip.get_destination());
    let of_addresses = !util::ipv4_checksum(&[], 0, &[], &from, &to, ip.get_next_level_protocol());
    let sum = u32::from(of_addresses) + (frame.len() - TRANSPORT) as u32;
    (sum % 0x10000 + sum / 0x10000) as u16
}

fn udp_with(from: u8, to: u8, len: usize, sum: fn(&[u8]) -> u16) -> Vec<u8> {
    let mut frame = v4(from, to, IpNextHeaderProtocols::Udp, 8 + len);
    let sum = sum(&frame);
    let mut packet = MutableUdpPacket::new(&mut frame[TRANSPORT..]).unwrap();
    packet.set_source(40_000);
    packet.set_destination(9);
    packet.set_length(8 + len as u16);
    packet.set_checksum(sum);
    frame
}

/// UDP without a checksum.
pub fn udp(from: u8, to: u8, len: usize) -> Vec<u8> {
    udp_with(from, to, len, |_| 0)
}

/// UDP whose checksum is to be completed.
pub fn unsummed(from: u8, to: u8, len: usize) -> (VnetHeader, Vec<u8>) {
    let header = VnetHeader {
        flags: VnetHeader::NEEDS_CHECKSUM,
        checksum_start: TRANSPORT as u16,
        checksum_offset: 6,
        ..VnetHeader::default()
    };
    (header, udp_with(from, to, len, pseudo_sum))
}

/// TCP with no right checksum.
pub fn tcp(from: u8, to: u8, len: usize) -> Vec<u8> {
    let mut frame = v4(from, to, IpNextHeaderProtocols::Tcp, 20 + len);
    let sum = pseudo_sum(&frame);
    let mut packet = MutableTcpPacket::new(&mut frame[TRANSPORT..]).unwrap();
    packet.set_source(40_000);
    packet.set_destination(80);
    packet.set_sequence(1);
    packet.set_acknowledgement(1);
    packet.set_data_offset(5);
    packet.set_reserved(0);
    packet.set_flags(TcpFlags::ACK | TcpFlags::PSH);
    packet.set_window(500);
    packet.set_checksum(sum);
    packet.set_urgent_ptr(0);
    frame
}

/// TCP whose checksum is to be completed and which is to be cut to pieces of `size` bytes.
pub fn tso(from: u8, to: u8, len: usize, size: u16) -> (VnetHeader, Vec<u8>) {
    let header = VnetHeader {
        flags: VnetHeader::NEEDS_CHECKSUM,
        gso_type: VnetHeader::GSO_TCPV4,
        header_len: TRANSPORT as u16 + 20,
        gso_size: size,
        checksum_start: TRANSPORT as u16,
        checksum_offset: 16,
    };
    (header, tcp(from, to, len))
}
