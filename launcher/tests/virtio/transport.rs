//! The registers.

use launcher::engine::kvm::virtio::{console, rng};
use virtio_bindings::virtio_mmio::*;

use super::driver::*;

crate::tests!(
    a_driver_finds_what_the_book_says,
    steps_are_taken_in_their_order_and_features_settled_before_queues,
    features_that_were_not_offered_are_refused,
    a_queue_outside_the_memory_breaks_the_device_and_a_reset_mends_it,
    used_buffers_interrupt_and_are_the_reason_as_long_as_the_device_runs,
    a_change_of_the_configuration_interrupts_until_it_is_acknowledged,
    a_device_that_was_stopped_touches_nothing_any_more,
    registers_are_read_in_their_width_alone,
    a_register_kicks_where_the_kernel_does_not,
    the_driver_says_when_it_wants_to_be_interrupted,
);

fn rng() -> Driver {
    Driver::new(rng::device().unwrap())
}

fn a_driver_finds_what_the_book_says() {
    let driver = rng();
    assert_eq!(driver.read(VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
    assert_eq!(driver.read(VIRTIO_MMIO_VERSION), 2);
    assert_eq!(driver.read(VIRTIO_MMIO_DEVICE_ID), 4);
    assert_ne!(driver.offered() & VERSION_1, 0);
    // A third half of the features, and a second queue: there are none.
    driver.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    assert_eq!(driver.read(VIRTIO_MMIO_DEVICE_FEATURES), 0);
    driver.write(VIRTIO_MMIO_QUEUE_SEL, 1);
    assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
    driver.write(VIRTIO_MMIO_SHM_SEL, 0);
    assert_eq!(driver.read(VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
}

fn steps_are_taken_in_their_order_and_features_settled_before_queues() {
    let driver = rng();
    for early in [DRIVER, FEATURES_OK, DRIVER_OK, NEEDS_RESET] {
        driver.write(VIRTIO_MMIO_STATUS, early);
        assert_eq!(driver.status(), 0, "step {early}");
    }
    driver.step(ACKNOWLEDGE);
    driver.step(DRIVER);
    driver.step(FEATURES_OK);
    assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER, "without VERSION_1");
    driver.set_up_early();
    driver.acknowledge(VERSION_1);
    driver.step(FEATURES_OK);
    driver.acknowledge(0);
    driver.set_up(0, 0x1_0000);
    assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_READY), 1);
    driver.step(DRIVER_OK);
    let room = driver.room(64);
    assert_eq!(driver.request(0, &[(room, 64, true)]), 64);
    // No step back but to the start.
    driver.write(VIRTIO_MMIO_STATUS, ACKNOWLEDGE);
    assert_eq!(driver.status(), 15);
}

impl Driver {
    /// What is said of queues before features are settled is not heard.
    fn set_up_early(&self) {
        self.write(VIRTIO_MMIO_QUEUE_SEL, 0);
        self.write(VIRTIO_MMIO_QUEUE_READY, 1);
        assert_eq!(self.read(VIRTIO_MMIO_QUEUE_READY), 0);
    }
}

fn features_that_were_not_offered_are_refused() {
    let driver = rng();
    driver.step(ACKNOWLEDGE);
    driver.step(DRIVER);
    driver.acknowledge(driver.offered() | 1 << 40);
    driver.step(FEATURES_OK);
    assert_eq!(driver.status() & FEATURES_OK, 0);
    driver.acknowledge(driver.offered());
    driver.step(FEATURES_OK);
    assert_ne!(driver.status() & FEATURES_OK, 0);
}

fn a_queue_outside_the_memory_breaks_the_device_and_a_reset_mends_it() {
    let driver = rng();
    for base in [LOW - 0x1000, HIGH - 0x2000, u64::MAX - 0x2fff] {
        driver.step(ACKNOWLEDGE);
        driver.step(DRIVER);
        driver.acknowledge(VERSION_1);
        driver.step(FEATURES_OK);
        driver.set_up(0, base);
        driver.step(DRIVER_OK);
        driver.wait_until_broken();
        assert!(driver.interrupted());
        assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS) & 2, 2);
        driver.reset();
        assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    }
    driver.start(0);
    let room = driver.room(8);
    assert_eq!(driver.request(0, &[(room, 8, true)]), 8);
}

fn used_buffers_interrupt_and_are_the_reason_as_long_as_the_device_runs() {
    let driver = rng();
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    driver.start(0);
    let room = driver.room(8);
    driver.request(0, &[(room, 8, true)]);
    soon("an interrupt comes", || driver.interrupted().then_some(()));
    for _ in 0..2 {
        assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 1);
        driver.write(VIRTIO_MMIO_INTERRUPT_ACK, 1);
    }
    driver.reset();
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

fn a_change_of_the_configuration_interrupts_until_it_is_acknowledged() {
    let (stream, _far) = std::os::unix::net::UnixStream::pair().unwrap();
    let handover = std::sync::Arc::new(console::Handover::new().unwrap());
    let driver = Driver::started(console::device(stream, handover).unwrap(), 0);
    let generation = driver.read(VIRTIO_MMIO_CONFIG_GENERATION);
    let shared = driver.registers.shared();
    shared.description.config.change(0, &console::size(100, 40));
    shared.interrupt.changed();
    assert!(driver.interrupted());
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 3);
    assert_ne!(driver.read(VIRTIO_MMIO_CONFIG_GENERATION), generation);
    assert_eq!(driver.config(0, 4), [100, 0, 40, 0]);
    driver.write(VIRTIO_MMIO_INTERRUPT_ACK, 2);
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 1);
}

fn a_device_that_was_stopped_touches_nothing_any_more() {
    let driver = rng();
    driver.start(0);
    let room = driver.room(64);
    driver.request(0, &[(room, 64, true)]);
    driver.reset();
    driver.offer(0, &[(room, 64, true)]);
    // A device that runs in between shows that kicks were heard, if by anybody.
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(driver.used_count(0), 0);
    driver.reset();
    driver.registers.end();
    driver.start(0);
    driver.offer(0, &[(room, 64, true)]);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(driver.used_count(0), 0);
}

fn registers_are_read_in_their_width_alone() {
    use launcher::engine::kvm::bus::MmioDevice;
    let driver = rng();
    for (offset, len) in [(0, 1), (0, 8), (1, 4), (2, 2)] {
        let mut data = [0x5a; 8];
        driver.registers.read(offset, &mut data[..len]);
        assert_eq!(data, [0x5a; 8], "{offset} {len}");
        driver.registers.write(0x70 + offset, &[1; 8][..len]);
        assert_eq!(driver.status(), 0, "{offset} {len}");
    }
}

fn a_register_kicks_where_the_kernel_does_not() {
    let driver = rng();
    driver.start(0);
    let room = driver.room(8);
    driver.descriptor(0, 0, room, 8, 2, 0);
    driver.make_available(0, 0);
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 77);
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(driver.used(0, 0), (0, 8));
}

fn the_driver_says_when_it_wants_to_be_interrupted() {
    let driver = rng();
    driver.start(EVENT_INDEX);
    let room = driver.room(8);
    // At the second chain: `used_event` stands behind the entries of the available ring.
    use vm_memory::{Bytes, GuestAddress};
    let event = GuestAddress(0x1_0000 + 0x1000 + 4 + 2 * u64::from(SIZE));
    driver.memory.write_obj(1u16, event).unwrap();
    driver.request(0, &[(room, 8, true)]);
    assert!(!driver.interrupted());
    driver.request(0, &[(room, 8, true)]);
    soon("an interrupt comes", || driver.interrupted().then_some(()));
}
