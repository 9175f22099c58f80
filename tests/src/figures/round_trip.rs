//! Ping between two guests: on a sharenet, and under QEMU on taps of one bridge.

use anyhow::{Context, Result, bail};

use super::table::{Goal, Table, median};
use super::vmm::{BOTH, Running, Vmm, Wanted, Wire};
use super::{Rounds, tried};
use crate::lab::Lab;
use crate::machine;

/// The bridge and its taps, on the host that is measured; removed again.
const BRIDGE: &str = "figures0";
const TAPS: [&str; 2] = ["tap-left", "tap-right"];

pub(super) fn measure(lab: &Lab, rounds: Rounds, table: &mut Table) -> Result<()> {
    let mut taken = [Vec::new(), Vec::new()];
    let _bridge = Bridge::make()?;
    lab.lgswitch(&["create", "ping"])?;
    for round in 1..=rounds.0 {
        for (vmm, taken) in BOTH.iter().zip(&mut taken) {
            let milliseconds = tried(|| once(lab, *vmm))?;
            eprintln!("round trip {round}, {vmm:?}: {milliseconds:.3} ms");
            taken.push(milliseconds);
        }
    }
    let [ours, theirs] = taken.map(median);
    table.row(
        "ping between guests, sharenet against tap + bridge, ms",
        ours,
        Some(theirs),
        Goal::Times(1.0),
    );
    Ok(())
}

/// The median of the round trips, in milliseconds.
fn once(lab: &Lab, vmm: Vmm) -> Result<f64> {
    let image = machine::image()?;
    let start = |name, mac, arguments: &str| -> Result<Running> {
        let wire = match vmm {
            Vmm::Launcher => Wire::Sharenet("ping"),
            Vmm::Qemu => Wire::Bridge(BRIDGE),
        };
        let wanted = Wanted {
            name,
            memory: 256,
            kernel: &image.kernel,
            initrd: &image.initrd,
            arguments,
            wire: Some((wire, mac)),
        };
        vmm.start(lab, &wanted)
    };
    let mut left = start(
        "left",
        "02:00:00:00:00:01",
        "quiet host=left eth0=10.0.0.1/24",
    )?;
    let mut right = start(
        "right",
        "02:00:00:00:00:02",
        "quiet host=right eth0=10.0.0.2/24",
    )?;
    left.guest.booted()?;
    right.guest.booted()?;
    left.guest.pings("10.0.0.2")?;
    let answer = left
        .guest
        .succeeds("/usr/bin/ping -n -c 60 -i 0.2 -W 5 10.0.0.2")?;
    let times = answer
        .split("time=")
        .skip(1)
        .map(|rest| rest.split(' ').next()?.parse().ok())
        .collect::<Option<Vec<f64>>>()
        .filter(|times| times.len() >= 50)
        .with_context(|| format!("ping says: {answer}"))?;
    Ok(median(times))
}

/// A bridge with two taps, as long as this is kept.
struct Bridge;

impl Bridge {
    fn make() -> Result<Bridge> {
        let bridge = Bridge;
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        for tap in TAPS {
            ip(&["tuntap", "add", tap, "mode", "tap", "vnet_hdr"])?;
            ip(&["link", "set", tap, "master", BRIDGE])?;
            ip(&["link", "set", tap, "up"])?;
        }
        Ok(bridge)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        for link in TAPS.iter().chain([&BRIDGE]) {
            // It may not have been made.
            let _ = ip(&["link", "delete", link]);
        }
    }
}

fn ip(words: &[&str]) -> Result<()> {
    let output = std::process::Command::new("ip")
        .args(words)
        .output()
        .context("Running ip")?;
    if !output.status.success() {
        bail!(
            "`ip {}`: {}",
            words.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
