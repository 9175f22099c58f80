//! Links (the kernel's word for network interfaces): what there is, and what each one is.
//!
//! A [`LinkInfo`] is read out of one `RTM_NEWLINK` answer (rtnetlink(7)); the settings of the
//! kinds this crate makes come along, so that an operation can tell "already as asked"
//! from "in the way".

mod settings;

use std::fmt;

use nix::errno::Errno;
use pnet_base::MacAddr;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoMacVtap, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo as Info,
    LinkMessage, MacVtapMode,
};
use serde::{Serialize, Serializer};

use crate::NetSetup;
use crate::address::InterfaceAddress;
use crate::error::{Error, Result};
use crate::name::InterfaceName;
use crate::netlink::{DUMP, GET};

pub(crate) use settings::CLOCK_TICK;
pub use settings::{BridgeSettings, TapSettings, VxlanSettings};

/// What a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkKind {
    /// Ethernet whose other end is a file descriptor.
    Tap,
    /// Layer 3 whose other end is a file descriptor.
    Tun,
    /// An Ethernet bridge.
    Bridge,
    /// One end of a virtual cable.
    Veth,
    /// Ethernet carried over UDP.
    Vxlan,
    /// A file descriptor's own MAC address on another link.
    Macvtap,
    /// A kind of software link this crate does not make, by the kernel's name for it.
    Other(String),
    /// No software link: hardware, or the loopback.
    Device,
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tap => "tap",
            Self::Tun => "tun",
            Self::Bridge => "bridge",
            Self::Veth => "veth",
            Self::Vxlan => "vxlan",
            Self::Macvtap => "macvtap",
            Self::Other(kind) => kind,
            Self::Device => "device",
        })
    }
}

impl Serialize for LinkKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What the kernel says about one link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LinkInfo {
    /// Its name, unique in the namespace.
    pub name: InterfaceName,
    /// Its number, which survives renaming.
    pub index: u32,
    /// What it is.
    pub kind: LinkKind,
    /// Its MAC address; none on links that have no Ethernet.
    #[serde(serialize_with = "display_option")]
    pub mac: Option<MacAddr>,
    /// Largest packet it carries, in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Whether it was set up (`IFF_UP`).
    pub up: bool,
    /// Whether something is at the other end: for a tap, a process that has it open.
    pub carrier: bool,
    /// The bridge (or other link) it is a port of.
    pub master: Option<InterfaceName>,
    /// The addresses it has.
    pub addresses: Vec<InterfaceAddress>,
    /// The tap's settings, where it is a tap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tap: Option<TapSettings>,
    /// The bridge's settings, where it is a bridge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<BridgeSettings>,
    /// The VXLAN's settings, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vxlan: Option<VxlanSettings>,
    /// Index of the master; named by [`LinkInfo::master`].
    #[serde(skip)]
    pub(crate) master_index: Option<u32>,
    /// Index of the link it sits on or is paired with, in whose namespace that is.
    #[serde(skip)]
    pub(crate) lower_index: Option<u32>,
    #[serde(skip)]
    pub(crate) macvtap_mode: Option<MacVtapMode>,
}

fn display_option<T: fmt::Display, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

impl LinkInfo {
    /// A link of this kind with nothing else known about it.
    #[cfg(test)]
    pub(crate) fn for_test(name: &str, kind: LinkKind, tap: Option<TapSettings>) -> Self {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        let link = Self::from_message(message).unwrap();
        Self { kind, tap, ..link }
    }

    /// Reads an answer. The error says what is missing from it.
    pub(crate) fn from_message(message: LinkMessage) -> Result<Self, String> {
        let name = message
            .attributes
            .iter()
            .find_map(|a| match a {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
            .ok_or_else(|| {
                format!(
                    "the kernel gave no name for interface {}",
                    message.header.index
                )
            })?;
        let mut link = Self {
            name: name
                .parse()
                .map_err(|e| format!("the kernel gave a name we cannot use: {e}"))?,
            index: message.header.index,
            kind: LinkKind::Device,
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            master: None,
            addresses: Vec::new(),
            tap: None,
            bridge: None,
            vxlan: None,
            master_index: None,
            lower_index: None,
            macvtap_mode: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::Address(bytes) => link.mac = crate::mac::from_bytes(&bytes),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Carrier(carrier) => link.carrier = carrier != 0,
                LinkAttribute::Controller(index) => link.master_index = Some(index),
                LinkAttribute::Link(index) => link.lower_index = Some(index),
                LinkAttribute::LinkInfo(info) => link.read_kind(info),
                _ => {}
            }
        }
        Ok(link)
    }

    fn read_kind(&mut self, info: Vec<Info>) {
        for part in info {
            match part {
                Info::Kind(kind) => {
                    self.kind = match kind {
                        // Until its data says otherwise.
                        InfoKind::Tun => LinkKind::Tap,
                        InfoKind::Bridge => LinkKind::Bridge,
                        InfoKind::Veth => LinkKind::Veth,
                        InfoKind::Vxlan => LinkKind::Vxlan,
                        InfoKind::MacVtap => LinkKind::Macvtap,
                        other => LinkKind::Other(other.to_string()),
                    }
                }
                Info::Data(InfoData::Tun(data)) => {
                    self.tap = TapSettings::from_data(&data);
                    if self.tap.is_none() {
                        self.kind = LinkKind::Tun;
                    }
                }
                Info::Data(InfoData::Bridge(data)) => {
                    self.bridge = Some(BridgeSettings::from_data(&data))
                }
                Info::Data(InfoData::Vxlan(data)) => {
                    // The device a VXLAN leaves by is a setting of its own, not the link's.
                    self.lower_index = data.iter().find_map(|d| match d {
                        InfoVxlan::Link(index) => Some(*index),
                        _ => None,
                    });
                    self.vxlan = Some(VxlanSettings::from_data(&data));
                }
                Info::Data(InfoData::MacVtap(data)) => {
                    self.macvtap_mode = data.iter().find_map(|d| match d {
                        InfoMacVtap::Mode(mode) => Some(*mode),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
    }
}

impl NetSetup {
    /// What the link of this name is; `None` if there is none.
    ///
    /// # Errors
    /// The kernel's answer did not come or made no sense.
    pub fn link(&self, name: &InterfaceName) -> Result<Option<LinkInfo>> {
        let mut query = LinkMessage::default();
        query
            .attributes
            .push(LinkAttribute::IfName(name.to_string()));
        let Some(link) = self.query_link(query, || format!("look up {name}"))? else {
            return Ok(None);
        };
        let mut links = [link];
        self.read_addresses(&mut links)?;
        let [mut link] = links;
        if let Some(index) = link.master_index {
            link.master = self.name_of(index)?;
        }
        Ok(Some(link))
    }

    /// All links of the namespace, in the order they were made.
    ///
    /// # Errors
    /// The kernel's answer did not come or made no sense.
    pub fn links(&self) -> Result<Vec<LinkInfo>> {
        let operation = || "list the interfaces".to_owned();
        let answers = self.call(
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            DUMP,
            operation,
        )?;
        let mut links = Vec::with_capacity(answers.len());
        for answer in answers {
            let RouteNetlinkMessage::NewLink(message) = answer else {
                continue;
            };
            match LinkInfo::from_message(message) {
                Ok(link) => links.push(link),
                // One link with a name nobody can type must not hide all others.
                Err(reason) => tracing::warn!("an interface is left out of the list: {reason}"),
            }
        }
        let names: Vec<_> = links.iter().map(|l| (l.index, l.name.clone())).collect();
        for link in &mut links {
            link.master = names
                .iter()
                .find(|(index, _)| Some(*index) == link.master_index)
                .map(|(_, n)| n.clone());
        }
        self.read_addresses(&mut links)?;
        Ok(links)
    }

    /// The link, or the error that it does not exist.
    pub(crate) fn existing(
        &self,
        name: &InterfaceName,
        operation: impl Fn() -> String,
    ) -> Result<LinkInfo> {
        self.link(name)?.ok_or_else(|| Error::NoSuchLink {
            operation: operation(),
            name: name.clone(),
        })
    }

    /// The name of the link with this index; `None` if it is gone.
    pub(crate) fn name_of(&self, index: u32) -> Result<Option<InterfaceName>> {
        let mut query = LinkMessage::default();
        query.header.index = index;
        Ok(self
            .query_link(query, || format!("look up interface {index}"))?
            .map(|link| link.name))
    }

    fn query_link(
        &self,
        query: LinkMessage,
        operation: impl Fn() -> String,
    ) -> Result<Option<LinkInfo>> {
        let answers = match self.call(RouteNetlinkMessage::GetLink(query), GET, &operation) {
            Err(e) if e.is(Errno::ENODEV) => return Ok(None),
            answers => answers?,
        };
        for answer in answers {
            if let RouteNetlinkMessage::NewLink(message) = answer {
                return LinkInfo::from_message(message)
                    .map(Some)
                    .map_err(|r| Error::answer(operation(), r));
            }
        }
        Err(Error::answer(
            operation(),
            "the kernel answered with something else",
        ))
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::DefaultNla;
    use rtnetlink::packet_route::link::InfoTun;

    use super::*;

    fn message(attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.attributes = attributes;
        message
    }

    #[test]
    fn an_answer_without_a_name_is_an_error_not_a_panic() {
        assert!(LinkInfo::from_message(LinkMessage::default()).is_err());
        assert!(
            LinkInfo::from_message(message(vec![LinkAttribute::IfName("a/b".into())])).is_err()
        );
    }

    #[test]
    fn a_bare_answer_is_a_device_with_nothing_known() {
        let link =
            LinkInfo::from_message(message(vec![LinkAttribute::IfName("eth0".into())])).unwrap();
        assert_eq!(
            (link.index, link.kind, link.mac, link.mtu, link.up),
            (7, LinkKind::Device, None, 0, false)
        );
    }

    #[test]
    fn short_tun_attributes_are_ignored() {
        let tun = [1, 3, 5, 6, 7]
            .map(|kind| InfoTun::Other(DefaultNla::new(kind, vec![])))
            .to_vec();
        let link = LinkInfo::from_message(message(vec![
            LinkAttribute::IfName("tap0".into()),
            LinkAttribute::Address(vec![2; 20]),
            LinkAttribute::LinkInfo(vec![
                Info::Kind(InfoKind::Tun),
                Info::Data(InfoData::Tun(tun)),
            ]),
        ]))
        .unwrap();
        assert_eq!(link.tap, Some(TapSettings::default()));
        assert_eq!(link.mac, None);
    }

    #[test]
    fn a_tun_is_not_a_tap() {
        let data = vec![InfoTun::Other(DefaultNla::new(3, vec![1]))];
        let link = LinkInfo::from_message(message(vec![
            LinkAttribute::IfName("tun0".into()),
            LinkAttribute::LinkInfo(vec![
                Info::Kind(InfoKind::Tun),
                Info::Data(InfoData::Tun(data)),
            ]),
        ]))
        .unwrap();
        assert_eq!((link.kind, link.tap), (LinkKind::Tun, None));
    }
}
