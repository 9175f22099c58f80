//! Who else has a disk: one guest writes it, or several read it.
//!
//! Two guests that write one disk destroy the filesystem on it, each by what it believes to know. The locks
//! against that are those that QEMU sets on its images (`block/file-posix.c` says which byte is what), so
//! that all programs that keep to them know of each other. They are read locks, which never exclude each
//! other, on bytes far past what they stand for; whoever wants a disk sets its own, *then* asks whether
//! somebody else has set one that it can't live with, so that of two who come at once at least one sees the
//! other. They hang on the open file, and go with it, however its holder ends.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// A byte of these says "I do this", one of those "nobody else may".
const DO: i64 = 100;
const ALONE: i64 = 200;
/// What is done or not allowed, as an offset: to read what stays as it is read, to write, to change the
/// size.
const READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// Takes a disk, open as `file`; `false` if somebody else has it in a way that excludes us.
///
/// # Errors
/// The filesystem knows no locks.
pub fn take(file: &File, read_only: bool) -> io::Result<bool> {
    let ours: &[i64] = if read_only { &[READ] } else { &[READ, WRITE] };
    let not_others = [WRITE, RESIZE];
    let wanted = ours.iter().map(|what| DO + what);
    for byte in wanted.chain(not_others.iter().map(|what| ALONE + what)) {
        if !set(file, byte)? {
            return Ok(false);
        }
    }
    let bad = ours.iter().map(|what| ALONE + what);
    for byte in bad.chain(not_others.iter().map(|what| DO + what)) {
        if is_set_by_others(file, byte)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lock(kind: i32, byte: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte as libc::off_t,
        l_len: 1,
        l_pid: 0,
    }
}

/// Sets one of ours; `false` if somebody else has the byte alone, which none of the company does.
fn set(file: &File, byte: i64) -> io::Result<bool> {
    let lock = lock(libc::F_RDLCK, byte);
    match fcntl(file, FcntlArg::F_OFD_SETLK(&lock)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether a write lock would be refused, which it is by anybody's but our own.
fn is_set_by_others(file: &File, byte: i64) -> io::Result<bool> {
    let mut lock = lock(libc::F_WRLCK, byte);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writes_or_many_read() {
        let named = tempfile::NamedTempFile::new().unwrap();
        let open = || {
            File::options()
                .read(true)
                .write(true)
                .open(named.path())
                .unwrap()
        };
        let writer = open();
        assert!(take(&writer, false).unwrap());
        for read_only in [true, false] {
            assert!(!take(&open(), read_only).unwrap());
        }
        drop(writer);
        let readers = [open(), open()];
        assert!(readers.iter().all(|file| take(file, true).unwrap()));
        assert!(!take(&open(), false).unwrap());
        drop(readers);
        assert!(take(&open(), false).unwrap());
    }
}
