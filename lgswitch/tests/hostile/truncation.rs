//! A file that is cut short under its ports: they end with the one sentence, not with a signal.

use std::fs::OpenOptions;
use std::time::Duration;

use lgswitch::port::Verdict;
use lgswitch::{CreateOptions, Segment};

use super::role::{self, Actor, BROADCAST, stderr};

/// The role: sends and receives without end.
pub fn be_busy() {
    lgswitch::sigbus::install(None);
    let segment = Segment::open(&role::segment_path()).unwrap();
    let (mut tx, mut rx) = role::join(&segment, 0);
    role::say("here");
    loop {
        role::send(&mut tx, BROADCAST, 1, 500);
        tx.flush();
        rx.recv(64, |_| Verdict::Taken);
    }
}

/// The role: sleeps until woken.
pub fn sleep() {
    lgswitch::sigbus::install(None);
    let segment = Segment::open(&role::segment_path()).unwrap();
    let (_tx, mut rx) = role::join(&segment, 0);
    let caller = rx.caller();
    std::thread::spawn(move || {
        role::hear();
        caller.call();
    });
    role::say("here");
    loop {
        rx.recv(64, |_| Verdict::Taken);
        rx.wait(Duration::from_secs(60));
    }
}

fn cut_short(role: &str, to: u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut");
    Segment::create(&path, &CreateOptions::default()).unwrap();
    let mut victim = Actor::start(role, &path, 0);
    assert_eq!(victim.line(), "here");
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(to).unwrap();
    if role == "sleeper" {
        victim.order("wake");
    }
    let output = victim.end();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{role} at {to}: {output:?}");
    assert_eq!(said.matches("was truncated").count(), 1, "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
}

/// The claim.
pub fn a_busy_port_of_a_file_cut_short_says_so_and_ends() {
    for to in [0, 4096, 8192] {
        cut_short("busy", to);
    }
}

/// The claim.
pub fn a_sleeping_port_of_a_file_cut_short_says_so_when_woken() {
    cut_short("sleeper", 0);
}
