//! `lgswitch tap`: persistent taps, for a program that is not ours (or not root) to open.
//!
//! A tap made by a command must outlive it, so these are persistent. A launcher's own taps are
//! not, and need no command: they come with `--tunnet` and go with the launcher.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use netsetup::{
    Change, IfExists, InterfaceAddress, InterfaceName, LinkInfo, LinkKind, NetSetup, TapName,
    TapOptions, TapPlan,
};
use nix::unistd::{Gid, Group, Uid, User};
use pnet_base::MacAddr;

use super::link::{print_json, report_link, report_name, state};
use super::table::{self, cell, list};

/// Make, delete and list persistent taps.
#[derive(Debug, Args)]
pub struct TapCommand {
    #[command(subcommand)]
    action: TapAction,
}

#[derive(Debug, Subcommand)]
enum TapAction {
    /// Make a persistent tap
    Add(AddTap),
    /// Delete a tap (and nothing that is none)
    Del(DelTap),
    /// List all taps of this network namespace
    Ls,
}

#[derive(Debug, Args)]
struct AddTap {
    /// The tap's name, up to 15 bytes
    name: InterfaceName,
    /// User who may open it without privilege
    #[arg(long, value_name = "USER|UID", value_parser = parse_user)]
    owner: Option<u32>,
    /// Group whose members may open it without privilege
    #[arg(long, value_name = "GROUP|GID", value_parser = parse_group)]
    group: Option<u32>,
    /// Frames carry a virtio-net header (for offloads)
    #[arg(long)]
    vnet_hdr: bool,
    /// It may be opened several times at once, one queue each
    #[arg(long)]
    multi_queue: bool,
    /// MAC address of the host's end [default: random]
    #[arg(long, value_name = "MAC")]
    mac: Option<MacAddr>,
    /// MTU in bytes [default: the bridge's, or 1500]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
    /// Attach it to this bridge, which must exist
    #[arg(long, value_name = "BRIDGE", conflicts_with = "address")]
    bridge: Option<InterfaceName>,
    /// Give the host's end this address; may be repeated
    #[arg(long, value_name = "IP/PREFIX")]
    address: Vec<InterfaceAddress>,
    /// Set it up (the default)
    #[arg(long, overrides_with = "down")]
    up: bool,
    /// Leave it down
    #[arg(long)]
    down: bool,
    /// Succeed if there is a tap of this name already that is as asked
    #[arg(long)]
    if_missing: bool,
}

#[derive(Debug, Args)]
struct DelTap {
    /// The tap's name
    name: InterfaceName,
    /// Succeed if there is none
    #[arg(long)]
    if_exists: bool,
}

impl TapCommand {
    /// Runs the command; with `json` its result is printed as JSON.
    pub fn run(self, json: bool) -> Result<()> {
        let net = NetSetup::new()?;
        match self.action {
            TapAction::Add(add) => add.run(&net, json),
            TapAction::Del(del) => del.run(&net, json),
            TapAction::Ls => ls(&net, json),
        }
    }
}

impl AddTap {
    fn run(self, net: &NetSetup, json: bool) -> Result<()> {
        let name = self.name.clone();
        if !self.if_missing
            && net
                .link(&name)?
                .is_some_and(|link| link.kind == LinkKind::Tap)
        {
            bail!(
                "Cannot create tap {name}: there is one already (--if-missing accepts it, if it is as asked)"
            );
        }
        let (_, change) = net.create_tap(&self.plan())?;
        report_link(net, &name, change, json)
    }

    fn plan(self) -> TapPlan {
        TapPlan {
            tap: TapOptions {
                name: TapName::Exact(self.name),
                if_exists: if self.if_missing {
                    IfExists::Attach
                } else {
                    IfExists::Refuse
                },
                owner: self.owner,
                group: self.group,
                vnet_hdr: self.vnet_hdr,
                multi_queue: self.multi_queue,
                mac: self.mac,
                mtu: self.mtu,
                ..TapOptions::default()
            },
            bridge: self.bridge,
            addresses: self.address,
            up: self.up || !self.down,
        }
    }
}

impl DelTap {
    fn run(self, net: &NetSetup, json: bool) -> Result<()> {
        let change = net.delete_tap(&self.name)?;
        if change == Change::Unchanged && !self.if_exists {
            bail!(
                "Cannot delete tap {}: there is no interface of this name (--if-exists accepts that)",
                self.name
            );
        }
        report_name(&self.name, change, json)
    }
}

fn ls(net: &NetSetup, json: bool) -> Result<()> {
    let mut taps = net.links()?;
    taps.retain(|link| link.kind == LinkKind::Tap);
    if json {
        return print_json(&taps);
    }
    let rows: Vec<_> = taps.iter().map(row).collect();
    let headings = [
        "NAME",
        "STATE",
        "MAC",
        "MTU",
        "OWNER",
        "GROUP",
        "MODE",
        "BRIDGE",
        "ADDRESSES",
    ];
    table::print(headings, &rows);
    Ok(())
}

fn row(link: &LinkInfo) -> [String; 9] {
    let tap = link.tap.unwrap_or_default();
    let modes = [
        (tap.persistent, "persistent"),
        (tap.vnet_hdr, "vnet_hdr"),
        (tap.multi_queue, "multi_queue"),
    ];
    [
        link.name.to_string(),
        state(link).into(),
        cell(link.mac),
        link.mtu.to_string(),
        cell(tap.owner.map(user_name)),
        cell(tap.group.map(group_name)),
        list(
            modes
                .into_iter()
                .filter(|(on, _)| *on)
                .map(|(_, mode)| mode),
        ),
        cell(link.master.as_ref()),
        list(&link.addresses),
    ]
}

/// A user, by name or number.
fn parse_user(text: &str) -> Result<u32> {
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    let user = User::from_name(text).context("the user database cannot be read")?;
    user.map(|user| user.uid.as_raw())
        .with_context(|| format!("there is no user {text}"))
}

/// A group, by name or number.
fn parse_group(text: &str) -> Result<u32> {
    if let Ok(gid) = text.parse() {
        return Ok(gid);
    }
    let group = Group::from_name(text).context("the group database cannot be read")?;
    group
        .map(|group| group.gid.as_raw())
        .with_context(|| format!("there is no group {text}"))
}

fn user_name(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid))
        .ok()
        .flatten()
        .map_or(uid.to_string(), |user| user.name)
}

fn group_name(gid: u32) -> String {
    Group::from_gid(Gid::from_raw(gid))
        .ok()
        .flatten()
        .map_or(gid.to_string(), |group| group.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_go_by_name_or_number() {
        assert_eq!(parse_user("root").unwrap(), 0);
        assert_eq!(parse_user("4321").unwrap(), 4321);
        assert_eq!(parse_group("root").unwrap(), 0);
        assert!(
            parse_user("no-such-user")
                .unwrap_err()
                .to_string()
                .contains("no user no-such-user")
        );
        assert!(
            parse_group("no-such-group")
                .unwrap_err()
                .to_string()
                .contains("no group no-such-group")
        );
        assert_eq!(
            (user_name(0).as_str(), user_name(4_000_000_000).as_str()),
            ("root", "4000000000")
        );
        assert_eq!(group_name(0), "root");
    }
}
