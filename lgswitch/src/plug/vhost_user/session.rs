//! A VMM's session: what it has told us so far, kept in the form the pump needs.
//!
//! The VMM tells in any order how large a queue is, where its parts are in *its* address space,
//! where the guest's memory lies in that space, and which event descriptors go with it. Each
//! message that could matter to a queue takes that queue's lock, so the pump sees it whole.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use vhost::vhost_user::message::{
    FrontendReq, VhostUserMemory, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserU64,
    VhostUserVirtioFeatures, VhostUserVringAddr, VhostUserVringState,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::{
    ByteValued, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion,
};

use super::message::{Message, ProtocolError};
use super::pump::Format;
use super::virtqueue::Ring;

/// The largest queue we serve.
const MAX_QUEUE_SIZE: u32 = 1024;
/// Regions a guest's memory may be in.
const MAX_REGIONS: usize = 8;
/// In the body of messages about a descriptor: the queue, and "none comes with it".
const QUEUE_MASK: u64 = 0xff;
const NO_FILE: u64 = 1 << 8;

/// A queue as far as the VMM has told us.
#[derive(Default)]
pub struct Queue {
    /// Its place in the guest's memory.
    pub ring: Ring,
    /// The guest's memory.
    pub memory: Option<Arc<GuestMemoryMmap>>,
    /// How frames stand in its buffers.
    pub format: Format,
    /// Where the VMM says its parts are, in the VMM's address space.
    addresses: Option<VhostUserVringAddr>,
    kick: Option<File>,
    call: Option<File>,
    started: bool,
    enabled: bool,
}

impl Queue {
    /// Whether the pump may touch it.
    pub fn is_running(&self) -> bool {
        self.started && self.enabled
    }

    /// The guest's memory and the ring in it, if the pump may touch them.
    pub fn parts(&mut self) -> Option<(&GuestMemoryMmap, &mut Ring)> {
        if !self.is_running() {
            return None;
        }
        Some((self.memory.as_deref()?, &mut self.ring))
    }

    /// The guest broke its rules: not to be touched until it is set up anew.
    pub fn give_up(&mut self) {
        self.started = false;
    }

    /// Interrupts the guest.
    pub fn interrupt(&self) {
        if let Some(mut call) = self.call.as_ref() {
            // Full means that an interrupt is on its way already.
            let _ = call.write(&1u64.to_ne_bytes());
        }
    }

    /// Forgets the kicks so far.
    pub fn drain_kick(&self) {
        if let Some(mut kick) = self.kick.as_ref() {
            let _ = kick.read(&mut [0; 8]);
        }
    }

    /// Where the guest kicks.
    pub fn kick(&self) -> Option<BorrowedFd<'_>> {
        self.kick.as_ref().map(AsFd::as_fd)
    }
}

/// A poisoned lock means that a thread of this card panicked, which is a bug; what it guards is
/// still whole, as every burst leaves it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the session tells the rest of the card.
pub trait Card {
    /// Features the card has.
    fn features(&self) -> u64;
    /// The guest acknowledged these.
    fn acknowledged(&self, features: u64) -> Format;
    /// Its queues: receive, transmit.
    fn queues(&self) -> &[Mutex<Queue>];
    /// Queue `index` is about to lose its kick descriptor, or be without one.
    fn unplug(&self, index: usize, queue: &Queue);
    /// Queue `index` runs, or has another kick descriptor. There may be something to do.
    fn plug(&self, index: usize, queue: &Queue);
}

/// A region of the guest's memory in the VMM's address space.
struct Region {
    vmm_address: u64,
    size: u64,
    guest_address: u64,
}

/// The session's own state.
pub struct Session<'a, C> {
    card: &'a C,
    features: u64,
    regions: Vec<Region>,
}

impl<'a, C: Card> Session<'a, C> {
    /// A session nothing was said in yet.
    pub fn new(card: &'a C) -> Self {
        Self {
            card,
            features: 0,
            regions: Vec::new(),
        }
    }

    /// Does what a message asks; gives the body of the reply, if it has one.
    pub fn handle(&mut self, message: &mut Message) -> Result<Option<Vec<u8>>, ProtocolError> {
        let number = |n: u64| Ok(Some(VhostUserU64::new(n).as_slice().to_vec()));
        let request = FrontendReq::try_from(message.request)
            .map_err(|_| message.refused("nobody knows it"))?;
        match request {
            FrontendReq::GET_FEATURES => {
                let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
                return number(self.card.features() | protocol);
            }
            FrontendReq::SET_FEATURES => self.set_features(message)?,
            FrontendReq::GET_PROTOCOL_FEATURES => {
                return number(VhostUserProtocolFeatures::REPLY_ACK.bits());
            }
            // Whether a reply is wanted stands in each message.
            FrontendReq::SET_PROTOCOL_FEATURES => {}
            FrontendReq::SET_OWNER => {}
            FrontendReq::RESET_OWNER => self.for_each(Self::stop),
            FrontendReq::SET_MEM_TABLE => self.set_memory(message)?,
            FrontendReq::SET_VRING_NUM => {
                let body: VhostUserVringState = message.body()?;
                if !body.num.is_power_of_two() || body.num > MAX_QUEUE_SIZE {
                    return Err(message.refused("a queue has 1 to 1024 entries, a power of two"));
                }
                self.queue(message, body.index.into())?.ring.size = body.num as u16;
            }
            FrontendReq::SET_VRING_ADDR => {
                let body: VhostUserVringAddr = message.body()?;
                let mut queue = self.queue(message, body.index.into())?;
                queue.addresses = Some(body);
                self.translate(&mut queue);
            }
            FrontendReq::SET_VRING_BASE => {
                let body: VhostUserVringState = message.body()?;
                let mut queue = self.queue(message, body.index.into())?;
                // We give everything back before we take more, so both are where it stopped.
                queue.ring.next_available = body.num as u16;
                queue.ring.next_used = body.num as u16;
            }
            FrontendReq::GET_VRING_BASE => {
                let body: VhostUserVringState = message.body()?;
                let mut queue = self.queue(message, body.index.into())?;
                self.stop(body.index as usize, &mut queue);
                let base = u32::from(queue.ring.next_available);
                let reply = VhostUserVringState::new(body.index, base);
                return Ok(Some(reply.as_slice().to_vec()));
            }
            FrontendReq::SET_VRING_KICK => self.set_kick(message)?,
            FrontendReq::SET_VRING_CALL => {
                let (index, file) = self.event_file(message)?;
                self.queue(message, index)?.call = file;
            }
            // Nobody waits for our errors: the session ends, and that is seen.
            FrontendReq::SET_VRING_ERR => drop(self.event_file(message)?),
            FrontendReq::SET_VRING_ENABLE => {
                let body: VhostUserVringState = message.body()?;
                let mut queue = self.queue(message, body.index.into())?;
                queue.enabled = body.num != 0;
                self.announce(body.index as usize, &queue);
            }
            _ => return Err(message.refused("this card does not offer it")),
        }
        Ok(None)
    }

    /// The queue of a number that came with `message`.
    fn queue(&self, message: &Message, index: u64) -> Result<MutexGuard<'a, Queue>, ProtocolError> {
        let queue = usize::try_from(index)
            .ok()
            .and_then(|i| self.card.queues().get(i));
        queue
            .map(lock)
            .ok_or(message.refused("there is no such queue"))
    }

    fn for_each(&self, mut change: impl FnMut(&Self, usize, &mut Queue)) {
        for (index, queue) in self.card.queues().iter().enumerate() {
            change(self, index, &mut lock(queue));
        }
    }

    fn set_features(&mut self, message: &Message) -> Result<(), ProtocolError> {
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let VhostUserU64 { value: features } = message.body()?;
        if features & !(self.card.features() | protocol) != 0 {
            return Err(message.refused("a feature that was not offered"));
        }
        self.features = features;
        let format = self.card.acknowledged(features & !protocol);
        self.for_each(|session, index, queue| {
            queue.format = format;
            queue.ring.event_index = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
            // Without protocol features there is no message to enable a queue.
            if features & protocol == 0 {
                queue.enabled = true;
                session.announce(index, queue);
            }
        });
        Ok(())
    }

    /// The guest's memory: each region is a descriptor to map, and where it is for guest and VMM.
    fn set_memory(&mut self, message: &mut Message) -> Result<(), ProtocolError> {
        let (head, mut rest): (VhostUserMemory, _) = message.split_body()?;
        let mut told = Vec::new();
        while let Some((region, after)) = rest.split_at_checked(size_of::<VhostUserMemoryRegion>())
        {
            let mut body = VhostUserMemoryRegion::default();
            body.as_mut_slice().copy_from_slice(region);
            told.push(body);
            rest = after;
        }
        let counts = [head.num_regions as usize, message.files.len()];
        if counts != [told.len(); 2] || !rest.is_empty() || told.len() > MAX_REGIONS {
            return Err(message.refused("as many regions as descriptors, and 8 at most"));
        }
        let files = std::mem::take(&mut message.files);
        let mapped = told
            .iter()
            .zip(files)
            .map(|(region, file)| map_region(region, file));
        let regions = mapped
            .collect::<Option<Vec<_>>>()
            .ok_or(message.refused("a region that is not in its file or can't be mapped"))?;
        let memory = GuestMemoryMmap::from_regions(regions)
            .map_err(|_| message.refused("regions that overlap or are not in order"))?;
        let memory = Arc::new(memory);
        self.regions = told
            .iter()
            .map(|region| Region {
                vmm_address: region.user_addr,
                size: region.memory_size,
                guest_address: region.guest_phys_addr,
            })
            .collect();
        self.for_each(|session, _, queue| {
            queue.memory = Some(Arc::clone(&memory));
            session.translate(queue);
        });
        Ok(())
    }

    /// Finds a queue's parts in the guest's memory, once both are known. What is not in it becomes an
    /// address no guest has, which the pump does not find either.
    fn translate(&self, queue: &mut Queue) {
        let Some(addresses) = queue.addresses else {
            return;
        };
        let guest = |vmm: u64| {
            let region = self
                .regions
                .iter()
                .find(|r| vmm.checked_sub(r.vmm_address).is_some_and(|o| o < r.size));
            region.map_or(u64::MAX, |r| vmm - r.vmm_address + r.guest_address)
        };
        queue.ring.descriptors = guest(addresses.descriptor);
        queue.ring.available = guest(addresses.available);
        queue.ring.used = guest(addresses.used);
    }

    fn set_kick(&mut self, message: &mut Message) -> Result<(), ProtocolError> {
        let (index, file) = self.event_file(message)?;
        let mut queue = self.queue(message, index)?;
        let index = index as usize;
        self.card.unplug(index, &queue);
        queue.started = file.is_some();
        queue.kick = file;
        if queue.kick.is_none() {
            return Err(message.refused("a queue without kicks would have to be polled"));
        }
        self.announce(index, &queue);
        Ok(())
    }

    /// A queue's number and the event descriptor that comes with it. Reading or writing it must not
    /// make us wait.
    fn event_file(&self, message: &mut Message) -> Result<(u64, Option<File>), ProtocolError> {
        let VhostUserU64 { value } = message.body()?;
        if value & NO_FILE != 0 {
            return Ok((value & QUEUE_MASK, None));
        }
        let file = message.file()?;
        let flags = fcntl(&file, FcntlArg::F_GETFL).map(OFlag::from_bits_truncate);
        flags
            .and_then(|flags| fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)))
            .map_err(|_| message.refused("a descriptor that can't be one of an event"))?;
        Ok((value & QUEUE_MASK, Some(File::from(file))))
    }

    fn announce(&self, index: usize, queue: &Queue) {
        if queue.is_running() {
            self.card.plug(index, queue);
        }
    }

    fn stop(&self, index: usize, queue: &mut Queue) {
        self.card.unplug(index, queue);
        queue.started = false;
        queue.kick = None;
    }

    /// The VMM is gone: nothing of the guest is touched any more.
    pub fn end(&self) {
        self.for_each(|session, index, queue| {
            session.stop(index, queue);
            *queue = Queue::default();
        });
    }
}

/// Maps a region, which must be inside its file: touching what is not would be SIGBUS.
fn map_region(region: &VhostUserMemoryRegion, file: OwnedFd) -> Option<GuestRegionMmap> {
    let (offset, size) = (region.mmap_offset, region.memory_size);
    let file = File::from(file);
    let end = offset.checked_add(size)?;
    if file.metadata().ok()?.len() < end {
        return None;
    }
    let mapping = MmapRegion::from_file(FileOffset::new(file, offset), usize::try_from(size).ok()?);
    GuestRegionMmap::new(mapping.ok()?, GuestAddress(region.guest_phys_addr))
}
