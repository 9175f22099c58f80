//! Everything that can keep a guest from running, each as one sentence for the person who asked.
//!
//! The sentences are made where the trouble is met (an image's in [`crate::image`], a disk's in
//! [`crate::backend::block`]); this type only gathers them and knows the exit status.

use std::io;

use crate::backend::block::BlockError;
use crate::backend::console::place::PlaceError;
use crate::cli::UsageError;
use crate::engine::EngineError;
use crate::image::ImageError;
use crate::pidfile::PidFileError;
use crate::plan::memory::HostMemoryError;
use crate::status::StatusError;
use crate::transcript::TranscriptError;

/// Why the launcher gave up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line makes no sense.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// More memory than there is.
    #[error(transparent)]
    Memory(#[from] HostMemoryError),
    /// The kernel or the initrd is not one.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A disk that can't be one.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A tap or bridge that can't be had; `netsetup` tells which and why.
    #[error(transparent)]
    Network(#[from] netsetup::Error),
    /// `--dry-run` found no bridge of this name.
    #[error("There is no bridge {0}; make it with 'lgswitch bridge add'")]
    NoBridge(netsetup::InterfaceName),
    /// `--dry-run` found no interface of this name.
    #[error("There is no interface {0} for a macvtap to sit on")]
    NoInterface(netsetup::InterfaceName),
    /// `--dry-run` found something else.
    #[error("{name} is no bridge: it is of the kind {kind}")]
    NotABridge {
        /// The interface.
        name: netsetup::InterfaceName,
        /// What it is.
        kind: netsetup::LinkKind,
    },
    /// A sharenet that can't be joined; `lgswitch` tells which and why.
    #[error(transparent)]
    Sharenet(#[from] lgswitch::Error),
    /// The engine can't run this guest, or failed while it did.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The console can't be where it was wished for.
    #[error(transparent)]
    Console(#[from] PlaceError),
    /// The log is no file.
    #[error(transparent)]
    Log(#[from] TranscriptError),
    /// The pidfile is another's.
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    /// There is nobody to tell the guest's life.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The kernel refused something that needs no privilege and rarely fails.
    #[error("Cannot {action}: {}", reason(.error))]
    System {
        /// What was being done.
        action: &'static str,
        /// The kernel's reason.
        error: io::Error,
    },
    /// Stdout takes nothing.
    #[error("Cannot print to stdout: {}", reason(.0))]
    Print(io::Error),
}

/// The reason alone: the standard library adds the error's number, which is for programmers.
pub(crate) fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

impl Error {
    /// For `map_err`: the kernel refused to `action`.
    pub fn system<E: Into<io::Error>>(action: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::System {
            action,
            error: error.into(),
        }
    }

    /// 2 for a command line that makes no sense, 1 for everything else.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            _ => 1,
        }
    }
}
