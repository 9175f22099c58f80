//! A segment whose name is taken away, and perhaps given to another, while ports are on it.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use lgswitch::port::{Sent, Verdict};
use lgswitch::report::SegmentReport;
use lgswitch::{CreateOptions, Error, PortOptions, PortRx, Segment};

use super::role::{self, Actor, BROADCAST, mac, stderr};

/// Bytes after the addresses and type: a resident's frames, and a newcomer's.
const OLD: u8 = 1;
const NEW: u8 = 2;

/// The tags of what comes, until `count` came or for a while.
fn hear(rx: &mut PortRx, count: usize, patience: Duration) -> Vec<u8> {
    let (mut tags, deadline) = (Vec::new(), Instant::now() + patience);
    while tags.len() < count && Instant::now() < deadline {
        rx.recv(64, |frame| {
            tags.push(frame.bytes.part(14, 1).to_vec()[0]);
            Verdict::Taken
        });
        rx.wait(Duration::from_millis(20));
    }
    tags
}

/// The role: whenever told, tells the other resident and everyone, and hears the same of it.
pub fn stay() {
    let segment = Segment::open(&role::segment_path()).unwrap();
    let me = role::index();
    let (mut tx, mut rx) = role::join(&segment, me);
    role::say("here");
    while role::hear() == "talk" {
        for to in [mac(1 - me), BROADCAST] {
            assert_eq!(role::send(&mut tx, to, OLD, 100), Sent::Done);
        }
        tx.flush();
        let heard = hear(&mut rx, 2, Duration::from_secs(20));
        role::say(&format!("{heard:?}"));
    }
}

fn lgswitch(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lgswitch"))
        .args(arguments)
        .output()
        .unwrap()
}

/// The residents hear each other and nobody else.
fn assert_they_talk(residents: &mut [Actor]) {
    for resident in residents.iter_mut() {
        resident.order("talk");
    }
    for resident in residents {
        assert_eq!(resident.line(), format!("{:?}", [OLD, OLD]));
    }
}

/// The claim.
pub fn ports_of_a_removed_segment_talk_on_and_no_newcomer_meets_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gone");
    let name = path.to_str().unwrap();
    let options = CreateOptions {
        slots: 8,
        ..CreateOptions::default()
    };
    let segment = Segment::create(&path, &options).unwrap();
    let mut residents = [0, 1].map(|index| Actor::start("resident", &path, index));
    for resident in &mut residents {
        assert_eq!(resident.line(), "here");
    }
    assert_they_talk(&mut residents);

    let refused = lgswitch(&["rm", name]);
    let said = stderr(&refused);
    assert!(
        !refused.status.success() && said.contains("2 of its slots"),
        "{said}"
    );
    assert!(lgswitch(&["rm", "--force", name]).status.success());
    assert!(!path.exists());
    assert_they_talk(&mut residents);
    // Neither by its name nor by an older opening does anybody join them.
    assert!(matches!(Segment::open(&path), Err(Error::Missing(_))));
    let joined = segment.port(PortOptions::default());
    assert!(matches!(joined, Err(Error::Removed(_))), "{joined:?}");
    let inspected = lgswitch(&["inspect", name]);
    assert_eq!(stderr(&inspected).lines().count(), 1, "{inspected:?}");
    assert_eq!(inspected.status.code(), Some(1));

    assert!(lgswitch(&["create", "--slots", "8", name]).status.success());
    let fresh = Segment::open(&path).unwrap();
    assert_ne!(fresh.header().uuid, segment.header().uuid);
    let (mut tx, mut rx) = role::join(&fresh, 0);
    assert_they_talk(&mut residents);
    assert_eq!(role::send(&mut tx, mac(1), NEW, 100), Sent::Done);
    assert_eq!(role::send(&mut tx, BROADCAST, NEW, 100), Sent::Done);
    tx.flush();
    assert_they_talk(&mut residents);
    assert!(hear(&mut rx, 1, Duration::from_millis(100)).is_empty());
    for resident in residents {
        // The end of its orders is its own.
        let output = resident.end();
        assert!(output.status.success(), "{output:?}");
    }
    // Leaving took nothing from who has the same slot of the other segment.
    let report = SegmentReport::of(&Segment::open_read_only(&path).unwrap()).unwrap();
    let held: Vec<_> = report.ports.iter().map(|port| port.slot).collect();
    assert_eq!((report.held, held), (1, vec![rx.slot().get()]));
    assert!(report.ports[0].mac.is_some());
}
