//! The fuzz targets of `fuzz/`, with random bytes: `PROPTEST_CASES` says how many. What guides itself by
//! coverage is `fuzz/run`.

use proptest::prelude::*;

#[path = "fuzz/random.rs"]
mod random;
#[path = "../fuzz/src/lib.rs"]
mod targets;

use random::{bytes, quietly};

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
