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
            let Outcome::Done(written) = each(&mut chain)? else {
                self.queue.go_to_previous_position();
                self.queue.enable_notification(memory)?;
                return Ok(false);
            };
            self.queue.add_used(memory, chain.head, written)?;
            if self.queue.needs_notification(memory)? {
                self.shared.interrupt.used();
            }
        }
        Ok(true)
    }
}
