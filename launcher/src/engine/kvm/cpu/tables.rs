//! The two tables a processor needs in the guest's memory before it can run a kernel: segment
//! descriptors, and page tables that map the first 4 GiB to themselves. The kernel soon replaces
//! both.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::engine::kvm::KvmError;
use crate::engine::kvm::memory::PAGE;

/// Where the descriptors stand.
pub const GDT: u64 = 0x500;

/// Their last byte.
pub const GDT_LIMIT: u16 = 5 * 8 - 1;

/// Selectors of code and data, as Linux's boot protocol wants them (`__BOOT_CS`, `__BOOT_DS`).
pub const CODE: u16 = 0x10;
/// See [`CODE`].
pub const DATA: u16 = 0x18;

/// Selector of a task: Intel processors enter no guest without one.
pub const TASK: u16 = 0x20;

/// Where the page tables stand: one page of each of the two upper levels, four of the third.
pub const PAGE_TABLES: u64 = 0x9000;

/// A page table entry that is present and writable.
const PRESENT_WRITABLE: u64 = 0b11;

/// An entry of the third level that maps 2 MiB itself (Intel SDM volume 3, 4.5: PS).
const LARGE: u64 = 1 << 7;

/// A segment that begins at 0, in the terms of Intel SDM volume 3, 3.4.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Its type.
    pub kind: u8,
    /// Code or data rather than a thing of the system's.
    pub is_memory: bool,
    /// Its last byte.
    pub limit: u32,
    /// Its limit is counted in pages.
    pub in_pages: bool,
    /// 32-bit code, or data.
    pub is_32: bool,
    /// 64-bit code.
    pub is_64: bool,
}

/// Code, data, task, in a kernel of 64 or 32 bits.
pub fn descriptors(is_64: bool) -> [Descriptor; 3] {
    let flat = Descriptor {
        kind: 0x3, // data, writable, accessed
        is_memory: true,
        limit: u32::MAX,
        in_pages: true,
        is_32: true,
        is_64: false,
    };
    let code = Descriptor {
        kind: 0xb, // code, readable, accessed
        is_32: !is_64,
        is_64,
        ..flat
    };
    let task = Descriptor {
        kind: 0xb, // task, busy
        is_memory: false,
        limit: 0x67,
        in_pages: false,
        is_32: false,
        is_64: false,
    };
    [code, flat, task]
}

impl Descriptor {
    /// As it stands in the table.
    fn bits(self) -> u64 {
        let limit = if self.in_pages {
            self.limit >> 12
        } else {
            self.limit
        };
        let limit = u64::from(limit);
        (limit & 0xffff)
            | u64::from(self.kind) << 40
            | u64::from(self.is_memory) << 44
            | 1 << 47 // present
            | (limit >> 16) << 48
            | u64::from(self.is_64) << 53
            | u64::from(self.is_32) << 54
            | u64::from(self.in_pages) << 55
    }
}

/// Writes both.
///
/// # Errors
/// The guest has no memory there, which the least guest has.
pub fn write(memory: &GuestMemoryMmap, is_64: bool) -> Result<(), KvmError> {
    let put = |address: u64, bits: u64| {
        memory
            .write_obj(bits, GuestAddress(address))
            .map_err(|error| {
                KvmError::refused("write its first tables")(std::io::Error::other(error))
            })
    };
    for (selector, descriptor) in [CODE, DATA, TASK].into_iter().zip(descriptors(is_64)) {
        put(GDT + u64::from(selector), descriptor.bits())?;
    }
    let third = PAGE_TABLES + PAGE;
    put(PAGE_TABLES, third | PRESENT_WRITABLE)?;
    for gib in 0..4 {
        let fourth = third + PAGE + gib * PAGE;
        put(third + gib * 8, fourth | PRESENT_WRITABLE)?;
        for entry in 0..512 {
            let address = gib << 30 | entry << 21;
            put(fourth + entry * 8, address | PRESENT_WRITABLE | LARGE)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::memory::MemorySize;

    #[test]
    fn descriptors_have_the_bits_the_manual_gives_them() {
        let [code, data, task] = descriptors(true);
        assert_eq!(code.bits(), 0x00af_9b00_0000_ffff);
        assert_eq!(data.bits(), 0x00cf_9300_0000_ffff);
        assert_eq!(task.bits(), 0x0000_8b00_0000_0067);
        assert_eq!(descriptors(false)[0].bits(), 0x00cf_9b00_0000_ffff);
    }

    #[test]
    fn page_tables_lead_from_every_address_to_itself() {
        let memory =
            crate::engine::kvm::memory::allocate(MemorySize::from_mib(1).unwrap()).unwrap();
        write(&memory, true).unwrap();
        let read = |address: u64| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
        let address_of = |entry: u64| entry & !0xfff;
        for address in [0u64, 0x10_0200, 0x7fff_ffff, 0xc000_0000, 0xffff_ffff] {
            let third = address_of(read(PAGE_TABLES));
            let fourth = address_of(read(third + (address >> 30) * 8));
            let entry = read(fourth + (address >> 21 & 0x1ff) * 8);
            assert_eq!(entry & 0x83, 0x83);
            assert_eq!(address_of(entry) | address & 0x1f_ffff, address);
        }
    }
}
