//! A network of the test's own.
//!
//! Nothing names it: it lives as long as a process is in it, and the first process in it waits
//! for the end of a pipe that we hold. However the test ends, the pipe closes, the process ends,
//! and the kernel takes the links, bridges, taps and addresses away with the namespace.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

/// A network namespace with only `lo` in it, up.
pub struct Namespace {
    keeper: Child,
}

impl Namespace {
    /// A new namespace.
    ///
    /// # Errors
    /// If it cannot be made (no root, no `unshare`).
    pub fn new() -> Result<Namespace> {
        // `>/dev/null`: its stdout has no reader once we know that it is ready, and busybox's cat
        // (through sendfile) ends when it sees that.
        let mut keeper = Command::new("unshare")
            .args([
                "--net",
                "sh",
                "-c",
                "ip link set lo up && echo ready && exec cat >/dev/null",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("Running unshare")?;
        let mut line = String::new();
        if let Some(stdout) = keeper.stdout.take() {
            BufReader::new(stdout)
                .read_line(&mut line)
                .context("Waiting for the namespace")?;
        }
        let namespace = Namespace { keeper };
        ensure!(
            line == "ready\n",
            "`unshare --net` could not make a network namespace"
        );
        Ok(namespace)
    }

    /// What goes before a command so that it runs in here; the command takes nsenter's place, so
    /// the process that is started is the command itself.
    #[must_use]
    pub fn enter(&self) -> [String; 4] {
        [
            "nsenter".into(),
            format!("--net=/proc/{}/ns/net", self.keeper.id()),
            "--".into(),
            "env".into(),
        ]
    }

    /// `program`, to be run in here.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let enter = self.enter();
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).arg(program).stdin(Stdio::null());
        command
    }

    /// Does `work` in here, on a thread of its own: sockets it makes are this network's.
    ///
    /// # Errors
    /// If the namespace can't be entered; the work's.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let network = File::open(format!("/proc/{}/ns/net", self.keeper.id()))
            .context("Opening the namespace")?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(network, CloneFlags::CLONE_NEWNET).context("Entering the namespace")?;
                work()
            });
            inside
                .join()
                .unwrap_or_else(|_| bail!("What was done in the namespace panicked"))
        })
    }

    /// Runs a command line of plain words in here; it must succeed.
    ///
    /// # Errors
    /// With what it said, if it did not.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let Some(program) = words.next() else {
            bail!("An empty command line")
        };
        let output = self
            .command(program)
            .args(words)
            .output()
            .with_context(|| format!("Running `{line}`"))?;
        ensure!(
            output.status.success(),
            "`{line}` ended with {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The links in here, `lo` apart, as `ip -json` tells them.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn links(&self) -> Result<Vec<Value>> {
        let text = self.run("ip -details -json address show")?;
        let links: Vec<Value> = serde_json::from_str(&text).context("Reading `ip -json`")?;
        Ok(links
            .into_iter()
            .filter(|link| link["ifname"] != "lo")
            .collect())
    }

    /// The names of those links.
    ///
    /// # Errors
    /// As [`Namespace::links`].
    pub fn link_names(&self) -> Result<Vec<String>> {
        Ok(self
            .links()?
            .iter()
            .filter_map(|link| link["ifname"].as_str())
            .map(String::from)
            .collect())
    }

    /// Lays a cable: `here` in this namespace and `there` in `other`, both up.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn cable(&self, here: &str, other: &Namespace, there: &str) -> Result<()> {
        self.run(&format!(
            "ip link add {here} type veth peer name {there} netns {}",
            other.keeper.id()
        ))?;
        self.run(&format!("ip link set {here} up"))?;
        other.run(&format!("ip link set {there} up"))?;
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // It reads end of file now; nothing can be done here if it is gone already.
        let _ = self.keeper.wait();
    }
}
