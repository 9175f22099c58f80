//! A file's bytes in guest memory: mapped where pages of file and memory fit, so that all guests that
//! start from it share them, and read where they do not.

use std::os::unix::fs::FileExt;

use super::BootError;
use crate::engine::lguest::memory::{GuestMemory, PAGE, Sharing};
use crate::image::ImageFile;

/// How much is read in one go, in bytes.
const STEP: u32 = 1 << 16;

/// Puts `len` bytes of `file` from `offset` on at guest-physical `at`.
///
/// # Errors
/// The file can't be read, or it would not be in memory.
pub fn load(
    memory: &mut GuestMemory,
    at: u32,
    file: &ImageFile,
    offset: u64,
    len: u32,
) -> Result<(), BootError> {
    // Whole pages in the middle, if the file's and the memory's are the same.
    let before = at.wrapping_neg() % PAGE;
    let pages = len.saturating_sub(before) & !(PAGE - 1);
    let start = offset.saturating_add(before.into());
    let mapped = pages > 0
        && start % u64::from(PAGE) == 0
        // A host whose pages are larger refuses, and then it is read.
        && memory
            .map_file(at.saturating_add(before), &file.file, start, pages, Sharing::Private)
            .is_ok();
    if !mapped {
        return read(memory, at, file, offset, len);
    }
    read(memory, at, file, offset, before)?;
    let done = before + pages;
    read(
        memory,
        at + done,
        file,
        offset + u64::from(done),
        len - done,
    )
}

fn read(
    memory: &GuestMemory,
    at: u32,
    file: &ImageFile,
    offset: u64,
    len: u32,
) -> Result<(), BootError> {
    let mut bytes = vec![0; STEP.min(len) as usize];
    let mut done = 0;
    while done < len {
        let piece = &mut bytes[..STEP.min(len - done) as usize];
        file.file
            .read_exact_at(piece, offset.saturating_add(done.into()))
            .map_err(|error| BootError::Load {
                path: file.path.clone(),
                error,
            })?;
        memory.write_bytes(at.saturating_add(done), piece)?;
        done += piece.len() as u32;
    }
    Ok(())
}
