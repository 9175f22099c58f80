//! The card itself: its features, its two queues, and the lives of its threads.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use vhost::vhost_user::message::VhostUserU64;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net as net;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::ByteValued;

use super::message::{Message, ProtocolError};
use super::pump::{self, Burst, Format};
use super::session::{Card, Queue, Session, lock};
use crate::frame::Offloads;
use crate::plug::patience::Patience;
use crate::port::{Caller, PortRx, PortTx};

/// The queues of a card with one pair (Virtual I/O Device 1.2, 5.1.2).
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// What an epoll set says is ready.
const KICK: u64 = 0;
const SOCKET: u64 = 1;
const NUDGE: u64 = 2;

/// USO feature bits (Virtual I/O Device 1.3, 5.1.3), which the bindings do not name yet.
const GUEST_USO4: u32 = 54;
const GUEST_USO6: u32 = 55;
const HOST_USO: u32 = 56;

/// Features of the card. What is not here (a control queue, say) the VMM may add itself.
const FEATURES: &[u32] = &[
    VIRTIO_F_VERSION_1,
    VIRTIO_RING_F_INDIRECT_DESC,
    VIRTIO_RING_F_EVENT_IDX,
    net::VIRTIO_NET_F_MRG_RXBUF,
    net::VIRTIO_NET_F_MTU,
    net::VIRTIO_NET_F_CSUM,
    net::VIRTIO_NET_F_HOST_TSO4,
    net::VIRTIO_NET_F_HOST_TSO6,
    net::VIRTIO_NET_F_HOST_ECN,
    net::VIRTIO_NET_F_GUEST_CSUM,
    net::VIRTIO_NET_F_GUEST_TSO4,
    net::VIRTIO_NET_F_GUEST_TSO6,
    net::VIRTIO_NET_F_GUEST_ECN,
    GUEST_USO4,
    GUEST_USO6,
    HOST_USO,
];

/// What the guest takes unfinished, by the features it acknowledged.
fn offloads(features: u64) -> Offloads {
    let has = |bit: u32| features & 1 << bit != 0;
    [
        (has(net::VIRTIO_NET_F_GUEST_CSUM), Offloads::CHECKSUM),
        (has(net::VIRTIO_NET_F_GUEST_TSO4), Offloads::TSO4),
        (has(net::VIRTIO_NET_F_GUEST_TSO6), Offloads::TSO6),
        (has(net::VIRTIO_NET_F_GUEST_ECN), Offloads::ECN),
        (has(GUEST_USO4) && has(GUEST_USO6), Offloads::USO),
    ]
    .into_iter()
    .filter(|(acknowledged, _)| *acknowledged)
    .fold(Offloads::NONE, |all, (_, one)| all.with(one))
}

/// How frames stand in the guest's buffers, by the features it acknowledged.
fn format(features: u64) -> Format {
    let mergeable = features & 1 << net::VIRTIO_NET_F_MRG_RXBUF != 0;
    let modern = features & 1 << VIRTIO_F_VERSION_1 != 0;
    Format {
        header_len: if mergeable || modern { 12 } else { 10 },
        mergeable,
    }
}

/// What the threads of a card share.
pub struct Nic {
    label: String,
    queues: [Mutex<Queue>; 2],
    caller: Caller,
    /// What wakes the thread of each queue's kicks: the conversation's for the receive queue,
    /// the sender's for the transmit queue.
    wakers: [Epoll; 2],
    /// Part of both sets: something is to be looked at anew.
    nudges: [EventFd; 2],
    stopping: AtomicBool,
}

fn add(set: &Epoll, fd: impl AsFd, token: u64) -> nix::Result<()> {
    set.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))
}

/// What is ready, waiting for it.
fn wait(set: &Epoll) -> nix::Result<Vec<u64>> {
    let mut events = [EpollEvent::empty(); 4];
    match set.wait(&mut events, EpollTimeout::NONE) {
        Ok(count) => Ok(events[..count].iter().map(EpollEvent::data).collect()),
        Err(Errno::EINTR) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

impl Nic {
    /// A card nobody has connected to yet.
    pub fn new(label: &str, caller: Caller) -> io::Result<Self> {
        let set = || Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC);
        let nudge = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let nic = Self {
            label: label.to_owned(),
            queues: Default::default(),
            caller,
            wakers: [set()?, set()?],
            nudges: [nudge()?, nudge()?],
            stopping: AtomicBool::new(false),
        };
        for (set, nudge) in nic.wakers.iter().zip(&nic.nudges) {
            add(set, nudge, NUDGE)?;
        }
        Ok(nic)
    }

    /// What it is called in messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Tells all threads to end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for nudge in &self.nudges {
            // It can only be full, and then it is nudged already.
            let _ = nudge.write(1);
        }
        self.caller.call();
    }

    /// Whether they were told.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Talks with the VMM until either ends.
    pub fn converse(&self, socket: &UnixStream) -> Result<(), ProtocolError> {
        let set = &self.wakers[RECEIVE];
        add(set, socket, SOCKET).map_err(io::Error::from)?;
        let mut session = Session::new(self);
        let end = self.listen(set, socket, &mut session);
        session.end();
        // Closing would not do: there is another descriptor of it, to shut it down with.
        let _ = set.delete(socket);
        end
    }

    fn listen(
        &self,
        set: &Epoll,
        socket: &UnixStream,
        session: &mut Session<'_, Self>,
    ) -> Result<(), ProtocolError> {
        while !self.is_stopping() {
            let ready = wait(set).map_err(io::Error::from)?;
            let _ = self.nudges[RECEIVE].read();
            if ready.contains(&KICK) {
                // The guest has made room for frames that wait.
                lock(&self.queues[RECEIVE]).drain_kick();
                self.caller.call();
            }
            if !ready.contains(&SOCKET) {
                continue;
            }
            let Some(mut message) = Message::receive(socket)? else {
                return Ok(());
            };
            match session.handle(&mut message)? {
                Some(body) => message.reply(socket, &body)?,
                None if message.wants_acknowledgement() => {
                    message.reply(socket, VhostUserU64::new(0).as_slice())?;
                }
                None => {}
            }
        }
        Ok(())
    }

    /// The life of the thread that sends.
    pub fn transmit(&self, mut tx: PortTx) {
        let mut patience = Patience::default();
        while !self.is_stopping() {
            if let Err(error) = wait(&self.wakers[TRANSMIT]) {
                tracing::error!("{}: can't wait for the guest's frames: {error}", self.label);
                return;
            }
            let _ = self.nudges[TRANSMIT].read();
            lock(&self.queues[TRANSMIT]).drain_kick();
            self.bursts(TRANSMIT, |queue| {
                let format = queue.format;
                match queue.parts() {
                    Some((memory, ring)) => {
                        pump::transmit(memory, ring, format, &mut tx, &mut patience)
                    }
                    None => Ok((Burst::Idle, false)),
                }
            });
        }
    }

    /// The life of the thread that receives.
    pub fn receive(&self, mut rx: PortRx) {
        const LONG: Duration = Duration::from_secs(3600);
        while !self.is_stopping() {
            let end = self.bursts(RECEIVE, |queue| {
                let format = queue.format;
                match queue.parts() {
                    Some((memory, ring)) => pump::receive(memory, ring, format, &mut rx),
                    None => Ok((pump::discard(&mut rx), false)),
                }
            });
            match end {
                Burst::NoBuffers => rx.wait_for_call(LONG),
                Burst::Idle | Burst::More => rx.wait(LONG),
            }
        }
    }

    /// Does bursts on a queue for as long as there is something; tells what ended it.
    fn bursts(&self, index: usize, mut work: impl FnMut(&mut Queue) -> pump::Outcome) -> Burst {
        while !self.is_stopping() {
            // Let go between bursts, so that the conversation gets its turn.
            let mut queue = lock(&self.queues[index]);
            match work(&mut queue) {
                Ok((burst, interrupt)) => {
                    if interrupt {
                        queue.interrupt();
                    }
                    if burst != Burst::More {
                        return burst;
                    }
                }
                Err(broken) => {
                    tracing::warn!("{}: {broken}", self.label);
                    queue.give_up();
                }
            }
        }
        Burst::Idle
    }
}

impl Card for Nic {
    fn features(&self) -> u64 {
        FEATURES.iter().fold(0, |all, bit| all | 1 << bit)
    }

    fn acknowledged(&self, features: u64) -> Format {
        self.caller.set_offloads(offloads(features));
        format(features)
    }

    fn queues(&self) -> &[Mutex<Queue>] {
        &self.queues
    }

    fn unplug(&self, index: usize, queue: &Queue) {
        if let Some(kick) = queue.kick() {
            // It is not there if the queue never ran.
            let _ = self.wakers[index].delete(kick);
        }
    }

    fn plug(&self, index: usize, queue: &Queue) {
        if let Some(kick) = queue.kick() {
            match add(&self.wakers[index], kick, KICK) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => tracing::error!("{}: can't wait for kicks: {error}", self.label),
            }
        }
        // There may be buffers from before we listened.
        let _ = self.nudges[index].write(1);
        self.caller.call();
    }
}
