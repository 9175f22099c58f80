//! Flood: a reader is lapped, and never takes a torn frame for a whole one.

use loom::thread;

use super::{FRAME, check, segment, slot};
use crate::flood::{LogReader, LogWriter};
use crate::frame::{Gather, VnetHeader};
use crate::segment::Segment;

/// What a reader got.
#[derive(Default)]
struct Heard {
    last: u64,
    frames: u64,
    missed: u64,
}

fn write(log: &mut LogWriter, segment: &Segment, n: u8) {
    let bytes = [n; FRAME];
    let parts = [bytes.as_slice().into()];
    log.write(
        segment,
        n.into(),
        &VnetHeader::default(),
        &Gather::new(&parts),
    )
    .unwrap();
    log.publish(segment);
}

/// Takes all there is now. Each frame must be whole, and later than the one before.
fn read(log: &mut LogReader, segment: &Segment, heard: &mut Heard) {
    log.refresh(segment);
    let mut bytes = Vec::new();
    while let Some(copied) = log.peek(segment, &mut bytes) {
        assert_eq!(bytes, [copied.sequence as u8; FRAME]);
        assert!(copied.sequence > heard.last);
        heard.last = copied.sequence;
        heard.frames += 1;
        heard.missed += log.missed();
        log.take(&copied);
    }
    heard.missed += log.missed();
}

/// `count` frames through a log of `records` while the reader looks once; then it looks again.
fn lapped(records: u64, count: u8) {
    let segment = segment(2, records);
    let mut reader = LogReader::open(&segment, slot(0));
    let writer = {
        let segment = segment.clone();
        thread::spawn(move || {
            let mut log = LogWriter::open(&segment, slot(0));
            (1..=count).for_each(|n| write(&mut log, &segment, n));
            log
        })
    };
    let mut heard = Heard::default();
    read(&mut reader, &segment, &mut heard);
    let mut log = writer.join().unwrap();
    read(&mut reader, &segment, &mut heard);
    // What it jumped over as the writer wrote is told by the next frame, and no frame twice.
    assert!(heard.frames + heard.missed <= u64::from(count));
    write(&mut log, &segment, count + 1);
    read(&mut reader, &segment, &mut heard);
    assert_eq!(heard.last, u64::from(count) + 1);
    assert_eq!(heard.frames + heard.missed, u64::from(count) + 1);
}

#[test]
fn a_frame_that_is_written_over_as_it_is_read_is_not_taken() {
    check(2, || lapped(1, 2));
}

#[test]
fn a_lapped_reader_counts_each_frame_it_missed_once() {
    check(2, || lapped(2, 3));
}
