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

/// Lets go of the program's code, what it only reads, and what was freed amidst the heap: most of what a launcher
/// does is done once its guest runs. What is still needed comes back from the program's file, and most
/// of it in large pieces (Linux maps 64 KiB around a fault), so that this is to be done late, and once.
pub fn let_go_of_what_has_run() {
    // SAFETY: a function of the C library that may be called at any time.
    #[cfg(target_env = "gnu")]
    let _ = unsafe { libc::malloc_trim(0) };
    // SAFETY: the function is called before this returns, and does not look at the data.
    unsafe { libc::dl_iterate_phdr(Some(let_go_of_program), std::ptr::null_mut()) };
}

/// Is shown the first object, the program itself, and asks for no more.
///
/// # Safety
/// To be called by `dl_iterate_phdr`, while there is no other thread that unloads the program.
unsafe extern "C" fn let_go_of_program(
    object: *mut libc::dl_phdr_info,
    _: libc::size_t,
    _: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: by contract a valid description.
    let object = unsafe { &*object };
    // SAFETY: by contract its headers, in memory as long as the program is.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()) };
    // SAFETY: it only tells a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1) as usize;
    for header in headers {
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            let start = object.dlpi_addr as usize + header.p_vaddr as usize;
            let end = start + header.p_memsz as usize;
            let start = start - start % page;
            let address = std::ptr::without_provenance_mut(start);
            // SAFETY: a mapping that nobody can have written to, so that its file has the same. Where the kernel
            // refuses it, nothing happens.
            let _ = unsafe { libc::madvise(address, end - start, libc::MADV_DONTNEED) };
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Among what the program writes, and not zero in its file.
    static WRITTEN: AtomicU32 = AtomicU32::new(1);

    #[test]
    fn a_program_that_let_go_of_itself_goes_on_with_what_it_wrote() {
        let text = format!("in the heap {}", WRITTEN.swap(7, Ordering::Relaxed));
        let freed: Vec<_> = (0..1000).map(|_| vec![0_u8; 4096]).collect();
        drop(freed);
        let_go_of_what_has_run();
        assert_eq!(WRITTEN.load(Ordering::Relaxed), 7);
        assert_eq!(text, "in the heap 1");
    }
}
