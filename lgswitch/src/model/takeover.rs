//! Slots change hands: a holder is killed at any of its stores, and another takes its place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use loom::thread;

use super::death::die_at;
use super::port::{BROADCAST, mac, port, receive, send};
use super::{FRAME, check, search, segment, slot};
use crate::flood::{LogReader, LogWriter};
use crate::frame::{Gather, VnetHeader};
use crate::layout::slot_record::{LIVE, STATE};
use crate::port::{PortTx, Sent};
use crate::record::Found;
use crate::ring::{Refused, RingReader, RingWriter};
use crate::segment::Segment;

/// Runs `model` for each store at which somebody may die; it tells whether all of them were made.
fn for_each_store(preemptions: usize, model: impl Fn(u64) -> bool + Send + Sync + Copy + 'static) {
    let lived = Arc::new(AtomicBool::new(false));
    let mut orders = 0;
    let mut stores = 0;
    while !lived.load(Ordering::Relaxed) {
        let tell = Arc::clone(&lived);
        orders += search(preemptions, move || {
            tell.store(model(stores), Ordering::Relaxed);
        });
        stores += 1;
    }
    let test = std::thread::current();
    let name = test.name().unwrap_or("a model");
    eprintln!("{name}: {stores} stores to die at, {orders} orders of events");
    assert!(stores > 5);
}

fn send_three(tx: &mut PortTx) {
    send(tx, mac(1), 1);
    tx.flush();
    send(tx, mac(1), 2);
    send(tx, BROADCAST, 3);
    tx.flush();
}

#[test]
fn whatever_store_a_sender_dies_at_its_slot_works_again_and_what_was_heard_was_sent() {
    for_each_store(1, |store| {
        let segment = segment(2, 4);
        let (_b, mut rx) = port(&segment, 1).split();
        let heirs = Arc::clone(&segment);
        let senders = thread::spawn(move || {
            let mortal = || send_three(&mut port(&heirs, 0).split().0);
            let lived = die_at(store, mortal).is_some();
            let (mut heir, _rx) = port(&heirs, 0).split();
            send(&mut heir, mac(1), 8);
            send(&mut heir, BROADCAST, 9);
            heir.flush();
            lived
        });
        let mut tags = Vec::new();
        loop {
            receive(&mut rx, &mut tags);
            if tags.contains(&9) {
                break;
            }
            rx.wait(Duration::MAX);
        }
        let (old, new) = tags.split_at(tags.iter().position(|&tag| tag > 7).unwrap());
        assert!([1, 2, 3].starts_with(old), "{tags:?}");
        assert_eq!(new, [8, 9], "{tags:?}");
        senders.join().unwrap()
    });
}

#[test]
fn whatever_store_a_receiver_dies_at_its_sender_goes_on_and_its_heir_hears() {
    for_each_store(1, |store| {
        let segment = segment(2, 4);
        let (mut tx, _a) = port(&segment, 0).split();
        let (tx1, rx1) = port(&segment, 1).split();
        let receivers = thread::spawn(move || {
            let mortal = move || {
                // All of it: what the port drops is dropped as it dies.
                let (_tx, mut rx) = (tx1, rx1);
                receive(&mut rx, &mut Vec::new());
            };
            die_at(store, mortal).is_some()
        });
        for tag in [1, 2] {
            // Full is an answer, waiting is none.
            if send(&mut tx, mac(1), tag) == Sent::Full(slot(1)) {
                tx.give_up();
            }
            tx.flush();
        }
        let lived = receivers.join().unwrap();
        let (_tx, mut rx) = port(&segment, 1).split();
        send(&mut tx, mac(1), 8);
        send(&mut tx, BROADCAST, 9);
        tx.flush();
        let mut tags = Vec::new();
        receive(&mut rx, &mut tags);
        assert!(tags.is_sorted() && tags.ends_with(&[8, 9]), "{tags:?}");
        lived
    });
}

#[test]
fn a_frame_that_the_dead_had_begun_to_write_over_is_not_taken() {
    for_each_store(2, |store| {
        let segment = segment(2, 2);
        let mut reader = LogReader::open(&segment, slot(0));
        let mut bytes = Vec::new();
        let write = |log: &mut LogWriter, n: u8| {
            let frame = [n; FRAME];
            let parts = [frame.as_slice().into()];
            log.write(
                &segment,
                n.into(),
                &VnetHeader::default(),
                &Gather::new(&parts),
            )?;
            log.publish(&segment);
            Ok::<_, Refused>(())
        };
        let mut full = LogWriter::open(&segment, slot(0));
        write(&mut full, 1).unwrap();
        write(&mut full, 2).unwrap();
        let lived = die_at(store, || write(&mut full, 3)).is_some();
        let mut heir = LogWriter::open(&segment, slot(0));
        reader.refresh(&segment);
        while let Some(copied) = reader.peek(&segment, &mut bytes) {
            assert_eq!(bytes, [copied.sequence as u8; FRAME]);
            reader.take(&copied);
        }
        write(&mut heir, 4).unwrap();
        reader.refresh(&segment);
        let copied = reader.peek(&segment, &mut bytes).unwrap();
        assert_eq!((copied.sequence, &bytes[..]), (4, &[4; FRAME][..]));
        lived
    });
}

#[test]
fn an_heir_that_comes_while_its_source_sends_reads_whole_frames_and_misses_none_after() {
    check(3, || {
        let segment = segment(2, 2);
        let bytes = [7; FRAME];
        let sources = Arc::clone(&segment);
        let source = thread::spawn(move || {
            let parts = [bytes.as_slice().into()];
            let frame = Gather::new(&parts);
            let mut ring = RingWriter::open(&sources, slot(0), slot(1)).unwrap();
            let mut sent = 0;
            // More than the ring holds, and nobody reads until the heir is there.
            for sequence in 0..3 {
                let written = ring.write(&sources, sequence, &VnetHeader::default(), &frame);
                sent += u64::from(written.is_ok());
                ring.publish(&sources);
            }
            (ring, sent)
        });
        let mut heir = RingReader::open(&segment, slot(0), slot(1));
        let mut heard = 0;
        let mut hear = |heir: &mut RingReader| {
            heir.refresh(&segment);
            while let Found::Frame(record) = heir.peek(&segment) {
                assert_eq!(record.frame.to_vec(), bytes);
                let end = record.end;
                heard += 1;
                heir.take(end);
            }
            assert!(heir.is_drained(), "garbage");
            heir.release(&segment);
            heard
        };
        hear(&mut heir);
        let (mut ring, sent) = source.join().unwrap();
        assert!(hear(&mut heir) <= sent);
        // Both are where the other thinks: all of the ring is free.
        assert_eq!(ring.reserve(&segment, [FRAME].into_iter()), Ok(()));
        assert!(heir.is_drained());
    });
}

/// What the peers page and the slot record say of slot 0.
fn shown(segment: &Segment) -> ([u8; 6], bool) {
    let mut page = [0; 6];
    segment.control().read(0, &mut page);
    let state = segment
        .control()
        .word32(segment.geometry().slot(0) + STATE)
        .load(Ordering::Acquire);
    (page, state == LIVE)
}

#[test]
fn who_buries_the_dead_neither_buries_nor_hinders_their_heir() {
    check(3, || {
        let segment = segment(2, 2);
        let undertaker = port(&segment, 1);
        // It dies when all is said and done, at the first store of its leaving.
        let mortal = || {
            let dead = port(&segment, 0);
            die_at(0, move || drop(dead));
        };
        mortal();
        assert_eq!(shown(&segment), (mac(0).octets(), true));
        let heirs = Arc::clone(&segment);
        let heir = thread::spawn(move || {
            let options = crate::PortOptions {
                mac: Some(mac(2)),
                slot: Some(slot(0)),
                ..Default::default()
            };
            heirs.port(options)
        });
        undertaker.held().bury_if_dead(slot(0));
        let _port = heir.join().unwrap().expect("nobody holds the slot");
        assert_eq!(shown(&segment), (mac(2).octets(), true));
    });
}
