//! The fuzz targets of `fuzz/`, with random bytes: `PROPTEST_CASES` says how many. What guides itself by
//! coverage is `fuzz/run`.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

#[path = "../fuzz/src/lib.rs"]
mod targets;

/// Panics of any thread: those that serve a card end in themselves.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Runs a target; no thread may panic.
fn quietly(target: fn(&[u8]), data: &[u8]) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            told(panic);
        }));
    });
    let before = PANICS.load(Ordering::SeqCst);
    target(data);
    assert_eq!(PANICS.load(Ordering::SeqCst), before, "a thread panicked");
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    // Small numbers and few bits reach further than noise.
    let byte = prop_oneof![any::<u8>(), 0..4u8, Just(0), Just(255)];
    prop::collection::vec(byte, 0..most)
}

proptest! {
    #[test]
    fn any_header_page_is_refused_or_means_what_it_says(data in bytes(160)) {
        quietly(targets::header, &data);
    }

    #[test]
    fn any_slot_table_can_be_inspected(data in bytes(4200)) {
        quietly(targets::slots, &data);
    }

    #[test]
    fn any_records_are_read_inside_their_bounds(data in bytes(2000)) {
        quietly(targets::records, &data);
    }

    #[test]
    fn any_ring_and_log_can_be_received_from(data in bytes(3000)) {
        quietly(targets::port, &data);
    }

    #[test]
    fn any_messages_of_a_vmm_end_in_a_closed_card(data in bytes(600)) {
        quietly(targets::vhost_user, &data);
    }

    #[test]
    fn any_virtqueue_is_read_inside_its_memory(data in bytes(3000)) {
        quietly(targets::virtqueue, &data);
    }
}
