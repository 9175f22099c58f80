//! What is on a disk, as the device needs it: a file's bytes ([`super::raw`]), or what is to be seen
//! through some layers of images ([`super::layers`]).

use std::fs::File;
use std::io;

use super::ring::Operation;
use crate::engine::kvm::virtio::chain::Buffers;

/// What is on a disk. All that is asked of it is inside the disk.
pub trait Content: Send {
    /// Reads what `buffers` have room for.
    ///
    /// # Errors
    /// The kernel's reason.
    fn read(&mut self, at: u64, buffers: Buffers<'_>) -> io::Result<()>;

    /// Writes all of `buffers`.
    ///
    /// # Errors
    /// The kernel's reason.
    fn write(&mut self, at: u64, buffers: &mut Buffers<'_>) -> io::Result<()>;

    /// Has everything written on the medium.
    ///
    /// # Errors
    /// The kernel's reason.
    fn flush(&mut self) -> io::Result<()>;

    /// What is there is no longer of use. A wish: what can't be given up stays.
    ///
    /// # Errors
    /// The kernel's reason.
    fn discard(&mut self, at: u64, len: u64) -> io::Result<()>;

    /// Has zeroes read there. With `unmap`, the room for them may be given up.
    ///
    /// # Errors
    /// The kernel's reason.
    fn zero(&mut self, at: u64, len: u64, unmap: bool) -> io::Result<()>;

    /// The file that does this with these buffers without our help, if one does.
    fn passes_on(&self, operation: Operation, buffers: &Buffers<'_>) -> Option<&File> {
        let _ = (operation, buffers);
        None
    }
}
