//! The fuzz targets of `fuzz/`, with random bytes: `PROPTEST_CASES` says how many. What guides itself by
//! coverage is `fuzz/run`.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

#[path = "../fuzz/src/lib.rs"]
mod targets;

/// Panics of any thread: those that serve a device end in themselves.
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

/// Else nothing behind the first check would ever be tried.
#[test]
fn images_that_are_not_changed_are_taken() {
    assert!(targets::disk_image(&[]));
    for form in 0..3 {
        assert!(targets::kernel_image(&[form]), "{form}");
    }
    for form in [0, 2] {
        assert!(targets::lguest_image(&[form]), "{form}");
    }
}

proptest! {
    #[test]
    fn any_registers_of_a_device_can_be_written(data in bytes(400)) {
        quietly(targets::registers, &data);
    }

    #[test]
    fn any_queues_of_a_device_are_read_inside_the_guests_memory(data in bytes(600)) {
        quietly(targets::queues, &data);
    }

    #[test]
    fn any_layered_image_is_refused_or_a_disk(data in bytes(200)) {
        quietly(|data| _ = targets::disk_image(data), &data);
    }

    #[test]
    fn any_kernel_is_refused_or_loaded_inside_the_guests_memory(data in bytes(60)) {
        quietly(|data| _ = targets::kernel_image(data), &data);
    }

    #[test]
    fn any_kernel_of_2007_is_refused_or_loaded_inside_the_guests_memory(data in bytes(60)) {
        quietly(|data| _ = targets::lguest_image(data), &data);
    }

    #[test]
    fn any_guest_of_2007_lives_or_dies_and_nothing_else(data in bytes(400)) {
        quietly(targets::lguest_guest, &data);
    }
}
