use loom::thread;
use super::*;
use std::sync::atomic::Ordering::*;
#[test]
fn probe() {
    for k in 0..5 {
    check(3, move || {
        let segment = segment(2, 2);
        let s = segment.clone();
        if k >= 4 { crate::ring::RingReader::open(&segment, slot(0), slot(1)); }
        let w = thread::spawn(move || {
            let w = s.control().word64(s.geometry().pair(0, 1));
            if k >= 3 { crate::ring::RingWriter::open(&s, slot(0), slot(1)).unwrap(); }
            w.store(1, Release);
            if k >= 1 { w.store(2, Release); }
        });
        let w1 = segment.control().word64(segment.geometry().pair(0, 1));
        let a = w1.load(Acquire);
        if k >= 2 { assert!(a <= w1.load(Acquire)); }
        w.join().unwrap();
    });
    }
}
