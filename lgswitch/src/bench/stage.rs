//! The stage: two processes of this program, pinned, that play one measurement.
//!
//! A child is `lgswitch bench-child` with its part as JSON. It says "ready" when the other may start
//! and its result, as JSON, when it is done.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Measured, bare, wire};

/// What a child does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Part {
    /// Which part.
    pub role: Role,
    /// The segment, or the file of the bare ring.
    pub path: PathBuf,
    /// Bytes of a frame, Ethernet header included.
    pub size: usize,
    /// How long to send, in seconds.
    pub seconds: f64,
    /// Frames in a burst.
    pub burst: usize,
    /// The processor to run on.
    pub processor: usize,
}

/// The parts there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Sends on a port as fast as its receiver takes it.
    Send,
    /// Receives at a port until the sender is done.
    Receive,
    /// Writes to a bare ring.
    BareSend,
    /// Reads from a bare ring.
    BareReceive,
    /// Sends a frame and waits for it to come back, polling.
    Ping,
    /// Sends frames back, polling.
    Pong,
    /// As `Ping`, asleep meanwhile.
    SleepyPing,
    /// As `Pong`, asleep meanwhile.
    SleepyPong,
    /// Changes a word and waits for its answer, polling.
    BarePing,
    /// Answers, polling.
    BarePong,
    /// As `BarePing`, asleep on a futex meanwhile.
    FutexPing,
    /// As `BarePong`, asleep on a futex meanwhile.
    FutexPong,
}

/// Plays the part; `ready` is called when the other side may start.
pub fn play(part: &Part, ready: impl FnOnce()) -> Result<Measured> {
    pin(part.processor)?;
    match part.role {
        Role::Send => wire::send(part, ready),
        Role::Receive => wire::receive(part, ready),
        Role::Ping | Role::SleepyPing => wire::ping(part, ready),
        Role::Pong | Role::SleepyPong => wire::pong(part, ready),
        Role::BareSend => bare::send(part, ready),
        Role::BareReceive => bare::receive(part, ready),
        Role::BarePing | Role::FutexPing => bare::ping(part, ready),
        Role::BarePong | Role::FutexPong => bare::pong(part, ready),
    }
}

/// Runs this thread on one processor.
fn pin(processor: usize) -> Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(processor)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)
        .with_context(|| format!("Can't run on processor {processor}"))
}

/// Plays a measurement with two children: `first` is ready before `second` starts. Gives what
/// `result_of` (0 or 1) found.
pub fn perform(first: &Part, second: &Part, result_of: usize) -> Result<Measured> {
    let mut first = Player::start(first)?;
    first.wait_ready()?;
    let mut second = Player::start(second)?;
    second.wait_ready()?;
    let results = [first.result()?, second.result()?];
    Ok(results[result_of])
}

/// A child at work; killed if dropped before its end, and by the kernel if we are killed.
struct Player {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Player {
    fn start(part: &Part) -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["bench-child", &serde_json::to_string(part)?])
            .stdin(Stdio::null())
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
            .context("Can't start a second process to measure with")?;
        let output = child.stdout.take().context("A child without its output")?;
        let lines = BufReader::new(output).lines();
        Ok(Self { child, lines })
    }

    fn line(&mut self) -> Result<String> {
        match self.lines.next() {
            Some(line) => Ok(line?),
            None => bail!("A process that was measuring ended early; its reason is above"),
        }
    }

    fn wait_ready(&mut self) -> Result<()> {
        match self.line()?.as_str() {
            "ready" => Ok(()),
            other => bail!("A process that was measuring said '{other}' when it should be ready"),
        }
    }

    fn result(&mut self) -> Result<Measured> {
        Ok(serde_json::from_str(&self.line()?)?)
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
