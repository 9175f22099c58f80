//! The settings of the kinds of link this crate makes, read out of `IFLA_INFO_DATA`. An attribute
//! that is missing or too short leaves its setting as nothing, off or zero.

use std::net::IpAddr;
use std::time::Duration;

use rtnetlink::packet_core::{DefaultNla, Nla};
use rtnetlink::packet_route::link::{BridgeStpState, InfoBridge, InfoTun, InfoVxlan};
use serde::{Serialize, Serializer};

/// A tap's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TapSettings {
    /// The user who may open it without `CAP_NET_ADMIN`.
    pub owner: Option<u32>,
    /// The group who may open it without `CAP_NET_ADMIN`.
    pub group: Option<u32>,
    /// Whether frames carry a virtio-net header.
    pub vnet_hdr: bool,
    /// Whether it may be opened several times, one queue each.
    pub multi_queue: bool,
    /// Whether it outlives its last file descriptor.
    pub persistent: bool,
}

/// A bridge's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BridgeSettings {
    /// Whether the spanning tree protocol runs.
    pub stp: bool,
    /// Whether it tells VLANs apart.
    pub vlan_filtering: bool,
    /// How long it remembers where a MAC address was seen.
    #[serde(serialize_with = "seconds")]
    pub ageing: Duration,
}

/// A VXLAN's settings. What an answer left out is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VxlanSettings {
    /// Network identifier.
    pub vni: Option<u32>,
    /// The other host, or the multicast group.
    pub remote: Option<IpAddr>,
    /// This host's address in the tunnel.
    pub local: Option<IpAddr>,
    /// UDP port.
    pub port: Option<u16>,
}

fn seconds<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(value.as_secs_f64())
}

/// Netlink gives a bridge's times in `clock_t`, hundredths of a second on every architecture
/// (`USER_HZ`).
pub(crate) const CLOCK_TICK: Duration = Duration::from_millis(10);

impl TapSettings {
    /// Reads `IFLA_TUN_*` of `linux/if_link.h`, which netlink-packet-route leaves raw. `None` if it
    /// is a tun, not a tap.
    pub(super) fn from_data(data: &[InfoTun]) -> Option<Self> {
        let mut settings = Self::default();
        for attribute in data {
            let InfoTun::Other(attribute) = attribute else {
                continue;
            };
            let byte = || u8_of(attribute).unwrap_or_default();
            match attribute.kind() {
                1 => settings.owner = u32_of(attribute),
                2 => settings.group = u32_of(attribute),
                // IFF_TUN is 1, IFF_TAP is 2. (Missing before 4.17: then a tap, the more common.)
                3 if byte() == 1 => return None,
                5 => settings.vnet_hdr = byte() != 0,
                6 => settings.persistent = byte() != 0,
                7 => settings.multi_queue = byte() != 0,
                _ => {}
            }
        }
        Some(settings)
    }
}

impl BridgeSettings {
    pub(super) fn from_data(data: &[InfoBridge]) -> Self {
        let mut settings = Self::default();
        for attribute in data {
            match attribute {
                InfoBridge::StpState(state) => settings.stp = *state != BridgeStpState::Disabled,
                InfoBridge::VlanFiltering(on) => settings.vlan_filtering = *on,
                InfoBridge::AgeingTime(ticks) => settings.ageing = CLOCK_TICK * *ticks,
                _ => {}
            }
        }
        settings
    }
}

impl VxlanSettings {
    pub(super) fn from_data(data: &[InfoVxlan]) -> Self {
        let mut settings = Self::default();
        for attribute in data {
            match attribute {
                InfoVxlan::Id(vni) => settings.vni = Some(*vni),
                InfoVxlan::Group(ip) => settings.remote = Some((*ip).into()),
                InfoVxlan::Group6(ip) => settings.remote = Some((*ip).into()),
                InfoVxlan::Local(ip) => settings.local = Some((*ip).into()),
                InfoVxlan::Local6(ip) => settings.local = Some((*ip).into()),
                InfoVxlan::Port(port) => settings.port = Some(*port),
                _ => {}
            }
        }
        settings
    }
}

fn value_of(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}

fn u8_of(attribute: &DefaultNla) -> Option<u8> {
    value_of(attribute).first().copied()
}

fn u32_of(attribute: &DefaultNla) -> Option<u32> {
    value_of(attribute).try_into().ok().map(u32::from_ne_bytes)
}
