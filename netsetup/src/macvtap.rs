//! Macvtaps: a MAC address of one's own on another link, with a file descriptor as its end. A
//! guest's way onto a LAN without a bridge; the host itself is not reached through it.
//!
//! Unlike a tap, a macvtap is a link first (made by netlink, it stays until deleted) and a
//! character device `/dev/tapINDEX` second.

use std::os::fd::AsFd;

use nix::errno::Errno;
use pnet_base::MacAddr;
use rtnetlink::LinkMacVtap;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::MacVtapMode;

use crate::change::not_a;
use crate::error::{Error, Result};
use crate::link::{LinkInfo, LinkKind};
use crate::mac::{random_mac, require_unicast};
use crate::name::InterfaceName;
use crate::netlink::CREATE;
use crate::tap::MAX_QUEUES;
use crate::tun::{self, Opening};
use crate::{Change, NetSetup, Tap};

/// Which of the macvtaps on one link reach each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MacvtapMode {
    /// All, directly.
    #[default]
    Bridge,
    /// Through an outside switch that sends frames back the way they came (802.1Qbg).
    Vepa,
    /// None.
    Private,
    /// There is one only, and the link is all its own.
    Passthrough,
}

impl From<MacvtapMode> for MacVtapMode {
    fn from(mode: MacvtapMode) -> Self {
        match mode {
            MacvtapMode::Bridge => Self::Bridge,
            MacvtapMode::Vepa => Self::Vepa,
            MacvtapMode::Private => Self::Private,
            MacvtapMode::Passthrough => Self::Passthrough,
        }
    }
}

/// How a macvtap is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MacvtapOptions {
    /// The link it sits on.
    pub lower: InterfaceName,
    /// Whom it reaches.
    pub mode: MacvtapMode,
    /// Its MAC address, which is the guest's; random if none is given.
    pub mac: Option<MacAddr>,
}

/// How a macvtap is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacvtapOpening {
    /// As [`TapOptions::vnet_hdr`](crate::TapOptions::vnet_hdr).
    pub vnet_hdr: bool,
    /// How many queues to open, from 1.
    pub queues: u16,
    /// As [`TapOptions::nonblocking`](crate::TapOptions::nonblocking).
    pub nonblocking: bool,
}

impl NetSetup {
    /// Makes a macvtap, down. `Unchanged` if there is one of this name on that link, in that mode.
    ///
    /// # Errors
    /// The name is taken by something else, or by a macvtap with other settings; the lower link
    /// does not exist; the kernel's refusal.
    pub fn create_macvtap(&self, name: &InterfaceName, options: &MacvtapOptions) -> Result<Change> {
        let operation = || format!("create macvtap {name} on {}", options.lower);
        if let Some(mac) = options.mac {
            require_unicast(mac, operation)?;
        }
        let lower = self.existing(&options.lower, operation)?.index;
        if let Some(found) = self.link(name)? {
            options.require(&found, lower, operation)?;
            return Ok(Change::Unchanged);
        }
        let mac = options.mac.map_or_else(random_mac, Ok)?;
        let message = LinkMacVtap::new(name.as_str(), lower, options.mode.into())
            .address(mac.octets().to_vec())
            .build();
        match self.call(RouteNetlinkMessage::NewLink(message), CREATE, operation) {
            // Somebody else was quicker.
            Err(e) if e.is(Errno::EEXIST) => {
                options.require(&self.existing(name, operation)?, lower, operation)?;
                Ok(Change::Unchanged)
            }
            answer => answer.map(|_| Change::Changed),
        }
    }

    /// Opens a macvtap. The guest must use the link's MAC address; the link must be up for frames
    /// to flow. Closing it leaves the link; [`delete_link`](Self::delete_link) removes that.
    ///
    /// # Errors
    /// There is no such link, or it is no macvtap; `/dev/tapINDEX` is missing or closed to us, or
    /// is another namespace's (their indices overlap).
    pub fn open_macvtap(&self, name: &InterfaceName, opening: MacvtapOpening) -> Result<Tap> {
        let operation = || format!("open macvtap {name}");
        let info = self.existing(name, operation)?;
        if info.kind != LinkKind::Macvtap {
            return Err(not_a(LinkKind::Macvtap, &info, operation()));
        }
        if opening.queues == 0 || opening.queues > MAX_QUEUES {
            let reason = format!(
                "it must have 1 to {MAX_QUEUES} queues, not {}",
                opening.queues
            );
            return Err(Error::contradiction(operation(), reason));
        }
        let device = format!("/dev/tap{}", info.index);
        let mut queues = Vec::with_capacity(opening.queues.into());
        for _ in 0..opening.queues {
            let queue = tun::open_node(&device, opening.nonblocking, operation)?;
            // The device of an equal index in another namespace has the same path.
            match tun::identity(queue.as_fd()) {
                Ok((found, mac)) if found == *name && Some(mac) == info.mac => {}
                _ => {
                    return Err(Error::in_the_way(
                        operation(),
                        format!("{device} is another namespace's"),
                    ));
                }
            }
            let flags = Opening {
                vnet_hdr: opening.vnet_hdr,
                multi_queue: opening.queues > 1,
                exclusive: false,
            };
            tun::attach(queue.as_fd(), name.as_str(), flags)
                .map_err(|errno| Error::system(operation(), errno))?;
            queues.push(queue);
        }
        Ok(Tap {
            name: name.clone(),
            index: info.index,
            created: false,
            queues,
        })
    }
}

impl MacvtapOptions {
    /// Whether what is there is what is asked for.
    fn require(&self, found: &LinkInfo, lower: u32, operation: impl Fn() -> String) -> Result<()> {
        if found.kind != LinkKind::Macvtap {
            return Err(not_a(LinkKind::Macvtap, found, operation()));
        }
        let differs = |what: String| {
            Err(Error::in_the_way(
                operation(),
                format!("it exists, but {what}"),
            ))
        };
        if found.lower_index != Some(lower) {
            differs("it sits on another link".into())
        } else if found.macvtap_mode != Some(self.mode.into()) {
            differs("it is in another mode".into())
        } else if self.mac.is_some() && self.mac != found.mac {
            differs(format!(
                "its MAC address is {}",
                found.mac.unwrap_or_default()
            ))
        } else {
            Ok(())
        }
    }
}
