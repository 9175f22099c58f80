//! Veth pairs: two links with a virtual cable between them, each in a namespace of its own if
//! wanted. The way to give a namespace a place on a bridge.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use pnet_base::MacAddr;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use crate::change::not_a;
use crate::error::{Error, Result};
use crate::link::{LinkInfo, LinkKind};
use crate::mac::{random_mac, require_unicast};
use crate::name::InterfaceName;
use crate::netlink::CREATE;
use crate::netns::Netns;
use crate::{Change, NetSetup};

/// One end of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethEnd {
    /// Its name.
    pub name: InterfaceName,
    /// Its MAC address; random if none is given.
    pub mac: Option<MacAddr>,
}

impl NetSetup {
    /// Makes a pair, both ends down: `near` in this namespace, `far` in `far_netns` or here as
    /// well. `Unchanged` if `near` is one end of a pair whose other end is called `far`, there,
    /// with the MAC addresses that were asked for.
    ///
    /// # Errors
    /// A name is taken by something else; a MAC address is not unicast; the kernel's refusal.
    pub fn create_veth(
        &self,
        near: &VethEnd,
        far: &VethEnd,
        far_netns: Option<&Netns>,
    ) -> Result<Change> {
        let operation = || format!("create veth pair {} and {}", near.name, far.name);
        for mac in [near.mac, far.mac].into_iter().flatten() {
            require_unicast(mac, operation)?;
        }
        if let Some(found) = self.link(&near.name)? {
            return self.require_pair(&found, near, far, far_netns, operation);
        }
        let near_mac = near.mac.map_or_else(random_mac, Ok)?;
        let far_mac = far.mac.map_or_else(random_mac, Ok)?;
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(far.name.as_str())
            .address(far_mac.octets().to_vec());
        if let Some(netns) = far_netns {
            peer = peer.setns_by_fd(netns.as_fd().as_raw_fd());
        }
        let message = LinkVeth::new(near.name.as_str(), far.name.as_str())
            .address(near_mac.octets().to_vec())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())))
            .build();
        match self.call(RouteNetlinkMessage::NewLink(message), CREATE, operation) {
            Err(e) if e.is(Errno::EEXIST) => {
                let obstacle = format!(
                    "one of the names is taken; `ip link show {}` tells by what",
                    far.name
                );
                Err(Error::in_the_way(operation(), obstacle))
            }
            answer => answer.map(|_| Change::Changed),
        }
    }

    fn require_pair(
        &self,
        found: &LinkInfo,
        near: &VethEnd,
        far: &VethEnd,
        far_netns: Option<&Netns>,
        operation: impl Fn() -> String,
    ) -> Result<Change> {
        if found.kind != LinkKind::Veth {
            return Err(not_a(LinkKind::Veth, found, operation()));
        }
        let other_end = match far_netns {
            Some(netns) => netns.net_setup()?.link(&far.name)?,
            None => self.link(&far.name)?,
        };
        // Each end's IFLA_LINK is the index of the other.
        let paired = other_end.as_ref().is_some_and(|other| {
            other.kind == LinkKind::Veth
                && other.lower_index == Some(found.index)
                && found.lower_index == Some(other.index)
        });
        if !paired {
            let obstacle = format!(
                "{} exists, and its other end is not {} there",
                found.name, far.name
            );
            return Err(Error::in_the_way(operation(), obstacle));
        }
        let ends = [(near, Some(found)), (far, other_end.as_ref())];
        match ends
            .into_iter()
            .find(|(end, has)| end.mac.is_some() && end.mac != has.and_then(|link| link.mac))
        {
            Some((end, _)) => Err(Error::in_the_way(
                operation(),
                format!("{} exists with another MAC address", end.name),
            )),
            None => Ok(Change::Unchanged),
        }
    }
}
