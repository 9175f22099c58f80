//! Drivers that mean harm: any registers, any queues. What counts is that nothing panics, hangs or is
//! touched outside the guest's memory, and that a reset makes all well.

use launcher::backend::block::Disk;
use launcher::backend::net::{Link, NetDevice};
use launcher::engine::kvm::bus::MmioDevice;
use launcher::engine::kvm::virtio::device::Device;
use launcher::engine::kvm::virtio::{balloon, block, console, net, rng};
use launcher::plan::disk::BlockPlan;
use lgswitch::{CreateOptions, MacAddr, PortOptions, Segment};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use vm_memory::{Bytes, GuestAddress};

use super::driver::*;

#[path = "../../../lgswitch/tests/fuzz/panics.rs"]
mod panics;
use panics::count_panics;

crate::tests!(
    any_writes_to_registers_are_survived,
    any_queues_are_survived
);

/// One of each kind, and what must live as long.
fn devices() -> Vec<(&'static str, Device, Box<dyn std::any::Any>)> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let plan = BlockPlan::parse(file.path().as_os_str()).unwrap();
    let disk = block::device(Disk::open(&plan).unwrap(), 0).unwrap();
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let handover = std::sync::Arc::new(console::Handover::new().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let options = CreateOptions {
        slots: 4,
        ..CreateOptions::default()
    };
    let segment = Segment::create(&folder.path().join("lan"), &options).unwrap();
    let card = NetDevice {
        mac: MacAddr::new(2, 0, 0, 0, 0, 1),
        host_mac: None,
        mtu: 1500,
        link: Link::Sharenet(Box::new(segment.port(PortOptions::default()).unwrap())),
    };
    vec![
        ("disk", disk, Box::new(file)),
        (
            "console",
            console::device(near, handover).unwrap(),
            Box::new(far),
        ),
        ("rng", rng::device().unwrap(), Box::new(())),
        ("balloon", balloon::device().unwrap(), Box::new(())),
        (
            "card",
            net::device(card, 0, 2, &memory()).unwrap(),
            Box::new(folder),
        ),
    ]
}

/// Afterwards it is as new: a driver that keeps the rules brings it up.
fn serves_a_good_driver(name: &str, driver: &Driver) {
    driver.reset();
    driver.start(0);
    assert_eq!(
        driver.status(),
        ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK,
        "{name}"
    );
    driver.reset();
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        // A case that fails is printed; there is no file to remember it in.
        failure_persistence: None,
        ..Config::default()
    })
}

fn any_writes_to_registers_are_survived() {
    let panics = count_panics();
    let mut runner = runner(60);
    let devices = devices();
    let keep: Vec<_> = devices
        .into_iter()
        .map(|(name, device, keep)| (name, Driver::new(device), keep))
        .collect();
    let offset = prop_oneof![
        0u64..0x110,
        Just(0x70),
        Just(0x44),
        Just(0x50),
        0xf00u64..0x1000
    ];
    let value = prop_oneof![any::<u64>(), 0u64..16, Just(0x1_0000)];
    let width = prop_oneof![Just(4usize), 1usize..=8];
    let writes = prop::collection::vec((offset, value, width), 0..200);
    runner
        .run(&writes, |writes| {
            for (name, driver, _) in &keep {
                for (offset, value, width) in &writes {
                    driver
                        .registers
                        .write(*offset, &value.to_le_bytes()[..*width]);
                    driver.registers.read(*offset, &mut [0; 8][..*width]);
                }
                serves_a_good_driver(name, driver);
                assert_eq!(count_panics(), panics, "{name}: a thread panicked");
            }
            Ok(())
        })
        .unwrap();
}

fn any_queues_are_survived() {
    let panics = count_panics();
    let mut runner = runner(100);
    let devices = devices();
    let keep: Vec<_> = devices
        .into_iter()
        .map(|(name, device, keep)| (name, Driver::new(device), keep))
        .collect();
    let address = prop_oneof![
        0u64..LOW,
        Just(LOW - 1),
        HIGH..HIGH + (1 << 20),
        any::<u64>(),
        (0u64..16).prop_map(|i| 0x1_0000 + 16 * i)
    ];
    let len = prop_oneof![0u32..64, 0u32..8192, any::<u32>()];
    let flags = prop_oneof![0u32..4, 0u32..8];
    let descriptor = (address, len, flags, prop_oneof![0u16..16, any::<u16>()]);
    let heads = prop::collection::vec(prop_oneof![0u16..16, any::<u16>()], 1..24);
    let queue = (
        prop::collection::vec(descriptor, 16),
        heads,
        any::<[u8; 16]>(),
    );
    runner
        .run(&queue, |(descriptors, heads, header)| {
            for (name, driver, _) in &keep {
                driver.start(0);
                let count = driver.registers.shared().kicks.len();
                // Something a device may take for a header.
                driver
                    .memory
                    .write_slice(&header, GuestAddress(0x8000))
                    .unwrap();
                for queue in 0..count {
                    for (index, &(at, len, flags, next)) in (0..).zip(&descriptors) {
                        driver.descriptor(queue, index, at, len, flags, next);
                    }
                    heads
                        .iter()
                        .for_each(|&head| driver.make_available(queue, head));
                    driver.kick(queue);
                }
                // It gets to work on them.
                std::thread::sleep(std::time::Duration::from_millis(1));
                serves_a_good_driver(name, driver);
                assert_eq!(count_panics(), panics, "{name}: a thread panicked");
            }
            Ok(())
        })
        .unwrap();
}
