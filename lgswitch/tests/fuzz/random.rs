//! Fuzz targets with random bytes. (The launcher's tests have this file, too.)

mod panics;

use panics::count_panics;
use proptest::prelude::*;

/// Runs a target; no thread may panic.
pub fn quietly<T>(target: fn(&[u8]) -> T, data: &[u8]) {
    let before = count_panics();
    target(data);
    assert_eq!(count_panics(), before, "a thread panicked");
}

/// What targets are given: small numbers and few bits reach further than noise.
pub fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), 0..4u8, Just(0), Just(255)];
    prop::collection::vec(byte, 0..most)
}
