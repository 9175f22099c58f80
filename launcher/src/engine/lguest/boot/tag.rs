//! Where a kernel is entered: right behind the words `GenuineLguest` in its code.

use super::{Kernel, scan};
use crate::engine::lguest::memory::{GuestMemory, OutOfBounds};

/// The words.
pub const TAG: &[u8] = b"GenuineLguest";

/// The guest-physical address behind the tag, if the kernel has one.
///
/// # Errors
/// None, for a kernel in this memory.
pub fn find(memory: &GuestMemory, kernel: &Kernel) -> Result<Option<u32>, OutOfBounds> {
    let overlap = TAG.len() as u32 - 1;
    scan(memory, kernel.start, kernel.end, overlap, |at, bytes| {
        let found = bytes.windows(TAG.len()).position(|window| window == TAG)?;
        Some(at + (found + TAG.len()) as u32)
    })
}
