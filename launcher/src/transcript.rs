//! A file to which what the guest prints is added as it comes: `--log`, which our own lines go to
//! as well, and `--console=file:…`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::reason;
use crate::report;

/// An open transcript. Clones share it.
#[derive(Debug, Clone)]
pub struct Transcript {
    path: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    file: File,
    /// The guest's last line has no end yet.
    within_line: bool,
    /// It took no more at some moment, and is not written any more: it would have a hole.
    failed: bool,
}

/// Why a file can't be a transcript.
#[derive(Debug, thiserror::Error)]
pub enum TranscriptError {
    /// A folder, a pipe, a terminal: something that may keep the guest waiting.
    #[error("{} is no file, and what the guest prints is written to a file", .0.display())]
    NotAFile(PathBuf),
    /// It can't be opened or made.
    #[error("Cannot write to {}: {}", .path.display(), reason(.error))]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        error: io::Error,
    },
}

impl Transcript {
    /// Opens a transcript to add to, or makes it.
    ///
    /// # Errors
    /// See [`TranscriptError`].
    pub fn open(path: &Path) -> Result<Self, TranscriptError> {
        let file = open(path, true)?;
        Ok(Self {
            path: path.to_owned(),
            state: Arc::new(Mutex::new(State {
                file,
                within_line: false,
                failed: false,
            })),
        })
    }

    /// Adds what the guest printed: any bytes, cut anywhere.
    pub fn guest(&self, bytes: &[u8]) {
        self.add(|state| {
            state.within_line = bytes.last().is_some_and(|&b| b != b'\n');
            state.file.write_all(bytes)
        });
    }

    /// Adds a line of ours, given without its end. It never stands within a line of the guest's.
    pub fn line(&self, text: &str) {
        self.add(|state| {
            let start = if state.within_line { "\n" } else { "" };
            state.within_line = false;
            // In one piece: others may add to the same file.
            state.file.write_all(format!("{start}{text}\n").as_bytes())
        });
    }

    fn add(&self, write: impl FnOnce(&mut State) -> io::Result<()>) {
        let failure = {
            let mut state = self.lock();
            if state.failed {
                return;
            }
            let failure = write(&mut state).err();
            state.failed = failure.is_some();
            failure
        };
        // The lock is free by now: this line goes to a transcript as well.
        if let Some(error) = failure {
            report::say(&format_args!(
                "warning: Nothing more is written to {}: {}",
                self.path.display(),
                reason(&error)
            ));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks, for `--dry-run`, that a transcript could be written, without making it.
///
/// # Errors
/// As [`Transcript::open`].
pub fn check(path: &Path) -> Result<(), TranscriptError> {
    match open(path, false) {
        // It would be made.
        Err(TranscriptError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map(drop),
    }
}

fn open(path: &Path, create: bool) -> Result<File, TranscriptError> {
    let failed = |error| TranscriptError::Io {
        path: path.to_owned(),
        error,
    };
    // A pipe's opening would wait for its other end, a terminal become ours.
    let file = OpenOptions::new()
        .append(true)
        .create(create)
        .mode(0o644)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    let not_a_file = || TranscriptError::NotAFile(path.to_owned());
    match file {
        Ok(file) if file.metadata().map_err(failed)?.is_file() => Ok(file),
        Ok(_) => Err(not_a_file()),
        // A folder; a pipe nobody reads, or a socket.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EISDIR | libc::ENXIO)) => {
            Err(not_a_file())
        }
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_lines_never_stand_within_the_guests() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "before\n").unwrap();
        let transcript = Transcript::open(&path).unwrap();
        transcript.line("launcher: one");
        transcript.guest(b"login: ");
        transcript.line("launcher: two");
        transcript.guest(b"whole\r\n");
        transcript.line("launcher: three");
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "before\nlauncher: one\nlogin: \nlauncher: two\nwhole\r\nlauncher: three\n"
        );
    }

    #[test]
    fn only_a_file_can_be_one() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [folder.path(), &pipe, Path::new("/dev/null")] {
            let error = Transcript::open(path).unwrap_err().to_string();
            assert!(error.contains("is no file"), "{error}");
            assert!(check(path).is_err());
        }
        let missing = folder.path().join("missing");
        assert!(check(&missing).is_ok() && !missing.exists());
        assert!(Transcript::open(&folder.path().join("no/such")).is_err());
    }
}
