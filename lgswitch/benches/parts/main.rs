//! The inner parts of a sharenet, a thread each by itself: what an instruction more or less does.
//! What two processes get out of them, `lgswitch bench` says.
//!
//! `cargo bench -p lgswitch --bench parts` measures, and compares with the time before.

mod flood;
mod offload;
mod peers;
mod port;
mod ring;

use std::sync::Arc;

use criterion::{criterion_group, criterion_main};
use lgswitch::{CreateOptions, MacAddr, Segment, SlotIndex};
use tempfile::TempDir;

/// Frames in a burst.
const BURST: usize = 32;

/// A segment in memory, gone when dropped.
struct Lan {
    segment: Arc<Segment>,
    _folder: TempDir,
}

impl Lan {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let folder = folder.expect("a folder can be made");
        let options = CreateOptions {
            mtu: 65_535,
            ..CreateOptions::default()
        };
        let segment = Segment::create(&folder.path().join("lan0"), &options);
        Self {
            segment: segment.expect("a segment can be made"),
            _folder: folder,
        }
    }
}

/// That slot.
fn slot(index: usize) -> SlotIndex {
    SlotIndex::new(index).expect("the format has that many")
}

/// The address of the port with that number.
fn mac(number: usize) -> MacAddr {
    let [high, low] = (number as u16).to_be_bytes();
    MacAddr::new(2, 0, 0, 1, high, low)
}

criterion_group!(
    parts,
    ring::benches,
    flood::benches,
    port::benches,
    peers::benches,
    offload::benches
);
criterion_main!(parts);
