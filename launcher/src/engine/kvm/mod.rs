//! Engine `kvm`: our own virtual machine monitor on the host's hardware virtualisation.
//!
//! The processor runs the guest's instructions itself; KVM, in the kernel, enters and leaves the
//! guest and keeps its interrupt controllers; we give it memory, load a kernel there, say where
//! its processors begin, and are the devices it meets. In reading order, to the guest's first
//! instruction and to its last:
//!
//! 1. [`host`]: is there a KVM?
//! 2. [`layout`]: the guest's physical address space, and [`memory`], its RAM.
//! 3. [`vm`]: the machine in KVM: memory, interrupt controllers, wires.
//! 4. [`bus`]: which device answers at an address. [`serial`], [`power`], [`pci`]; [`virtio`], the
//!    devices of the command line.
//! 5. [`acpi`]: how the kernel learns of all that.
//! 6. [`machine`]: the parts together.
//! 7. [`boot`]: kernel, initrd and command line in memory; [`cpu`]: the first instruction.
//! 8. [`processors`]: one thread each, into the guest and out of it; [`crate::seccomp`], what it may do.
//! 9. [`run`]: until it is switched off.

pub mod acpi;
pub mod boot;
pub mod bus;
pub mod cpu;
mod error;
pub mod host;
pub mod layout;
pub mod machine;
pub mod memory;
pub mod pci;
pub mod power;
pub mod processors;
pub mod run;
pub mod serial;
pub mod virtio;
pub mod vm;

use kvm_ioctls::Kvm as Device;

pub use error::KvmError;

use super::{Engine, EngineName, Guest};
use crate::backend;
use crate::backend::net::Interfaces;
use crate::end::GuestEnd;
use crate::error::Error;
use crate::image::Image;
use crate::plan::GuestPlan;
use machine::{Machine, Software};
use virtio::net;
use virtio::parts::{MAX_DEVICES, OWN_DEVICES};

/// KVM, opened.
#[derive(Debug)]
pub struct Kvm(Device);

impl Kvm {
    /// Opens it.
    ///
    /// # Errors
    /// What is in the way.
    pub fn open() -> Result<Self, KvmError> {
        host::open().map(Self)
    }
}

impl Engine for Kvm {
    fn name(&self) -> EngineName {
        EngineName::Kvm
    }

    /// The serial port is where a kernel speaks from its first moment on. `panic=-1` resets the
    /// machine at once, which ends the guest.
    fn default_arguments(&self) -> &'static [(&'static str, &'static str)] {
        &[("console", "ttyS0"), ("panic", "-1")]
    }

    /// One queue, each way, for each processor.
    fn interfaces(&self, plan: &GuestPlan) -> Interfaces {
        Interfaces {
            queues: net::pairs(plan.cpus.get().into()) as u16,
            ..Interfaces::default()
        }
    }

    fn check(&self, plan: &GuestPlan, image: &Image) -> Result<(), Error> {
        let (wanted, max) = (plan.cpus.get(), self.0.get_max_vcpus());
        if usize::from(wanted) > max {
            return Err(KvmError::TooManyCpus { wanted, max }.into());
        }
        let wanted = plan.devices.len() + OWN_DEVICES;
        if wanted > MAX_DEVICES {
            let max = MAX_DEVICES;
            return Err(KvmError::TooManyDevices { wanted, max }.into());
        }
        image.check_arguments(&plan.arguments.with_defaults(self.default_arguments()))?;
        Ok(())
    }

    fn run(self: Box<Self>, guest: Guest<'_>) -> Result<GuestEnd, Error> {
        for device in &guest.devices {
            if let backend::Device::Block(disk) = device {
                disk.lock()?;
            }
        }
        // Nothing is started from here on, least of all with more rights than ours. Refused only by
        // kernels without it, older than all KVM we take.
        let _ = nix::sys::prctl::set_no_new_privs();
        let software = Software {
            plan: guest.plan,
            image: guest.image,
            arguments: guest.plan.arguments.with_defaults(self.default_arguments()),
        };
        let machine = Machine::build(self.0, software, guest.devices, guest.console)?;
        Ok(run::run(machine, guest.stop, &guest.size, &guest.life)?)
    }
}

impl From<KvmError> for Error {
    fn from(error: KvmError) -> Self {
        super::EngineError::from(error).into()
    }
}
