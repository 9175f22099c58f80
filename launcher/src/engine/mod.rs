//! Who plays the computer? An [`Engine`] takes what the rest of the launcher has prepared, a
//! [`Guest`], and runs it to its end.
//!
//! The seam is made for engines of two kinds. One starts another program that is the computer, and
//! serves its devices from here ([`qemu`]). Others are the computer themselves, in this process,
//! on threads of their own: `kvm` on hardware virtualisation, [`lguest`] on a processor in software
//! or `/dev/lguest`. Either way an engine gets
//!
//! * the [`Image`] with its files open, to load or to hand on;
//! * the devices in command-line order across kinds, each already open on the host's side
//!   ([`Device`]), to be shown to the guest in that order;
//! * one stream of bytes as the console, and the size of its window;
//! * the line on which requests to stop arrive, a file descriptor to wait on;
//! * a [`Life`] to tell when the guest runs, and to ask what becomes of one that resets itself;
//!
//! and gives a [`GuestEnd`], or an error if the fault is not the guest's.

mod auto;
#[cfg(target_pointer_width = "64")]
pub mod kvm;
pub mod lguest;
#[cfg(target_pointer_width = "64")]
pub mod qemu;

use std::fmt;
use std::os::unix::net::UnixStream;
use std::str::FromStr;

pub use auto::choose;

use crate::backend::Device;
use crate::backend::console::size::ConsoleSize;
use crate::backend::net::Interfaces;
use crate::end::GuestEnd;
use crate::error::Error;
use crate::image::Image;
use crate::life::Life;
use crate::plan::GuestPlan;
use crate::stop::StopRequests;

/// A computer to run guests on.
pub trait Engine {
    /// Its name, as `--engine` takes it.
    fn name(&self) -> EngineName;

    /// What it tells the kernel unless the user did: where its console is, and to end the guest
    /// when it panics.
    fn default_arguments(&self) -> &'static [(&'static str, &'static str)];

    /// Whether its guests have a power button to press. Those without are ended at the first signal.
    fn has_power_button(&self) -> bool {
        true
    }

    /// What its guests' network interfaces are like.
    fn interfaces(&self, plan: &GuestPlan) -> Interfaces {
        let _ = plan;
        Interfaces::default()
    }

    /// Refuses what it can't run, before anything is made: an image, devices, processors that are
    /// too many.
    ///
    /// # Errors
    /// What is missing on this host, or what in the plan or the image does not fit this engine.
    fn check(&self, plan: &GuestPlan, image: &Image) -> Result<(), Error>;

    /// Runs the guest to its end. When it returns, nothing of the guest is left: its devices are
    /// closed and its console's end is shut.
    ///
    /// Call it on the process's first thread, whose death the kernel can tell children.
    ///
    /// # Errors
    /// The engine's failures. What the guest does to itself is a [`GuestEnd`].
    fn run(self: Box<Self>, guest: Guest<'_>) -> Result<GuestEnd, Error>;
}

/// All an engine gets to run a guest.
#[derive(Debug)]
pub struct Guest<'a> {
    /// What was wished for: memory, arguments.
    pub plan: &'a GuestPlan,
    /// Kernel and initrd.
    pub image: &'a Image,
    /// Its devices, in the order it shall find them.
    pub devices: Vec<Device>,
    /// Its console.
    pub console: UnixStream,
    /// How large the console's window is, for a console that can tell its guest.
    pub size: ConsoleSize,
    /// Requests to end it.
    pub stop: &'a StopRequests,
    /// What happens to it.
    pub life: Life,
}

/// The engines there are, or will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineName {
    /// Our own VMM on /dev/kvm.
    Kvm,
    /// `qemu-system-x86_64`, emulating the processor.
    Qemu,
    /// The host that lguest guests know.
    Lguest,
}

/// The value of `--engine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineChoice {
    /// The best that this host and this image allow.
    Auto,
    /// This one and no other.
    Only(EngineName),
}

impl FromStr for EngineChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Only(EngineName::Kvm)),
            "qemu" => Ok(Self::Only(EngineName::Qemu)),
            "lguest" => Ok(Self::Only(EngineName::Lguest)),
            _ => Err(format!(
                "'{text}' is no engine; there are auto, qemu, kvm and lguest"
            )),
        }
    }
}

impl fmt::Display for EngineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
            Self::Lguest => "lguest",
        })
    }
}

/// Why an engine can't run a guest.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// KVM's troubles.
    #[cfg(target_pointer_width = "64")]
    #[error(transparent)]
    Kvm(#[from] kvm::KvmError),
    /// Those of an lguest guest.
    #[error(transparent)]
    Lguest(#[from] lguest::LguestError),
    /// QEMU's troubles.
    #[cfg(target_pointer_width = "64")]
    #[error(transparent)]
    Qemu(#[from] qemu::QemuError),
    /// An engine wished for that has no build of 32 bits.
    #[cfg(target_pointer_width = "32")]
    #[error(
        "This launcher is one of 32 bits, and the engine {0} needs one of 64; leave --engine out"
    )]
    Wide(EngineName),
    /// A kernel for one of those.
    #[cfg(target_pointer_width = "32")]
    #[error(
        "This launcher is one of 32 bits, which runs lguest guests only (Linux 2.6.23), and the kernel is none"
    )]
    OnlyLguest,
}
