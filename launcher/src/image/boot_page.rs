//! Where fields are in Linux's boot page (`struct boot_params`, "zero page"), in bytes: the offsets and
//! names of Documentation/arch/x86/boot.rst and zero-page.rst.
//!
//! A bzImage has the part from `SETUP_SECTS` on at the same offsets of its file.

#![allow(missing_docs)] // The names are the kernel's, and its documentation says what they hold.

pub const RSDP: usize = 0x070;
pub const EXT_RAMDISK_IMAGE: usize = 0x0c0;
pub const EXT_RAMDISK_SIZE: usize = 0x0c4;
pub const E820_ENTRIES: usize = 0x1e8;
pub const SETUP_HEADER: usize = 0x1f1;
pub const SETUP_SECTS: usize = 0x1f1;
pub const SYSSIZE: usize = 0x1f4;
pub const BOOT_FLAG: usize = 0x1fe;
pub const JUMP: usize = 0x201;
pub const HEADER_MAGIC: usize = 0x202;
pub const VERSION: usize = 0x206;
pub const TYPE_OF_LOADER: usize = 0x210;
pub const LOADFLAGS: usize = 0x211;
pub const RAMDISK_IMAGE: usize = 0x218;
pub const RAMDISK_SIZE: usize = 0x21c;
pub const CMD_LINE_PTR: usize = 0x228;
pub const INITRD_ADDR_MAX: usize = 0x22c;
pub const KERNEL_ALIGNMENT: usize = 0x230;
pub const RELOCATABLE: usize = 0x234;
pub const XLOADFLAGS: usize = 0x236;
pub const CMDLINE_SIZE: usize = 0x238;
pub const HARDWARE_SUBARCH: usize = 0x23c;
pub const PREF_ADDRESS: usize = 0x258;
pub const INIT_SIZE: usize = 0x260;
/// The latest a setup header may end: the next thing begins there.
pub const SETUP_HEADER_LIMIT: usize = 0x290;
pub const E820_TABLE: usize = 0x2d0;
