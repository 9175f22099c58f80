//! Locks on bytes of the file, held by open file descriptions.
//!
//! The real ones order what is done under them (the kernel takes a spin lock of its own), so each
//! byte is a word that is taken with `Acquire` and given back with `Release`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use loom::sync::atomic::AtomicU32;

use crate::lock::Holder;

/// Bytes that can be locked: more slots than a model has.
const BYTES: usize = 4;

loom::lazy_static! {
    /// Who holds each byte: a descriptor and 1, or 0. A model never duplicates a descriptor.
    static ref HOLDERS: [AtomicU32; BYTES] = std::array::from_fn(|_| AtomicU32::new(0));
}

/// Says of a holder that it is a guard.
const GUARD: u32 = 1 << 31;

fn name(file: &File) -> u32 {
    file.as_raw_fd() as u32 + 1
}

fn byte(bytes: Range<u64>) -> &'static AtomicU32 {
    assert_eq!(
        bytes.end - bytes.start,
        1,
        "a model locks one byte at a time"
    );
    &HOLDERS[bytes.start as usize]
}

/// Takes a byte if nobody else has it.
pub fn try_lock(file: &File, bytes: Range<u64>) -> io::Result<bool> {
    let taken = byte(bytes).compare_exchange(0, name(file), AcqRel, Acquire);
    Ok(taken.is_ok())
}

/// Gives it back.
pub fn unlock(file: &File, bytes: Range<u64>) -> io::Result<()> {
    let byte = byte(bytes);
    for held in [name(file), GUARD | name(file)] {
        let _ = byte.compare_exchange(held, 0, Release, Relaxed);
    }
    Ok(())
}

/// Keeps a byte that nobody has from being taken. A model has one who does so.
pub fn try_guard(file: &File, bytes: Range<u64>) -> io::Result<bool> {
    let guarded = byte(bytes).compare_exchange(0, GUARD | name(file), AcqRel, Acquire);
    Ok(guarded.is_ok())
}

/// Who else has it.
pub fn holder(file: &File, at: u64) -> io::Result<Holder> {
    let holder = byte(at..at + 1).load(Acquire);
    Ok(
        match holder == 0 || holder & GUARD != 0 || holder == name(file) {
            true => Holder::Free,
            false => Holder::Description,
        },
    )
}

/// Closes a file when dropped, perhaps because its process dies: all its locks go.
pub struct Closing<'a>(pub &'a File);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        for byte in 0..BYTES as u64 {
            let _ = unlock(self.0, byte..byte + 1);
        }
    }
}
