//! A Unix socket with a name that only its owner can connect to, gone when it is dropped.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};

use crate::error::reason;

/// A listening socket.
#[derive(Debug)]
pub struct Socket {
    /// Non-blocking.
    pub listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the name, to know it by.
    inode: (u64, u64),
}

/// Why there can't be a socket of this name.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A program listens there.
    #[error("The socket {} is another program's, which listens on it", .0.display())]
    InUse(PathBuf),
    /// It is the name of something else.
    #[error("{} is there and is no socket; choose another name for the console", .0.display())]
    NotASocket(PathBuf),
    /// A Unix socket's name has 107 bytes at most (unix(7), `sun_path`).
    #[error("{} is no name for a socket: it takes 1 to 107 bytes", .0.display())]
    Name(PathBuf),
    /// It can't be made.
    #[error("Cannot make the socket {}: {}", .path.display(), reason(.error))]
    Io {
        /// Its name.
        path: PathBuf,
        /// The kernel's reason.
        error: io::Error,
    },
}

impl Socket {
    /// Makes one. A name that a killed program has left is taken over.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn new(path: &Path) -> Result<Self, SocketError> {
        let failed = |error: Errno| SocketError::Io {
            path: path.to_owned(),
            error: error.into(),
        };
        let address = UnixAddr::new(path).map_err(|_| SocketError::Name(path.to_owned()))?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let new = || socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed);
        let ours = new()?;
        // The name gets the socket's mode (unix(7)), so there is no moment when others can connect.
        fchmod(&ours, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed)?;
        match bind(ours.as_raw_fd(), &address) {
            Ok(()) => {}
            Err(Errno::EADDRINUSE) => {
                let kind = fs::symlink_metadata(path).map(|meta| meta.file_type());
                if !kind.is_ok_and(|kind| kind.is_socket()) {
                    return Err(SocketError::NotASocket(path.to_owned()));
                }
                match connect(new()?.as_raw_fd(), &address) {
                    Err(Errno::ECONNREFUSED) => {}
                    Ok(()) | Err(Errno::EAGAIN) => {
                        return Err(SocketError::InUse(path.to_owned()));
                    }
                    Err(error) => return Err(failed(error)),
                }
                nix::unistd::unlink(path).map_err(failed)?;
                bind(ours.as_raw_fd(), &address).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        listen(&ours, Backlog::MAXCONN).map_err(failed)?;
        Ok(Self {
            listener: ours.into(),
            path: path.to_owned(),
            inode: inode(path).unwrap_or_default(),
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Somebody may have put something else there meanwhile.
        if inode(&self.path) == Some(self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    let meta = fs::symlink_metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_name_is_the_owners_alone_and_goes_with_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let socket = Socket::new(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        assert!(matches!(Socket::new(&path), Err(SocketError::InUse(_))));
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_name_left_behind_is_taken_over_and_another_thing_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = Socket::new(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a letter").unwrap();
        assert!(matches!(
            Socket::new(&path),
            Err(SocketError::NotASocket(_))
        ));
        drop(socket);
        assert!(path.exists());
        let long = folder.path().join("x".repeat(200));
        assert!(matches!(Socket::new(&long), Err(SocketError::Name(_))));
        let nowhere = folder.path().join("no/such");
        assert!(matches!(Socket::new(&nowhere), Err(SocketError::Io { .. })));
    }
}
