//! Several threads that wait for different things, and one kind of work to be done whenever any of
//! those has come.
//!
//! Whoever wakes does the work itself, there and then, rather than wake another to do it: that would
//! cost a wake-up more before the work begins. If it is being done already, a note is left, and who does
//! it starts over. (The pattern is called leader and followers; the note is a *call*.)
//!
//! # Why no call is lost
//!
//! All is one word, and every step reads and writes it at once. A call finds it `FREE`, and the caller
//! leads; or not, and leaves it `CALLED`. Who leads takes the calls there are by making the word `LED`,
//! *then* works, and stops only by making `LED` into `FREE`, which fails if there was a call since.
//! So between any call and the time when nobody leads there is a whole round of work that began after
//! the call; and since the step that takes a call reads what the call wrote, that round sees all that
//! the caller saw.

use std::sync::atomic::Ordering;

use super::AtomicU32;

/// Nobody works.
const FREE: u32 = 0;
/// Somebody does.
const LED: u32 = 1;
/// Somebody does, or is about to, and is to do it once more.
const CALLED: u32 = 2;

/// Who of several threads works.
#[derive(Debug)]
pub struct Lead(AtomicU32);

impl Default for Lead {
    fn default() -> Self {
        Self(AtomicU32::new(FREE))
    }
}

impl Lead {
    /// Has `work` done from the start at least once from now on: by the caller, or by who is at it.
    pub fn call(&self, mut work: impl FnMut()) {
        if self.0.swap(CALLED, Ordering::AcqRel) != FREE {
            return;
        }
        loop {
            self.0.swap(LED, Ordering::AcqRel);
            work();
            let stopped = self
                .0
                .compare_exchange(LED, FREE, Ordering::AcqRel, Ordering::Relaxed);
            if stopped.is_ok() {
                return;
            }
        }
    }
}

#[cfg(all(test, not(lgswitch_loom)))]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn who_is_called_while_it_works_starts_over_and_the_caller_goes_on() {
        let lead = Lead::default();
        let rounds = Cell::new(0);
        lead.call(|| {
            rounds.set(rounds.get() + 1);
            if rounds.get() < 3 {
                // Twice is one note.
                lead.call(|| panic!("led twice"));
                lead.call(|| panic!("led twice"));
            }
        });
        assert_eq!(rounds.get(), 3);
        lead.call(|| rounds.set(rounds.get() + 1));
        assert_eq!(rounds.get(), 4);
    }
}
