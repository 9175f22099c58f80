//! A guest by QEMU alone, whose cards are plugged in with `lgswitch plug`: another VMM than ours, and
//! cards that lack what the launcher's have.

use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::console::Console;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::machine;
use crate::plug::{self, Plug};

/// A card.
#[derive(Clone, Debug)]
pub struct Card {
    /// Its address.
    pub mac: String,
    /// Pairs of queues.
    pub pairs: u8,
    /// What QEMU's device is told besides, as `mrg_rxbuf=off`.
    pub properties: &'static str,
}

/// A guest and its plugs. Dropping it ends all.
pub struct Plugged {
    /// The guest, which boots while the caller goes on.
    pub guest: Guest,
    /// What its cards are plugged in with, in their order.
    pub plugs: Vec<Plug>,
}

impl Plugged {
    /// Starts a guest on `segment`, with processors of this number.
    ///
    /// # Errors
    /// QEMU or a plug can't be run.
    pub fn start(
        lab: &Lab,
        name: &str,
        segment: &str,
        processors: u8,
        cards: &[Card],
        arguments: &str,
    ) -> Result<Plugged> {
        let image = machine::image()?;
        let mut command = lab.command("qemu-system-x86_64");
        let accelerator = match machine::has_kvm() {
            true => ["-accel", "kvm", "-cpu", "host"],
            false => ["-accel", "tcg", "-cpu", "max"],
        };
        command
            .args(accelerator)
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-no-reboot", "-serial", "stdio", "-m", "256", "-smp"])
            .arg(processors.to_string())
            .args(["-object", "memory-backend-memfd,id=ram,size=256M,share=on"])
            .arg("-machine")
            .arg("q35,memory-backend=ram,vmport=off,sata=off,smbus=off,usb=off")
            .arg("-kernel")
            .arg(image.kernel)
            .arg("-initrd")
            .arg(image.initrd)
            .arg("-append")
            .arg(format!(
                "console=ttyS0 panic=-1 quiet host={name} {arguments}"
            ));
        let mut plugs = Vec::new();
        for (i, card) in cards.iter().enumerate() {
            let Card {
                mac,
                pairs,
                properties,
            } = card;
            let socket = plug::socket(lab, name, i);
            plugs.push(Plug::card(lab, segment, &socket, mac, *pairs)?);
            command
                .arg("-chardev")
                .arg(format!(
                    "socket,id=card{i},path={},reconnect=1",
                    socket.display()
                ))
                .arg("-netdev")
                .arg(format!(
                    "vhost-user,id=net{i},chardev=card{i},queues={pairs}"
                ))
                .arg("-device");
            // QEMU 7.2 under TCG crashes when a vhost-user card uses MSI-X.
            let mut device = format!("virtio-net-pci,netdev=net{i},mac={mac},romfile=,vectors=0");
            if *pairs > 1 {
                device += ",mq=on";
            }
            if !properties.is_empty() {
                device = format!("{device},{properties}");
            }
            command.arg(device);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("Running QEMU")?;
        let (Some(input), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            bail!("QEMU has no pipes");
        };
        let guest = Guest::new(name, child, Console::new(input, output), errors);
        Ok(Plugged { guest, plugs })
    }
}
