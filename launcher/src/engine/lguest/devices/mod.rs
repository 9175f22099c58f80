//! The host's side of the guest's devices: what they do with the blocks it sends, and how they fill those
//! it binds. What is behind them (a file, a port, a tap, the terminal) is opened already; see
//! [`crate::backend`].
//!
//! * [`console`]: bytes to and from a stream.
//! * [`block`]: a request in a page, and its data.
//! * [`sharenet`]: frames to and from the ports of a segment, whose peers page is the device's page.
//! * [`tap`]: frames to and from the host.

pub mod block;
pub mod console;
pub mod sharenet;
pub mod tap;

use std::io;
use std::time::Duration;

use super::dma::{BadBlock, Block};
use super::host::{Bound, Host, HostError};
use super::inputs::Inputs;
use super::memory::{GuestMemory, OutOfBounds};

/// The shortest and the longest frame a guest takes, in bytes with the Ethernet header.
pub const FRAME: std::ops::RangeInclusive<usize> = 14..=1514;

/// A device.
pub trait Device {
    /// The guest sent a block, `offset` bytes into the device's page. Gives the number of bytes it is to
    /// be told were taken.
    ///
    /// # Errors
    /// What the guest dies of, or we.
    fn sent(&mut self, line: &mut Line<'_>, block: &Block, offset: u32) -> Result<u32, Trouble>;

    /// Time to look for input. `ready`: what the device waits for among the inputs has come.
    ///
    /// # Errors
    /// What the guest dies of, or we.
    fn poll(&mut self, line: &mut Line<'_>, ready: bool) -> Result<(), Trouble>;

    /// The guest waits. What comes from now on must make the inputs ready, and what came before must
    /// be looked for once more.
    ///
    /// # Errors
    /// What the guest dies of, or we.
    fn prepare_to_sleep(&mut self, line: &mut Line<'_>) -> Result<(), Trouble> {
        self.poll(line, false)
    }

    /// Sleeps until something comes for this device or somebody calls, at most that long. `false`: this is
    /// no device to sleep on.
    fn sleep(&mut self, _timeout: Duration) -> bool {
        false
    }

    /// The guest runs again: it comes by often, and nothing need be told.
    fn awake(&mut self) {}
}

/// Devices' way to the guest.
pub struct Line<'a> {
    /// Its memory.
    pub memory: &'a GuestMemory,
    /// What runs it.
    pub host: &'a mut dyn Host,
    /// What can wake it.
    pub inputs: &'a Inputs,
    /// Whether it was interrupted.
    pub raised: bool,
}

/// What became of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// The guest has so many bytes of it.
    Taken(usize),
    /// It has no free block now.
    Full,
    /// It wants none.
    Unwanted,
}

/// What ends a guest.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Its own fault, for this reason.
    #[error("{0}")]
    Guest(String),
    /// The host's.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The kernel's.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl From<BadBlock> for Trouble {
    fn from(bad: BadBlock) -> Self {
        Self::Guest(bad.to_string())
    }
}

impl From<OutOfBounds> for Trouble {
    fn from(outside: OutOfBounds) -> Self {
        Self::Guest(outside.to_string())
    }
}

impl Line<'_> {
    /// Interrupts the guest.
    ///
    /// # Errors
    /// The host's.
    pub fn raise(&mut self, irq: u8) -> Result<(), Trouble> {
        self.raised = true;
        Ok(self.host.irq(irq)?)
    }

    /// Puts bytes into the next free block of those bound to `key`, as many as fit, and says so.
    ///
    /// # Errors
    /// The block is a bad one; the host's.
    pub fn give(&mut self, key: u32, bytes: &[u8]) -> Result<Given, Trouble> {
        let (block, irq) = match self.host.get_dma(key)? {
            Bound::Nothing => return Ok(Given::Unwanted),
            Bound::Full { .. } => return Ok(Given::Full),
            Bound::Free { block, irq } => (block, irq),
        };
        let block = Block::read(self.memory, block)?;
        let count = block.fill(self.memory, bytes)?;
        block.set_used(self.memory, count as u32)?;
        self.raise(irq)?;
        Ok(Given::Taken(count))
    }

    /// Reminds a guest whose blocks are all in use.
    ///
    /// # Errors
    /// The host's.
    pub fn remind(&mut self, key: u32) -> Result<(), Trouble> {
        match self.host.get_dma(key)? {
            Bound::Full { irq } => self.raise(irq),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! A guest that only binds blocks, for the tests of devices.

    use super::*;
    use crate::engine::lguest::host::Exit;
    use crate::engine::lguest::host::inprocess::dma::Bindings;

    /// The host of such a guest.
    pub struct Stub<'m> {
        pub memory: &'m GuestMemory,
        pub bindings: Bindings,
        pub raised: Vec<u8>,
    }

    impl Host for Stub<'_> {
        fn run(&mut self) -> Result<Exit, HostError> {
            Ok(Exit::Break)
        }

        fn get_dma(&mut self, key: u32) -> Result<Bound, HostError> {
            Ok(self.bindings.get(self.memory, key).unwrap())
        }

        fn irq(&mut self, irq: u8) -> Result<(), HostError> {
            self.raised.push(irq);
            Ok(())
        }

        fn waits_itself(&self) -> bool {
            false
        }
    }

    impl<'m> Stub<'m> {
        pub fn new(memory: &'m GuestMemory) -> Self {
            Self {
                memory,
                bindings: Bindings::default(),
                raised: Vec::new(),
            }
        }

        pub fn line<'a>(&'a mut self, inputs: &'a Inputs) -> Line<'a> {
            Line {
                memory: self.memory,
                host: self,
                inputs,
                raised: false,
            }
        }
    }

    /// Writes a block at `at`.
    pub fn block(memory: &GuestMemory, at: u32, pieces: &[(u32, u16)]) -> Block {
        memory.zero(at, 100).unwrap();
        for (n, (start, len)) in (0..).zip(pieces) {
            memory.store(at + 4 + n * 4, *start).unwrap();
            memory.store(at + 68 + n * 2, *len).unwrap();
        }
        Block::read(memory, at).unwrap()
    }
}
