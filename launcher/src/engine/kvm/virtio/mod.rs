//! The guest's devices, each a virtio device with its registers in memory (virtio-mmio).
//!
//! In reading order, following a request of the guest:
//!
//! 1. [`parts`]: all devices of a guest, in their places ([`Placement`]), wired to KVM ([`Wiring`]).
//! 2. [`transport`]: the registers, through which a driver brings a device up; [`page`]: how it reads them.
//! 3. [`device`]: what it comes down to: the thread of the device is told to start or to stop, with the
//!    [`description`] of what the driver can see and the [`interrupt`] shared between the two.
//! 4. [`worker`]: the thread of a device; [`vring`], a queue in its hands; [`chain`], a request.
//! 5. The devices: [`block`], [`console`], [`rng`], [`balloon`].
//! 6. [`net`]: cards, whose frames pass by the pump of [`lgswitch::plug::virtio`].
//!
//! Everything the guest writes is hostile: to registers, to queues, in descriptors. A driver that breaks
//! the rules finds its device needs a reset; nothing else happens, to nobody else.

pub mod balloon;
pub mod block;
pub mod chain;
pub mod console;
pub mod description;
pub mod device;
pub mod interrupt;
pub mod net;
pub mod page;
pub mod parts;
pub mod rng;
pub mod transport;
pub mod vring;
pub mod worker;

pub use parts::Parts;

use std::io;

use vm_memory::GuestMemoryMmap;
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

    /// The guest reads this memory, at its addresses there, without leaving. What it writes is as if there
    /// were none. A kernel that can't do that lets it leave.
    ///
    /// # Errors
    /// KVM's reason.
    fn readable(&self, memory: &GuestMemoryMmap) -> io::Result<()>;
}
