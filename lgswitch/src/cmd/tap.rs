//! `lgswitch tap`: persistent taps, for a program that is not ours (or not root) to open.
//!
//! A tap made by a command must outlive it, so these are persistent. A launcher's own taps are
//! not, and need no command: they come with `--tunnet` and go with the launcher.

use anyhow::Result;
use clap::{Args, Subcommand};
use netsetup::{
    IfExists, InterfaceAddress, InterfaceName, LinkInfo, LinkKind, NetSetup, TapName, TapOptions,
    TapPlan,
};
use pnet_base::MacAddr;

use super::account::{group_name, parse_group, parse_user, user_name};
use super::link::{print_json, refuse_existing, report_deleted, report_link, state};
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
        if !self.if_missing {
            refuse_existing(net, &name, LinkKind::Tap)?;
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
        report_deleted(LinkKind::Tap, &self.name, change, self.if_exists, json)
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
