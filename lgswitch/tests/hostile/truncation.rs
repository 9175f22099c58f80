//! A file that is cut short under its ports: they end with the one sentence, not with a signal.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use lgswitch::map::Mapping;
use lgswitch::port::{Sent, Verdict};
use lgswitch::{CreateOptions, PortRx, Segment};

use super::role::{self, Actor, BROADCAST, mac, stderr};

/// The role: two ports talk without end, by ring and by log. It has mapped something as many times
/// before as its index says.
pub fn be_busy() {
    lgswitch::sigbus::install(None);
    let path = role::segment_path();
    let segment = Segment::open(&path).unwrap();
    let file = File::open(&path).unwrap();
    let _mappings: Vec<_> = (0..role::index())
        .map(|_| Mapping::new(&file, 0, 4096, false).unwrap())
        .collect();
    let mut ports = [0, 1].map(|slot| role::join(&segment, slot));
    for round in 0.. {
        // By now all of both rings and logs is in use.
        if round == 5000 {
            role::say("here");
        }
        for (tx, rx) in &mut ports {
            let other = mac(1 - rx.slot().get());
            for to in [other, BROADCAST] {
                role::send(tx, to, 1, 500);
            }
            tx.flush();
            rx.recv(64, |_| Verdict::Taken);
        }
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

fn set_len(path: &Path, len: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
}

/// It ended with the sentence, said once and after nothing else.
fn assert_told(what: &str, output: &Output) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{what}: {output:?}");
    assert_eq!(said.matches("was truncated").count(), 1, "{what}: {said}");
    assert_eq!(said.trim().lines().count(), 1, "{what}: {said}");
}

fn cut_short(role: &str, mappings: usize, to: impl Fn(&Segment) -> u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut");
    let segment = Segment::create(&path, &CreateOptions::default()).unwrap();
    let mut victim = Actor::start(role, &path, mappings);
    assert_eq!(victim.line(), "here");
    let to = to(&segment);
    set_len(&path, to);
    if role == "sleeper" {
        victim.order("wake");
    }
    assert_told(&format!("{role} at {to}"), &victim.end());
}

/// The claim.
pub fn a_port_of_a_file_cut_short_says_so_and_ends() {
    for page in [0, 1, 2] {
        cut_short("busy", 0, |_| page * 4096);
    }
    // The rings are gone, or only the logs.
    cut_short("busy", 0, |segment| segment.geometry().rings());
    cut_short("busy", 0, |segment| segment.geometry().log(0));
}

/// The claim.
pub fn a_sleeping_port_of_a_file_cut_short_says_so_when_woken() {
    cut_short("sleeper", 0, |_| 0);
}

/// The claim.
pub fn of_thousands_of_mappings_the_last_is_told_like_the_first() {
    cut_short("busy", 10_000, |segment| segment.geometry().log(0));
}

/// The claim: of the tool's commands, those that stay on a segment.
pub fn the_tool_on_a_file_cut_short_says_so_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("vhost-user:{}", folder.path().join("socket").display());
    for (i, command) in [vec!["capture"], vec!["plug"]].iter().enumerate() {
        let path = folder.path().join(format!("cut{i}"));
        let segment = Segment::create(&path, &CreateOptions::default()).unwrap();
        let mut tool = Command::new(env!("CARGO_BIN_EXE_lgswitch"))
            .args(command)
            .arg(&path)
            .args((command[0] == "plug").then_some(&socket))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut says = BufReader::new(tool.stderr.take().unwrap());
        if command[0] == "capture" {
            says.read_line(&mut String::new()).unwrap();
        }
        // Whatever it is doing, it is on the segment.
        while segment.high_water() == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        set_len(&path, 0);
        let mut output = tool.wait_with_output().unwrap();
        says.read_to_end(&mut output.stderr).unwrap();
        assert_told(command[0], &output);
    }
}

fn hear(rx: &mut PortRx) -> usize {
    let mut heard = 0;
    rx.recv(64, |_| {
        heard += 1;
        Verdict::Taken
    });
    heard
}

/// The claim: nobody touched it meanwhile, and all that it held is zero.
pub fn a_file_cut_short_and_grown_again_costs_frames_and_no_port() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wiped");
    let segment = Segment::create(&path, &CreateOptions::default()).unwrap();
    let (mut tx, _rx) = role::join(&segment, 0);
    let (_tx, mut rx) = role::join(&segment, 1);
    let mut talk = || {
        for to in [mac(1), BROADCAST] {
            assert_eq!(role::send(&mut tx, to, 1, 500), Sent::Done);
        }
        tx.flush();
        hear(&mut rx)
    };
    assert_eq!(talk(), 2);
    set_len(&path, 0);
    set_len(&path, segment.geometry().file_bytes());
    talk();
    // What was lost is lost; what is sent now is heard.
    assert_eq!((0..3).map(|_| talk()).next_back(), Some(2));
    let refused = Segment::open(&path).unwrap_err().to_string();
    assert!(refused.contains("not a sharenet"), "{refused}");
}
