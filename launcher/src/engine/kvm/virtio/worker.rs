//! The thread of a device that does one request after another: all but the network cards.
//!
//! It sleeps on its orders, on what the guest kicks, and perhaps on a descriptor of the host's.

use std::any::Any;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use virtio_queue::QueueT;

use super::chain::Broken;
use super::description::Description;
use super::device::{Device, Driver, Order, Orders, borrow};
use super::vring::Vring;
use crate::seccomp;

/// What a device does.
pub trait Work: Send + 'static {
    /// A driver is there, and acknowledged these features; queues are served from now on.
    fn start(&mut self, features: u64) {
        let _ = features;
    }

    /// Does requests of queue number `index`, as [`Vring::serve`] does.
    ///
    /// # Errors
    /// The driver broke the rules. Nothing is served until it resets the device.
    fn serve(&mut self, index: usize, queue: &mut Vring) -> Result<bool, Broken>;

    /// What else than a kick is a reason to serve a queue, at this moment.
    fn sources(&self) -> Vec<Source<'_>> {
        Vec::new()
    }

    /// The driver is gone.
    fn stop(&mut self) {}
}

/// A descriptor of the host's.
#[derive(Debug)]
pub struct Source<'a> {
    /// The descriptor,
    pub fd: BorrowedFd<'a>,
    /// what of it is waited for,
    pub event: PollFlags,
    /// and the number of the queue that is then to be served.
    pub queue: usize,
}

/// A device whose thread, called `name`, does `work`.
///
/// # Errors
/// No descriptor or no thread is left.
pub fn device(name: &str, description: Description, work: impl Work) -> io::Result<Device> {
    Device::new(description, |orders| {
        let worker = Worker {
            orders,
            work,
            queues: Vec::new(),
        };
        let thread = std::thread::Builder::new().name(name.into());
        Ok(joined_when_dropped(thread.spawn(move || worker.live())?))
    })
}

/// Joins a thread when it is dropped.
pub fn joined_when_dropped(thread: JoinHandle<()>) -> Box<dyn Any + Send> {
    struct Life(Option<JoinHandle<()>>);
    impl Drop for Life {
        fn drop(&mut self) {
            // A panic there has been told on stderr.
            let _ = self.0.take().map(JoinHandle::join);
        }
    }
    Box::new(Life(Some(thread)))
}

/// A queue that is served.
struct Served {
    /// Its number.
    index: usize,
    vring: Vring,
    /// There may be requests.
    due: bool,
}

struct Worker<W> {
    orders: Orders,
    work: W,
    /// None while there is no driver, or a broken one.
    queues: Vec<Served>,
}

impl<W: Work> Worker<W> {
    fn live(mut self) {
        seccomp::confine(seccomp::Work::ForTheGuest);
        loop {
            self.wait();
            while let Some(order) = self.orders.next() {
                match order {
                    Order::Start(driver, _done) => self.start(driver),
                    Order::Stop(_done) => self.stop(),
                    Order::End => return,
                }
            }
            for served in &mut self.queues {
                if served.due {
                    match self.work.serve(served.index, &mut served.vring) {
                        Ok(more) => served.due = more,
                        Err(broken) => {
                            tracing::debug!("{:?}: {broken}", std::thread::current().name());
                            self.orders.shared.interrupt.break_off();
                            self.queues.clear();
                            break;
                        }
                    }
                }
            }
        }
    }

    fn start(&mut self, driver: Driver) {
        self.work.start(driver.features);
        let shared = &self.orders.shared;
        let ready = driver.queues.into_iter().enumerate();
        let ready = ready.filter(|(_, queue)| queue.ready());
        self.queues = ready
            .map(|(index, queue)| Served {
                index,
                vring: Vring::new(queue, driver.memory.clone(), Arc::clone(shared)),
                due: true,
            })
            .collect();
    }

    fn stop(&mut self) {
        self.queues.clear();
        self.work.stop();
    }

    /// Sleeps until there is something to do, and notes which queues it is for.
    fn wait(&mut self) {
        let kicks = &self.orders.shared.kicks;
        let mut sources = match self.queues.is_empty() {
            true => Vec::new(),
            false => self.work.sources(),
        };
        sources.retain(|source| self.queues.iter().any(|q| q.index == source.queue));
        let input = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let kicked = self.queues.iter().filter_map(|q| kicks.get(q.index));
        let mut fds: Vec<_> = std::iter::once(input(self.orders.as_fd()))
            .chain(kicked.map(|kick| input(borrow(kick))))
            .chain(sources.iter().map(|s| PollFd::new(s.fd, s.event)))
            .collect();
        let timeout = match self.queues.iter().any(|served| served.due) {
            true => PollTimeout::ZERO,
            false => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            // Out of memory in the kernel: look again a little later.
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
        let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(false)).skip(1);
        for (served, ready) in self.queues.iter_mut().zip(&mut ready) {
            if ready {
                let _ = kicks.get(served.index).map(|kick| kick.read());
                served.due = true;
            }
        }
        for (source, ready) in sources.iter().zip(ready) {
            let queue = self.queues.iter_mut().find(|q| q.index == source.queue);
            if let Some(queue) = queue {
                queue.due |= ready;
            }
        }
    }
}
