//! From files to a guest that can be entered: the seed's own way to start a kernel, without BIOS, real
//! mode or identity map.
//!
//! | where (guest-physical) | what | made by |
//! |---|---|---|
//! | 0 | the boot page: memory map, pointers to the rest | [`page`] |
//! | 4096 | the kernel's arguments | [`page`] |
//! | where it is linked to be, or 1 MiB | the kernel | [`elf`], [`bzimage`] |
//! | below the initrd | a page directory, and below that the tables that map all memory | [`tables`] |
//! | top of memory | the initrd | [`file`] |
//!
//! The kernel is entered right behind a [`tag`] in its code. Files are mapped rather than read where
//! their pages fit ([`file`]), so guests of one kernel share it until they write.

pub mod bzimage;
pub mod elf;
pub mod file;
pub mod page;
pub mod tables;
pub mod tag;

use std::io;
use std::path::PathBuf;

use super::memory::{GuestMemory, OutOfBounds, PAGE};
use crate::error::reason;
use crate::image::{Format, Image};
use crate::plan::memory::MemorySize;

/// Of the 4 GiB above the page offset the kernel needs so much for other things than a map of its memory
/// (Linux 2.6.23, i386: 128 MiB of `vmalloc` and fixed mappings), and so much is the host's.
const NOT_FOR_MEMORY: u64 = (128 + 4) << 20;

/// The longest command line, in bytes without the final NUL: the guest copies 2048 bytes.
const MAX_ARGUMENTS: usize = 2047;

/// How much is looked at in one go when a kernel is searched, in bytes.
const SCAN_STEP: u32 = 1 << 20;

/// What the host must know to enter the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The page directory, guest-physical.
    pub directory: u32,
    /// The first instruction, guest-virtual.
    pub entry: u32,
    /// Where guest-physical 0 is in the guest's address space.
    pub page_offset: u32,
}

/// A kernel in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// Its first byte, guest-physical.
    pub start: u32,
    /// Behind the last one that the file gave.
    pub end: u32,
    /// Where guest-physical 0 is in its address space.
    pub page_offset: u32,
}

/// Why an image can't be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Nothing in it says it could be a guest.
    #[error("The kernel {} is no lguest guest: it has no GenuineLguest in it (CONFIG_LGUEST_GUEST, or CONFIG_LGUEST)", .0.display())]
    NotAGuest(PathBuf),
    /// 64 bits.
    #[error("The kernel {} is one of 64 bits, and lguest guests are of 32; build it for i386", .0.display())]
    SixtyFour(PathBuf),
    /// Its segments disagree about where they are.
    #[error(
        "The kernel {} can't be an lguest guest: one segment is {first:#x} above its physical address and another {other:#x}", .path.display()
    )]
    TwoOffsets {
        /// The kernel.
        path: PathBuf,
        /// By how much the first is above.
        first: i64,
        /// By how much another is.
        other: i64,
    },
    /// A page offset the tables can't express.
    #[error("The kernel {} can't be an lguest guest: its page offset {offset:#x} is not a multiple of 4 MiB below 0xffc00000", .path.display())]
    BadOffset {
        /// The kernel.
        path: PathBuf,
        /// What it is.
        offset: i64,
    },
    /// It wants to be where its boot parameters are.
    #[error("The kernel {} has a segment at {at:#x}, where its boot parameters must go (below 0x2000)", .path.display())]
    OverBootPage {
        /// The kernel.
        path: PathBuf,
        /// Where the segment is.
        at: u64,
    },
    /// No kernel is packed in it.
    #[error("The kernel {} can't be unpacked: there is no gzip header in it; lguest needs a bzImage packed by gzip (CONFIG_KERNEL_GZIP)", .0.display())]
    NoGzip(PathBuf),
    /// What is packed in it can't be unpacked.
    #[error("The kernel {} can't be unpacked: {}", .path.display(), reason(.error))]
    Unpack {
        /// The kernel.
        path: PathBuf,
        /// What is wrong.
        error: io::Error,
    },
    /// The statistics show nothing.
    #[error("The kernel {} does not show its page offset in its code; give its vmlinux instead", .0.display())]
    NoOffset(PathBuf),
    /// Kernel, tables and initrd are more than there is.
    #[error(
        "A guest of {memory} is too small: its kernel ends at {needs} KiB, and above {room} KiB its page tables and the initrd begin; give it more memory"
    )]
    NoRoom {
        /// What the guest has.
        memory: MemorySize,
        /// Where the kernel ends.
        needs: u64,
        /// Where the rest begins.
        room: u64,
    },
    /// The initrd is larger than memory.
    #[error("The initrd {} ({size} MiB) does not fit in the guest's {memory}; give the guest more memory", .path.display())]
    InitrdTooLarge {
        /// The initrd.
        path: PathBuf,
        /// Its size in MiB.
        size: u64,
        /// What the guest has.
        memory: MemorySize,
    },
    /// More than such a guest can map.
    #[error(
        "An lguest guest with this kernel can use {most} MiB of memory, and it is to have {memory}; give it less"
    )]
    TooMuchMemory {
        /// What it could have, in MiB.
        most: u64,
        /// What it is to have.
        memory: MemorySize,
    },
    /// It would not read it all.
    #[error(
        "The kernel's arguments are {0} bytes, and an lguest guest reads {MAX_ARGUMENTS} at most; shorten them"
    )]
    ArgumentsTooLong(usize),
    /// A file that can't be read any more.
    #[error("Cannot load {}: {}", .path.display(), reason(.error))]
    Load {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        error: io::Error,
    },
    /// A bug of ours, or a file that changes under us.
    #[error("Cannot load the guest: {0}")]
    Memory(#[from] OutOfBounds),
}

/// Where what goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    /// Where RAM ends.
    ram: u32,
    initrd: u32,
    /// Bytes of it, in whole pages.
    initrd_len: u32,
    tables: tables::Place,
}

impl Layout {
    fn new(image: &Image, memory: MemorySize) -> Result<Self, BootError> {
        let ram = ram(memory, 0)?;
        let too_large = |file: &crate::image::ImageFile| BootError::InitrdTooLarge {
            path: file.path.clone(),
            size: file.size.div_ceil(1 << 20),
            memory,
        };
        let initrd_len = match &image.initrd {
            None => 0,
            Some(file) => u32::try_from(file.size)
                .ok()
                .and_then(|size| size.checked_next_multiple_of(PAGE))
                .filter(|size| *size < ram)
                .ok_or_else(|| too_large(file))?,
        };
        let initrd = ram - initrd_len;
        let tables = match (tables::Place::below(initrd, ram), &image.initrd) {
            (Some(place), _) => place,
            (None, Some(file)) => return Err(too_large(file)),
            (None, None) => {
                return Err(BootError::NoRoom {
                    memory,
                    needs: 0,
                    room: 0,
                });
            }
        };
        Ok(Self {
            ram,
            initrd,
            initrd_len,
            tables,
        })
    }
}

/// The guest's memory in bytes, if a guest with this page offset can map so much.
///
/// # Errors
/// It can't.
pub fn ram(memory: MemorySize, page_offset: u32) -> Result<u32, BootError> {
    let most = ((1 << 32) - u64::from(page_offset)).saturating_sub(NOT_FOR_MEMORY);
    match u32::try_from(memory.bytes()) {
        Ok(ram) if u64::from(ram) <= most => Ok(ram),
        _ => Err(BootError::TooMuchMemory {
            most: most >> 20,
            memory,
        }),
    }
}

/// Loads a guest of this much memory into `memory`, which holds as much and the pages of devices behind it.
///
/// # Errors
/// What is wrong with the image, or does not fit.
pub fn load(
    memory: &mut GuestMemory,
    image: &Image,
    size: MemorySize,
    arguments: &[u8],
) -> Result<Start, BootError> {
    if arguments.len() > MAX_ARGUMENTS {
        return Err(BootError::ArgumentsTooLong(arguments.len()));
    }
    let layout = Layout::new(image, size)?;
    let room = layout.tables.start();
    let no_room = |needs: u64| BootError::NoRoom {
        memory: size,
        needs: needs >> 10,
        room: u64::from(room) >> 10,
    };
    let kernel = match &image.format {
        Format::Elf(elf) => elf::load(memory, &image.kernel, elf, room, no_room)?,
        Format::BzImage(_) => bzimage::load(memory, &image.kernel, room, no_room)?,
    };
    ram(size, kernel.page_offset)?;
    let entry = tag::find(memory, &kernel)?
        .ok_or_else(|| BootError::NotAGuest(image.kernel.path.clone()))?;
    let mut initrd = None;
    if let Some(from) = &image.initrd {
        file::load(memory, layout.initrd, from, 0, from.size as u32)?;
        initrd = Some((layout.initrd, layout.initrd_len));
    }
    let directory = layout.tables.write(memory, kernel.page_offset)?;
    page::write(memory, layout.ram, initrd, arguments)?;
    Ok(Start {
        directory,
        entry: entry.wrapping_add(kernel.page_offset),
        page_offset: kernel.page_offset,
    })
}

/// Calls `look` with all of `from..to`, in pieces that overlap by `overlap` bytes, and the address of each,
/// until it has found something.
fn scan<T>(
    memory: &GuestMemory,
    from: u32,
    to: u32,
    overlap: u32,
    mut look: impl FnMut(u32, &[u8]) -> Option<T>,
) -> Result<Option<T>, OutOfBounds> {
    let mut bytes = Vec::new();
    let mut at = from;
    while at < to {
        let len = (to - at).min(SCAN_STEP + overlap);
        bytes.resize(len as usize, 0);
        memory.read_bytes(at, &mut bytes)?;
        if let Some(found) = look(at, &bytes) {
            return Ok(Some(found));
        }
        at = at.saturating_add(SCAN_STEP);
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
