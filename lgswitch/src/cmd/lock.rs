//! `lgswitch lock`: nobody takes these slots while a command runs.
//!
//! For a slot that is to be kept for a program that takes it itself and later, say, or for tests.
//! The locks are ours, not the command's: however we end, they end, and the command is told.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result};
use clap::Args;
use lgswitch::{Segment, SegmentName, SlotIndex};

/// Hold slots of a sharenet while a command runs.
#[derive(Debug, Args)]
pub struct LockCommand {
    /// Its name, or a path with a '/'
    name: SegmentName,
    /// A slot to hold; may be repeated [default: the first free one]
    #[arg(long = "slot", value_name = "N")]
    slots: Vec<SlotIndex>,
    /// The command; it finds the slots' numbers in $LGSWITCH_SLOTS
    #[arg(last = true, required = true, num_args = 1.., value_name = "COMMAND")]
    command: Vec<String>,
}

impl LockCommand {
    /// Ends with the command's status; 127 if there is no such command, 126 if it can't be run, 128
    /// and the signal's number if one ended it: as shells do.
    pub fn run(self) -> Result<ExitCode> {
        let segment = Segment::open(&self.name.path())?;
        let wanted: Vec<_> = match self.slots.is_empty() {
            true => vec![None],
            false => self.slots.into_iter().map(Some).collect(),
        };
        let program = &self.command[0];
        let mut held = Vec::new();
        for slot in wanted {
            held.push(segment.hold(slot, &format!("lock: {program}"))?);
        }
        let numbers: Vec<_> = held.iter().map(|h| h.slot().to_string()).collect();
        let mut command = Command::new(program);
        command
            .args(&self.command[1..])
            .env("LGSWITCH_SLOTS", numbers.join(","));
        let status = match run(&mut command) {
            Ok(status) => status,
            Err(error) => {
                eprintln!("lgswitch: Can't run {program}: {error}");
                let missing = error.kind() == io::ErrorKind::NotFound;
                return Ok(ExitCode::from(if missing { 127 } else { 126 }));
            }
        };
        let code = status.code().or(status.signal().map(|signal| 128 + signal));
        let code = code.context("The command neither exited nor was killed")?;
        Ok(ExitCode::from(code as u8))
    }
}

/// Runs it. A ^C is for the command, not for us; if we are killed, it is told to end.
fn run(command: &mut Command) -> io::Result<ExitStatus> {
    let parent = std::process::id();
    // SAFETY: only async-signal-safe calls between fork and exec: prctl, getppid, signal.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 {
                return Err(io::Error::last_os_error());
            }
            // We may have died before the prctl.
            if libc::getppid() as u32 != parent {
                libc::raise(libc::SIGTERM);
            }
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            libc::signal(libc::SIGQUIT, libc::SIG_DFL);
            Ok(())
        });
        libc::signal(libc::SIGINT, libc::SIG_IGN);
        libc::signal(libc::SIGQUIT, libc::SIG_IGN);
    }
    command.status()
}
