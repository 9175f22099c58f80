//! Bridges: Ethernet switches inside the kernel, whose ports are other links and which are
//! themselves the host's own port.

use std::time::Duration;

use nix::errno::Errno;
use pnet_base::MacAddr;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{BridgeStpState, InfoBridge};
use rtnetlink::{LinkBridge, LinkMessageBuilder};

use crate::address::InterfaceAddress;
use crate::change::not_a;
use crate::error::{Error, Result};
use crate::link::{CLOCK_TICK, LinkInfo, LinkKind};
use crate::mac::{random_mac, require_unicast};
use crate::name::InterfaceName;
use crate::netlink::CREATE;
use crate::transaction::Transaction;
use crate::{Change, NetSetup};

/// How a bridge is to be. `None` leaves a setting to the kernel, and is content with whatever an
/// existing bridge has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgeOptions {
    /// The host's MAC address on it. If none is given a new bridge gets a random one in the
    /// creating message: an address that comes later would race with udev's, and one that is
    /// never given changes with every port.
    pub mac: Option<MacAddr>,
    /// In bytes without the Ethernet header. If none is given the bridge follows its ports.
    pub mtu: Option<u32>,
    /// Spanning tree protocol; with it a new port waits 30 s before it forwards.
    pub stp: Option<bool>,
    /// Tell VLANs apart by their tags.
    pub vlan_filtering: Option<bool>,
    /// How long to remember where a MAC address was seen; in steps of 10 ms.
    pub ageing: Option<Duration>,
}

/// A bridge and what the host has on it, set up as one: all of it or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgePlan {
    /// Its name.
    pub name: InterfaceName,
    /// Its settings.
    pub options: BridgeOptions,
    /// The host's addresses on it.
    pub addresses: Vec<InterfaceAddress>,
    /// Whether to set it up.
    pub up: bool,
}

impl NetSetup {
    /// Makes a bridge, down. `Unchanged` if there is one of this name with these settings.
    ///
    /// # Errors
    /// The name is taken by something that is no bridge, or by a bridge with other settings; a
    /// setting cannot be; or the kernel's refusal.
    pub fn create_bridge(&self, name: &InterfaceName, options: &BridgeOptions) -> Result<Change> {
        let operation = || format!("create bridge {name}");
        options.validate(operation)?;
        if let Some(found) = self.link(name)? {
            options.require(&found, operation)?;
            return Ok(Change::Unchanged);
        }
        let message = RouteNetlinkMessage::NewLink(options.message(name)?.build());
        match self.call(message, CREATE, operation) {
            // Somebody else was quicker.
            Err(e) if e.is(Errno::EEXIST) => {
                let found = self.existing(name, operation)?;
                options.require(&found, operation)?;
                Ok(Change::Unchanged)
            }
            answer => {
                answer?;
                self.pin_mtu(name, options.mtu).map(|()| Change::Changed)
            }
        }
    }

    /// Settles the MTU of a bridge just made, or deletes it again.
    fn pin_mtu(&self, name: &InterfaceName, mtu: Option<u32>) -> Result<()> {
        let Some(mtu) = mtu else { return Ok(()) };
        let Some(made) = self.link(name)? else {
            return Ok(());
        };
        self.set_mtu(name, mtu).map(drop).inspect_err(|_| {
            // The error that counts is the first.
            let _ = self.delete_index(made.index, || format!("delete bridge {name} again"));
        })
    }

    /// Makes a bridge with its addresses. If any step fails nothing of it stays.
    ///
    /// # Errors
    /// Those of the steps: [`create_bridge`](Self::create_bridge),
    /// [`add_address`](Self::add_address), [`set_up`](Self::set_up).
    pub fn setup_bridge(&self, plan: &BridgePlan) -> Result<Change> {
        let mut transaction = Transaction::begin(self);
        let mut change = transaction.create_bridge(&plan.name, &plan.options)?;
        for address in &plan.addresses {
            change = change.or(transaction.add_address(&plan.name, *address)?);
        }
        if plan.up {
            change = change.or(transaction.set_up(&plan.name)?);
        }
        transaction.commit();
        Ok(change)
    }

    /// Deletes a bridge; its ports stay, as plain links. `Unchanged` if there is none of this
    /// name.
    ///
    /// # Errors
    /// The name is something else's, or the kernel's refusal.
    pub fn delete_bridge(&self, name: &InterfaceName) -> Result<Change> {
        let operation = || format!("delete bridge {name}");
        match self.link(name)? {
            None => Ok(Change::Unchanged),
            Some(info) if info.kind == LinkKind::Bridge => self.delete_index(info.index, operation),
            Some(info) => Err(not_a(LinkKind::Bridge, &info, operation())),
        }
    }
}

impl BridgeOptions {
    fn validate(&self, operation: impl Fn() -> String) -> Result<()> {
        if let Some(mac) = self.mac {
            require_unicast(mac, &operation)?;
        }
        if self.ageing.is_some_and(|ageing| ticks(ageing).is_none()) {
            return Err(Error::contradiction(
                operation(),
                "its ageing time is longer than the kernel can count",
            ));
        }
        Ok(())
    }

    /// The creating message. The kernel applies it whole, so there is no moment in which the
    /// bridge exists with other settings.
    fn message(&self, name: &InterfaceName) -> Result<LinkMessageBuilder<LinkBridge>> {
        let mac = self.mac.map_or_else(random_mac, Ok)?;
        let mut message =
            LinkMessageBuilder::<LinkBridge>::new(name.as_str()).address(mac.octets().to_vec());
        if let Some(mtu) = self.mtu {
            // An MTU in the creating message would only hold until the first port; one set to an
            // existing bridge holds, if it is a change. So begin one off, for `pin_mtu` to change.
            message = message.mtu(mtu ^ 1);
        }
        if let Some(stp) = self.stp {
            message = message.append_info_data(InfoBridge::StpState(if stp {
                BridgeStpState::KernelStp
            } else {
                BridgeStpState::Disabled
            }));
        }
        if let Some(on) = self.vlan_filtering {
            message = message.vlan_filtering(on);
        }
        if let Some(ticks) = self.ageing.and_then(ticks) {
            message = message.ageing_time(ticks);
        }
        Ok(message)
    }

    /// Whether what is there is what is asked for.
    fn require(&self, found: &LinkInfo, operation: impl Fn() -> String) -> Result<()> {
        if found.kind != LinkKind::Bridge {
            return Err(not_a(LinkKind::Bridge, found, operation()));
        }
        let has = found.bridge.unwrap_or_default();
        let differs = |what: &str| {
            Err(Error::in_the_way(
                operation(),
                format!("it exists, but {what}; change that or delete it first"),
            ))
        };
        if self.mac.is_some() && self.mac != found.mac {
            return differs(&format!(
                "its MAC address is {}",
                found.mac.unwrap_or_default()
            ));
        }
        if self.mtu.is_some_and(|mtu| mtu != found.mtu) {
            return differs(&format!("its MTU is {}", found.mtu));
        }
        if self.stp.is_some_and(|stp| stp != has.stp) {
            return differs(if has.stp {
                "it runs STP"
            } else {
                "it does not run STP"
            });
        }
        if self
            .vlan_filtering
            .is_some_and(|on| on != has.vlan_filtering)
        {
            return differs(if has.vlan_filtering {
                "it filters VLANs"
            } else {
                "it does not filter VLANs"
            });
        }
        if self
            .ageing
            .is_some_and(|ageing| ticks(ageing) != ticks(has.ageing))
        {
            return differs(&format!(
                "its ageing time is {} s",
                has.ageing.as_secs_f64()
            ));
        }
        Ok(())
    }
}

fn ticks(time: Duration) -> Option<u32> {
    u32::try_from(time.as_millis() / CLOCK_TICK.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_hundredths_of_a_second() {
        assert_eq!(ticks(Duration::from_secs(300)), Some(30_000));
        assert_eq!(ticks(Duration::MAX), None);
    }

    #[test]
    fn options_that_cannot_be_are_refused_before_the_kernel_is_asked() {
        let options = BridgeOptions {
            mac: Some(MacAddr::broadcast()),
            ..BridgeOptions::default()
        };
        assert!(
            options
                .validate(|| "create bridge br0".into())
                .unwrap_err()
                .to_string()
                .contains("unicast")
        );
        let options = BridgeOptions {
            ageing: Some(Duration::MAX),
            ..BridgeOptions::default()
        };
        assert!(options.validate(|| "create bridge br0".into()).is_err());
    }
}
