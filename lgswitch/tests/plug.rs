#![allow(clippy::unwrap_used, reason = "what can't be set up is a failed test")]
//! `lgswitch plug … vhost-user:` against VMMs that mean harm: whatever they say or do, their own
//! connection ends with one sentence, and the next VMM is served.
//!
//! The plug is a process of its own, so that a panic or a signal is seen for what it is.

mod plug {
    pub mod guest;
    pub mod plugged;
}

use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use plug::guest::{Guest, MEMORY, Queue, RX, TX, request, soon};
use plug::plugged::Plugged;

/// Its end is a sentence that says this; the plug lives, and serves the next.
fn ends_with(plug: &mut Plugged, guest: Guest, sentence: &str) {
    guest.wait_for_the_end();
    drop(guest);
    let told = plug.told();
    assert!(
        told.contains(sentence),
        "{told:?} is not about {sentence:?}"
    );
    assert_eq!(told.lines().count(), 1, "one sentence: {told:?}");
    plug.serves_a_good_guest();
}

#[test]
fn messages_that_are_malformed_or_refused_end_their_connection() {
    let plug = &mut Plugged::new(2);
    let u64s =
        |numbers: &[u64]| -> Vec<u8> { numbers.iter().flat_map(|n| n.to_le_bytes()).collect() };
    let state = |index: u32, num: u32| u64s(&[u64::from(index) | u64::from(num) << 32]);
    // What is sent, with how many descriptors, and what is said of it.
    let refused: &[(u32, Vec<u8>, usize, &str)] = &[
        (0, vec![], 0, "nobody knows it"),
        (99, vec![], 0, "nobody knows it"),
        (request::SET_LOG_BASE, u64s(&[0, 0]), 1, "does not offer"),
        (request::SET_FEATURES, vec![0; 7], 0, "wrong size"),
        (request::SET_FEATURES, vec![0; 9], 0, "wrong size"),
        (request::SET_FEATURES, u64s(&[u64::MAX]), 0, "not offered"),
        (
            request::SET_PROTOCOL_FEATURES,
            u64s(&[u64::MAX]),
            0,
            "not offered",
        ),
        (request::SET_VRING_NUM, state(0, 0), 0, "power of two"),
        (request::SET_VRING_NUM, state(0, 3), 0, "power of two"),
        (request::SET_VRING_NUM, state(0, 65536), 0, "power of two"),
        (request::SET_VRING_NUM, state(4, 64), 0, "no such queue"),
        (
            request::SET_VRING_NUM,
            state(u32::MAX, 64),
            0,
            "no such queue",
        ),
        (request::SET_VRING_BASE, state(0, 65536), 0, "16 bits"),
        (request::GET_VRING_BASE, state(9, 0), 0, "no such queue"),
        (request::SET_VRING_ENABLE, state(4, 1), 0, "no such queue"),
        (request::SET_VRING_ADDR, vec![0; 39], 0, "wrong size"),
        (request::SET_VRING_KICK, u64s(&[0]), 0, "one descriptor"),
        (request::SET_VRING_KICK, u64s(&[0]), 2, "one descriptor"),
        (request::SET_VRING_KICK, u64s(&[4]), 1, "no such queue"),
        (request::SET_VRING_KICK, u64s(&[1 << 8]), 0, "polled"),
        // A file is no event.
        (request::SET_VRING_KICK, u64s(&[0]), 1, "one of an event"),
        (request::SET_VRING_CALL, u64s(&[0]), 3, "one descriptor"),
        (request::SET_MEM_TABLE, vec![], 0, "wrong size"),
        (request::SET_MEM_TABLE, u64s(&[1]), 1, "as many regions"),
        (
            request::SET_MEM_TABLE,
            u64s(&[1, 0, MEMORY, 0, 0]),
            0,
            "as many regions",
        ),
        (
            request::SET_MEM_TABLE,
            u64s(&[2, 0, MEMORY, 0, 0]),
            2,
            "as many regions",
        ),
        (
            request::SET_MEM_TABLE,
            u64s(&[1, 0, MEMORY + 1, 0, 0]),
            1,
            "not in its file",
        ),
        (
            request::SET_MEM_TABLE,
            u64s(&[1, 0, MEMORY, 0, 4096]),
            1,
            "not in its file",
        ),
        (
            request::SET_MEM_TABLE,
            u64s(&[1, 0, u64::MAX, 0, 1]),
            1,
            "not in its file",
        ),
        (
            request::SET_MEM_TABLE,
            u64s(&[1, 0, 0, 0, 0]),
            1,
            "not in its file",
        ),
        (
            request::SET_MEM_TABLE,
            u64s(&[1, u64::MAX, MEMORY, 0, 0]),
            1,
            "past the end",
        ),
        (
            request::SET_MEM_TABLE,
            u64s(&[1, 0, 4096, 0, 17]),
            1,
            "can't be mapped",
        ),
        (
            request::SET_MEM_TABLE,
            u64s(&[2, 0, 4096, 0, 0, 4095, 4096, 0, 0]),
            2,
            "overlap",
        ),
    ];
    for (request, body, files, sentence) in refused {
        let guest = plug.guest();
        let memory = guest.memory_file();
        guest.say(*request, body, &vec![memory.as_fd(); *files]);
        ends_with(plug, guest, sentence);
    }
}

#[test]
fn messages_that_are_cut_short_or_no_messages_end_their_connection() {
    let plug = &mut Plugged::new(1);
    let header = |flags: u32, size: u32| {
        let words = [request::SET_FEATURES, flags, size];
        words.map(u32::to_le_bytes).concat()
    };
    let cut = [
        (vec![1], "cut short"),
        (header(1, 8)[..11].to_vec(), "cut short"),
        (header(1, 8), "cut short"),
        (header(2, 0), "version"),
        (header(1 | 4, 0), "version"),
        (header(1, u32::MAX), "longer than any"),
        (vec![0xff; 64], "version"),
    ];
    for (bytes, sentence) in cut {
        let mut guest = plug.guest();
        guest.socket.write_all(&bytes).unwrap();
        // It neither says more nor hangs up, and is not waited for.
        ends_with(plug, guest, sentence);
    }
    // Who hangs up has broken nothing.
    for bytes in [vec![], header(1, 8)] {
        let mut guest = plug.guest();
        guest.socket.write_all(&bytes).unwrap();
    }
    plug.serves_a_good_guest();
}

/// A guest whose transmit queue has one chain, as `write` makes it.
fn sends(plug: &mut Plugged, write: impl FnOnce(&Guest, &Queue), sentence: &str) {
    let guest = plug.guest();
    let queue = guest.set_up(TX);
    write(&guest, &queue);
    queue.kick();
    ends_with(plug, guest, sentence);
}

#[test]
fn chains_that_make_no_sense_end_the_connection() {
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;
    let plug = &mut Plugged::new(1);
    let one: &[(u64, u32, u16, u16, &str)] = &[
        // A loop.
        (0, 64, NEXT, 0, "without end"),
        (0, 64, NEXT, 1000, "outside its table"),
        (MEMORY - 1, 64, 0, 0, "outside its memory"),
        (u64::MAX - 3, 64, 0, 0, "outside its memory"),
        (0, u32::MAX, 0, 0, "outside its memory"),
        (0, 64, WRITE, 0, "other direction"),
        (0, 64, INDIRECT | NEXT, 0, "malformed indirect"),
        (MEMORY, 64, INDIRECT, 0, "outside its memory"),
        (0, 15, INDIRECT, 0, "outside its table"),
    ];
    for &(address, len, flags, next, sentence) in one {
        let write = |guest: &Guest, queue: &Queue| {
            queue.descriptor(guest, 0, address, len, flags, next);
            queue.make_available(guest, &[0]);
        };
        sends(plug, write, sentence);
    }
    let head = |guest: &Guest, queue: &Queue| queue.make_available(guest, &[777]);
    sends(plug, head, "outside its table");
    let count = |guest: &Guest, queue: &Queue| queue.set_available_index(guest, 5000);
    sends(plug, count, "more buffers available");
    // An indirect table in an indirect table.
    let nested = |guest: &Guest, queue: &Queue| {
        queue.descriptor(guest, 0, queue.table(), 16, INDIRECT, 0);
        queue.make_available(guest, &[0]);
    };
    sends(plug, nested, "malformed indirect");
}

#[test]
fn a_receive_queue_without_sense_ends_the_connection_when_a_frame_comes() {
    let plug = &mut Plugged::new(1);
    let guest = plug.guest();
    let queue = guest.set_up(RX);
    queue.descriptor(&guest, 0, MEMORY, 2048, 2, 0);
    queue.make_available(&guest, &[0]);
    queue.kick();
    plug.broadcasts();
    ends_with(plug, guest, "outside its memory");
}

#[test]
fn memory_that_is_cut_short_ends_the_connection_and_not_the_plug() {
    let plug = &mut Plugged::new(1);
    let guest = plug.guest();
    let queue = guest.set_up(TX);
    queue.descriptor(&guest, 0, 0x8000, 128, 0, 0);
    queue.make_available(&guest, &[0]);
    queue.kick();
    queue.wait_for_used(&guest, 1);
    guest.memory_file().set_len(0).unwrap();
    queue.kick();
    ends_with(plug, guest, "cut short");
}

#[test]
fn a_good_guest_is_told_of_frames_and_room_while_it_and_the_plug_sleep() {
    let plug = &mut Plugged::new(1);
    for pause in [0, 1, 10, 300].map(Duration::from_millis) {
        std::thread::sleep(pause);
        plug.serves_a_good_guest();
    }
    assert_eq!(plug.told(), "");
}

/// The plug would rather be kicked for many buffers at once; from this guest it can wait for them for ever.
#[test]
fn frames_that_wait_come_though_the_guest_makes_its_buffers_one_by_one() {
    const FRAMES: u16 = 40;
    let plug = &mut Plugged::new(1);
    let guest = plug.guest();
    let receive = guest.set_up_with_events(RX);
    for _ in 0..FRAMES {
        plug.broadcasts();
    }
    let mut made = 0;
    soon("all frames come", || {
        let came = receive.came_back(&guest);
        if came == made && made < FRAMES {
            receive.descriptor(&guest, 0, 0x1_0000, 0x800, 2, 0);
            receive.make_available(&guest, &[0]);
            receive.kick_if_it_is_the_one(&guest);
            made += 1;
        }
        (came == FRAMES).then_some(())
    });
    assert_eq!(plug.told(), "");
}
