//! A futex that never times out: whoever is not woken sleeps for ever, and loom calls it a
//! deadlock. What the kernel does under its own lock is done under one here.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use loom::sync::{Condvar, Mutex};

use crate::sync::AtomicU32;

loom::lazy_static! {
    /// One for all words: who is woken in vain looks again, as the protocol allows.
    static ref WAKES: Mutex<u64> = Mutex::new(0);
    static ref WOKEN: Condvar = Condvar::new();
}

/// Sleeps while `word` is `expected`.
pub(crate) fn wait(word: &AtomicU32, expected: u32, _timeout: Duration) -> bool {
    let mut wakes = WAKES.lock().expect("nobody panics with it");
    if word.load(Relaxed) == expected {
        let before = *wakes;
        while *wakes == before {
            wakes = WOKEN.wait(wakes).expect("nobody panics with it");
        }
    }
    false
}

/// Wakes whoever sleeps.
pub(crate) fn wake(_word: &AtomicU32) {
    *WAKES.lock().expect("nobody panics with it") += 1;
    WOKEN.notify_all();
}
