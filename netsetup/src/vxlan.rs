//! VXLANs (RFC 7348): Ethernet carried over UDP, between hosts. Attached to a bridge, one joins a
//! LAN here with a LAN elsewhere.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use nix::errno::Errno;
use pnet_base::MacAddr;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{LinkMessageBuilder, LinkVxlan};
use serde::Serialize;

use crate::change::not_a;
use crate::error::{Error, Result};
use crate::link::{LinkInfo, LinkKind};
use crate::mac::{random_mac, require_unicast};
use crate::name::InterfaceName;
use crate::netlink::CREATE;
use crate::{Change, NetSetup};

/// The UDP port IANA gave to VXLAN. (The kernel's own default, 8472, is older than that.)
pub const VXLAN_PORT: u16 = 4789;

/// A VXLAN network identifier: 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Vni(u32);

/// Not a VXLAN network identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no VXLAN network identifier: those are the numbers 0 to 16777215")]
pub struct InvalidVni(String);

impl Vni {
    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = InvalidVni;

    fn try_from(number: u32) -> Result<Self, InvalidVni> {
        if number < 1 << 24 {
            Ok(Self(number))
        } else {
            Err(InvalidVni(number.to_string()))
        }
    }
}

impl FromStr for Vni {
    type Err = InvalidVni;

    fn from_str(text: &str) -> Result<Self, InvalidVni> {
        text.parse::<u32>()
            .map_err(|_| InvalidVni(text.to_owned()))?
            .try_into()
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a VXLAN is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanOptions {
    /// Which of the segments that share the UDP port.
    pub vni: Vni,
    /// Where frames go whose receiver is not known yet: the one other host, or a multicast group
    /// (which needs a `device`). Without one, forwarding entries must be added by hand.
    pub remote: Option<IpAddr>,
    /// This host's address in the tunnel; if none is given, routing picks it.
    pub local: Option<IpAddr>,
    /// The interface its packets leave by; if none is given, routing picks it.
    pub device: Option<InterfaceName>,
    /// UDP port of the tunnel, at both ends.
    pub port: u16,
    /// MAC address of the host's own end; random if none is given.
    pub mac: Option<MacAddr>,
    /// In bytes without the Ethernet header. If none is given the kernel takes what fits into the
    /// device's.
    pub mtu: Option<u32>,
}

impl VxlanOptions {
    /// A segment with nobody else in it, on the usual port.
    pub fn new(vni: Vni) -> Self {
        Self {
            vni,
            remote: None,
            local: None,
            device: None,
            port: VXLAN_PORT,
            mac: None,
            mtu: None,
        }
    }

    fn validate(&self, operation: impl Fn() -> String) -> Result<()> {
        if let Some(mac) = self.mac {
            require_unicast(mac, &operation)?;
        }
        let because = |reason: &str| Err(Error::contradiction(operation(), reason));
        match (self.remote, self.local) {
            (Some(remote), Some(local)) if remote.is_ipv4() != local.is_ipv4() => {
                because("its local and remote addresses are not of the same family")
            }
            (Some(remote), _) if remote.is_multicast() && self.device.is_none() => {
                because("a multicast group needs the device it is to be joined on")
            }
            (_, Some(local)) if local.is_multicast() => {
                because("its local address is a multicast address")
            }
            _ => Ok(()),
        }
    }

    fn message(
        &self,
        name: &InterfaceName,
        device: Option<u32>,
    ) -> Result<LinkMessageBuilder<LinkVxlan>> {
        let mac = self.mac.map_or_else(random_mac, Ok)?;
        let mut message = LinkVxlan::new(name.as_str(), self.vni.get())
            .address(mac.octets().to_vec())
            .port(self.port);
        message = match self.remote {
            Some(IpAddr::V4(ip)) => message.remote(ip),
            Some(IpAddr::V6(ip)) => message.remote6(ip),
            None => message,
        };
        message = match self.local {
            Some(IpAddr::V4(ip)) => message.local(ip),
            Some(IpAddr::V6(ip)) => message.local6(ip),
            None => message,
        };
        if let Some(index) = device {
            message = message.dev(index);
        }
        if let Some(mtu) = self.mtu {
            message = message.mtu(mtu);
        }
        Ok(message)
    }

    /// Whether what is there is what is asked for.
    fn require(
        &self,
        found: &LinkInfo,
        device: Option<u32>,
        operation: impl Fn() -> String,
    ) -> Result<()> {
        let (LinkKind::Vxlan, Some(has)) = (&found.kind, &found.vxlan) else {
            return Err(not_a(LinkKind::Vxlan, found, operation()));
        };
        let differs = |what: String| {
            Err(Error::in_the_way(
                operation(),
                format!("it exists, but {what}"),
            ))
        };
        let or_none = |ip: Option<IpAddr>| ip.map_or("none".to_owned(), |ip| ip.to_string());
        if has.vni != Some(self.vni.get()) {
            differs(format!(
                "its network identifier is {}",
                has.vni.unwrap_or_default()
            ))
        } else if has.port != Some(self.port) {
            differs(format!("its UDP port is {}", has.port.unwrap_or_default()))
        } else if has.remote != self.remote {
            differs(format!("its remote address is {}", or_none(has.remote)))
        } else if has.local != self.local {
            differs(format!("its local address is {}", or_none(has.local)))
        } else if found.lower_index != device {
            differs("it leaves by another device".into())
        } else if self.mac.is_some() && self.mac != found.mac {
            differs(format!(
                "its MAC address is {}",
                found.mac.unwrap_or_default()
            ))
        } else if self.mtu.is_some_and(|mtu| mtu != found.mtu) {
            differs(format!("its MTU is {}", found.mtu))
        } else {
            Ok(())
        }
    }
}

impl NetSetup {
    /// Makes a VXLAN, down. `Unchanged` if there is one of this name that is as asked.
    ///
    /// # Errors
    /// The name is taken by something else, or by a VXLAN with other settings; the device does not
    /// exist; the options contradict themselves; the kernel's refusal (the identifier and port may
    /// be another VXLAN's).
    pub fn create_vxlan(&self, name: &InterfaceName, options: &VxlanOptions) -> Result<Change> {
        let operation = || format!("create VXLAN {name}");
        options.validate(operation)?;
        let device = match &options.device {
            Some(device) => Some(self.existing(device, operation)?.index),
            None => None,
        };
        if let Some(found) = self.link(name)? {
            options.require(&found, device, operation)?;
            return Ok(Change::Unchanged);
        }
        let message = RouteNetlinkMessage::NewLink(options.message(name, device)?.build());
        match self.call(message, CREATE, operation) {
            Err(e) if e.is(Errno::EEXIST) => match self.link(name)? {
                // Somebody else was quicker.
                Some(found) => options
                    .require(&found, device, operation)
                    .map(|()| Change::Unchanged),
                None => {
                    let taken = format!(
                        "another VXLAN has network identifier {} on UDP port {}",
                        options.vni, options.port
                    );
                    Err(Error::in_the_way(operation(), taken))
                }
            },
            answer => answer.map(|_| Change::Changed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_has_twenty_four_bits() {
        assert_eq!("16777215".parse::<Vni>().unwrap().get(), 0xff_ffff);
        for bad in ["16777216", "-1", "", "0x10"] {
            assert!(bad.parse::<Vni>().unwrap_err().to_string().contains(bad));
        }
    }

    #[test]
    fn what_cannot_be_is_refused_before_the_kernel_is_asked() {
        let plain = VxlanOptions::new(Vni(1));
        let ip = |text: &str| Some(text.parse().unwrap());
        assert!(plain.validate(String::new).is_ok());
        for bad in [
            VxlanOptions {
                remote: ip("192.0.2.1"),
                local: ip("2001:db8::1"),
                ..plain.clone()
            },
            VxlanOptions {
                remote: ip("239.0.0.1"),
                ..plain.clone()
            },
            VxlanOptions {
                local: ip("ff02::1"),
                ..plain.clone()
            },
        ] {
            assert!(bad.validate(String::new).is_err(), "{bad:?}");
        }
    }
}
