//! What this machine can do at best: the least that carries frames, or a word, between two processes.
//!
//! The bare ring copies each frame in and out, as a segment does, with cached positions and one
//! publication a burst; it knows no peers, learns nothing, counts nothing, trusts its reader, and
//! never sleeps.

use std::fs::OpenOptions;
use std::hint::spin_loop;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::stage::{Part, Role};
use super::{Buffers, CLOCK, Measured, PATIENCE};
use crate::map::Mapping;
use crate::sync::AtomicU32;

/// The ring's size: as a sharenet's.
pub const RING: u64 = 1 << 20;
/// Its positions stand before it, a cache line each; and two words to play ping-pong with.
const HEAD: u64 = 0;
const TAIL: u64 = 128;
const PING: u64 = 256;
const PONG: u64 = 384;
const DATA: u64 = 4096;
/// A record of this length ends the measurement; a filler goes to the ring's end.
const LAST: u64 = u64::MAX;
const FILLER: u64 = u64::MAX - 1;

/// Makes the file.
pub fn create(path: &Path) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.set_len(DATA + RING)
        .context("Can't size the bare ring")
}

fn open(part: &Part) -> Result<Mapping> {
    let file = OpenOptions::new().read(true).write(true).open(&part.path)?;
    let map = Mapping::new(&file, 0, DATA + RING, true)?;
    map.populate(&file, 0, 0, DATA + RING)?;
    Ok(map)
}

/// Bytes a frame takes: its length, itself, up to a cache line.
fn record(size: usize) -> u64 {
    (8 + size as u64).next_multiple_of(64)
}

struct Writer {
    map: Mapping,
    head: u64,
    tail: u64,
}

impl Writer {
    /// Waits until `bytes` are free.
    fn room(&mut self, bytes: u64) -> Result<()> {
        let mut waited = 0u64;
        while self.head + bytes - self.tail > RING {
            self.tail = self.map.word64(TAIL).load(Ordering::Acquire);
            if self.head + bytes - self.tail > RING {
                self.publish();
                spin_loop();
                waited += 1;
                if waited > 1 << 32 {
                    bail!("The reader takes nothing any more");
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, frame: &[u8]) -> Result<()> {
        let (size, to_end) = (record(frame.len()), RING - self.head % RING);
        if size <= to_end {
            self.room(size)?;
        } else {
            self.room(to_end + size)?;
            self.put(FILLER);
            self.head += to_end;
        }
        self.put(frame.len() as u64);
        self.map.write(DATA + self.head % RING + 8, frame);
        self.head += size;
        Ok(())
    }

    fn put(&self, length: u64) {
        let at = DATA + self.head % RING;
        self.map.word64(at).store(length, Ordering::Relaxed);
    }

    fn publish(&self) {
        self.map.word64(HEAD).store(self.head, Ordering::Release);
    }
}

/// Writes bursts for the time given.
pub fn send(part: &Part, ready: impl FnOnce()) -> Result<Measured> {
    let mut ring = Writer {
        map: open(part)?,
        head: 0,
        tail: 0,
    };
    let mut buffers = Buffers::new(part.size);
    ready();
    let start = Instant::now();
    let mut result = Measured::default();
    let mut bursts = 0u64;
    while !bursts.is_multiple_of(CLOCK) || start.elapsed().as_secs_f64() < part.seconds {
        for _ in 0..part.burst {
            ring.write(buffers.next(part.size))?;
        }
        ring.publish();
        bursts += 1;
        result.count += part.burst as u64;
    }
    ring.room(64)?;
    ring.put(LAST);
    ring.head += 64;
    ring.publish();
    result.seconds = start.elapsed().as_secs_f64();
    Ok(result)
}

/// Reads until the last.
pub fn receive(part: &Part, ready: impl FnOnce()) -> Result<Measured> {
    let map = open(part)?;
    let mut buffers = Buffers::new(part.size);
    ready();
    let mut start = Instant::now();
    let (mut head, mut tail) = (0u64, 0u64);
    let mut result = Measured::default();
    let mut idle = 0u64;
    loop {
        let mut taken = 0;
        while taken < part.burst {
            if head == tail {
                head = map.word64(HEAD).load(Ordering::Acquire);
                if head == tail {
                    break;
                }
            }
            let at = DATA + tail % RING;
            match map.word64(at).load(Ordering::Relaxed) {
                LAST => {
                    result.seconds = start.elapsed().as_secs_f64();
                    return Ok(result);
                }
                FILLER => tail += RING - tail % RING,
                length => {
                    map.read(at + 8, buffers.next(length as usize));
                    tail += record(length as usize);
                    taken += 1;
                    result.bytes += length;
                }
            }
        }
        if taken == 0 {
            spin_loop();
            idle += 1;
            if idle.is_multiple_of(1 << 20) && start.elapsed() > PATIENCE {
                bail!("The writer is gone");
            }
            continue;
        }
        if result.count == 0 {
            start = Instant::now();
        }
        result.count += taken as u64;
        map.word64(TAIL).store(tail, Ordering::Release);
    }
}

/// Waits until the word is no longer `old`, asleep on it or polling; gives what it is then.
fn await_change(word: &AtomicU32, old: u32, sleepy: bool) -> Result<u32> {
    let start = Instant::now();
    let mut polls = 0u64;
    loop {
        let now = word.load(Ordering::Acquire);
        if now != old {
            return Ok(now);
        }
        if sleepy {
            futex(word, libc::FUTEX_WAIT, old);
        } else {
            spin_loop();
        }
        polls += 1;
        if (sleepy || polls.is_multiple_of(1 << 20)) && start.elapsed() > PATIENCE {
            bail!("The other side is gone");
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

/// What `pong` is told to end with.
const END: u32 = u32::MAX;

/// Round trips of a word for the time given.
pub fn ping(part: &Part, ready: impl FnOnce()) -> Result<Measured> {
    let sleepy = part.role == Role::FutexPing;
    let map = open(part)?;
    let (ping, pong) = (map.word32(PING), map.word32(PONG));
    ready();
    let start = Instant::now();
    let mut trips = Vec::new();
    let mut value = 0;
    while start.elapsed().as_secs_f64() < part.seconds {
        let sent = Instant::now();
        change(ping, value + 1, sleepy);
        value = await_change(pong, value, sleepy)?;
        trips.push(sent.elapsed().as_nanos() as u32);
    }
    change(ping, END, sleepy);
    Ok(Measured::of_round_trips(trips))
}

/// Answers each word with the same.
pub fn pong(part: &Part, ready: impl FnOnce()) -> Result<Measured> {
    let sleepy = part.role == Role::FutexPong;
    let map = open(part)?;
    let (ping, pong) = (map.word32(PING), map.word32(PONG));
    ready();
    let mut value = 0;
    loop {
        value = await_change(ping, value, sleepy)?;
        if value == END {
            return Ok(Measured::default());
        }
        change(pong, value, sleepy);
    }
}
