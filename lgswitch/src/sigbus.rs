//! SIGBUS: somebody cut a sharenet file short under us.
//!
//! Touching a mapped page that is no longer in the file raises SIGBUS, and any peer that can
//! write the file can cut it. There is nothing to go on with, but the user is told why. Binaries
//! call [`install`] first thing.
//!
//! `unsafe`: a signal handler. It reads a fixed table of atomics, writes one sentence with
//! `write(2)`, calls a hook that must be async-signal-safe, and ends the process.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Mappings the handler can name. More than this are mapped without being told apart from other
/// reasons for SIGBUS.
const WATCHED: usize = 4096;

static START: [AtomicUsize; WATCHED] = [const { AtomicUsize::new(0) }; WATCHED];
static LEN: [AtomicUsize; WATCHED] = [const { AtomicUsize::new(0) }; WATCHED];
static HOOK: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Remembers a mapping.
#[cfg_attr(lgswitch_loom, allow(dead_code, reason = "a model maps nothing"))]
pub(crate) fn watch(start: usize, len: usize) {
    for (s, l) in START.iter().zip(&LEN) {
        if s.compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
        {
            l.store(len, Ordering::Release);
            return;
        }
    }
}

/// Forgets a mapping.
#[cfg_attr(lgswitch_loom, allow(dead_code, reason = "a model maps nothing"))]
pub(crate) fn forget(start: usize) {
    for (s, l) in START.iter().zip(&LEN) {
        if s.load(Ordering::Relaxed) == start {
            l.store(0, Ordering::Release);
            s.store(0, Ordering::Release);
            return;
        }
    }
}

const MESSAGE: &str = "\r\nA sharenet file was truncated, or its filesystem failed, while this \
program had it mapped; it cannot go on. Make the segment anew with 'lgswitch create'.\r\n";

extern "C" fn handler(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel gives a valid `siginfo_t` to an SA_SIGINFO handler.
    let address = unsafe { (*info).si_addr() } as usize;
    let ours = START.iter().zip(&LEN).any(|(s, l)| {
        let start = s.load(Ordering::Acquire);
        start != 0 && address >= start && address - start < l.load(Ordering::Acquire)
    });
    let hook = HOOK.load(Ordering::Acquire);
    if !hook.is_null() {
        // SAFETY: only `install` stores here, and it stores an `extern "C" fn()`.
        let hook: extern "C" fn() = unsafe { std::mem::transmute(hook) };
        hook();
    }
    if ours {
        // SAFETY: `write` and `_exit` are async-signal-safe; the message is static.
        unsafe {
            libc::write(2, MESSAGE.as_ptr().cast(), MESSAGE.len());
            libc::_exit(1);
        }
    }
    // Not ours: die of it, as without us. The action was reset on entry.
    // SAFETY: `raise` is async-signal-safe.
    unsafe { libc::raise(libc::SIGBUS) };
}

/// Turns SIGBUS on a sharenet into a sentence and exit status 1. `restore`, if given, is called
/// first (to put a terminal back, say) and must be async-signal-safe.
pub fn install(restore: Option<extern "C" fn()>) {
    let hook = restore.map_or(std::ptr::null_mut(), |f| f as *mut ());
    HOOK.store(hook, Ordering::Release);
    // SAFETY: a zeroed `sigaction` with a handler of the SA_SIGINFO form is a valid one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND | libc::SA_NODEFER;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}
