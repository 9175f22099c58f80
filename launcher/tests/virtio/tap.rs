//! Cards on a tap, whose other end is a network of the test's own.

use std::net::UdpSocket;
use std::time::Duration;

use launcher::backend::net::{Link, NetDevice};
use launcher::engine::kvm::virtio::net;
use lgswitch::MacAddr;
use netsetup::{NetSetup, TapOptions, TapPlan};
use nix::sched::{CloneFlags, unshare};

use super::driver::*;
use super::net::{CONTROL, MERGEABLE, MULTI_QUEUE, RECEIVE, TRANSMIT, ask_for_pairs};

crate::tests!(
    the_host_hears_the_guest_and_the_guest_the_host,
    large_datagrams_wait_for_enough_buffers,
    a_broken_queue_breaks_a_card_on_a_tap_and_a_reset_mends_it,
    the_host_spreads_flows_over_the_pairs_that_the_guest_uses,
);

/// Moves this thread to a network namespace of its own; or why that can't be.
pub fn enter_namespace() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("no network namespace: {error}"))?;
    match std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
    {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("/dev/net/tun: {error}")),
    }
}

const GUEST: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);

/// A card whose host end has an address, and knows the guest as the neighbour 10.9.0.2.
fn bed(mtu: u32, pairs: u16) -> Driver {
    let net = NetSetup::new().unwrap();
    let tap = net
        .setup_tap(&TapPlan {
            tap: TapOptions {
                vnet_hdr: true,
                mtu: Some(mtu),
                queues: pairs,
                ..TapOptions::default()
            },
            addresses: vec!["10.9.0.1/24".parse().unwrap()],
            up: true,
            ..TapPlan::default()
        })
        .unwrap();
    let neighbour = [
        "neigh",
        "add",
        "10.9.0.2",
        "lladdr",
        "02:00:00:00:00:01",
        "nud",
        "permanent",
        "dev",
    ];
    let done = std::process::Command::new("ip")
        .args(neighbour)
        .arg(tap.name.as_str())
        .status();
    assert!(done.unwrap().success());
    let device = NetDevice {
        mac: GUEST,
        host_mac: None,
        mtu,
        link: Link::Tap(tap),
    };
    let memory = memory();
    let device = net::device(device, 0, pairs.into(), &memory).unwrap();
    Driver::with_memory(device, memory)
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("10.9.0.1:7").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    socket
}

/// A datagram from the guest's port 9 to the host's port 7. Without a checksum, which IPv4 allows.
fn datagram(driver: &Driver, host: &[u8], payload: &[u8]) -> Vec<u8> {
    let _ = driver;
    let len = 28 + payload.len() as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1]);
    let sum: u32 = packet
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], c[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([0, 9, 0, 7]);
    packet.extend((len - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    [host, &[2, 0, 0, 0, 0, 1, 8, 0], &packet].concat()
}

/// Waits for the datagram that is in the receive queue from `place` on; other frames of the host's (its
/// IPv6 makes itself known) come in between. Gives it, and the place after it.
fn next_datagram(driver: &Driver, mut place: u16, rooms: impl Fn(u16) -> u64) -> (Vec<u8>, u16) {
    loop {
        let first = rooms(place);
        driver.used(RECEIVE, place);
        let count = u16::from_le_bytes(driver.get(first + 10, 2).try_into().unwrap());
        let mut bytes = Vec::new();
        // Linux's vhost-net says nothing where it can be but one.
        for _ in 0..count.max(1) {
            let (_, len) = driver.used(RECEIVE, place);
            assert_ne!(len, 0, "a buffer for nothing");
            bytes.extend(driver.get(rooms(place), len as usize));
            place += 1;
        }
        let frame = &bytes[12..];
        if frame[..6] == [2, 0, 0, 0, 0, 1] && frame[12..14] == [8, 0] {
            return (frame[14 + 28..].to_vec(), place);
        }
    }
}

/// Gives the guest `count` buffers of `size` bytes in a receive queue; tells where each place's is.
fn buffers(driver: &Driver, queue: usize, count: u16, size: u64) -> impl Fn(u16) -> u64 + use<> {
    let room = driver.room(count as usize * size as usize);
    for i in 0..count {
        driver.descriptor(queue, i, room + size * u64::from(i), size as u32, 2, 0);
        driver.make_available(queue, i);
    }
    driver.kick(queue);
    move |place| room + size * u64::from(place)
}

fn the_host_hears_the_guest_and_the_guest_the_host() {
    for features in [0, MERGEABLE, MERGEABLE | EVENT_INDEX] {
        let driver = bed(1500, 1);
        driver.start(features);
        let rooms = buffers(&driver, RECEIVE, SIZE, 2048);
        let socket = socket();
        socket.send_to(b"hello, guest", "10.9.0.2:9").unwrap();
        let (payload, _) = next_datagram(&driver, 0, rooms);
        assert_eq!(payload, b"hello, guest");
        soon("an interrupt comes", || driver.interrupted().then_some(()));

        driver.send(&datagram(&driver, &[0xff; 6], b"hello, host"));
        let mut piece = [0; 64];
        let (count, from) = socket.recv_from(&mut piece).unwrap();
        assert_eq!(
            (&piece[..count], from.to_string().as_str()),
            (&b"hello, host"[..], "10.9.0.2:9")
        );
        driver.registers.end();
        let devices = NetSetup::new().unwrap();
        assert!(
            devices.link(&"tap0".parse().unwrap()).unwrap().is_none(),
            "the tap is gone"
        );
    }
}

fn large_datagrams_wait_for_enough_buffers() {
    let driver = bed(9000, 1);
    driver.start(MERGEABLE);
    let socket = socket();
    let large: Vec<u8> = (0..8000).map(|i| (i % 253) as u8).collect();
    // One buffer, then enough.
    let room = driver.room(SIZE as usize * 1024);
    driver.descriptor(RECEIVE, 0, room, 1024, 2, 0);
    driver.make_available(RECEIVE, 0);
    driver.kick(RECEIVE);
    std::thread::sleep(Duration::from_millis(50));
    socket.send_to(&large, "10.9.0.2:9").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    for i in 1..SIZE {
        driver.descriptor(RECEIVE, i, room + 1024 * u64::from(i), 1024, 2, 0);
        driver.make_available(RECEIVE, i);
    }
    driver.kick(RECEIVE);
    let (payload, next) = next_datagram(&driver, 0, |place| room + 1024 * u64::from(place));
    assert!(payload == large);
    assert!((8..SIZE).contains(&next));
}

fn a_broken_queue_breaks_a_card_on_a_tap_and_a_reset_mends_it() {
    let driver = bed(1500, 1);
    let socket = socket();
    for queue in [TRANSMIT, RECEIVE] {
        driver.start(0);
        driver.offer(queue, &[(LOW - 1, 2, queue == RECEIVE)]);
        driver.wait_until_broken();
        driver.reset();
        driver.start(0);
        driver.send(&datagram(&driver, &[0xff; 6], b"again"));
        let mut piece = [0; 64];
        assert_eq!(socket.recv_from(&mut piece).unwrap().0, 5);
        driver.reset();
    }
}

fn the_host_spreads_flows_over_the_pairs_that_the_guest_uses() {
    let driver = bed(1500, 2);
    let flow = || UdpSocket::bind("10.9.0.1:0").unwrap();
    let flows = |count| (0..count).for_each(|_| drop(flow().send_to(b"x", "10.9.0.2:9")));
    // Twice, for the pairs of one driver are not the next one's.
    for _ in 0..2 {
        driver.start(MERGEABLE | CONTROL | MULTI_QUEUE);
        let _rooms = [0, 2].map(|queue| buffers(&driver, queue, SIZE, 2048));
        flows(4);
        driver.used(0, 3);
        assert_eq!(driver.used_count(2), 0);
        assert_eq!(ask_for_pairs(&driver, 4, 2), 0);
        soon("frames come on both", || {
            flows(2);
            (driver.used_count(2) > 0).then_some(())
        });
        driver.reset();
    }
}
