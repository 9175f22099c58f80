#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
//! Killed at the n-th store to shared memory, for every n there is: the survivor goes on, and the
//! slot works again for whoever takes it next.
//!
//! ```text
//! cargo test -p lgswitch --features failpoints --test every_store
//! ```
//!
//! The process that dies is this binary, told by its environment what to be. [`storm`](../storm.rs) is the
//! same for moments that nobody chose.

#[allow(dead_code, reason = "the storm uses all of it")]
#[path = "storm/signed.rs"]
mod signed;
#[path = "storm/stall.rs"]
mod stall;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lgswitch::port::{Sent, Verdict};
use lgswitch::sync::mortal::die_at_store;
use lgswitch::{
    CreateOptions, Gather, MacAddr, PortOptions, PortRx, PortTx, Segment, SlotIndex, VnetHeader,
};

use libtest_mimic::{Arguments, Trial};
use signed::{BROADCAST, Signed, mac};
use stall::Operations;

/// In the mortal's environment: the segment, and its last store.
const SEGMENT: &str = "MORTAL_SEGMENT";
const LAST: &str = "MORTAL_LAST_STORE";
/// The survivor's address and the mortal's.
const SURVIVOR: u8 = 0;
const MORTAL: u8 = 1;

fn main() {
    if let Some(segment) = std::env::var_os(SEGMENT) {
        return live_and_die(&PathBuf::from(segment));
    }
    let claim = Trial::test(
        "whatever_store_a_process_is_killed_at_the_others_go_on_and_its_slot_works_again",
        || {
            every_store();
            Ok(())
        },
    );
    libtest_mimic::run(&Arguments::from_args(), vec![claim]).exit();
}

fn join(segment: &Arc<Segment>, index: u8) -> (PortTx, PortRx) {
    let options = PortOptions {
        mac: Some(mac(index)),
        slot: SlotIndex::new(index.into()),
        ..PortOptions::default()
    };
    segment.port(options).unwrap().split()
}

fn send(tx: &mut PortTx, to: MacAddr, number: u64) {
    let signed = Signed {
        to,
        from: tx.slot().get() as u8,
        life: 0,
        number,
        of_address: 0,
    };
    let mut bytes = Vec::new();
    signed.frame(200, &mut bytes);
    let mut operations = Operations::default();
    let sent = operations.time(|| {
        let sent = tx.send(
            &VnetHeader::default(),
            &Gather::new(&[bytes.as_slice().into()]),
        );
        tx.flush();
        sent
    });
    assert_eq!(sent, Sent::Done);
    operations.assert_no_stall("sending");
}

fn hear(rx: &mut PortRx, numbers: &mut Vec<u64>) {
    let mut operations = Operations::default();
    operations.time(|| {
        rx.recv(64, |frame| {
            let signed = Signed::read(&frame.bytes.to_vec()).expect("a whole frame");
            numbers.push(signed.number);
            Verdict::Taken
        })
    });
    operations.assert_no_stall("receiving");
}

/// Hears until `last` came, for a while.
fn hear_until(rx: &mut PortRx, last: u64) -> Vec<u64> {
    let mut numbers = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while numbers.last() != Some(&last) && Instant::now() < deadline {
        hear(rx, &mut numbers);
        rx.wait(Duration::from_millis(20));
    }
    numbers
}

/// The life that is cut short: join, send to one and to all, hear the answer, leave.
fn live_and_die(segment: &Path) {
    let segment = Segment::open(segment).unwrap();
    die_at_store(std::env::var(LAST).unwrap().parse().unwrap());
    let (mut tx, mut rx) = join(&segment, MORTAL);
    send(&mut tx, mac(SURVIVOR), 1);
    send(&mut tx, mac(SURVIVOR), 2);
    send(&mut tx, BROADCAST, 3);
    assert_eq!(hear_until(&mut rx, 5), [4, 5]);
}

fn cut_short(
    segment: &Path,
    tx: &mut PortTx,
    rx: &mut PortRx,
    last: u64,
) -> (ExitStatus, Vec<u64>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(SEGMENT, segment)
        .env(LAST, last.to_string())
        .spawn()
        .unwrap();
    let mut numbers = Vec::new();
    let mut answered = false;
    loop {
        let ended = child.try_wait().unwrap();
        hear(rx, &mut numbers);
        if let Some(status) = ended {
            return (status, numbers);
        }
        if numbers.last() == Some(&3) && !answered {
            send(tx, mac(MORTAL), 4);
            send(tx, BROADCAST, 5);
            answered = true;
        }
        rx.wait(Duration::from_millis(1));
    }
}

/// The test. One segment and one survivor see all the deaths.
fn every_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stores");
    let segment = Segment::create(&path, &CreateOptions::default()).unwrap();
    let (mut tx, mut rx) = join(&segment, SURVIVOR);
    for last in 1.. {
        let (status, mut heard) = cut_short(&path, &mut tx, &mut rx, last);
        let (mut heir_tx, mut heir_rx) = join(&segment, MORTAL);
        send(&mut heir_tx, mac(SURVIVOR), 8);
        send(&mut heir_tx, BROADCAST, 9);
        // What the dead had published and not yet rung for comes with the heir's.
        heard.extend(hear_until(&mut rx, 9));
        let rest = heard.strip_suffix(&[8, 9]);
        let of_the_dead = rest.is_some_and(|rest| [1, 2, 3].starts_with(rest));
        assert!(of_the_dead, "store {last}: {heard:?}");
        send(&mut tx, mac(MORTAL), 10);
        send(&mut tx, BROADCAST, 11);
        assert_eq!(hear_until(&mut heir_rx, 11), [10, 11], "store {last}");
        if status.success() {
            eprintln!("{} stores to die at", last - 1);
            assert!(last > 50, "only {last} stores");
            return;
        }
        assert_eq!(
            status.signal(),
            Some(libc::SIGKILL),
            "store {last}: {status}"
        );
    }
}
