//! Cards on a sharenet.

use std::sync::Arc;

use launcher::backend::net::{Link, NetDevice};
use launcher::engine::kvm::virtio::net;
use lgswitch::{CreateOptions, MacAddr, PortOptions, Segment};
use tempfile::TempDir;

use super::driver::*;

crate::tests!(
    two_guests_on_a_sharenet_hear_each_other,
    a_card_tells_its_address_and_the_wire_s_mtu,
    a_large_frame_is_merged_from_several_buffers,
    the_guest_says_how_many_pairs_of_queues_it_uses,
    without_multi_queue_the_control_queue_comes_after_the_first_pair,
    a_broken_queue_breaks_the_card_and_a_reset_mends_it,
    a_card_that_is_gone_frees_its_port,
);

pub const MERGEABLE: u64 = 1 << 15;
pub const CONTROL: u64 = 1 << 17;
pub const MULTI_QUEUE: u64 = 1 << 22;

pub const RECEIVE: usize = 0;
pub const TRANSMIT: usize = 1;

struct Lan {
    segment: Arc<Segment>,
    _folder: TempDir,
}

impl Lan {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = CreateOptions {
            slots: 4,
            ..CreateOptions::default()
        };
        let segment = Segment::create(&folder.path().join("lan"), &options).unwrap();
        Self {
            segment,
            _folder: folder,
        }
    }

    fn card(&self, last: u8, cpus: usize) -> Driver {
        let mac = mac(last);
        let port = self.segment.port(PortOptions {
            mac: Some(mac),
            ..PortOptions::default()
        });
        let device = NetDevice {
            mac,
            host_mac: None,
            mtu: self.segment.mtu(),
            link: Link::Sharenet(Box::new(port.unwrap())),
        };
        let memory = memory();
        let device = net::device(device, last.into(), cpus, &memory).unwrap();
        Driver::with_memory(device, memory)
    }
}

fn mac(last: u8) -> MacAddr {
    MacAddr::new(2, 0, 0, 0, 0, last)
}

/// A frame between two of them, with a number in it.
fn frame(from: u8, to: u8, number: u8, len: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xb5, number];
    frame.resize(len, number);
    frame
}

impl Driver {
    /// Sends a frame, with a header that says nothing.
    pub fn send(&self, frame: &[u8]) {
        let at = self.put(&[vec![0; 12], frame.to_vec()].concat());
        self.request(TRANSMIT, &[(at, 12 + frame.len() as u32, false)]);
    }

    /// The frame that the chain at a place of the receive queue's used ring is, of one buffer at
    /// `room`.
    pub fn received(&self, place: u16, room: u64) -> Vec<u8> {
        let (_, len) = self.used(RECEIVE, place);
        let bytes = self.get(room, len as usize);
        assert_eq!(bytes[10..12], [1, 0], "one buffer");
        bytes[12..].to_vec()
    }
}

fn two_guests_on_a_sharenet_hear_each_other() {
    let lan = Lan::new();
    let (one, two) = (lan.card(1, 1), lan.card(2, 1));
    for features in [0, MERGEABLE, MERGEABLE | EVENT_INDEX] {
        for driver in [&one, &two] {
            driver.start(features);
        }
        for (number, from, to) in (0..)
            .zip([(&one, &two), (&two, &one), (&one, &two)])
            .map(|(n, (a, b))| (n, a, b))
        {
            let place = to.used_count(RECEIVE);
            let room = to.room(2048);
            to.offer(RECEIVE, &[(room, 2048, true)]);
            let ends = if std::ptr::eq(from, &one) {
                (1, 2)
            } else {
                (2, 1)
            };
            let sent = frame(ends.0, ends.1, number, 60);
            from.send(&sent);
            assert_eq!(to.received(place, room), sent);
            soon("an interrupt comes", || to.interrupted().then_some(()));
        }
        for driver in [&one, &two] {
            driver.reset();
        }
    }
}

fn a_card_tells_its_address_and_the_wire_s_mtu() {
    let lan = Lan::new();
    let driver = lan.card(9, 3);
    assert_eq!(driver.config(0, 6), [2, 0, 0, 0, 0, 9]);
    assert_eq!(driver.config(6, 2), [1, 0], "the link is up");
    assert_eq!(driver.config(8, 2), [3, 0], "pairs of queues");
    assert_eq!(
        driver.config(10, 2),
        (lan.segment.mtu() as u16).to_le_bytes()
    );
}

fn a_large_frame_is_merged_from_several_buffers() {
    let lan = Lan::new();
    let (one, two) = (lan.card(1, 1), lan.card(2, 1));
    one.start(MERGEABLE);
    two.start(MERGEABLE);
    let room = two.room(8 * 512);
    for i in 0..8 {
        two.descriptor(RECEIVE, i, room + 512 * u64::from(i), 512, 2, 0);
        two.make_available(RECEIVE, i);
    }
    two.kick(RECEIVE);
    let sent = frame(1, 2, 5, 1500);
    one.send(&sent);
    assert_eq!(two.used(RECEIVE, 2), (2, 12 + 1500 - 1024));
    let bytes = two.get(room, 1512);
    assert_eq!(bytes[10..12], [3, 0], "three buffers");
    assert_eq!(bytes[12..], sent);
}

/// Asks for so many pairs over queue number `queue`; gives the answer.
pub fn ask_for_pairs(driver: &Driver, queue: usize, pairs: u16) -> u8 {
    let [low, high] = pairs.to_le_bytes();
    let at = driver.put(&[4, 0, low, high]);
    let answer = driver.put(&[0xee]);
    driver.request(
        queue,
        &[(at, 2, false), (at + 2, 2, false), (answer, 1, true)],
    );
    driver.get(answer, 1)[0]
}

fn the_guest_says_how_many_pairs_of_queues_it_uses() {
    let lan = Lan::new();
    let driver = lan.card(1, 2);
    let (mut tx, _rx) = lan.segment.port(PortOptions::default()).unwrap().split();
    driver.start(MERGEABLE | CONTROL | MULTI_QUEUE);
    let rooms: Vec<_> = [0, 2]
        .map(|queue| {
            let room = driver.room(SIZE as usize * 2048);
            for i in 0..SIZE {
                driver.descriptor(queue, i, room + 2048 * u64::from(i), 2048, 2, 0);
                driver.make_available(queue, i);
            }
            driver.kick(queue);
            room
        })
        .to_vec();
    assert_eq!(rooms.len(), 2);
    let mut flows = |count: u8| {
        for flow in 0..count {
            let bytes = frame(7 + flow, 1, 0, 60);
            let part = [lgswitch::map::SharedBytes::from(bytes.as_slice())];
            tx.send(
                &lgswitch::VnetHeader::default(),
                &lgswitch::Gather::new(&part),
            );
        }
        tx.flush();
    };
    for no in [0, 3, 0x8000] {
        assert_eq!(ask_for_pairs(&driver, 4, no), 1, "{no} pairs");
    }
    flows(4);
    driver.used(0, 3);
    assert_eq!(driver.used_count(2), 0);
    assert_eq!(ask_for_pairs(&driver, 4, 2), 0);
    flows(12);
    soon("frames come on both", || {
        (driver.used_count(0) > 4
            && driver.used_count(2) > 0
            && driver.used_count(0) + driver.used_count(2) == 16)
            .then_some(())
    });
}

fn without_multi_queue_the_control_queue_comes_after_the_first_pair() {
    let lan = Lan::new();
    let driver = lan.card(1, 2);
    driver.start(CONTROL);
    assert_eq!(ask_for_pairs(&driver, 2, 2), 1);
    assert_eq!(ask_for_pairs(&driver, 2, 1), 0);
}

fn a_broken_queue_breaks_the_card_and_a_reset_mends_it() {
    let lan = Lan::new();
    let (one, two) = (lan.card(1, 1), lan.card(2, 1));
    two.start(0);
    for round in 0..3 {
        one.start(0);
        // A buffer outside the memory.
        one.offer(TRANSMIT, &[(LOW, 100, false)]);
        one.wait_until_broken();
        assert!(one.interrupted());
        one.reset();
        one.start(0);
        let place = two.used_count(RECEIVE);
        let room = two.room(2048);
        two.offer(RECEIVE, &[(room, 2048, true)]);
        let sent = frame(1, 2, round, 77);
        one.send(&sent);
        assert_eq!(two.received(place, room), sent);
        one.reset();
    }
}

fn a_card_that_is_gone_frees_its_port() {
    let lan = Lan::new();
    for _ in 0..10 {
        let drivers: Vec<_> = (0..4).map(|n| lan.card(n, 1)).collect();
        drivers.iter().for_each(|driver| driver.start(0));
        drivers[0].registers.end();
        drivers[1].registers.end();
        let again = [lan.card(8, 1), lan.card(9, 1)];
        again.iter().for_each(|driver| driver.start(0));
    }
}
