//! vhost-net: the kernel's own pump between a guest's queues and a tap, where it has one.
//!
//! It is told what another pump would have to know (the guest's memory, where the queues are, what is
//! kicked and what interrupts) and then moves frames on a thread of the kernel's, so that neither a frame
//! nor a kick nor an interrupt passes through this process. There is one for each pair of queues.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use netsetup::Tap;
use vhost::net::VhostNet;
use vhost::vhost_kern::net::Net;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::super::super::device::{Driver, Shared, borrow};

/// The features that concern the queues. The driver may acknowledge any of them, so the kernel has to
/// know all.
const NEEDED: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VIRTIO_NET_F_MRG_RXBUF;

/// The kernel's pumps for a card.
pub struct Vhost {
    pumps: Vec<Pump>,
    /// Signalled when the driver breaks a queue's rules.
    trouble: EventFd,
}

struct Pump {
    net: Net<Arc<GuestMemoryMmap>>,
    tap: File,
    /// A driver has set up its queues.
    is_set_up: bool,
}

impl Vhost {
    /// The pumps for the first `pairs` queues of a tap, for a guest with this memory.
    ///
    /// # Errors
    /// The kernel has none, or none that will do, or they are not for us.
    pub fn new(tap: &Tap, pairs: usize, memory: &GuestMemoryMmap) -> io::Result<Self> {
        let memory = Arc::new(memory.clone());
        let regions = memory.iter().map(|region| VhostUserMemoryRegionInfo {
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
            mmap_offset: 0,
            mmap_handle: -1,
        });
        let regions = regions.collect::<Vec<_>>();
        let trouble = EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let pump = |queue: &OwnedFd| {
            let net = Net::new(Arc::clone(&memory))?;
            if net.get_features()? & NEEDED != NEEDED {
                return Err(vhost::Error::InvalidOperation);
            }
            net.set_owner()?;
            net.set_mem_table(&regions)?;
            let tap = queue.try_clone().map_err(vhost::Error::IOError)?.into();
            Ok(Pump {
                net,
                tap,
                is_set_up: false,
            })
        };
        let pumps = tap.queues.iter().take(pairs).map(pump);
        let pumps = pumps.collect::<Result<_, _>>().map_err(io::Error::other)?;
        Ok(Self { pumps, trouble })
    }

    /// Can be read once the driver has broken the rules.
    pub fn trouble(&self) -> BorrowedFd<'_> {
        borrow(&self.trouble)
    }

    /// A driver is there; the first pair of its queues runs.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn start(&mut self, driver: &Driver, shared: &Shared) -> io::Result<()> {
        let _ = self.trouble.read();
        let pairs = driver
            .queues
            .chunks_exact(2)
            .zip(shared.kicks.chunks_exact(2));
        for (pump, (queues, kicks)) in self.pumps.iter_mut().zip(pairs) {
            if !queues.iter().all(QueueT::ready) {
                continue;
            }
            pump.net
                .set_features(driver.features & NEEDED)
                .map_err(io::Error::other)?;
            for (index, (queue, kick)) in queues.iter().zip(kicks).enumerate() {
                pump.set_up(index, queue, kick, shared, &self.trouble)
                    .map_err(io::Error::other)?;
            }
            pump.is_set_up = true;
        }
        self.enable(1)
    }

    /// This many pairs of queues run, and no others.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn enable(&self, pairs: usize) -> io::Result<()> {
        for (index, pump) in self.pumps.iter().enumerate() {
            let tap = (index < pairs && pump.is_set_up).then_some(&pump.tap);
            for queue in 0..2 {
                pump.net.set_backend(queue, tap).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    /// The driver is gone. Nothing of it is touched any more.
    pub fn stop(&mut self) {
        // It refuses only what was never a pump.
        let _ = self.enable(0);
        self.pumps
            .iter_mut()
            .for_each(|pump| pump.is_set_up = false);
    }
}

impl Pump {
    fn set_up(
        &self,
        index: usize,
        queue: &virtio_queue::Queue,
        kick: &EventFd,
        shared: &Shared,
        trouble: &EventFd,
    ) -> vhost::Result<()> {
        self.net.set_vring_num(index, queue.size())?;
        self.net.set_vring_base(index, 0)?;
        let places = VringConfigData {
            queue_max_size: queue.max_size(),
            queue_size: queue.size(),
            flags: 0,
            desc_table_addr: queue.desc_table(),
            used_ring_addr: queue.used_ring(),
            avail_ring_addr: queue.avail_ring(),
            log_addr: None,
        };
        self.net.set_vring_addr(index, &places)?;
        self.net.set_vring_call(index, shared.interrupt.line())?;
        self.net.set_vring_err(index, trouble)?;
        self.net.set_vring_kick(index, kick)
    }
}
