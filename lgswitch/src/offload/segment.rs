//! Cutting one large TCP or UDP packet into many small ones (TSO, USO).

use super::checksum::{add, fold};
use super::{Finished, Malformed};
use crate::frame::{ETHERNET_HEADER, VnetHeader};

/// Headers of Ethernet, tags, IP with options and TCP fit in here many times over; a guest that
/// claims more wants to see us copy them a thousand times.
const MAX_HEADERS: usize = 512;
/// Packets one frame may be cut to: 64 KiB in pieces of 16 bytes.
const MAX_PACKETS: usize = 4096;

pub(super) const TYPE_IPV4: u16 = 0x0800;
pub(super) const TYPE_IPV6: u16 = 0x86dd;
/// Types of tags: IEEE 802.1Q, 802.1ad.
pub(super) const TAGS: [u16; 2] = [0x8100, 0x88a8];
pub(super) const PROTOCOL_TCP: u8 = 6;
pub(super) const PROTOCOL_UDP: u8 = 17;

const FIN_AND_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ip {
    V4,
    V6,
}

/// Where the headers of a packet start and end.
struct Headers {
    ip: Ip,
    ip_start: usize,
    transport: usize,
    protocol: u8,
    end: usize,
}

/// Cuts `frame` into packets of `header.gso_size` bytes of payload, checksums and lengths set.
pub(super) fn cut(header: &VnetHeader, frame: &[u8], out: &mut Finished) -> Result<(), Malformed> {
    let headers = Headers::parse(header, frame)?;
    let (head, payload) = frame.split_at_checked(headers.end).ok_or(Malformed)?;
    let size = usize::from(header.gso_size);
    if size == 0 || head.len() > MAX_HEADERS || payload.len().div_ceil(size) > MAX_PACKETS {
        return Err(Malformed);
    }
    // No payload is still a packet.
    let count = payload.len().div_ceil(size).max(1);
    for i in 0..count {
        let start = i * size;
        let piece = &payload[start..payload.len().min(start + size)];
        let packet = out.push([head, piece]);
        headers.adjust(packet, i, start, i + 1 == count)?;
    }
    Ok(())
}

fn be16(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    let bytes = bytes.get(at..at + 2).ok_or(Malformed)?;
    Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

impl Headers {
    fn parse(header: &VnetHeader, frame: &[u8]) -> Result<Self, Malformed> {
        let mut type_at = ETHERNET_HEADER - 2;
        // At most two tags.
        for _ in 0..2 {
            if TAGS.contains(&be16(frame, type_at)?) {
                type_at += 4;
            }
        }
        let ip_start = type_at + 2;
        let ip = match be16(frame, type_at)? {
            TYPE_IPV4 => Ip::V4,
            TYPE_IPV6 => Ip::V6,
            _ => return Err(Malformed),
        };
        let protocol = match (header.gso_type & !VnetHeader::GSO_ECN, ip) {
            (VnetHeader::GSO_TCPV4, Ip::V4) | (VnetHeader::GSO_TCPV6, Ip::V6) => PROTOCOL_TCP,
            (VnetHeader::GSO_UDP_L4, _) => PROTOCOL_UDP,
            _ => return Err(Malformed),
        };
        // GSO without a checksum to be completed does not occur (5.1.6.2), and where that
        // starts is where TCP or UDP does, behind whatever options or extensions IP has.
        let transport = usize::from(header.checksum_start);
        let shortest = ip_start + if ip == Ip::V4 { 20 } else { 40 };
        if header.flags & VnetHeader::NEEDS_CHECKSUM == 0 || transport < shortest {
            return Err(Malformed);
        }
        let length = match protocol {
            PROTOCOL_TCP => usize::from(frame.get(transport + 12).ok_or(Malformed)? >> 4) * 4,
            _ => 8,
        };
        if length < if protocol == PROTOCOL_TCP { 20 } else { 8 } {
            return Err(Malformed);
        }
        Ok(Self {
            ip,
            ip_start,
            transport,
            protocol,
            end: transport + length,
        })
    }

    /// Makes a copy of the headers, now before the `index`th piece of the payload, that packet's own.
    fn adjust(
        &self,
        packet: &mut [u8],
        index: usize,
        offset: usize,
        last: bool,
    ) -> Result<(), Malformed> {
        let ip_length = u16::try_from(packet.len() - self.ip_start).map_err(|_| Malformed)?;
        let ip = &mut packet[self.ip_start..self.transport];
        match self.ip {
            Ip::V4 => {
                put16(ip, 2, ip_length);
                let id = be16(ip, 4)?.wrapping_add(index as u16);
                put16(ip, 4, id);
                put16(ip, 10, 0);
                let sum = fold(add(0, ip));
                put16(ip, 10, sum);
            }
            Ip::V6 => put16(ip, 4, ip_length - 40),
        }
        let pseudo = self.pseudo_header_sum(packet);
        let transport = &mut packet[self.transport..];
        let length = transport.len() as u16;
        let sum_at = if self.protocol == PROTOCOL_TCP {
            let sequence = [transport[4], transport[5], transport[6], transport[7]];
            let sequence = u32::from_be_bytes(sequence).wrapping_add(offset as u32);
            transport[4..8].copy_from_slice(&sequence.to_be_bytes());
            if !last {
                transport[13] &= !FIN_AND_PSH;
            }
            if index > 0 {
                transport[13] &= !CWR;
            }
            16
        } else {
            put16(transport, 4, length);
            6
        };
        put16(transport, sum_at, 0);
        let sum = match fold(add(pseudo, transport)) {
            0 if self.protocol == PROTOCOL_UDP => 0xffff,
            sum => sum,
        };
        put16(transport, sum_at, sum);
        Ok(())
    }

    fn pseudo_header_sum(&self, packet: &[u8]) -> u64 {
        let addresses = match self.ip {
            Ip::V4 => self.ip_start + 12..self.ip_start + 20,
            Ip::V6 => self.ip_start + 8..self.ip_start + 40,
        };
        let length = (packet.len() - self.transport) as u64;
        add(length + u64::from(self.protocol), &packet[addresses])
    }
}

#[cfg(test)]
mod tests {
    use super::super::finish;
    use super::*;
    use pnet_packet::Packet;
    use pnet_packet::ipv4::{self, Ipv4Packet};
    use pnet_packet::ipv6::Ipv6Packet;
    use pnet_packet::tcp::{self, MutableTcpPacket, TcpFlags, TcpPacket};
    use pnet_packet::udp::{self, UdpPacket};
    use proptest::prelude::*;

    /// Ethernet, `tags` tags, IPv4 or IPv6, a transport header of `header` bytes, a payload that counts.
    fn frame(
        v6: bool,
        protocol: u8,
        header: usize,
        payload: usize,
        tags: usize,
    ) -> (Vec<u8>, usize) {
        let mut f = vec![2; 12];
        (0..tags).for_each(|_| f.extend([0x81, 0, 0, 5]));
        let ip = f.len() + 2;
        if v6 {
            f.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, protocol, 64]);
            f.extend([0xfd; 32]);
        } else {
            f.extend([8, 0, 0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
            f.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        }
        let transport = f.len();
        f.resize(transport + header, 0);
        f.extend((0..payload).map(|i| (i * 7) as u8));
        (f, if v6 { ip } else { transport })
    }

    fn offload(
        gso_type: u8,
        gso_size: u16,
        checksum_start: usize,
        checksum_offset: u16,
    ) -> VnetHeader {
        VnetHeader {
            flags: VnetHeader::NEEDS_CHECKSUM,
            gso_type,
            gso_size,
            checksum_start: checksum_start as u16,
            checksum_offset,
            ..VnetHeader::default()
        }
    }

    #[test]
    fn cut_tcp_has_correct_sums_lengths_numbers_and_flags() {
        let (mut f, transport) = frame(false, 6, 32, 4000, 1);
        let mut tcp = MutableTcpPacket::new(&mut f[transport..]).unwrap();
        tcp.set_data_offset(8);
        tcp.set_sequence(u32::MAX - 100);
        tcp.set_flags(TcpFlags::ACK | TcpFlags::PSH | TcpFlags::FIN | TcpFlags::CWR);
        let mut out = Finished::default();
        finish(
            &offload(VnetHeader::GSO_TCPV4, 1448, transport, 16),
            &f,
            &mut out,
        )
        .unwrap();
        let mut data = Vec::new();
        let packets: Vec<_> = out.frames().collect();
        assert_eq!(packets.len(), 3);
        for (i, packet) in packets.iter().enumerate() {
            assert_eq!(packet[..18], f[..18]);
            let ip = Ipv4Packet::new(&packet[18..]).unwrap();
            assert_eq!(usize::from(ip.get_total_length()), packet.len() - 18);
            assert_eq!(ip.get_identification(), 0x1234 + i as u16);
            assert_eq!(ip.get_checksum(), ipv4::checksum(&ip));
            let tcp = TcpPacket::new(ip.payload()).unwrap();
            let (from, to) = (ip.get_source(), ip.get_destination());
            assert_eq!(tcp.get_checksum(), tcp::ipv4_checksum(&tcp, &from, &to));
            assert_eq!(
                tcp.get_sequence(),
                (u32::MAX - 100).wrapping_add(i as u32 * 1448)
            );
            let mut flags = TcpFlags::ACK;
            flags |= if i == 0 { TcpFlags::CWR } else { 0 };
            flags |= if i == 2 {
                TcpFlags::PSH | TcpFlags::FIN
            } else {
                0
            };
            assert_eq!(tcp.get_flags(), flags);
            data.extend_from_slice(tcp.payload());
        }
        assert_eq!(data, f[transport + 32..]);
    }

    #[test]
    fn cut_udp_over_ipv6_has_correct_sums_and_lengths() {
        let (f, ip_start) = frame(true, 17, 8, 3001, 0);
        let transport = ip_start + 40;
        let mut out = Finished::default();
        finish(
            &offload(VnetHeader::GSO_UDP_L4, 1000, transport, 6),
            &f,
            &mut out,
        )
        .unwrap();
        let sizes: Vec<_> = out.frames().map(|p| p.len() - transport - 8).collect();
        assert_eq!(sizes, [1000, 1000, 1000, 1]);
        for packet in out.frames() {
            let ip = Ipv6Packet::new(&packet[ip_start..]).unwrap();
            assert_eq!(
                usize::from(ip.get_payload_length()),
                packet.len() - transport
            );
            let udp = UdpPacket::new(ip.payload()).unwrap();
            assert_eq!(usize::from(udp.get_length()), packet.len() - transport);
            let (from, to) = (ip.get_source(), ip.get_destination());
            assert_eq!(udp.get_checksum(), udp::ipv6_checksum(&udp, &from, &to));
        }
    }

    proptest! {
        #[test]
        fn no_header_and_frame_panic(
            header in any::<[u8; 10]>(),
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            ethertype in prop_oneof![Just([8u8, 0]), Just([0x86, 0xdd]), Just([0x81, 0])],
            gso in prop_oneof![Just(0u8), Just(1), Just(4), Just(5), any::<u8>()],
            start in 0..120u8,
        ) {
            if bytes.len() > 14 {
                bytes[12..14].copy_from_slice(&ethertype);
            }
            let mut header = VnetHeader::decode(&header);
            header.gso_type = gso;
            header.checksum_start = u16::from(start);
            let _ = finish(&header, &bytes, &mut Finished::default());
        }
    }
}
