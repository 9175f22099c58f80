//! `--pidfile`: a file that holds our process number while the guest lives.
//!
//! A lock on the file (`flock`) says that its process lives; the kernel drops it with the process,
//! however that ends. So a file that is left from a killed launcher is in nobody's way, and a
//! number that was given to another process since is not mistaken for ours. The file is made whole
//! under another name and linked into place: nobody ever reads half a number.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::reason;

/// How often we look again when somebody else makes or removes the file under our hands.
const TRIES: usize = 10;

/// The longest number there may be in a file that is a pidfile, in bytes.
const LONGEST: u64 = 20;

/// A pidfile that is ours. Dropping it removes the file.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: Flock<File>,
}

/// Why a pidfile can't be had.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// Another process holds it.
    #[error("The pidfile {} is held by process {pid}, which still runs; give each guest its own", .path.display())]
    Held {
        /// The file.
        path: PathBuf,
        /// What stands in it.
        pid: String,
    },
    /// What is there is not for us to replace.
    #[error("{} is there and is no pidfile; choose another name for --pidfile", .0.display())]
    Other(PathBuf),
    /// It can't be made.
    #[error("Cannot make the pidfile {}: {}", .path.display(), reason(.error))]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        error: io::Error,
    },
}

impl PidFile {
    /// Makes the file, or takes over one whose process is gone.
    ///
    /// # Errors
    /// See [`PidFileError`].
    pub fn take(path: &Path) -> Result<Self, PidFileError> {
        let failed = |error| PidFileError::Io {
            path: path.to_owned(),
            error,
        };
        let (draft, file) = draft(path).map_err(failed)?;
        for _ in 0..TRIES {
            match fs::hard_link(&draft.0, path) {
                Ok(()) => {
                    return Ok(Self {
                        path: path.to_owned(),
                        file,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    // Held until it is removed: of two who find it, one removes it.
                    if let Some(left) = left_behind(path)?
                        && is_at(&left, path)
                    {
                        fs::remove_file(path).map_err(failed)?;
                    }
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(io::Error::from_raw_os_error(libc::EBUSY)))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have removed it, and another launcher made its own.
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Checks, for `--dry-run`, that nobody holds the file and nothing else is in its place.
///
/// # Errors
/// As [`PidFile::take`].
pub fn check(path: &Path) -> Result<(), PidFileError> {
    left_behind(path).map(drop)
}

/// Opens and locks what a process that is gone has left at `path`. `None`: there is nothing.
fn left_behind(path: &Path) -> Result<Option<Flock<File>>, PidFileError> {
    let failed = |error| PidFileError::Io {
        path: path.to_owned(),
        error,
    };
    let other = || PidFileError::Other(path.to_owned());
    // Opening a pipe would wait for its other end.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // A symbolic link; a socket.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => {
            return Err(other());
        }
        Err(error) => return Err(failed(error)),
    };
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() || meta.len() > LONGEST {
        return Err(other());
    }
    let mut text = String::new();
    if (&file).take(LONGEST).read_to_string(&mut text).is_err() {
        return Err(other());
    }
    let pid = text.trim().to_owned();
    if !pid.bytes().all(|b| b.is_ascii_digit()) {
        return Err(other());
    }
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(locked) => Ok(Some(locked)),
        Err((_, Errno::EWOULDBLOCK)) => Err(PidFileError::Held {
            path: path.to_owned(),
            pid,
        }),
        Err((_, error)) => Err(failed(error.into())),
    }
}

/// Whether `path` leads to this file.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// Another name of the file, gone when this is dropped.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The file, whole and locked, under another name.
fn draft(path: &Path) -> io::Result<(Draft, Flock<File>)> {
    let pid = std::process::id();
    let mut name = OsString::from(".");
    name.push(
        path.file_name()
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EISDIR))?,
    );
    name.push(format!(".{pid}"));
    let draft = Draft(path.with_file_name(name));
    // Left by a process that had our number, if by anybody.
    let _ = fs::remove_file(&draft.0);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&draft.0)?;
    let mut file =
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error)?;
    file.write_all(format!("{pid}\n").as_bytes())?;
    Ok((draft, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest.pid");
        (folder, path)
    }

    #[test]
    fn it_holds_our_number_while_it_is_held_and_nothing_is_left_of_it() {
        let (folder, path) = place();
        let held = PidFile::take(&path).unwrap();
        let ours = format!("{}\n", std::process::id());
        assert_eq!(fs::read_to_string(&path).unwrap(), ours);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = PidFile::take(&path).unwrap_err().to_string();
        assert!(
            error.contains(&format!("process {}", ours.trim())),
            "{error}"
        );
        assert!(check(&path).is_err());
        drop(held);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(check(&path).is_ok());
    }

    #[test]
    fn one_left_by_a_dead_process_is_taken_over() {
        let (_folder, path) = place();
        // Our parent's number: a living process, which holds no lock.
        fs::write(&path, format!("{}\n", std::os::unix::process::parent_id())).unwrap();
        let held = PidFile::take(&path).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!("{}\n", std::process::id())
        );
        drop(held);
        assert!(!path.exists());
    }

    #[test]
    fn another_file_is_never_replaced() {
        let (folder, path) = place();
        fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        assert!(matches!(PidFile::take(&path), Err(PidFileError::Other(_))));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert!(matches!(PidFile::take(&path), Err(PidFileError::Other(_))));
        assert!(matches!(
            PidFile::take(folder.path()),
            Err(PidFileError::Other(_))
        ));
        assert!(PidFile::take(Path::new("/")).is_err());
        assert!(PidFile::take(&folder.path().join("no/such/folder")).is_err());
    }

    #[test]
    fn another_launchers_file_is_not_removed() {
        let (_folder, path) = place();
        let first = PidFile::take(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = PidFile::take(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }
}
