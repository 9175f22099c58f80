//! `lgswitch bridge`: bridges of the host, and which links are their ports.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use netsetup::{
    BridgeOptions, BridgePlan, Change, InterfaceAddress, InterfaceName, LinkInfo, LinkKind,
    NetSetup,
};
use pnet_base::MacAddr;
use serde::Serialize;

use super::link::{print_json, refuse_existing, report_deleted, report_link, state};
use super::table::{self, cell, list};

/// Make, delete and list bridges; attach links to them.
#[derive(Debug, Args)]
pub struct BridgeCommand {
    #[command(subcommand)]
    action: BridgeAction,
}

#[derive(Debug, Subcommand)]
enum BridgeAction {
    /// Make a bridge
    Add(AddBridge),
    /// Delete a bridge (and nothing that is none); its ports stay, as plain links
    Del(DelBridge),
    /// List all bridges of this network namespace, with their ports
    Ls,
    /// Make a link a port of a bridge
    Attach(Attach),
    /// Take a link from the bridge it is a port of
    Detach(Detach),
}

#[derive(Debug, Args)]
struct AddBridge {
    /// The bridge's name, up to 15 bytes
    name: InterfaceName,
    /// The host's MAC address on it [default: random]
    #[arg(long, value_name = "MAC")]
    mac: Option<MacAddr>,
    /// MTU in bytes [default: the smallest among its ports]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
    /// Run the spanning tree protocol (a new port then waits 30 s before it forwards)
    #[arg(long)]
    stp: bool,
    /// Tell VLANs apart by their tags
    #[arg(long)]
    vlan_filtering: bool,
    /// How long to remember where a MAC address was seen [default: 300]
    #[arg(long, value_name = "SECONDS")]
    ageing: Option<u32>,
    /// Give the host this address on it; may be repeated
    #[arg(long, value_name = "IP/PREFIX")]
    address: Vec<InterfaceAddress>,
    /// Set it up (the default)
    #[arg(long, overrides_with = "down")]
    up: bool,
    /// Leave it down
    #[arg(long)]
    down: bool,
    /// Succeed if there is a bridge of this name already that is as asked
    #[arg(long)]
    if_missing: bool,
}

#[derive(Debug, Args)]
struct DelBridge {
    /// The bridge's name
    name: InterfaceName,
    /// Succeed if there is none
    #[arg(long)]
    if_exists: bool,
}

#[derive(Debug, Args)]
struct Attach {
    /// The bridge
    bridge: InterfaceName,
    /// The link that is to be its port
    link: InterfaceName,
    /// Succeed if it is its port already
    #[arg(long)]
    if_missing: bool,
}

#[derive(Debug, Args)]
struct Detach {
    /// The link
    link: InterfaceName,
    /// Succeed if it is no port of a bridge
    #[arg(long)]
    if_exists: bool,
}

impl BridgeCommand {
    /// Runs the command; with `json` its result is printed as JSON.
    pub fn run(self, json: bool) -> Result<()> {
        let net = NetSetup::new()?;
        match self.action {
            BridgeAction::Add(add) => add.run(&net, json),
            BridgeAction::Del(del) => del.run(&net, json),
            BridgeAction::Ls => ls(&net, json),
            BridgeAction::Attach(attach) => attach.run(&net, json),
            BridgeAction::Detach(detach) => detach.run(&net, json),
        }
    }
}

impl AddBridge {
    fn run(self, net: &NetSetup, json: bool) -> Result<()> {
        let name = self.name.clone();
        if !self.if_missing {
            refuse_existing(net, &name, LinkKind::Bridge)?;
        }
        let change = net.setup_bridge(&self.plan())?;
        report_link(net, &name, change, json)
    }

    fn plan(self) -> BridgePlan {
        BridgePlan {
            name: self.name,
            options: BridgeOptions {
                mac: self.mac,
                mtu: self.mtu,
                // What is not asked for is left alone, so that --if-missing takes what it finds.
                stp: self.stp.then_some(true),
                vlan_filtering: self.vlan_filtering.then_some(true),
                ageing: self
                    .ageing
                    .map(|seconds| Duration::from_secs(seconds.into())),
            },
            addresses: self.address,
            up: self.up || !self.down,
        }
    }
}

impl DelBridge {
    fn run(self, net: &NetSetup, json: bool) -> Result<()> {
        let change = net.delete_bridge(&self.name)?;
        report_deleted(LinkKind::Bridge, &self.name, change, self.if_exists, json)
    }
}

impl Attach {
    fn run(self, net: &NetSetup, json: bool) -> Result<()> {
        let change = net.set_master(&self.link, &self.bridge)?;
        if change == Change::Unchanged && !self.if_missing {
            let Self { link, bridge, .. } = self;
            bail!(
                "Cannot attach {link} to bridge {bridge}: it is a port of it already (--if-missing accepts that)"
            );
        }
        report_link(net, &self.link, change, json)
    }
}

impl Detach {
    fn run(self, net: &NetSetup, json: bool) -> Result<()> {
        let change = net.clear_master(&self.link)?;
        if change == Change::Unchanged && !self.if_exists {
            bail!(
                "Cannot detach {}: it is no port of a bridge (--if-exists accepts that)",
                self.link
            );
        }
        report_link(net, &self.link, change, json)
    }
}

/// A bridge as `ls` shows it.
#[derive(Serialize)]
struct WithPorts<'a> {
    #[serde(flatten)]
    link: &'a LinkInfo,
    ports: Vec<&'a InterfaceName>,
}

fn ls(net: &NetSetup, json: bool) -> Result<()> {
    let links = net.links()?;
    let bridges: Vec<_> = links
        .iter()
        .filter(|link| link.kind == LinkKind::Bridge)
        .collect();
    let ports_of = |bridge: &LinkInfo| {
        let ports = links
            .iter()
            .filter(|link| link.master.as_ref() == Some(&bridge.name));
        ports.map(|link| &link.name).collect::<Vec<_>>()
    };
    let bridges: Vec<_> = bridges
        .into_iter()
        .map(|link| WithPorts {
            link,
            ports: ports_of(link),
        })
        .collect();
    if json {
        return print_json(&bridges);
    }
    let rows: Vec<_> = bridges.iter().map(row).collect();
    table::print(
        ["NAME", "STATE", "MAC", "MTU", "STP", "PORTS", "ADDRESSES"],
        &rows,
    );
    Ok(())
}

fn row(WithPorts { link, ports }: &WithPorts<'_>) -> [String; 7] {
    let settings = link.bridge.unwrap_or_default();
    [
        link.name.to_string(),
        state(link).into(),
        cell(link.mac),
        link.mtu.to_string(),
        if settings.stp { "on" } else { "off" }.into(),
        list(ports),
        list(&link.addresses),
    ]
}
