//! What a launcher takes of its host's memory whatever it runs, kept small: many run on one host.
//!
//! * **One heap for all threads.** glibc gives each new thread a heap of its own, so that threads that
//!   allocate much don't wait for each other. A launcher has ten threads that allocate a little at their
//!   start: for them it is memory that lies idle.
//! * **Stacks smaller than a large page.** Rust's are exactly as large. One that lies at a multiple of its
//!   size, as those do that come right below a guest's memory, would become a large page when its thread
//!   begins.

/// Bytes of a thread's stack, half of a large page's and more than any of them uses.
const STACK: &str = "1048576";

/// Sees to both. To be called before there are threads.
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number in the C library, under a lock of that.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    if std::env::var_os("RUST_MIN_STACK").is_none() {
        // SAFETY: there is no other thread that could read the environment meanwhile.
        unsafe { std::env::set_var("RUST_MIN_STACK", STACK) };
    }
}
