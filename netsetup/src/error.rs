//! What can go wrong, told to the person who hit it: what was being done to which device, the
//! kernel's reason, and the privilege or the step that is missing. A message is whole in itself:
//! `source()` never repeats it, so that a chain prints each thing once.

use std::io;

use nix::errno::Errno;

use crate::address::InvalidAddress;
use crate::name::{InterfaceName, InvalidName};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a piece of network set-up failed.
///
/// `operation` always reads on from "Cannot": "create bridge br0", "attach tap0 to br0".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] InvalidName),

    /// The address cannot be one.
    #[error(transparent)]
    Address(#[from] InvalidAddress),

    /// The netlink socket could not be had.
    #[error("Cannot open a netlink socket to the kernel's network configuration: {0}")]
    OpenNetlink(io::Error),

    /// The blocking handle was used where blocking stalls (or panics) an executor.
    #[error(
        "Cannot {operation} from inside an asynchronous task: netsetup blocks, so call it from a thread that may"
    )]
    Asynchronous {
        /// What was being done.
        operation: String,
    },

    /// The kernel refused a request.
    #[error("Cannot {operation}: {}{}{}", .errno.desc(), in_its_words(.detail), privilege(*.errno))]
    Refused {
        /// What was being done.
        operation: String,
        /// The kernel's reason.
        errno: Errno,
        /// The kernel's own words (extended acknowledgement), where it has some.
        detail: Option<String>,
    },

    /// The kernel's answer did not come, or could not be read.
    #[error("Cannot {operation}: {reason}")]
    Answer {
        /// What was being done.
        operation: String,
        /// What was wrong with the answer.
        reason: String,
    },

    /// A link the operation needs does not exist.
    #[error("Cannot {operation}: there is no interface {name} in this network namespace")]
    NoSuchLink {
        /// What was being done.
        operation: String,
        /// The link that is missing.
        name: InterfaceName,
    },

    /// Something already there differs from what was asked, and is not ours to change.
    #[error("Cannot {operation}: {obstacle}")]
    InTheWay {
        /// What was being done.
        operation: String,
        /// What is in the way, and what to do about it.
        obstacle: String,
    },

    /// What was asked for contradicts itself.
    #[error("Cannot {operation}: {reason}")]
    Contradiction {
        /// What was asked.
        operation: String,
        /// Why that cannot be.
        reason: String,
    },

    /// `/dev/net/tun` could not be opened.
    #[error("Cannot open {device} to {operation}: {reason}")]
    TunDevice {
        /// What was being done.
        operation: String,
        /// The device node.
        device: String,
        /// Why not, and what to do.
        reason: String,
        /// The kernel's reason.
        errno: Errno,
    },

    /// Another process has the tap (or all its queues).
    #[error("Cannot {operation}: {name} is in use: another process has it open")]
    Busy {
        /// What was being done.
        operation: String,
        /// The tap.
        name: InterfaceName,
    },

    /// The calling thread has changed its network namespace since the handle was made.
    #[error(
        "Cannot {operation}: this thread is in another network namespace than its netlink socket"
    )]
    OtherNamespace {
        /// What was being done.
        operation: String,
    },

    /// A system call other than netlink failed.
    #[error("Cannot {operation}: {}{}", .errno.desc(), privilege(*.errno))]
    System {
        /// What was being done.
        operation: String,
        /// The kernel's reason.
        errno: Errno,
    },
}

impl Error {
    pub(crate) fn in_the_way(operation: String, obstacle: impl Into<String>) -> Self {
        Self::InTheWay {
            operation,
            obstacle: obstacle.into(),
        }
    }

    pub(crate) fn contradiction(operation: String, reason: impl Into<String>) -> Self {
        Self::Contradiction {
            operation,
            reason: reason.into(),
        }
    }

    pub(crate) fn system(operation: impl Into<String>, errno: Errno) -> Self {
        Self::System {
            operation: operation.into(),
            errno,
        }
    }

    pub(crate) fn answer(operation: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Answer {
            operation: operation.into(),
            reason: reason.into(),
        }
    }

    /// The kernel's error number, where the kernel is the one who refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. }
            | Self::System { errno, .. }
            | Self::TunDevice { errno, .. } => Some(*errno),
            Self::OpenNetlink(error) => error.raw_os_error().map(Errno::from_raw),
            Self::Busy { .. } => Some(Errno::EBUSY),
            _ => None,
        }
    }

    pub(crate) fn is(&self, errno: Errno) -> bool {
        self.errno() == Some(errno)
    }

    /// Whether a privilege was missing.
    pub fn is_permission(&self) -> bool {
        matches!(self.errno(), Some(Errno::EPERM | Errno::EACCES))
    }
}

/// The kernel's own words, set in the sentence.
fn in_its_words(detail: &Option<String>) -> String {
    match detail {
        Some(text) => format!(" ({})", text.trim_end_matches('.')),
        None => String::new(),
    }
}

/// What a refusal for want of privilege wants.
fn privilege(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => {
            "; it needs the capability CAP_NET_ADMIN in this network namespace (be root, or use a namespace of your own)"
        }
        Errno::EOPNOTSUPP => "; this kernel was built without it, or its module is not loaded",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(errno: Errno, detail: Option<&str>) -> String {
        Error::Refused {
            operation: "create bridge br0".into(),
            errno,
            detail: detail.map(Into::into),
        }
        .to_string()
    }

    #[test]
    fn a_refusal_names_device_operation_reason_and_privilege() {
        let text = refused(Errno::EPERM, None);
        assert!(
            text.starts_with("Cannot create bridge br0: Operation not permitted; it needs"),
            "{text}"
        );
        assert!(text.contains("CAP_NET_ADMIN"), "{text}");
    }

    #[test]
    fn the_kernels_own_words_are_passed_on() {
        assert_eq!(
            refused(Errno::EINVAL, Some("mtu greater than device maximum.")),
            "Cannot create bridge br0: Invalid argument (mtu greater than device maximum)"
        );
    }

    #[test]
    fn only_a_missing_privilege_is_called_one() {
        assert!(!refused(Errno::EINVAL, None).contains("CAP"));
        assert!(Error::system("open it", Errno::EACCES).is_permission());
        assert!(!Error::system("open it", Errno::ENOENT).is_permission());
    }
}
