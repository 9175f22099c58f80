//! Every frame is counted once: sent, received, or lost with a reason.
//!
//! Each half of a port counts in private memory and shows its numbers in its own cache lines of
//! the slot record once a burst; nobody else writes there, and nobody is slowed by a reader.

use std::sync::atomic::Ordering;

use crate::map::Mapping;
use crate::ring::Refused;

/// Why a frame was not sent. The number is its place in the slot record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum TxDrop {
    /// The receiver's ring is full.
    RingFull = 0,
    /// Larger than the segment's MTU allows.
    TooBig = 1,
    /// Too short for Ethernet, or its virtio-net header does not fit it.
    Malformed = 2,
    /// No room on the filesystem for a ring's pages.
    NoMemory = 3,
    /// Its destination stands on the sender's own side.
    Filtered = 4,
    /// A copy for a promiscuous port whose ring is full; the frame itself was sent.
    CopyFull = 5,
}

impl From<Refused> for TxDrop {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::RingFull,
            Refused::NoMemory => Self::NoMemory,
        }
    }
}

/// Why a frame that was sent did not come in. The number is its place in the slot record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum RxDrop {
    /// The source's flood log went round before we read it.
    Lapped = 0,
    /// Bytes no sharenet port would have written; what was with them is lost too.
    Corrupt = 1,
    /// Left unfinished in a way this port does not take.
    Unfinished = 2,
    /// The other end of the port could not take it.
    Backend = 3,
}

/// Reasons each direction has room for.
pub const REASONS: usize = 8;
/// Names of [`TxDrop`]s as `lgswitch inspect` shows them.
pub const TX_REASONS: [&str; 6] = [
    "ring-full",
    "too-big",
    "malformed",
    "no-memory",
    "filtered",
    "copy-full",
];
/// Names of [`RxDrop`]s.
pub const RX_REASONS: [&str; 4] = ["lapped", "corrupt", "unfinished", "backend"];

/// One direction's numbers: frames, bytes, and frames lost by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that went.
    pub frames: u64,
    /// Their bytes, Ethernet header included.
    pub bytes: u64,
    /// Frames that did not.
    pub dropped: [u64; REASONS],
}

impl Counters {
    /// Counts a frame that went.
    #[inline]
    pub fn count(&mut self, len: usize) {
        self.frames += 1;
        self.bytes += len as u64;
    }

    /// Shows them at `at` of a mapping.
    #[inline]
    pub fn show(&self, control: &Mapping, at: u64) {
        let [frames, bytes, dropped @ ..] = control.words::<{ 2 + REASONS }>(at);
        frames.store(self.frames, Ordering::Relaxed);
        bytes.store(self.bytes, Ordering::Relaxed);
        for (word, count) in dropped.iter().zip(self.dropped) {
            word.store(count, Ordering::Relaxed);
        }
    }

    /// Reads what somebody shows at `at`.
    pub fn read(control: &Mapping, at: u64) -> Self {
        let word = |i: usize| control.word64(at + i as u64 * 8).load(Ordering::Relaxed);
        Self {
            frames: word(0),
            bytes: word(1),
            dropped: std::array::from_fn(|i| word(2 + i)),
        }
    }
}
