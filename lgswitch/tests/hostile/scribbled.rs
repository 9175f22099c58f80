//! Those who are scribbled over, each doing what a port, a launcher or a user does.
//!
//! Whatever stands in the file, they neither panic nor die, and nothing takes longer than it would
//! among friends: each operation is timed ([`stall`](super::stall)).

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lgswitch::frame::Offloads;
use lgswitch::port::{Sent, Verdict};
use lgswitch::report::SegmentReport;
use lgswitch::{CreateOptions, Gather, PortOptions, PortRx, PortTx, Segment, VnetHeader};

use super::role::{self, Actor, BROADCAST, mac};
use super::scribbler::{BYTES, SLOTS};
use super::stall::Operations;

const TALKERS: usize = 2;

/// How long it goes on: more than two sweeps of a receiver.
fn end() -> Instant {
    Instant::now() + Duration::from_secs(role::number("HOSTILE_SECONDS", 9))
}

/// Takes what is there. Whatever it is, it can be read to its end.
fn hear(rx: &mut PortRx, operations: &mut Operations) -> usize {
    operations.time(|| {
        rx.recv(64, |frame| {
            let len = frame.bytes.to_vec().len();
            assert!(len == frame.bytes.len() && len >= 14);
            Verdict::Taken
        })
    })
}

/// Sends a burst: to one, to all, and what its peer is to cut.
fn say(tx: &mut PortTx, to: usize, round: u64, operations: &mut Operations) {
    for i in 0..8u8 {
        let address = if i == 0 { BROADCAST } else { mac(to) };
        let mut bytes = [address.octets(), mac(tx.slot().get()).octets()].concat();
        bytes.extend([8, 0, 0x45]);
        bytes.resize(14 + (round * 131 % 1480) as usize, i);
        let header = match (round + u64::from(i)) % 5 {
            0 => VnetHeader {
                flags: VnetHeader::NEEDS_CHECKSUM,
                gso_type: (round % 6) as u8,
                gso_size: (round % 100) as u16,
                checksum_start: 34,
                checksum_offset: 16,
                ..VnetHeader::default()
            },
            _ => VnetHeader::default(),
        };
        let parts = [bytes.as_slice().into()];
        let sent = operations.time(|| tx.send(&header, &Gather::new(&parts)));
        if let Sent::Full(_) = sent {
            tx.give_up();
        }
    }
    operations.time(|| tx.flush());
}

/// The role: two of these talk, and take what comes.
pub fn talk() {
    let me = role::index();
    let segment = Segment::open(&role::segment_path()).unwrap();
    let offloads = if me == 0 {
        Offloads::ALL
    } else {
        Offloads::NONE
    };
    let (mut tx, mut rx) = role::join_with(&segment, me, offloads);
    role::say("here");
    role::hear();
    let end = end();
    let (mut operations, mut heard) = (Operations::default(), 0);
    for round in 0.. {
        say(&mut tx, (me + 1) % TALKERS, round, &mut operations);
        heard += hear(&mut rx, &mut operations);
        if round.is_multiple_of(64) {
            rx.wait(Duration::from_millis(1));
        }
        if Instant::now() > end {
            break;
        }
    }
    operations.assert_no_stall("a talker");
    role::say(&format!("{heard} frames, {operations:?}"));
}

/// The role: ports that come and go. Being refused is no harm; being refused for ever is.
pub fn come_and_go() {
    role::say("here");
    role::hear();
    let (end, mut joined, mut refused) = (end(), 0, 0);
    let mut operations = Operations::default();
    for round in 0.. {
        let port = Segment::open(&role::segment_path())
            .and_then(|segment| segment.port(PortOptions::default()));
        match port {
            Ok(port) => {
                let (mut tx, mut rx) = port.split();
                say(&mut tx, 0, round, &mut operations);
                hear(&mut rx, &mut operations);
                joined += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
        if Instant::now() > end {
            break;
        }
    }
    operations.assert_no_stall("a newcomer");
    assert!(joined > 10 && refused > 0, "{joined} joined, {refused} not");
    role::say(&format!("{joined} joined, {refused} refused"));
}

/// The role: looks at what the file says, as `lgswitch inspect` does.
pub fn look_on() {
    role::say("here");
    role::hear();
    let (end, mut looks, mut refused) = (end(), 0, 0);
    while Instant::now() < end {
        let report = Segment::open_read_only(&role::segment_path())
            .and_then(|viewed| SegmentReport::of(&viewed));
        match report {
            Ok(report) => {
                assert!(report.ports.len() <= SLOTS as usize);
                serde_json::to_string(&report).unwrap();
                looks += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
    }
    assert!(looks > 10, "{looks} looks, {refused} refused");
    role::say(&format!("{looks} looks, {refused} refused"));
}

/// A tool's end is one it chose: success, or a failure with a sentence.
fn assert_orderly(what: &str, output: &Output) {
    let said = role::stderr(output);
    match output.status.code() {
        Some(0) => {}
        Some(1) => assert!(said.contains("lgswitch: "), "{what}: {said}"),
        code => panic!("{what} ended with {code:?}: {said}"),
    }
    assert!(!said.contains("panicked"), "{what}: {said}");
}

/// Users look at the segment until `end`.
fn use_the_tool(path: &Path, end: Instant) {
    let path = path.to_str().unwrap();
    let uses: [&[&str]; 5] = [
        &["capture", "--duration", "300ms", path],
        &[
            "capture",
            "--duration",
            "300ms",
            "--json",
            "--as-sent",
            path,
        ],
        &["inspect", path],
        &["inspect", "--json", path],
        &[
            "capture",
            "--duration",
            "300ms",
            "--slot",
            "0",
            "-w",
            "-",
            path,
        ],
    ];
    for arguments in uses.iter().cycle() {
        if Instant::now() > end {
            return;
        }
        let output = Command::new(env!("CARGO_BIN_EXE_lgswitch"))
            .args(*arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_orderly(&format!("lgswitch {arguments:?}"), &output);
    }
}

/// The claim.
pub fn who_is_scribbled_over_lives_and_waits_for_nobody() {
    let folder = tempfile::tempdir_in(role::memory_backed()).unwrap();
    let path = folder.path().join("scribbled");
    let options = CreateOptions {
        slots: SLOTS,
        ring_bytes: BYTES,
        log_bytes: BYTES,
        ..CreateOptions::default()
    };
    let segment = Segment::create(&path, &options).unwrap();
    let start = |role: &str, index| {
        let mut actor = Actor::start(role, &path, index);
        assert_eq!(actor.line(), "here");
        actor
    };
    let mut victims = vec![start("talker", 0), start("talker", 1)];
    victims.extend([start("newcomer", 2), start("onlooker", 3)]);
    let scribbler = start("scribbler", 4);
    victims.iter_mut().for_each(|victim| victim.order("go"));
    use_the_tool(&path, end());
    for mut victim in victims {
        eprintln!("{}", victim.line());
        let output = victim.end();
        assert!(output.status.success(), "{output:?}");
    }
    scribbler.kill();
    as_good_as_new(&segment);
}

/// Who comes next finds nothing to repair.
fn as_good_as_new(segment: &Arc<Segment>) {
    let (mut tx, _rx) = role::join(segment, 0);
    let (_tx, mut rx) = role::join(segment, 1);
    let mut tags = Vec::new();
    // A first frame may be lost to finding out where reader and writer are.
    for tag in 0..3 {
        role::send(&mut tx, mac(1), tag, 46);
        tx.flush();
        rx.recv(64, |frame| {
            tags.push(frame.bytes.to_vec()[14]);
            Verdict::Taken
        });
    }
    assert_eq!(tags.last(), Some(&2), "{tags:?}");
}
