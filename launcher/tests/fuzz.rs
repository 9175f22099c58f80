//! The fuzz targets of `fuzz/`, with random bytes: `PROPTEST_CASES` says how many. What guides itself by
//! coverage is `fuzz/run`.

use proptest::prelude::*;

#[path = "../../lgswitch/tests/fuzz/random.rs"]
mod random;
#[path = "../fuzz/src/lib.rs"]
mod targets;

use random::{bytes, quietly};

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

/// What once brought a fault to light.
#[test]
fn what_was_mended_stays_so() {
    // An image whose reference counts are beyond its end, and one write.
    let counts_elsewhere = [0x41, 0xc4, 0x2a, 0xc8, 0x5a, 0x31, 0x2a, 0xc8];
    assert!(!targets::disk_image(&counts_elsewhere));
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
        quietly(targets::disk_image, &data);
    }

    #[test]
    fn any_kernel_is_refused_or_loaded_inside_the_guests_memory(data in bytes(60)) {
        quietly(targets::kernel_image, &data);
    }

    #[test]
    fn any_kernel_of_2007_is_refused_or_loaded_inside_the_guests_memory(data in bytes(60)) {
        quietly(targets::lguest_image, &data);
    }

    #[test]
    fn any_guest_of_2007_lives_or_dies_and_nothing_else(data in bytes(400)) {
        quietly(targets::lguest_guest, &data);
    }
}
