//! A packet in one line: what tcpdump would tell of it, without the details.
//!
//! Each layer is read by `pnet_packet`, out of bytes that are known to be there, and says no more
//! than what they tell. Bytes come from anyone and may be anything: what makes no sense is
//! called malformed, and that is all that can come of it.

mod ip;
mod transport;

use std::fmt;
use std::net::Ipv4Addr;

use pnet_base::MacAddr;
use pnet_packet::Packet;
use pnet_packet::arp::{ArpHardwareTypes, ArpOperations, ArpPacket};
use pnet_packet::ethernet::{EtherTypes, EthernetPacket};
use pnet_packet::vlan::VlanPacket;
use serde::{Serialize, Serializer};

pub use ip::{Fragment, Ip};
pub use transport::{Icmp, Tcp, Transport, Udp};

/// Tags that are looked behind: two is what networks use.
const MAX_TAGS: usize = 4;
/// Below this, an Ethernet header's type is a length (IEEE 802.3, 3.2.6).
const FIRST_TYPE: u16 = 0x600;

/// What is told of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Bytes, Ethernet header included.
    pub length: usize,
    /// Source address.
    #[serde(serialize_with = "as_text")]
    pub from: MacAddr,
    /// Destination address.
    #[serde(serialize_with = "as_text")]
    pub to: MacAddr,
    /// Identifiers of 802.1Q tags, outermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vlan: Vec<u16>,
    /// What it carries.
    #[serde(flatten)]
    pub payload: Payload,
}

/// What an Ethernet frame carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// IPv4 or IPv6.
    Ip(Ip),
    /// ARP for IPv4.
    Arp(Arp),
    /// Something else, by its type.
    Ethertype(u16),
    /// IEEE 802.2, by its length.
    Llc(u16),
    /// Something of that name that makes no sense.
    Malformed(&'static str),
}

/// An ARP packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Arp {
    /// 1 request, 2 reply.
    pub operation: u16,
    /// The sender's IP address.
    pub sender: Ipv4Addr,
    /// The sender's MAC.
    #[serde(serialize_with = "as_text")]
    pub sender_mac: MacAddr,
    /// The IP address it is about.
    pub target: Ipv4Addr,
}

fn as_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

impl Summary {
    /// Reads a frame.
    pub fn of(frame: &[u8]) -> Self {
        let Some(ethernet) = EthernetPacket::new(frame) else {
            return Self {
                length: frame.len(),
                from: MacAddr::zero(),
                to: MacAddr::zero(),
                vlan: Vec::new(),
                payload: Payload::Malformed("Ethernet"),
            };
        };
        let mut ethertype = ethernet.get_ethertype();
        let mut rest = ethernet.payload();
        let mut vlan = Vec::new();
        while matches!(ethertype, EtherTypes::Vlan | EtherTypes::PBridge)
            && vlan.len() < MAX_TAGS
            && let Some(tag) = VlanPacket::new(rest)
        {
            vlan.push(tag.get_vlan_identifier());
            ethertype = tag.get_ethertype();
            rest = rest.get(VlanPacket::minimum_packet_size()..).unwrap_or(&[]);
        }
        let payload = match ethertype {
            EtherTypes::Ipv4 => ip::v4(rest).map_or(Payload::Malformed("IPv4"), Payload::Ip),
            EtherTypes::Ipv6 => ip::v6(rest).map_or(Payload::Malformed("IPv6"), Payload::Ip),
            EtherTypes::Arp => arp(rest),
            EtherTypes::Vlan | EtherTypes::PBridge => Payload::Malformed("tag"),
            other if other.0 < FIRST_TYPE => Payload::Llc(other.0),
            other => Payload::Ethertype(other.0),
        };
        Self {
            length: frame.len(),
            from: ethernet.get_source(),
            to: ethernet.get_destination(),
            vlan,
            payload,
        }
    }
}

/// Reads ARP, of the one kind there is: IPv4 over Ethernet (RFC 826).
fn arp(bytes: &[u8]) -> Payload {
    let Some(arp) = ArpPacket::new(bytes) else {
        return Payload::Malformed("ARP");
    };
    let kind = (
        arp.get_hardware_type(),
        arp.get_protocol_type(),
        arp.get_hw_addr_len(),
        arp.get_proto_addr_len(),
    );
    if kind != (ArpHardwareTypes::Ethernet, EtherTypes::Ipv4, 6, 4) {
        return Payload::Malformed("ARP");
    }
    Payload::Arp(Arp {
        operation: arp.get_operation().0,
        sender: arp.get_sender_proto_addr(),
        sender_mac: arp.get_sender_hw_addr(),
        target: arp.get_target_proto_addr(),
    })
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}, ", self.from, self.to)?;
        for id in &self.vlan {
            write!(f, "vlan {id}, ")?;
        }
        write!(f, "length {}: {}", self.length, self.payload)
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Payload::Ip(ip) => ip.fmt(f),
            Payload::Arp(arp) => arp.fmt(f),
            Payload::Ethertype(ethertype) => write!(f, "ethertype {ethertype:#06x}"),
            Payload::Llc(length) => write!(f, "802.2, length {length}"),
            Payload::Malformed(what) => write!(f, "malformed {what}"),
        }
    }
}

impl fmt::Display for Arp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sender, target) = (self.sender, self.target);
        if self.operation == ArpOperations::Request.0 {
            write!(f, "ARP who-has {target} tell {sender}")
        } else if self.operation == ArpOperations::Reply.0 {
            write!(f, "ARP reply {sender} is-at {}", self.sender_mac)
        } else {
            write!(f, "ARP operation {}", self.operation)
        }
    }
}

#[cfg(test)]
mod tests;
