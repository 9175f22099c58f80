//! One queue of a running device, in the hands of the device's thread.

use std::sync::Arc;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

use super::chain::{Broken, Chain};
use super::device::Shared;

/// A queue and what goes with it.
#[derive(Debug)]
pub struct Vring {
    queue: Queue,
    memory: GuestMemoryMmap,
    shared: Arc<Shared>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is done, and so many bytes were written to its buffers.
    Done(u32),
    /// It is under way, and will be [completed](Vring::complete) by its head.
    UnderWay,
    /// Not now: it stays where it is, as do those behind it.
    Later,
}

impl Vring {
    /// A queue that the driver has set up.
    pub fn new(queue: Queue, memory: GuestMemoryMmap, shared: Arc<Shared>) -> Self {
        Self {
            queue,
            memory,
            shared,
        }
    }

    /// The guest's memory.
    pub fn memory(&self) -> GuestMemoryMmap {
        self.memory.clone()
    }

    /// Has `each` do the requests there are, but not more than the queue has room for, and none when
    /// the thread has orders: true if there may be more, and this is to be called again. Else the guest
    /// kicks when there are.
    ///
    /// # Errors
    /// The driver broke the rules; the queue is not to be touched any more.
    pub fn serve(
        &mut self,
        mut each: impl FnMut(&mut Chain<'_>) -> Result<Outcome, Broken>,
    ) -> Result<bool, Broken> {
        let memory = &self.memory;
        self.queue.disable_notification(memory)?;
        for _ in 0..self.queue.size() {
            if self.shared.is_ordered() {
                return Ok(true);
            }
            let Some(chain) = self.queue.iter(memory)?.next() else {
                // Those that came while nobody kicked.
                return Ok(self.queue.enable_notification(memory)?);
            };
            let mut chain = Chain::new(chain, memory)?;
            match each(&mut chain)? {
                Outcome::Done(written) => {
                    self.queue.add_used(memory, chain.head, written)?;
                    if self.queue.needs_notification(memory)? {
                        self.shared.interrupt.used();
                    }
                }
                Outcome::UnderWay => {}
                Outcome::Later => {
                    self.queue.go_to_previous_position();
                    self.queue.enable_notification(memory)?;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Gives requests back that were under way: of each its head, and how many bytes were written to its
    /// buffers.
    ///
    /// # Errors
    /// The driver broke the rules; the queue is not to be touched any more.
    pub fn complete(&mut self, done: impl Iterator<Item = (u16, u32)>) -> Result<(), Broken> {
        let mut any = false;
        for (head, written) in done {
            self.queue.add_used(&self.memory, head, written)?;
            any = true;
        }
        if any && self.queue.needs_notification(&self.memory)? {
            self.shared.interrupt.used();
        }
        Ok(())
    }
}
