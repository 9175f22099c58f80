//! The place the console is in, opened: what `--console` says, made.

use std::io;

use super::line::Line;
use super::line::pty::Pty;
use super::line::socket::{Socket, SocketError};
use crate::error::reason;
use crate::plan::console::ConsolePlan;
use crate::transcript::{self, Transcript, TranscriptError};

/// Where the console is.
#[derive(Debug)]
pub enum Place {
    /// Our stdin and stdout.
    Stdio,
    /// A file, for output.
    File(Transcript),
    /// Something to connect to.
    Line(Line),
}

/// Why the console can't be there.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The file is none.
    #[error(transparent)]
    File(#[from] TranscriptError),
    /// The socket can't be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// There is no pseudo-terminal.
    #[error("Cannot make a pseudo-terminal for the console: {}", reason(.0))]
    Pty(io::Error),
}

impl Place {
    /// Makes what is to be made for the console to be there.
    ///
    /// # Errors
    /// See [`PlaceError`].
    pub fn open(plan: &ConsolePlan) -> Result<Self, PlaceError> {
        Ok(match plan {
            ConsolePlan::Stdio => Self::Stdio,
            ConsolePlan::File(path) => Self::File(Transcript::open(path)?),
            ConsolePlan::Pty => Self::Line(Line::Pty(Pty::open().map_err(PlaceError::Pty)?)),
            ConsolePlan::Unix(path) => Self::Line(Line::Socket(Socket::new(path)?)),
        })
    }

    /// What somebody has to be told to find it.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Line(Line::Pty(pty)) => Some(&pty.name),
            _ => None,
        }
    }
}

/// Checks, for `--dry-run`, what can be checked without making anything.
///
/// # Errors
/// As [`Place::open`].
pub fn check(plan: &ConsolePlan) -> Result<(), PlaceError> {
    match plan {
        ConsolePlan::File(path) => Ok(transcript::check(path)?),
        ConsolePlan::Stdio | ConsolePlan::Pty | ConsolePlan::Unix(_) => Ok(()),
    }
}
