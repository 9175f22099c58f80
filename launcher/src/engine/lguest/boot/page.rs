//! The boot page: what a BIOS and a boot loader would have told (the places are [`boot_page`](crate::image::boot_page)'s),
//! and behind it the kernel's arguments.

use crate::engine::lguest::memory::{GuestMemory, OutOfBounds, PAGE};
use crate::image::boot_page::*;

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
    let memory_map = E820_TABLE as u32;
    memory.store(E820_ENTRIES as u32, 1u8)?;
    memory.store(memory_map, 0u64)?;
    memory.store(memory_map + 8, u64::from(ram))?;
    memory.store(memory_map + 16, RAM)?;
    if let Some((at, len)) = initrd {
        // The guest looks for an initrd only if it knows what loaded it.
        memory.store(TYPE_OF_LOADER as u32, UNKNOWN_LOADER)?;
        memory.store(RAMDISK_IMAGE as u32, at)?;
        memory.store(RAMDISK_SIZE as u32, len)?;
    }
    memory.store(CMD_LINE_PTR as u32, PAGE)?;
    memory.store(HARDWARE_SUBARCH as u32, LGUEST)?;
    memory.write_bytes(PAGE, arguments)
}
