//! Engine `qemu`: where hardware virtualisation is missing, `qemu-system-x86_64` emulates the
//! processor (TCG) and the devices' registers, and this process serves what is behind them.
//!
//! In reading order:
//!
//! 1. [`args`]: the guest as a QEMU command line.
//! 2. [`rendezvous`]: where QEMU meets our vhost-user services, and leaves no trace of it.
//! 3. [`process`]: starting it, tied to our life, with the descriptors it needs and no others.
//! 4. [`session`]: one loop over QMP ([`qmp`]), its messages, and requests to stop, to the end.
//! 5. [`verdict`]: what all that was heard makes of the end.
//!
//! Written against QEMU 7.2; nothing is used that 10.x has dropped.

pub mod args;
pub mod lines;
pub mod pci;
pub mod process;
pub mod qmp;
pub mod rendezvous;
pub mod session;
pub mod verdict;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::{Engine, EngineName, Guest};
use crate::end::GuestEnd;
use crate::error::{Error, reason};
use crate::image::{Format, Image};
use crate::plan::GuestPlan;

/// The program.
const PROGRAM: &str = "qemu-system-x86_64";

/// QEMU, found.
#[derive(Debug)]
pub struct Qemu {
    program: PathBuf,
}

/// Why QEMU can't run a guest, or failed to.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// Not in PATH.
    #[error(
        "{PROGRAM} is not installed, and without hardware virtualisation it is what runs guests; \
         install it (Debian, Ubuntu: apt install qemu-system-x86; Fedora: dnf install qemu-system-x86)"
    )]
    NotInstalled,
    /// A kernel QEMU has no way into.
    #[error(
        "QEMU cannot start {}: it is an ELF kernel without a PVH start (CONFIG_PVH); give its bzImage, or build it with that",
        .0.display()
    )]
    NoPvh(PathBuf),
    /// The bus is full.
    #[error(
        "A guest of this engine has room for {max} devices, and this one has {wanted}; give it fewer"
    )]
    TooManyDevices {
        /// What was asked for, QEMU's own included.
        wanted: usize,
        /// How many there can be.
        max: usize,
    },
    /// A channel to it could not be made.
    #[error("Cannot {action} for QEMU: {}", reason(.error))]
    Prepare {
        /// What was being done.
        action: &'static str,
        /// The kernel's reason.
        error: io::Error,
    },
    /// It could not be started.
    #[error("Cannot start {}: {}", .program.display(), reason(.error))]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The kernel's reason.
        error: io::Error,
    },
    /// It gave up before the guest's first instruction.
    #[error("QEMU cannot run this guest: {0}")]
    Start(String),
    /// It gave up, or was made to, while the guest ran.
    #[error("QEMU failed while the guest ran: {0}")]
    Failed(String),
    /// Somebody has a disk already.
    #[error(
        "The disk {0} is in use by another guest or program; end that one, or give the disk to both with ',ro'"
    )]
    DiskInUse(String),
}

impl Qemu {
    /// Finds the program in `PATH`.
    ///
    /// # Errors
    /// It is not there.
    pub fn find() -> Result<Self, QemuError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|folder| folder.join(PROGRAM))
            .find(|file| {
                file.metadata()
                    .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
            })
            .map(|program| Self { program })
            .ok_or(QemuError::NotInstalled)
    }
}

impl Engine for Qemu {
    fn name(&self) -> EngineName {
        EngineName::Qemu
    }

    /// `panic=-1` resets the machine at once, which ends the guest; without it a panicked guest
    /// would stand still for ever.
    fn default_arguments(&self) -> &'static [(&'static str, &'static str)] {
        &[("console", "ttyS0"), ("panic", "-1")]
    }

    fn check(&self, plan: &GuestPlan, image: &Image) -> Result<(), Error> {
        if matches!(&image.format, Format::Elf(elf) if elf.pvh_entry.is_none()) {
            return Err(QemuError::NoPvh(image.kernel.path.clone()).into());
        }
        image.check_arguments(&plan.arguments.with_defaults(self.default_arguments()))?;
        let wanted = plan.devices.len() + args::OWN_DEVICES;
        if wanted > pci::MAX_DEVICES {
            return Err(QemuError::TooManyDevices {
                wanted,
                max: pci::MAX_DEVICES,
            }
            .into());
        }
        Ok(())
    }

    fn run(self: Box<Self>, guest: Guest<'_>) -> Result<GuestEnd, Error> {
        let arguments = guest.plan.arguments.with_defaults(self.default_arguments());
        let (channels, ours) = process::channels(guest.console)?;
        let mut line = args::CommandLine::machine(guest.plan, guest.image, &arguments, channels);
        // The services run from here on; they end when they are dropped, after QEMU has ended.
        let services = line.add_devices(guest.devices)?;
        let qemu = process::spawn(&self.program, line, ours)?;
        let end =
            session::Session::new(qemu).and_then(|session| session.run(guest.stop, &guest.life));
        drop(services);
        Ok(end?)
    }
}
