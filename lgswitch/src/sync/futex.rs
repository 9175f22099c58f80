//! Sleeping on a shared word: futex(2).

#[cfg(lgswitch_loom)]
pub(crate) use crate::model::futex::{wait, wake};

#[cfg(not(lgswitch_loom))]
pub(crate) use kernel::{wait, wake};

#[cfg(not(lgswitch_loom))]
mod kernel {
    use std::time::Duration;

    use crate::sync::AtomicU32;

    /// Sleeps while `word` is `expected`, at most `timeout`, until woken; may return early. Tells
    /// whether the time ran out.
    pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Duration) -> bool {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos() as libc::c_long,
        };
        // SAFETY: the word is a live atomic and the timeout outlives the call. Not
        // FUTEX_PRIVATE_FLAG: whoever wakes is another process.
        let result = unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT,
                expected,
                &raw const timeout,
            )
        };
        let error = std::io::Error::last_os_error().raw_os_error();
        result < 0 && error == Some(libc::ETIMEDOUT)
    }

    /// Wakes one who sleeps on `word`.
    pub(crate) fn wake(word: &AtomicU32) {
        // SAFETY: the word is a live atomic; FUTEX_WAKE does not read the other arguments.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
    }
}
