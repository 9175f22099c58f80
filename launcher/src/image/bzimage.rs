//! bzImage: Linux's own packing, with the header of the x86 boot protocol
//! (Documentation/arch/x86/boot.rst; [`boot_page`](super::boot_page) has the offsets).
//!
//! The file is a boot sector and `setup_sects` more sectors of real-mode code, then the
//! protected-mode code, which unpacks the kernel proper.

use super::boot_page::*;
use super::{ImageError, ImageFile};

/// Up to here the header may reach, from the start of the file, in bytes (`init_size` ends at
/// 0x264, later fields are of no use to us).
pub(super) const HEADER_END: u64 = 0x264;

/// `LOADFLAGS`: the protected-mode code belongs at 1 MiB (a bzImage), not at 64 KiB (a zImage).
const LOADED_HIGH: u8 = 1;

/// `XLOADFLAGS`: there is a 64-bit entry point, 0x200 behind the 32-bit one.
const KERNEL_64: u16 = 1;

/// The highest byte of an initrd before the header said so (protocol 2.02 and older).
const OLD_INITRD_ADDR_MAX: u32 = 0x37ff_ffff;

/// Where the protected-mode code goes, in bytes.
const LOAD_ADDRESS: u64 = 1 << 20;

/// The command line's limit before the header said one (protocol 2.05 and older).
const OLD_CMDLINE_LIMIT: u32 = 255;

/// What the header of a bzImage says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BzImage {
    /// Protocol version, as 0x020f for 2.15.
    pub version: u16,
    /// Where the protected-mode code starts in the file, in bytes.
    pub code_offset: u64,
    /// Its length, in bytes.
    pub code_len: u64,
    /// The longest command line, in bytes without the final NUL.
    pub cmdline_limit: u32,
    /// How much memory the kernel needs from where it is loaded until it has found its feet, in
    /// bytes (`init_size`, protocol 2.10). 0 = not said.
    pub init_size: u32,
    /// Where that memory begins: where it is loaded, aligned, or where it prefers to be.
    pub run_address: u64,
    /// Whether it may be entered in 64-bit mode.
    pub entry_64: bool,
    /// The highest address its initrd may reach.
    pub initrd_addr_max: u32,
}

/// Whether this is the head of a kernel with a boot protocol header (2.00 and later).
pub(super) fn is_one(head: &[u8]) -> bool {
    head.get(BOOT_FLAG..BOOT_FLAG + 2) == Some(&[0x55, 0xaa])
        && head.get(HEADER_MAGIC..HEADER_MAGIC + 4) == Some(b"HdrS")
}

impl BzImage {
    pub(super) fn read(kernel: &ImageFile, head: &[u8]) -> Result<Self, ImageError> {
        kernel.require("its header", Some(HEADER_END))?;
        let u8_at = |at: usize| head.get(at).copied().unwrap_or(0);
        let u16_at = |at| u16::from_le_bytes([u8_at(at), u8_at(at + 1)]);
        let u32_at = |at| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;

        let version = u16_at(VERSION);
        if u8_at(LOADFLAGS) & LOADED_HIGH == 0 {
            return Err(kernel.malformed("it says it is a zImage, a form Linux gave up long ago, or its header is overwritten"));
        }
        // 0 means 4, says the protocol.
        let setup_sects = match u8_at(SETUP_SECTS) {
            0 => 4,
            n => u64::from(n),
        };
        let code_offset = (setup_sects + 1) * 512;
        kernel.require("its setup code", Some(code_offset))?;
        // In units of 16 bytes; before 2.04 only the lower half was the field's.
        let paragraphs = if version >= 0x0204 {
            u32_at(SYSSIZE)
        } else {
            u32::from(u16_at(SYSSIZE))
        };
        if paragraphs == 0 {
            return Err(kernel.malformed("its header says it holds no code"));
        }
        let code_len = u64::from(paragraphs) * 16;
        // The last paragraph may be a partial one: old build tools rounded up without filling up.
        kernel.require("its code", Some(code_offset + code_len - 15))?;
        let code_len = code_len.min(kernel.size - code_offset);
        let since = |release: u16, value: u32| if version >= release { value } else { 0 };

        // Protocol 2.05 and 2.10; the kernel's own first steps follow the same rule.
        let alignment = match (u8_at(RELOCATABLE), u32_at(KERNEL_ALIGNMENT)) {
            (1.., alignment) if version >= 0x0205 && alignment.is_power_of_two() => alignment,
            _ => 1,
        };
        let preferred = u64::from(since(0x020a, u32_at(PREF_ADDRESS)))
            | u64::from(since(0x020a, u32_at(PREF_ADDRESS + 4))) << 32;
        let run_address = LOAD_ADDRESS
            .next_multiple_of(alignment.into())
            .max(preferred);
        Ok(Self {
            version,
            code_offset,
            code_len,
            cmdline_limit: match since(0x0206, u32_at(CMDLINE_SIZE)) {
                0 => OLD_CMDLINE_LIMIT,
                limit => limit,
            },
            init_size: since(0x020a, u32_at(INIT_SIZE)),
            run_address,
            entry_64: version >= 0x020c && u16_at(XLOADFLAGS) & KERNEL_64 != 0,
            initrd_addr_max: match since(0x0203, u32_at(INITRD_ADDR_MAX)) {
                0 => OLD_INITRD_ADDR_MAX,
                max => max,
            },
        })
    }

    /// The first byte of guest memory the kernel does not need to unpack itself.
    pub fn memory_end(&self) -> u64 {
        let unpacked = self.run_address.saturating_add(self.init_size.into());
        unpacked.max(LOAD_ADDRESS + self.code_len)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::image::Format;
    use crate::image::tests::file_of;

    /// A bzImage of protocol 2.15: 2 sectors of setup, 64 paragraphs of code.
    pub(crate) fn bytes() -> Vec<u8> {
        let mut bytes = vec![0; 3 * 512 + 64 * 16];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(SETUP_SECTS, &[2]);
        put(SYSSIZE, &64u32.to_le_bytes());
        put(BOOT_FLAG, &[0x55, 0xaa]);
        put(HEADER_MAGIC, b"HdrS");
        put(VERSION, &0x020fu16.to_le_bytes());
        put(LOADFLAGS, &[LOADED_HIGH]);
        put(INITRD_ADDR_MAX, &0x7fff_ffffu32.to_le_bytes());
        put(XLOADFLAGS, &KERNEL_64.to_le_bytes());
        put(CMDLINE_SIZE, &2047u32.to_le_bytes());
        put(INIT_SIZE, &(8u32 << 20).to_le_bytes());
        bytes
    }

    pub(crate) fn format() -> Format {
        Format::read(&file_of(&bytes())).unwrap()
    }

    #[test]
    fn a_whole_one_is_read() {
        let Format::BzImage(image) = format() else {
            panic!()
        };
        assert_eq!((image.code_offset, image.code_len), (1536, 1024));
        assert_eq!((image.cmdline_limit, image.memory_end()), (2047, 9 << 20));
    }

    #[test]
    fn it_needs_memory_where_it_prefers_to_run() {
        let mut relocatable = bytes();
        relocatable[RELOCATABLE] = 1;
        relocatable[KERNEL_ALIGNMENT..][..4].copy_from_slice(&(2u32 << 20).to_le_bytes());
        let end = |bytes: &[u8]| match Format::read(&file_of(bytes)).unwrap() {
            Format::BzImage(image) => image.memory_end(),
            other => panic!("{other:?}"),
        };
        assert_eq!(end(&relocatable), 10 << 20);
        relocatable[PREF_ADDRESS..][..8].copy_from_slice(&(16u64 << 20).to_le_bytes());
        assert_eq!(end(&relocatable), 24 << 20);
        relocatable[PREF_ADDRESS..][..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(end(&relocatable), u64::MAX);
    }

    #[test]
    fn a_truncated_one_is_refused_wherever_it_ends() {
        let whole = bytes();
        for len in 0x206..whole.len() - 15 {
            let error = Format::read(&file_of(&whole[..len])).unwrap_err();
            assert!(
                matches!(error, ImageError::Truncated { .. }),
                "{len}: {error}"
            );
        }
    }

    #[test]
    fn any_header_gives_an_answer_and_no_panic() {
        let whole = bytes();
        for at in SETUP_SECTS..HEADER_END as usize {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                let _ = Format::read(&file_of(&damaged));
            }
        }
    }

    #[test]
    fn old_headers_are_read_by_their_own_rules() {
        let mut old = bytes();
        old[VERSION..VERSION + 2].copy_from_slice(&0x0203u16.to_le_bytes());
        // Then the upper half of syssize was another field.
        old[SYSSIZE + 2] = 9;
        let Format::BzImage(image) = Format::read(&file_of(&old)).unwrap() else {
            panic!()
        };
        assert_eq!(
            (image.code_len, image.cmdline_limit, image.init_size),
            (1024, 255, 0)
        );
    }
}
