//! Where the bytes of a capture go: a file, a pipe, standard output.
//!
//! What is written are whole blocks, or whole lines. A regular file that takes only a part of one,
//! because the disk is full, is cut back to the last whole one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Why bytes did not go where they were to go.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Nobody reads the pipe any more.
    #[error("Whoever read the capture has gone")]
    ReaderGone,
    /// A file can't be made or opened.
    #[error("Can't make capture file {}: {}", .path.display(), describe(.error))]
    Open {
        /// Which.
        path: PathBuf,
        /// The kernel's reason.
        error: io::Error,
    },
    /// A file can't be written.
    #[error("Can't write capture to {name}: {}; it ends with what was written before", describe(.error))]
    Write {
        /// Which.
        name: String,
        /// The kernel's reason.
        error: io::Error,
    },
}

fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_owned(),
        None => error.to_string(),
    }
}

/// A file or pipe, open to be written.
#[derive(Debug)]
pub struct Output {
    name: String,
    file: File,
    /// Ours alone, so it can be cut.
    regular: bool,
    /// Bytes written.
    written: u64,
    /// Made by us, and not begun: taken away again if it never is.
    unbegun: Option<PathBuf>,
}

impl Output {
    /// Standard output.
    pub fn stdout() -> Result<Self, OutputError> {
        let name = "standard output".to_owned();
        match io::stdout().as_fd().try_clone_to_owned() {
            Ok(fd) => Ok(Self {
                name,
                file: fd.into(),
                regular: false,
                written: 0,
                unbegun: None,
            }),
            Err(error) => Err(OutputError::Write { name, error }),
        }
    }

    /// Opens a file, or makes it. What is in it stays until [`begin`](Self::begin); if that never
    /// comes, nothing has changed.
    pub fn open(path: &Path) -> Result<Self, OutputError> {
        let open = || {
            let made = OpenOptions::new().write(true).create_new(true).open(path);
            let (file, made) = match made {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    (OpenOptions::new().write(true).open(path)?, false)
                }
                made => (made?, true),
            };
            let regular = file.metadata()?.is_file();
            Ok((file, regular, made))
        };
        match open() {
            Ok((file, regular, made)) => Ok(Self {
                name: path.display().to_string(),
                file,
                regular,
                written: 0,
                unbegun: made.then(|| path.to_owned()),
            }),
            Err(error) => Err(OutputError::Open {
                path: path.to_owned(),
                error,
            }),
        }
    }

    /// It is to be written: what was in it goes.
    pub fn begin(&mut self) -> Result<(), OutputError> {
        self.unbegun = None;
        match self.regular {
            true => self.file.set_len(0).map_err(|e| self.error(e)),
            false => Ok(()),
        }
    }

    /// Writes whole blocks or lines, all of them or none that is cut short.
    pub fn write(&mut self, whole: &[u8]) -> Result<(), OutputError> {
        match self.file.write_all(whole) {
            Ok(()) => {
                self.written += whole.len() as u64;
                Ok(())
            }
            Err(error) => {
                if self.regular {
                    // If it can't be cut, readers of captures know what to do.
                    let _ = self.file.set_len(self.written);
                }
                Err(self.error(error))
            }
        }
    }

    /// Whether it is a pipe that nobody reads any more.
    pub fn reader_is_gone(&self) -> bool {
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok()
            && fds[0]
                .revents()
                .is_some_and(|e| e.contains(PollFlags::POLLERR))
    }

    fn error(&self, error: io::Error) -> OutputError {
        match error.kind() {
            io::ErrorKind::BrokenPipe => OutputError::ReaderGone,
            _ => OutputError::Write {
                name: self.name.clone(),
                error,
            },
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(path) = &self.unbegun {
            // Somebody else may have taken it away, which is as good.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_never_begun_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        std::fs::write(&old, "kept").unwrap();
        drop((Output::open(&old).unwrap(), Output::open(&new).unwrap()));
        assert_eq!(std::fs::read(&old).unwrap(), b"kept");
        assert!(!new.exists());
    }

    #[test]
    fn what_is_begun_starts_empty_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old");
        std::fs::write(&path, "a longer text of before").unwrap();
        let mut output = Output::open(&path).unwrap();
        output.begin().unwrap();
        output.write(b"new").unwrap();
        drop(output);
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_pipe_without_a_reader_is_told() {
        let (reader, writer) = io::pipe().unwrap();
        let output = Output {
            name: "pipe".into(),
            file: std::os::fd::OwnedFd::from(writer).into(),
            regular: false,
            written: 0,
            unbegun: None,
        };
        assert!(!output.reader_is_gone());
        drop(reader);
        assert!(output.reader_is_gone());
    }
}
