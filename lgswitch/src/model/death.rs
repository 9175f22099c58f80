//! Dying at the n-th store.
//!
//! A killed process simply stops. A thread of a model that is to die unwinds to its start instead,
//! and whatever destructors do on the way, they store nothing: that leaves what SIGKILL leaves.
//! The kernel's part, dropping the locks, is done by [`super::lock::Closing`].

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Stores left to a thread.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Life {
    Immortal,
    Left(u64),
    Dead,
}

loom::thread_local! {
    static LIFE: Cell<Life> = Cell::new(Life::Immortal);
}

struct Killed;

/// Counts a store that is about to be made. `false` if the dead must not make it.
pub fn lives() -> bool {
    // A thread whose locals are gone is at its end, and not one of those that die young.
    let life = LIFE.try_with(Cell::get).unwrap_or(Life::Immortal);
    match life {
        Life::Immortal => true,
        Life::Dead => false,
        Life::Left(0) => {
            LIFE.with(|life| life.set(Life::Dead));
            resume_unwind(Box::new(Killed));
        }
        Life::Left(n) => {
            LIFE.with(|life| life.set(Life::Left(n - 1)));
            true
        }
    }
}

/// Lives `life` and dies instead of its store number `stores` (the first is 0). `None` if it died.
pub fn die_at<T>(stores: u64, life: impl FnOnce() -> T) -> Option<T> {
    LIFE.with(|life| life.set(Life::Left(stores)));
    let end = catch_unwind(AssertUnwindSafe(life));
    LIFE.with(|life| life.set(Life::Immortal));
    match end {
        Ok(lived) => Some(lived),
        Err(death) if death.is::<Killed>() => None,
        Err(panic) => resume_unwind(panic),
    }
}
