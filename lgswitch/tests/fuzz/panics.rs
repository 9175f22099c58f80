//! Panics of any thread, counted. (The launcher's tests have this file, too.)

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many there were since the first call: those that serve a card or a device end in themselves.
pub fn count_panics() -> usize {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            told(panic);
        }));
    });
    PANICS.load(Ordering::SeqCst)
}
