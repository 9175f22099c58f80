//! A network interface's wire: a port on a sharenet, or a tap.

use std::sync::Arc;

use lgswitch::{CreateOptions, MacAddr, Port, PortOptions, Segment};
use netsetup::{
    LinkKind, MacvtapMode, MacvtapOpening, MacvtapOptions, NetSetup, Tap, TapOptions, TapPlan,
};

use crate::error::Error;
use crate::plan::device::{NetPlan, Wire};

/// A network interface, its wire plugged in.
#[derive(Debug)]
pub struct NetDevice {
    /// The guest end's address.
    pub mac: MacAddr,
    /// The host end's address, of a tap.
    pub host_mac: Option<MacAddr>,
    /// The largest packet the wire takes, in bytes without the Ethernet header.
    pub mtu: u32,
    /// The wire.
    pub link: Link,
}

/// The wire, held open.
#[derive(Debug)]
pub enum Link {
    /// Our port on a sharenet. Dropping it frees its slot.
    Sharenet(Box<Port>),
    /// The tap whose other end is in the host, or the macvtap whose other end is its interface's wire.
    /// Closing it removes it. Frames carry a virtio-net header of 12 bytes.
    Tap(Tap),
}

/// What an engine makes of its guests' interfaces.
#[derive(Debug, Clone, Copy)]
pub struct Interfaces {
    /// On a sharenet it is the guest that says where it is, on the peers page, not the port.
    pub guest_writes_address: bool,
    /// How many queues the guest may use, each way.
    pub queues: u16,
}

impl Default for Interfaces {
    fn default() -> Self {
        Self {
            guest_writes_address: false,
            queues: 1,
        }
    }
}

impl NetDevice {
    /// Plugs in interface number `number` of the guest.
    ///
    /// # Errors
    /// The sharenet can't be joined or made, the tap not made or not attached.
    pub fn open(plan: &NetPlan, number: usize, interfaces: Interfaces) -> Result<Self, Error> {
        let mac = match plan.mac {
            Some(mac) => mac,
            None => netsetup::random_mac()?,
        };
        match &plan.wire {
            Wire::Sharenet { segment, slot } => {
                let segment: Arc<Segment> =
                    Segment::open_or_create(&segment.path(), &CreateOptions::default())?;
                let mtu = segment.mtu();
                let port = segment.port(PortOptions {
                    mac: Some(mac),
                    slot: *slot,
                    guest_writes_address: interfaces.guest_writes_address,
                    name: format!("eth{number}"),
                    ..Default::default()
                })?;
                Ok(Self {
                    mac,
                    host_mac: None,
                    mtu,
                    link: Link::Sharenet(Box::new(port)),
                })
            }
            Wire::Host(address) => Self::tap(
                mac,
                TapPlan {
                    addresses: vec![*address],
                    up: true,
                    ..Default::default()
                },
                interfaces,
            ),
            Wire::Bridge(bridge) => Self::tap(
                mac,
                TapPlan {
                    bridge: Some(bridge.clone()),
                    up: true,
                    ..Default::default()
                },
                interfaces,
            ),
            Wire::Macvtap(lower) => {
                let net = NetSetup::new()?;
                let mtu = net.link(lower)?.map_or(1500, |link| link.mtu);
                let options = MacvtapOptions {
                    lower: lower.clone(),
                    mode: MacvtapMode::Bridge,
                    mac: Some(mac),
                };
                let opening = MacvtapOpening {
                    vnet_hdr: true,
                    queues: interfaces.queues,
                    nonblocking: false,
                };
                Ok(Self {
                    mac,
                    host_mac: None,
                    mtu,
                    link: Link::Tap(net.setup_macvtap(&options, opening)?),
                })
            }
        }
    }

    fn tap(mac: MacAddr, plan: TapPlan, interfaces: Interfaces) -> Result<Self, Error> {
        let net = NetSetup::new()?;
        let tap = net.setup_tap(&TapPlan {
            tap: TapOptions {
                vnet_hdr: true,
                queues: interfaces.queues,
                ..plan.tap
            },
            ..plan
        })?;
        let link = net.link(&tap.name)?;
        Ok(Self {
            mac,
            host_mac: link.as_ref().and_then(|link| link.mac),
            mtu: link.map_or(1500, |link| link.mtu),
            link: Link::Tap(tap),
        })
    }
}

/// Checks a wire without making anything: a sharenet that is there can be opened, a bridge is one, an
/// interface is there. Only the doing shows the rest: privileges, a free slot.
///
/// # Errors
/// The sharenet is something else, or the bridge is missing or something else, or the interface is.
pub(super) fn check(plan: &NetPlan) -> Result<(), Error> {
    match &plan.wire {
        Wire::Sharenet { segment, .. } => match Segment::open_read_only(&segment.path()) {
            // It would be made.
            Ok(_) | Err(lgswitch::Error::Missing(_)) => Ok(()),
            Err(error) => Err(error.into()),
        },
        Wire::Bridge(bridge) => match NetSetup::new()?.link(bridge)? {
            Some(link) if link.kind == LinkKind::Bridge => Ok(()),
            Some(link) => Err(Error::NotABridge {
                name: bridge.clone(),
                kind: link.kind,
            }),
            None => Err(Error::NoBridge(bridge.clone())),
        },
        Wire::Macvtap(lower) => match NetSetup::new()?.link(lower)? {
            Some(_) => Ok(()),
            None => Err(Error::NoInterface(lower.clone())),
        },
        Wire::Host(_) => Ok(()),
    }
}
