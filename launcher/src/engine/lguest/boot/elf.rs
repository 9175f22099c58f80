//! A `vmlinux`: each segment goes to its physical address, and what is virtual about it is one number for
//! all, the page offset.

use super::{BootError, Kernel, file};
use crate::engine::lguest::memory::{GuestMemory, PAGE};
use crate::image::ImageFile;
use crate::image::elf::ElfImage;

/// The first 4 MiB that are not the guest's.
const SWITCHER: i64 = 0xffc0_0000;
/// What one entry of a page directory maps, in bytes.
const DIRECTORY_ENTRY: i64 = 4 << 20;
/// Below are the boot page and the arguments.
const FREE_FROM: u64 = 2 * PAGE as u64;

/// Loads a kernel that must end below `room`.
pub(super) fn load(
    memory: &mut GuestMemory,
    kernel: &ImageFile,
    elf: &ElfImage,
    room: u32,
    no_room: impl Fn(u64) -> BootError,
) -> Result<Kernel, BootError> {
    let path = || kernel.path.clone();
    if elf.is_64 {
        return Err(BootError::SixtyFour(path()));
    }
    // The addresses of a 32-bit file are of 32 bits.
    let difference = |segment: &crate::image::elf::Segment| {
        segment.virtual_address as i64 - segment.physical as i64
    };
    let mut offsets = elf.segments.iter().map(difference);
    let offset = offsets.next().unwrap_or(0);
    if let Some(other) = offsets.find(|other| *other != offset) {
        return Err(BootError::TwoOffsets {
            path: path(),
            first: offset,
            other,
        });
    }
    if !(0..SWITCHER).contains(&offset) || offset % DIRECTORY_ENTRY != 0 {
        return Err(BootError::BadOffset {
            path: path(),
            offset,
        });
    }
    let mut loaded = Kernel {
        start: u32::MAX,
        end: 0,
        page_offset: offset as u32,
    };
    for segment in &elf.segments {
        if segment.physical < FREE_FROM {
            return Err(BootError::OverBootPage {
                path: path(),
                at: segment.physical,
            });
        }
        let end = segment.physical.saturating_add(segment.memory_len);
        if end > room.into() {
            return Err(no_room(end));
        }
        // All of it is below `room`.
        let (at, len) = (segment.physical as u32, segment.file_len as u32);
        file::load(memory, at, kernel, segment.offset, len)?;
        loaded.start = loaded.start.min(at);
        loaded.end = loaded.end.max(at + len);
    }
    Ok(loaded)
}
