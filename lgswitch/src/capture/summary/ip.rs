//! IPv4 and IPv6, down to where a transport begins.

use std::fmt;
use std::net::IpAddr;

use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet_packet::ipv4::Ipv4Packet;
use pnet_packet::ipv6::{ExtensionPacket, FragmentPacket, Ipv6Packet};
use serde::Serialize;

use super::transport::{self, Transport};

/// Extension headers that are looked behind; RFC 8200 knows six kinds, each once or twice.
const MAX_EXTENSIONS: usize = 8;
/// Bytes of IPv6's fixed header.
const V6_HEADER: usize = 40;
/// Bytes of a fragment header.
const FRAGMENT_HEADER: usize = 8;

/// An IP packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ip {
    /// From.
    pub source: IpAddr,
    /// To.
    pub destination: IpAddr,
    /// The part of a larger packet it is, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fragment: Option<Fragment>,
    /// What it carries.
    #[serde(flatten)]
    pub transport: Transport,
}

/// Where a fragment belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Fragment {
    /// Bytes before it.
    pub offset: u16,
    /// Whether there are more behind it.
    pub more: bool,
}

/// Reads IPv4 (RFC 791).
pub fn v4(bytes: &[u8]) -> Option<Ip> {
    let ip = Ipv4Packet::new(bytes)?;
    let header = usize::from(ip.get_header_length()) * 4;
    let total = match usize::from(ip.get_total_length()) {
        // As a sender leaves it that had no number large enough.
        0 => bytes.len(),
        total => total.min(bytes.len()),
    };
    if ip.get_version() != 4 || header < Ipv4Packet::minimum_packet_size() {
        return None;
    }
    let payload = bytes.get(header..total)?;
    let fragment = Fragment {
        offset: ip.get_fragment_offset() * 8,
        // Bit 0 of the three flags, counted from the right.
        more: ip.get_flags() & 1 != 0,
    };
    let fragment = (fragment.offset > 0 || fragment.more).then_some(fragment);
    Some(Ip {
        source: ip.get_source().into(),
        destination: ip.get_destination().into(),
        transport: transport(ip.get_next_level_protocol(), payload, fragment),
        fragment,
    })
}

/// Reads IPv6 (RFC 8200), and goes over extension headers.
pub fn v6(bytes: &[u8]) -> Option<Ip> {
    let ip = Ipv6Packet::new(bytes)?;
    if ip.get_version() != 6 {
        return None;
    }
    let rest = bytes.get(V6_HEADER..)?;
    let mut rest = match usize::from(ip.get_payload_length()) {
        0 => rest,
        length => &rest[..length.min(rest.len())],
    };
    let mut next = ip.get_next_header();
    let mut fragment = None;
    for _ in 0..MAX_EXTENSIONS {
        let length = match next {
            IpNextHeaderProtocols::Hopopt
            | IpNextHeaderProtocols::Ipv6Route
            | IpNextHeaderProtocols::Ipv6Opts => {
                let extension = ExtensionPacket::new(rest)?;
                next = extension.get_next_header();
                usize::from(extension.get_hdr_ext_len()) * 8 + 8
            }
            IpNextHeaderProtocols::Ipv6Frag => {
                let header = FragmentPacket::new(rest)?;
                next = header.get_next_header();
                let word = header.get_fragment_offset_with_flags();
                fragment = Some(Fragment {
                    offset: word & !7,
                    more: word & 1 != 0,
                });
                FRAGMENT_HEADER
            }
            _ => break,
        };
        rest = rest.get(length..)?;
        if fragment.is_some_and(|f| f.offset > 0) {
            break;
        }
    }
    Some(Ip {
        source: ip.get_source().into(),
        destination: ip.get_destination().into(),
        transport: transport(next, rest, fragment),
        fragment,
    })
}

/// What stands behind the headers of IP: in a later fragment, bytes of no meaning by themselves.
fn transport(
    protocol: IpNextHeaderProtocol,
    bytes: &[u8],
    fragment: Option<Fragment>,
) -> Transport {
    match fragment {
        Some(Fragment { offset: 1.., .. }) => Transport::Protocol(protocol.0),
        _ => transport::read(protocol, bytes),
    }
}

impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport.ports() {
            Some((from, to)) => write!(
                f,
                "{}.{from} > {}.{to}: {}",
                self.source, self.destination, self.transport
            ),
            None => write!(
                f,
                "{} > {}: {}",
                self.source, self.destination, self.transport
            ),
        }?;
        match self.fragment {
            Some(Fragment { offset, more }) => {
                let more = if more { ", more follow" } else { "" };
                write!(f, ", fragment at {offset}{more}")
            }
            None => Ok(()),
        }
    }
}
