//! A guest to be measured: the same one, by the launcher or by QEMU.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::console::Console;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::machine;
use crate::plug::{self, Plug};

/// Who runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vmm {
    /// Our engine `kvm`.
    Launcher,
    /// QEMU on KVM.
    Qemu,
}

/// Both, in the order in which they take turns.
pub const BOTH: [Vmm; 2] = [Vmm::Launcher, Vmm::Qemu];

/// What a guest's card is on.
#[derive(Clone, Copy, Debug)]
pub enum Wire<'a> {
    /// A sharenet: our own device, or QEMU's vhost-user.
    Sharenet(&'a str),
    /// A tap on this bridge.
    Bridge(&'a str),
}

/// The guest.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Its name; a guest of the usual initramfs shows it in its prompt.
    pub name: &'a str,
    /// MiB.
    pub memory: u32,
    /// A bzImage, or `vmlinux`.
    pub kernel: &'a Path,
    /// The initramfs.
    pub initrd: &'a Path,
    /// Words for the kernel.
    pub arguments: &'a str,
    /// What its card is on, and the card's address.
    pub wire: Option<(Wire<'a>, &'a str)>,
}

/// A guest that runs, and what runs beside it for its sake. Dropping it ends all.
pub struct Running {
    /// The guest.
    pub guest: Guest,
    /// `lgswitch plug`, between QEMU and a sharenet.
    _plug: Option<Plug>,
}

impl Vmm {
    /// Starts the guest; it boots while the caller goes on.
    ///
    /// # Errors
    /// The VMM, or `lgswitch plug`, cannot be run.
    pub fn start(self, lab: &Lab, wanted: &Wanted<'_>) -> Result<Running> {
        let (mut command, plug) = match self {
            Vmm::Launcher => (launcher(lab, wanted)?, None),
            Vmm::Qemu => qemu(lab, wanted)?,
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("Running {command:?}"))?;
        let (Some(input), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            bail!("{command:?} has no pipes");
        };
        let guest = Guest::new(wanted.name, child, Console::new(input, output), errors);
        Ok(Running { guest, _plug: plug })
    }
}

fn launcher(lab: &Lab, wanted: &Wanted<'_>) -> Result<Command> {
    let mut command = lab.command(machine::binary("launcher")?);
    command.arg("--engine=kvm");
    match wanted.wire {
        Some((Wire::Sharenet(name), mac)) => {
            command.arg(format!("--sharenet={name},mac={mac}"));
        }
        Some((Wire::Bridge(name), mac)) => {
            command.arg(format!("--tunnet=bridge:{name},mac={mac}"));
        }
        None => {}
    }
    command
        .arg("--initrd")
        .arg(wanted.initrd)
        .arg(wanted.memory.to_string())
        .arg(wanted.kernel)
        .args(wanted.arguments.split(' '));
    Ok(command)
}

/// QEMU as lean as it comes. Without a card it is its `microvm` machine with the options its
/// documentation recommends for a fast start, but the clock, whose absence costs a Debian kernel
/// seconds, and the serial port. A card is on PCI: with an interrupt of its own it leaves the guest
/// less often than `microvm`'s.
fn qemu(lab: &Lab, wanted: &Wanted<'_>) -> Result<(Command, Option<Plug>)> {
    let mut command = lab.command("qemu-system-x86_64");
    let machine = match wanted.wire {
        None => "microvm,x-option-roms=off,pit=off,pic=off,rtc=on",
        Some(_) => "q35,memory-backend=ram,vmport=off,sata=off,smbus=off,usb=off",
    };
    command
        .args(["-accel", "kvm", "-cpu", "host", "-nodefaults"])
        .args(["-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-serial", "stdio", "-machine", machine, "-m"])
        .arg(wanted.memory.to_string())
        .arg("-kernel")
        .arg(wanted.kernel)
        .arg("-initrd")
        .arg(wanted.initrd)
        .arg("-append")
        .arg(format!("console=ttyS0 panic=-1 {}", wanted.arguments));
    let mut plug = None;
    if let Some((wire, mac)) = wanted.wire {
        // A vhost-user service must be able to map it.
        command.arg("-object").arg(format!(
            "memory-backend-memfd,id=ram,size={}M,share=on",
            wanted.memory
        ));
        let netdev = match wire {
            Wire::Sharenet(name) => {
                let socket = plug::socket(lab, wanted.name, 0);
                plug = Some(Plug::card(lab, name, &socket, mac, 1)?);
                command
                    .arg("-chardev")
                    .arg(format!("socket,id=card,path={}", socket.display()));
                "vhost-user,id=wire,chardev=card".to_string()
            }
            Wire::Bridge(_) => {
                let tap = format!("tap-{}", wanted.name);
                format!("tap,id=wire,ifname={tap},script=no,downscript=no")
            }
        };
        command.args(["-netdev", &netdev, "-device"]);
        command.arg(format!("virtio-net-pci,netdev=wire,mac={mac},romfile="));
    }
    Ok((command, plug))
}
