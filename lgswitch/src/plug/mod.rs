//! Plugs: what stands at the other end of a port.
//!
//! A plug joins a port's two halves to something that is not a sharenet: a guest's virtqueues, over
//! vhost-user ([`vhost_user`]) or in the launcher's own VMM (both by way of [`virtio`]), or a tap of the host ([`tap`]). Each sends with the same
//! [`patience`], and looks on for a moment before it sleeps ([`polling`]). On a host of 32 bits there is the tap alone:
//! the crates that know a guest's memory are of 64.

pub mod patience;
pub mod polling;
pub mod tap;
#[cfg(target_pointer_width = "64")]
pub mod vhost_user;
#[cfg(target_pointer_width = "64")]
pub mod virtio;
