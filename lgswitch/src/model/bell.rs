//! A port served by two threads: one is woken by its bell, the other by anything else. Nobody sleeps over
//! a frame.

use std::sync::Arc;

use loom::sync::Mutex;
use loom::thread;

use super::doorbell::{look, send};
use super::{check, segment, slot};
use crate::bell::Bell;
use crate::doorbell;
use crate::ring::RingReader;
use crate::segment::Segment;
use crate::slot::SlotSet;
use crate::sync::lead::Lead;

/// What a card's threads share, as far as the protocol goes.
struct Served {
    segment: Arc<Segment>,
    bell: Bell,
    lead: Lead,
    traffic: Mutex<Traffic>,
}

struct Traffic {
    ring: RingReader,
    /// Frames that were not received yet.
    left: u64,
}

impl Served {
    fn call(&self) {
        self.lead.call(|| self.work());
    }

    /// Takes what there is, arms the bell, looks once more. A lost wake-up is a deadlock: only
    /// the last frame silences the bell.
    fn work(&self) {
        let mut traffic = self.traffic.try_lock().expect("one leads at a time");
        let Traffic { ring, left } = &mut *traffic;
        let (control, record) = (self.segment.control(), self.segment.geometry().slot(0));
        let rings = std::slice::from_mut(ring);
        let slots = self.segment.slots();
        self.bell.disarm();
        loop {
            let mut named = SlotSet::new();
            doorbell::collect(control, record, slots, |word, bits| {
                named.insert_word(word, bits);
            });
            look(&self.segment, rings, &named, left);
            if *left == 0 {
                return self.bell.silence();
            }
            self.bell.arm();
            let mut named = SlotSet::new();
            doorbell::peek(control, record, slots, |word, bits| {
                named.insert_word(word, bits);
            });
            if !look(&self.segment, rings, &named, left) {
                return;
            }
            self.bell.disarm();
            if *left == 0 {
                return self.bell.silence();
            }
        }
    }
}

#[test]
fn no_frame_is_slept_over_whichever_of_two_threads_wakes() {
    check(2, || {
        const FRAMES: u64 = 2;
        let segment = segment(2, 4);
        let served = Arc::new(Served {
            bell: Bell::at(segment.clone(), slot(0)),
            lead: Lead::default(),
            traffic: Mutex::new(Traffic {
                ring: RingReader::open(&segment, slot(1), slot(0)),
                left: FRAMES,
            }),
            segment: segment.clone(),
        });
        let source = thread::spawn(move || send(&segment, 1, 0, FRAMES));
        // Something else has come, once.
        let other = {
            let served = served.clone();
            thread::spawn(move || served.call())
        };
        served.bell.listen(|| served.call());
        source.join().unwrap();
        other.join().unwrap();
    });
}
