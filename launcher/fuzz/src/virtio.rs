//! The devices of the engine `kvm` under a driver that means harm. They are made once; each input ends with
//! a reset, after which the next driver finds them as new.

use std::any::Any;
use std::cell::RefCell;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use launcher::backend::block::Disk;
use launcher::backend::net::{Link, NetDevice};
use launcher::engine::kvm::bus::MmioDevice;
use launcher::engine::kvm::virtio::device::Device;
use launcher::engine::kvm::virtio::transport::Transport;
use launcher::engine::kvm::virtio::{Placement, Wiring, balloon, block, console, net, rng};
use launcher::plan::disk::BlockPlan;
use lgswitch::{CreateOptions, Gather, MacAddr, PortOptions, Segment, VnetHeader};
use virtio_bindings::virtio_mmio::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::Numbers;

const PLACE: Placement = Placement {
    address: 0xd000_0000,
    size: 0x1000,
    gsi: 5,
};

/// Entries of each queue.
const SIZE: u64 = 16;
/// The guest's memory, in two pieces.
const LOW: u64 = 1 << 20;
const HIGH: u64 = 1 << 32;
/// Where queue 0 is, and how far apart queues are: table, available, used.
const QUEUES: u64 = 0x1_0000;
const APART: u64 = 0x3000;
/// Where what a device takes for a header may stand.
const HEADER: u64 = 0x8000;

/// What KVM does in the kernel nobody does here.
#[derive(Default)]
struct Wires(Mutex<Vec<EventFd>>);

impl Wiring for Wires {
    fn irqfd(&self, _: &EventFd, _: u32) -> io::Result<()> {
        Ok(())
    }

    fn ioeventfd(&self, fd: &EventFd, address: u64, _: u32) -> io::Result<()> {
        if address == PLACE.address + u64::from(VIRTIO_MMIO_QUEUE_NOTIFY) {
            self.0.lock().unwrap().push(fd.try_clone()?);
        }
        Ok(())
    }

    fn readable(&self, _: &GuestMemoryMmap) -> io::Result<()> {
        Ok(())
    }
}

struct Machine {
    memory: GuestMemoryMmap,
    registers: Transport,
    kicks: Vec<EventFd>,
    /// Gives the device something from the host's side.
    stir: Box<dyn FnMut()>,
    _keep: Box<dyn Any>,
}

impl Machine {
    fn new(
        make: impl FnOnce(&GuestMemoryMmap) -> (Device, Box<dyn FnMut()>, Box<dyn Any>),
    ) -> Self {
        let ranges = [
            (GuestAddress(0), LOW as usize),
            (GuestAddress(HIGH), 1 << 16),
        ];
        let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
        let (device, stir, keep) = make(&memory);
        let wires = Wires::default();
        let registers = Transport::new(device, &memory, PLACE, &wires).unwrap();
        Self {
            memory,
            registers,
            kicks: wires.0.into_inner().unwrap(),
            stir,
            _keep: keep,
        }
    }

    fn read(&self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.registers.read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, register: u32, value: u32) {
        self.registers.write(register.into(), &value.to_le_bytes());
    }

    /// A driver that keeps the rules, up to the features and places of its queues.
    fn start(&self, features: u64) -> bool {
        for step in [1, 3] {
            self.write(VIRTIO_MMIO_STATUS, step);
        }
        for which in [0, 1] {
            self.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, which);
            let offered = self.read(VIRTIO_MMIO_DEVICE_FEATURES);
            self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, which);
            let half = (features >> (32 * which)) as u32;
            self.write(VIRTIO_MMIO_DRIVER_FEATURES, offered & half);
        }
        self.write(VIRTIO_MMIO_STATUS, 11);
        for queue in 0..self.kicks.len() as u64 {
            self.write(VIRTIO_MMIO_QUEUE_SEL, queue as u32);
            self.write(VIRTIO_MMIO_QUEUE_NUM, SIZE as u32);
            let base = (QUEUES + APART * queue) as u32;
            self.write(VIRTIO_MMIO_QUEUE_DESC_LOW, base);
            self.write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, base + 0x1000);
            self.write(VIRTIO_MMIO_QUEUE_USED_LOW, base + 0x2000);
            self.write(VIRTIO_MMIO_QUEUE_READY, 1);
        }
        self.write(VIRTIO_MMIO_STATUS, 15);
        self.read(VIRTIO_MMIO_STATUS) == 15
    }

    fn reset(&self) {
        self.write(VIRTIO_MMIO_STATUS, 0);
        assert_eq!(self.read(VIRTIO_MMIO_STATUS), 0);
    }

    fn word(&self, at: u64) -> u16 {
        self.memory.read_obj(GuestAddress(at)).unwrap()
    }

    /// Waits until all chains came back, the device is broken, or it wants nothing of them.
    fn settle(&self, made: &[u16]) {
        let end = Instant::now() + Duration::from_micros(500);
        while Instant::now() < end {
            let done = (0..)
                .zip(made)
                .all(|(queue, made)| self.word(QUEUES + APART * queue + 0x2002) == *made);
            if done || self.read(VIRTIO_MMIO_STATUS) & 64 != 0 {
                return;
            }
            std::thread::yield_now();
        }
    }
}

fn nothing() -> Box<dyn FnMut()> {
    Box::new(|| {})
}

fn disk(_: &GuestMemoryMmap) -> (Device, Box<dyn FnMut()>, Box<dyn Any>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let plan = BlockPlan::parse(file.path().as_os_str()).unwrap();
    let device = block::device(Disk::open(&plan).unwrap(), 0).unwrap();
    (device, nothing(), Box::new(file))
}

fn terminal(_: &GuestMemoryMmap) -> (Device, Box<dyn FnMut()>, Box<dyn Any>) {
    let (near, mut far) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    let handover = Arc::new(console::Handover::new().unwrap());
    let device = console::device(near, handover).unwrap();
    let stir = Box::new(move || {
        let mut said = [0; 4096];
        while far.read(&mut said).is_ok_and(|len| len > 0) {}
        let _ = io::Write::write(&mut far, b"typed\n");
    });
    (device, stir, Box::new(()))
}

fn card(memory: &GuestMemoryMmap) -> (Device, Box<dyn FnMut()>, Box<dyn Any>) {
    let folder = tempfile::tempdir().unwrap();
    let options = CreateOptions {
        slots: 4,
        ..CreateOptions::default()
    };
    let segment = Segment::create(&folder.path().join("lan"), &options).unwrap();
    let (mut peer, rest) = segment.port(PortOptions::default()).unwrap().split();
    let card = NetDevice {
        mac: MacAddr::new(2, 0, 0, 0, 0, 1),
        host_mac: None,
        mtu: 1500,
        link: Link::Sharenet(Box::new(segment.port(PortOptions::default()).unwrap())),
    };
    let stir = Box::new(move || {
        let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 9], &[8; 1000]].concat();
        for _ in 0..3 {
            peer.send(
                &VnetHeader::default(),
                &Gather::new(&[frame.as_slice().into()]),
            );
        }
        peer.flush();
    });
    (
        net::device(card, 0, 2, memory).unwrap(),
        stir,
        Box::new((folder, rest)),
    )
}

fn machines() -> Vec<Machine> {
    vec![
        Machine::new(disk),
        Machine::new(terminal),
        Machine::new(|_| (rng::device().unwrap(), nothing(), Box::new(()))),
        Machine::new(|_| (balloon::device().unwrap(), nothing(), Box::new(()))),
        Machine::new(card),
    ]
}

thread_local! {
    static MACHINES: RefCell<Vec<Machine>> = RefCell::new(machines());
}

/// Calls `act` with the device that the first byte chooses, and what is left of the data.
fn with_one(data: &[u8], act: impl FnOnce(&mut Machine, Numbers<'_>)) {
    let mut numbers = Numbers(data);
    let which = usize::from(numbers.byte());
    MACHINES.with_borrow_mut(|machines| {
        let which = which % machines.len();
        act(&mut machines[which], numbers);
    });
}

/// Reads and writes of a device's registers, of any width, anywhere on its page.
pub fn registers(data: &[u8]) {
    with_one(data, |machine, mut numbers| {
        while !numbers.is_empty() {
            let shape = numbers.byte();
            let offset = match shape & 0x80 {
                // Registers proper come one after the other.
                0 => u64::from(numbers.byte()) * 4 % 0x110,
                _ => u64::from(numbers.word()) % PLACE.size,
            };
            let width = match shape >> 4 & 7 {
                0 => 1 + usize::from(shape & 7),
                _ => 4,
            };
            let value = match shape & 8 {
                0 => u64::from(numbers.byte()),
                _ => u64::from(numbers.long()) << 16 | u64::from(numbers.long()),
            };
            machine
                .registers
                .write(offset, &value.to_le_bytes()[..width]);
            machine.registers.read(offset, &mut [0; 8][..width]);
        }
        machine.reset();
        assert!(machine.start(u64::MAX), "it does not start any more");
        machine.reset();
    });
}

/// A device's queues: descriptors, heads, and what the buffers hold.
pub fn queues(data: &[u8]) {
    with_one(data, |machine, mut numbers| {
        // All that is offered, or less by a few.
        let without = u64::from(numbers.byte()) | u64::from(numbers.byte()) << 22;
        let mut header = [0; 64];
        for byte in header.iter_mut().take(32) {
            *byte = numbers.byte();
        }
        let memory = &machine.memory;
        let put = |bytes: &[u8], at: u64| memory.write_slice(bytes, GuestAddress(at)).unwrap();
        put(&header, HEADER);
        let count = machine.kicks.len() as u64;
        let mut made = Vec::new();
        for queue in 0..count {
            let base = QUEUES + APART * queue;
            put(&[0; APART as usize], base);
            if numbers.is_empty() {
                made.push(0);
                continue;
            }
            for index in 0..SIZE {
                let at = match numbers.byte() {
                    place @ 0..64 => HEADER + u64::from(place),
                    place @ 64..128 => u64::from(place) << 12,
                    // Tables of its own, and of indirect descriptors.
                    place @ 128..160 => base + u64::from(place % 32) * 16,
                    place @ 160..192 => HIGH - 64 + u64::from(place),
                    place @ 192..224 => LOW - u64::from(place % 32),
                    place => !0 - u64::from(place % 32) * 1000,
                };
                let len = match numbers.byte() {
                    len @ 0..128 => u32::from(len),
                    len @ 128..192 => u32::from(len % 64) << 9,
                    len => u32::from(len) << 24 | 0xffff,
                };
                let kind = numbers.byte();
                let mut raw = at.to_le_bytes().to_vec();
                raw.extend(len.to_le_bytes());
                raw.extend(u16::from(kind & 7).to_le_bytes());
                let next = match kind & 0xf0 {
                    0xf0 => numbers.word(),
                    place => index as u16 + 1 + u16::from(place >> 6),
                };
                raw.extend(next.to_le_bytes());
                put(&raw, base + 16 * index);
            }
            let heads = u16::from(numbers.byte() % 20);
            let mut ring = Vec::new();
            for value in [u16::from(numbers.byte() & 1), heads] {
                ring.extend(value.to_le_bytes());
            }
            for _ in 0..SIZE {
                ring.extend(u16::from(numbers.byte() % 17).to_le_bytes());
            }
            put(&ring, base + 0x1000);
            made.push(heads);
        }
        if machine.start(!(without)) {
            (machine.stir)();
            for kick in &machine.kicks {
                kick.write(1).unwrap();
            }
            machine.settle(&made);
        }
        machine.reset();
    });
}
