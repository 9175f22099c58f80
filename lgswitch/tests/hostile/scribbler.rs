//! A peer that writes whatever it likes, wherever it likes, as fast as it can.

use std::fs::OpenOptions;
use std::time::{Duration, Instant};

use lgswitch::layout::{Geometry, HEADER_HIGH_WATER, slot_record};
use lgswitch::map::Mapping;
use lgswitch::port::{Sent, Verdict};
use lgswitch::{CreateOptions, Segment};
use std::sync::atomic::Ordering;

use super::role::{self, Actor, BROADCAST, mac};

const SLOTS: u32 = 4;
/// Nothing a port does may take longer, whatever stands in the file.
const STALL: Duration = Duration::from_secs(2);

fn geometry() -> Geometry {
    Geometry::new(SLOTS, 1 << 18, 1 << 18).unwrap()
}

/// The role: two of these talk, and take what comes.
pub fn talk() {
    let segment = Segment::open(&role::segment_path()).unwrap();
    let me = role::index();
    let (mut tx, mut rx) = role::join(&segment, me);
    role::say("here");
    role::hear();
    let seconds = std::env::var("HOSTILE_SECONDS").map_or(3, |s| s.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut longest, mut heard) = (Duration::ZERO, 0u64);
    let mut round = 0u64;
    while Instant::now() < end {
        round += 1;
        let start = Instant::now();
        for i in 0..8 {
            let to = if i == 0 { BROADCAST } else { mac(1 - me) };
            let len = (round * 131 % 1480) as usize;
            if let Sent::Full(_) = role::send(&mut tx, to, i, len) {
                tx.give_up();
            }
        }
        tx.flush();
        rx.recv(64, |frame| {
            // Whatever it is, it can be read to its end.
            heard += u64::from(frame.bytes.to_vec().len() >= 14);
            Verdict::Taken
        });
        longest = longest.max(start.elapsed());
        if round.is_multiple_of(64) {
            rx.wait(Duration::from_millis(1));
        }
    }
    assert!(longest < STALL, "a round took {longest:?}");
    role::say(&heard.to_string());
}

/// The role: everything is overwritten, most of all what is read as a number.
pub fn scribble() {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(role::segment_path())
        .unwrap();
    let g = geometry();
    // Rings and logs far down the file too: a page or two of each.
    let control = Mapping::new(&file, 0, g.rings(), true).unwrap();
    let data: Vec<_> = [g.ring(0, 1), g.ring(1, 0), g.log(0), g.log(1)]
        .map(|at| Mapping::new(&file, at, 1 << 18, true).unwrap())
        .into();
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    role::say("here");
    loop {
        let value = match next() % 5 {
            0 => next(),
            1 => 0,
            2 => u64::MAX,
            3 => next() % (1 << 19) / 64 * 64,
            // A plausible record: a frame of any length, or a filler.
            _ => (next() % 70_000) | ((1 + next() % 2) << 32),
        };
        let slot = (next() % u64::from(SLOTS)) as usize;
        let (map, at) = match next() % 8 {
            0 => (&control, next() % 24),
            1 => (&control, g.slot(slot) + next() % 1024),
            2 => (
                &control,
                g.slot(slot) + slot_record::FLOOD_HEAD + next() % 24,
            ),
            3 => (
                &control,
                g.pair(slot, (next() % 4) as usize) + next() % 2 * 64,
            ),
            4 => (&control, HEADER_HIGH_WATER),
            5 => (&control, g.slot(slot) + slot_record::BELL),
            _ => (&data[slot], next() % (1 << 18)),
        };
        map.word64(at / 8 * 8).store(value, Ordering::Relaxed);
    }
}

/// The claim.
pub fn who_is_scribbled_over_lives_and_waits_for_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scribbled");
    let options = CreateOptions {
        slots: SLOTS,
        ring_bytes: 1 << 18,
        log_bytes: 1 << 18,
        ..CreateOptions::default()
    };
    let segment = Segment::create(&path, &options).unwrap();
    let mut talkers = [0, 1].map(|index| Actor::start("talker", &path, index));
    for talker in &mut talkers {
        assert_eq!(talker.line(), "here");
    }
    let mut scribbler = Actor::start("scribbler", &path, 0);
    assert_eq!(scribbler.line(), "here");
    talkers.iter_mut().for_each(|talker| talker.order("go"));
    let heard = talkers.each_mut().map(Actor::line);
    for talker in talkers {
        let output = talker.end();
        assert!(output.status.success(), "{output:?}");
    }
    scribbler.kill();
    eprintln!("frames heard under it: {heard:?}");
    // Who comes next finds the segment as good as new.
    let (mut tx, _rx) = role::join(&segment, 0);
    let (_tx, mut rx) = role::join(&segment, 1);
    let mut tags = Vec::new();
    // A first frame may be lost to finding out where reader and writer are.
    for tag in 0..3 {
        role::send(&mut tx, mac(1), tag, 46);
        tx.flush();
        rx.recv(64, |frame| {
            tags.push(frame.bytes.to_vec()[14]);
            Verdict::Taken
        });
    }
    assert_eq!(tags.last(), Some(&2), "{tags:?}");
}
