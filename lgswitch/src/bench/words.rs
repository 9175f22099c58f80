//! The bound of a round trip: one word there and another back, by cache line or by futex.

use std::hint::spin_loop;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::arena::Arena;
use super::{Measured, Patience};
use crate::sync::AtomicU32;

/// What `pong` is told to end with.
const END: u32 = u32::MAX;

/// Waits until the word is no longer `old`, asleep on it or polling; gives what it is then.
fn await_change(word: &AtomicU32, old: u32, sleepy: bool) -> Result<u32> {
    let mut patience = Patience::new();
    loop {
        let now = word.load(Ordering::Acquire);
        if now != old {
            return Ok(now);
        }
        if sleepy {
            futex(word, libc::FUTEX_WAIT, old);
            patience.check()?;
        } else {
            spin_loop();
            patience.poll()?;
        }
    }
}

fn change(word: &AtomicU32, value: u32, sleepy: bool) {
    word.store(value, Ordering::Release);
    if sleepy {
        futex(word, libc::FUTEX_WAKE, 1);
    }
}

fn futex(word: &AtomicU32, operation: libc::c_int, value: u32) {
    let timeout = libc::timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    // SAFETY: a live word and a timeout that outlives the call; waking does not read it.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            operation,
            value,
            &raw const timeout,
        )
    };
}

/// Round trips of a word for the time given.
pub fn ping(
    arena: &Arena,
    sleepy: bool,
    seconds: f64,
    ready: impl FnOnce() -> Result<()>,
) -> Result<Measured> {
    let (ping, pong) = (arena.ping(), arena.pong());
    ping.store(0, Ordering::Relaxed);
    pong.store(0, Ordering::Relaxed);
    ready()?;
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut trips = Vec::new();
    let mut value = 0;
    let mut sent = Instant::now();
    while sent < end {
        change(ping, value + 1, sleepy);
        value = await_change(pong, value, sleepy)?;
        let back = Instant::now();
        trips.push((back - sent).as_nanos() as u32);
        sent = back;
    }
    change(ping, END, sleepy);
    Ok(Measured::of_round_trips(trips))
}

/// Answers each word with the same.
pub fn pong(arena: &Arena, sleepy: bool, ready: impl FnOnce() -> Result<()>) -> Result<Measured> {
    ready()?;
    let mut value = 0;
    loop {
        value = await_change(arena.ping(), value, sleepy)?;
        if value == END {
            return Ok(Measured::default());
        }
        change(arena.pong(), value, sleepy);
    }
}
