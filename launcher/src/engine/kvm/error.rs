//! What can keep KVM from running a guest, each as one sentence. Where another engine would help,
//! the sentence says so.

use std::io;
use std::path::PathBuf;

use crate::error::reason;
use crate::image::ImageFile;
use crate::plan::memory::MemorySize;

/// Why the engine `kvm` can't run a guest, or failed to.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// No KVM, though the processor could.
    #[error(
        "There is no /dev/kvm, though this processor has hardware virtualisation: load the module (modprobe kvm_intel, \
         or kvm_amd), and if that refuses, switch virtualisation on in the firmware; --engine=qemu runs guests without it"
    )]
    NoModule,
    /// No KVM, and no processor for it.
    #[error(
        "There is no /dev/kvm, and this processor shows no hardware virtualisation (no vmx or svm in /proc/cpuinfo): in a \
         virtual machine, its host must pass it on; --engine=qemu runs guests without it"
    )]
    NoHardware,
    /// Not ours to use.
    #[error(
        "No permission to use /dev/kvm; join its group (usually: usermod -aG kvm $USER, then log in anew), or take --engine=qemu"
    )]
    NoPermission,
    /// A KVM of another time.
    #[error(
        "/dev/kvm speaks version {0} of KVM's interface, and this launcher speaks {ours}; --engine=qemu runs guests without it",
        ours = kvm_bindings::KVM_API_VERSION
    )]
    OtherVersion(i32),
    /// A KVM too old or too small.
    #[error(
        "This host's KVM is too old: it does not offer {0}; --engine=qemu runs guests without it"
    )]
    Lacks(&'static str),
    /// More processors than the host's KVM takes.
    #[error(
        "A guest with {wanted} processors is more than this host's KVM runs: it takes {max}; give it fewer, or take --engine=qemu"
    )]
    TooManyCpus {
        /// What was asked for.
        wanted: u8,
        /// What there can be.
        max: usize,
    },
    /// There is no interrupt left for one.
    #[error(
        "A guest of the engine kvm has room for {max} devices, and this one has {wanted}, its own included; give it fewer, \
         or take --engine=qemu"
    )]
    TooManyDevices {
        /// What was asked for, the guest's own included.
        wanted: usize,
        /// How many there can be.
        max: usize,
    },
    /// The guest's memory can't be mapped.
    #[error("Cannot set {size} aside for the guest: {}; give it less, whether here or with --engine=qemu", reason(.error))]
    Memory {
        /// What the guest was to have.
        size: MemorySize,
        /// The kernel's reason.
        error: io::Error,
    },
    /// A part of the image can't be put where it belongs.
    #[error("Cannot load {}: {}", .path.display(), reason(.error))]
    Load {
        /// The file.
        path: PathBuf,
        /// The kernel's reason, or ours.
        error: io::Error,
    },
    /// A step that needs no KVM and rarely fails.
    #[error("Cannot {action} for the guest: {}", reason(.error))]
    Prepare {
        /// What was being done.
        action: &'static str,
        /// The kernel's reason.
        error: io::Error,
    },
    /// KVM refused a step that rarely fails.
    #[error("KVM cannot {action}: {}; --engine=qemu runs guests without it", reason(.error))]
    Refused {
        /// What was being done.
        action: &'static str,
        /// The kernel's reason.
        error: io::Error,
    },
    /// KVM gave up while the guest ran.
    #[error(
        "KVM failed while the guest ran: {0}; --verbose tells the registers, and --engine=qemu may run this guest"
    )]
    Failed(String),
}

impl KvmError {
    /// For `map_err`: KVM refused to `action`.
    pub fn refused<E: Into<io::Error>>(action: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Refused {
            action,
            error: error.into(),
        }
    }

    /// For `map_err`: the kernel refused to `action`.
    pub fn prepare<E: Into<io::Error>>(action: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Prepare {
            action,
            error: error.into(),
        }
    }

    /// A file can't be loaded.
    pub fn load(file: &ImageFile, error: io::Error) -> Self {
        Self::Load {
            path: file.path.clone(),
            error,
        }
    }
}
