//! Getting hold of a tap: making a new one or attaching to one that exists, and telling why
//! neither was possible. The kernel gives bare error numbers here; what they mean depends on what
//! there is.

use std::os::fd::AsFd;

use nix::errno::Errno;

use super::{IfExists, Tap, TapOptions};
use crate::change::not_a;
use crate::error::{Error, Result};
use crate::link::{LinkInfo, LinkKind, TapSettings};
use crate::name::{InterfaceName, TapName};
use crate::tun::{self, Opening};
use crate::{Change, NetSetup};

impl NetSetup {
    /// Opens all queues; the tap has its owner and group, nothing else yet.
    pub(super) fn open(&self, options: &TapOptions) -> Result<Tap> {
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
    pub(super) fn release(&self, name: &InterfaceName, info: &LinkInfo) -> Result<Change> {
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
    pub(super) fn require(&self, found: &LinkInfo, operation: impl Fn() -> String) -> Result<()> {
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
pub(super) fn differs(operation: String, how: &str) -> Error {
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
