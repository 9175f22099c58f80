//! Set-up in several steps, all of it or none: what a failed one half made is undone, in reverse
//! order, and nothing it did not make is touched.
//!
//! Each step goes through the [`Transaction`], which notes how to undo it *only if it changed
//! something*. [`commit`](Transaction::commit) keeps the work; dropping without it (every `?` on
//! the way) undoes it. A tap needs no entry here: it vanishes with its descriptors, even if we are
//! killed, as long as it is made persistent last of all.

use pnet_base::MacAddr;

use crate::address::InterfaceAddress;
use crate::bridge::BridgeOptions;
use crate::error::Result;
use crate::name::InterfaceName;
use crate::{Change, NetSetup};

/// Steps that are undone unless they are committed.
#[derive(Debug)]
pub struct Transaction<'net> {
    net: &'net NetSetup,
    undo: Vec<Undo>,
}

/// How one step is taken back.
#[derive(Debug)]
enum Undo {
    /// By index: whoever takes the name afterwards is safe.
    Delete(InterfaceName, u32),
    SetDown(InterfaceName),
    SetMtu(InterfaceName, u32),
    SetMac(InterfaceName, MacAddr),
    ClearMaster(InterfaceName),
    RemoveAddress(InterfaceName, InterfaceAddress),
}

impl<'net> Transaction<'net> {
    /// Begins with nothing to undo.
    pub fn begin(net: &'net NetSetup) -> Self {
        Self {
            net,
            undo: Vec::new(),
        }
    }

    /// [`NetSetup::create_bridge`], undone by deleting it.
    ///
    /// # Errors
    /// Those of the step; the same holds for the others.
    pub fn create_bridge(
        &mut self,
        name: &InterfaceName,
        options: &BridgeOptions,
    ) -> Result<Change> {
        let change = self.net.create_bridge(name, options)?;
        if change == Change::Changed {
            let made = self
                .net
                .existing(name, || format!("create bridge {name}"))?;
            self.undo.push(Undo::Delete(name.clone(), made.index));
        }
        Ok(change)
    }

    /// [`NetSetup::set_up`], undone by setting it down.
    ///
    /// # Errors
    /// Those of the step.
    pub fn set_up(&mut self, link: &InterfaceName) -> Result<Change> {
        self.step(self.net.set_up(link), || Undo::SetDown(link.clone()))
    }

    /// [`NetSetup::set_mtu`], undone by setting the MTU it had.
    ///
    /// # Errors
    /// Those of the step.
    pub fn set_mtu(&mut self, link: &InterfaceName, mtu: u32) -> Result<Change> {
        let before = self
            .net
            .existing(link, || format!("set the MTU of {link} to {mtu}"))?
            .mtu;
        self.step(self.net.set_mtu(link, mtu), || {
            Undo::SetMtu(link.clone(), before)
        })
    }

    /// [`NetSetup::set_mac`], undone by setting the address it had.
    ///
    /// # Errors
    /// Those of the step.
    pub fn set_mac(&mut self, link: &InterfaceName, mac: MacAddr) -> Result<Change> {
        let before = self
            .net
            .existing(link, || format!("set the MAC address of {link} to {mac}"))?
            .mac;
        let change = self.net.set_mac(link, mac)?;
        if let (Change::Changed, Some(before)) = (change, before) {
            self.undo.push(Undo::SetMac(link.clone(), before));
        }
        Ok(change)
    }

    /// [`NetSetup::set_master`], undone by [`NetSetup::clear_master`] (a link that had another
    /// master is refused, so it had none).
    ///
    /// # Errors
    /// Those of the step.
    pub fn set_master(&mut self, link: &InterfaceName, bridge: &InterfaceName) -> Result<Change> {
        self.step(self.net.set_master(link, bridge), || {
            Undo::ClearMaster(link.clone())
        })
    }

    /// [`NetSetup::add_address`], undone by removing it.
    ///
    /// # Errors
    /// Those of the step.
    pub fn add_address(
        &mut self,
        link: &InterfaceName,
        address: InterfaceAddress,
    ) -> Result<Change> {
        self.step(self.net.add_address(link, address), || {
            Undo::RemoveAddress(link.clone(), address)
        })
    }

    /// Keeps what was done.
    pub fn commit(mut self) {
        self.undo.clear();
    }

    fn step(&mut self, outcome: Result<Change>, undo: impl FnOnce() -> Undo) -> Result<Change> {
        let change = outcome?;
        if change == Change::Changed {
            self.undo.push(undo());
        }
        Ok(change)
    }
}

impl Drop for Transaction<'_> {
    /// Undoes every step, last first. A step that cannot be undone does not keep the others from
    /// being tried; it is logged, because the error that brought us here is the one to return.
    fn drop(&mut self) {
        while let Some(undo) = self.undo.pop() {
            if let Err(error) = undo.run(self.net) {
                tracing::warn!("a failed set-up left something behind: {error}");
            }
        }
    }
}

impl Undo {
    fn run(&self, net: &NetSetup) -> Result<Change> {
        match self {
            Self::Delete(name, index) => {
                net.delete_index(*index, || format!("delete {name} again"))
            }
            Self::SetDown(link) => net.set_down(link),
            Self::SetMtu(link, mtu) => net.set_mtu(link, *mtu),
            Self::SetMac(link, mac) => net.set_mac(link, *mac),
            Self::ClearMaster(link) => net.clear_master(link),
            Self::RemoveAddress(link, address) => net.remove_address(link, *address),
        }
    }
}
