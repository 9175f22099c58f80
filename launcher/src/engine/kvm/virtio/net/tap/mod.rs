//! A card on a tap: the guest is a neighbour of the host itself.
//!
//! Both sides speak the same 12 bytes of header before each frame, so the pump does not look at it, and
//! the kernel is told (`TUNSETOFFLOAD`) to leave undone what this guest takes undone. One thread does all
//! pairs of queues, as for a card on a sharenet: in a *turn* a burst of each ([`send`], [`receive`]). Where
//! the kernel has a pump of its own ([`vhost`]), the thread only sets it up.

mod receive;
mod send;
mod vhost;

use std::io;

use lgswitch::plug::polling::Polling;
use lgswitch::plug::virtio::guest::Guest;
use lgswitch::plug::virtio::pump::Burst;
use lgswitch::plug::virtio::queue::Queue;
use lgswitch::plug::virtio::virtqueue;
use netsetup::{Tap, TapOffloads};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6,
    VIRTIO_NET_F_HOST_USO,
};
use vm_memory::GuestMemoryMmap;

use super::super::chain::Broken;
use super::super::description::Description;
use super::super::device::{Device, Driver, Order, Orders};
use super::super::worker::joined_when_dropped;
use super::control::Control;
use super::set_up;
use crate::seccomp;
use receive::Receiver;
use vhost::Vhost;

/// Bytes of the largest frame, with its header: a segment of 64 KiB to be cut.
const MOST: usize = netsetup::VNET_HEADER_LEN + lgswitch::layout::MAX_FRAME;
/// Frames of a queue handled before the others get their turn.
const BURST: u32 = 64;
/// Turns between two looks at the orders while there is no end of frames.
const TURNS: u32 = 256;

/// What the epoll set says is ready.
const FRAMES: u64 = 0;
const ORDERS: u64 = 1;
const CONTROL: u64 = 2;
const TROUBLE: u64 = 3;

/// A tap, and what its kernel can do.
pub struct Wire {
    tap: Tap,
    /// It cuts large UDP datagrams, since Linux 6.2.
    uso: bool,
    /// The kernel's own pumps.
    vhost: Option<Vhost>,
    /// Queues of the tap out of which frames come: the first ones.
    attached: usize,
}

impl Wire {
    /// Prepares a tap with virtio-net headers for the card of a guest with this memory.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn new(tap: Tap, pairs: usize, memory: &GuestMemoryMmap) -> io::Result<Self> {
        for queue in &tap.queues {
            let flags = OFlag::from_bits_retain(fcntl(queue, FcntlArg::F_GETFL)?);
            fcntl(queue, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        let all = TapOffloads {
            csum: true,
            tso4: true,
            tso6: true,
            tso_ecn: true,
            uso: true,
        };
        let uso = tap.set_offloads(all).is_ok();
        let vhost = match Vhost::new(&tap, pairs, memory) {
            Ok(vhost) => Some(vhost),
            Err(error) => {
                tracing::debug!("no vhost-net for {}, frames pass here: {error}", tap.name);
                None
            }
        };
        let mut wire = Self {
            attached: tap.queues.len(),
            tap,
            uso,
            vhost,
        };
        wire.use_pairs(1)?;
        wire.set_offloads(TapOffloads::NONE)?;
        Ok(wire)
    }

    /// Of the features of a card those that this tap can serve.
    pub fn features(&self) -> u64 {
        const USO: u64 = 1 << VIRTIO_NET_F_GUEST_USO4
            | 1 << VIRTIO_NET_F_GUEST_USO6
            | 1 << VIRTIO_NET_F_HOST_USO;
        if self.uso { u64::MAX } else { !USO }
    }

    /// Frames come out of this many of the tap's queues.
    fn use_pairs(&mut self, pairs: usize) -> io::Result<()> {
        for queue in 0..self.tap.queues.len() {
            let (was, is) = (queue < self.attached, queue < pairs);
            if was != is {
                let done = self.tap.set_attached(queue, is);
                done.map_err(io::Error::other)?;
            }
        }
        self.attached = pairs;
        Ok(())
    }

    fn set_offloads(&self, offloads: TapOffloads) -> io::Result<()> {
        self.tap.set_offloads(offloads).map_err(io::Error::other)
    }

    /// The kernel leaves undone what a driver that acknowledged these features takes undone.
    fn agree(&self, features: u64) -> io::Result<()> {
        let has = |bit: u32| features & 1 << bit != 0;
        let csum = has(VIRTIO_NET_F_GUEST_CSUM);
        // All others need the first; a driver that knows no better gets whole frames.
        self.set_offloads(TapOffloads {
            csum,
            tso4: csum && has(VIRTIO_NET_F_GUEST_TSO4),
            tso6: csum && has(VIRTIO_NET_F_GUEST_TSO6),
            tso_ecn: csum && has(VIRTIO_NET_F_GUEST_ECN),
            uso: csum && has(VIRTIO_NET_F_GUEST_USO4) && has(VIRTIO_NET_F_GUEST_USO6),
        })
    }
}

/// Makes the card.
///
/// # Errors
/// No descriptor or no thread is left.
pub fn device(
    description: Description,
    wire: Wire,
    number: usize,
    pairs: usize,
) -> io::Result<Device> {
    Device::new(description, |orders| {
        let ready = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        ready.add(&orders, EpollEvent::new(EpollFlags::EPOLLIN, ORDERS))?;
        let card = Card {
            orders,
            receivers: (0..pairs).map(|_| Receiver::default()).collect(),
            wire,
            guest: Guest::new(pairs),
            control: None,
            ready,
            polling: Polling::default(),
        };
        let thread = std::thread::Builder::new().name(format!("card eth{number}"));
        Ok(joined_when_dropped(thread.spawn(move || card.live())?))
    })
}

struct Card {
    orders: Orders,
    wire: Wire,
    guest: Guest,
    /// Of each pair of queues.
    receivers: Vec<Receiver>,
    control: Option<Control>,
    ready: Epoll,
    polling: Polling,
}

/// Why a driver is not served any longer.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Queue(#[from] virtqueue::Broken),
    #[error(transparent)]
    Control(#[from] Broken),
    #[error("its queues can't be set up: {0}")]
    SetUp(#[from] io::Error),
    #[error("its queues make no sense to vhost-net")]
    Vhost,
}

impl Card {
    fn live(mut self) {
        seccomp::confine(seccomp::Work::ForTheGuest);
        loop {
            match self.serve() {
                Ok(()) => return,
                Err(end) => {
                    tracing::debug!("{:?}: {end}", std::thread::current().name());
                    self.stop();
                    self.orders.shared.interrupt.break_off();
                }
            }
        }
    }

    /// Moves frames and follows orders, until the last of them.
    fn serve(&mut self) -> Result<(), End> {
        loop {
            let sleep = self.work()?;
            let mut events = [EpollEvent::empty(); 8];
            let timeout = if sleep {
                EpollTimeout::NONE
            } else {
                EpollTimeout::ZERO
            };
            let count = match self.ready.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(End::SetUp(error.into())),
            };
            let is_ready = |token| events[..count].iter().any(|event| event.data() == token);
            if is_ready(CONTROL)
                && let Some(control) = &mut self.control
            {
                control.serve(&self.orders.shared, &mut self.guest)?;
                let pairs = self.guest.enabled_pairs();
                self.wire.use_pairs(pairs)?;
                if let Some(vhost) = &self.wire.vhost {
                    vhost.enable(pairs)?;
                }
            }
            if is_ready(TROUBLE) {
                return Err(End::Vhost);
            }
            if is_ready(ORDERS) && !self.follow()? {
                return Ok(());
            }
        }
    }

    /// Follows the orders there are; `false` if the last is among them.
    fn follow(&mut self) -> Result<bool, End> {
        while let Some(order) = self.orders.next() {
            match order {
                Order::Start(driver, _done) => self.start(driver)?,
                Order::Stop(_done) => self.stop(),
                Order::End => return Ok(false),
            }
        }
        Ok(true)
    }

    fn start(&mut self, driver: Driver) -> io::Result<()> {
        self.wire.agree(driver.features)?;
        let (ready, shared) = (&self.ready, &self.orders.shared);
        let is_ours = self.wire.vhost.is_none();
        let plug = |queue: &mut Queue, kick| match is_ours {
            true => Ok(queue.plug_in(kick, ready, FRAMES)?),
            false => Ok(()),
        };
        set_up(&mut self.guest, &driver, shared, plug)?;
        match &mut self.wire.vhost {
            Some(vhost) => {
                vhost.start(&driver, shared)?;
                ready.add(
                    vhost.trouble(),
                    EpollEvent::new(EpollFlags::EPOLLIN, TROUBLE),
                )?;
            }
            None => {
                for queue in &self.wire.tap.queues {
                    // On the edge: after each wake-up there is a turn that takes all there is.
                    let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, FRAMES);
                    ready.add(queue, event)?;
                }
            }
        }
        self.control = Control::start(driver, &self.guest, &self.orders.shared, ready, CONTROL)?;
        Ok(())
    }

    fn stop(&mut self) {
        self.guest.forget(&self.ready);
        if let Some(control) = self.control.take() {
            control.end(&self.orders.shared, &self.ready);
        }
        if let Some(vhost) = &mut self.wire.vhost {
            vhost.stop();
            let _ = self.ready.delete(vhost.trouble());
        }
        for queue in &self.wire.tap.queues {
            let _ = self.ready.delete(queue);
        }
        self.receivers.iter_mut().for_each(Receiver::forget);
        // What it can't do it has told before.
        let _ = self.wire.agree(0);
        let _ = self.wire.use_pairs(1);
    }

    /// Takes turns until there is nothing to do, or it is time to look at the orders. `true`: all is
    /// prepared for a sleep.
    fn work(&mut self) -> Result<bool, End> {
        for _ in 0..TURNS {
            let burst = self.turn()?;
            if burst == Burst::Some {
                self.polling.busy();
            } else if !self.polling.once_more() {
                self.ask_for_kicks(burst);
                // For what came before they were asked for.
                if self.turn()? != Burst::Some {
                    return Ok(true);
                }
                self.polling.busy();
            }
        }
        Ok(false)
    }

    /// One burst of each queue.
    fn turn(&mut self) -> Result<Burst, virtqueue::Broken> {
        let Guest { memory, queues, .. } = &mut self.guest;
        let mut all = Burst::Idle;
        let taps = self.wire.tap.queues.iter();
        let pairs = queues
            .chunks_exact_mut(2)
            .zip(taps)
            .zip(&mut self.receivers);
        for ((pair, tap), receiver) in pairs {
            if let [receive, transmit] = pair {
                all = all.max(send::burst(memory, transmit, tap)?);
                all = all.max(receiver.burst(memory, receive, tap)?);
            }
        }
        Ok(all)
    }

    fn ask_for_kicks(&mut self, burst: Burst) {
        let Guest { memory, queues, .. } = &mut self.guest;
        for (index, queue) in queues.iter_mut().enumerate() {
            // Room is asked for where there is none; else the guest makes some without a word.
            if (index % 2 == 1 || burst == Burst::Stuck)
                && let Some(mut queue) = queue.open(memory)
            {
                queue.enable_kicks(1);
            }
        }
    }
}
