//! The protocol, proven by trying: [`loom`] runs the code of the rings, logs, doorbells and ports
//! under every order in which its loads and stores may take effect.
//!
//! ```text
//! RUSTFLAGS="--cfg lgswitch_loom" cargo test --profile models -p lgswitch --lib --target-dir target/loom model::
//! ```
//!
//! What is tried is the code that runs, not a copy of it. In this build three things that belong
//! to the kernel have a stand-in, with the same face: the mapped file ([`map`]), the futex
//! ([`futex`]) and the locks on the file's bytes ([`lock`]). All else is as always, but for rings of
//! two to four records, so that reuse and lapping come soon.
//!
//! loom 0.7 overlooks orders in which a thread comes between another's load and store of one word
//! (its issues 166 and 392): it remembers only the last access, and that was the load. So each
//! word has a second one beside it, which every access first stores to with no order: loom then sees all
//! accesses as in conflict, and tries them all. Nobody loads the second word, so it orders nothing.
//!
//! loom performs loads where they stand, so it cannot show one that takes effect after a store which follows
//! it: a ring's `tail` published before the copy is done. Instead it is made to see that copies in and
//! copies out of a ring are ordered at all ([`map`]).
//!
//! Searches are bounded by
//! the number of times a thread is interrupted where it need not be ([`check`]); bugs of this kind
//! of code show with two.

pub mod death;
pub mod futex;
pub mod lock;
pub mod map;

#[cfg(test)]
mod bell;
#[cfg(test)]
mod doorbell;
#[cfg(test)]
mod flood;
#[cfg(test)]
mod port;
#[cfg(test)]
mod ring;
#[cfg(test)]
mod takeover;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::layout::{Geometry, PAIR_BYTES, slot_record as rec};
use crate::segment::Segment;
use crate::slot::SlotIndex;

/// Bytes of the record of a frame of the models.
pub const RECORD: u64 = 64;
/// Its length: two words that can be torn apart.
pub const FRAME: usize = 16;

/// Runs `model` under every order of events with at most `preemptions` needless switches, and says
/// how many those are.
pub fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let orders = search(preemptions, model);
    let test = std::thread::current();
    eprintln!(
        "{}: {orders} orders of events",
        test.name().unwrap_or("a model")
    );
}

/// As [`check`], but tells the caller.
pub fn search(preemptions: usize, model: impl Fn() + Send + Sync + 'static) -> usize {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = 100_000;
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    runs.load(Ordering::Relaxed)
}

/// A fresh segment with rings of `records` frames, made by the first thread before all others start.
pub fn segment(slots: u32, records: u64) -> Arc<Segment> {
    let geometry = Geometry::tiny(slots, records * RECORD);
    map::reset(&geometry);
    Segment::of_model(geometry)
}

/// Slot `index`.
pub fn slot(index: usize) -> SlotIndex {
    SlotIndex::new(index).expect("a slot of the format")
}

/// The words of the control area that the protocol uses: their place and how many bits they have.
fn control_words(geometry: &Geometry) -> Vec<(u64, u32)> {
    let mut words = vec![(crate::layout::HEADER_HIGH_WATER, 32)];
    let run = |words: &mut Vec<_>, at: u64, count: u64| {
        words.extend((0..count).map(|i| (at + i * 8, 64)));
    };
    for slot in 0..geometry.slots() {
        words.extend((0..6).map(|byte| ((slot * 6) as u64 + byte, 8)));
        let record = geometry.slot(slot);
        words.extend([rec::STATE, rec::PID, rec::OFFLOADS, rec::BELL].map(|at| (record + at, 32)));
        for at in [rec::GENERATION, rec::SINCE] {
            run(&mut words, record + at, 1);
        }
        run(&mut words, record + rec::NAME, rec::NAME_BYTES as u64 / 8);
        run(
            &mut words,
            record + rec::PENDING,
            crate::slot::SLOT_WORDS as u64,
        );
        run(&mut words, record + rec::FLOOD_HEAD, 3);
        run(&mut words, record + rec::SENT, 10);
        run(&mut words, record + rec::RECEIVED, 10);
        for other in 0..geometry.slots() {
            let pair = geometry.pair(other, slot);
            run(&mut words, pair, 1);
            run(&mut words, pair + PAIR_BYTES / 2, 1);
        }
    }
    words
}
