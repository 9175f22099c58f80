//! The PVH boot protocol, once Xen's and now anybody's: a kernel in ELF names in a note where it
//! starts in 32-bit mode, and finds a `hvm_start_info` structure there
//! (xen/include/public/arch-x86/hvm/start_info.h, whose names the fields below bear).

use super::Parameters;

/// Where the structure stands, with what it points to behind it.
pub const START_INFO: u64 = 0x6000;

/// `XEN_HVM_START_MAGIC_VALUE`: "xEn3", the highest bit of the E set.
const MAGIC: u32 = 0x336e_c578;

/// The version with a memory map.
const VERSION: u32 = 1;

/// Lengths of `hvm_start_info` and `hvm_modlist_entry`, in bytes.
const START_INFO_LEN: u64 = 56;
const MODULE_LEN: u64 = 32;

/// Writes the structure, the one module (the initrd) and the memory map.
pub fn start_info(parameters: &Parameters) -> Vec<u8> {
    let modules = START_INFO + START_INFO_LEN;
    let map = modules + MODULE_LEN;
    let entries = parameters.map.entries();

    let mut bytes = Vec::new();
    let mut put = |field: &[u8]| bytes.extend_from_slice(field);
    put(&MAGIC.to_le_bytes());
    put(&VERSION.to_le_bytes());
    put(&0u32.to_le_bytes()); // flags
    put(&u32::from(parameters.initrd.is_some()).to_le_bytes()); // nr_modules
    put(&modules.to_le_bytes()); // modlist_paddr
    put(&parameters.command_line.0.to_le_bytes()); // cmdline_paddr
    put(&parameters.rsdp.to_le_bytes()); // rsdp_paddr
    put(&map.to_le_bytes()); // memmap_paddr
    put(&(entries.len() as u32).to_le_bytes()); // memmap_entries
    put(&0u32.to_le_bytes()); // reserved

    let (initrd, initrd_len) = parameters.initrd.unwrap_or((0, 0));
    // paddr, size, cmdline_paddr, reserved
    for word in [initrd, initrd_len, 0, 0] {
        put(&word.to_le_bytes());
    }
    for entry in entries {
        put(&entry.start.to_le_bytes());
        put(&entry.len.to_le_bytes());
        put(&(entry.kind as u32).to_le_bytes());
        put(&0u32.to_le_bytes()); // reserved
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::e820::MemoryMap;
    use super::super::linux::ZERO_PAGE;
    use super::*;
    use crate::plan::memory::MemorySize;

    #[test]
    fn what_the_structure_points_to_is_where_it_says() {
        let parameters = Parameters {
            map: MemoryMap::of(MemorySize::from_mib(8192).unwrap()),
            command_line: (0x2_0000, 1),
            initrd: Some((0x700_0000, 99)),
            rsdp: 0xe_0000,
        };
        let bytes = start_info(&parameters);
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(bytes[..4], [0x78, 0xc5, 0x6e, 0x33]);
        assert_eq!((u64_at(24), u64_at(32)), (0x2_0000, 0xe_0000));
        let module = (u64_at(16) - START_INFO) as usize;
        assert_eq!((u64_at(module), u64_at(module + 8)), (0x700_0000, 99));
        let map = (u64_at(40) - START_INFO) as usize;
        assert_eq!(bytes.len(), map + parameters.map.entries().len() * 24);
        assert_eq!((u64_at(map), u64_at(map + 8)), (0, 0x9_fc00));
        assert!(START_INFO + bytes.len() as u64 <= ZERO_PAGE);
    }
}
