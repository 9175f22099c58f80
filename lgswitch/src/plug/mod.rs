//! Plugs: what stands at the other end of a port.
//!
//! A plug joins a port's two halves to something that is not a sharenet. Today that is a guest's
//! virtqueues, over vhost-user ([`vhost_user`]).

pub mod vhost_user;
