//! `lgswitch plug`: something else than a launcher on a segment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::machine;
use crate::namespace::Namespace;
use crate::wait::{self, PATIENCE};

/// A running plug. Dropping it kills it.
pub struct Plug(Child);

impl Plug {
    /// A card of a VMM, which finds it at `socket`: this address, so many pairs of queues.
    ///
    /// # Errors
    /// It can't be run, or does not listen in time.
    pub fn card(lab: &Lab, segment: &str, socket: &Path, mac: &str, pairs: u8) -> Result<Plug> {
        let mut what = OsString::from("vhost-user:");
        what.push(socket);
        let mut command = lab.command(machine::binary("lgswitch")?);
        command.args(["plug", segment]).arg(what).args([
            "--mac",
            mac,
            "--queues",
            &pairs.to_string(),
        ]);
        let plug = Self::run(&mut command)?;
        wait::until_true("lgswitch plug to listen", PATIENCE, || Ok(socket.exists()))?;
        Ok(plug)
    }

    /// A tap of `host`, with these addresses.
    ///
    /// # Errors
    /// It can't be run, or the tap is not there and up in time.
    pub fn tap(
        lab: &Lab,
        segment: &str,
        host: &Namespace,
        tap: &str,
        addresses: &[String],
    ) -> Result<Plug> {
        let segment = lab.segment(segment);
        let mut command = host.command(machine::binary("lgswitch")?);
        command.arg("plug").arg(&segment).arg(format!("tap:{tap}"));
        for address in addresses {
            command.args(["--address", address]);
        }
        let plug = Self::run(&mut command)?;
        // It is up, and has its addresses, before it has a port.
        wait::until_true("lgswitch plug to have its port", PATIENCE, || {
            let report = lab.inspect(&segment.display().to_string())?;
            let ports = report["ports"].as_array().cloned().unwrap_or_default();
            Ok(ports
                .iter()
                .any(|port| port["name"] == format!("tap:{tap}")))
        })?;
        Ok(plug)
    }

    fn run(command: &mut Command) -> Result<Plug> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("Running lgswitch plug")?;
        Ok(Plug(child))
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        // It may have ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where a card of a guest in this lab is to be found.
#[must_use]
pub fn socket(lab: &Lab, guest: &str, card: usize) -> PathBuf {
    lab.path(&format!("{guest}-{card}.socket"))
}
