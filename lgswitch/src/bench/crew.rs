//! The players as seen by the one who sends them out.
//!
//! A player is `lgswitch bench-child` with who it is as JSON. All are killed when their crew is
//! dropped, and by the kernel if we are killed.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use super::Measured;
use super::alone::{Cost, Question};
use super::arena::{Arena, MAX_PLAYERS};
use super::player::{Player, Task, Work};
use crate::layout::Geometry;
use crate::segment::{CreateOptions, Segment};

/// Jumbo frames are ordinary on the segment that is measured.
const MTU: u32 = 9000;

/// Players at work.
pub struct Crew {
    hands: Vec<Hand>,
}

impl Crew {
    /// Starts `players` on a fresh segment with rings of that size, the first on the first of
    /// `processors` and the others on the others in turn. No file is left when this returns.
    pub fn start(
        folder: &Path,
        players: usize,
        processors: &[usize],
        ring_bytes: u64,
    ) -> Result<Self> {
        let [first, others @ ..] = processors else {
            bail!("There is no processor to run on");
        };
        if !(2..=MAX_PLAYERS).contains(&players) || others.is_empty() {
            bail!("It takes 2 to {MAX_PLAYERS} processes, and two processors");
        }
        let segment = Name::new(folder, "segment");
        let options = CreateOptions {
            mtu: MTU,
            ring_bytes,
            ..CreateOptions::default()
        };
        Segment::create(&segment.0, &options)?;
        let processor = |number: usize| match number {
            0 => *first,
            _ => others[(number - 1) % others.len()],
        };
        let processors = (0..players).map(processor);
        Self::of(folder, Some(&segment.0), processors, ring_bytes)
    }

    /// Starts a single one, on no segment.
    pub fn single(folder: &Path, processor: usize) -> Result<Self> {
        Self::of(
            folder,
            None,
            std::iter::once(processor),
            Geometry::DEFAULT_RING,
        )
    }

    fn of(
        folder: &Path,
        segment: Option<&Path>,
        processors: impl ExactSizeIterator<Item = usize>,
        ring_bytes: u64,
    ) -> Result<Self> {
        let arena = Name::new(folder, "arena");
        Arena::create(&arena.0, ring_bytes)?;
        let players = processors.len();
        let hands = processors.enumerate().map(|(number, processor)| {
            Hand::start(&Player {
                number,
                players,
                processor,
                arena: arena.0.clone(),
                segment: segment.map(Path::to_owned),
            })
        });
        let mut hands = hands.collect::<Result<Vec<_>>>()?;
        for hand in &mut hands {
            let word: String = hand.hear()?;
            if word != "ready" {
                bail!("A process that was to measure said '{word}'");
            }
        }
        Ok(Self { hands })
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.hands.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.hands.is_empty()
    }

    /// Plays the steps, a task a player each; gives what each player found at each.
    pub fn perform(&mut self, steps: &[Vec<Task>]) -> Result<Vec<Vec<Measured>>> {
        for (number, hand) in self.hands.iter_mut().enumerate() {
            let tasks = steps
                .iter()
                .map(|step| step.get(number).cloned().unwrap_or(Task::Rest));
            hand.tell(&Work::Tasks(tasks.collect()))?;
        }
        let mut found = vec![Vec::new(); steps.len()];
        for hand in &mut self.hands {
            let results: Vec<Measured> = hand.hear()?;
            for (step, result) in found.iter_mut().zip(results) {
                step.push(result);
            }
        }
        Ok(found)
    }

    /// What the first finds out alone.
    pub fn ask(&mut self, question: Question) -> Result<Vec<Cost>> {
        let hand = self.hands.first_mut().context("There is nobody to ask")?;
        hand.tell(&Work::Alone(question))?;
        hand.hear()
    }
}

/// A file's name, gone when dropped.
pub(super) struct Name(pub(super) PathBuf);

impl Name {
    pub(super) fn new(folder: &Path, name: &str) -> Self {
        Self(folder.join(name))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// One of the crew.
struct Hand {
    child: Child,
    input: ChildStdin,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Hand {
    fn start(player: &Player) -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["bench-child", &serde_json::to_string(player)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        // SAFETY: prctl is async-signal-safe.
        unsafe {
            command.pre_exec(
                || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                },
            );
        }
        let mut child = command
            .spawn()
            .context("Can't start another process to measure with")?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self {
                child,
                input,
                lines: BufReader::new(output).lines(),
            }),
            _ => bail!("A child without its pipes"),
        }
    }

    fn tell(&mut self, work: &Work) -> Result<()> {
        let line = serde_json::to_string(work)?;
        writeln!(self.input, "{line}").context("A process that was to measure is gone")
    }

    fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        match self.lines.next() {
            Some(line) => Ok(serde_json::from_str(&line?)?),
            None => bail!("A process that was measuring ended early; its reason is above"),
        }
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
