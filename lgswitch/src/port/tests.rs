#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
//! What of a port only shows from the inside.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Port, Sent, Verdict};
use crate::layout::{self, PAGE, slot_record as rec};
use crate::{CreateOptions, Gather, MacAddr, PortOptions, Segment, SlotIndex, VnetHeader};

fn mac(slot: usize) -> MacAddr {
    MacAddr(2, 0, 0, 0, 0, slot as u8)
}

/// Takes slot `index`.
fn port(segment: &Arc<Segment>, index: usize) -> Port {
    let options = PortOptions {
        mac: Some(mac(index)),
        slot: SlotIndex::new(index),
        ..PortOptions::default()
    };
    segment.port(options).unwrap()
}

/// Sends a frame of 64 bytes.
fn send(from: &mut Port, to: MacAddr) {
    let mut frame = [to.octets(), from.mac().octets()].concat();
    frame.resize(64, 0);
    let parts = [frame.as_slice().into()];
    let sent = from.tx.send(&VnetHeader::default(), &Gather::new(&parts));
    assert_eq!(sent, Sent::Done);
    from.tx.flush();
}

/// How many frames there are now, and from whom the last one is.
fn hear(port: &mut Port) -> (usize, Option<usize>) {
    let mut from = None;
    let heard = port.rx.recv(64, |frame| {
        from = Some(frame.from.get());
        Verdict::Taken
    });
    (heard, from)
}

fn segment() -> (tempfile::TempDir, Arc<Segment>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lan0");
    let segment = Segment::create(&path, &CreateOptions::default()).unwrap();
    (folder, segment)
}

/// A guest of 2007 writes its own address, whoever holds the slot for it.
#[test]
fn an_address_that_is_there_stands_whatever_else_was_damaged() {
    let (_folder, segment) = segment();
    let port = port(&segment, 3);
    let control = segment.control();
    let theirs = MacAddr(0x52, 1, 2, 3, 4, 5);
    control.write(super::address(port.slot()), &theirs.octets());
    let state = control.word32(port.held.record() + rec::STATE);
    let high_water = control.word32(layout::HEADER_HIGH_WATER);
    state.store(rec::FREE, Ordering::Relaxed);
    high_water.store(0, Ordering::Relaxed);
    port.held.reassert();
    let mut shown = [0; layout::MAC_BYTES];
    control.read(super::address(port.slot()), &mut shown);
    assert_eq!(MacAddr::from(shown), theirs);
    assert_eq!(state.load(Ordering::Relaxed), rec::LIVE);
    assert_eq!(high_water.load(Ordering::Relaxed), 4);
}

#[test]
fn an_address_that_was_wiped_out_is_shown_again() {
    let (_folder, segment) = segment();
    let port = port(&segment, 3);
    let at = super::address(port.slot());
    segment.control().write(at, &[0; layout::MAC_BYTES]);
    port.held.reassert();
    let mut shown = [0; layout::MAC_BYTES];
    segment.control().read(at, &mut shown);
    assert_eq!(MacAddr::from(shown), port.mac());
}

#[test]
fn who_takes_a_slot_beyond_all_before_is_heard_from_its_first_frame() {
    let (_folder, segment) = segment();
    let mut first = port(&segment, 0);
    assert_eq!(first.rx.sources(), 1);
    let mut last = port(&segment, 127);
    for to in [mac(0), MacAddr::broadcast()] {
        send(&mut last, to);
    }
    assert_eq!(hear(&mut first), (2, Some(127)));
    // And by one who looks for himself, should nobody ring.
    let mut between = port(&segment, 64);
    send(&mut between, mac(0));
    for word in 0..2 {
        let pending = first.held.record() + rec::PENDING + word * 8;
        segment
            .control()
            .word64(pending)
            .store(0, Ordering::Relaxed);
    }
    first.rx.sweep();
    assert_eq!(hear(&mut first), (1, Some(64)));
}

#[test]
fn what_was_sent_to_the_holder_before_is_not_heard_by_the_next() {
    let (_folder, segment) = segment();
    let before = port(&segment, 0);
    let mut other = port(&segment, 100);
    send(&mut other, mac(0));
    drop(before);
    let mut next = port(&segment, 0);
    assert_eq!(hear(&mut next), (0, None));
    send(&mut other, mac(0));
    assert_eq!(hear(&mut next), (1, Some(100)));
}

#[test]
fn a_silent_port_takes_memory_for_as_many_as_have_ever_been_there() {
    let (_folder, segment) = segment();
    let empty = segment.allocated_bytes();
    let _ports: Vec<_> = (0..32).map(|slot| port(&segment, slot)).collect();
    assert_eq!(segment.allocated_bytes(), empty + 32 * PAGE);
}
