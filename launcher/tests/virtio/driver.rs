//! A driver, as small as one can be, and a machine around it: memory, a device's registers, and the
//! wires to them.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use launcher::engine::kvm::bus::MmioDevice;
use launcher::engine::kvm::virtio::device::Device;
use launcher::engine::kvm::virtio::transport::Transport;
use launcher::engine::kvm::virtio::{Placement, Wiring};
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

pub const ACKNOWLEDGE: u32 = 1;
pub const DRIVER: u32 = 2;
pub const DRIVER_OK: u32 = 4;
pub const FEATURES_OK: u32 = 8;
pub const NEEDS_RESET: u32 = 64;
pub const VERSION_1: u64 = 1 << 32;
pub const EVENT_INDEX: u64 = 1 << 29;

/// Entries of each queue.
pub const SIZE: u16 = 16;
/// The guest's memory, in two pieces.
pub const LOW: u64 = 4 << 20;
pub const HIGH: u64 = 1 << 32;
/// Where queue 0 is, and how far apart queues are: table, available, used.
const QUEUES: u64 = 0x1_0000;
const APART: u64 = 0x3000;
/// Where requests are put.
const DATA: u64 = 1 << 20;

const PLACE: Placement = Placement {
    address: 0xd000_0000,
    size: 0x1000,
    gsi: 5,
};

/// The machine's wires. What KVM does in the kernel nobody does here: the driver writes registers.
#[derive(Default)]
struct Wires {
    interrupt: Mutex<Option<EventFd>>,
    doorbells: Mutex<HashMap<(u64, u32), EventFd>>,
    page: Mutex<Option<GuestMemoryMmap>>,
}

impl Wiring for Wires {
    fn irqfd(&self, fd: &EventFd, gsi: u32) -> io::Result<()> {
        assert_eq!(gsi, PLACE.gsi);
        *self.interrupt.lock().unwrap() = Some(fd.try_clone()?);
        Ok(())
    }

    fn ioeventfd(&self, fd: &EventFd, address: u64, queue: u32) -> io::Result<()> {
        let mut doorbells = self.doorbells.lock().unwrap();
        doorbells.insert((address, queue), fd.try_clone()?);
        Ok(())
    }

    fn readable(&self, memory: &GuestMemoryMmap) -> io::Result<()> {
        *self.page.lock().unwrap() = Some(memory.clone());
        Ok(())
    }
}

/// A device and its driver.
pub struct Driver {
    pub memory: GuestMemoryMmap,
    pub registers: Transport,
    pub interrupt: EventFd,
    doorbells: HashMap<(u64, u32), EventFd>,
    /// Where the driver reads what it reads.
    page: GuestMemoryMmap,
    /// Chains made available in each queue, and the next free place for data.
    available: Vec<Cell<u16>>,
    next: Cell<u64>,
}

/// Until `done` gives something, for long enough.
pub fn soon<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < end, "it takes too long until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A guest's memory.
pub fn memory() -> GuestMemoryMmap {
    let ranges = [
        (GuestAddress(0), LOW as usize),
        (GuestAddress(HIGH), 1 << 20),
    ];
    GuestMemoryMmap::from_ranges(&ranges).unwrap()
}

impl Driver {
    pub fn new(device: Device) -> Self {
        Self::with_memory(device, memory())
    }

    pub fn with_memory(device: Device, memory: GuestMemoryMmap) -> Self {
        let wires = Wires::default();
        let count = device.shared.kicks.len();
        let registers = Transport::new(device, &memory, PLACE, &wires).unwrap();
        Self {
            memory,
            registers,
            interrupt: wires.interrupt.into_inner().unwrap().unwrap(),
            doorbells: wires.doorbells.into_inner().unwrap(),
            page: wires.page.into_inner().unwrap().unwrap(),
            available: vec![Cell::new(0); count],
            next: Cell::new(DATA),
        }
    }

    /// One that has started its device with these features and the version.
    pub fn started(device: Device, features: u64) -> Self {
        let driver = Self::new(device);
        driver.start(features);
        driver
    }

    pub fn read(&self, register: u32) -> u32 {
        let at = GuestAddress(PLACE.address + u64::from(register));
        u32::from_le(self.page.load(at, Ordering::Acquire).unwrap())
    }

    pub fn write(&self, register: u32, value: u32) {
        self.registers.write(register.into(), &value.to_le_bytes());
    }

    pub fn config(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        let at = GuestAddress(PLACE.address + 0x100 + offset);
        self.page.read_slice(&mut data, at).unwrap();
        data
    }

    pub fn status(&self) -> u32 {
        self.read(VIRTIO_MMIO_STATUS)
    }

    pub fn step(&self, step: u32) {
        self.write(VIRTIO_MMIO_STATUS, self.status() | step);
    }

    pub fn offered(&self) -> u64 {
        let half = |which| {
            self.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, which);
            u64::from(self.read(VIRTIO_MMIO_DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    pub fn acknowledge(&self, features: u64) {
        for which in [0, 1] {
            self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, which);
            let half = (features >> (32 * which)) as u32;
            self.write(VIRTIO_MMIO_DRIVER_FEATURES, half);
        }
    }

    pub fn start(&self, features: u64) {
        self.step(ACKNOWLEDGE);
        self.step(DRIVER);
        self.acknowledge(features | VERSION_1);
        self.step(FEATURES_OK);
        assert_ne!(self.status() & FEATURES_OK, 0, "the features are refused");
        for index in 0..self.available.len() {
            self.set_up(index, QUEUES + APART * index as u64);
        }
        self.step(DRIVER_OK);
    }

    /// Sets a queue up at an address.
    pub fn set_up(&self, index: usize, base: u64) {
        self.write(VIRTIO_MMIO_QUEUE_SEL, index as u32);
        assert!(self.read(VIRTIO_MMIO_QUEUE_NUM_MAX) >= SIZE.into());
        self.write(VIRTIO_MMIO_QUEUE_NUM, SIZE.into());
        for (low, address) in [
            (VIRTIO_MMIO_QUEUE_DESC_LOW, base),
            (VIRTIO_MMIO_QUEUE_AVAIL_LOW, base + 0x1000),
            (VIRTIO_MMIO_QUEUE_USED_LOW, base + 0x2000),
        ] {
            self.write(low, address as u32);
            self.write(low + 4, (address >> 32) as u32);
        }
        self.write(VIRTIO_MMIO_QUEUE_READY, 1);
    }

    pub fn reset(&self) {
        self.write(VIRTIO_MMIO_STATUS, 0);
        assert_eq!(self.status(), 0);
        for (index, available) in self.available.iter().enumerate() {
            available.set(0);
            let base = QUEUES + APART * index as u64;
            self.memory
                .write_slice(&[0; APART as usize], GuestAddress(base))
                .unwrap();
        }
        self.next.set(DATA);
    }

    /// Room for data in the guest's memory.
    pub fn room(&self, len: usize) -> u64 {
        let at = self.next.get();
        self.next.set(at + (len as u64).next_multiple_of(16));
        assert!(self.next.get() < LOW);
        at
    }

    pub fn put(&self, bytes: &[u8]) -> u64 {
        let at = self.room(bytes.len());
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
        at
    }

    pub fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(at))
            .unwrap();
        bytes
    }

    fn word(&self, at: u64) -> u16 {
        self.memory.read_obj(GuestAddress(at)).unwrap()
    }

    /// Writes a descriptor of a queue.
    pub fn descriptor(&self, queue: usize, index: u16, at: u64, len: u32, flags: u32, next: u16) {
        let mut raw = at.to_le_bytes().to_vec();
        raw.extend(len.to_le_bytes());
        raw.extend((flags as u16).to_le_bytes());
        raw.extend(next.to_le_bytes());
        let table = QUEUES + APART * queue as u64;
        let place = GuestAddress(table + 16 * u64::from(index));
        self.memory.write_slice(&raw, place).unwrap();
    }

    /// Makes the chain that starts at a descriptor available.
    pub fn make_available(&self, queue: usize, head: u16) {
        let ring = QUEUES + APART * queue as u64 + 0x1000;
        let index = self.available[queue].get();
        let place = ring + 4 + 2 * u64::from(index % SIZE);
        self.memory.write_obj(head, GuestAddress(place)).unwrap();
        self.available[queue].set(index.wrapping_add(1));
        self.memory
            .write_obj(index.wrapping_add(1), GuestAddress(ring + 2))
            .unwrap();
    }

    /// Kicks as KVM passes it on, which does not go through the registers.
    pub fn kick(&self, queue: usize) {
        let address = PLACE.address + u64::from(VIRTIO_MMIO_QUEUE_NOTIFY);
        self.doorbells[&(address, queue as u32)].write(1).unwrap();
    }

    /// Whether an interrupt came since this was last asked.
    pub fn interrupted(&self) -> bool {
        self.interrupt.read().is_ok()
    }

    /// The element of the used ring at a place, once it is there: head and bytes written.
    pub fn used(&self, queue: usize, place: u16) -> (u32, u32) {
        let ring = QUEUES + APART * queue as u64 + 0x2000;
        soon("a chain comes back", || {
            (self.word(ring + 2).wrapping_sub(place) as i16 > 0).then_some(())
        });
        let element = ring + 4 + 8 * u64::from(place % SIZE);
        let [head, len]: [u32; 2] = self.memory.read_obj(GuestAddress(element)).unwrap();
        (head, len)
    }

    /// Chains that have come back in all.
    pub fn used_count(&self, queue: usize) -> u16 {
        self.word(QUEUES + APART * queue as u64 + 0x2000 + 2)
    }

    /// Offers a chain of runs (address, length, whether the device writes); the queue must be empty.
    pub fn offer(&self, queue: usize, runs: &[(u64, u32, bool)]) {
        for (index, &(at, len, writes)) in (0..).zip(runs) {
            let last = usize::from(index) + 1 == runs.len();
            let next = if last { 0 } else { VRING_DESC_F_NEXT };
            let flags = next | if writes { VRING_DESC_F_WRITE } else { 0 };
            self.descriptor(queue, index, at, len, flags, index + 1);
        }
        self.make_available(queue, 0);
        self.kick(queue);
    }

    /// Offers a chain, waits for it, and tells how many bytes were written.
    pub fn request(&self, queue: usize, runs: &[(u64, u32, bool)]) -> u32 {
        let place = self.available[queue].get();
        self.offer(queue, runs);
        let (head, written) = self.used(queue, place);
        assert_eq!(head, 0);
        written
    }

    /// Until the device says that it needs a reset.
    pub fn wait_until_broken(&self) {
        soon("the device needs a reset", || {
            (self.status() & NEEDS_RESET != 0).then_some(())
        });
    }
}
