//! What a launcher takes of its host's memory whatever it runs, kept small: many run on one host.
//!
//! * **One heap for all threads.** glibc gives each new thread a heap of its own, so that threads that
//!   allocate much don't wait for each other. A launcher has ten threads that allocate a little at their
//!   start: for them it is memory that lies idle.
//! * **What is freed goes back.** glibc keeps up to two megabytes for later once somebody has used one and given it back,
//!   as those do that read a kernel.
//! * **Stacks smaller than a large page.** Rust's are exactly as large. One that lies at a multiple of its
//!   size, as those do that come right below a guest's memory, would become a large page when its thread
//!   begins.

/// Bytes of a thread's stack, half of a large page's and more than any of them uses.
const STACK: &str = "1048576";

/// Allocations of so many bytes are mappings of their own, and so much may lie unused at the heap's end: what glibc
/// starts with, and stays with once it was told.
#[cfg(target_env = "gnu")]
const HEAP: libc::c_int = 128 << 10;

/// Sees to all three. To be called before there are threads.
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, HEAP),
        (libc::M_TRIM_THRESHOLD, HEAP),
    ] {
        // SAFETY: it sets a number in the C library, under a lock of that.
        let _ = unsafe { libc::mallopt(parameter, value) };
    }
    if std::env::var_os("RUST_MIN_STACK").is_none() {
        // SAFETY: there is no other thread that could read the environment meanwhile.
        unsafe { std::env::set_var("RUST_MIN_STACK", STACK) };
    }
}
