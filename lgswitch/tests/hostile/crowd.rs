//! As many ports as the format has slots, all of them talking.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lgswitch::layout::{Geometry, MAX_SLOTS};
use lgswitch::port::{Sent, Verdict};
use lgswitch::{CreateOptions, Error, PortOptions, PortRx, Segment};

use super::role::{self, Actor, BROADCAST, mac};

/// Ports of one process: 22 processes have them all.
const EACH: usize = 31;
const FRAMES: u8 = 3;

fn hear(rx: &mut PortRx, count: &mut (usize, usize)) {
    let me = mac(rx.slot().get()).octets();
    rx.recv(64, |frame| {
        let to = frame.bytes.part(0, 6).to_vec();
        if to == me {
            count.0 += 1;
        } else {
            assert_eq!(to, [0xff; 6]);
            count.1 += 1;
        }
        Verdict::Taken
    });
}

/// The role: 31 ports. Each tells its neighbour three things, and one of them tells everyone.
pub fn belong() {
    let segment = Segment::open(&role::segment_path()).unwrap();
    let first = role::index() * EACH;
    let mut ports: Vec<_> = (first..first + EACH)
        .map(|slot| role::join(&segment, slot))
        .collect();
    role::say("here");
    role::hear();
    for (slot, (tx, _)) in (first..).zip(&mut ports) {
        for tag in 0..FRAMES {
            let neighbour = mac((slot + 1) % MAX_SLOTS);
            assert_eq!(role::send(tx, neighbour, tag, 100), Sent::Done);
        }
        if slot == first {
            assert_eq!(role::send(tx, BROADCAST, 9, 100), Sent::Done);
        }
        tx.flush();
    }
    let mut counts = BTreeMap::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    let all = MAX_SLOTS / EACH;
    let done = |slot: usize, count: &(usize, usize)| {
        *count == (FRAMES.into(), all - usize::from(slot == first))
    };
    while Instant::now() < deadline {
        for (_, rx) in &mut ports {
            hear(rx, counts.entry(rx.slot().get()).or_default());
        }
        if counts.iter().all(|(slot, count)| done(*slot, count)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    for (slot, count) in &counts {
        assert!(done(*slot, count), "slot {slot} heard {count:?}");
    }
    role::say("done");
    role::hear();
}

/// The claim.
pub fn all_682_slots_are_taken_and_talk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crowd");
    let options = CreateOptions {
        slots: MAX_SLOTS as u32,
        ring_bytes: 384 << 10,
        log_bytes: Geometry::DEFAULT_LOG / 2,
        ..CreateOptions::default()
    };
    let segment = Segment::create(&path, &options).unwrap();
    let mut crowd: Vec<_> = (0..MAX_SLOTS / EACH)
        .map(|index| Actor::start("crowd", &path, index))
        .collect();
    for actor in &mut crowd {
        assert_eq!(actor.line(), "here");
    }
    let one_more = segment.port(PortOptions::default());
    assert!(
        matches!(one_more, Err(Error::Full { slots: 682, .. })),
        "{one_more:?}"
    );
    crowd.iter_mut().for_each(|actor| actor.order("go"));
    for mut actor in crowd {
        let line = actor.line();
        if line != "done" {
            panic!("{}", role::stderr(&actor.end()));
        }
        actor.kill();
    }
    // All gone, and so are their slots' locks.
    let (_tx, rx) = role::join(&segment, MAX_SLOTS - 1);
    assert_eq!(rx.slot().get(), MAX_SLOTS - 1);
}
