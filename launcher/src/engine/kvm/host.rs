//! The host's side of the bargain: is there a KVM, is it ours to use, can it do what we need? Each
//! way in which it cannot is a sentence of its own.

use std::ffi::CStr;
use std::fs;
use std::io;

use kvm_bindings::KVM_API_VERSION;
use kvm_ioctls::{Cap, Kvm};

use super::KvmError;

/// The way to KVM.
const DEVICE: &CStr = c"/dev/kvm";

/// What the engine cannot do without. All of it is older than Linux 3.0 on x86.
const NEEDED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "memory given by this process"),
    (Cap::Irqchip, "interrupt controllers"),
    (Cap::Pit2, "an interval timer"),
    (Cap::ExtCpuid, "processor features"),
    (Cap::Irqfd, "interrupts by descriptor"),
    (Cap::Ioeventfd, "doorbells by descriptor"),
];

/// Opens KVM.
///
/// # Errors
/// What is in the way.
pub fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new_with_path(DEVICE).map_err(|error| explain(error.into()))?;
    check(&kvm)?;
    Ok(kvm)
}

/// Whether the processor can run guests at all: Intel's or AMD's virtualisation is among its
/// flags. A host can open /dev/kvm without: then it emulates instructions, some of them.
pub fn has_virtualisation() -> bool {
    fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| has_virtualisation_flag(&text))
}

fn has_virtualisation_flag(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_whitespace)
        .any(|flag| flag == "vmx" || flag == "svm")
}

/// Why it does not open.
fn explain(error: io::Error) -> KvmError {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => KvmError::NoPermission,
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) if has_virtualisation() => {
            KvmError::NoModule
        }
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => KvmError::NoHardware,
        _ => KvmError::Refused {
            action: "be opened",
            error,
        },
    }
}

fn check(kvm: &Kvm) -> Result<(), KvmError> {
    let version = kvm.get_api_version();
    // It has been 12 since Linux 2.6.22, and is to stay so (KVM API, 4.1). A file that is no KVM
    // answers with -1.
    if i64::from(version) != i64::from(KVM_API_VERSION) {
        return Err(KvmError::OtherVersion(version));
    }
    match NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        Some((_, what)) => Err(KvmError::Lacks(what)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtualisation_is_a_flag_of_its_own() {
        assert!(has_virtualisation_flag(
            "processor: 0\nflags\t\t: fpu svm sse\n"
        ));
        assert!(has_virtualisation_flag("flags\t\t: vmx\n"));
        assert!(!has_virtualisation_flag(
            "flags\t\t: fpu svm_lock\nvmx flags\t: vnmi\n"
        ));
    }

    #[test]
    fn every_obstacle_is_named_and_the_way_round_it() {
        for (number, named) in [
            (libc::EACCES, "No permission"),
            (libc::ENOENT, "/dev/kvm"),
            (libc::EMFILE, "open files"),
        ] {
            let sentence = explain(io::Error::from_raw_os_error(number)).to_string();
            assert!(
                sentence.contains(named) && sentence.contains("--engine=qemu"),
                "{sentence}"
            );
        }
    }
}
