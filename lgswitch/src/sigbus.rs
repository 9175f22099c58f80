//! SIGBUS: somebody cut a sharenet file short under us.
//!
//! Touching a mapped page that is no longer in the file raises SIGBUS, and any peer that can
//! write the file can cut it. There is nothing to go on with, but the user is told why. Binaries
//! call [`install`] first thing.
//!
//! A guest's memory is another matter: a VMM that cuts it short has only itself to blame, and only
//! its own card ends. Its mapping is replaced by pages of nobody's, and whoever works with it is
//! told ([`Watch`]).
//!
//! `unsafe`: a signal handler. It reads a fixed table of atomics; it either puts pages in place of
//! those that are gone, or writes one sentence with `write(2)`, calls a hook that must be
//! async-signal-safe, and ends the process.

use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};

/// Mappings the handler can name. More than this are mapped without being told apart from other
/// reasons for SIGBUS.
const WATCHED: usize = 4096;

static START: [AtomicUsize; WATCHED] = [const { AtomicUsize::new(0) }; WATCHED];
static LEN: [AtomicUsize; WATCHED] = [const { AtomicUsize::new(0) }; WATCHED];
static KIND: [AtomicU8; WATCHED] = [const { AtomicU8::new(NEEDED) }; WATCHED];
static HOOK: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Without this mapping the program can't go on.
const NEEDED: u8 = 0;
/// Other pages may stand in for it.
const REPLACEABLE: u8 = 1;
/// Other pages stand in for it.
const REPLACED: u8 = 2;

/// Remembers a mapping; tells its place in the table.
fn enter(start: usize, len: usize, kind: u8) -> Option<usize> {
    for (i, (s, l)) in START.iter().zip(&LEN).enumerate() {
        // Taken by its address; watched from the store of its length on.
        if s.compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
        {
            KIND[i].store(kind, Ordering::Relaxed);
            l.store(len, Ordering::Release);
            return Some(i);
        }
    }
    None
}

/// Remembers a mapping.
#[cfg_attr(lgswitch_loom, allow(dead_code, reason = "a model maps nothing"))]
pub(crate) fn watch(start: usize, len: usize) {
    enter(start, len, NEEDED);
}

/// Forgets a mapping.
#[cfg_attr(lgswitch_loom, allow(dead_code, reason = "a model maps nothing"))]
pub(crate) fn forget(start: usize) {
    let found = START
        .iter()
        .position(|s| s.load(Ordering::Relaxed) == start);
    if let Some(i) = found {
        leave(i);
    }
}

fn leave(i: usize) {
    LEN[i].store(0, Ordering::Release);
    START[i].store(0, Ordering::Release);
}

/// A mapping the program can go on without.
#[cfg_attr(lgswitch_loom, allow(dead_code, reason = "a model maps nothing"))]
#[derive(Debug)]
pub(crate) struct Watch(usize);

#[cfg_attr(lgswitch_loom, allow(dead_code, reason = "a model maps nothing"))]
impl Watch {
    /// Watches the `len` bytes mapped at `start`; `None` if too much is watched already.
    ///
    /// # Safety
    /// They must be a mapping that stays until the watch is dropped. At any time zeroes may take the
    /// place of what they hold.
    pub(crate) unsafe fn replaceable(start: usize, len: usize) -> Option<Self> {
        enter(start, len, REPLACEABLE).map(Self)
    }

    /// Whether other pages stand there by now.
    #[inline]
    pub(crate) fn is_lost(&self) -> bool {
        KIND[self.0].load(Ordering::Acquire) == REPLACED
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        leave(self.0);
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
    let ours = START.iter().zip(&LEN).position(|(s, l)| {
        let start = s.load(Ordering::Acquire);
        start != 0 && address >= start && address - start < l.load(Ordering::Acquire)
    });
    if let Some(i) = ours
        && KIND[i].load(Ordering::Relaxed) != NEEDED
        && replace(
            START[i].load(Ordering::Relaxed),
            LEN[i].load(Ordering::Relaxed),
        )
    {
        KIND[i].store(REPLACED, Ordering::Release);
        // Back to the access that failed, which now succeeds.
        return;
    }
    let hook = HOOK.load(Ordering::Acquire);
    if !hook.is_null() {
        // SAFETY: only `install` stores here, and it stores an `extern "C" fn()`.
        let hook: extern "C" fn() = unsafe { std::mem::transmute(hook) };
        hook();
    }
    if ours.is_some() {
        // SAFETY: `write` and `_exit` are async-signal-safe; the message is static.
        unsafe {
            libc::write(2, MESSAGE.as_ptr().cast(), MESSAGE.len());
            libc::_exit(1);
        }
    }
    // Not ours: die of it, as without us.
    // SAFETY: both are async-signal-safe.
    unsafe {
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
        libc::raise(libc::SIGBUS);
    }
}

/// Puts pages of nobody's where a mapping was; tells whether that worked.
fn replace(start: usize, len: usize) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a system call and nothing else, so async-signal-safe; the range is a mapping whose
    // owner allowed this ([`Watch::replaceable`]).
    let result = unsafe { libc::mmap(start as *mut _, len, protection, flags, -1, 0) };
    result != libc::MAP_FAILED
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
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}
