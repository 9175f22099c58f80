//! A device's registers as the guest reads them: a page of memory.
//!
//! A read that leaves the guest costs microseconds, and a driver reads a register at every interrupt. It
//! need not leave: KVM knows memory that a guest may only read, made for chips of flash memory. What is
//! read there is read as from any memory; what is written comes to the kernel's event descriptors, or
//! out to this process, as if there were no memory. So the registers *are* such a page. Whoever changes what a
//! register says stores that here; and because a processor that writes a register waits until this is
//! done, it reads back what it wrote for.
//!
//! Each word has one owner, who stores to it with a lock of his own held: [`Interrupt`], [`Config`],
//! and the rest is the [`transport`]'s.
//!
//! [`Interrupt`]: super::interrupt::Interrupt
//! [`Config`]: super::description::Config
//! [`transport`]: super::transport

use std::io;
use std::sync::atomic::Ordering;

use virtio_bindings::virtio_mmio::VIRTIO_MMIO_CONFIG;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::Placement;

/// The page. A clone is the same page.
#[derive(Debug, Clone)]
pub struct Page {
    memory: GuestMemoryMmap,
    start: u64,
}

impl Page {
    /// A page of zeros at this place.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new(place: Placement) -> io::Result<Self> {
        let size = usize::try_from(place.size).map_err(io::Error::other)?;
        let range = (GuestAddress(place.address), size);
        Ok(Self {
            memory: GuestMemoryMmap::from_ranges(&[range]).map_err(io::Error::other)?,
            start: place.address,
        })
    }

    /// It, where the guest has it.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// From now on `register` is `value`.
    pub fn set(&self, register: u32, value: u32) {
        let at = GuestAddress(self.start + u64::from(register));
        // All registers are in the page, and aligned.
        let _ = self.memory.store(value.to_le(), at, Ordering::Release);
    }

    /// From now on the configuration space is this, as far as there is room for it.
    pub fn set_config(&self, bytes: &[u8]) {
        let at = GuestAddress(self.start + u64::from(VIRTIO_MMIO_CONFIG));
        let _ = self.memory.write(bytes, at);
    }
}
