//! Changes to links that exist: up and down, MTU, MAC address, master, deletion.
//!
//! Each looks first. If the link is as asked already there is nothing to do (and no privilege
//! needed); if something else is in the way it is named; otherwise one request is sent, by index,
//! so that a link renamed meanwhile is still the one that was looked at.

use nix::errno::Errno;
use pnet_base::MacAddr;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use crate::error::{Error, Result};
use crate::link::{LinkInfo, LinkKind};
use crate::mac::require_unicast;
use crate::name::InterfaceName;
use crate::netlink::CHANGE;
use crate::{Change, NetSetup};

impl NetSetup {
    /// Sets a link up (`IFF_UP`).
    ///
    /// # Errors
    /// There is no such link, or the kernel's refusal.
    pub fn set_up(&self, link: &InterfaceName) -> Result<Change> {
        let operation = || format!("set {link} up");
        let info = self.existing(link, operation)?;
        self.change(
            info.up,
            LinkUnspec::new_with_index(info.index).up(),
            operation,
        )
    }

    /// Sets a link down.
    ///
    /// # Errors
    /// There is no such link, or the kernel's refusal.
    pub fn set_down(&self, link: &InterfaceName) -> Result<Change> {
        let operation = || format!("set {link} down");
        let info = self.existing(link, operation)?;
        self.change(
            !info.up,
            LinkUnspec::new_with_index(info.index).down(),
            operation,
        )
    }

    /// Sets a link's MTU, in bytes without the Ethernet header.
    ///
    /// # Errors
    /// There is no such link, or the kernel's refusal (it says which bound was passed).
    pub fn set_mtu(&self, link: &InterfaceName, mtu: u32) -> Result<Change> {
        let operation = || format!("set the MTU of {link} to {mtu}");
        let info = self.existing(link, operation)?;
        self.change(
            info.mtu == mtu,
            LinkUnspec::new_with_index(info.index).mtu(mtu),
            operation,
        )
    }

    /// Sets a link's MAC address.
    ///
    /// # Errors
    /// There is no such link, `mac` is no unicast address, or the kernel's refusal.
    pub fn set_mac(&self, link: &InterfaceName, mac: MacAddr) -> Result<Change> {
        let operation = || format!("set the MAC address of {link} to {mac}");
        require_unicast(mac, operation)?;
        let info = self.existing(link, operation)?;
        let request = LinkUnspec::new_with_index(info.index).address(mac.octets().to_vec());
        self.change(info.mac == Some(mac), request, operation)
    }

    /// Makes a link a port of a bridge.
    ///
    /// # Errors
    /// Either does not exist; `bridge` is not one; the link is a port of another master (detach
    /// it first: taking it away unasked would cut somebody's network); or the kernel's refusal.
    pub fn set_master(&self, link: &InterfaceName, bridge: &InterfaceName) -> Result<Change> {
        let operation = || format!("attach {link} to bridge {bridge}");
        let master = self.existing_bridge(bridge, operation)?;
        let info = self.existing(link, operation)?;
        // By index: a bridge may go by an alternative name.
        if info.master_index.is_some_and(|index| index != master.index) {
            let other = info
                .master
                .map_or("another master".into(), |m| m.to_string());
            let obstacle = format!("it is a port of {other}; detach it from that first");
            return Err(Error::in_the_way(operation(), obstacle));
        }
        let request = LinkUnspec::new_with_index(info.index).controller(master.index);
        self.change(info.master_index == Some(master.index), request, operation)
    }

    /// Takes a link from the bridge (or other master) it is a port of, if it is one.
    ///
    /// # Errors
    /// There is no such link, or the kernel's refusal.
    pub fn clear_master(&self, link: &InterfaceName) -> Result<Change> {
        let operation = || format!("detach {link} from its bridge");
        let info = self.existing(link, operation)?;
        let request = LinkUnspec::new_with_index(info.index).nocontroller();
        self.change(info.master_index.is_none(), request, operation)
    }

    /// Deletes a software link, whatever its kind. `Unchanged` if there is none of this name.
    ///
    /// # Errors
    /// It is hardware, or the kernel's refusal.
    pub fn delete_link(&self, link: &InterfaceName) -> Result<Change> {
        let operation = || format!("delete {link}");
        match self.link(link)? {
            None => Ok(Change::Unchanged),
            Some(info) if info.kind == LinkKind::Device => Err(Error::in_the_way(
                operation(),
                "it is hardware (or the loopback), which cannot be deleted",
            )),
            Some(info) => self.delete_index(info.index, operation),
        }
    }

    /// Deletes by index. Already gone is gone.
    pub(crate) fn delete_index(
        &self,
        index: u32,
        operation: impl Fn() -> String,
    ) -> Result<Change> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.call(RouteNetlinkMessage::DelLink(message), CHANGE, operation) {
            Err(e) if e.is(Errno::ENODEV) => Ok(Change::Unchanged),
            answer => answer.map(|_| Change::Changed),
        }
    }

    /// The bridge of this name, or why there is none.
    pub(crate) fn existing_bridge(
        &self,
        name: &InterfaceName,
        operation: impl Fn() -> String,
    ) -> Result<LinkInfo> {
        let info = self.existing(name, &operation)?;
        if info.kind != LinkKind::Bridge {
            return Err(not_a(LinkKind::Bridge, &info, operation()));
        }
        Ok(info)
    }

    fn change(
        &self,
        as_asked: bool,
        request: LinkMessageBuilder<LinkUnspec>,
        operation: impl Fn() -> String,
    ) -> Result<Change> {
        if as_asked {
            return Ok(Change::Unchanged);
        }
        self.call(
            RouteNetlinkMessage::SetLink(request.build()),
            CHANGE,
            operation,
        )?;
        Ok(Change::Changed)
    }
}

/// The name is taken by a link of another kind.
pub(crate) fn not_a(wanted: LinkKind, found: &LinkInfo, operation: String) -> Error {
    let what = match found.kind {
        LinkKind::Device => "hardware (or the loopback)".to_owned(),
        ref kind => format!("a {kind}"),
    };
    Error::in_the_way(
        operation,
        format!("{} is {what}, not a {wanted}", found.name),
    )
}
