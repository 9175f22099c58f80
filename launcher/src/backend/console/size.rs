//! The size of the window the console is shown in, for guests that want to know (a virtio console
//! has a field for it; a serial port has none).

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::error::Error;

/// A window's size, in characters. Neither is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// How many there are in a row.
    pub columns: u16,
    /// How many rows.
    pub rows: u16,
}

/// The console's size, as it is now. Clones share it; it is a file descriptor, readable from a
/// change until [`ConsoleSize::take_change`], so one of them may wait on it.
#[derive(Debug, Clone)]
pub struct ConsoleSize(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Columns in the upper half, rows in the lower; 0: not known.
    size: AtomicU32,
    changed: EventFd,
}

impl ConsoleSize {
    /// A size that is not known yet.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn unknown() -> Result<Self, Error> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let changed = EventFd::from_flags(flags).map_err(Error::system("make an event"))?;
        Ok(Self(Arc::new(Shared {
            size: AtomicU32::new(0),
            changed,
        })))
    }

    /// What it is, if it is known: without a terminal it is not.
    pub fn get(&self) -> Option<WindowSize> {
        let size = self.0.size.load(Ordering::Relaxed);
        let (columns, rows) = ((size >> 16) as u16, size as u16);
        (size != 0).then_some(WindowSize { columns, rows })
    }

    /// What it has become. `None`, for it is not known, leaves it as it is.
    pub fn set(&self, size: Option<WindowSize>) {
        let Some(WindowSize { columns, rows }) = size else {
            return;
        };
        let size = u32::from(columns) << 16 | u32::from(rows);
        if self.0.size.swap(size, Ordering::Relaxed) != size {
            // It fails when nobody has looked 2^64 times: then it is readable anyway.
            let _ = self.0.changed.write(1);
        }
    }

    /// Whether it has changed since this was last asked. Ask, then [`ConsoleSize::get`].
    pub fn take_change(&self) -> bool {
        self.0.changed.read().is_ok()
    }
}

impl AsFd for ConsoleSize {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.changed.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_no_change_never() {
        let size = ConsoleSize::unknown().unwrap();
        assert_eq!((size.get(), size.take_change()), (None, false));
        let window = WindowSize {
            columns: 132,
            rows: 50,
        };
        let writer = size.clone();
        writer.set(Some(window));
        assert_eq!(
            (size.take_change(), size.get(), size.take_change()),
            (true, Some(window), false)
        );
        writer.set(Some(window));
        writer.set(None);
        assert_eq!((size.take_change(), size.get()), (false, Some(window)));
    }
}
