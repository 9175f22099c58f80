//! The words that processes share, and what else the protocol's proofs must get their hands on.
//!
//! In a normal build these are `std`'s atomics and the kernel's futex, and nothing else. Two other
//! builds put something in their place, so that the very code of the rings is tried, not a copy:
//!
//! * `--cfg lgswitch_loom`: the words of [`loom`](https://docs.rs/loom), which runs a test under every order of
//!   events the memory model allows; see `model`. (Its own flag, because some dependencies mean
//!   something else by `loom`.)
//! * feature `failpoints`: words that count stores, and kill the process before the n-th; see
//!   [`mortal`].

pub(crate) mod futex;
#[cfg(target_pointer_width = "64")]
pub(crate) mod lead;
#[cfg(any(lgswitch_loom, feature = "failpoints"))]
pub mod mortal;

#[cfg(lgswitch_loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, fence};
#[cfg(any(lgswitch_loom, feature = "failpoints"))]
pub use mortal::{AtomicU8, AtomicU32, AtomicU64};
#[cfg(not(lgswitch_loom))]
pub(crate) use std::sync::atomic::{AtomicBool, fence};
#[cfg(not(any(lgswitch_loom, feature = "failpoints")))]
pub use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

/// Called before bytes are copied into shared memory: a moment to die at, where that is asked for.
#[cfg(not(lgswitch_loom))]
#[inline(always)]
pub(crate) fn before_copy() {
    #[cfg(feature = "failpoints")]
    mortal::lives();
}
