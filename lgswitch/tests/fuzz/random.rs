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
    // A strategy for each byte takes a hundred times as long as the targets: two of one word's bytes
    // are the kind and the value.
    let four = |word: u64| {
        let [k0, k1, k2, k3, v0, v1, v2, v3] = word.to_le_bytes();
        [(k0, v0), (k1, v1), (k2, v2), (k3, v3)].map(|(kind, value)| match kind % 4 {
            0 => value,
            1 => value % 4,
            2 => 0,
            _ => 255,
        })
    };
    prop::collection::vec(any::<u64>(), 0..most / 4)
        .prop_map(move |words| words.into_iter().flat_map(four).collect())
}
