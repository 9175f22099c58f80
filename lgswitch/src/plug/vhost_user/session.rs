//! A VMM's session: what it has told us so far, kept in the form the pump needs.
//!
//! The VMM tells in any order how large a queue is, where its parts are in *its* address space,
//! where the guest's memory lies in that space, and which event descriptors go with it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use vhost::vhost_user::message::{
    FrontendReq, VhostUserMemory, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserU64,
    VhostUserVirtioFeatures, VhostUserVringAddr, VhostUserVringState,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::ByteValued;

use super::message::{Message, ProtocolError};
use crate::plug::virtio::features;
use crate::plug::virtio::memory::{Memory, Place};
use crate::plug::virtio::queue::Queue;

/// The largest queue we serve.
const MAX_QUEUE_SIZE: u32 = 1024;
/// In the body of messages about a descriptor: the queue, and "none comes with it".
const QUEUE_MASK: u64 = 0xff;
const NO_FILE: u64 = 1 << 8;

/// What the VMM may agree on beside the features of the card.
const PROTOCOL: VhostUserProtocolFeatures =
    VhostUserProtocolFeatures::MQ.union(VhostUserProtocolFeatures::REPLY_ACK);

/// What a VMM has told us.
pub struct Session {
    /// What it acknowledged of the features.
    pub features: u64,
    /// The guest's memory.
    pub memory: Memory,
    /// Receive and transmit queues in turn.
    pub queues: Vec<Queue>,
    /// Where the VMM says the parts of each are, in the VMM's address space.
    addresses: Vec<Option<VhostUserVringAddr>>,
}

impl Session {
    /// A session nothing was said in yet, of a card with `pairs` pairs of queues.
    pub fn new(pairs: usize) -> Self {
        Self {
            features: 0,
            memory: Memory::default(),
            queues: (0..2 * pairs).map(|_| Queue::default()).collect(),
            addresses: vec![None; 2 * pairs],
        }
    }

    fn pairs(&self) -> usize {
        self.queues.len() / 2
    }

    /// Does what a message asks; gives the body of the reply, if it has one. Descriptors that the
    /// guest kicks are added to `kicks` with the token `kick`.
    pub fn handle(
        &mut self,
        message: &mut Message,
        kicks: &Epoll,
        kick: u64,
    ) -> Result<Option<Vec<u8>>, ProtocolError> {
        let number = |n: u64| Ok(Some(VhostUserU64::new(n).as_slice().to_vec()));
        let request = FrontendReq::try_from(message.request)
            .map_err(|_| message.refused("nobody knows it"))?;
        match request {
            FrontendReq::GET_FEATURES => {
                let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
                return number(features::offered(self.pairs()) | protocol);
            }
            FrontendReq::SET_FEATURES => self.set_features(message)?,
            FrontendReq::GET_PROTOCOL_FEATURES => return number(PROTOCOL.bits()),
            FrontendReq::SET_PROTOCOL_FEATURES => {
                // Whether a reply is wanted stands in each message.
                let VhostUserU64 { value } = message.body()?;
                if value & !PROTOCOL.bits() != 0 {
                    return Err(message.refused("a protocol feature that was not offered"));
                }
            }
            FrontendReq::GET_QUEUE_NUM => return number(self.pairs() as u64),
            FrontendReq::SET_OWNER => {}
            FrontendReq::RESET_OWNER => self.end(kicks),
            FrontendReq::SET_MEM_TABLE => self.set_memory(message)?,
            FrontendReq::SET_VRING_NUM => {
                let body: VhostUserVringState = message.body()?;
                if !body.num.is_power_of_two() || body.num > MAX_QUEUE_SIZE {
                    return Err(message.refused("a queue has 1 to 1024 entries, a power of two"));
                }
                self.queue(message, body.index.into())?.ring.size = body.num;
            }
            FrontendReq::SET_VRING_ADDR => {
                let body: VhostUserVringAddr = message.body()?;
                let index = self.index(message, body.index.into())?;
                self.addresses[index] = Some(body);
                self.translate();
            }
            FrontendReq::SET_VRING_BASE => {
                let body: VhostUserVringState = message.body()?;
                let base = body.num;
                if base > u16::MAX.into() {
                    return Err(message.refused("a place in a queue has 16 bits"));
                }
                let queue = self.queue(message, body.index.into())?;
                // We give everything back before we take more, so both are where it stopped.
                queue.ring.next_available = base;
                queue.ring.next_used = base;
            }
            FrontendReq::GET_VRING_BASE => {
                let body: VhostUserVringState = message.body()?;
                let queue = self.queue(message, body.index.into())?;
                queue.unplug(kicks);
                let base = queue.ring.next_available & u32::from(u16::MAX);
                let reply = VhostUserVringState::new(body.index, base);
                return Ok(Some(reply.as_slice().to_vec()));
            }
            FrontendReq::SET_VRING_KICK => self.set_kick(message, kicks, kick)?,
            FrontendReq::SET_VRING_CALL => {
                let (index, file) = self.event_file(message)?;
                self.queue(message, index)?.call = file;
            }
            // Nobody waits for our errors: the session ends, and that is seen.
            FrontendReq::SET_VRING_ERR => drop(self.event_file(message)?),
            FrontendReq::SET_VRING_ENABLE => {
                let body: VhostUserVringState = message.body()?;
                self.queue(message, body.index.into())?.enabled = body.num != 0;
            }
            _ => return Err(message.refused("this card does not offer it")),
        }
        Ok(None)
    }

    /// The queue of a number that came with `message`.
    fn queue(&mut self, message: &Message, index: u64) -> Result<&mut Queue, ProtocolError> {
        let index = self.index(message, index)?;
        Ok(&mut self.queues[index])
    }

    /// That number, if there is such a queue.
    fn index(&self, message: &Message, index: u64) -> Result<usize, ProtocolError> {
        let index = usize::try_from(index).ok();
        index
            .filter(|&index| index < self.queues.len())
            .ok_or(message.refused("there is no such queue"))
    }

    fn set_features(&mut self, message: &Message) -> Result<(), ProtocolError> {
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let VhostUserU64 { value } = message.body()?;
        if value & !(features::offered(self.pairs()) | protocol) != 0 {
            return Err(message.refused("a feature that was not offered"));
        }
        self.features = value;
        for queue in &mut self.queues {
            queue.format = features::format(value);
            queue.ring.event_index = value & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
            // Without protocol features there is no message to enable a queue.
            queue.enabled |= value & protocol == 0;
        }
        Ok(())
    }

    /// The guest's memory: each region is a descriptor to map, and where it is for guest and VMM.
    fn set_memory(&mut self, message: &mut Message) -> Result<(), ProtocolError> {
        let (head, mut rest): (VhostUserMemory, _) = message.split_body()?;
        let mut places = Vec::new();
        while let Some((region, after)) = rest.split_at_checked(size_of::<VhostUserMemoryRegion>())
        {
            let mut body = VhostUserMemoryRegion::default();
            body.as_mut_slice().copy_from_slice(region);
            places.push(Place {
                guest_address: body.guest_phys_addr,
                vmm_address: body.user_addr,
                size: body.memory_size,
                offset: body.mmap_offset,
            });
            rest = after;
        }
        let counts = [head.num_regions as usize, message.files.len()];
        if counts != [places.len(); 2] || !rest.is_empty() {
            return Err(message.refused("as many regions as it says, and a descriptor for each"));
        }
        let files = std::mem::take(&mut message.files);
        self.memory = Memory::map(places.into_iter().zip(files).collect())
            .map_err(|reason| message.refused(reason))?;
        self.translate();
        Ok(())
    }

    /// Finds the queues' parts in the guest's memory, where both are known. What is not in it becomes
    /// an address no guest has, which the pump does not find either.
    fn translate(&mut self) {
        let guest = |vmm| self.memory.guest_address(vmm).unwrap_or(u64::MAX);
        for (queue, addresses) in self.queues.iter_mut().zip(&self.addresses) {
            if let Some(addresses) = addresses {
                queue.ring.descriptors = guest(addresses.descriptor);
                queue.ring.available = guest(addresses.available);
                queue.ring.used = guest(addresses.used);
            }
        }
    }

    fn set_kick(
        &mut self,
        message: &mut Message,
        kicks: &Epoll,
        token: u64,
    ) -> Result<(), ProtocolError> {
        let (index, file) = self.event_file(message)?;
        let queue = self.queue(message, index)?;
        queue.unplug(kicks);
        let file = file.ok_or(message.refused("a queue without kicks would have to be polled"))?;
        // On the edge: each kick is heard, and none has to be read.
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, token);
        kicks
            .add(&file, event)
            .map_err(|_| message.refused("a descriptor that can't be one of an event"))?;
        // What it was told when it last ran is forgotten.
        queue.ring.quiet = false;
        queue.kick = Some(file);
        Ok(())
    }

    /// A queue's number and the event descriptor that comes with it. Writing it must not make us
    /// wait.
    fn event_file(&self, message: &mut Message) -> Result<(u64, Option<File>), ProtocolError> {
        let VhostUserU64 { value } = message.body()?;
        if value & NO_FILE != 0 {
            return Ok((value & QUEUE_MASK, None));
        }
        let file: OwnedFd = message.file()?;
        let flags = fcntl(&file, FcntlArg::F_GETFL).map(OFlag::from_bits_truncate);
        flags
            .and_then(|flags| fcntl(file.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)))
            .map_err(|_| message.refused("a descriptor that can't be one of an event"))?;
        Ok((value & QUEUE_MASK, Some(File::from(file))))
    }

    /// The VMM is gone: nothing of the guest is touched any more.
    pub fn end(&mut self, kicks: &Epoll) {
        for queue in &mut self.queues {
            queue.unplug(kicks);
        }
        *self = Self::new(self.pairs());
    }
}
