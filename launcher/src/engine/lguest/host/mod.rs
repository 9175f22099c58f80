//! The seam between the launcher and what runs its guest: the five things that `/dev/lguest` was asked for.
//!
//! | the device | here |
//! |---|---|
//! | `LHREQ_INITIALIZE` | each host's constructor |
//! | `LHREQ_GETDMA` | [`Host::get_dma`] |
//! | `LHREQ_IRQ` | [`Host::irq`] |
//! | `LHREQ_BREAK` | [`Exit::Break`]: `run` comes back when it is time to look at the host's side |
//! | `read` | [`Host::run`] |
//!
//! Two hosts are behind it: [`inprocess`], which is a processor in software and all that the kernel
//! module did, and [`dev_lguest`], the module itself.

pub mod dev_lguest;
pub mod inprocess;

use std::time::Instant;

/// Why the guest is not running any more, or not just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It sent a block to one of our devices.
    Sent(Sent),
    /// It runs, and it is time to look at what the world has for it.
    Break,
    /// It waits for an interrupt. If it waits for its clock's, that comes at this time.
    Idle(Option<Instant>),
    /// It is dead, for this reason.
    Died(String),
}

/// A block that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Where the block is (guest-physical).
    pub block: u32,
    /// To whom.
    pub key: u32,
}

/// What there is for input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The guest bound nothing to that key: its driver is not there, or its interface is down.
    Nothing,
    /// All it bound is in use. This interrupt may remind it.
    Full {
        /// Which interrupt.
        irq: u8,
    },
    /// A block to be filled.
    Free {
        /// Where the block is (guest-physical).
        block: u32,
        /// Which interrupt says that it was filled.
        irq: u8,
    },
}

/// What runs a guest.
pub trait Host {
    /// Runs the guest until it needs us, or it is time to look elsewhere. Once it is dead it stays so, and
    /// every call gives the reason.
    ///
    /// # Errors
    /// The host's own troubles.
    fn run(&mut self) -> Result<Exit, HostError>;

    /// Asks for a block that the guest bound to `key`.
    ///
    /// # Errors
    /// The host's own troubles.
    fn get_dma(&mut self, key: u32) -> Result<Bound, HostError>;

    /// Raises an interrupt, below 32.
    ///
    /// # Errors
    /// The host's own troubles.
    fn irq(&mut self, irq: u8) -> Result<(), HostError>;

    /// Whether a guest that waits makes [`run`](Self::run) wait, rather than give [`Exit::Idle`].
    fn waits_itself(&self) -> bool;
}

/// A host failed.
#[derive(Debug, thiserror::Error)]
#[error("Cannot {action} /dev/lguest: {}", crate::error::reason(.error))]
pub struct HostError {
    /// What was being done.
    pub action: &'static str,
    /// The kernel's reason.
    pub error: std::io::Error,
}
