//! Macvtaps: a MAC address of one's own on another link, with a file descriptor as its end. A
//! guest's way onto a LAN without a bridge; the host itself is not reached through it.
//!
//! Unlike a tap, a macvtap is a link first (made by netlink, it stays until deleted) and a
//! character device `/dev/tapINDEX` second.
//!
//! One that is to vanish with its opener ([`NetSetup::setup_macvtap`]) is made in a network namespace of
//! its own, which has no name and nobody in it: all that keeps it are the macvtap's open descriptors (a
//! socket in the kernel each, which keeps the namespace it was opened in). With the last of them the
//! namespace ends, and with a namespace its software links. Nobody has to clear up, so nobody has to live.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use pnet_base::MacAddr;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, MacVtapMode,
};
use rtnetlink::{LinkMacVtap, LinkMessageBuilder, LinkUnspec};

use crate::change::not_a;
use crate::error::{Error, Result};
use crate::link::{LinkInfo, LinkKind};
use crate::mac::{self, random_mac, require_unicast};
use crate::name::InterfaceName;
use crate::netlink::{CHANGE, CREATE};
use crate::netns::Netns;
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

/// Name of the only link of its namespace.
const OWN_NAME: &str = "macvtap0";

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
        let message = options.message(name, lower, mac).build();
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

impl NetSetup {
    /// Makes a macvtap, up, and opens it. It is seen by nobody else, and vanishes with its
    /// descriptors, however the process ends.
    ///
    /// It takes frames to its own address, to all, and to every group; the host's kernel uses it for
    /// nothing.
    ///
    /// # Errors
    /// The lower link does not exist; namespaces can't be made (`CAP_SYS_ADMIN`); the MAC address is
    /// taken on that link; nothing made `/dev/tapINDEX`, or it is closed to us; the kernel's refusal.
    pub fn setup_macvtap(&self, options: &MacvtapOptions, opening: MacvtapOpening) -> Result<Tap> {
        let operation = || format!("make a macvtap on {}", options.lower);
        let lower = self.existing(&options.lower, operation)?.index;
        let mac = options.mac.map_or_else(random_mac, Ok)?;
        require_unicast(mac, operation)?;
        let name: InterfaceName = OWN_NAME.parse()?;
        let index = random_index()?;

        let netns = Netns::unnamed()?;
        let mut request = options
            .message(&name, lower, mac)
            .setns_by_fd(netns.as_fd().as_raw_fd())
            .build();
        request.header.index = index;
        match self.call(RouteNetlinkMessage::NewLink(request), CREATE, operation) {
            Err(error) if error.is(Errno::EINVAL) => {
                let why = format!("{} is no Ethernet, or takes no macvtaps", options.lower);
                return Err(Error::in_the_way(operation(), why));
            }
            answer => drop(answer?),
        }

        // What is in a namespace can be opened only by who is in there.
        netns
            .run(|| {
                let inside = Self::new()?;
                let set =
                    |request| inside.call(RouteNetlinkMessage::SetLink(request), CHANGE, operation);
                // Its address is the guest's, and so would be one made of it for IPv6: each would find the
                // other's to be a duplicate.
                let no_address = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
                let settings = LinkUnspec::new_with_index(index)
                    .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
                        vec![no_address],
                    )]))
                    .build();
                match set(settings) {
                    // There is no IPv6 in this kernel.
                    Err(error) if error.is(Errno::EAFNOSUPPORT) => {}
                    answer => drop(answer?),
                }
                // To every group: which ones the guest listens to is not told to the link.
                let up = LinkUnspec::new_with_index(index).allmulticast(true).up();
                set(up.build())?;
                inside.open_macvtap(&name, opening)
            })?
            .map(|tap| Tap {
                created: true,
                ..tap
            })
    }
}

/// An index for a link whose `/dev/tapINDEX` is to be no other namespace's: those count from 1.
fn random_index() -> Result<u32> {
    let mut bytes = [0; 4];
    mac::fill(&mut bytes)?;
    Ok(u32::from_ne_bytes(bytes) >> 2 | 1 << 29)
}

impl MacvtapOptions {
    fn message(
        &self,
        name: &InterfaceName,
        lower: u32,
        mac: MacAddr,
    ) -> LinkMessageBuilder<LinkMacVtap> {
        LinkMacVtap::new(name.as_str(), lower, self.mode.into()).address(mac.octets().to_vec())
    }

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
