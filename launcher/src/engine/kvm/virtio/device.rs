//! A device, as the transport holds it: a description, and a line to the thread that does its work.
//!
//! What the driver does to the registers comes down to two orders: start with these queues, and stop.
//! They are given by the VCPU's thread and carried out by the device's own, which alone touches queues.
//! Whoever gives them waits until that is done: a driver that reads the status as zero may use the memory
//! of its queues for something else, and one that has started a card expects to hear frames.

use std::any::Any;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::description::Description;
use super::interrupt::Interrupt;

/// A driver that has started a device.
#[derive(Debug)]
pub struct Driver {
    /// The features it acknowledged.
    pub features: u64,
    /// The guest's memory.
    pub memory: GuestMemoryMmap,
    /// The device's queues: one that the driver has not set up is not ready, all others are inside
    /// the guest's memory.
    pub queues: Vec<Queue>,
}

/// What the device's thread is to do.
#[derive(Debug)]
pub enum Order {
    /// A driver is there: serve its queues.
    Start(Driver, Done),
    /// It is gone: touch nothing of it any more.
    Stop(Done),
    /// The guest has ended, and so does the thread.
    End,
}

/// Somebody waits until an order is carried out, which is when this is dropped.
#[derive(Debug)]
pub struct Done {
    _end: SyncSender<()>,
}

/// What a device and its transport share beside the orders.
#[derive(Debug)]
pub struct Shared {
    /// What the driver can see of it.
    pub description: Description,
    /// Its way to interrupt the guest.
    pub interrupt: Interrupt,
    /// What the driver kicks, for each queue.
    pub kicks: Vec<EventFd>,
    /// There is an order that was not heard yet.
    ordered: AtomicBool,
}

impl Shared {
    /// Whether the thread is to look for orders before it does more requests: a driver may ask for
    /// work for minutes, and nobody shall wait that long for the guest's end.
    pub fn is_ordered(&self) -> bool {
        self.ordered.load(Ordering::Relaxed)
    }
}

/// The thread's end of the line.
#[derive(Debug)]
pub struct Orders {
    orders: Receiver<Order>,
    bell: EventFd,
    /// What it shares with the transport.
    pub shared: Arc<Shared>,
}

/// The transport's end.
pub struct Device {
    /// What it shares with the thread.
    pub shared: Arc<Shared>,
    orders: Sender<Order>,
    bell: EventFd,
    /// Ends the thread when it is dropped, having been told to end.
    life: Option<Box<dyn Any + Send>>,
}

impl Device {
    /// A device of this description; `start` makes the thread that follows the orders, and gives
    /// what joins it when it is dropped.
    ///
    /// # Errors
    /// No descriptor or no thread is left.
    pub fn new(
        description: Description,
        start: impl FnOnce(Orders) -> io::Result<Box<dyn Any + Send>>,
    ) -> io::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC);
        let kicks = description.queues.iter().map(|_| event());
        let shared = Arc::new(Shared {
            kicks: kicks.collect::<io::Result<_>>()?,
            interrupt: Interrupt::new()?,
            description,
            ordered: AtomicBool::new(false),
        });
        let (sender, receiver) = channel();
        let bell = event()?;
        let life = start(Orders {
            orders: receiver,
            bell: bell.try_clone()?,
            shared: Arc::clone(&shared),
        })?;
        Ok(Self {
            shared,
            orders: sender,
            bell,
            life: Some(life),
        })
    }

    fn give(&self, order: Order) {
        self.shared.ordered.store(true, Ordering::Relaxed);
        // A thread that is gone has panicked, and has told so; its device does nothing any more.
        if self.orders.send(order).is_ok() {
            let _ = self.bell.write(1);
        }
    }

    fn give_and_wait(&self, order: impl FnOnce(Done) -> Order) {
        let (end, wait) = sync_channel(0);
        self.give(order(Done { _end: end }));
        // Nothing is ever sent: it ends when the other end is dropped, by the thread or with it.
        let _ = wait.recv();
    }

    /// A driver is there. When this returns it is served.
    pub fn start(&self, driver: Driver) {
        self.give_and_wait(|done| Order::Start(driver, done));
    }

    /// The driver is gone. When this returns nothing of it is touched any more.
    pub fn stop(&self) {
        self.give_and_wait(Order::Stop);
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.give(Order::End);
        drop(self.life.take());
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl Orders {
    /// The next order, if there is one.
    pub fn next(&self) -> Option<Order> {
        use std::sync::mpsc::TryRecvError;
        // Read before looking: who gives an order rings afterwards.
        let _ = self.bell.read();
        self.shared.ordered.store(false, Ordering::Relaxed);
        match self.orders.try_recv() {
            Ok(order) => Some(order),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Order::End),
        }
    }
}

/// Can be read while there are orders.
impl AsFd for Orders {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.bell)
    }
}

/// An event descriptor, as one that can be waited for.
pub fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `event` is there, which is borrowed for as long.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
