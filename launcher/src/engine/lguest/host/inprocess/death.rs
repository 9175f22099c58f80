//! Why a guest is stopped for good.

use crate::engine::lguest::cpu::{BadSelector, Broken};
use crate::engine::lguest::memory::OutOfBounds;

/// What a guest did that nobody can go on from. The first one counts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Death {
    /// It called before it had said where its data are.
    #[error("hypercall {0} before LGUEST_INIT")]
    BeforeInit(u32),
    /// It said that twice.
    #[error("second LGUEST_INIT")]
    SecondInit,
    /// There is no such call.
    #[error("Bad hypercall {0}")]
    BadHypercall(u32),
    /// It says so itself.
    #[error("CRASH: {0}")]
    Crash(String),
    /// It gave an address that is not its own.
    #[error("bad address {at:#x} + {bytes} in its memory of {limit:#x} bytes")]
    BadAddress {
        /// Guest-physical.
        at: u32,
        /// How many bytes from there.
        bytes: u32,
        /// Where its memory ends.
        limit: u32,
    },
    /// No two guests can mean the same by it.
    #[error("bad DMA key {0:#x}")]
    BadKey(u32),
    /// More descriptors than a table has.
    #[error("too many gdt entries {0}")]
    TooManyGdtEntries(u32),
    /// A segment register it has loaded is gone from its table.
    #[error("bad segment {0:#06x}")]
    BadSegment(u16),
    /// Neither interrupt nor trap gate.
    #[error("bad IDT type {kind} for vector {vector}")]
    BadGate {
        /// Which vector.
        vector: u32,
        /// The type field of its gate.
        kind: u32,
    },
    /// A stack for ring 1 that is none.
    #[error("bad stack segment {0:#x}")]
    BadStackSegment(u32),
    /// More than two pages of stack.
    #[error("bad stack of {0} pages")]
    BadStackPages(u32),
    /// A stack that is not there.
    #[error("bad stack page {0:#x}")]
    BadStackPage(u32),
    /// A trap nobody handles.
    #[error("unhandled trap {vector} at {eip:#x} ({about:#x})")]
    Unhandled {
        /// Which vector.
        vector: u8,
        /// Where.
        eip: u32,
        /// The address of a page fault, or the error code.
        about: u32,
    },
    /// Its page tables, or a stack a trap needed.
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl From<OutOfBounds> for Death {
    fn from(error: OutOfBounds) -> Self {
        Self::BadAddress {
            at: error.at,
            bytes: error.bytes as u32,
            limit: error.at,
        }
    }
}

impl From<BadSelector> for Death {
    fn from(BadSelector(selector): BadSelector) -> Self {
        Self::BadSegment(selector)
    }
}
