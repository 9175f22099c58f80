//! A virtual machine in KVM: its memory, its interrupt controllers, and the wires that reach them.

use std::io;
use std::sync::{Mutex, PoisonError};

use kvm_bindings::{
    KVM_MEM_READONLY, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::KvmError;
use super::layout::{KVM_IDENTITY_MAP, KVM_TSS};
use super::virtio::Wiring;

/// A machine without processors.
#[derive(Debug)]
pub struct Vm {
    /// KVM's handle. Before all memory, so that it is dropped first.
    fd: VmFd,
    /// The guest's RAM, kept for as long as KVM shows it.
    memory: GuestMemoryMmap,
    /// What is joined to it.
    wires: Mutex<Vec<Wire>>,
}

/// A wire between a device and KVM.
#[derive(Debug)]
enum Wire {
    /// An event that is an interrupt.
    Interrupt { event: EventFd, gsi: u32 },
    /// A guest's write of `queue` that is an event.
    Doorbell {
        event: EventFd,
        address: u64,
        queue: u32,
    },
    /// Memory the guest may only read.
    Readable(GuestMemoryMmap),
}

impl Vm {
    /// Makes a machine with this memory, its interrupt controllers (two 8259s, an I/O APIC, a
    /// local APIC for each processor to come) and its interval timer, all of them in the kernel.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn new(kvm: &Kvm, memory: GuestMemoryMmap) -> Result<Self, KvmError> {
        let fd = kvm
            .create_vm()
            .map_err(KvmError::refused("make a virtual machine"))?;
        fd.set_identity_map_address(KVM_IDENTITY_MAP)
            .map_err(KvmError::refused("place its identity map"))?;
        fd.set_tss_address(KVM_TSS as usize)
            .map_err(KvmError::refused("place its task state segment"))?;
        show(&fd, 0, &memory, 0).map_err(KvmError::refused("show the guest its memory"))?;
        fd.create_irq_chip()
            .map_err(KvmError::refused("make interrupt controllers"))?;
        // Kernels that know no other clock measure the processor's by it. Its loudspeaker port
        // (0x61) comes with it, though nothing is heard.
        fd.create_pit2(kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        })
        .map_err(KvmError::refused("make an interval timer"))?;
        Ok(Self {
            fd,
            memory,
            wires: Mutex::default(),
        })
    }

    /// The same machine as it was before it first ran: its memory, and the same wires to the same
    /// devices. KVM has no reset; a new machine is as good, and cheap.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn again(self, kvm: &Kvm) -> Result<Self, KvmError> {
        let Self { fd, memory, wires } = self;
        drop(fd);
        let vm = Self::new(kvm, memory)?;
        for wire in wires.into_inner().unwrap_or_else(PoisonError::into_inner) {
            vm.join(wire)
                .map_err(KvmError::refused("join a device to the machine"))?;
        }
        Ok(vm)
    }

    /// The guest's RAM.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// KVM's handle.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    fn join(&self, wire: Wire) -> io::Result<()> {
        let mut wires = self.wires.lock().unwrap_or_else(PoisonError::into_inner);
        match &wire {
            Wire::Interrupt { event, gsi } => self.fd.register_irqfd(event, *gsi)?,
            Wire::Doorbell {
                event,
                address,
                queue,
            } => {
                let address = IoEventAddress::Mmio(*address);
                self.fd.register_ioevent(event, &address, *queue)?;
            }
            Wire::Readable(memory) if self.fd.check_extension(Cap::ReadonlyMem) => {
                // One region each.
                let before = wires
                    .iter()
                    .filter(|wire| matches!(wire, Wire::Readable(_)));
                let slot = self.memory.num_regions() + before.count();
                show(&self.fd, slot, memory, KVM_MEM_READONLY)?;
            }
            Wire::Readable(_) => {}
        }
        wires.push(wire);
        Ok(())
    }
}

/// Shows a guest memory, in KVM's slots from `slot` on.
fn show(fd: &VmFd, slot: usize, memory: &GuestMemoryMmap, flags: u32) -> io::Result<()> {
    for (slot, region) in (slot..).zip(memory.iter()) {
        let region = kvm_userspace_memory_region {
            slot: u32::try_from(slot).map_err(io::Error::other)?,
            flags,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region's pages are mapped, and stay so while KVM may touch them: a `Vm` keeps all
        // that is shown, its RAM and its wires, and drops it after `fd`; and whoever runs
        // processors keeps the whole machine. No other slot has them, and nothing of Rust's lies in them.
        unsafe { fd.set_user_memory_region(region) }?;
    }
    Ok(())
}

impl Wiring for Vm {
    fn irqfd(&self, fd: &EventFd, gsi: u32) -> io::Result<()> {
        let event = fd.try_clone()?;
        self.join(Wire::Interrupt { event, gsi })
    }

    fn ioeventfd(&self, fd: &EventFd, address: u64, queue: u32) -> io::Result<()> {
        let event = fd.try_clone()?;
        self.join(Wire::Doorbell {
            event,
            address,
            queue,
        })
    }

    fn readable(&self, memory: &GuestMemoryMmap) -> io::Result<()> {
        self.join(Wire::Readable(memory.clone()))
    }
}
