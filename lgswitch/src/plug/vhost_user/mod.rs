//! A guest's network card, served over vhost-user.
//!
//! The VMM (QEMU, say) emulates the card's registers and passes the rest to us over a socket: the
//! guest's memory, where its virtqueues are, and two event descriptors a queue. From then on
//! frames pass between the guest's memory and the segment's file without the VMM.
//!
//! Four threads serve a card. The library's own handle the socket, the guest's kicks of its
//! receive queue (room for frames that wait) and those of its transmit queue (frames to send);
//! ours sleeps on the port's doorbell and receives. See [`pump`] for what a burst does.
//!
//! Specification: vhost-user protocol, QEMU's `docs/interop/vhost-user.rst`.

pub mod pump;
pub mod virtqueue;

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Error as VhostUserError, Listener};
use vhost_user_backend::{
    Error as DaemonError, ShutdownHandle, VhostUserBackend, VhostUserDaemon, VringMutex, VringT,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net as net;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use crate::frame::Offloads;
use crate::port::{Caller, Port, PortRx, PortTx};
use pump::{Burst, Format};
use virtqueue::Broken;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
type Vring = VringMutex<Memory>;

/// The receive queue of a card with one pair of queues (Virtual I/O Device 1.2, 5.1.2).
const RECEIVE: usize = 0;
const QUEUES: usize = 2;
const MAX_QUEUE_SIZE: usize = 1024;

/// USO feature bits (Virtual I/O Device 1.3, 5.1.3), which the bindings do not name yet.
const GUEST_USO4: u32 = 54;
const GUEST_USO6: u32 = 55;
const HOST_USO: u32 = 56;

/// Features of the card. What is not here (control queue, several pairs) the VMM may add itself.
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
struct Card {
    label: String,
    memory: Memory,
    features: AtomicU64,
    caller: Caller,
    tx: Mutex<PortTx>,
    /// Known from the guest's first kick of its receive queue.
    receive_ring: OnceLock<Vring>,
    stopping: AtomicBool,
}

/// A poisoned lock means that another thread of this card panicked, which is a bug; the
/// card's state is still whole, as every burst leaves it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Card {
    fn format(&self) -> Format {
        format(self.features.load(Ordering::Acquire))
    }

    /// Does bursts of `work` on a ring for as long as there is something; tells what ended it.
    fn bursts(
        &self,
        ring: &Vring,
        mut work: impl FnMut(&GuestMemoryMmap, &mut virtio_queue::Queue) -> pump::Outcome,
    ) -> Burst {
        while !self.stopping.load(Ordering::Acquire) {
            // The lock is let go between bursts, so that the socket's thread gets its turn.
            let mut state = ring.get_mut();
            match work(&self.memory.memory(), state.get_queue_mut()) {
                Ok((burst, interrupt)) => {
                    if interrupt && let Err(error) = state.signal_used_queue() {
                        tracing::warn!("{}: can't interrupt the guest: {error}", self.label);
                    }
                    if burst != Burst::More {
                        return burst;
                    }
                }
                Err(broken) => {
                    self.give_up_ring(state.get_queue_mut(), broken);
                    return Burst::Idle;
                }
            }
        }
        Burst::Idle
    }

    fn give_up_ring(&self, queue: &mut virtio_queue::Queue, broken: Broken) {
        tracing::warn!("{}: {broken}", self.label);
        virtio_queue::QueueT::set_ready(queue, false);
    }

    /// The life of the thread that receives.
    fn receive(&self, mut rx: PortRx) {
        const LONG: Duration = Duration::from_secs(3600);
        while !self.stopping.load(Ordering::Acquire) {
            let end = match self.receive_ring.get() {
                Some(ring) => self.bursts(ring, |memory, queue| {
                    pump::receive(memory, queue, self.format(), &mut rx)
                }),
                None => pump::discard(&mut rx),
            };
            match end {
                Burst::More => {}
                Burst::Idle => rx.wait(LONG),
                // The guest kicks when it has made room.
                Burst::NoBuffers => rx.wait_for_call(LONG),
            }
        }
    }
}

/// The library's view of a card. It wants to be cloned.
#[derive(Clone)]
struct Backend(Arc<Card>);

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        MAX_QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        FEATURES.iter().fold(
            VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits(),
            |all, bit| all | 1 << bit,
        )
    }

    fn acked_features(&self, features: u64) {
        self.0.features.store(features, Ordering::Release);
        self.0.caller.set_offloads(offloads(features));
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::REPLY_ACK
    }

    fn reset_device(&self) {
        self.acked_features(0);
    }

    fn set_event_idx(&self, _enabled: bool) {
        // The library has told the queues.
    }

    fn update_memory(&self, _memory: Memory) -> io::Result<()> {
        // It is the one we have, with new contents.
        Ok(())
    }

    /// A thread for each queue: a long burst of one must not keep the other from its kicks.
    fn queues_per_thread(&self) -> Vec<u64> {
        vec![0b01, 0b10]
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::CLOEXEC | EventFlag::NONBLOCK)
            .inspect_err(|e| tracing::warn!("{}: can't make an event: {e}", self.0.label))
            .ok()
    }

    fn handle_event(
        &self,
        _event: u16,
        _set: EventSet,
        rings: &[Vring],
        thread: usize,
    ) -> io::Result<()> {
        let Some(ring) = rings.first() else {
            return Ok(());
        };
        if thread == RECEIVE {
            self.0.receive_ring.get_or_init(|| ring.clone());
            self.0.caller.call();
        } else {
            let mut tx = lock(&self.0.tx);
            self.0.bursts(ring, |memory, queue| {
                pump::transmit(memory, queue, self.0.format(), &mut tx)
            });
        }
        Ok(())
    }
}

/// A card being served. Dropping it ends the service and gives the port's slot back.
pub struct Service {
    card: Arc<Card>,
    /// The listening socket, and then the connection.
    listener: UnixListener,
    connection: Arc<Mutex<Option<ShutdownHandle>>>,
    socket_thread: Option<JoinHandle<Result<(), DaemonError>>>,
    receive_thread: Option<JoinHandle<()>>,
}

/// Serves `port` to the one VMM that connects to `listener`. Returns at once; `label` names the card
/// in messages.
///
/// # Errors
/// When threads or descriptors can't be made.
pub fn serve(port: Port, listener: UnixListener, label: &str) -> io::Result<Service> {
    let (tx, rx) = port.split();
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let card = Arc::new(Card {
        label: label.to_owned(),
        memory: memory.clone(),
        features: AtomicU64::new(0),
        caller: rx.caller(),
        tx: Mutex::new(tx),
        receive_ring: OnceLock::new(),
        stopping: AtomicBool::new(false),
    });
    let mut service = Service {
        listener: listener.try_clone()?,
        connection: Arc::default(),
        socket_thread: None,
        receive_thread: None,
        card: Arc::clone(&card),
    };
    let spawn = |what: &str| std::thread::Builder::new().name(format!("{what} {label}"));
    let daemon = VhostUserDaemon::new(format!("vhost {label}"), Backend(Arc::clone(&card)), memory)
        .map_err(|error| io::Error::other(error.to_string()))?;
    let connection = Arc::clone(&service.connection);
    let receiver = Arc::clone(&card);
    service.receive_thread = Some(spawn("rx").spawn(move || receiver.receive(rx))?);
    service.socket_thread =
        Some(spawn("accept").spawn(move || converse(daemon, listener, &connection, &card))?);
    Ok(service)
}

/// The life of the thread that waits for the VMM and then for its end.
fn converse(
    mut daemon: VhostUserDaemon<Backend>,
    listener: UnixListener,
    connection: &Mutex<Option<ShutdownHandle>>,
    card: &Card,
) -> Result<(), DaemonError> {
    daemon.start(&mut Listener::from(listener))?;
    *lock(connection) = daemon.shutdown_handle();
    if card.stopping.load(Ordering::SeqCst) {
        daemon.request_shutdown();
    }
    let end = match daemon.wait() {
        // A VMM that ends just hangs up.
        Err(DaemonError::HandleRequest(
            VhostUserError::Disconnected | VhostUserError::PartialMessage,
        )) => Ok(()),
        end => end,
    };
    card.stopping.store(true, Ordering::SeqCst);
    card.caller.call();
    end
}

impl Service {
    /// Ends the service and tells how the conversation with the VMM went.
    ///
    /// # Errors
    /// When the VMM said what the protocol does not allow.
    pub fn stop(mut self) -> Result<(), DaemonError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), DaemonError> {
        self.card.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread out of `accept`, if it is still there.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(connection) = lock(&self.connection).take() {
            connection.shutdown();
        }
        self.card.caller.call();
        let end = self.socket_thread.take().map(JoinHandle::join);
        if let Some(thread) = self.receive_thread.take() {
            // A panic there has been told on stderr.
            let _ = thread.join();
        }
        match end {
            Some(Ok(Err(DaemonError::CreateBackendListener(_)))) | None => Ok(()),
            Some(Ok(end)) => end,
            Some(Err(panic)) => Err(DaemonError::WaitDaemon(panic)),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(
                "{}: the conversation with the VMM ended badly: {error}",
                self.card.label
            );
        }
    }
}
