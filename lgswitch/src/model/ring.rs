//! Unicast: frames arrive whole and in order, and their room is used again.

use loom::thread;

use super::{FRAME, check, segment, slot};
use crate::frame::{Gather, VnetHeader};
use crate::record::Found;
use crate::ring::{Refused, RingReader, RingWriter};
use crate::segment::Segment;

/// A frame every word of which says which it is.
fn frame(n: u8) -> [u8; FRAME] {
    [n; FRAME]
}

fn write(ring: &mut RingWriter, segment: &Segment, n: u8) -> Result<(), Refused> {
    let bytes = frame(n);
    let parts = [bytes.as_slice().into()];
    ring.write(
        segment,
        n.into(),
        &VnetHeader::default(),
        &Gather::new(&parts),
    )
}

/// Takes all there is now; each must be whole, and the next after `last`.
fn read(ring: &mut RingReader, segment: &Segment, last: &mut u8) {
    ring.refresh(segment);
    while let Found::Frame(record) = ring.peek(segment) {
        assert_eq!(record.frame.to_vec(), frame(*last + 1));
        assert_eq!(record.sequence, u64::from(*last + 1));
        let end = record.end;
        *last += 1;
        ring.take(end);
    }
    assert!(ring.is_drained(), "garbage after {last}");
    ring.release(segment);
}

#[test]
fn frames_cross_whole_and_in_order_and_their_room_is_used_again() {
    check(3, || {
        let segment = segment(2, 2);
        let mut reader = RingReader::open(&segment, slot(0), slot(1));
        let writer = {
            let segment = segment.clone();
            thread::spawn(move || {
                let mut ring = RingWriter::open(&segment, slot(0), slot(1)).unwrap();
                let mut sent = 0;
                for n in 1..=4 {
                    // A full ring costs the frame that did not fit.
                    if write(&mut ring, &segment, sent + 1) == Ok(()) {
                        sent += 1;
                    }
                    if n != 2 {
                        ring.publish(&segment);
                    }
                }
                sent
            })
        };
        let mut last = 0;
        read(&mut reader, &segment, &mut last);
        read(&mut reader, &segment, &mut last);
        let sent = writer.join().unwrap();
        read(&mut reader, &segment, &mut last);
        assert_eq!(last, sent);
        assert!(sent >= 2);
    });
}
