//! A processor of the guest, ready for its first instruction.
//!
//! The first one begins where the kernel does, in the state its boot protocol wants
//! ([`registers`]). The others wait, as on a real machine, until the first one calls them by its
//! local APIC: KVM's interrupt controllers see to that.

pub mod cpuid;
pub mod registers;
pub mod tables;

use kvm_bindings::{CpuId, Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::KvmError;
use super::boot::Start;
use super::vm::Vm;

/// `IA32_MISC_ENABLE` and its bit for fast string instructions, which firmware sets (Intel SDM
/// volume 4, table 2-2).
const MISC_ENABLE: (u32, u64) = (0x1a0, 1);

/// `IA32_MTRR_DEF_TYPE`: memory types are on, and all memory is write-back (Intel SDM volume 3,
/// 12.11.2.1), as firmware leaves it; Linux warns of anything else.
const MTRR_DEF_TYPE: (u32, u64) = (0x2ff, 1 << 11 | 6);

/// Makes processor number `number` of a machine, whose features are `cpuid`. The first one is
/// told where to `start`.
///
/// # Errors
/// KVM refuses.
pub fn make(vm: &Vm, number: u8, cpuid: &CpuId, start: Option<&Start>) -> Result<VcpuFd, KvmError> {
    let fd = vm
        .fd()
        .create_vcpu(number.into())
        .map_err(KvmError::refused("make a processor"))?;
    fd.set_cpuid2(cpuid)
        .map_err(KvmError::refused("set a processor's features"))?;
    let entry = |(index, data)| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let msrs = Msrs::from_entries(&[entry(MTRR_DEF_TYPE), entry(MISC_ENABLE)])
        .map_err(|_| KvmError::refused("list registers")(std::io::ErrorKind::OutOfMemory))?;
    // How many it took is of no interest: what it does not know, the guest does not miss.
    fd.set_msrs(&msrs)
        .map_err(KvmError::refused("set a processor's registers"))?;
    if let Some(start) = start {
        registers::set(&fd, start)?;
    }
    Ok(fd)
}
