//! What a guest's processor says of itself: the host's features as far as KVM passes them on, and
//! the topology of the guest, which is one package of cores with one thread each.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

use crate::engine::kvm::KvmError;

/// Leaf 1, ECX: "a hypervisor is present", where Linux begins to look for KVM.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, ECX: the local APIC's timer takes deadlines. KVM tells of it elsewhere.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, EDX: the package has several logical processors.
const HTT: u32 = 1 << 28;
/// `KVM_CPUID_FLAG_SIGNIFCANT_INDEX`: this leaf has sub-leaves.
const HAS_INDEX: u32 = 1;

/// What this host can give a guest's processors.
#[derive(Debug)]
pub struct Features {
    supported: CpuId,
    tsc_deadline: bool,
}

impl Features {
    /// Asks KVM.
    ///
    /// # Errors
    /// It does not tell.
    pub fn of(kvm: &Kvm) -> Result<Self, KvmError> {
        Ok(Self {
            supported: kvm
                .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
                .map_err(KvmError::refused("tell a processor's features"))?,
            tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
        })
    }

    /// For processor `number` of `count`.
    ///
    /// # Errors
    /// There is no memory for the list.
    pub fn for_cpu(&self, number: u8, count: u8) -> Result<CpuId, KvmError> {
        let mut entries: Vec<_> = self
            .supported
            .as_slice()
            .iter()
            .filter(|entry| !matches!(entry.function, 0xb | 0x1f))
            .copied()
            .collect();
        for entry in &mut entries {
            self.adapt(entry, number, count);
        }
        if entries
            .iter()
            .any(|entry| entry.function == 0 && entry.eax >= 0xb)
        {
            entries.extend(extended_topology(number, count));
        }
        CpuId::from_entries(&entries)
            .map_err(|_| KvmError::refused("list features")(std::io::ErrorKind::OutOfMemory))
    }

    /// Intel SDM volume 2 (CPUID) for leaves 1 and 4, AMD APM volume 3 appendix E for the others.
    fn adapt(&self, entry: &mut kvm_cpuid_entry2, number: u8, count: u8) {
        let (number, count) = (u32::from(number), u32::from(count));
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0xffff | count << 16 | number << 24;
                entry.ecx |= HYPERVISOR;
                if self.tsc_deadline {
                    entry.ecx |= TSC_DEADLINE;
                }
                if count > 1 {
                    entry.edx |= HTT;
                }
            }
            // A cache: bits 5 to 7 its level, 14 to 25 who shares it, 26 to 31 (Intel's only) the
            // cores of the package; all less one.
            4 | 0x8000_001d => {
                let level = entry.eax >> 5 & 7;
                let sharing = if level >= 3 { count - 1 } else { 0 };
                entry.eax = entry.eax & 0x3fff | sharing << 14;
                if entry.function == 4 {
                    entry.eax |= (count - 1).min(0x3f) << 26;
                }
            }
            0x8000_0008 => {
                entry.ecx = entry.ecx & !0xf0ff | (count - 1) | id_bits(count) << 12;
            }
            0x8000_001e => {
                entry.eax = number;
                entry.ebx = number;
                entry.ecx = 0;
            }
            _ => {}
        }
    }
}

/// Leaf 0xb: threads of a core, then cores of the package.
fn extended_topology(number: u8, count: u8) -> [kvm_cpuid_entry2; 2] {
    let (number, count) = (u32::from(number), u32::from(count));
    let level = |index, kind: u32, shift, processors| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: HAS_INDEX,
        eax: shift,
        ebx: processors,
        ecx: kind << 8 | index,
        edx: number,
        ..Default::default()
    };
    [level(0, 1, 0, 1), level(1, 2, id_bits(count), count)]
}

/// How many bits tell `count` processors apart.
fn id_bits(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(entries: &[kvm_cpuid_entry2]) -> Features {
        Features {
            supported: CpuId::from_entries(entries).unwrap(),
            tsc_deadline: true,
        }
    }

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            ..Default::default()
        }
    }

    #[test]
    fn every_processor_has_a_number_of_its_own_in_every_leaf() {
        let highest = kvm_cpuid_entry2 {
            eax: 0xd,
            ..leaf(0, 0)
        };
        let features = features(&[
            highest,
            leaf(1, 0),
            leaf(0xb, 0),
            leaf(0xb, 1),
            leaf(0x1f, 0),
            leaf(0x8000_001e, 0),
        ]);
        for (number, count) in [(0, 1), (0, 2), (1, 2), (5, 6), (254, 255)] {
            let cpuid = features.for_cpu(number, count).unwrap();
            let find = |function, index| {
                let mut all = cpuid.as_slice().iter();
                let found = all
                    .find(|e| e.function == function && e.index == index)
                    .copied();
                assert!(!all.any(|e| e.function == function && e.index == index));
                found.unwrap()
            };
            assert_eq!(find(1, 0).ebx >> 24, u32::from(number));
            assert_eq!(
                find(1, 0).ecx & (HYPERVISOR | TSC_DEADLINE),
                HYPERVISOR | TSC_DEADLINE
            );
            assert_eq!(find(1, 0).edx & HTT != 0, count > 1);
            assert_eq!(
                (find(0xb, 0).edx, find(0xb, 1).edx),
                (number.into(), number.into())
            );
            assert_eq!((find(0xb, 1).ebx, find(0xb, 1).ecx), (count.into(), 0x201));
            assert!(u32::from(count) <= 1 << find(0xb, 1).eax);
            assert_eq!(find(0x8000_001e, 0).eax, u32::from(number));
            assert!(cpuid.as_slice().iter().all(|e| e.function != 0x1f));
        }
    }

    #[test]
    fn only_the_last_cache_is_shared() {
        let cache = |level: u32| kvm_cpuid_entry2 {
            eax: level << 5 | 0x3ff << 14,
            ..leaf(4, level)
        };
        let features = features(&[cache(1), cache(3)]);
        let cpuid = features.for_cpu(0, 4).unwrap();
        let sharing: Vec<_> = cpuid
            .as_slice()
            .iter()
            .map(|e| e.eax >> 14 & 0xfff)
            .collect();
        assert_eq!(sharing, [0, 3]);
    }
}
