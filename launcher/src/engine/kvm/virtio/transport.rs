//! A device's registers in memory: virtio-mmio, version 2 (Virtual I/O Device 1.2, 4.2.2).
//!
//! The driver brings a device up by steps (3.1.1), each a bit in the status register: it has seen it,
//! knows how to drive it, has agreed on features, and (having said where the queues are) runs it. A step
//! out of turn is not taken, and the driver reads that it was not; features are settled before queues,
//! queues before the start, and nothing moves while the device runs. That is all that keeps a hostile
//! driver out: whatever it writes, it is a number in a field until it starts the device, and then the
//! queues are checked.
//!
//! Registers that are used while a device runs need no lock, and mostly no exit to this process: they are read in
//! a [page](super::page) of the guest's; kicks are `ioeventfd`s of the kernel, and so is the
//! acknowledgement of used buffers, whose signal nobody hears ([`interrupt`](super::interrupt) has
//! the reason).

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::{Device, Driver, Shared};
use super::page::Page;
use super::{Placement, Wiring};
use crate::engine::kvm::bus::MmioDevice;

/// "virt", the value of the first register.
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
/// Who made it: the four bytes any number of devices of software have.
const VENDOR: u32 = u32::from_le_bytes(*b"QEMU");

/// What every device offers.
const COMMON: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// The registers the driver may read, but those that change without its doing: the interrupt's and the
/// configuration's.
const READABLE: [u32; 9] = [
    VIRTIO_MMIO_MAGIC_VALUE,
    VIRTIO_MMIO_VERSION,
    VIRTIO_MMIO_DEVICE_ID,
    VIRTIO_MMIO_VENDOR_ID,
    VIRTIO_MMIO_DEVICE_FEATURES,
    VIRTIO_MMIO_QUEUE_NUM_MAX,
    VIRTIO_MMIO_QUEUE_READY,
    VIRTIO_MMIO_SHM_LEN_LOW,
    VIRTIO_MMIO_SHM_LEN_HIGH,
];

/// A device's registers.
#[derive(Debug)]
pub struct Transport {
    shared: Arc<Shared>,
    memory: GuestMemoryMmap,
    state: Mutex<State>,
    /// Where the driver reads them, if the kernel can do that.
    page: Page,
    /// Signalled for every acknowledgement of used buffers; nobody listens.
    _acknowledged: EventFd,
}

/// What the driver has written.
#[derive(Debug)]
struct State {
    /// None after the guest's end.
    device: Option<Device>,
    status: u32,
    /// Which 32 of the offered features are read, and of the acknowledged written.
    offered_half: u32,
    acknowledged_half: u32,
    features: u64,
    /// The queue whose registers are at hand.
    selected: usize,
    queues: Vec<Queue>,
}

impl Transport {
    /// Puts a device of a guest with this memory at a place, wired up.
    ///
    /// # Errors
    /// No descriptor is left, or KVM does not wire them.
    pub fn new(
        device: Device,
        memory: &GuestMemoryMmap,
        place: Placement,
        wiring: &dyn Wiring,
    ) -> io::Result<Self> {
        let shared = Arc::clone(&device.shared);
        wiring.irqfd(shared.interrupt.line(), place.gsi)?;
        let notify = place.address + u64::from(VIRTIO_MMIO_QUEUE_NOTIFY);
        for (queue, kick) in (0..).zip(&shared.kicks) {
            wiring.ioeventfd(kick, notify, queue)?;
        }
        let acknowledged = EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let acknowledge = place.address + u64::from(VIRTIO_MMIO_INTERRUPT_ACK);
        wiring.ioeventfd(&acknowledged, acknowledge, VIRTIO_MMIO_INT_VRING)?;
        let page = Page::new(place)?;
        wiring.readable(page.memory())?;
        let transport = Self {
            memory: memory.clone(),
            state: Mutex::new(State {
                device: Some(device),
                status: 0,
                offered_half: 0,
                acknowledged_half: 0,
                features: 0,
                selected: 0,
                queues: fresh(&shared)?,
            }),
            page,
            shared,
            _acknowledged: acknowledged,
        };
        let shared = &transport.shared;
        shared.interrupt.show_on(transport.page.clone());
        shared.description.config.show_on(transport.page.clone());
        transport.show(&transport.state());
        Ok(transport)
    }

    /// What the device shares with its thread.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The guest has ended: the device's thread is joined, and what the device had is closed.
    pub fn end(&self) {
        let device = self.state().device.take();
        self.shared.interrupt.run(false);
        drop(device);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing here is left half done by a panic that the next reset does not set right.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offered(&self) -> u64 {
        self.shared.description.features | COMMON
    }

    fn register(&self, register: u32) -> u32 {
        let shared = &self.shared;
        match register {
            VIRTIO_MMIO_INTERRUPT_STATUS => shared.interrupt.reasons(),
            VIRTIO_MMIO_STATUS => shared.interrupt.status(),
            VIRTIO_MMIO_CONFIG_GENERATION => shared.description.config.generation(),
            _ => self.readable(&self.state(), register),
        }
    }

    /// What one of [`READABLE`] says.
    fn readable(&self, state: &State, register: u32) -> u32 {
        let description = &self.shared.description;
        match register {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => description.id,
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => half(self.offered(), state.offered_half),
            VIRTIO_MMIO_QUEUE_NUM_MAX => {
                let most = description.queues.get(state.selected);
                most.copied().unwrap_or(0).into()
            }
            VIRTIO_MMIO_QUEUE_READY => {
                let queue = state.queues.get(state.selected);
                queue.is_some_and(QueueT::ready).into()
            }
            // No region of shared memory is ever as long as this, which says that there is none (4.2.2.2).
            VIRTIO_MMIO_SHM_LEN_LOW | VIRTIO_MMIO_SHM_LEN_HIGH => u32::MAX,
            _ => 0,
        }
    }

    fn show(&self, state: &State) {
        for register in READABLE {
            self.page.set(register, self.readable(state, register));
        }
        self.shared.interrupt.set_status(state.status);
    }

    fn set_register(&self, register: u32, value: u32) {
        match register {
            VIRTIO_MMIO_INTERRUPT_ACK => return self.shared.interrupt.acknowledge(value),
            VIRTIO_MMIO_QUEUE_NOTIFY => {
                // Only what the kernel does not know how to pass on comes here.
                if let Some(kick) = self.shared.kicks.get(value as usize) {
                    let _ = kick.write(1);
                }
                return;
            }
            _ => {}
        }
        let mut state = self.state();
        match register {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => state.offered_half = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => state.acknowledged_half = value,
            VIRTIO_MMIO_QUEUE_SEL => state.selected = value as usize,
            VIRTIO_MMIO_DRIVER_FEATURES => state.acknowledge(value),
            VIRTIO_MMIO_STATUS => self.set_status(&mut state, value),
            _ => state.set_up_queue(register, value),
        }
        self.show(&state);
    }

    fn set_status(&self, state: &mut State, value: u32) {
        if value == 0 {
            return self.reset(state);
        }
        for step in [
            VIRTIO_CONFIG_S_ACKNOWLEDGE,
            VIRTIO_CONFIG_S_DRIVER,
            VIRTIO_CONFIG_S_FEATURES_OK,
            VIRTIO_CONFIG_S_DRIVER_OK,
        ] {
            if value & !state.status & step == 0 {
                continue;
            }
            let may = match step {
                VIRTIO_CONFIG_S_ACKNOWLEDGE => true,
                VIRTIO_CONFIG_S_DRIVER => state.has(VIRTIO_CONFIG_S_ACKNOWLEDGE),
                VIRTIO_CONFIG_S_FEATURES_OK => {
                    let strange = state.features & !self.offered();
                    let modern = state.features & 1 << VIRTIO_F_VERSION_1 != 0;
                    state.has(VIRTIO_CONFIG_S_DRIVER) && strange == 0 && modern
                }
                _ => state.has(VIRTIO_CONFIG_S_FEATURES_OK) && !state.has(VIRTIO_CONFIG_S_FAILED),
            };
            if may {
                state.status |= step;
                if step == VIRTIO_CONFIG_S_DRIVER_OK {
                    self.start(state);
                }
            }
        }
        // The driver has given the device up. It keeps still until the reset.
        state.status |= value & VIRTIO_CONFIG_S_FAILED;
    }

    fn start(&self, state: &mut State) {
        self.shared.interrupt.run(true);
        let event_index = state.features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        for queue in &mut state.queues {
            if queue.ready() && !queue.is_valid(&self.memory) {
                return self.shared.interrupt.break_off();
            }
            queue.set_event_idx(event_index);
        }
        let queues = state.queues.iter().map(copy);
        if let (Some(device), Some(queues)) = (&state.device, queues.collect()) {
            device.start(Driver {
                features: state.features,
                memory: self.memory.clone(),
                queues,
            });
        }
    }

    fn reset(&self, state: &mut State) {
        if let Some(device) = state.device.as_ref()
            && state.has(VIRTIO_CONFIG_S_DRIVER_OK)
        {
            device.stop();
        }
        self.shared.interrupt.run(false);
        state.status = 0;
        state.offered_half = 0;
        state.acknowledged_half = 0;
        state.features = 0;
        state.selected = 0;
        state.queues.iter_mut().for_each(QueueT::reset);
    }
}

impl State {
    fn has(&self, step: u32) -> bool {
        self.status & step != 0
    }

    /// Features are settled by a driver, before it says that they are.
    fn acknowledge(&mut self, value: u32) {
        if self.has(VIRTIO_CONFIG_S_DRIVER) && !self.has(VIRTIO_CONFIG_S_FEATURES_OK) {
            let shift = match self.acknowledged_half {
                0 => 0,
                1 => 32,
                _ => return,
            };
            self.features &= !(u64::from(u32::MAX) << shift);
            self.features |= u64::from(value) << shift;
        }
    }

    /// Queues are set up between features and start, each before it is ready.
    fn set_up_queue(&mut self, register: u32, value: u32) {
        let may = self.has(VIRTIO_CONFIG_S_FEATURES_OK) && !self.has(VIRTIO_CONFIG_S_DRIVER_OK);
        let Some(queue) = self.queues.get_mut(self.selected).filter(|_| may) else {
            return;
        };
        if register == VIRTIO_MMIO_QUEUE_READY {
            return queue.set_ready(value == 1);
        }
        if queue.ready() {
            return;
        }
        match register {
            VIRTIO_MMIO_QUEUE_NUM => {
                // A size it can't have stays what it was, the largest.
                let _ = u16::try_from(value).map(|size| queue.try_set_size(size));
            }
            VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }
}

/// Queues nobody has set up.
fn fresh(shared: &Shared) -> io::Result<Vec<Queue>> {
    let queues = shared.description.queues.iter();
    let queues = queues.map(|&size| Queue::new(size).map_err(io::Error::other));
    queues.collect()
}

/// The same queue once more. (None never happens: what makes one of a queue's state refuses only
/// what no queue has.)
fn copy(queue: &Queue) -> Option<Queue> {
    Queue::try_from(queue.state()).ok()
}

fn half(features: u64, which: u32) -> u32 {
    match which {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

impl MmioDevice for Transport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(VIRTIO_MMIO_CONFIG.into()) {
            return self.shared.description.config.read(offset, data);
        }
        // All registers have 32 bits, and are accessed as that (4.2.2.2).
        if let (Ok(data), true) = (<&mut [u8; 4]>::try_from(data), offset.is_multiple_of(4)) {
            *data = self.register(offset as u32).to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(VIRTIO_MMIO_CONFIG.into()) {
            return self.shared.description.config.write(offset, data);
        }
        if let (Ok(data), true) = (<[u8; 4]>::try_from(data), offset.is_multiple_of(4)) {
            self.set_register(offset as u32, u32::from_le_bytes(data));
        }
    }
}
