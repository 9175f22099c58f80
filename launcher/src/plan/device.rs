//! A device as wished for: `--sharenet` and `--tunnet` here, `--block` in [`super::disk`].
//!
//! The seed gave each option one value; additions stand behind it, each after a comma. They are
//! taken off from the right as long as they are known ones, so that a file whose name has a comma
//! in it still means what it meant.

use std::fmt;

use lgswitch::{SegmentName, SlotIndex};
use netsetup::{InterfaceAddress, InterfaceName};
use pnet_base::MacAddr;

use super::disk::BlockPlan;
use crate::cli::UsageError;

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DevicePlan {
    /// A network interface.
    Net(NetPlan),
    /// A disk.
    Block(BlockPlan),
}

/// A network interface of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetPlan {
    /// The address the guest's end shall have; drawn at random if none is given.
    pub mac: Option<MacAddr>,
    /// The wire it is on.
    pub wire: Wire,
}

/// What a network interface is plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wire {
    /// A port on a sharenet.
    Sharenet {
        /// Which sharenet.
        segment: SegmentName,
        /// Which slot of it; any free one if not said.
        slot: Option<SlotIndex>,
    },
    /// A tap whose host end has this address.
    Host(InterfaceAddress),
    /// A tap that is a port of this bridge.
    Bridge(InterfaceName),
    /// A macvtap on this interface.
    Macvtap(InterfaceName),
}

impl NetPlan {
    /// Reads the value of `--sharenet`: `<name>[,mac=…][,slot=N]`.
    ///
    /// # Errors
    /// A name, MAC or slot that is none.
    pub fn sharenet(value: &str) -> Result<Self, UsageError> {
        let (name, mut settings) = split_settings(value, &["mac", "slot"]);
        let segment = name.parse().map_err(UsageError::in_option("sharenet"))?;
        let mac = settings
            .take("mac")
            .map(|text| parse_mac("sharenet", text))
            .transpose()?;
        let slot = settings
            .take("slot")
            .map(str::parse)
            .transpose()
            .map_err(UsageError::in_option("sharenet"))?;
        settings.finish("sharenet")?;
        Ok(Self {
            mac,
            wire: Wire::Sharenet { segment, slot },
        })
    }

    /// Reads the value of `--tunnet`: `<ip>[/prefix][,mac=…]`, `bridge:<name>[,mac=…]` or
    /// `macvtap:<interface>[,mac=…]`. An address without a prefix gets its class's, as the seed's did.
    ///
    /// # Errors
    /// An address, name or MAC that is none.
    pub fn tunnet(value: &str) -> Result<Self, UsageError> {
        let (target, mut settings) = split_settings(value, &["mac"]);
        let mac = settings
            .take("mac")
            .map(|text| parse_mac("tunnet", text))
            .transpose()?;
        settings.finish("tunnet")?;
        let named = |name: &str, what| match name {
            "" => Err(UsageError(format!(
                "--tunnet={target} names no {what}; write it behind the colon"
            ))),
            name => name.parse().map_err(UsageError::in_option("tunnet")),
        };
        let wire = if let Some(bridge) = target.strip_prefix("bridge:") {
            Wire::Bridge(named(bridge, "bridge")?)
        } else if let Some(interface) = target.strip_prefix("macvtap:") {
            Wire::Macvtap(named(interface, "interface")?)
        } else {
            let address = InterfaceAddress::parse_classful(target)
                .map_err(UsageError::in_option("tunnet"))?;
            if address.ip().is_loopback() {
                let why = format!(
                    "--tunnet: {} is a loopback address, and no wire leads to it",
                    address.ip()
                );
                return Err(UsageError(why));
            }
            Wire::Host(address)
        };
        Ok(Self { mac, wire })
    }
}

/// `key=value` pairs, in line order.
struct Settings<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Settings<'a> {
    fn take(&mut self, key: &str) -> Option<&'a str> {
        let at = self.0.iter().position(|(k, _)| *k == key)?;
        Some(self.0.remove(at).1)
    }

    /// Everything was taken; what is left was said twice.
    fn finish(self, option: &str) -> Result<(), UsageError> {
        match self.0.first() {
            Some((key, _)) => Err(UsageError(format!(
                "--{option}: {key}= is given twice; give it once"
            ))),
            None => Ok(()),
        }
    }
}

/// Takes settings with known keys off the right end of `value`.
fn split_settings<'a>(value: &'a str, known: &[&str]) -> (&'a str, Settings<'a>) {
    let mut rest = value;
    let mut settings = Vec::new();
    while let Some((before, last)) = rest.rsplit_once(',') {
        match last.split_once('=') {
            Some((key, text)) if known.contains(&key) => settings.insert(0, (key, text)),
            _ => break,
        }
        rest = before;
    }
    (rest, Settings(settings))
}

fn parse_mac(option: &str, text: &str) -> Result<MacAddr, UsageError> {
    let refuse = |why| {
        UsageError(format!(
            "--{option}: '{text}' is not a MAC address for a guest: {why}"
        ))
    };
    let mac: MacAddr = text
        .parse()
        .map_err(|_| refuse("write it as 02:00:00:00:00:01"))?;
    if mac.is_zero() || mac.is_multicast() {
        return Err(refuse(
            "its first byte must be even, and not all may be zero",
        ));
    }
    Ok(mac)
}

impl fmt::Display for DevicePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) => net.fmt(f),
            Self::Block(disk) => disk.fmt(f),
        }
    }
}

impl fmt::Display for NetPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.wire {
            Wire::Sharenet {
                segment,
                slot: None,
            } => write!(f, "port on sharenet {segment}, any slot"),
            Wire::Sharenet {
                segment,
                slot: Some(slot),
            } => write!(f, "port on sharenet {segment}, slot {slot}"),
            Wire::Host(address) => write!(f, "tap with {address}"),
            Wire::Bridge(bridge) => write!(f, "tap on bridge {bridge}"),
            Wire::Macvtap(interface) => write!(f, "macvtap on {interface}"),
        }?;
        match self.mac {
            Some(mac) => write!(f, ", guest's MAC {mac}"),
            None => f.write_str(", guest's MAC drawn at random"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_stand_behind_the_name_in_any_order() {
        for text in [
            "/l,0,mac=02:00:00:00:00:07,slot=3",
            "/l,0,slot=3,mac=02:00:00:00:00:07",
        ] {
            let net = NetPlan::sharenet(text).unwrap();
            assert_eq!(net.mac, Some(MacAddr::new(2, 0, 0, 0, 0, 7)));
            let Wire::Sharenet { segment, slot } = net.wire else {
                panic!()
            };
            assert_eq!(
                (segment.to_string().as_str(), slot),
                ("/l,0", SlotIndex::new(3))
            );
        }
    }

    #[test]
    fn a_bare_address_gets_its_class_and_a_prefix_overrules_it() {
        for (text, address) in [
            ("10.1.2.3", "10.1.2.3/8"),
            ("172.16.0.1", "172.16.0.1/16"),
            ("192.168.19.1", "192.168.19.1/24"),
            ("10.1.2.3/30", "10.1.2.3/30"),
            ("fd00::1", "fd00::1/64"),
            ("fd00::1/48,mac=02:00:00:00:00:01", "fd00::1/48"),
        ] {
            let Wire::Host(parsed) = NetPlan::tunnet(text).unwrap().wire else {
                panic!("{text}")
            };
            assert_eq!(parsed.to_string(), address);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (text, named) in [
            ("lan0,mac=1:2", "1:2"),
            ("lan0,mac=ff:ff:ff:ff:ff:ff", "ff:ff"),
            ("lan0,mac=00:00:00:00:00:00", "00:00"),
            ("lan0,slot=-1", "-1"),
            ("lan0,slot=1,slot=2", "twice"),
            ("lan0,speed=9", "lan0,speed=9"),
        ] {
            let UsageError(message) = NetPlan::sharenet(text).unwrap_err();
            assert!(message.contains(named), "{message}");
        }
        for (text, named) in [
            ("127.0.0.1", "loopback"),
            ("bridge:a/b", "a/b"),
            ("bridge:", "names no bridge"),
            ("macvtap:", "names no interface"),
            ("macvtap:a b", "a b"),
            ("0.0.0.0", "0.0.0.0"),
            ("", "\"\""),
        ] {
            let UsageError(message) = NetPlan::tunnet(text).unwrap_err();
            assert!(message.contains(named), "{message}");
        }
    }
}
