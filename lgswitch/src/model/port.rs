//! Whole ports: what one sends, by ring and by log, another hears in that order, and wakes for.

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use super::{FRAME, check, segment, slot};
use crate::MacAddr;
use crate::frame::{Gather, VnetHeader};
use crate::port::{Port, PortOptions, PortRx, PortTx, Sent, Verdict};
use crate::segment::Segment;

pub(super) const BROADCAST: MacAddr = MacAddr(0xff, 0xff, 0xff, 0xff, 0xff, 0xff);

pub(super) fn mac(slot: usize) -> MacAddr {
    MacAddr(2, 0, 0, 0, 0, slot as u8)
}

/// Takes slot `index` and joins.
pub(super) fn port(segment: &Arc<Segment>, index: usize) -> Port {
    let options = PortOptions {
        mac: Some(mac(index)),
        slot: Some(slot(index)),
        ..PortOptions::default()
    };
    segment.port(options).unwrap()
}

/// Sends a frame whose last two bytes are `tag`, unflushed.
pub(super) fn send(tx: &mut PortTx, to: MacAddr, tag: u8) -> Sent {
    let from = mac(tx.slot().get());
    let bytes = [&to.octets()[..], &from.octets(), &[0x88, 0xb5, tag, tag]].concat();
    let parts = [bytes.as_slice().into()];
    tx.send(&VnetHeader::default(), &Gather::new(&parts))
}

/// The tags of all frames there are now; each must be whole.
pub(super) fn receive(rx: &mut PortRx, tags: &mut Vec<u8>) {
    rx.recv(16, |frame| {
        let bytes = frame.bytes.to_vec();
        assert_eq!(bytes.len(), FRAME);
        assert_eq!(bytes[FRAME - 2], bytes[FRAME - 1], "torn");
        assert_eq!(bytes[11], frame.from.get() as u8, "not its sender's");
        tags.push(bytes[FRAME - 1]);
        Verdict::Taken
    });
}

/// Sleeps between looks until `count` frames are there. A wake-up lost is a deadlock.
fn receive_asleep(rx: &mut PortRx, count: usize) -> Vec<u8> {
    let mut tags = Vec::new();
    loop {
        receive(rx, &mut tags);
        if tags.len() >= count {
            return tags;
        }
        rx.wait(Duration::MAX);
    }
}

#[test]
fn unicast_and_broadcast_arrive_in_the_order_they_were_sent() {
    check(2, || {
        let segment = segment(2, 4);
        let (mut tx, _a) = port(&segment, 0).split();
        let (_b, mut rx) = port(&segment, 1).split();
        let sender = thread::spawn(move || {
            send(&mut tx, mac(1), 1);
            tx.flush();
            send(&mut tx, mac(1), 2);
            send(&mut tx, BROADCAST, 3);
            tx.flush();
            tx
        });
        assert_eq!(receive_asleep(&mut rx, 3), [1, 2, 3]);
        sender.join().unwrap();
    });
}

#[test]
fn a_port_sleeps_over_no_burst() {
    check(2, || {
        let segment = segment(2, 4);
        let (mut tx, _a) = port(&segment, 0).split();
        let (_b, mut rx) = port(&segment, 1).split();
        let sender = thread::spawn(move || {
            for tag in [1, 2] {
                assert_eq!(send(&mut tx, mac(1), tag), Sent::Done);
                tx.flush();
            }
            tx
        });
        assert_eq!(receive_asleep(&mut rx, 2), [1, 2]);
        sender.join().unwrap();
    });
}

#[test]
fn a_call_ends_a_sleep_whenever_it_comes() {
    check(3, || {
        let segment = segment(2, 2);
        let (_b, mut rx) = port(&segment, 1).split();
        let caller = rx.caller();
        let called = thread::spawn(move || caller.call());
        rx.wait(Duration::MAX);
        called.join().unwrap();
    });
}
