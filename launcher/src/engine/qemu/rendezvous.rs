//! A meeting place for QEMU and one of our vhost-user services: a listening Unix socket that
//! nobody else can find and that leaves nothing behind.
//!
//! QEMU wants a *path* to connect to (a connected socket given to it by number can't pass file
//! descriptors in its 7.2). So the socket is bound in a folder only we can enter, its inode is
//! opened with `O_PATH`, and name and folder are removed at once. QEMU inherits that descriptor and
//! connects to `/proc/self/fd/N`, which leads to the inode itself. Kill anyone at any later moment:
//! there is no name left to clean up, and no stranger ever had one to connect to.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// A nameless listening socket.
#[derive(Debug)]
pub struct Rendezvous {
    /// Our side.
    pub listener: UnixListener,
    /// The socket's inode, for the other side to inherit.
    pub inode: OwnedFd,
}

impl Rendezvous {
    /// Makes one.
    ///
    /// # Errors
    /// No folder can be made in `$XDG_RUNTIME_DIR` or the temporary folder, or no descriptor is
    /// left.
    pub fn new() -> io::Result<Self> {
        let folder = Folder::new()?;
        let path = folder.0.join("s");
        let listener = UnixListener::bind(&path)?;
        let inode = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(&path)
            .map(OwnedFd::from)?;
        Ok(Self { listener, inode })
    }

    /// Where a process that inherited [`Self::inode`] under its own number connects to.
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.inode.as_raw_fd())
    }
}

/// A folder nobody else can enter, gone with all in it when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_dir());
        let parent = runtime.map_or_else(std::env::temp_dir, PathBuf::from);
        // A Unix socket's path has 107 bytes at most (sun_path); a parent that leaves no room for
        // our names is passed over.
        let parent = if parent.as_os_str().len() > 60 {
            PathBuf::from("/tmp")
        } else {
            parent
        };
        for _ in 0..100 {
            let path = parent.join(format!(
                "launcher-{}-{:016x}",
                std::process::id(),
                random()?
            ));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(io::Error::new(
                        error.kind(),
                        format!("{}: {error}", path.display()),
                    ));
                }
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "somebody keeps taking our folder names",
        ))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // It is ours alone, so only what we put there can be in the way.
        let _ = fs::remove_file(self.0.join("s"));
        let _ = fs::remove_dir(&self.0);
    }
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn whoever_has_the_inode_can_connect_though_nothing_has_a_name() {
        let place = Rendezvous::new().unwrap();
        let mut there = UnixStream::connect(place.path()).unwrap();
        let (mut here, _) = place.listener.accept().unwrap();
        there.write_all(b"x").unwrap();
        let mut byte = [0];
        here.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        let target = fs::read_link(place.path()).unwrap();
        assert!(
            target.to_string_lossy().ends_with(" (deleted)"),
            "{target:?}"
        );
    }
}
