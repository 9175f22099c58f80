//! A process in the storm: it sends to all others and hears them, as fast as it can, and checks
//! what it hears.
//!
//! It is told what to do by lines on its standard input: it joins and says `here`; at `go` it
//! begins; at `quiet` it stops sending and says `quiet`; at `tell` it hears out what is there
//! and tells its account, one line of JSON. Victims are killed before they get that far.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use lgswitch::port::counters::{RxDrop, TxDrop};
use lgswitch::port::{Sent, Verdict};
use lgswitch::{Gather, PortOptions, PortRx, PortTx, Segment, VnetHeader};
use serde::{Deserialize, Serialize};

use super::signed::{BROADCAST, LEAST, Random, Signed, mac};
use super::stall::Operations;

/// How an actor is told who it is.
pub const SEGMENT: &str = "STORM_SEGMENT";
pub const INDEX: &str = "STORM_INDEX";
pub const ACTORS: &str = "STORM_ACTORS";
pub const SEED: &str = "STORM_SEED";

/// What a survivor tells at the end.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Account {
    /// Frames sent, by the actor they were for; 255 is everyone.
    pub sent: BTreeMap<u8, u64>,
    /// Frames for it alone that it heard, by sender.
    pub heard: BTreeMap<u8, u64>,
    /// Frames for everyone that it heard, by sender.
    pub heard_by_all: BTreeMap<u8, u64>,
    /// Of those frames, how many it knows it missed.
    pub gaps_by_all: BTreeMap<u8, u64>,
    /// Frames handed over in all.
    pub handed: u64,
    /// Frames given up before a full ring.
    pub gave_up: u64,
    /// By the port's own counters: sent, given up, received, lapped, corrupt.
    pub counted: [u64; 5],
    /// What sending, flushing and receiving took.
    pub operations: Operations,
}

struct Actor {
    index: u8,
    actors: u8,
    life: u32,
    number: u64,
    of_address: BTreeMap<u8, u64>,
    /// Of each sender: its life, the last number heard, the last for everyone.
    last: BTreeMap<u8, (u32, u64, Option<u64>)>,
    random: Random,
    account: Account,
}

fn told<T: std::str::FromStr>(name: &str) -> T {
    let value = std::env::var(name).unwrap();
    value.parse().ok().unwrap()
}

/// The life of an actor's process.
pub fn live() {
    let index = told(INDEX);
    let segment = Segment::open(&PathBuf::from(told::<String>(SEGMENT))).unwrap();
    // As in life: the slot of the dead is free at once, but perhaps not for this one.
    let port = segment.port(PortOptions {
        mac: Some(mac(index)),
        name: format!("actor {index}"),
        ..PortOptions::default()
    });
    let (mut tx, mut rx) = port.unwrap().split();
    let mut actor = Actor {
        index,
        actors: told(ACTORS),
        life: std::process::id(),
        number: 0,
        of_address: BTreeMap::new(),
        last: BTreeMap::new(),
        random: Random(told::<u64>(SEED) ^ u64::from(std::process::id())),
        account: Account::default(),
    };
    let orders = orders();
    say("here");
    assert_eq!(orders.recv().unwrap(), "go");
    while !actor.is_told(&orders, "quiet") {
        actor.send(&mut tx);
        actor.hear(&mut rx);
        if actor.random.below(16) == 0 {
            rx.wait(Duration::from_millis(2));
        }
    }
    say("quiet");
    while !actor.is_told(&orders, "tell") {
        actor.hear(&mut rx);
        rx.wait(Duration::from_millis(2));
    }
    while actor.hear(&mut rx) > 0 {}
    let (sent, received) = (tx.counters(), rx.counters());
    actor.account.counted = [
        sent.frames,
        sent.dropped[TxDrop::RingFull as usize],
        received.frames,
        received.dropped[RxDrop::Lapped as usize],
        received.dropped[RxDrop::Corrupt as usize],
    ];
    say(&serde_json::to_string(&actor.account).unwrap());
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).unwrap();
}

/// Lines of standard input. Its end is the end of us: the parent is gone.
fn orders() -> Receiver<String> {
    let (to, orders) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if to.send(line.unwrap()).is_err() {
                return;
            }
        }
        std::process::exit(0);
    });
    orders
}

impl Actor {
    fn is_told(&self, orders: &Receiver<String>, what: &str) -> bool {
        match orders.try_recv() {
            Ok(order) => {
                assert_eq!(order, what);
                true
            }
            Err(TryRecvError::Empty) => false,
            Err(TryRecvError::Disconnected) => std::process::exit(0),
        }
    }

    /// A burst to one, or to all.
    fn send(&mut self, tx: &mut PortTx) {
        let to = match self.random.below(8) {
            0 => 255,
            _ => {
                let other = 1 + self.random.below(u64::from(self.actors) - 1) as u8;
                (self.index + other) % self.actors
            }
        };
        let address = if to == 255 { BROADCAST } else { mac(to) };
        let mut bytes = Vec::new();
        for _ in 0..1 + self.random.below(16) {
            let signed = Signed {
                to: address,
                from: self.index,
                life: self.life,
                number: self.number,
                of_address: *self.of_address.entry(to).or_default(),
            };
            signed.frame(LEAST + self.random.below(1400) as usize, &mut bytes);
            let parts = [bytes.as_slice().into()];
            let frame = Gather::new(&parts);
            match self
                .account
                .operations
                .time(|| tx.send(&VnetHeader::default(), &frame))
            {
                Sent::Done => {
                    self.number += 1;
                    *self.of_address.entry(to).or_default() += 1;
                    *self.account.sent.entry(to).or_default() += 1;
                }
                Sent::Full(_) => {
                    tx.give_up();
                    self.account.gave_up += 1;
                }
                Sent::Dropped(reason) => panic!("dropped: {reason:?}"),
            }
        }
        self.account.operations.time(|| tx.flush());
    }

    /// Hears what is there; tells how much that was.
    fn hear(&mut self, rx: &mut PortRx) -> usize {
        let mut operations = self.account.operations;
        let heard = operations.time(|| {
            rx.recv(64, |frame| {
                let bytes = frame.bytes.to_vec();
                let signed = Signed::read(&bytes)
                    .unwrap_or_else(|| panic!("torn, from slot {}: {bytes:02x?}", frame.from));
                self.check(&signed);
                Verdict::Taken
            })
        });
        self.account.operations = operations;
        heard
    }

    /// Each life's frames come in the order they were sent, and none twice.
    fn check(&mut self, signed: &Signed) {
        self.account.handed += 1;
        let all = signed.to == BROADCAST;
        let last = self.last.get(&signed.from).copied();
        let before = match last {
            Some((life, number, of_all)) if life == signed.life => {
                assert!(signed.number > number, "{signed:?} after number {number}");
                of_all
            }
            _ => None,
        };
        if all {
            *self.account.heard_by_all.entry(signed.from).or_default() += 1;
            let expected = before.map_or(0, |of_all| of_all + 1);
            *self.account.gaps_by_all.entry(signed.from).or_default() +=
                signed.of_address - expected;
        } else if signed.to == mac(self.index) {
            *self.account.heard.entry(signed.from).or_default() += 1;
        }
        let of_all = if all { Some(signed.of_address) } else { before };
        let now = (signed.life, signed.number, of_all);
        self.last.insert(signed.from, now);
    }
}
