//! A fault of the launcher's own. One test, for it is told to the whole process.

#![allow(
    clippy::unwrap_used,
    reason = "what a test does to set itself up either works or is the test's failure"
)]

use launcher::engine::kvm::virtio::chain::Broken;
use launcher::engine::kvm::virtio::description::{Config, Description};
use launcher::engine::kvm::virtio::device::Driver;
use launcher::engine::kvm::virtio::vring::Vring;
use launcher::engine::kvm::virtio::worker::{self, Work};
use launcher::stop::{self, StopCause, StopRequest};
use launcher::{end::GuestEnd, fault};
use vm_memory::GuestMemoryMmap;

/// A device that does not survive its driver.
struct Faulty;

impl Work for Faulty {
    fn start(&mut self, _: u64) {
        panic!("planted");
    }

    fn serve(&mut self, _: usize, _: &mut Vring) -> Result<bool, Broken> {
        Ok(false)
    }
}

#[test]
fn a_device_whose_thread_panics_ends_the_guest_and_keeps_nobody_waiting() {
    fault::watch();
    let (sender, requests) = stop::channel().unwrap();
    fault::ends_guest(&sender).unwrap();
    let description = Description {
        id: 0,
        features: 0,
        queues: vec![16],
        config: Config::default(),
    };
    let device = worker::device("faulty", description, Faulty).unwrap();
    assert_eq!(requests.take(), None);
    assert!(!fault::met());

    // Given by a processor's thread, and nobody is left to carry it out.
    device.start(Driver {
        features: 0,
        memory: GuestMemoryMmap::new(),
        queues: Vec::new(),
    });
    assert_eq!(
        requests.take(),
        Some(StopRequest::End(StopCause::Fault)),
        "the guest is not ended"
    );
    assert!(fault::met());
    assert_ne!(GuestEnd::Stopped(StopCause::Fault).exit_status(), 0);
    // Nor anybody to hear of the next ones.
    device.stop();
    drop(device);

    let left = nix::unistd::alarm::cancel();
    assert!(left.is_some(), "an end that hangs would never end");
    assert_eq!(fault::caught(|| -> u8 { panic!("planted") }), None);
    nix::unistd::alarm::cancel();
}
