//! What a player does: a process of its own, pinned, at the highest priority it may have.
//!
//! It reads lists of tasks from its standard input, a line each, and writes a line of results for
//! each list. Between two tasks of a list it meets the others without ever giving its processor
//! up, unless it has no part in what comes.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::arena::{Arena, Wait};
use super::bare::{Reader, Writer};
use super::station::Station;
use super::{BURST, Buffers, Measured, Timer, alone, distance, pin, words};

/// Who a player is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Player {
    /// Which one, from 0.
    pub number: usize,
    /// Of how many.
    pub players: usize,
    /// The processor to run on.
    pub processor: usize,
    /// The arena's file.
    pub arena: PathBuf,
    /// The segment to join, if any.
    pub segment: Option<PathBuf>,
}

/// What a player can be told to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Task {
    /// Nothing: sleep until the others are done.
    Rest,
    /// Take the distance of the two processors, by so many readings.
    Ask(usize),
    /// Be what the distance is taken to.
    Answer,
    /// Send to one player, or to everyone.
    Send {
        /// Who is to receive it.
        to: Vec<usize>,
        /// Bytes of a frame.
        size: usize,
        /// For how long.
        seconds: f64,
    },
    /// Receive from so many players.
    Receive {
        /// How many.
        senders: usize,
        /// Bytes of a frame.
        size: usize,
    },
    /// Send a frame and wait for its answer, again and again.
    Ping {
        /// Who answers.
        to: usize,
        /// Bytes of a frame.
        size: usize,
        /// Sleep meanwhile.
        sleepy: bool,
        /// For how long.
        seconds: f64,
    },
    /// Send frames back.
    Pong {
        /// To whom.
        to: usize,
        /// Bytes of a frame.
        size: usize,
        /// Sleep meanwhile.
        sleepy: bool,
    },
    /// Write to the bare ring.
    BareSend {
        /// Bytes of a frame.
        size: usize,
        /// For how long.
        seconds: f64,
    },
    /// Read from the bare ring.
    BareReceive {
        /// Bytes of a frame.
        size: usize,
    },
    /// As `Ping`, a bare word.
    BarePing {
        /// Sleep meanwhile.
        sleepy: bool,
        /// For how long.
        seconds: f64,
    },
    /// As `Pong`, a bare word.
    BarePong {
        /// Sleep meanwhile.
        sleepy: bool,
    },
    /// Copy private memory, frame by frame, as if it were to be sent or had been received.
    Copy {
        /// Bytes of a frame.
        size: usize,
        /// For how long.
        seconds: f64,
    },
}

/// A list of work, as a line of standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Work {
    /// Tasks, in step with the other players.
    Tasks(Vec<Task>),
    /// What one process finds out alone.
    Alone(alone::Question),
}

/// Plays until standard input ends.
pub fn play(player: Player) -> Result<()> {
    raise_priority();
    pin(player.processor)?;
    let Player {
        number, players, ..
    } = player;
    let segment = player.segment.as_deref();
    let station = segment.map(|path| Station::join(path, number, players));
    let mut game = Game {
        arena: Arena::open(&player.arena)?,
        station: station.transpose()?,
        writer: Writer::default(),
        reader: Reader::default(),
        step: 0,
        player,
    };
    say(&"ready")?;
    for line in std::io::stdin().lock().lines() {
        match serde_json::from_str(&line?).context("That is no work")? {
            Work::Tasks(tasks) => {
                let found: Vec<_> = tasks
                    .iter()
                    .map(|task| game.perform(task))
                    .collect::<Result<_>>()?;
                say(&found)?;
            }
            Work::Alone(question) => say(&alone::answer(&question)?)?,
        }
    }
    Ok(())
}

fn say(what: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(what)?)?;
    Ok(out.flush()?)
}

/// The highest priority short of real time; without the right to it, none.
fn raise_priority() {
    // A session of our own is a scheduling group of our own (sched(7), autogroup), whose
    // priority counts before that of any process in it.
    let _ = nix::unistd::setsid();
    let _ = std::fs::write("/proc/self/autogroup", "-20");
    // SAFETY: plain numbers; it fails without the right, which is no harm.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
}

struct Game {
    player: Player,
    arena: Arena,
    station: Option<Station>,
    writer: Writer,
    reader: Reader,
    step: u64,
}

impl Game {
    fn perform(&mut self, task: &Task) -> Result<Measured> {
        let found = self.part(task)?;
        let wait = match task {
            Task::Rest => Wait::Asleep,
            _ => Wait::Awake,
        };
        // Whoever was played with has ended, too: words may be used for something else.
        self.step += 1;
        let Player {
            number, players, ..
        } = self.player;
        self.arena.meet(number, players, self.step, wait)?;
        Ok(found)
    }

    fn part(&mut self, task: &Task) -> Result<Measured> {
        let Player {
            number, players, ..
        } = self.player;
        self.step += 1;
        let (arena, step) = (&self.arena, self.step);
        let ready = || arena.meet(number, players, step, Wait::Awake);
        match (task, &mut self.station) {
            (Task::Send { to, size, seconds }, Some(station)) => {
                station.send(to, *size, *seconds, ready)
            }
            (Task::Receive { senders, size }, Some(station)) => {
                station.receive(*senders, *size, ready)
            }
            (
                Task::Ping {
                    to,
                    size,
                    sleepy,
                    seconds,
                },
                Some(station),
            ) => station.ping(*to, *size, *sleepy, *seconds, ready),
            (Task::Pong { to, size, sleepy }, Some(station)) => {
                station.pong(*to, *size, *sleepy, ready)
            }
            (Task::BareSend { size, seconds }, _) => {
                self.writer.send(arena, *size, *seconds, ready)
            }
            (Task::BareReceive { size }, _) => self.reader.receive(arena, *size, ready),
            (Task::BarePing { sleepy, seconds }, _) => words::ping(arena, *sleepy, *seconds, ready),
            (Task::BarePong { sleepy }, _) => words::pong(arena, *sleepy, ready),
            (Task::Copy { size, seconds }, _) => {
                copy(arena.ring_bytes() as usize, *size, *seconds, ready)
            }
            (Task::Ask(readings), _) => ask(arena, *readings, ready),
            (Task::Answer, _) => {
                ready()?;
                let start = Instant::now();
                distance::answer(arena.ball(), || start.elapsed() > super::PATIENCE);
                Ok(Measured::default())
            }
            (Task::Rest, _) => {
                arena.meet(number, players, step, Wait::Asleep)?;
                Ok(Measured::default())
            }
            (task, None) => bail!("{task:?} takes a segment, and there is none"),
        }
    }
}

fn ask(arena: &Arena, readings: usize, ready: impl FnOnce() -> Result<()>) -> Result<Measured> {
    let ball = arena.ball();
    ball.store(0, std::sync::atomic::Ordering::Relaxed);
    ready()?;
    let start = Instant::now();
    let near = distance::ask(ball, readings, || start.elapsed() > super::PATIENCE)
        .context("Nobody answers on the other processor")?;
    ball.store(distance::OVER, std::sync::atomic::Ordering::Release);
    Ok(Measured {
        near,
        ..Measured::default()
    })
}

/// Each side of a transport copies every byte once: out of its buffers into something as large
/// as a ring. Both do at once, so they share what two processors share.
fn copy(
    ring_bytes: usize,
    size: usize,
    seconds: f64,
    ready: impl FnOnce() -> Result<()>,
) -> Result<Measured> {
    let stride = size.next_multiple_of(64);
    let places = ring_bytes / stride;
    let mut ring = vec![1u8; places * stride];
    let mut buffers = Buffers::new(size);
    let mut result = Measured::default();
    let mut place = 0;
    ready()?;
    let start = Instant::now();
    let mut timer = Timer::new(seconds, size);
    loop {
        for _ in 0..BURST {
            let buffer = std::hint::black_box(buffers.next(size));
            ring[place..place + size].copy_from_slice(buffer);
            std::hint::black_box(&mut ring);
            place += stride;
            if place == ring.len() {
                place = 0;
            }
        }
        result.count += BURST as u64;
        if timer.is_over() {
            break;
        }
    }
    result.bytes = result.count * size as u64;
    result.seconds = start.elapsed().as_secs_f64();
    Ok(result)
}
