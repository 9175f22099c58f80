//! The tool under test, and the one that judges it.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::lan::Lan;

/// How long anything may take before it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

fn lgswitch() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lgswitch"));
    command.arg("capture").stdin(Stdio::null());
    command
}

/// Waits for what is to come.
fn wait_until(what: &str, mut come: impl FnMut() -> bool) {
    let start = Instant::now();
    while !come() {
        assert!(start.elapsed() < PATIENCE, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A capture that runs. Killed, if it is not ended.
pub struct Capture {
    child: Child,
    stdout: Option<ChildStdout>,
    stderr: BufReader<ChildStderr>,
}

/// One that has ended.
pub struct Ended {
    pub stdout: Vec<u8>,
    stderr: String,
}

impl Ended {
    /// What it said at the end.
    pub fn account(&self) -> &str {
        let last = self.stderr.lines().last().unwrap();
        last.strip_prefix("lgswitch: ").unwrap()
    }

    /// What it printed.
    pub fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.stdout.clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl Capture {
    /// Starts one, and waits until it listens.
    pub fn start(lan: &Lan, options: &[&str]) -> Self {
        Self::spawn(lgswitch(), lan, options)
    }

    /// As [`start`](Self::start), but no file it writes can have more than so many bytes.
    pub fn start_limited(lan: &Lan, bytes: u64, options: &[&str]) -> Self {
        let mut command = Command::new("prlimit");
        command
            .arg(format!("--fsize={bytes}"))
            .args([env!("CARGO_BIN_EXE_lgswitch"), "capture"]);
        Self::spawn(command, lan, options)
    }

    fn spawn(mut command: Command, lan: &Lan, options: &[&str]) -> Self {
        command.arg(lan.name()).args(options);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        stderr.read_line(&mut first).unwrap();
        assert!(first.starts_with("lgswitch: Capturing "), "{first}");
        Self {
            child,
            stdout,
            stderr,
        }
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: a signal to our own child, which has not been waited for.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// A ^C.
    pub fn interrupt(self) -> Ended {
        self.signal(libc::SIGINT);
        self.end()
    }

    /// Waits for its end, which is a good one.
    pub fn end(mut self) -> Ended {
        let (mut stdout, mut stderr) = (Vec::new(), String::new());
        if let Some(mut pipe) = self.stdout.take() {
            pipe.read_to_end(&mut stdout).unwrap();
        }
        self.stderr.read_to_string(&mut stderr).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {stderr}");
        Ended { stdout, stderr }
    }

    /// Waits for its end, which is a failure; gives what it said.
    pub fn fail(mut self) -> String {
        let mut stderr = String::new();
        self.stderr.read_to_string(&mut stderr).unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(1), "{stderr}");
        stderr
    }

    /// The next bytes it writes to standard output.
    pub fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let stdout = self.stdout.as_mut().unwrap();
        stdout.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Nobody reads its standard output any more.
    pub fn stop_reading(&mut self) {
        self.stdout = None;
    }

    /// Waits until it has written that much to a file.
    pub fn wait_for_bytes(&self, file: &str, bytes: u64) {
        wait_until("bytes in a file", || {
            std::fs::metadata(file).is_ok_and(|m| m.len() >= bytes)
        });
    }

    /// Does something while it can't.
    pub fn while_stopped(&self, act: impl FnOnce()) {
        self.signal(libc::SIGSTOP);
        wait_until("the capture to stop", || self.state() == 'T');
        act();
        self.signal(libc::SIGCONT);
    }

    /// Waits until it has received `frames`, or lost them on their way in.
    pub fn wait_for_frames(&self, lan: &Lan, frames: u64) {
        wait_until("the capture to have everything", || {
            let received = lan.capture().received.unwrap();
            received.frames + received.dropped.values().sum::<u64>() == frames
        });
    }

    /// Its state, as `/proc` has it.
    fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        rest.chars().next().unwrap()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // It may have ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a capture that is refused; gives what it says.
pub fn refused(status: i32, arguments: &[&str]) -> String {
    let output = lgswitch().args(arguments).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{message}");
    message
}

pub fn tshark_is_installed() -> bool {
    let run = Command::new("tshark").arg("--version").output();
    run.is_ok_and(|output| output.status.success())
}

/// What `tshark` says, given `input`. It must have nothing to complain of.
pub fn tshark(arguments: &[&str], input: &[u8]) -> String {
    let mut child = Command::new("tshark")
        .arg("-n")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Small enough for a pipe.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input).unwrap();
    drop(stdin);
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{errors}");
    assert!(
        !errors.contains("cut short") && !errors.contains("damaged"),
        "{errors}"
    );
    String::from_utf8(stdout).unwrap()
}

/// Fields of each packet in a file.
pub fn tshark_fields(file: &str, options: &[&str], fields: &[&str]) -> Vec<Vec<String>> {
    let mut arguments = vec!["-r", file, "-T", "fields"];
    arguments.extend(options);
    fields
        .iter()
        .for_each(|field| arguments.extend(["-e", field]));
    tshark(&arguments, &[])
        .lines()
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect()
}
