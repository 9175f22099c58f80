//! Taps: Ethernet interfaces whose other end is a file descriptor. The way a guest's frames reach
//! the host's own network.
//!
//! Two verbs. [`NetSetup::setup_tap`] gives an *open* tap for a process to serve; unless it is
//! persistent it vanishes with its descriptors, however the process ends. [`NetSetup::create_tap`]
//! makes a persistent one for somebody else to open later.
//!
//! Both check the whole plan, then act, then (only then) make the tap persistent: up to the last
//! step the kernel itself would undo the tap if we were killed.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use pnet_base::MacAddr;

use crate::address::InterfaceAddress;
use crate::change::not_a;
use crate::error::{Error, Result};
use crate::link::{LinkInfo, LinkKind, TapSettings};
use crate::mac::{random_mac, random_port_mac, require_unicast};
use crate::name::{InterfaceName, TapName};
use crate::transaction::Transaction;
use crate::tun::{self, Opening, TapOffloads};
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
                return Err(differs(operation(), &format!("{has} virtio-net headers")));
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
        let TapOptions {
            queues,
            multi_queue: _,
            mac,
            ..
        } = plan.tap;
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

    /// Opens all queues; the tap has its owner and group, nothing else yet.
    fn open(&self, options: &TapOptions) -> Result<Tap> {
        let operation = || format!("open tap {}", options.name);
        self.require_same_namespace(operation)?;
        let first = Opening {
            vnet_hdr: options.vnet_hdr,
            multi_queue: options.multi_queue || options.queues > 1,
            exclusive: true,
        };
        let device = tun::open_device(options.nonblocking, operation)?;
        let (name, created) = match tun::attach(device.as_fd(), options.name.as_str(), first) {
            Ok(name) => (name, true),
            Err(Errno::EBUSY) if options.may_attach() => {
                let opening = Opening {
                    exclusive: false,
                    ..first
                };
                let name = tun::attach(device.as_fd(), options.name.as_str(), opening)
                    .map_err(|errno| self.why_not_attached(options, errno))?;
                (name, false)
            }
            Err(errno) => return Err(self.why_not_attached(options, errno)),
        };
        let info = self.existing(&name, operation)?;
        if created {
            let set = |what: &str, errno| Error::system(format!("set the {what} of {name}"), errno);
            if let Some(uid) = options.owner {
                tun::set_owner(&device, uid).map_err(|errno| set("owner", errno))?;
            }
            if let Some(gid) = options.group {
                tun::set_group(&device, gid).map_err(|errno| set("group", errno))?;
            }
        } else {
            options.require(&info, operation)?;
        }
        let mut queues = vec![device];
        for _ in 1..options.queues {
            let device = tun::open_device(options.nonblocking, operation)?;
            let opening = Opening {
                exclusive: false,
                ..first
            };
            tun::attach(device.as_fd(), name.as_str(), opening)
                .map_err(|errno| self.why_not_attached(options, errno))?;
            queues.push(device);
        }
        Ok(Tap {
            name,
            index: info.index,
            created,
            queues,
        })
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

    /// What stood in the way of `TUNSETIFF`, which itself says little.
    fn why_not_attached(&self, options: &TapOptions, errno: Errno) -> Error {
        let operation = format!("open tap {}", options.name);
        let found = match &options.name {
            TapName::Exact(name) => self.link(name).ok().flatten(),
            TapName::Pattern(_) => None,
        };
        match (errno, found) {
            (_, Some(link)) if link.kind != LinkKind::Tap => not_a(LinkKind::Tap, &link, operation),
            (Errno::EBUSY, Some(_)) if !options.may_attach() => {
                Error::in_the_way(operation, "there is a tap of this name already")
            }
            (Errno::EBUSY, Some(link)) => Error::Busy {
                operation,
                name: link.name,
            },
            (Errno::E2BIG, Some(link)) => Error::Busy {
                operation,
                name: link.name,
            },
            (Errno::EINVAL, Some(LinkInfo { tap: Some(tap), .. })) => differs(
                operation,
                if tap.multi_queue {
                    "with several queues"
                } else {
                    "with one queue only"
                },
            ),
            (Errno::EPERM | Errno::EACCES, Some(LinkInfo { tap: Some(tap), .. })) => {
                Error::in_the_way(
                    operation,
                    format!("{}; {}", errno.desc(), who_may_open(&tap)),
                )
            }
            _ => Error::system(operation, errno),
        }
    }

    /// Lets go of a persistent tap as its owner.
    fn release(&self, name: &InterfaceName, info: &LinkInfo) -> Result<Change> {
        let settings = info.tap.unwrap_or_default();
        let options = TapOptions {
            name: TapName::Exact(name.clone()),
            vnet_hdr: settings.vnet_hdr,
            multi_queue: settings.multi_queue,
            ..TapOptions::default()
        };
        let tap = self.open(&options)?;
        for queue in &tap.queues {
            tun::set_persistent(queue, false)
                .map_err(|errno| Error::system(format!("release {name}"), errno))?;
        }
        Ok(Change::Changed)
    }
}

impl TapOptions {
    fn may_attach(&self) -> bool {
        matches!(self.name, TapName::Exact(_)) && self.if_exists == IfExists::Attach
    }

    /// Whether what is there is what is asked for. (Whether frames carry headers is each opening's
    /// own choice.)
    fn require(&self, found: &LinkInfo, operation: impl Fn() -> String) -> Result<()> {
        let Some(has) = found.tap else {
            return Err(not_a(LinkKind::Tap, found, operation()));
        };
        if self.owner.is_some() && self.owner != has.owner {
            return Err(differs(operation(), &belonging_to("user", has.owner)));
        }
        if self.group.is_some() && self.group != has.group {
            return Err(differs(operation(), &belonging_to("group", has.group)));
        }
        if self.persistent && !has.persistent {
            return Err(differs(
                operation(),
                "and will vanish with the process that holds it",
            ));
        }
        if (self.multi_queue || self.queues > 1) != has.multi_queue {
            return Err(differs(
                operation(),
                if has.multi_queue {
                    "with several queues"
                } else {
                    "with one queue only"
                },
            ));
        }
        Ok(())
    }
}

fn belonging_to(what: &str, id: Option<u32>) -> String {
    match id {
        Some(id) => format!("belonging to {what} {id}"),
        None => format!("belonging to no {what}"),
    }
}

fn who_may_open(tap: &TapSettings) -> String {
    let mut who = Vec::new();
    who.extend(tap.owner.map(|uid| format!("user {uid}")));
    who.extend(tap.group.map(|gid| format!("group {gid}")));
    who.push("a process with CAP_NET_ADMIN".into());
    format!("it may be opened by {}", who.join(" or "))
}

/// A tap of this name exists, but not as asked.
fn differs(operation: String, how: &str) -> Error {
    Error::in_the_way(
        operation,
        format!("it exists, {how}; delete it first, or ask for it as it is"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_tap_is_taken_only_as_asked() {
        let asked = TapOptions {
            owner: Some(1000),
            persistent: true,
            ..TapOptions::default()
        };
        let has = TapSettings {
            owner: Some(1000),
            persistent: true,
            ..TapSettings::default()
        };
        let link = |tap| LinkInfo::for_test("tap0", LinkKind::Tap, tap);
        assert!(asked.require(&link(Some(has)), String::new).is_ok());
        for other in [
            TapSettings { owner: None, ..has },
            TapSettings {
                owner: Some(0),
                ..has
            },
            TapSettings {
                persistent: false,
                ..has
            },
            TapSettings {
                multi_queue: true,
                ..has
            },
        ] {
            assert!(
                asked.require(&link(Some(other)), String::new).is_err(),
                "{other:?}"
            );
        }
        assert!(asked.require(&link(None), String::new).is_err());
    }

    #[test]
    fn a_pattern_never_attaches() {
        assert!(!TapOptions::default().may_attach());
        let name = TapName::Exact("tap0".parse().unwrap());
        assert!(
            TapOptions {
                name: name.clone(),
                ..TapOptions::default()
            }
            .may_attach()
        );
        assert!(
            !TapOptions {
                name,
                if_exists: IfExists::Refuse,
                ..TapOptions::default()
            }
            .may_attach()
        );
    }
}
