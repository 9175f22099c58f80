//! hvc0, and random numbers, which need no file of their own.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use launcher::engine::kvm::virtio::console::{self, Handover};
use launcher::engine::kvm::virtio::rng;

use super::driver::*;

crate::tests!(
    what_the_guest_prints_comes_out,
    typing_goes_to_the_guest_once_it_has_printed,
    a_stream_that_takes_nothing_holds_the_guest_up_but_not_the_reset,
    a_stream_that_is_closed_takes_everything,
    random_numbers_fill_what_is_asked_for,
);

const INPUT: usize = 0;
const OUTPUT: usize = 1;

fn bed() -> (Driver, UnixStream, Arc<Handover>) {
    let (near, far) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    let handover = Arc::new(Handover::new().unwrap());
    let device = console::device(near, Arc::clone(&handover)).unwrap();
    (Driver::started(device, 1), far, handover)
}

fn read(mut stream: &UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    soon("it is printed", || {
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(count) => bytes.extend(&piece[..count]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        (bytes.len() >= len).then_some(())
    });
    bytes
}

fn what_the_guest_prints_comes_out() {
    let (driver, far, _) = bed();
    let text = b"hello, ".repeat(2000);
    let at = driver.put(&text);
    let half = text.len() as u32 / 2;
    driver.offer(
        OUTPUT,
        &[(at, half, false), (at + u64::from(half), half, false)],
    );
    assert_eq!(read(&far, text.len()), text);
    assert_eq!(driver.used(OUTPUT, 0), (0, 0));
}

fn typing_goes_to_the_guest_once_it_has_printed() {
    let (driver, far, handover) = bed();
    let room = driver.room(16);
    (&far).write_all(b"a").unwrap();
    driver.offer(INPUT, &[(room, 16, true)]);
    let at = driver.put(b"login: ");
    assert!(!handover.is_hvc());
    assert_eq!(driver.used_count(INPUT), 0);
    driver.request(OUTPUT, &[(at, 7, false)]);
    assert_eq!(driver.used(INPUT, 0), (0, 1));
    assert_eq!(driver.get(room, 1), b"a");
    assert!(handover.is_hvc());
    // Typed before there is room, and after.
    (&far).write_all(b"bc").unwrap();
    assert_eq!(driver.request(INPUT, &[(room, 1, true)]), 1);
    assert_eq!(driver.request(INPUT, &[(room, 16, true)]), 1);
    assert_eq!(driver.get(room, 1), b"c");
    driver.reset();
    assert!(!handover.is_hvc());
}

fn a_stream_that_takes_nothing_holds_the_guest_up_but_not_the_reset() {
    let (driver, far, _) = bed();
    let text: Vec<u8> = (0..2_000_000).map(|i| (i % 251) as u8).collect();
    let at = driver.put(&text);
    driver.offer(OUTPUT, &[(at, text.len() as u32, false)]);
    let first = read(&far, 1000);
    assert_eq!(driver.used_count(OUTPUT), 0);
    driver.reset();
    driver.start(0);
    // What was in the socket comes, then what is printed next.
    let at = driver.put(b"next");
    driver.offer(OUTPUT, &[(at, 4, false)]);
    let mut all = first;
    soon("the next is printed", || {
        all.extend(read(&far, 1));
        all.ends_with(b"next").then_some(())
    });
    let before = all.len() - 4;
    assert!(all[..before] == text[..before]);

    // And when there is room, nothing is lost.
    driver.reset();
    driver.start(0);
    let at = driver.put(&text);
    driver.offer(OUTPUT, &[(at, text.len() as u32, false)]);
    assert!(read(&far, text.len()) == text);
    driver.used(OUTPUT, 0);
}

fn a_stream_that_is_closed_takes_everything() {
    let (driver, far, _) = bed();
    drop(far);
    let at = driver.room(1 << 20);
    for _ in 0..3 {
        driver.request(OUTPUT, &[(at, 1 << 20, false)]);
    }
    let room = driver.room(16);
    driver.offer(INPUT, &[(room, 16, true)]);
    driver.request(OUTPUT, &[(at, 1, false)]);
    assert_eq!(driver.used_count(INPUT), 0);
}

fn random_numbers_fill_what_is_asked_for() {
    let driver = Driver::started(rng::device().unwrap(), 0);
    let room = driver.room(1 << 20);
    assert_eq!(
        driver.request(0, &[(room, 8, true), (room + 8, 24, true)]),
        32
    );
    assert_ne!(driver.get(room, 32), [0; 32]);
    // Neither more than is asked for nor any amount.
    assert_eq!(driver.get(room + 32, 32), [0; 32]);
    let written = driver.request(0, &[(room, 1 << 20, true)]);
    assert!((1..=4096).contains(&written));
    assert_eq!(driver.request(0, &[(room, 16, false)]), 0);
}
