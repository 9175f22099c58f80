//! What can keep KVM from running a guest, each as one sentence. Where another engine would help,
//! the sentence says so.

use std::io;

use crate::error::reason;
use crate::plan::memory::MemorySize;

/// Why the engine `kvm` can't run a guest, or failed to.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// The guest's memory can't be mapped.
    #[error("Cannot set {size} aside for the guest: {}; give it less", reason(.error))]
    Memory {
        /// What the guest was to have.
        size: MemorySize,
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
}

impl KvmError {
    /// For `map_err`: KVM refused to `action`.
    pub fn refused<E: Into<io::Error>>(action: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Refused {
            action,
            error: error.into(),
        }
    }
}
