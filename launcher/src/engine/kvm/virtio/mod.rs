//! The guest's devices, each a virtio device with its registers in memory (virtio-mmio).
//!
//! Here are only the seams to the machine they are in: a [`Placement`] says where a device stands,
//! [`Wiring`] joins its doorbells and interrupts to KVM.

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// Where a device stands in the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// The physical address of its registers.
    pub address: u64,
    /// Their length, in bytes.
    pub size: u64,
    /// Its interrupt: a pin of the I/O APIC, edge-triggered.
    pub gsi: u32,
}

/// The wires between a device and the guest's processors that do without this process's help.
pub trait Wiring {
    /// Whenever `fd` is signalled, the guest gets interrupt `gsi`.
    ///
    /// # Errors
    /// KVM's reason.
    fn irqfd(&self, fd: &EventFd, gsi: u32) -> io::Result<()>;

    /// Whenever the guest writes the 32-bit number `queue` to `address`, `fd` is signalled, and
    /// the guest goes on at once.
    ///
    /// # Errors
    /// KVM's reason.
    fn ioeventfd(&self, fd: &EventFd, address: u64, queue: u32) -> io::Result<()>;
}
