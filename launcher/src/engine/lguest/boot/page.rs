//! The boot page: what a BIOS and a boot loader would have told (the places are those of Linux's boot
//! protocol, `struct boot_params`), and behind it the kernel's arguments.

use crate::engine::lguest::memory::{GuestMemory, OutOfBounds, PAGE};

/// How many entries the memory map has (u8).
const MAP_ENTRIES: u32 = 0x1e8;
/// What loaded the kernel (u8); the guest looks for an initrd only if that is known.
const LOADER: u32 = 0x210;
/// Where the initrd is, and its size in whole pages.
const INITRD: u32 = 0x218;
/// Where the arguments are.
const ARGUMENTS: u32 = 0x228;
/// Which kind of computer this is.
const GUEST_TYPE: u32 = 0x23c;
/// The memory map: u64 address, u64 size, u32 kind.
const MAP: u32 = 0x2d0;

/// A loader without a number of its own.
const UNKNOWN_LOADER: u8 = 0xff;
/// An lguest guest (`X86_SUBARCH_LGUEST`).
const LGUEST: u32 = 1;
/// The kind of memory that is just that.
const RAM: u32 = 1;

/// Writes it, for a guest with `ram` bytes of memory. `initrd` is where it is, and its size in whole pages.
///
/// # Errors
/// None, if memory has these two pages.
pub fn write(
    memory: &GuestMemory,
    ram: u32,
    initrd: Option<(u32, u32)>,
    arguments: &[u8],
) -> Result<(), OutOfBounds> {
    memory.store(MAP_ENTRIES, 1u8)?;
    memory.store(MAP, 0u64)?;
    memory.store(MAP + 8, u64::from(ram))?;
    memory.store(MAP + 16, RAM)?;
    if let Some((at, len)) = initrd {
        memory.store(LOADER, UNKNOWN_LOADER)?;
        memory.store(INITRD, at)?;
        memory.store(INITRD + 4, len)?;
    }
    memory.store(ARGUMENTS, PAGE)?;
    memory.store(GUEST_TYPE, LGUEST)?;
    memory.write_bytes(PAGE, arguments)
}
