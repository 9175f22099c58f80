//! A network card (Virtual I/O Device 1.2, 5.1): what its driver sees, and which pump serves it.
//!
//! Behind the same registers there are two wires. On a sharenet ([`sharenet`]) frames pass between the
//! guest's queues and a port, by the very thread that serves other VMMs' cards over vhost-user. On a tap
//! ([`tap`]) they pass between the queues and the host's kernel. With several processors a card has
//! several pairs of queues; the guest says by the [`control`] queue how many of them it uses.

mod control;
mod sharenet;
mod tap;

use std::fs::File;
use std::io;

use lgswitch::plug::virtio::features;
use lgswitch::plug::virtio::guest::Guest;
use lgswitch::plug::virtio::memory::Memory;
use lgswitch::plug::virtio::queue::Queue;
use lgswitch::plug::virtio::service::MAX_PAIRS;
use lgswitch::plug::virtio::virtqueue::Ring;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_STATUS,
    VIRTIO_NET_S_LINK_UP,
};
use virtio_queue::QueueT;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::description::{Config, Description};
use super::device::{Device, Driver, Shared, borrow};
use crate::backend::net::{Link, NetDevice};

/// Entries of each pair's queues for frames, received and sent: room for some frames of 64 KiB in buffers of a
/// page, and the more free buffers a burst finds, the rarer the driver is asked for more.
const ENTRIES: [u16; 2] = [1024, 512];
/// Entries of the control queue, which has one request at a time.
const CONTROL_ENTRIES: u16 = 16;

/// How many pairs of queues the card of a guest with so many processors has.
pub fn pairs(cpus: usize) -> usize {
    cpus.clamp(1, MAX_PAIRS)
}

/// Makes the card, number `number` of a guest with this memory and `cpus` processors.
///
/// # Errors
/// No descriptor or no thread is left, or the tap's settings can't be made.
pub fn device(
    net: NetDevice,
    number: usize,
    cpus: usize,
    memory: &GuestMemoryMmap,
) -> io::Result<Device> {
    let pairs = pairs(cpus);
    match net.link {
        Link::Sharenet(port) => {
            let offered = features::offered(pairs);
            let description = describe(net.mac, net.mtu, pairs, offered);
            sharenet::device(description, *port, number, pairs)
        }
        Link::Tap(tap) => {
            let pairs = pairs.min(tap.queues.len());
            let wire = tap::Wire::new(tap, pairs, memory)?;
            let offered = features::offered(pairs) & wire.features();
            let description = describe(net.mac, net.mtu, pairs, offered);
            tap::device(description, wire, number, pairs)
        }
    }
}

fn describe(mac: lgswitch::MacAddr, mtu: u32, pairs: usize, offered: u64) -> Description {
    let mut queues = ENTRIES.repeat(pairs);
    if pairs > 1 {
        queues.push(CONTROL_ENTRIES);
    }
    // 5.1.4: the address, status, pairs of queues, MTU.
    let mut config = mac.octets().to_vec();
    let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
    for field in [VIRTIO_NET_S_LINK_UP as u16, pairs as u16, mtu] {
        config.extend(field.to_le_bytes());
    }
    Description {
        id: VIRTIO_ID_NET,
        features: offered | 1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_STATUS,
        queues,
        config: Config::new(config, 0..0),
    }
}

/// Which queues a driver uses, by what it acknowledged (5.1.2): pairs for frames, and the number of the
/// control queue. Without multi-queue that comes right after the first pair.
fn layout(features: u64, pairs: usize) -> (usize, Option<usize>) {
    let has = |bit: u32| features & 1 << bit != 0;
    let pairs = if has(VIRTIO_NET_F_MQ) { pairs } else { 1 };
    (pairs, has(VIRTIO_NET_F_CTRL_VQ).then_some(2 * pairs))
}

/// Brings a driver's queues for frames into the pump's form: of each, `plug` gets what is to be kicked.
/// The first pair is enabled, others are when the driver says so.
///
/// # Errors
/// No descriptor is left.
fn set_up(
    guest: &mut Guest,
    driver: &Driver,
    shared: &Shared,
    mut plug: impl FnMut(&mut Queue, File) -> io::Result<()>,
) -> io::Result<()> {
    let (pairs, _) = layout(driver.features, guest.pairs());
    guest.memory = Memory::of(&driver.memory);
    guest.agree(driver.features);
    let queues = guest.queues.iter_mut().zip(&driver.queues).take(2 * pairs);
    for ((index, (queue, set_up)), kick) in queues.enumerate().zip(&shared.kicks) {
        if set_up.ready() {
            queue.ring = Ring {
                size: set_up.size().into(),
                descriptors: set_up.desc_table(),
                available: set_up.avail_ring(),
                used: set_up.used_ring(),
                event_index: queue.ring.event_index,
                ..Ring::default()
            };
            queue.call = Some(file(shared.interrupt.line())?);
            queue.enabled = index < 2;
            plug(queue, file(kick)?)?;
        }
    }
    Ok(())
}

/// Enables this many pairs of queues, and no others.
fn enable(guest: &mut Guest, pairs: usize) {
    for (index, queue) in guest.queues.iter_mut().enumerate() {
        queue.enabled = index < 2 * pairs;
    }
}

fn file(event: &EventFd) -> io::Result<File> {
    Ok(borrow(event).try_clone_to_owned()?.into())
}
