//! What can be wrong with a segment, each in a sentence for the person who hit it.

use std::io;
use std::path::{Path, PathBuf};

use crate::layout::{GeometryError, HeaderError};
use crate::slot::SlotIndex;

/// What can be wrong with a segment. Each names the file and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is there already.
    #[error("Sharenet {} exists already; use it, or remove it with 'lgswitch rm'", .0.display())]
    Exists(PathBuf),
    /// It is not there.
    #[error("There is no sharenet {}; make it with 'lgswitch create'", .0.display())]
    Missing(PathBuf),
    /// The file is something else, or of another time, or damaged.
    #[error("Can't use {} as a sharenet: {reason}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: HeaderError,
    },
    /// The file ends before its header says it does.
    #[error(
        "Can't use {} as a sharenet: it is truncated, {size} bytes of {expected}; make it anew with \
         'lgswitch rm --force' and 'lgswitch create'", .path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// What its header says, in bytes.
        expected: u64,
    },
    /// Sizes that the format does not have.
    #[error("Can't make sharenet {}: {reason}", .path.display())]
    Geometry {
        /// The file.
        path: PathBuf,
        /// Which size.
        reason: GeometryError,
    },
    /// An MTU that IP does not have.
    #[error("Can't make sharenet {}: an MTU is 68 to 65535 bytes, not {mtu}", .path.display())]
    Mtu {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        mtu: u32,
    },
    /// No room on the filesystem.
    #[error(
        "No room for {what} on the filesystem of {}; free some, or keep sharenets elsewhere with \
         LGSWITCH_DIR", .path.display()
    )]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// What needed the room.
        what: &'static str,
    },
    /// An address the peers page has no way to say.
    #[error(
        "A port of {} can't have the MAC {mac}: its first byte must be even, and not 00 (which \
         says 'unused' on a peers page)", .path.display()
    )]
    Mac {
        /// The file.
        path: PathBuf,
        /// The address asked for.
        mac: pnet_base::MacAddr,
    },
    /// Nobody gave the slot back.
    #[error(
        "Slot {slot} of {} is held{}; leave the choice to us, or end its holder", .path.display(),
        .pid.map(|p| format!(" by process {p}")).unwrap_or_default()
    )]
    SlotHeld {
        /// The file.
        path: PathBuf,
        /// The slot asked for.
        slot: SlotIndex,
        /// Its holder, as far as it is known.
        pid: Option<i32>,
    },
    /// A slot the segment does not have.
    #[error("{} has slots 0 to {}, and no slot {slot}", .path.display(), .slots - 1)]
    NoSuchSlot {
        /// The file.
        path: PathBuf,
        /// The slot asked for.
        slot: SlotIndex,
        /// How many it has.
        slots: usize,
    },
    /// Nothing left.
    #[error(
        "All {slots} slots of {} are taken; make a segment with more ('lgswitch create --slots N', \
         682 at most)", .path.display()
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// How many it has.
        slots: usize,
    },
    /// Removing what is in use.
    #[error(
        "{held} of its slots are held, so sharenet {} stays; end their holders, or remove it all \
         the same with --force", .path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// Slots held.
        held: usize,
    },
    /// It was removed while we opened it.
    #[error("Sharenet {} was removed while it was being opened; make it anew", .0.display())]
    Removed(PathBuf),
    /// A system call failed.
    #[error("Can't {action} sharenet {}: {}", .path.display(), describe(.error))]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// The kernel's reason.
        error: io::Error,
    },
}

/// The kernel's reason, with the way out where there is one to tell.
fn describe(error: &io::Error) -> String {
    let reason = nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0)).desc();
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => format!(
            "{reason}; its owner can open it to others with 'lgswitch create --mode' or --group"
        ),
        Some(libc::ENOENT) => format!("{reason}; its folder does not exist"),
        Some(_) => reason.to_owned(),
        None => error.to_string(),
    }
}

/// Makes an error of a failed system call.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |error| match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => Error::NoRoom {
            path,
            what: "a sharenet",
        },
        _ => Error::Io {
            action,
            path,
            error,
        },
    }
}
