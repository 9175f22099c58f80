//! Words that can end their writer: every store to shared memory is a moment at which a process
//! may die, and here it does so on request.
//!
//! A process that is killed between two stores leaves exactly the first. So "killed at any
//! instruction" is "killed before the n-th store, for every n", and that can be enumerated.

use std::sync::atomic::Ordering;

#[cfg(not(lgswitch_loom))]
use std::sync::atomic as raw;
#[cfg(lgswitch_loom)]
use {crate::model::death::lives, loom::sync::atomic as raw};

#[cfg(not(lgswitch_loom))]
pub use process::die_at_store;
#[cfg(not(lgswitch_loom))]
pub(crate) use process::lives;

#[cfg(not(lgswitch_loom))]
mod process {
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Stores left; at 0 nobody has asked for anything.
    static LEFT: AtomicU64 = AtomicU64::new(0);

    /// Kills this process by SIGKILL at its `n`-th store to shared memory from now, before the
    /// store is made; 0 lets it live.
    pub fn die_at_store(n: u64) {
        LEFT.store(n, Ordering::Relaxed);
    }

    /// Counts a store that is about to be made; `true`, or does not return.
    #[inline]
    pub(crate) fn lives() -> bool {
        match LEFT.load(Ordering::Relaxed) {
            0 => {}
            1 => loop {
                // SAFETY: asks the kernel to end this process, which it does before the call returns.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            },
            n => LEFT.store(n - 1, Ordering::Relaxed),
        }
        true
    }
}

macro_rules! mortal {
    ($name:ident, $int:ty, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug)]
        #[cfg_attr(not(lgswitch_loom), derive(Default), repr(transparent))]
        pub struct $name {
            word: raw::$name,
            /// See `model`: it makes loom see every access as one that matters.
            #[cfg(lgswitch_loom)]
            turn: raw::AtomicU8,
        }

        #[allow(missing_docs, dead_code, reason = "each as `std`'s")]
        impl $name {
            pub(crate) fn new(value: $int) -> Self {
                Self {
                    word: raw::$name::new(value),
                    #[cfg(lgswitch_loom)]
                    turn: raw::AtomicU8::new(0),
                }
            }

            /// # Safety
            /// As `std`'s.
            #[cfg(not(lgswitch_loom))]
            pub unsafe fn from_ptr<'a>(at: *mut $int) -> &'a Self {
                // SAFETY: the same layout, and the caller's promise.
                unsafe { &*at.cast() }
            }

            #[cfg(not(lgswitch_loom))]
            pub fn as_ptr(&self) -> *mut $int {
                self.word.as_ptr()
            }

            fn word(&self) -> &raw::$name {
                #[cfg(lgswitch_loom)]
                self.turn.store(0, Ordering::Relaxed);
                &self.word
            }

            pub fn load(&self, order: Ordering) -> $int {
                self.word().load(order)
            }

            pub fn store(&self, value: $int, order: Ordering) {
                if lives() {
                    self.word().store(value, order);
                }
            }

            pub fn swap(&self, value: $int, order: Ordering) -> $int {
                match lives() {
                    true => self.word().swap(value, order),
                    false => self.word().load(Ordering::Relaxed),
                }
            }

            pub fn fetch_or(&self, bits: $int, order: Ordering) -> $int {
                match lives() {
                    true => self.word().fetch_or(bits, order),
                    false => self.word().load(Ordering::Relaxed),
                }
            }

            pub fn fetch_max(&self, value: $int, order: Ordering) -> $int {
                match lives() {
                    true => self.word().fetch_max(value, order),
                    false => self.word().load(Ordering::Relaxed),
                }
            }

            pub fn compare_exchange(
                &self,
                current: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                match lives() {
                    true => self.word().compare_exchange(current, new, success, failure),
                    false => Err(self.word().load(Ordering::Relaxed)),
                }
            }
        }
    };
}

mortal!(AtomicU8, u8, "A byte.");
mortal!(AtomicU32, u32, "A word of 32 bits.");
mortal!(AtomicU64, u64, "A word of 64 bits.");
