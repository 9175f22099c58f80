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
//! `unsafe`: a signal handler. It reads tables of atomics that only grow; it either puts pages in place of
//! those that are gone, or writes one sentence with `write(2)`, calls a hook that must be
//! async-signal-safe, and ends the process.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};

/// A mapping the handler can name.
#[derive(Debug)]
struct Entry {
    /// 0 in one that is free.
    start: AtomicUsize,
    len: AtomicUsize,
    kind: AtomicU8,
}

/// Entries that are searched one after another, and more of them when those are in use: a signal
/// handler can follow a pointer, and take no lock. What was added once stays.
struct Table {
    entries: [Entry; 256],
    next: AtomicPtr<Table>,
}

static FIRST: Table = Table::new();
static HOOK: AtomicPtr<()> = AtomicPtr::new(null_mut());

/// Without this mapping the program can't go on.
const NEEDED: u8 = 0;
/// Other pages may stand in for it.
const REPLACEABLE: u8 = 1;
/// Other pages stand in for it.
const REPLACED: u8 = 2;
/// Without this mapping of a guest's kernel, say, the program can't go on either.
const GUESTS: u8 = 3;

impl Entry {
    const fn new() -> Self {
        Self {
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            kind: AtomicU8::new(NEEDED),
        }
    }

    /// Makes it one of these bytes, if it is free.
    fn take(&self, start: usize, len: usize, kind: u8) -> bool {
        // Taken by its address; watched from the store of its length on.
        let taken = self
            .start
            .compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if taken {
            self.kind.store(kind, Ordering::Relaxed);
            self.len.store(len, Ordering::Release);
        }
        taken
    }

    fn leave(&self) {
        self.len.store(0, Ordering::Release);
        self.start.store(0, Ordering::Release);
    }

    fn contains(&self, address: usize) -> bool {
        let start = self.start.load(Ordering::Acquire);
        start != 0 && address >= start && address - start < self.len.load(Ordering::Acquire)
    }
}

impl Table {
    const fn new() -> Self {
        Self {
            entries: [const { Entry::new() }; 256],
            next: AtomicPtr::new(null_mut()),
        }
    }

    /// The one after it, if there is one.
    fn next(&self) -> Option<&'static Table> {
        // SAFETY: null, or a table that `grow` made and nobody frees.
        unsafe { self.next.load(Ordering::Acquire).as_ref() }
    }

    /// The one after it, made if need be.
    fn grow(&self) -> &'static Table {
        loop {
            if let Some(next) = self.next() {
                return next;
            }
            let made = Box::into_raw(Box::new(Table::new()));
            let put =
                self.next
                    .compare_exchange(null_mut(), made, Ordering::AcqRel, Ordering::Relaxed);
            if put.is_err() {
                // SAFETY: made just now, and seen by nobody: another thread was first.
                drop(unsafe { Box::from_raw(made) });
            }
        }
    }
}

fn entries() -> impl Iterator<Item = &'static Entry> {
    std::iter::successors(Some(&FIRST), |table| table.next()).flat_map(|table| &table.entries)
}

/// Remembers a mapping.
fn enter(start: usize, len: usize, kind: u8) -> &'static Entry {
    let mut table = &FIRST;
    loop {
        let free = table.entries.iter().find(|e| e.take(start, len, kind));
        match free {
            Some(entry) => return entry,
            None => table = table.grow(),
        }
    }
}

/// Remembers a mapping.
#[cfg_attr(lgswitch_loom, allow(dead_code, reason = "a model maps nothing"))]
pub(crate) fn watch(start: usize, len: usize) {
    enter(start, len, NEEDED);
}

/// Forgets a mapping.
#[cfg_attr(lgswitch_loom, allow(dead_code, reason = "a model maps nothing"))]
pub(crate) fn forget(start: usize) {
    let found = entries().find(|entry| entry.start.load(Ordering::Relaxed) == start);
    if let Some(entry) = found {
        entry.leave();
    }
}

/// A mapping the program can go on without.
#[cfg_attr(
    any(lgswitch_loom, target_pointer_width = "32"),
    allow(
        dead_code,
        reason = "a model maps nothing; a card's memory is of 64 bits"
    )
)]
#[derive(Debug)]
pub(crate) struct Watch(&'static Entry);

#[cfg_attr(
    any(lgswitch_loom, target_pointer_width = "32"),
    allow(dead_code, reason = "as above")
)]
impl Watch {
    /// Watches the `len` bytes mapped at `start`.
    ///
    /// # Safety
    /// They must be a mapping that stays until the watch is dropped. At any time zeroes may take the
    /// place of what they hold.
    pub(crate) unsafe fn replaceable(start: usize, len: usize) -> Self {
        Self(enter(start, len, REPLACEABLE))
    }

    /// Whether other pages stand there by now.
    #[inline]
    pub(crate) fn is_lost(&self) -> bool {
        self.0.kind.load(Ordering::Acquire) == REPLACED
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// A guest's memory with files mapped into it, which nobody can go on without. Watched until this is dropped.
#[derive(Debug)]
pub struct GuestFiles(&'static Entry);

impl GuestFiles {
    /// Watches the `len` bytes mapped at `start`.
    pub fn watch(start: usize, len: usize) -> Self {
        Self(enter(start, len, GUESTS))
    }
}

impl Drop for GuestFiles {
    fn drop(&mut self) {
        self.0.leave();
    }
}

const GUESTS_MESSAGE: &str = "\r\nA file that was mapped into the guest's memory (its kernel, its initrd or \
a sharenet) was truncated, or its filesystem failed, while the guest ran; it cannot go on.\r\n";

const MESSAGE: &str = "\r\nA sharenet file was truncated, or its filesystem failed, while this \
program had it mapped; it cannot go on. Make the segment anew with 'lgswitch create'.\r\n";

extern "C" fn handler(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel gives a valid `siginfo_t` to an SA_SIGINFO handler.
    let address = unsafe { (*info).si_addr() } as usize;
    let ours = entries().find(|entry| entry.contains(address));
    if let Some(entry) = ours
        && matches!(entry.kind.load(Ordering::Relaxed), REPLACEABLE | REPLACED)
        && replace(
            entry.start.load(Ordering::Relaxed),
            entry.len.load(Ordering::Relaxed),
        )
    {
        entry.kind.store(REPLACED, Ordering::Release);
        // Back to the access that failed, which now succeeds.
        return;
    }
    let hook = HOOK.load(Ordering::Acquire);
    if !hook.is_null() {
        // SAFETY: only `install` stores here, and it stores an `extern "C" fn()`.
        let hook: extern "C" fn() = unsafe { std::mem::transmute(hook) };
        hook();
    }
    if let Some(entry) = ours {
        let message = match entry.kind.load(Ordering::Relaxed) {
            GUESTS => GUESTS_MESSAGE,
            _ => MESSAGE,
        };
        // SAFETY: `write` and `_exit` are async-signal-safe; the message is static.
        unsafe {
            libc::write(2, message.as_ptr().cast(), message.len());
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
    let hook = restore.map_or(null_mut(), |f| f as *mut ());
    HOOK.store(hook, Ordering::Release);
    // SAFETY: a zeroed `sigaction` with a handler of the SA_SIGINFO form is a valid one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}
