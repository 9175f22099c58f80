//! Survivors and victims, and the one who kills.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use lgswitch::{CreateOptions, Segment};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::actor::{ACTORS, Account, INDEX, SEED, SEGMENT};
use super::signed::Random;

const SURVIVORS: u8 = 3;
/// One more, which is stopped at the beginning and stays so: who waits for it waits for ever.
const VICTIMS: u8 = 4;

/// A running actor.
struct Actor {
    child: Child,
    orders: ChildStdin,
    says: BufReader<ChildStdout>,
}

impl Actor {
    fn start(segment: &Path, index: u8, seed: u64) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(SEGMENT, segment)
            .env(INDEX, index.to_string())
            .env(ACTORS, (SURVIVORS + VICTIMS).to_string())
            .env(SEED, seed.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut actor = Self {
            orders: child.stdin.take().unwrap(),
            says: BufReader::new(child.stdout.take().unwrap()),
            child,
        };
        assert_eq!(actor.line(), "here");
        actor
    }

    fn order(&mut self, what: &str) {
        writeln!(self.orders, "{what}").unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "an actor died of itself");
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Ends a victim. It must have lived to that moment.
    fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "a victim failed");
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // When the test fails, its actors end too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |v| v.parse().expect("a number"))
}

/// The test.
pub fn storm() {
    let length = Duration::from_secs(from_environment("STORM_SECONDS", 4));
    let seed = from_environment(SEED, 1);
    let mut random = Random(seed);
    let folder = tempfile::tempdir_in(memory_backed()).unwrap();
    let path = folder.path().join("storm");
    let options = CreateOptions {
        slots: 16,
        ..CreateOptions::default()
    };
    Segment::create(&path, &options).unwrap();

    let mut survivors: Vec<_> = (0..SURVIVORS)
        .map(|index| Actor::start(&path, index, seed))
        .collect();
    survivors.iter_mut().for_each(|actor| actor.order("go"));
    let birth = |index: u8| {
        let mut actor = Actor::start(&path, SURVIVORS + index, seed);
        actor.order("go");
        (actor, false)
    };
    let mut victims: Vec<_> = (0..VICTIMS).map(birth).collect();
    let (sleeper, _) = victims.pop().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    sleeper.signal(Signal::SIGSTOP);

    let (mut kills, mut stops) = (0, 0);
    let end = Instant::now() + length;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_micros(random.below(15_000)));
        let index = random.below(victims.len() as u64) as usize;
        match (random.below(3), victims[index].1) {
            (0, false) => {
                victims[index].0.signal(Signal::SIGSTOP);
                victims[index].1 = true;
                stops += 1;
            }
            (0 | 1, true) => {
                victims[index].0.signal(Signal::SIGCONT);
                victims[index].1 = false;
            }
            _ => {
                let (victim, _) = std::mem::replace(&mut victims[index], birth(index as u8));
                victim.kill();
                kills += 1;
            }
        }
    }
    sleeper.kill();
    victims.into_iter().for_each(|(victim, _)| victim.kill());
    let accounts = accounts(survivors);
    let handed: u64 = accounts.iter().map(|a| a.handed).sum();
    eprintln!("seed {seed}: {kills} kills, {stops} stops, {handed} frames heard");
    for account in &accounts {
        eprintln!("a survivor: {:?}", account.operations);
    }
    assert!(kills > 10 && handed > 1000);
    for index in 0..SURVIVORS {
        check(index, &accounts);
    }
}

/// Lets the survivors end, and hears their accounts.
fn accounts(mut survivors: Vec<Actor>) -> Vec<Account> {
    for what in ["quiet", "tell"] {
        survivors.iter_mut().for_each(|actor| actor.order(what));
        if what == "quiet" {
            for actor in &mut survivors {
                assert_eq!(actor.line(), "quiet");
            }
        }
    }
    let read = |actor: &mut Actor| serde_json::from_str(&actor.line()).unwrap();
    survivors.iter_mut().map(read).collect()
}

/// What one survivor heard is what the others sent, and its port counted the same.
fn check(index: u8, accounts: &[Account]) {
    let account = &accounts[usize::from(index)];
    let [sent, gave_up, received, lapped, corrupt] = account.counted;
    account
        .operations
        .assert_no_stall(&format!("actor {index}"));
    assert_eq!(sent, account.sent.values().sum::<u64>(), "actor {index}");
    assert_eq!((gave_up, received), (account.gave_up, account.handed));
    assert_eq!(corrupt, 0, "actor {index}");
    let mut gaps = 0;
    for other in (0..SURVIVORS).filter(|&other| other != index) {
        let other_sent = &accounts[usize::from(other)].sent;
        assert_eq!(
            account.heard.get(&other),
            other_sent.get(&index),
            "what {index} heard of {other}"
        );
        let of = |map: &std::collections::BTreeMap<u8, u64>| *map.get(&other).unwrap_or(&0);
        let told = of(&account.heard_by_all) + of(&account.gaps_by_all);
        let by_all = *other_sent.get(&255).unwrap_or(&0);
        assert!(told <= by_all, "{index} heard {told} of {other}'s {by_all}");
        gaps += by_all - of(&account.heard_by_all);
    }
    assert!(
        gaps <= lapped,
        "actor {index} missed {gaps}, counted {lapped}"
    );
}

/// Where a segment belongs, if this machine has it.
fn memory_backed() -> std::path::PathBuf {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() {
        shm.to_owned()
    } else {
        std::env::temp_dir()
    }
}
