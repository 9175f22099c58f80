//! Taps: Ethernet interfaces whose other end is a file descriptor. The way a guest's frames reach
//! the host's own network.
//!
//! Two verbs. [`NetSetup::setup_tap`] gives an *open* tap for a process to serve; unless it is
//! persistent it vanishes with its descriptors, however the process ends. [`NetSetup::create_tap`]
//! makes a persistent one for somebody else to open later.
//!
//! Both check the whole plan, then act, then (only then) make the tap persistent: up to the last
//! step the kernel itself would undo the tap if we were killed.

mod attach;

use std::os::fd::OwnedFd;

use pnet_base::MacAddr;

use crate::address::InterfaceAddress;
use crate::change::not_a;
use crate::error::{Error, Result};
use crate::link::LinkKind;
use crate::mac::{random_mac, random_port_mac, require_unicast};
use crate::name::{InterfaceName, TapName};
use crate::transaction::Transaction;
use crate::tun::{self, TapOffloads};
use crate::{Change, NetSetup};

/// Most queues a tap can have (`MAX_TAP_QUEUES` in the kernel's tun driver).
pub const MAX_QUEUES: u16 = 256;

/// What to do if there is a tap of this name already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfExists {
    /// Use it, as its owner or a privileged user may.
    #[default]
    Attach,
    /// Leave it alone and fail.
    Refuse,
}

/// How a tap is to be. The default is a new `tap%d` with one blocking queue, plain frames, gone
/// when closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapOptions {
    /// Its name, or a pattern.
    pub name: TapName,
    /// If there is one of this name.
    pub if_exists: IfExists,
    /// The user (uid) who may open it without `CAP_NET_ADMIN`.
    pub owner: Option<u32>,
    /// The group (gid) whose members may.
    pub group: Option<u32>,
    /// Each frame is preceded by a virtio-net header of [`VNET_HEADER_LEN`](crate::VNET_HEADER_LEN)
    /// bytes, which is what offloads need.
    pub vnet_hdr: bool,
    /// How many queues to open, 1 to [`MAX_QUEUES`]; more than one implies `multi_queue`.
    pub queues: u16,
    /// Allow several openings at once, one queue each.
    pub multi_queue: bool,
    /// It outlives its descriptors.
    pub persistent: bool,
    /// The queues' descriptors are `O_NONBLOCK`.
    pub nonblocking: bool,
    /// MAC address of the host's end. If none is given a new tap gets a random one.
    pub mac: Option<MacAddr>,
    /// In bytes without the Ethernet header. If none is given a new tap takes its bridge's (so as
    /// not to lower it), or 1500.
    pub mtu: Option<u32>,
}

impl Default for TapOptions {
    fn default() -> Self {
        Self {
            name: TapName::default(),
            if_exists: IfExists::default(),
            owner: None,
            group: None,
            vnet_hdr: false,
            queues: 1,
            multi_queue: false,
            persistent: false,
            nonblocking: false,
            mac: None,
            mtu: None,
        }
    }
}

/// A tap and its place on the host, set up as one: all of it or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapPlan {
    /// The tap itself.
    pub tap: TapOptions,
    /// The bridge it is to be a port of, which must exist. Nothing else of the bridge is changed.
    pub bridge: Option<InterfaceName>,
    /// The host's addresses on it; not together with a bridge, whose port is the bridge's to use
    /// (give the bridge the address).
    pub addresses: Vec<InterfaceAddress>,
    /// Whether to set it up.
    pub up: bool,
}

/// An open tap. Dropping it closes its queues, and unless it is persistent (or open elsewhere)
/// the interface vanishes in that moment, with its addresses and its place on a bridge.
#[derive(Debug)]
pub struct Tap {
    /// Its name.
    pub name: InterfaceName,
    /// Its index.
    pub index: u32,
    /// Whether this call made it; if not, it was there already.
    pub created: bool,
    /// One descriptor a queue, close-on-exec. A read gives one frame, a write sends one.
    pub queues: Vec<OwnedFd>,
}

impl Tap {
    /// Tells the kernel what offloads the reader copes with; until told, none. Holds for the
    /// whole tap.
    ///
    /// # Errors
    /// The kernel does not know one of them.
    pub fn set_offloads(&self, offloads: TapOffloads) -> Result<()> {
        for queue in &self.queues {
            tun::set_offloads(queue, offloads).map_err(|errno| {
                Error::system(format!("set the offloads of {}", self.name), errno)
            })?;
        }
        Ok(())
    }
}

impl Tap {
    /// Has frames come out of queue number `queue` from now on, or of the others alone. The kernel
    /// spreads flows over the queues that are attached, which all are when the tap is opened.
    ///
    /// # Errors
    /// There is no such queue, the tap has only one, or that is how it is already.
    pub fn set_attached(&self, queue: usize, attached: bool) -> Result<()> {
        let operation = || {
            let verb = if attached { "attach" } else { "detach" };
            format!("{verb} queue {queue} of {}", self.name)
        };
        let file = self.queues.get(queue).ok_or_else(|| {
            Error::contradiction(operation(), format!("it has {} queues", self.queues.len()))
        })?;
        tun::set_queue(file, attached).map_err(|errno| Error::system(operation(), errno))
    }
}

impl NetSetup {
    /// Opens a tap and sets it up as planned. If any step fails, nothing of it stays.
    ///
    /// # Errors
    /// `/dev/net/tun` is missing or closed to us; the privilege is missing; the tap is in use, or
    /// exists with other settings; the name is something else's; the bridge does not exist or is
    /// none; the plan contradicts itself; the kernel refuses a step.
    pub fn setup_tap(&self, plan: &TapPlan) -> Result<Tap> {
        self.validate(plan)?;
        // Dropped last: what was done to the tap is undone before it closes.
        let tap = self.open(&plan.tap)?;
        let mut transaction = Transaction::begin(self);
        self.place(&mut transaction, &tap.name, plan, tap.created)?;
        if plan.tap.persistent
            && tap.created
            && let Some(queue) = tap.queues.first()
        {
            tun::set_persistent(queue, true)
                .map_err(|errno| Error::system(format!("make {} persistent", tap.name), errno))?;
        }
        transaction.commit();
        Ok(tap)
    }

    /// Makes a persistent tap, for another program (or user, see [`TapOptions::owner`]) to open.
    /// `Unchanged` if there is one as planned; it is not opened to find out, so it may be in use.
    ///
    /// # Errors
    /// As for [`setup_tap`](Self::setup_tap).
    pub fn create_tap(&self, plan: &TapPlan) -> Result<(InterfaceName, Change)> {
        let plan = TapPlan {
            tap: TapOptions {
                persistent: true,
                ..plan.tap.clone()
            },
            ..plan.clone()
        };
        let operation = || format!("create tap {}", plan.tap.name);
        self.validate(&plan)?;
        if let TapName::Exact(name) = &plan.tap.name
            && let Some(found) = self.link(name)?
        {
            plan.tap.require(&found, operation)?;
            if found
                .tap
                .is_some_and(|tap| tap.vnet_hdr != plan.tap.vnet_hdr)
            {
                let has = if plan.tap.vnet_hdr { "without" } else { "with" };
                return Err(attach::differs(
                    operation(),
                    &format!("{has} virtio-net headers"),
                ));
            }
            let mut transaction = Transaction::begin(self);
            let change = self.place(&mut transaction, name, &plan, false)?;
            transaction.commit();
            return Ok((name.clone(), change));
        }
        let tap = self.setup_tap(&plan)?;
        Ok((
            tap.name,
            if tap.created {
                Change::Changed
            } else {
                Change::Unchanged
            },
        ))
    }

    /// Deletes a persistent tap. `Unchanged` if there is none of this name.
    ///
    /// # Errors
    /// The name is something else's, or the kernel's refusal.
    pub fn delete_tap(&self, name: &InterfaceName) -> Result<Change> {
        let operation = || format!("delete tap {name}");
        let Some(info) = self.link(name)? else {
            return Ok(Change::Unchanged);
        };
        if info.kind != LinkKind::Tap {
            return Err(not_a(LinkKind::Tap, &info, operation()));
        }
        match self.delete_index(info.index, operation) {
            // The tap's owner needs no privilege, only the tun device.
            Err(denied) if denied.is_permission() => self.release(name, &info).map_err(|_| denied),
            outcome => outcome,
        }
    }

    /// Checks all that can be known beforehand.
    fn validate(&self, plan: &TapPlan) -> Result<()> {
        let operation = || format!("set up tap {}", plan.tap.name);
        let TapOptions { queues, mac, .. } = plan.tap;
        if queues == 0 || queues > MAX_QUEUES {
            return Err(Error::contradiction(
                operation(),
                format!("it must have 1 to {MAX_QUEUES} queues, not {queues}"),
            ));
        }
        if let Some(mac) = mac {
            require_unicast(mac, operation)?;
        }
        if let (Some(bridge), false) = (&plan.bridge, plan.addresses.is_empty()) {
            let reason = format!(
                "a port of a bridge has no address of its own; give it to {bridge} instead"
            );
            return Err(Error::contradiction(operation(), reason));
        }
        if let Some(bridge) = &plan.bridge {
            self.existing_bridge(bridge, || {
                format!("attach {} to bridge {bridge}", plan.tap.name)
            })?;
        }
        if let TapName::Exact(name) = &plan.tap.name
            && let Some(found) = self.link(name)?
        {
            if found.kind != LinkKind::Tap {
                return Err(not_a(LinkKind::Tap, &found, operation()));
            }
            if plan.tap.if_exists == IfExists::Refuse {
                return Err(Error::in_the_way(
                    operation(),
                    "there is a tap of this name already",
                ));
            }
        }
        Ok(())
    }

    /// Everything after opening: all of it netlink, all of it noted in the transaction.
    fn place(
        &self,
        transaction: &mut Transaction<'_>,
        name: &InterfaceName,
        plan: &TapPlan,
        created: bool,
    ) -> Result<Change> {
        let mut change = Change::Unchanged;
        let (mut mac, mut mtu) = (plan.tap.mac, plan.tap.mtu);
        if created {
            match &plan.bridge {
                Some(bridge) => {
                    mac = Some(mac.map_or_else(random_port_mac, Ok)?);
                    mtu = mtu.or(self.link(bridge)?.map(|bridge| bridge.mtu));
                }
                None => mac = Some(mac.map_or_else(random_mac, Ok)?),
            }
        }
        if let Some(mac) = mac {
            change = change.or(transaction.set_mac(name, mac)?);
        }
        if let Some(mtu) = mtu {
            change = change.or(transaction.set_mtu(name, mtu)?);
        }
        if let Some(bridge) = &plan.bridge {
            change = change.or(transaction.set_master(name, bridge)?);
        }
        for address in &plan.addresses {
            change = change.or(transaction.add_address(name, *address)?);
        }
        if plan.up {
            change = change.or(transaction.set_up(name)?);
        }
        Ok(change)
    }
}
