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
//! module did, and `dev_lguest`, the module itself, which a launcher of 32 bits takes where it is there ([`Place`]).

#[cfg(any(target_arch = "x86", test))]
pub mod dev_lguest;
pub mod inprocess;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::boot::Start;
use super::inputs::Inputs;
use super::memory::GuestMemory;
use inprocess::InProcess;

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

/// Where a guest will run: that decides where its memory is.
#[derive(Debug)]
pub enum Place {
    /// In this process.
    Here,
    /// In the kernel's module.
    #[cfg(target_arch = "x86")]
    Module(std::fs::File),
}

impl Place {
    /// The place there is on this machine for a guest, and `bytes` bytes of memory for it. The module numbers its
    /// guests itself: one whose `number` matters is run here.
    ///
    /// # Errors
    /// There is no room for the memory.
    #[cfg_attr(
        not(target_arch = "x86"),
        expect(unused_variables, reason = "there is one place only")
    )]
    pub fn find(bytes: u32, number: Option<u16>) -> io::Result<(Self, GuestMemory)> {
        #[cfg(target_arch = "x86")]
        if number.is_none()
            && let Some((module, memory)) = dev_lguest::open(bytes)
        {
            return Ok((Self::Module(module), memory));
        }
        Ok((Self::Here, GuestMemory::new(bytes)?))
    }

    /// A guest about to execute its first instruction, with this number if it can be chosen.
    ///
    /// # Errors
    /// The module refuses it.
    #[cfg_attr(
        not(target_arch = "x86"),
        expect(unused_variables, reason = "nothing has to break into it")
    )]
    pub fn start<'m>(
        self,
        memory: &'m GuestMemory,
        start: &Start,
        number: u16,
        inputs: &Arc<Inputs>,
    ) -> Result<Box<dyn Host + 'm>, HostError> {
        match self {
            Self::Here => Ok(Box::new(InProcess::initialize(memory, start, number))),
            #[cfg(target_arch = "x86")]
            Self::Module(module) => {
                let guest = dev_lguest::DevLguest::initialize(memory, start, module, inputs)?;
                Ok(Box::new(guest))
            }
        }
    }
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
