//! A VMM's session: what it tells us, brought into the form the pump needs.
//!
//! The VMM tells in any order how large a queue is, where its parts are in *its* address space,
//! where the guest's memory lies in that space, and which event descriptors go with it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use vhost::vhost_user::message::{
    FrontendReq, VhostUserMemory, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserU64,
    VhostUserVirtioFeatures, VhostUserVringAddr, VhostUserVringState,
};
use vm_memory::ByteValued;

use super::message::{Message, ProtocolError};
use crate::plug::virtio::card::{Conversation, Kicks};
use crate::plug::virtio::features;
use crate::plug::virtio::guest::Guest;
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

/// A conversation with a VMM over its socket.
pub struct Session {
    socket: UnixStream,
    /// Where the VMM says the parts of each queue are, in the VMM's address space.
    addresses: Vec<Option<VhostUserVringAddr>>,
}

impl Session {
    /// One in which nothing was said yet, about a card with `pairs` pairs of queues.
    pub fn new(socket: UnixStream, pairs: usize) -> Self {
        Self {
            socket,
            addresses: vec![None; 2 * pairs],
        }
    }

    /// Does what a message asks; gives the body of the reply, if it has one.
    fn handle(
        &mut self,
        message: &mut Message,
        guest: &mut Guest,
        kicks: &Kicks<'_>,
    ) -> Result<Option<Vec<u8>>, ProtocolError> {
        let number = |n: u64| Ok(Some(VhostUserU64::new(n).as_slice().to_vec()));
        let request = FrontendReq::try_from(message.request)
            .map_err(|_| message.refused("nobody knows it"))?;
        match request {
            FrontendReq::GET_FEATURES => {
                let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
                return number(features::offered(guest.pairs()) | protocol);
            }
            FrontendReq::SET_FEATURES => set_features(message, guest)?,
            FrontendReq::GET_PROTOCOL_FEATURES => return number(PROTOCOL.bits()),
            FrontendReq::SET_PROTOCOL_FEATURES => {
                // Whether a reply is wanted stands in each message.
                let VhostUserU64 { value } = message.body()?;
                if value & !PROTOCOL.bits() != 0 {
                    return Err(message.refused("a protocol feature that was not offered"));
                }
            }
            FrontendReq::GET_QUEUE_NUM => return number(guest.pairs() as u64),
            FrontendReq::SET_OWNER => {}
            FrontendReq::RESET_OWNER => self.forget(guest, kicks),
            FrontendReq::SET_MEM_TABLE => self.set_memory(message, guest)?,
            FrontendReq::SET_VRING_NUM => {
                let body: VhostUserVringState = message.body()?;
                if !body.num.is_power_of_two() || body.num > MAX_QUEUE_SIZE {
                    return Err(message.refused("a queue has 1 to 1024 entries, a power of two"));
                }
                queue(message, guest, body.index.into())?.ring.size = body.num;
            }
            FrontendReq::SET_VRING_ADDR => {
                let body: VhostUserVringAddr = message.body()?;
                let index = index(message, guest, body.index.into())?;
                self.addresses[index] = Some(body);
                self.translate(guest);
            }
            FrontendReq::SET_VRING_BASE => {
                let body: VhostUserVringState = message.body()?;
                let base = body.num;
                if base > u16::MAX.into() {
                    return Err(message.refused("a place in a queue has 16 bits"));
                }
                let queue = queue(message, guest, body.index.into())?;
                // We give everything back before we take more, so both are where it stopped.
                queue.ring.next_available = base;
                queue.ring.next_used = base;
            }
            FrontendReq::GET_VRING_BASE => {
                let body: VhostUserVringState = message.body()?;
                let queue = queue(message, guest, body.index.into())?;
                kicks.unplug(queue);
                let base = queue.ring.next_available & u32::from(u16::MAX);
                let reply = VhostUserVringState::new(body.index, base);
                return Ok(Some(reply.as_slice().to_vec()));
            }
            FrontendReq::SET_VRING_KICK => set_kick(message, guest, kicks)?,
            FrontendReq::SET_VRING_CALL => {
                let (index, file) = event_file(message)?;
                queue(message, guest, index)?.call = file;
            }
            // Nobody waits for our errors: the session ends, and that is seen.
            FrontendReq::SET_VRING_ERR => drop(event_file(message)?),
            FrontendReq::SET_VRING_ENABLE => {
                let body: VhostUserVringState = message.body()?;
                queue(message, guest, body.index.into())?.enabled = body.num != 0;
            }
            _ => return Err(message.refused("this card does not offer it")),
        }
        Ok(None)
    }

    /// The guest's memory: each region is a descriptor to map, and where it is for guest and VMM.
    fn set_memory(&self, message: &mut Message, guest: &mut Guest) -> Result<(), ProtocolError> {
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
        guest.memory = Memory::map(places.into_iter().zip(files).collect())
            .map_err(|reason| message.refused(reason))?;
        self.translate(guest);
        Ok(())
    }

    /// Finds the queues' parts in the guest's memory, where both are known. What is not in it becomes
    /// an address no guest has, which the pump does not find either.
    fn translate(&self, guest: &mut Guest) {
        let Guest { memory, queues, .. } = guest;
        let place = |vmm| memory.guest_address(vmm).unwrap_or(u64::MAX);
        for (queue, addresses) in queues.iter_mut().zip(&self.addresses) {
            if let Some(addresses) = addresses {
                queue.ring.descriptors = place(addresses.descriptor);
                queue.ring.available = place(addresses.available);
                queue.ring.used = place(addresses.used);
            }
        }
    }

    /// The VMM starts anew: nothing of the guest is touched any more.
    fn forget(&mut self, guest: &mut Guest, kicks: &Kicks<'_>) {
        kicks.forget(guest);
        self.addresses.fill(None);
    }
}

impl Conversation for Session {
    type Error = ProtocolError;

    fn source(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Hears one message; `false` when the VMM has hung up.
    fn hear(&mut self, guest: &mut Guest, kicks: &Kicks<'_>) -> Result<bool, ProtocolError> {
        let Some(mut message) = Message::receive(&self.socket)? else {
            return Ok(false);
        };
        match self.handle(&mut message, guest, kicks)? {
            Some(body) => message.reply(&self.socket, &body)?,
            None if message.wants_acknowledgement() => {
                message.reply(&self.socket, VhostUserU64::new(0).as_slice())?;
            }
            None => {}
        }
        Ok(true)
    }
}

/// The queue of a number that came with `message`.
fn queue<'g>(
    message: &Message,
    guest: &'g mut Guest,
    number: u64,
) -> Result<&'g mut Queue, ProtocolError> {
    let index = index(message, guest, number)?;
    Ok(&mut guest.queues[index])
}

/// That number, if there is such a queue.
fn index(message: &Message, guest: &Guest, number: u64) -> Result<usize, ProtocolError> {
    let index = usize::try_from(number).ok();
    index
        .filter(|&index| index < guest.queues.len())
        .ok_or(message.refused("there is no such queue"))
}

fn set_features(message: &Message, guest: &mut Guest) -> Result<(), ProtocolError> {
    let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    let VhostUserU64 { value } = message.body()?;
    if value & !(features::offered(guest.pairs()) | protocol) != 0 {
        return Err(message.refused("a feature that was not offered"));
    }
    guest.agree(value);
    for queue in &mut guest.queues {
        // Without protocol features there is no message to enable a queue.
        queue.enabled |= value & protocol == 0;
    }
    Ok(())
}

fn set_kick(
    message: &mut Message,
    guest: &mut Guest,
    kicks: &Kicks<'_>,
) -> Result<(), ProtocolError> {
    let (index, file) = event_file(message)?;
    let queue = queue(message, guest, index)?;
    kicks.unplug(queue);
    let file = file.ok_or(message.refused("a queue without kicks would have to be polled"))?;
    kicks
        .plug_in(queue, file)
        .map_err(|_| message.refused("a descriptor that can't be one of an event"))
}

/// A queue's number and the event descriptor that comes with it. Writing it must not make us
/// wait.
fn event_file(message: &mut Message) -> Result<(u64, Option<File>), ProtocolError> {
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
