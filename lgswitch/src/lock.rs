//! A port is a lock on one byte.
//!
//! The write lock on byte *i* of the file says that slot *i* is held. The locks are of the
//! open-file-description kind (`F_OFD_SETLK`): they conflict with the plain process locks that
//! the seed's launchers take, two ports of one process never share a slot by accident, and the
//! kernel drops them with the last descriptor, however its holder died.
//!
//! A *read* lock on such a byte holds no slot, it guards one: nobody can take it for the moment in which
//! its last holder's traces are removed, or the whole segment is. Guards do not hinder each
//! other, and whoever meets one tries again ([`patiently`]) instead of being told that the slot is held.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

#[cfg(lgswitch_loom)]
pub use crate::model::lock::{holder, try_guard, try_lock, unlock};

/// The byte whose lock guards changes of the file as a whole: growing it, removing it. It is the
/// first byte past the peers page, so that no slot has it.
pub const ADMIN_BYTE: u64 = 4096;

/// Who holds a byte, as far as the kernel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody, though somebody may guard it for a moment.
    Free,
    /// An open file description; the kernel does not say whose.
    Description,
    /// A process, by a plain `fcntl` lock.
    Process(i32),
}

fn request(kind: libc::c_int, bytes: &Range<u64>) -> libc::flock {
    // SAFETY: `flock` is plain data, for which all zeroes is a value; `l_pid` must be 0 for
    // open-file-description locks.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = bytes.start as libc::off_t;
    lock.l_len = (bytes.end - bytes.start) as libc::off_t;
    lock
}

fn fcntl(file: &File, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    loop {
        // SAFETY: `lock` outlives the call, and the three commands used here take a `flock`.
        if unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut *lock) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Takes the write lock on `bytes` if nobody holds any of them; `false` if somebody does.
/// The lock goes with `file`'s last descriptor.
#[cfg(not(lgswitch_loom))]
pub fn try_lock(file: &File, bytes: Range<u64>) -> io::Result<bool> {
    set(file, libc::F_WRLCK, &bytes)
}

/// Keeps everyone from taking any of `bytes` if nobody holds any of them; `false` if somebody does.
/// To be given back soon.
#[cfg(not(lgswitch_loom))]
pub fn try_guard(file: &File, bytes: Range<u64>) -> io::Result<bool> {
    set(file, libc::F_RDLCK, &bytes)
}

#[cfg(not(lgswitch_loom))]
fn set(file: &File, kind: libc::c_int, bytes: &Range<u64>) -> io::Result<bool> {
    match fcntl(file, libc::F_OFD_SETLK, &mut request(kind, bytes)) {
        Ok(()) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Waits for the write lock on `bytes`.
pub fn lock(file: &File, bytes: Range<u64>) -> io::Result<()> {
    fcntl(
        file,
        libc::F_OFD_SETLKW,
        &mut request(libc::F_WRLCK, &bytes),
    )
}

/// Gives `bytes` back.
#[cfg(not(lgswitch_loom))]
pub fn unlock(file: &File, bytes: Range<u64>) -> io::Result<()> {
    fcntl(file, libc::F_OFD_SETLK, &mut request(libc::F_UNLCK, &bytes))
}

/// Who, other than `file`'s own description, holds byte `byte`.
#[cfg(not(lgswitch_loom))]
pub fn holder(file: &File, byte: u64) -> io::Result<Holder> {
    let mut lock = request(libc::F_WRLCK, &(byte..byte + 1));
    fcntl(file, libc::F_OFD_GETLK, &mut lock)?;
    Ok(match (i32::from(lock.l_type), lock.l_pid) {
        (libc::F_UNLCK | libc::F_RDLCK, _) => Holder::Free,
        (_, pid) if pid > 0 => Holder::Process(pid),
        _ => Holder::Description,
    })
}

/// What came of trying to take something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt<T> {
    /// That.
    Done(T),
    /// Somebody was in the way who will be gone in a moment.
    Guarded,
}

/// How often a guard is met before it is taken for a holder. A guard makes a handful of stores.
const PATIENCE: u32 = 100;

/// Makes an attempt, and makes it again for a tenth of a second at most while it meets guards. `None` if they
/// do not go away: their process is stopped, or means no good.
pub fn patiently<T, E>(mut attempt: impl FnMut() -> Result<Attempt<T>, E>) -> Result<Option<T>, E> {
    for _ in 0..PATIENCE {
        match attempt()? {
            Attempt::Done(result) => return Ok(Some(result)),
            Attempt::Guarded => pause(),
        }
    }
    Ok(None)
}

#[cfg(not(lgswitch_loom))]
fn pause() {
    std::thread::sleep(std::time::Duration::from_millis(1));
}

#[cfg(lgswitch_loom)]
use loom::thread::yield_now as pause;

/// Takes `byte`: `Done(false)` if it is held.
pub fn attempt(file: &File, byte: u64) -> io::Result<Attempt<bool>> {
    if try_lock(file, byte..byte + 1)? {
        return Ok(Attempt::Done(true));
    }
    Ok(match holder(file, byte)? {
        // Guarded, or free by now.
        Holder::Free => Attempt::Guarded,
        _ => Attempt::Done(false),
    })
}

/// Holds the admin lock until dropped.
pub struct AdminLock<'a>(&'a File);

impl<'a> AdminLock<'a> {
    /// Waits for it. Holders only do what is quick: grow a file, remove one.
    pub fn take(file: &'a File) -> io::Result<Self> {
        lock(file, ADMIN_BYTE..ADMIN_BYTE + 1)?;
        Ok(Self(file))
    }
}

impl Drop for AdminLock<'_> {
    fn drop(&mut self) {
        // Failing would mean a bad descriptor, and then the lock is gone with it.
        let _ = unlock(self.0, ADMIN_BYTE..ADMIN_BYTE + 1);
    }
}
