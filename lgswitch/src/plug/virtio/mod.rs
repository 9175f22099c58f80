//! A virtio network card, apart from who emulates its registers.
//!
//! Between a guest's virtqueues and a port frames pass the same way whether another VMM has the guest
//! and tells us of it over a socket ([`vhost_user`](super::vhost_user)), or the launcher's own. Read
//! [`memory`] and [`virtqueue`] for how buffers change hands, `queue` for what a card knows of a
//! queue and `guest` of its guest, `pump` for what a burst does to them, and `rss` for which queue a
//! frame goes to. Then `traffic` for what is done when, `card` for who does it, and `service` for the
//! threads. `features` is what a card offers.

pub mod card;
pub mod features;
pub mod guest;
pub mod memory;
pub mod pump;
pub mod queue;
mod rss;
pub mod service;
mod traffic;
pub mod virtqueue;
