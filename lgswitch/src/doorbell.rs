//! How a port sleeps, and how a peer wakes it.
//!
//! Each slot record has a bell (a futex word) and a set of pending bits, one for each possible
//! source. A set bit says: this source has published something, and the receiver will look at it
//! before it sleeps. So a source that has published sets its bit if it is clear, and wakes the
//! receiver if, and only if, it sleeps. A receiver that is up leaves the bits of busy sources set
//! and just looks at them; they are cleared before it sleeps, or when nothing has come for a
//! while. Between two that are both busy neither word is written, and their cache lines stay where
//! they are.
//!
//! Bit and bell are hints: a receiver sweeps all sources whenever its bounded sleep ends, so a
//! source that dies between publishing and ringing costs a delay, and one that scribbles over them
//! costs a wasted look.
//!
//! # Why no wake-up is lost
//!
//! ```text
//! source:    store head ; fence ; bit clear? set it ; fence ; load bell, wake if ASLEEP
//! receiver:  clear bits ; fence ; load heads ; store bell = ASLEEP ; fence ; load bits ; wait while bell = ASLEEP
//! ```
//!
//! The fences are sequentially consistent. Head and bit: either the source sees its bit clear and
//! sets it, or the receiver, which looks at all heads after it cleared the bits, sees the head. Bit and
//! bell: either the source sees `ASLEEP` and wakes, or the receiver sees the bit and does not wait; a
//! bit that was set before was followed by such a fence when it was. The kernel compares the bell under its own lock,
//! so a ring between the last look and the wait ends the wait at once.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::layout::slot_record::{BELL, PENDING};
use crate::map::Mapping;
use crate::slot::{SLOT_WORDS, SlotIndex};
use crate::sync::{AtomicU32, fence, futex};

/// The receiver is up, or about to look.
pub const AWAKE: u32 = 0;
/// The receiver waits on the bell.
pub const ASLEEP: u32 = 1;

/// Tells the ports whose slot records are at `records` that `from` has published something: one
/// pair of fences for all of them.
#[inline]
pub fn ring(control: &Mapping, records: impl Iterator<Item = u64> + Clone, from: SlotIndex) {
    let (word, bit) = (from.get() as u64 / 64, 1u64 << (from.get() % 64));
    fence(Ordering::SeqCst);
    let mut any_clear = false;
    for record in records.clone() {
        let pending = control.word64(record + PENDING + word * 8);
        if pending.load(Ordering::Relaxed) & bit == 0 {
            pending.fetch_or(bit, Ordering::SeqCst);
            any_clear = true;
        }
    }
    if any_clear {
        fence(Ordering::SeqCst);
    }
    for record in records {
        wake(control.word32(record + BELL));
    }
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

/// Calls `found` with each word of pending bits of the slot record at `record` that is not empty, of
/// those that `slots` slots need; they stay set.
#[inline]
pub fn peek(control: &Mapping, record: u64, slots: usize, mut found: impl FnMut(usize, u64)) {
    for word in 0..slots.div_ceil(64) {
        let pending = control.word64(record + PENDING + word as u64 * 8);
        let bits = pending.load(Ordering::Relaxed);
        if bits != 0 {
            found(word, bits);
        }
    }
}

/// As [`peek`], and clears them: all heads are to be looked at afterwards.
pub fn collect(control: &Mapping, record: u64, slots: usize, mut found: impl FnMut(usize, u64)) {
    peek(control, record, slots, |word, _| {
        let pending = control.word64(record + PENDING + word as u64 * 8);
        found(word, pending.swap(0, Ordering::SeqCst));
    });
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
