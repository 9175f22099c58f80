//! A mapping whose words are loom's.
//!
//! The file is a table of areas, made anew for each run: the control area, of which only the words the
//! protocol uses exist, and the rings and logs, all words of 64 bits. Copies go word by word, each
//! with no order to the others, which is the least that a real copy does.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use loom::cell::UnsafeCell;

use crate::frame::Gather;
use crate::layout::Geometry;
use crate::sync::{AtomicU8, AtomicU32, AtomicU64};

#[derive(Debug)]
enum Word {
    Byte(AtomicU8),
    Half(AtomicU32),
    Whole(AtomicU64),
}

/// What loom watches; nothing is in it.
#[derive(Debug)]
struct Watched(UnsafeCell<()>);

// SAFETY: there are no bytes to race for; loom checks what would be a race for others.
unsafe impl Sync for Watched {}
// SAFETY: as above.
unsafe impl Send for Watched {}

#[derive(Debug, Default)]
struct Area {
    words: HashMap<u64, Word>,
    /// A ring's.
    cells: HashMap<u64, Watched>,
}

impl Area {
    /// A word is about to be copied out.
    fn reads(&self, at: u64) {
        if let Some(cell) = self.cells.get(&at) {
            cell.0.with(|_| ());
        }
    }

    /// A word is about to be copied in.
    fn writes(&self, at: u64) {
        if let Some(cell) = self.cells.get(&at) {
            cell.0.with_mut(|_| ());
        }
    }
}

loom::lazy_static! {
    /// The file's areas by their offset. Not loom's mutex: it is no part of what is modelled.
    static ref FILE: Mutex<HashMap<u64, Arc<Area>>> = Mutex::default();
}

fn areas() -> std::sync::MutexGuard<'static, HashMap<u64, Arc<Area>>> {
    FILE.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Makes all areas of a segment, zeroed.
pub fn reset(geometry: &Geometry) {
    let mut areas = areas();
    let control = super::control_words(geometry)
        .into_iter()
        .map(|(at, bits)| {
            let word = match bits {
                8 => Word::Byte(AtomicU8::new(0)),
                32 => Word::Half(AtomicU32::new(0)),
                _ => Word::Whole(AtomicU64::new(0)),
            };
            (at, word)
        });
    let control = Area {
        words: control.collect(),
        cells: HashMap::new(),
    };
    areas.insert(0, Arc::new(control));
    let log = |bytes: u64| Area {
        words: (0..bytes)
            .step_by(8)
            .map(|at| (at, Word::Whole(AtomicU64::new(0))))
            .collect(),
        cells: HashMap::new(),
    };
    let ring = |bytes: u64| Area {
        cells: (0..bytes)
            .step_by(8)
            .map(|at| (at, Watched(UnsafeCell::new(()))))
            .collect(),
        ..log(bytes)
    };
    for from in 0..geometry.slots() {
        areas.insert(geometry.log(from), Arc::new(log(geometry.log_bytes())));
        for to in 0..geometry.slots() {
            let bytes = geometry.ring_bytes();
            areas.insert(geometry.ring(from, to), Arc::new(ring(bytes)));
        }
    }
}

/// A range of the file.
#[derive(Debug)]
pub struct Mapping {
    area: Arc<Area>,
    len: usize,
}

#[allow(missing_docs, reason = "each as the real one's")]
impl Mapping {
    pub fn new(_file: &File, offset: u64, len: u64, _writable: bool) -> io::Result<Self> {
        let area = areas().get(&offset).cloned();
        Ok(Self {
            area: area.ok_or(io::ErrorKind::InvalidInput)?,
            len: len as usize,
        })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn has(&self, offset: u64, len: usize) -> bool {
        offset + len as u64 <= self.len as u64
    }

    pub fn byte(&self, offset: u64) -> &AtomicU8 {
        match self.area.words.get(&offset) {
            Some(Word::Byte(byte)) => byte,
            other => panic!("no byte at {offset} but {other:?}"),
        }
    }

    pub fn word32(&self, offset: u64) -> &AtomicU32 {
        match self.area.words.get(&offset) {
            Some(Word::Half(word)) => word,
            other => panic!("no 32-bit word at {offset} but {other:?}"),
        }
    }

    pub fn word64(&self, offset: u64) -> &AtomicU64 {
        whole(&self.area, offset)
    }

    pub fn words<const N: usize>(&self, offset: u64) -> [&AtomicU64; N] {
        std::array::from_fn(|i| self.word64(offset + i as u64 * 8))
    }

    pub fn prefetch(&self, _offset: u64) {}

    pub fn read(&self, offset: u64, out: &mut [u8]) {
        self.bytes(offset, out.len()).copy_to(out);
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) {
        for (i, chunk) in bytes.chunks(8).enumerate() {
            let word = self.word64(offset + i as u64 * 8);
            // Past a short end stands what was there: its one writer is us.
            let mut whole = match chunk.len() {
                8 => [0; 8],
                _ => word.load(Relaxed).to_le_bytes(),
            };
            whole[..chunk.len()].copy_from_slice(chunk);
            self.area.writes(offset + i as u64 * 8);
            word.store(u64::from_le_bytes(whole), Relaxed);
        }
    }

    pub fn put(&self, offset: u64, head: [u64; 4], frame: &Gather<'_>) {
        let head = head.map(u64::to_le_bytes);
        let frame = frame.parts().iter().flat_map(SharedBytes::to_vec);
        let bytes: Vec<u8> = head.into_iter().flatten().chain(frame).collect();
        self.write(offset, &bytes);
    }

    pub fn stream(&self, offset: u64, head: [u64; 4], frame: &Gather<'_>) {
        self.put(offset, head, frame);
    }

    pub fn drain(&self) {}

    pub fn bytes(&self, offset: u64, len: usize) -> SharedBytes<'_> {
        SharedBytes {
            place: Place::Area(&self.area, offset),
            len,
        }
    }

    pub fn populate(&self, _: &File, _: u64, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

fn whole(area: &Area, offset: u64) -> &AtomicU64 {
    match area.words.get(&offset) {
        Some(Word::Whole(word)) => word,
        other => panic!("no 64-bit word at {offset} but {other:?}"),
    }
}

/// A run of bytes: private ones, or some of a mapping.
#[derive(Debug, Clone, Copy)]
pub struct SharedBytes<'a> {
    place: Place<'a>,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    Private(*const u8),
    Area(&'a Area, u64),
}

// SAFETY: see the real one.
unsafe impl Send for SharedBytes<'_> {}

#[allow(missing_docs, reason = "each as the real one's")]
impl<'a> SharedBytes<'a> {
    /// # Safety
    /// As the real one's.
    pub unsafe fn from_raw(start: *const u8, len: usize) -> Self {
        Self {
            place: Place::Private(start),
            len,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn part(&self, start: usize, len: usize) -> SharedBytes<'a> {
        let start = start.min(self.len);
        SharedBytes {
            place: match self.place {
                Place::Private(at) => Place::Private(at.wrapping_add(start)),
                Place::Area(area, at) => Place::Area(area, at + start as u64),
            },
            len: len.min(self.len - start),
        }
    }

    pub fn copy_to(&self, out: &mut [u8]) -> usize {
        let len = self.len.min(out.len());
        match self.place {
            Place::Private(at) => {
                // SAFETY: `len` bytes are readable there, by the promise made to `from_raw`.
                let from = unsafe { std::slice::from_raw_parts(at, len) };
                out[..len].copy_from_slice(from);
            }
            Place::Area(area, at) => copy_out(area, at, &mut out[..len]),
        }
        len
    }

    pub fn equal(&self, bytes: &[u8]) -> bool {
        self.to_vec() == bytes
    }

    pub fn array<const N: usize>(&self, start: usize) -> Option<[u8; N]> {
        let part = self.part(start, N);
        let mut out = [0; N];
        (part.copy_to(&mut out) == N).then_some(out)
    }

    /// # Safety
    /// As the real one's.
    pub unsafe fn copy_to_raw(&self, to: *mut u8) {
        let bytes = self.to_vec();
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = vec![0; self.len];
        self.copy_to(&mut out);
        out
    }
}

/// Each word is loaded once.
fn copy_out(area: &Area, start: u64, out: &mut [u8]) {
    let mut done = 0;
    while done < out.len() {
        let at = start + done as u64;
        if let Some(Word::Byte(byte)) = area.words.get(&at) {
            out[done] = byte.load(Relaxed);
            done += 1;
            continue;
        }
        let skip = (at % 8) as usize;
        let word = whole(area, at - skip as u64).load(Relaxed).to_le_bytes();
        area.reads(at - skip as u64);
        let n = (8 - skip).min(out.len() - done);
        out[done..done + n].copy_from_slice(&word[skip..skip + n]);
        done += n;
    }
}

impl<'a> From<&'a [u8]> for SharedBytes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        // SAFETY: a borrowed slice is readable for its life.
        unsafe { Self::from_raw(bytes.as_ptr(), bytes.len()) }
    }
}
