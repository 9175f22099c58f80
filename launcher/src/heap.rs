//! One heap for all threads.
//!
//! glibc gives each new thread a heap of its own, so that threads that allocate much don't wait for each
//! other. A launcher has ten threads that allocate a little at their start: for them it is memory that
//! lies idle, in every launcher of a host.

/// From now on threads share the heap there is. To be called before there are any.
pub fn share() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number in the C library, under a lock of that.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
