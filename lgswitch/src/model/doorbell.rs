//! Sleep and wake: nobody sleeps over a frame.

use std::time::Duration;

use loom::thread;

use super::{FRAME, check, segment, slot};
use crate::doorbell;
use crate::frame::{Gather, VnetHeader};
use crate::record::Found;
use crate::ring::{RingReader, RingWriter};
use crate::segment::Segment;
use crate::slot::SlotSet;

const FOR_EVER: Duration = Duration::MAX;

/// Publishes and rings once a frame.
pub fn send(segment: &Segment, from: usize, to: usize, frames: u64) {
    let mut ring = RingWriter::open(segment, slot(from), slot(to)).unwrap();
    for sequence in 0..frames {
        let bytes = [0; FRAME];
        let parts = [bytes.as_slice().into()];
        ring.write(
            segment,
            sequence,
            &VnetHeader::default(),
            &Gather::new(&parts),
        )
        .unwrap();
        ring.publish(segment);
        let record = segment.geometry().slot(to);
        doorbell::ring(segment.control(), std::iter::once(record), slot(from));
    }
}

/// Takes what there is of those that are named, and nobody else: a bit that is lost is a frame that is
/// not found. Tells whether there was any.
pub fn look(segment: &Segment, rings: &mut [RingReader], named: &SlotSet, left: &mut u64) -> bool {
    let before = *left;
    for from in named.iter() {
        let ring = &mut rings[from.get() - 1];
        ring.refresh(segment);
        while let Found::Frame(record) = ring.peek(segment) {
            let end = record.end;
            ring.take(end);
            *left -= 1;
        }
        ring.release(segment);
    }
    *left != before
}

/// Looks at those whose bits are set, and sleeps whenever there is nothing, until all frames are
/// there. A lost wake-up is a deadlock.
fn receive(segment: &Segment, rings: &mut [RingReader], frames: u64) {
    let (control, record) = (segment.control(), segment.geometry().slot(0));
    let mut left = frames;
    let mut look = |named: &SlotSet| (look(segment, rings, named, &mut left), left == 0);
    let mut named = SlotSet::new();
    loop {
        doorbell::peek(control, record, segment.slots(), |word, bits| {
            named.insert_word(word, bits);
        });
        match look(&named) {
            (_, true) => break,
            (true, _) => continue,
            _ => {}
        }
        doorbell::collect(control, record, segment.slots(), |word, bits| {
            named.insert_word(word, bits);
        });
        match look(&std::mem::take(&mut named)) {
            (_, true) => break,
            (true, _) => continue,
            _ => doorbell::sleep(control, record, FOR_EVER, || false),
        };
    }
}

#[test]
fn no_wake_up_is_lost_between_a_source_and_a_sleeper() {
    check(3, || {
        let segment = segment(2, 4);
        let mut rings = [RingReader::open(&segment, slot(1), slot(0))];
        let source = {
            let segment = segment.clone();
            thread::spawn(move || send(&segment, 1, 0, 2))
        };
        receive(&segment, &mut rings, 2);
        source.join().unwrap();
    });
}

#[test]
fn no_wake_up_is_lost_between_two_sources_and_a_sleeper() {
    check(2, || {
        let segment = segment(3, 2);
        let mut rings = [1, 2].map(|from| RingReader::open(&segment, slot(from), slot(0)));
        let sources = [1, 2].map(|from| {
            let segment = segment.clone();
            thread::spawn(move || send(&segment, from, 0, 1))
        });
        receive(&segment, &mut rings, 2);
        for source in sources {
            source.join().unwrap();
        }
    });
}
