//! What a card knows of its guest: whatever the [conversation](super::card::Conversation) has told.

use nix::sys::epoll::Epoll;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::features;
use super::memory::Memory;
use super::queue::Queue;

/// A guest, as far as we were told of it.
pub struct Guest {
    /// What it acknowledged of the features.
    pub features: u64,
    /// Its memory.
    pub memory: Memory,
    /// Receive and transmit queues in turn.
    pub queues: Vec<Queue>,
}

impl Guest {
    /// One that nothing is known of, of a card with `pairs` pairs of queues.
    pub fn new(pairs: usize) -> Self {
        Self {
            features: 0,
            memory: Memory::default(),
            queues: (0..2 * pairs).map(|_| Queue::default()).collect(),
        }
    }

    /// Pairs of queues its card has.
    pub fn pairs(&self) -> usize {
        self.queues.len() / 2
    }

    /// Pairs that the guest has enabled.
    pub fn enabled_pairs(&self) -> usize {
        self.queues.iter().filter(|queue| queue.enabled).count() / 2
    }

    /// It acknowledged these features, for all queues.
    pub fn agree(&mut self, features: u64) {
        self.features = features;
        for queue in &mut self.queues {
            queue.format = features::format(features);
            queue.ring.event_index = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        }
    }

    /// It is gone: nothing of it is touched any more.
    pub fn forget(&mut self, kicks: &Epoll) {
        for queue in &mut self.queues {
            queue.unplug(kicks);
        }
        *self = Self::new(self.pairs());
    }
}
