//! The engines of hosts of 64 bits: hardware virtualisation, or QEMU in place of it.

use crate::engine::kvm::{self, Kvm, KvmError};
use crate::engine::qemu::{Qemu, QemuError};
use crate::engine::{Engine, EngineError};
use crate::error::Error;

pub(super) fn kvm() -> Result<Box<dyn Engine>, Error> {
    Ok(Box::new(Kvm::open()?))
}

pub(super) fn qemu() -> Result<Box<dyn Engine>, Error> {
    Ok(Box::new(Qemu::find()?))
}

/// The hardware if it can be had, otherwise its emulation.
pub(super) fn best() -> Result<(Box<dyn Engine>, &'static str), Error> {
    if !kvm::host::has_virtualisation() {
        let why = "this host has no hardware virtualisation (no vmx or svm in /proc/cpuinfo)";
        return Ok((qemu()?, why));
    }
    let obstacle = match Kvm::open() {
        Ok(kvm) => {
            let why = "this host has hardware virtualisation, and /dev/kvm opens";
            return Ok((Box::new(kvm), why));
        }
        Err(obstacle) => obstacle,
    };
    let why = match obstacle {
        KvmError::NoPermission => "there is no permission to use /dev/kvm",
        KvmError::NoModule => "there is no /dev/kvm",
        _ => "this host's KVM is not one for the engine kvm",
    };
    match Qemu::find() {
        Ok(qemu) => Ok((Box::new(qemu), why)),
        // What keeps KVM away is easier to remove than QEMU is to install.
        Err(_) => Err(obstacle.into()),
    }
}

impl From<QemuError> for Error {
    fn from(error: QemuError) -> Self {
        EngineError::from(error).into()
    }
}
