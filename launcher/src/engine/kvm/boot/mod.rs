//! From an [`Image`] to a guest that can start: the kernel, its initrd and its command line stand in
//! memory, beside the page that tells the kernel where. What remains is the first instruction, a
//! [`Start`].
//!
//! | image | way in |
//! |---|---|
//! | bzImage with a 64-bit entry point (all 64-bit kernels since 3.8) | [`linux`], in 64-bit mode |
//! | bzImage without | [`linux`], in 32-bit protected mode |
//! | ELF with a PVH note | [`pvh`] |
//! | ELF of 64 bits, of 32 bits | [`linux`], in the mode of its bits |
//!
//! ```text
//! 0x0500    descriptor table          0x20000  command line
//! 0x6000    PVH start info            0xe0000  ACPI tables
//! 0x7000    zero page                 1 MiB    kernel, or wherever an ELF file says
//! 0x8ff0    stack, growing down       ...
//! 0x9000    page tables (6 pages)     top      initrd, as high as the kernel reaches
//! ```

pub mod e820;
pub mod linux;
pub mod pvh;

use std::io;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::KvmError;
use super::memory::{PAGE, map_file, read_file};
use crate::image::elf::ElfImage;
use crate::image::{Format, Image, ImageFile};
use crate::plan::arguments::KernelArguments;
use crate::plan::memory::MemorySize;
use e820::MemoryMap;

/// The stack a kernel begins with. It soon has one of its own.
pub const STACK: u64 = 0x8ff0;

/// Where the command line stands.
const COMMAND_LINE: u64 = 0x2_0000;

/// Where it ends at the latest: below the memory a BIOS keeps for itself.
const COMMAND_LINE_END: u64 = 0x9_0000;

/// Where kernels begin. Below are our own tables.
const KERNEL: u64 = 1 << 20;

/// A guest's first instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The processor's mode.
    pub mode: Mode,
    /// The instruction's address.
    pub entry: u64,
    /// What the kernel finds where [`Mode`] says: the address of its parameters.
    pub parameters: u64,
}

/// The state of the processor that a kernel expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Linux's 64-bit boot protocol: long mode, memory mapped one to one, parameters in RSI.
    Linux64,
    /// Linux's 32-bit boot protocol: protected mode, no paging, parameters in ESI.
    Linux32,
    /// PVH: protected mode, no paging, parameters in EBX.
    Pvh,
}

/// What a kernel is told, whatever the form.
#[derive(Debug, Clone)]
pub struct Parameters {
    /// What is where in its memory.
    pub map: MemoryMap,
    /// Where its command line stands, and its length in bytes without the final NUL.
    pub command_line: (u64, u64),
    /// Where its initrd stands, and its length in bytes.
    pub initrd: Option<(u64, u64)>,
    /// Where the ACPI tables begin.
    pub rsdp: u64,
}

/// Loads everything, and tells where to begin.
///
/// # Errors
/// A file cannot be read, or something does not fit where it must stand.
pub fn load(
    image: &Image,
    memory: &GuestMemoryMmap,
    size: MemorySize,
    arguments: &KernelArguments,
    rsdp: u64,
) -> Result<Start, KvmError> {
    let kernel_end = load_kernel(image, memory)?;
    let initrd = match &image.initrd {
        Some(initrd) => Some(load_initrd(image, initrd, memory, size, kernel_end)?),
        None => None,
    };
    let write = |address, bytes: &[u8]| {
        memory
            .write_slice(bytes, GuestAddress(address))
            .map_err(|_| KvmError::load(&image.kernel, no_room()))
    };

    let line = arguments.as_os_str().as_encoded_bytes();
    if line.len() as u64 >= COMMAND_LINE_END - COMMAND_LINE {
        return Err(KvmError::load(&image.kernel, no_room()));
    }
    write(COMMAND_LINE, line)?;
    write(COMMAND_LINE + line.len() as u64, &[0])?;

    let parameters = Parameters {
        map: MemoryMap::of(size),
        command_line: (COMMAND_LINE, line.len() as u64),
        initrd,
        rsdp,
    };
    let start = match &image.format {
        Format::BzImage(bzimage) => {
            write(linux::ZERO_PAGE, &linux::zero_page(image, &parameters)?)?;
            if bzimage.entry_64 {
                linux::start(Mode::Linux64, KERNEL + linux::ENTRY_64)
            } else {
                linux::start(Mode::Linux32, KERNEL)
            }
        }
        Format::Elf(elf) => match elf.pvh_entry {
            Some(entry) => {
                write(pvh::START_INFO, &pvh::start_info(&parameters))?;
                Start {
                    mode: Mode::Pvh,
                    entry: entry.into(),
                    parameters: pvh::START_INFO,
                }
            }
            None => {
                write(linux::ZERO_PAGE, &linux::zero_page(image, &parameters)?)?;
                let mode = if elf.is_64 {
                    Mode::Linux64
                } else {
                    Mode::Linux32
                };
                linux::start(mode, physical_entry(elf, &image.kernel)?)
            }
        },
    };
    Ok(start)
}

/// Puts the kernel in its place. Gives the first byte it does not need.
fn load_kernel(image: &Image, memory: &GuestMemoryMmap) -> Result<u64, KvmError> {
    let kernel = &image.kernel;
    let failed = |error| KvmError::load(kernel, error);
    match &image.format {
        Format::BzImage(bzimage) => {
            let (offset, len) = (bzimage.code_offset, bzimage.code_len);
            read_file(memory, KERNEL, &kernel.file, offset, len).map_err(failed)?;
            Ok(bzimage.memory_end())
        }
        Format::Elf(elf) => {
            for segment in &elf.segments {
                if segment.physical < KERNEL {
                    let why = "a part of it belongs below 1 MiB, where a PC has its own tables";
                    return Err(KvmError::load(kernel, io::Error::other(why)));
                }
                let (offset, len) = (segment.offset, segment.file_len);
                map_file(memory, segment.physical, &kernel.file, offset, len).map_err(failed)?;
            }
            Ok(elf.memory_end())
        }
    }
}

/// Puts the initrd as high as the kernel can reach it. Gives its address and length.
fn load_initrd(
    image: &Image,
    initrd: &ImageFile,
    memory: &GuestMemoryMmap,
    size: MemorySize,
    kernel_end: u64,
) -> Result<(u64, u64), KvmError> {
    let reach = match &image.format {
        Format::BzImage(bzimage) => u64::from(bzimage.initrd_addr_max) + 1,
        Format::Elf(elf) if elf.is_64 => linux::INITRD_REACH_64,
        Format::Elf(_) => linux::INITRD_REACH_32,
    };
    let top = reach.min(MemoryMap::of(size).low_end());
    let address = top
        .checked_sub(initrd.size)
        .map(|address| address & !(PAGE - 1))
        .filter(|&address| address >= kernel_end)
        .ok_or_else(|| KvmError::load(initrd, no_room()))?;
    read_file(memory, address, &initrd.file, 0, initrd.size)
        .map_err(|error| KvmError::load(initrd, error))?;
    Ok((address, initrd.size))
}

/// Where an ELF file's entry point is in physical memory. Linux gives that; others give a virtual
/// address, which a segment translates.
fn physical_entry(elf: &ElfImage, kernel: &ImageFile) -> Result<u64, KvmError> {
    let inside = |start: u64, len: u64| elf.entry.checked_sub(start).filter(|&offset| offset < len);
    let physical = |s: &crate::image::elf::Segment| inside(s.physical, s.memory_len);
    if elf.segments.iter().any(|s| physical(s).is_some()) {
        return Ok(elf.entry);
    }
    elf.segments
        .iter()
        .find_map(|s| Some(s.physical + inside(s.virtual_address, s.memory_len)?))
        .ok_or_else(|| {
            KvmError::load(
                kernel,
                io::Error::other("its entry point is in no part of it"),
            )
        })
}

fn no_room() -> io::Error {
    io::Error::other("the guest has no room for it; give it more memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::elf::Segment;
    use crate::image::tests::file_of;

    fn elf(entry: u64) -> ElfImage {
        let segment = |physical, virtual_address| Segment {
            offset: 0,
            file_len: 0x1000,
            physical,
            virtual_address,
            memory_len: 0x2000,
        };
        ElfImage {
            is_64: true,
            entry,
            segments: vec![
                segment(0x20_0000, 0xffff_ffff_8020_0000),
                segment(0x10_0000, 0xffff_ffff_8010_0000),
            ],
            pvh_entry: None,
            is_lguest: false,
        }
    }

    #[test]
    fn an_entry_point_may_be_physical_or_virtual_and_anywhere_in_the_kernel() {
        for (entry, physical) in [
            (0x10_0000, Some(0x10_0000)),
            (0x20_1fff, Some(0x20_1fff)),
            (0xffff_ffff_8010_0040, Some(0x10_0040)),
            (0xffff_ffff_8020_1000, Some(0x20_1000)),
            (0x10_2000, None),
            (0, None),
            (u64::MAX, None),
        ] {
            let found = physical_entry(&elf(entry), &file_of(b"k")).ok();
            assert_eq!(found, physical, "{entry:x}");
        }
    }

    #[test]
    fn an_initrd_stands_high_but_within_reach_and_never_in_the_kernel() {
        let format = crate::image::bzimage::tests::format();
        let image = |bytes: usize| Image {
            kernel: file_of(b"k"),
            format: format.clone(),
            initrd: Some(file_of(&vec![7; bytes])),
        };
        let size = MemorySize::from_mib(16).unwrap();
        let memory = super::super::memory::allocate(size).unwrap();
        let load = |image: &Image| {
            let initrd = image.initrd.as_ref().unwrap();
            load_initrd(image, initrd, &memory, size, 9 << 20)
        };
        let (address, len) = load(&image(5000)).unwrap();
        assert_eq!((address, len), ((16 << 20) - 2 * PAGE, 5000));
        let last: u8 = memory.read_obj(GuestAddress(address + 4999)).unwrap();
        assert_eq!(last, 7);
        let error = load(&image((7 << 20) + 1)).unwrap_err().to_string();
        assert!(error.contains("more memory"), "{error}");
    }
}
