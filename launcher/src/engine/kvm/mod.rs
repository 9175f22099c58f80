//! Engine `kvm`: our own virtual machine monitor on the host's hardware virtualisation.
//!
//! In reading order:
//!
//! 1. [`layout`]: the guest's physical address space, and [`memory`], its RAM.
//! 2. [`vm`]: the machine in KVM: memory, interrupt controllers.
//! 3. [`bus`]: which device answers at an address; [`virtio`], the devices.

pub mod bus;
mod error;
pub mod layout;
pub mod memory;
pub mod virtio;
pub mod vm;

pub use error::KvmError;
