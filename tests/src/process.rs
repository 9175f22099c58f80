//! Who is whose child, as `/proc` has it: to see that a launcher takes everything it started
//! along, however it dies.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::{self, PATIENCE};

/// One process, by what tells it from a later one with the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it was started, in clock ticks since boot: numbers are used again, moments are not.
    pub started: u64,
    /// Its command's name (at most 15 bytes).
    pub name: String,
    parent: u32,
    state: char,
}

impl Process {
    /// The process with this number, if there is one.
    #[must_use]
    pub fn find(pid: u32) -> Option<Process> {
        // "pid (name) state ppid ..."; the name may hold spaces and brackets. Start time is
        // field 22 (proc(5)), the twentieth after the name.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, tail) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = tail.split_whitespace().collect();
        Some(Process {
            pid,
            started: fields.get(19)?.parse().ok()?,
            name: head.split_once('(')?.1.to_string(),
            parent: fields.get(1)?.parse().ok()?,
            state: fields.first()?.chars().next()?,
        })
    }

    /// Whether it still runs. A zombie does not: it holds nothing any more.
    #[must_use]
    pub fn runs(&self) -> bool {
        Process::find(self.pid)
            .is_some_and(|now| now.started == self.started && !matches!(now.state, 'Z' | 'X'))
    }

    /// Its children, their children, and so on.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn descendants(&self) -> Result<Vec<Process>> {
        let mut children: BTreeMap<u32, Vec<Process>> = BTreeMap::new();
        for entry in fs::read_dir("/proc").context("Reading /proc")? {
            let name = entry.context("Reading /proc")?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if let Some(process) = Process::find(pid) {
                children.entry(process.parent).or_default().push(process);
            }
        }
        let mut found = Vec::new();
        let mut parents = vec![self.pid];
        while let Some(parent) = parents.pop() {
            for child in children.remove(&parent).unwrap_or_default() {
                parents.push(child.pid);
                found.push(child);
            }
        }
        Ok(found)
    }

    /// Sends SIGKILL, if it is still the same process.
    pub fn kill(&self) {
        if let (true, Ok(pid)) = (self.runs(), i32::try_from(self.pid)) {
            // It may be gone by now, which is what is wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Waits until none of `processes` runs any more.
///
/// # Errors
/// Names those that still run when time is up.
pub fn gone(processes: &[Process]) -> Result<()> {
    let left = || {
        processes
            .iter()
            .filter(|process| process.runs())
            .collect::<Vec<_>>()
    };
    wait::until_true("processes to end", PATIENCE, || Ok(left().is_empty()))
        .with_context(|| format!("Still running: {:?}", left()))
}
