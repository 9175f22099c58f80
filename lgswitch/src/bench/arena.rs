//! What the players share apart from the segment they measure: a file with the word they keep step
//! by, the words they throw to each other, and the bare ring.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Patience;
use crate::map::Mapping;
use crate::sync::{AtomicU32, AtomicU64};

/// Each word has two cache lines for itself, as some processors fetch them in pairs.
const LINE: u64 = 128;
/// The ball of [`super::distance`].
const BALL: u64 = 0;
/// The words of [`super::words`].
const PING: u64 = LINE;
const PONG: u64 = 2 * LINE;
/// The positions of the bare ring.
const HEAD: u64 = 3 * LINE;
const TAIL: u64 = 4 * LINE;
/// How far each player has come.
const STEPS: u64 = 4096;
/// Players there may be.
pub const MAX_PLAYERS: usize = 64;
/// Where the bare ring is.
pub(super) const RING: u64 = STEPS + MAX_PLAYERS as u64 * LINE;

/// The file, mapped.
#[derive(Debug)]
pub struct Arena {
    map: Mapping,
    ring_bytes: u64,
}

/// What the next task is waited for with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// All of one's processor.
    Awake,
    /// Nothing, for those who have no part in it.
    Asleep,
}

impl Arena {
    /// Makes the file, with a bare ring of that many bytes.
    pub fn create(path: &Path, ring_bytes: u64) -> Result<()> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.set_len(RING + ring_bytes)
            .with_context(|| format!("Can't size {}", path.display()))
    }

    /// Opens it.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let len = file.metadata()?.len();
        let map = Mapping::new(&file, 0, len, true)?;
        map.populate(&file, 0, 0, len)
            .context("There is no memory for a bare ring")?;
        let ring_bytes = len.saturating_sub(RING);
        Ok(Self { map, ring_bytes })
    }

    /// Bytes of the bare ring.
    pub(super) fn ring_bytes(&self) -> u64 {
        self.ring_bytes
    }

    pub(super) fn map(&self) -> &Mapping {
        &self.map
    }

    pub(super) fn ball(&self) -> &AtomicU64 {
        self.map.word64(BALL)
    }

    pub(super) fn ping(&self) -> &AtomicU32 {
        self.map.word32(PING)
    }

    pub(super) fn pong(&self) -> &AtomicU32 {
        self.map.word32(PONG)
    }

    pub(super) fn head(&self) -> &AtomicU64 {
        self.map.word64(HEAD)
    }

    pub(super) fn tail(&self) -> &AtomicU64 {
        self.map.word64(TAIL)
    }

    /// Says that `player` of `players` has come to that step, and waits for the others.
    pub(super) fn meet(&self, player: usize, players: usize, step: u64, wait: Wait) -> Result<()> {
        let word = |player: usize| self.map.word64(STEPS + player as u64 * LINE);
        word(player).store(step, Ordering::Release);
        for other in 0..players {
            let mut patience = Patience::new();
            while word(other).load(Ordering::Acquire) < step {
                match wait {
                    Wait::Awake if players > 2 => {
                        // Whoever we wait for may want this processor.
                        std::thread::yield_now();
                        patience.poll()?;
                    }
                    Wait::Awake => patience.poll()?,
                    Wait::Asleep => {
                        std::thread::sleep(Duration::from_micros(500));
                        patience.check()?;
                    }
                }
            }
        }
        Ok(())
    }
}
