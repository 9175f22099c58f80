//! Linux's own boot protocol (Documentation/arch/x86/boot.rst, 32-bit and 64-bit boot protocol):
//! the "zero page", 4096 bytes that tell the kernel where everything is.
//!
//! A bzImage brings a part of that page in its own header; an ELF kernel's is written from
//! nothing. [`boot_page`](crate::image::boot_page) has the offsets.

use std::os::unix::fs::FileExt;

use super::{Mode, Parameters, Start};
use crate::engine::kvm::KvmError;
use crate::engine::kvm::memory::PAGE;
use crate::image::boot_page::*;
use crate::image::{Format, Image};

/// Where the zero page stands.
pub const ZERO_PAGE: u64 = 0x7000;

/// Where a bzImage's 64-bit entry point is, from where its code is loaded, in bytes.
pub const ENTRY_64: u64 = 0x200;

/// How high an initrd may reach for a 64-bit kernel without a header to say so.
pub const INITRD_REACH_64: u64 = 0x8000_0000;

/// And for a 32-bit one (the value for kernels too old to say).
pub const INITRD_REACH_32: u64 = 0x3800_0000;

/// The most entries the page's table holds.
const E820_MAX: usize = 128;

/// A loader without a number of its own.
const UNDEFINED_LOADER: u8 = 0xff;

/// How Linux is aligned unless it is told otherwise, in bytes.
const ALIGNMENT: u32 = 16 << 20;

/// The version whose fields we write for a kernel without a header, 2.15.
const OUR_VERSION: u16 = 0x020f;

/// A start that finds the zero page.
pub fn start(mode: Mode, entry: u64) -> Start {
    Start {
        mode,
        entry,
        parameters: ZERO_PAGE,
    }
}

/// Writes a kernel's zero page.
///
/// # Errors
/// The kernel's header can't be read.
pub fn zero_page(image: &Image, parameters: &Parameters) -> Result<Vec<u8>, KvmError> {
    let mut page = Page::new();
    match image.format {
        Format::BzImage(_) => {
            let header = setup_header(image)?;
            page.put(SETUP_HEADER, &header);
        }
        Format::Elf(_) => {
            page.put(BOOT_FLAG, &0xaa55u16.to_le_bytes());
            page.put(HEADER_MAGIC, b"HdrS");
            page.put(VERSION, &OUR_VERSION.to_le_bytes());
            page.put(KERNEL_ALIGNMENT, &ALIGNMENT.to_le_bytes());
            page.put_low(CMDLINE_SIZE, parameters.command_line.1);
        }
    }
    page.put(TYPE_OF_LOADER, &[UNDEFINED_LOADER]);
    page.put_low(CMD_LINE_PTR, parameters.command_line.0);
    if let Some((address, len)) = parameters.initrd {
        page.put_low(RAMDISK_IMAGE, address);
        page.put_low(EXT_RAMDISK_IMAGE, address >> 32);
        page.put_low(RAMDISK_SIZE, len);
        page.put_low(EXT_RAMDISK_SIZE, len >> 32);
    }
    page.put(RSDP, &parameters.rsdp.to_le_bytes());

    let entries = parameters.map.entries().iter().take(E820_MAX);
    page.put(E820_ENTRIES, &[entries.len() as u8]);
    for (at, entry) in (E820_TABLE..).step_by(20).zip(entries) {
        page.put(at, &entry.start.to_le_bytes());
        page.put(at + 8, &entry.len.to_le_bytes());
        page.put(at + 16, &(entry.kind as u32).to_le_bytes());
    }
    Ok(page.0)
}

/// A bzImage's own part of the page: it ends where the jump over it, its second field, leads.
fn setup_header(image: &Image) -> Result<Vec<u8>, KvmError> {
    let kernel = &image.kernel;
    let read = |from: usize, to: usize| {
        let mut bytes = vec![0; to.saturating_sub(from)];
        kernel
            .file
            .read_exact_at(&mut bytes, from as u64)
            .map_err(|error| KvmError::load(kernel, error))?;
        Ok::<_, KvmError>(bytes)
    };
    let jump = read(JUMP, HEADER_MAGIC)?.first().copied().unwrap_or(0);
    let end = (HEADER_MAGIC + usize::from(jump)).min(SETUP_HEADER_LIMIT);
    read(SETUP_HEADER, end)
}

/// A page to write numbers into.
struct Page(Vec<u8>);

impl Page {
    fn new() -> Self {
        Self(vec![0; PAGE as usize])
    }

    /// What would not fit is left out; all our offsets do.
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(field) = self.0.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    }

    /// The lower 32 bits of a number whose upper ones go elsewhere, or are none.
    fn put_low(&mut self, at: usize, number: u64) {
        self.put(at, &(number as u32).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::e820::MemoryMap;
    use super::*;
    use crate::image::tests::file_of;
    use crate::image::{bzimage, elf};
    use crate::plan::memory::MemorySize;

    fn parameters() -> Parameters {
        Parameters {
            map: MemoryMap::of(MemorySize::from_mib(4096).unwrap()),
            command_line: (0x2_0000, 11),
            initrd: Some((0x1234_5000, 0x6789)),
            rsdp: 0xe_0000,
        }
    }

    fn u32_at(page: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(page[at..at + 4].try_into().unwrap())
    }

    fn u64_at(page: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(page[at..at + 8].try_into().unwrap())
    }

    fn check_common(page: &[u8]) {
        assert_eq!(page.len(), 4096);
        assert_eq!(page[0x210], 0xff);
        assert_eq!(u32_at(page, 0x228), 0x2_0000);
        assert_eq!(
            (u32_at(page, 0x218), u32_at(page, 0x21c)),
            (0x1234_5000, 0x6789)
        );
        assert_eq!(u64_at(page, 0x70), 0xe_0000);
        assert_eq!(page[0x1e8], 4);
        let last = 0x2d0 + 3 * 20;
        assert_eq!(
            (
                u64_at(page, last),
                u64_at(page, last + 8),
                u32_at(page, last + 16)
            ),
            (4 << 30, 1 << 30, 1)
        );
        // Linux takes a page with this byte set for one that was never cleared.
        assert_eq!(page[0x1ef], 0);
    }

    #[test]
    fn a_bzimages_header_is_kept_and_completed() {
        let mut bytes = bzimage::tests::bytes();
        bytes[JUMP] = 0x66;
        bytes[0x264..0x268].copy_from_slice(&[0xab; 4]);
        let image = Image {
            kernel: file_of(&bytes),
            format: bzimage::tests::format(),
            initrd: None,
        };
        let page = zero_page(&image, &parameters()).unwrap();
        check_common(&page);
        assert_eq!(&page[0x202..0x206], b"HdrS");
        assert_eq!(page[0x206..0x208], bytes[0x206..0x208]);
        assert_eq!(u32_at(&page, 0x264), 0xabab_abab);
        assert_eq!(u32_at(&page, 0x268), 0);
    }

    #[test]
    fn a_header_of_any_length_stays_in_its_part_of_the_page() {
        for jump in 0..=255 {
            let mut bytes = vec![0x55; 4096];
            bytes[JUMP] = jump;
            let image = Image {
                kernel: file_of(&bytes),
                format: bzimage::tests::format(),
                initrd: None,
            };
            let page = zero_page(&image, &parameters()).unwrap();
            assert_eq!(u32_at(&page, 0x290), 0);
            check_common(&page);
        }
    }

    #[test]
    fn an_elf_kernel_gets_a_header_of_ours() {
        let image = Image {
            kernel: file_of(b"k"),
            format: Format::Elf(elf::ElfImage {
                is_64: true,
                entry: 0,
                segments: Vec::new(),
                pvh_entry: None,
                is_lguest: false,
            }),
            initrd: None,
        };
        let page = zero_page(&image, &parameters()).unwrap();
        check_common(&page);
        assert_eq!(
            (&page[0x1fe..0x200], &page[0x202..0x206]),
            (&[0x55, 0xaa][..], &b"HdrS"[..])
        );
        assert_eq!(u32_at(&page, 0x238), 11);
    }
}
