//! Addresses as an interface holds them: an address *and* the length of its network prefix
//! (`192.168.19.1/24`), and the netlink messages that add and remove them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use rtnetlink::AddressMessageBuilder;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use serde::{Serialize, Serializer};

use crate::error::{Error, Result};
use crate::link::LinkInfo;
use crate::name::InterfaceName;
use crate::netlink::{CHANGE, CREATE, DUMP};
use crate::{Change, NetSetup};

/// An address and the length of its prefix, as in `192.168.19.1/24` or `fd00::1/64`. It can be
/// given to an interface: it is neither unspecified, nor multicast, nor broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceAddress {
    ip: IpAddr,
    prefix_len: u8,
}

/// Why a text is not an address an interface can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address for an interface: {reason}")]
pub struct InvalidAddress {
    text: String,
    reason: &'static str,
}

impl InterfaceAddress {
    /// An address with the length of its prefix in bits.
    ///
    /// # Errors
    /// An unspecified, multicast or broadcast address, or a prefix longer than the address.
    pub fn new(ip: IpAddr, prefix_len: u8) -> Result<Self, InvalidAddress> {
        let invalid = |reason| {
            Err(InvalidAddress {
                text: format!("{ip}/{prefix_len}"),
                reason,
            })
        };
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        if prefix_len > bits {
            invalid("the prefix is longer than the address")
        } else if ip.is_unspecified() {
            invalid("it is the unspecified address")
        } else if ip.is_multicast() {
            invalid("it is a multicast address")
        } else if ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            invalid("it is the broadcast address")
        } else {
            Ok(Self { ip, prefix_len })
        }
    }

    /// Reads an address that may come without a prefix, as the seed's `--tunnet=<ip>` takes it.
    /// Without one, IPv4 gets its class's (what `SIOCSIFADDR` gives: /8, /16 or /24) and IPv6
    /// gets /64.
    ///
    /// # Errors
    /// As [`InterfaceAddress::from_str`], save for the missing prefix.
    pub fn parse_classful(text: &str) -> Result<Self, InvalidAddress> {
        match text.parse::<IpAddr>() {
            Ok(ip) => Self::new(ip, classful_prefix(ip)),
            Err(_) => text.parse(),
        }
    }

    /// The address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Length of the prefix, in bits.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// The request that names this address on the link `index`.
    fn message(&self, index: u32) -> AddressMessage {
        match self.ip {
            IpAddr::V4(ip) => AddressMessageBuilder::<Ipv4Addr>::new()
                .index(index)
                .address(ip, self.prefix_len)
                .build(),
            IpAddr::V6(ip) => AddressMessageBuilder::<Ipv6Addr>::new()
                .index(index)
                .address(ip, self.prefix_len)
                .build(),
        }
    }

    /// What the kernel reports. `None` if the answer holds no usable address: it is then not one
    /// of ours to show.
    pub(crate) fn from_message(message: &AddressMessage) -> Option<Self> {
        // On a point-to-point link IFA_ADDRESS is the other end; IFA_LOCAL, if there, is ours.
        let local = message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        });
        let address = message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        });
        Self::new(local.or(address)?, message.header.prefix_len).ok()
    }
}

/// RFC 791, section 3.2: the class is in the first bits of the address. (Classes D and E have no
/// prefix; D is refused later, E is given the whole address.)
fn classful_prefix(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V6(_) => 64,
        IpAddr::V4(ip) => match ip.octets()[0] {
            0..=127 => 8,
            128..=191 => 16,
            192..=223 => 24,
            224..=255 => 32,
        },
    }
}

impl FromStr for InterfaceAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = |reason| InvalidAddress {
            text: text.to_owned(),
            reason,
        };
        let (ip, prefix_len) = text.split_once('/').ok_or_else(|| {
            invalid("write it with its prefix, as in 192.168.19.1/24 or fd00::1/64")
        })?;
        let ip = ip
            .parse::<IpAddr>()
            .map_err(|_| invalid("what stands before the / is no IPv4 or IPv6 address"))?;
        // `u8::from_str` would take "+8".
        if !prefix_len.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid("what stands after the / is no number"));
        }
        let prefix_len = prefix_len
            .parse::<u8>()
            .map_err(|_| invalid("what stands after the / is no prefix length"))?;
        Self::new(ip, prefix_len).map_err(|e| InvalidAddress {
            text: text.to_owned(),
            ..e
        })
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.ip, self.prefix_len))
    }
}

impl Serialize for InterfaceAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl NetSetup {
    /// The addresses a link has.
    ///
    /// # Errors
    /// There is no such link, or the kernel's refusal.
    pub fn addresses(&self, link: &InterfaceName) -> Result<Vec<InterfaceAddress>> {
        Ok(self
            .existing(link, || format!("list the addresses of {link}"))?
            .addresses)
    }

    /// Gives a link an address. `Unchanged` if it has it already.
    ///
    /// # Errors
    /// There is no such link; it has the address with another prefix (IPv6 allows one only); the
    /// kernel's refusal.
    pub fn add_address(&self, link: &InterfaceName, address: InterfaceAddress) -> Result<Change> {
        let operation = || format!("give {link} the address {address}");
        let info = self.existing(link, operation)?;
        if info.addresses.contains(&address) {
            return Ok(Change::Unchanged);
        }
        if let Some(other) = info
            .addresses
            .iter()
            .find(|a| address.ip.is_ipv6() && a.ip == address.ip)
        {
            return Err(Error::in_the_way(
                operation(),
                format!("{link} has that address as {other}"),
            ));
        }
        let message = RouteNetlinkMessage::NewAddress(address.message(info.index));
        match self.call(message, CREATE, operation) {
            // Somebody else was quicker: it is there, which is what was asked.
            Err(e) if e.is(nix::errno::Errno::EEXIST) => Ok(Change::Unchanged),
            answer => answer.map(|_| Change::Changed),
        }
    }

    /// Takes an address from a link. `Unchanged` if the link does not have it.
    ///
    /// # Errors
    /// There is no such link, or the kernel's refusal.
    pub fn remove_address(
        &self,
        link: &InterfaceName,
        address: InterfaceAddress,
    ) -> Result<Change> {
        let operation = || format!("take the address {address} from {link}");
        let info = self.existing(link, operation)?;
        if !info.addresses.contains(&address) {
            return Ok(Change::Unchanged);
        }
        let message = RouteNetlinkMessage::DelAddress(address.message(info.index));
        match self.call(message, CHANGE, operation) {
            Err(e) if e.is(nix::errno::Errno::EADDRNOTAVAIL) => Ok(Change::Unchanged),
            answer => answer.map(|_| Change::Changed),
        }
    }

    /// Fills in the addresses of these links from one dump.
    pub(crate) fn read_addresses(&self, links: &mut [LinkInfo]) -> Result<()> {
        // With one link the kernel filters by its index (NETLINK_GET_STRICT_CHK is on).
        let mut filter = AddressMessage::default();
        if let [link] = links {
            filter.header.index = link.index;
        }
        let answers = self.call(RouteNetlinkMessage::GetAddress(filter), DUMP, || {
            "list the addresses of the links".to_owned()
        });
        let answers = match answers {
            // The one link asked about went away meanwhile.
            Err(e) if e.is(nix::errno::Errno::ENODEV) => return Ok(()),
            answers => answers?,
        };
        for answer in answers {
            let RouteNetlinkMessage::NewAddress(message) = answer else {
                continue;
            };
            let Some(address) = InterfaceAddress::from_message(&message) else {
                continue;
            };
            if let Some(link) = links.iter_mut().find(|l| l.index == message.header.index) {
                link.addresses.push(address);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_its_host_part() {
        for text in [
            "192.168.19.1/24",
            "10.0.0.1/32",
            "0.1.2.3/0",
            "fd00::1/64",
            "fe80::1/128",
        ] {
            assert_eq!(text.parse::<InterfaceAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_bad_address_is_explained() {
        for (text, why) in [
            ("", "with its prefix"),
            ("192.168.19.1", "with its prefix"),
            ("192.168.19/24", "no IPv4"),
            ("192.168.19.256/24", "no IPv4"),
            ("192.168.19.1/", "no prefix length"),
            ("192.168.19.1/+8", "no number"),
            ("192.168.19.1/33", "longer"),
            ("192.168.19.1/999", "no prefix length"),
            ("fd00::1/129", "longer"),
            ("0.0.0.0/0", "unspecified"),
            ("::/0", "unspecified"),
            ("224.0.0.1/4", "multicast"),
            ("ff02::1/64", "multicast"),
            ("255.255.255.255/32", "broadcast"),
        ] {
            let error = text.parse::<InterfaceAddress>().unwrap_err().to_string();
            assert!(
                error.contains(why) && error.contains(&format!("{text:?}")),
                "{error}"
            );
        }
    }

    #[test]
    fn an_address_without_prefix_gets_its_class() {
        for (text, full) in [
            ("10.1.2.3", "10.1.2.3/8"),
            ("172.16.0.1", "172.16.0.1/16"),
            ("192.168.19.1", "192.168.19.1/24"),
            ("192.168.19.1/30", "192.168.19.1/30"),
            ("fd00::1", "fd00::1/64"),
        ] {
            assert_eq!(
                InterfaceAddress::parse_classful(text).unwrap().to_string(),
                full
            );
        }
        assert!(InterfaceAddress::parse_classful("224.0.0.1").is_err());
        assert!(InterfaceAddress::parse_classful("bridge").is_err());
    }

    #[test]
    fn an_answer_without_an_address_is_no_address() {
        assert_eq!(
            InterfaceAddress::from_message(&AddressMessage::default()),
            None
        );
    }
}
