//! Where everything stands in the guest's physical address space.
//!
//! ```text
//! 0            first megabyte, as on any PC: boot parameters below 640 KiB, ACPI tables at 0xe0000
//! 1 MiB        the kernel's image, and RAM up to 3 GiB
//! 3 GiB        the 32-bit gap: no RAM, but
//!   0xd0000000   a page of registers for each virtio device
//!   0xfec00000   the I/O APIC
//!   0xfee00000   the local APICs
//!   0xfffbc000   four pages KVM needs for itself on Intel processors
//! 4 GiB        what RAM did not fit below the gap
//! ```

/// Where RAM below the 32-bit gap ends at the latest, in bytes.
pub const GAP_START: u64 = 3 << 30;

/// Where the gap ends and further RAM begins: the end of what 32 bits address.
pub const GAP_END: u64 = 1 << 32;

/// The first virtio device's page of registers; the others follow it.
pub const VIRTIO_START: u64 = 0xd000_0000;

/// The length of a virtio device's registers, in bytes.
pub const VIRTIO_SIZE: u64 = 0x1000;

/// The I/O APIC's registers (Intel 82093AA data sheet, 3.0; KVM's has no other place).
pub const IO_APIC: u64 = 0xfec0_0000;

/// The local APICs' registers (Intel SDM volume 3, 11.4.1).
pub const LOCAL_APIC: u64 = 0xfee0_0000;

/// A page for KVM's identity page table, and three for its task state segment: Intel processors
/// that cannot run real mode in a guest need them (KVM API, 4.40 and 4.39).
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// See [`KVM_IDENTITY_MAP`].
pub const KVM_TSS: u64 = KVM_IDENTITY_MAP + 0x1000;
