#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
//! What a port promises, tried with several ports on real files.
//!
//! Ports of one process are as good as those of several: each has its own open file description,
//! and they share nothing but the file. Where death matters, the dying port is a child process.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lgswitch::frame::Offloads;
use lgswitch::layout::{Geometry, slot_record};
use lgswitch::port::counters::{RxDrop, TxDrop};
use lgswitch::port::{Sent, Verdict};
use lgswitch::report::SegmentReport;
use lgswitch::{
    CreateOptions, Error, Gather, MacAddr, Port, PortOptions, PortRx, PortTx, Segment, SlotIndex,
    VnetHeader,
};

const BROADCAST: MacAddr = MacAddr(0xff, 0xff, 0xff, 0xff, 0xff, 0xff);

fn mac(n: u8) -> MacAddr {
    MacAddr(2, 0, 0, 0, 0, n)
}

/// A segment in a folder of its own, gone with the test.
struct Lan {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Lan {
    fn new() -> Self {
        Self::with(&CreateOptions::default())
    }

    fn with(options: &CreateOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lan0");
        Segment::create(&path, options).unwrap();
        Self {
            path,
            _folder: folder,
        }
    }

    fn segment(&self) -> Arc<Segment> {
        Segment::open(&self.path).unwrap()
    }

    fn port_with(&self, options: PortOptions) -> Port {
        self.segment().port(options).unwrap()
    }

    fn port(&self, n: u8) -> Port {
        self.port_with(PortOptions {
            mac: Some(mac(n)),
            ..PortOptions::default()
        })
    }

    fn halves(&self, n: u8) -> (PortTx, PortRx) {
        self.port(n).split()
    }

    fn report(&self) -> SegmentReport {
        SegmentReport::of(&Segment::open_read_only(&self.path).unwrap()).unwrap()
    }
}

/// An Ethernet frame with a payload of `len` bytes that starts with `tag`.
fn frame(to: MacAddr, from: MacAddr, tag: u64, len: usize) -> Vec<u8> {
    let mut bytes = [to.octets(), from.octets()].concat();
    bytes.extend([0x88, 0xb5]);
    bytes.extend(tag.to_be_bytes());
    bytes.resize(14 + len.max(8), tag as u8);
    bytes
}

fn tag(frame: &[u8]) -> u64 {
    u64::from_be_bytes(frame[14..22].try_into().unwrap())
}

fn send(tx: &mut PortTx, bytes: &[u8]) -> Sent {
    send_with(tx, &VnetHeader::default(), bytes)
}

fn send_with(tx: &mut PortTx, header: &VnetHeader, bytes: &[u8]) -> Sent {
    let parts = [bytes.into()];
    let sent = tx.send(header, &Gather::new(&parts));
    tx.flush();
    sent
}

/// Everything there is now.
fn receive(rx: &mut PortRx) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while rx.recv(64, |frame| {
        frames.push(frame.bytes.to_vec());
        Verdict::Taken
    }) > 0
    {}
    frames
}

fn tags(rx: &mut PortRx) -> Vec<u64> {
    receive(rx).iter().map(|f| tag(f)).collect()
}

#[test]
fn unicast_reaches_its_address_and_nobody_else() {
    let lan = Lan::new();
    let (mut a, _) = lan.halves(1);
    let (_b, mut b_rx) = lan.halves(2);
    let (_c, mut c_rx) = lan.halves(3);
    let sent = frame(mac(2), mac(1), 7, 100);
    assert_eq!(send(&mut a, &sent), Sent::Done);
    assert_eq!(receive(&mut b_rx), [sent]);
    assert!(receive(&mut c_rx).is_empty());
}

#[test]
fn broadcast_multicast_and_unknown_unicast_reach_everyone_but_the_sender() {
    let lan = Lan::new();
    let (mut a, mut a_rx) = lan.halves(1);
    let (_b, mut b_rx) = lan.halves(2);
    let (_c, mut c_rx) = lan.halves(3);
    let multicast = MacAddr(0x33, 0x33, 0, 0, 0, 1);
    for (i, to) in [BROADCAST, multicast, mac(99)].into_iter().enumerate() {
        send(&mut a, &frame(to, mac(1), i as u64, 60));
    }
    assert_eq!(tags(&mut b_rx), [0, 1, 2]);
    assert_eq!(tags(&mut c_rx), [0, 1, 2]);
    assert!(receive(&mut a_rx).is_empty());
}

#[test]
fn a_port_does_not_hear_itself_not_even_when_it_sweeps() {
    let lan = Lan::new();
    let (mut a, mut a_rx) = lan.halves(1);
    send(&mut a, &frame(BROADCAST, mac(1), 1, 60));
    std::thread::sleep(PortRx::SWEEP);
    a_rx.wait(Duration::ZERO);
    assert!(receive(&mut a_rx).is_empty());
}

#[test]
fn a_port_whose_address_was_wiped_says_it_again() {
    let lan = Lan::new();
    let (mut a, _a_rx) = lan.halves(1);
    let (_b, mut b_rx) = lan.halves(2);
    let (_c, mut c_rx) = lan.halves(3);
    let file = OpenOptions::new().write(true).open(&lan.path).unwrap();
    file.write_all_at(&[0; 6], 6).unwrap();
    file.write_all_at(&[0; 4], 4096 + 1024).unwrap();
    std::thread::sleep(PortRx::SWEEP);
    b_rx.wait(Duration::ZERO);
    assert_eq!(lan.segment_peer_bytes(1), [2, 0, 0, 0, 0, 2]);
    c_rx.wait(Duration::ZERO);
    send(&mut a, &frame(mac(2), mac(1), 7, 60));
    assert_eq!(tags(&mut b_rx), [7]);
    assert!(receive(&mut c_rx).is_empty());
}

#[test]
fn a_station_heard_behind_a_port_is_sent_to_that_port_only() {
    let lan = Lan::new();
    let (mut a, mut a_rx) = lan.halves(1);
    let (mut bridge, mut bridge_rx) = lan.halves(2);
    let (_c, mut c_rx) = lan.halves(3);
    // The bridge forwards a frame of a station behind it.
    send(&mut bridge, &frame(mac(1), mac(50), 0, 60));
    assert_eq!(tags(&mut a_rx), [0]);
    send(&mut a, &frame(mac(50), mac(1), 1, 60));
    assert_eq!(tags(&mut bridge_rx), [1]);
    assert!(receive(&mut c_rx).is_empty());
    // For a station on its own side a bridge has no business on the wire.
    send(&mut bridge, &frame(BROADCAST, mac(51), 2, 60));
    let local = send(&mut bridge, &frame(mac(51), mac(50), 3, 60));
    assert_eq!(local, Sent::Dropped(TxDrop::Filtered));
}

#[test]
fn a_promiscuous_port_hears_what_others_tell_each_other() {
    let lan = Lan::new();
    let (mut a, _) = lan.halves(1);
    let (_b, mut b_rx) = lan.halves(2);
    let (_p, mut p_rx) = lan
        .port_with(PortOptions {
            promiscuous: true,
            ..PortOptions::default()
        })
        .split();
    send(&mut a, &frame(mac(2), mac(1), 1, 60));
    send(&mut a, &frame(BROADCAST, mac(1), 2, 60));
    assert_eq!(tags(&mut b_rx), [1, 2]);
    assert_eq!(tags(&mut p_rx), [1, 2]);
    assert!(lan.report().ports[2].promiscuous);
}

#[test]
fn unicast_and_broadcast_of_one_source_arrive_in_the_order_they_were_sent() {
    let lan = Lan::new();
    let (mut a, _) = lan.halves(1);
    let (_b, mut b_rx) = lan.halves(2);
    for i in 0..300 {
        let to = if i % 3 == 1 { BROADCAST } else { mac(2) };
        let bytes = frame(to, mac(1), i, 60);
        a.send(
            &VnetHeader::default(),
            &Gather::new(&[bytes.as_slice().into()]),
        );
    }
    a.flush();
    assert_eq!(tags(&mut b_rx), (0..300).collect::<Vec<_>>());
}

#[test]
fn frames_cross_whole_and_in_order_while_both_sides_run() {
    let lan = Lan::new();
    let (mut a, _a_rx) = lan.halves(1);
    let (_b, mut b_rx) = lan.halves(2);
    const COUNT: u64 = 100_000;
    let sender = std::thread::spawn(move || {
        for i in 0..COUNT {
            let bytes = frame(mac(2), mac(1), i, (i * 37 % 1486) as usize);
            while let Sent::Full(_) = send(&mut a, &bytes) {
                std::thread::yield_now();
            }
        }
        (a, _a_rx)
    });
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut next = 0;
    while next < COUNT && Instant::now() < deadline {
        for bytes in receive(&mut b_rx) {
            assert_eq!(
                bytes,
                frame(mac(2), mac(1), next, (next * 37 % 1486) as usize)
            );
            next += 1;
        }
        b_rx.wait(Duration::from_millis(100));
    }
    assert_eq!(next, COUNT);
    let (a, _) = sender.join().unwrap();
    assert_eq!(
        (a.counters().frames, b_rx.counters().frames),
        (COUNT, COUNT)
    );
}

#[test]
fn a_full_ring_costs_only_its_own_pair_and_every_frame_is_counted() {
    let lan = Lan::new();
    let (mut a, _) = lan.halves(1);
    let (_b, mut b_rx) = lan.halves(2);
    let (_c, mut c_rx) = lan.halves(3);
    let mut fitted = 0;
    while send(&mut a, &frame(mac(2), mac(1), fitted, 1000)) == Sent::Done {
        fitted += 1;
    }
    a.give_up();
    a.flush();
    assert!(fitted > 900, "{fitted} frames of 1 kB in 1 MiB");
    assert_eq!(send(&mut a, &frame(mac(3), mac(1), 9, 60)), Sent::Done);
    assert_eq!(tags(&mut c_rx), [9]);
    assert_eq!(tags(&mut b_rx).len() as u64, fitted);
    let report = lan.report();
    let sent = report.ports[0].sent.as_ref().unwrap();
    assert_eq!(sent.frames, fitted + 1);
    assert_eq!(sent.dropped, BTreeMap::from([("ring-full", 1)]));
    // And there is room again.
    assert_eq!(send(&mut a, &frame(mac(2), mac(1), 10, 60)), Sent::Done);
}

#[test]
fn a_reader_that_was_lapped_counts_what_it_missed_and_goes_on() {
    let lan = Lan::new();
    let (mut a, _) = lan.halves(1);
    let (_b, mut b_rx) = lan.halves(2);
    const COUNT: u64 = 2000;
    for i in 0..COUNT {
        assert_eq!(send(&mut a, &frame(BROADCAST, mac(1), i, 1000)), Sent::Done);
    }
    let heard = tags(&mut b_rx);
    send(&mut a, &frame(BROADCAST, mac(1), COUNT, 60));
    assert_eq!(tags(&mut b_rx), [COUNT]);
    let counters = b_rx.counters();
    let missed = counters.dropped[RxDrop::Lapped as usize];
    assert!(missed > 1000);
    assert_eq!(heard.len() as u64 + missed, COUNT);
}

#[test]
fn frames_beyond_the_mtu_are_dropped_and_tags_fit_above_it() {
    let lan = Lan::with(&CreateOptions {
        mtu: 9000,
        ..CreateOptions::default()
    });
    let (mut a, _) = lan.halves(1);
    let (_b, mut b_rx) = lan.halves(2);
    assert_eq!(send(&mut a, &frame(mac(2), mac(1), 1, 9008)), Sent::Done);
    let big = send(&mut a, &frame(mac(2), mac(1), 2, 9009));
    assert_eq!(big, Sent::Dropped(TxDrop::TooBig));
    let short = send(&mut a, &[0; 13]);
    assert_eq!(short, Sent::Dropped(TxDrop::Malformed));
    assert_eq!(tags(&mut b_rx), [1]);
}

/// TCP over IPv4 with `payload` bytes, its checksum left to the network card.
fn tcp(payload: usize) -> (VnetHeader, Vec<u8>) {
    let mut bytes = frame(mac(2), mac(1), 0, 0);
    bytes.truncate(12);
    bytes.extend([8, 0, 0x45, 0]);
    bytes.extend((40 + payload as u16).to_be_bytes());
    bytes.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes.resize(34 + 12, 1);
    bytes.extend([0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    bytes.resize(54 + payload, 0xa5);
    let header = VnetHeader {
        flags: VnetHeader::NEEDS_CHECKSUM,
        gso_type: VnetHeader::GSO_TCPV4,
        header_len: 54,
        gso_size: 1460,
        checksum_start: 34,
        checksum_offset: 16,
    };
    (header, bytes)
}

#[test]
fn a_large_segment_goes_untouched_to_who_takes_it_and_cut_to_who_does_not() {
    let lan = Lan::new();
    let (mut a, _) = lan.halves(1);
    let (_b, mut b_rx) = lan.halves(2);
    let (header, bytes) = tcp(4000);
    send_with(&mut a, &header, &bytes);
    let lengths: Vec<_> = receive(&mut b_rx).iter().map(Vec::len).collect();
    assert_eq!(lengths, [1514, 1514, 1134]);

    b_rx.caller().set_offloads(Offloads::ALL);
    send_with(&mut a, &header, &bytes);
    let mut got = Vec::new();
    b_rx.recv(64, |f| {
        got.push((f.header, f.bytes.to_vec()));
        Verdict::Taken
    });
    assert_eq!(got, [(header, bytes)]);
    assert_eq!(a.counters().frames, 2);
}

/// Frames of every kind that can be left undone.
fn undone() -> Vec<(VnetHeader, Vec<u8>)> {
    let (large, v4) = tcp(4000);
    let summed = VnetHeader {
        gso_type: VnetHeader::GSO_NONE,
        gso_size: 0,
        ..large
    };
    let marked = VnetHeader {
        gso_type: VnetHeader::GSO_TCPV4 | VnetHeader::GSO_ECN,
        ..large
    };
    let mut datagrams = v4.clone();
    datagrams[23] = 17;
    let cut = VnetHeader {
        gso_type: VnetHeader::GSO_UDP_L4,
        gso_size: 1400,
        checksum_offset: 6,
        ..large
    };
    // The same TCP behind a header of IPv6.
    let mut v6 = v4[..12].to_vec();
    v6.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    v6.extend((v4.len() as u16 - 34).to_be_bytes());
    v6.extend([6, 64]);
    v6.extend([0xfd; 32]);
    v6.extend_from_slice(&v4[34..]);
    let large6 = VnetHeader {
        gso_type: VnetHeader::GSO_TCPV6,
        header_len: 74,
        gso_size: 1440,
        checksum_start: 54,
        ..large
    };
    vec![
        (summed, tcp(1000).1),
        (large, v4.clone()),
        (marked, v4),
        (cut, datagrams),
        (large6, v6),
    ]
}

#[test]
fn whatever_a_port_takes_it_gets_untouched_and_all_else_finished() {
    let lan = Lan::new();
    let (mut a, _) = lan.halves(1);
    let (_b, mut b_rx) = lan.halves(2);
    for takes in (0..=Offloads::ALL.bits()).map(Offloads::from_bits) {
        b_rx.caller().set_offloads(takes);
        for (header, bytes) in undone() {
            assert_eq!(send_with(&mut a, &header, &bytes), Sent::Done);
            let mut got = Vec::new();
            b_rx.recv(64, |f| {
                got.push((f.header, f.bytes.to_vec()));
                Verdict::Taken
            });
            if takes.contains(header.needs().unwrap()) {
                assert_eq!(got, [(header, bytes)], "to who takes {takes:?}");
                continue;
            }
            let whole = header.gso_type == VnetHeader::GSO_NONE;
            assert_eq!(got.len(), if whole { 1 } else { 3 }, "{takes:?} {header:?}");
            for (left, packet) in got {
                assert_eq!(left, VnetHeader::default(), "to who takes {takes:?}");
                assert!(packet.len() <= 1514);
            }
        }
    }
    assert_eq!(b_rx.counters().dropped, [0; 8]);
}

#[test]
fn what_the_taker_has_no_room_for_stays_and_keeps_its_order() {
    let lan = Lan::new();
    let (mut a, _) = lan.halves(1);
    let (_b, mut b_rx) = lan.halves(2);
    for i in 0..4 {
        let to = if i == 1 { BROADCAST } else { mac(2) };
        send(&mut a, &frame(to, mac(1), i, 60));
    }
    let mut room = 2;
    b_rx.recv(64, |_| {
        room -= 1;
        if room >= 0 {
            Verdict::Taken
        } else {
            Verdict::Later
        }
    });
    assert_eq!(tags(&mut b_rx), [2, 3]);
    assert_eq!(b_rx.counters().frames, 4);
}

#[test]
fn a_sleeping_port_is_woken_by_a_frame_and_by_a_call() {
    let lan = Lan::new();
    let (mut a, _) = lan.halves(1);
    let (_b, mut b_rx) = lan.halves(2);
    let caller = b_rx.caller();
    let sleeper = std::thread::spawn(move || {
        let start = Instant::now();
        while tags(&mut b_rx) != [5] {
            b_rx.wait(Duration::from_secs(60));
        }
        b_rx.wait(Duration::from_secs(60));
        start.elapsed()
    });
    std::thread::sleep(Duration::from_millis(50));
    send(&mut a, &frame(mac(2), mac(1), 5, 60));
    caller.call();
    // Not a matter of speed: without either it would take a minute.
    assert!(sleeper.join().unwrap() < Duration::from_secs(30));
}

#[test]
fn two_ports_of_one_process_have_two_slots_and_a_dropped_one_is_free() {
    let lan = Lan::new();
    let (a, b) = (lan.port(1), lan.port(2));
    assert_eq!((a.slot().get(), b.slot().get()), (0, 1));
    drop(a);
    assert_eq!(lan.report().held, 1);
    assert_eq!(lan.port(3).slot().get(), 0);
}

/// A process that forks hands every descriptor to its child, until that execs.
#[test]
fn a_dropped_port_is_free_though_a_forked_child_still_has_its_descriptor() {
    let lan = Lan::new();
    let port = lan.port(1);
    // SAFETY: the child only waits to be killed.
    let child = unsafe {
        let pid = libc::fork();
        assert!(pid >= 0);
        if pid == 0 {
            loop {
                libc::pause();
            }
        }
        pid
    };
    drop(port);
    let held = lan.report().held;
    // SAFETY: ending the child forked above.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
    assert_eq!(held, 0);
}

#[test]
fn a_slot_asked_for_is_given_or_its_holder_named() {
    let lan = Lan::new();
    let slot = SlotIndex::new(5);
    let wish = || PortOptions {
        slot,
        ..PortOptions::default()
    };
    let _held = lan.port_with(wish());
    match lan.segment().port(wish()) {
        Err(Error::SlotHeld { pid, .. }) => assert_eq!(pid, Some(std::process::id() as i32)),
        other => panic!("{other:?}"),
    }
    let beyond = PortOptions {
        slot: SlotIndex::new(128),
        ..PortOptions::default()
    };
    assert!(matches!(
        lan.segment().port(beyond),
        Err(Error::NoSuchSlot { .. })
    ));
}

#[test]
fn when_all_slots_are_taken_it_says_so() {
    let lan = Lan::with(&CreateOptions {
        slots: 2,
        ..CreateOptions::default()
    });
    let _two = (lan.port(1), lan.port(2));
    let third = lan.segment().port(PortOptions::default());
    assert!(
        matches!(third, Err(Error::Full { slots: 2, .. })),
        "{third:?}"
    );
}

/// Runs `child` in a forked process that is then killed; it must not return.
fn killed_child(child: impl FnOnce() -> Port) {
    let mut pipe = [0; 2];
    // SAFETY: a pipe, and a fork whose child only takes a port, tells so, and waits to be killed.
    unsafe {
        assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
        let pid = libc::fork();
        assert!(pid >= 0);
        if pid == 0 {
            let _port = child();
            libc::write(pipe[1], b"x".as_ptr().cast(), 1);
            loop {
                libc::pause();
            }
        }
        libc::close(pipe[1]);
        let mut byte = [0u8; 1];
        assert_eq!(libc::read(pipe[0], byte.as_mut_ptr().cast(), 1), 1);
        libc::close(pipe[0]);
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
}

#[test]
fn a_killed_port_is_free_at_once_never_waited_for_and_its_slot_works_again() {
    let lan = Lan::new();
    let (mut a, _) = lan.halves(1);
    killed_child(|| lan.port(2));
    let report = lan.report();
    assert_eq!((report.held, report.ports.len()), (1, 1));
    // Its address still stands on the peers page; its ring fills, and then it is known to be dead.
    let start = Instant::now();
    while lan.segment_peer_bytes(1) != [0; 6] && start.elapsed() < Duration::from_secs(60) {
        let sent = send(&mut a, &frame(mac(2), mac(1), 0, 1000));
        assert!(matches!(sent, Sent::Done | Sent::Full(_)), "{sent:?}");
    }
    assert_eq!(lan.segment_peer_bytes(1), [0; 6]);
    let (_b, mut b_rx) = lan.halves(2);
    assert_eq!(b_rx.slot().get(), 1);
    send(&mut a, &frame(mac(2), mac(1), 77, 60));
    assert_eq!(
        tags(&mut b_rx),
        [77],
        "nothing of what was meant for the dead"
    );
}

impl Lan {
    /// A slot's entry, read from the file as anyone could.
    fn segment_peer_bytes(&self, slot: u64) -> [u8; 6] {
        let mut mac = [0; 6];
        File::open(&self.path)
            .unwrap()
            .read_exact_at(&mut mac, slot * 6)
            .unwrap();
        mac
    }
}

#[test]
fn a_byte_locked_by_a_foreign_program_is_skipped() {
    let lan = Lan::new();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&lan.path)
        .unwrap();
    let mut pipe = [0; 2];
    // SAFETY: a pipe and a fork; the child takes a plain process lock, tells so, and ends when the
    // pipe closes.
    let pid = unsafe {
        assert_eq!(libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC), 0);
        let pid = libc::fork();
        if pid == 0 {
            let mut lock: libc::flock = std::mem::zeroed();
            lock.l_type = libc::F_WRLCK as libc::c_short;
            lock.l_len = 1;
            let locked = libc::fcntl(
                std::os::fd::AsRawFd::as_raw_fd(&file),
                libc::F_SETLK,
                &raw mut lock,
            );
            libc::write(pipe[1], [locked as u8].as_ptr().cast(), 1);
            loop {
                libc::pause();
            }
        }
        let mut byte = [9u8; 1];
        assert_eq!(libc::read(pipe[0], byte.as_mut_ptr().cast(), 1), 1);
        assert_eq!(byte, [0]);
        pid
    };
    let port = lan.port(1);
    let report = lan.report();
    // SAFETY: ending the child forked above.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
    assert_eq!(port.slot().get(), 1);
    assert_eq!(
        (report.ports[0].held, report.ports[0].pid),
        (true, Some(pid))
    );
}

#[test]
fn an_old_page_is_grown_with_its_guests_on_it_and_keeps_their_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old");
    let mut page = vec![0; 4096];
    page[..6].copy_from_slice(&mac(9).octets());
    std::fs::write(&path, &page).unwrap();
    let port = Segment::open(&path).unwrap().port(PortOptions {
        slot: SlotIndex::new(3),
        ..PortOptions::default()
    });
    assert_eq!(port.unwrap().slot().get(), 3);
    let mut grown = [0; 6];
    File::open(&path)
        .unwrap()
        .read_exact_at(&mut grown, 0)
        .unwrap();
    assert_eq!(grown, mac(9).octets());
}

#[test]
fn files_that_are_no_sharenet_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    let lan = Lan::new();
    let mut newer = vec![0; 16384];
    File::open(&lan.path)
        .unwrap()
        .read_exact_at(&mut newer, 0)
        .unwrap();
    newer[4096 + 8] = 2;
    for (what, bytes) in [
        ("empty", vec![]),
        ("text of one page", b"0123456789abcdef".repeat(256)),
        ("noise", vec![0x5a; 20000]),
        ("newer", newer.clone()),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let error = Segment::open(&path).unwrap_err();
        assert!(matches!(error, Error::Unusable { .. }), "{what}: {error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{what}");
    }
    newer[4096 + 8] = 1;
    std::fs::write(&path, &newer).unwrap();
    assert!(matches!(Segment::open(&path), Err(Error::Truncated { .. })));
}

#[test]
fn removing_is_refused_while_a_slot_is_held_and_a_removed_segment_goes_on_for_its_ports() {
    let lan = Lan::new();
    let (mut a, _) = lan.halves(1);
    let (_b, mut b_rx) = lan.halves(2);
    let refused = Segment::remove(&lan.path, false);
    assert!(
        matches!(refused, Err(Error::InUse { held: 2, .. })),
        "{refused:?}"
    );
    let joined = lan.segment();
    Segment::remove(&lan.path, true).unwrap();
    send(&mut a, &frame(mac(2), mac(1), 1, 60));
    assert_eq!(tags(&mut b_rx), [1]);
    let late = joined.port(PortOptions::default());
    assert!(matches!(late, Err(Error::Removed(_))), "{late:?}");
}

/// A peer scribbles over everything it can; nobody panics, reads outside or loops for ever.
#[test]
fn scribbled_memory_costs_frames_and_nothing_else() {
    let lan = Lan::with(&CreateOptions {
        slots: 4,
        ..CreateOptions::default()
    });
    let (mut a, mut a_rx) = lan.halves(1);
    let (_b, mut b_rx) = lan.halves(2);
    for i in 0..50 {
        send(&mut a, &frame(mac(2), mac(1), i, 200));
        send(&mut a, &frame(BROADCAST, mac(1), i, 200));
    }
    let file = OpenOptions::new().write(true).open(&lan.path).unwrap();
    let g = Geometry::new(4, Geometry::DEFAULT_RING, Geometry::DEFAULT_LOG).unwrap();
    let flood_head = g.slot(0) + slot_record::FLOOD_HEAD;
    let mut random = 0x2545_f491_4f6c_dd1du64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let targets = [
        (g.pair(0, 1), 128),
        (g.slot(1), 1024),
        (flood_head, 24),
        (g.ring(0, 1), 4096),
        (g.log(0), 4096),
        (0, 24),
        (4096 + 1024, 4),
    ];
    for round in 0..20_000u64 {
        let (start, len) = targets[(next() % targets.len() as u64) as usize];
        let at = start + next() % len;
        let bytes = match next() % 3 {
            0 => next().to_le_bytes(),
            1 => (next() % 2048 * 64).to_le_bytes(),
            _ => [0; 8],
        };
        file.write_all_at(&bytes, at).unwrap();
        let to = if round % 2 == 0 { mac(2) } else { BROADCAST };
        send(&mut a, &frame(to, mac(1), round, (round % 1400) as usize));
        b_rx.recv(64, |f| {
            assert!(f.bytes.to_vec().len() >= 14);
            Verdict::Taken
        });
        a_rx.recv(64, |_| Verdict::Taken);
    }
    // New holders find each other again; a first frame may be lost to the finding.
    drop((_b, b_rx));
    drop((a, a_rx));
    let (mut a, _) = lan.halves(1);
    let (_b, mut b_rx) = lan.halves(2);
    let heard = (0..3).any(|i| {
        send(&mut a, &frame(mac(2), mac(1), i, 60));
        tags(&mut b_rx) == [i]
    });
    assert!(heard);
}

#[test]
fn a_guest_that_writes_its_address_itself_is_there_when_it_has_and_not_before() {
    let lan = Lan::new();
    let (mut tx, _rx) = lan.halves(1);
    let theirs = lan.port_with(PortOptions {
        guest_writes_address: true,
        ..PortOptions::default()
    });
    let slot = theirs.slot();
    assert_eq!(theirs.mac(), MacAddr::zero());
    let (mut their_tx, mut their_rx) = theirs.split();
    let bytes = frame(mac(9), mac(1), 1, 60);
    let parts = [bytes.as_slice().into()];
    let plain = VnetHeader::default();
    let nobody = tx.send_to(slot, &plain, &Gather::new(&parts));
    assert_eq!(nobody, Sent::Dropped(TxDrop::Filtered));
    tx.flush();

    // As the guest does, through its own mapping of the page.
    let file = OpenOptions::new().write(true).open(&lan.path).unwrap();
    file.write_all_at(&mac(9).octets(), slot.get() as u64 * 6)
        .unwrap();
    assert_eq!(send(&mut tx, &frame(mac(9), mac(1), 2, 60)), Sent::Done);
    assert_eq!(tags(&mut their_rx), [2]);
    // Nor does it say again what its guest took back.
    file.write_all_at(&[0; 6], slot.get() as u64 * 6).unwrap();
    their_rx.wait(PortRx::SWEEP);
    their_rx.wait(Duration::ZERO);
    assert_eq!(lan.report().ports[1].mac, None);

    // And back, to one slot whatever the address says.
    let bytes = frame(mac(77), mac(9), 3, 60);
    let parts = [bytes.as_slice().into()];
    assert_eq!(
        their_tx.send_to(_rx.slot(), &plain, &Gather::new(&parts)),
        Sent::Done
    );
}

#[test]
fn a_frame_for_one_slot_goes_there_and_nowhere_else() {
    let lan = Lan::new();
    let (mut tx, _rx) = lan.halves(1);
    let (_tx2, mut rx2) = lan.halves(2);
    let (_tx3, mut rx3) = lan.halves(3);
    let bytes = frame(BROADCAST, mac(1), 5, 60);
    let parts = [bytes.as_slice().into()];
    assert_eq!(
        tx.send_to(rx2.slot(), &VnetHeader::default(), &Gather::new(&parts)),
        Sent::Done
    );
    // Beyond the last slot there is nobody, and no harm.
    let far = SlotIndex::new(681).unwrap();
    let nobody = tx.send_to(far, &VnetHeader::default(), &Gather::new(&parts));
    assert_eq!(nobody, Sent::Dropped(TxDrop::Filtered));
    tx.flush();
    assert_eq!(tags(&mut rx2), [5]);
    assert_eq!(tags(&mut rx3), [0u64; 0]);
}
