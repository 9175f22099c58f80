//! TCP, UDP, ICMP and ICMPv6.

use std::fmt;
use std::net::Ipv6Addr;

use pnet_packet::icmp::echo_request::EchoRequestPacket;
use pnet_packet::icmp::{IcmpPacket, IcmpTypes};
use pnet_packet::icmpv6::ndp::NeighborSolicitPacket;
use pnet_packet::icmpv6::{Icmpv6Packet, Icmpv6Types};
use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet_packet::tcp::{TcpFlags, TcpPacket};
use pnet_packet::udp::UdpPacket;
use serde::Serialize;

/// What an IP packet carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP.
    Tcp(Tcp),
    /// UDP.
    Udp(Udp),
    /// ICMP.
    Icmp(Icmp),
    /// ICMPv6.
    Icmpv6(Icmp),
    /// Something else, by its number.
    Protocol(u8),
    /// Something of that name that makes no sense.
    Malformed(&'static str),
}

/// A TCP segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tcp {
    /// From.
    pub source_port: u16,
    /// To.
    pub destination_port: u16,
    /// As tcpdump writes them: `S` SYN, `F` FIN, `R` RST, `P` PSH, `.` ACK, `U` URG, `E` ECE, `W` CWR.
    pub flags: String,
    /// The number of its first byte.
    pub sequence: u32,
    /// The number of the byte it waits for, if it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledgement: Option<u32>,
    /// Bytes the other end may send, not scaled.
    pub window: u16,
    /// Bytes of payload.
    pub length: usize,
}

/// A UDP datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Udp {
    /// From.
    pub source_port: u16,
    /// To.
    pub destination_port: u16,
    /// Bytes of payload.
    pub length: usize,
}

/// An ICMP or ICMPv6 message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Icmp {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// Its type in words, if it is one of the well-known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'static str>,
    /// Identifier and sequence number of an echo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo: Option<(u16, u16)>,
    /// Whom a neighbour solicitation or advertisement is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Ipv6Addr>,
    /// Bytes of it.
    pub length: usize,
}

impl Transport {
    /// Source and destination port, if it has such.
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self {
            Transport::Tcp(tcp) => Some((tcp.source_port, tcp.destination_port)),
            Transport::Udp(udp) => Some((udp.source_port, udp.destination_port)),
            _ => None,
        }
    }
}

/// Reads the transport of that number.
pub fn read(protocol: IpNextHeaderProtocol, bytes: &[u8]) -> Transport {
    match protocol {
        IpNextHeaderProtocols::Tcp => {
            tcp(bytes).map_or(Transport::Malformed("TCP"), Transport::Tcp)
        }
        IpNextHeaderProtocols::Udp => {
            udp(bytes).map_or(Transport::Malformed("UDP"), Transport::Udp)
        }
        IpNextHeaderProtocols::Icmp => {
            icmp(bytes).map_or(Transport::Malformed("ICMP"), Transport::Icmp)
        }
        IpNextHeaderProtocols::Icmpv6 => {
            icmpv6(bytes).map_or(Transport::Malformed("ICMPv6"), Transport::Icmpv6)
        }
        other => Transport::Protocol(other.0),
    }
}

/// RFC 9293.
fn tcp(bytes: &[u8]) -> Option<Tcp> {
    let tcp = TcpPacket::new(bytes)?;
    let header = usize::from(tcp.get_data_offset()) * 4;
    if header < TcpPacket::minimum_packet_size() {
        return None;
    }
    let flags = tcp.get_flags();
    let letters = [
        (TcpFlags::SYN, 'S'),
        (TcpFlags::FIN, 'F'),
        (TcpFlags::RST, 'R'),
        (TcpFlags::PSH, 'P'),
        (TcpFlags::ACK, '.'),
        (TcpFlags::URG, 'U'),
        (TcpFlags::ECE, 'E'),
        (TcpFlags::CWR, 'W'),
    ];
    let set = letters.iter().filter(|(flag, _)| flags & flag != 0);
    Some(Tcp {
        source_port: tcp.get_source(),
        destination_port: tcp.get_destination(),
        flags: set.map(|(_, letter)| letter).collect(),
        sequence: tcp.get_sequence(),
        acknowledgement: (flags & TcpFlags::ACK != 0).then(|| tcp.get_acknowledgement()),
        window: tcp.get_window(),
        length: bytes.get(header..)?.len(),
    })
}

/// RFC 768.
fn udp(bytes: &[u8]) -> Option<Udp> {
    let udp = UdpPacket::new(bytes)?;
    Some(Udp {
        source_port: udp.get_source(),
        destination_port: udp.get_destination(),
        length: bytes.len() - UdpPacket::minimum_packet_size(),
    })
}

/// RFC 792.
fn icmp(bytes: &[u8]) -> Option<Icmp> {
    let icmp = IcmpPacket::new(bytes)?;
    let kind = icmp.get_icmp_type();
    let name = match kind {
        IcmpTypes::EchoRequest => Some("echo request"),
        IcmpTypes::EchoReply => Some("echo reply"),
        IcmpTypes::DestinationUnreachable => Some("destination unreachable"),
        IcmpTypes::TimeExceeded => Some("time exceeded"),
        IcmpTypes::RedirectMessage => Some("redirect"),
        IcmpTypes::ParameterProblem => Some("parameter problem"),
        _ => None,
    };
    let is_echo = matches!(kind, IcmpTypes::EchoRequest | IcmpTypes::EchoReply);
    Some(Icmp {
        kind: kind.0,
        code: icmp.get_icmp_code().0,
        name,
        echo: echo(is_echo, bytes),
        target: None,
        length: bytes.len(),
    })
}

/// RFC 4443, and RFC 4861 for neighbours.
fn icmpv6(bytes: &[u8]) -> Option<Icmp> {
    let icmp = Icmpv6Packet::new(bytes)?;
    let kind = icmp.get_icmpv6_type();
    let name = match kind {
        Icmpv6Types::EchoRequest => Some("echo request"),
        Icmpv6Types::EchoReply => Some("echo reply"),
        Icmpv6Types::DestinationUnreachable => Some("destination unreachable"),
        Icmpv6Types::PacketTooBig => Some("packet too big"),
        Icmpv6Types::TimeExceeded => Some("time exceeded"),
        Icmpv6Types::ParameterProblem => Some("parameter problem"),
        Icmpv6Types::RouterSolicit => Some("router solicitation"),
        Icmpv6Types::RouterAdvert => Some("router advertisement"),
        Icmpv6Types::NeighborSolicit => Some("neighbor solicitation"),
        Icmpv6Types::NeighborAdvert => Some("neighbor advertisement"),
        Icmpv6Types::Redirect => Some("redirect"),
        _ => None,
    };
    let is_echo = matches!(kind, Icmpv6Types::EchoRequest | Icmpv6Types::EchoReply);
    let is_neighbour = matches!(
        kind,
        Icmpv6Types::NeighborSolicit | Icmpv6Types::NeighborAdvert
    );
    // Both say whom they are about at the same place.
    let target = NeighborSolicitPacket::new(bytes).filter(|_| is_neighbour);
    Some(Icmp {
        kind: kind.0,
        code: icmp.get_icmpv6_code().0,
        name,
        echo: echo(is_echo, bytes),
        target: target.map(|packet| packet.get_target_addr()),
        length: bytes.len(),
    })
}

/// Identifier and sequence number stand at the same place in all four kinds of echo.
fn echo(is_echo: bool, bytes: &[u8]) -> Option<(u16, u16)> {
    let echo = EchoRequestPacket::new(bytes).filter(|_| is_echo)?;
    Some((echo.get_identifier(), echo.get_sequence_number()))
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Transport::Tcp(tcp) => tcp.fmt(f),
            Transport::Udp(udp) => write!(f, "UDP, length {}", udp.length),
            Transport::Icmp(icmp) => write!(f, "ICMP {icmp}"),
            Transport::Icmpv6(icmp) => write!(f, "ICMPv6 {icmp}"),
            Transport::Protocol(number) => write!(f, "protocol {number}"),
            Transport::Malformed(what) => write!(f, "malformed {what}"),
        }
    }
}

impl fmt::Display for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = match self.flags.as_str() {
            "" => "none",
            flags => flags,
        };
        write!(f, "TCP [{flags}], seq {}", self.sequence)?;
        if let Some(acknowledgement) = self.acknowledgement {
            write!(f, ", ack {acknowledgement}")?;
        }
        write!(f, ", win {}, length {}", self.window, self.length)
    }
}

impl fmt::Display for Icmp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => f.write_str(name)?,
            None => write!(f, "type {}", self.kind)?,
        }
        if self.code != 0 {
            write!(f, ", code {}", self.code)?;
        }
        if let Some((id, sequence)) = self.echo {
            write!(f, ", id {id}, seq {sequence}")?;
        }
        if let Some(target) = self.target {
            write!(f, ", about {target}")?;
        }
        write!(f, ", length {}", self.length)
    }
}
