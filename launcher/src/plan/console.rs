//! Where the guest's console is: `--console`.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::cli::UsageError;

/// Where the console is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ConsolePlan {
    /// On our stdin and stdout.
    #[default]
    Stdio,
    /// On a pseudo-terminal of its own, for somebody to open.
    Pty,
    /// On a Unix socket of this name, for somebody to connect to.
    Unix(PathBuf),
    /// What the guest prints is added to this file; nobody can type.
    File(PathBuf),
}

impl ConsolePlan {
    /// Reads the value of `--console`.
    ///
    /// # Errors
    /// There is no such place.
    pub fn parse(value: &OsStr) -> Result<Self, UsageError> {
        let place = |path: &[u8]| PathBuf::from(OsStr::from_bytes(path));
        let bytes = value.as_bytes();
        match bytes {
            b"stdio" => return Ok(Self::Stdio),
            b"pty" => return Ok(Self::Pty),
            b"unix:" | b"file:" => {
                return Err(UsageError(format!(
                    "--console={} names no file; write it behind the colon",
                    value.display()
                )));
            }
            _ => {}
        }
        if let Some(path) = bytes.strip_prefix(b"unix:") {
            Ok(Self::Unix(place(path)))
        } else if let Some(path) = bytes.strip_prefix(b"file:") {
            Ok(Self::File(place(path)))
        } else {
            Err(UsageError(format!(
                "--console: '{}' is no place for a console; there are stdio, pty, unix:<path> and file:<path>",
                value.display()
            )))
        }
    }
}

impl fmt::Display for ConsolePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio => f.write_str("stdin and stdout"),
            Self::Pty => f.write_str("a pseudo-terminal"),
            Self::Unix(path) => write!(f, "the socket {}", path.display()),
            Self::File(path) => write!(f, "the file {}, output only", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_is_in_one_of_four_places() {
        for (text, plan) in [
            ("stdio", ConsolePlan::Stdio),
            ("pty", ConsolePlan::Pty),
            ("unix:/run/a,b", ConsolePlan::Unix("/run/a,b".into())),
            ("file:unix:x", ConsolePlan::File("unix:x".into())),
        ] {
            assert_eq!(ConsolePlan::parse(OsStr::new(text)).unwrap(), plan);
        }
        for text in ["", "tty", "unix", "unix:", "file:", "Stdio", "pty:x"] {
            let UsageError(message) = ConsolePlan::parse(OsStr::new(text)).unwrap_err();
            assert!(message.contains(text), "{message}");
        }
    }
}
