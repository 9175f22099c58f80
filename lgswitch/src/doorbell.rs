//! How a port sleeps, and how a peer wakes it.
//!
//! Each slot record has a bell (a futex word) and a set of pending bits, one for each possible
//! source. A source that has published something sets its bit in the receiver's set, then wakes
//! the receiver if, and only if, it sleeps. Bit and bell are hints: a receiver sweeps all sources
//! whenever its bounded sleep ends, so a source that dies between publishing and ringing costs a
//! delay, and one that scribbles over them costs a wasted look.
//!
//! # Why no wake-up is lost
//!
//! ```text
//! source:    store head ; fence ; set bit ; fence ; load bell
//! receiver:  store bell = ASLEEP ; fence ; load bits ; wait while bell = ASLEEP
//! ```
//!
//! The fences are sequentially consistent, so either the source sees `ASLEEP` and wakes, or the
//! receiver sees the bit and does not wait. The kernel compares the bell under its own lock, so a
//! ring between the last look and the wait ends the wait at once. Likewise for the bit: the source
//! skips setting a bit that is set, and the receiver clears the bits before it looks at heads, with
//! a fence between on both sides; either the source sees the bit clear, or the receiver sees the head.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::layout::slot_record::{BELL, PENDING};
use crate::map::Mapping;
use crate::slot::{SLOT_WORDS, SlotIndex, SlotSet};
use crate::sync::{AtomicU32, fence, futex};

/// The receiver is up, or about to look.
pub const AWAKE: u32 = 0;
/// The receiver waits on the bell.
pub const ASLEEP: u32 = 1;

/// Tells `to`, whose slot record is at `record`, that `from` has published something.
#[inline]
pub fn ring(control: &Mapping, record: u64, from: SlotIndex) {
    let (word, bit) = (from.get() as u64 / 64, 1u64 << (from.get() % 64));
    let pending = control.word64(record + PENDING + word * 8);
    fence(Ordering::SeqCst);
    if pending.load(Ordering::Relaxed) & bit == 0 {
        pending.fetch_or(bit, Ordering::SeqCst);
    }
    fence(Ordering::SeqCst);
    wake(control.word32(record + BELL));
}

/// Wakes whoever waits on `bell`; a system call only if somebody does.
#[inline]
pub fn wake(bell: &AtomicU32) {
    let asleep = bell.load(Ordering::Relaxed) == ASLEEP
        // Of several sources at once, one makes the call.
        && bell
            .compare_exchange(ASLEEP, AWAKE, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok();
    if asleep {
        futex::wake(bell);
    }
}

/// Moves the pending bits of the slot record at `record` into `set`.
#[inline]
pub fn collect(control: &Mapping, record: u64, set: &mut SlotSet) {
    for word in 0..SLOT_WORDS {
        let pending = control.word64(record + PENDING + word as u64 * 8);
        if pending.load(Ordering::Relaxed) != 0 {
            set.insert_word(word, pending.swap(0, Ordering::SeqCst));
        }
    }
    fence(Ordering::SeqCst);
}

/// Sleeps until rung, at most `timeout`, unless a bit is pending or `stay_awake` says so after the
/// bell was set. Tells whether the time ran out.
pub fn sleep(
    control: &Mapping,
    record: u64,
    timeout: Duration,
    stay_awake: impl FnOnce() -> bool,
) -> bool {
    let bell = control.word32(record + BELL);
    bell.store(ASLEEP, Ordering::SeqCst);
    fence(Ordering::SeqCst);
    let pending = (0..SLOT_WORDS as u64).any(|word| {
        control
            .word64(record + PENDING + word * 8)
            .load(Ordering::Relaxed)
            != 0
    });
    let mut timed_out = false;
    if !pending && !stay_awake() {
        // It returns at once if the bell is not ASLEEP.
        timed_out = futex::wait(bell, ASLEEP, timeout);
    }
    bell.store(AWAKE, Ordering::SeqCst);
    timed_out
}
