//! Claims about the examples: that they show what they promise, and leave nothing behind,
//! however they end.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::machine::{binary, repository};
use system_tests::process::{self, Process};
use system_tests::wait::{PATIENCE, until};
use system_tests::{Lab, Namespace, Need, claim};

fn main() {
    const NEEDS: &[Need] = &[
        Need::Guests,
        Need::Root,
        Need::Tool("unshare"),
        Need::Tool("setpriv"),
    ];
    system_tests::main(vec![
        claim(
            "two_guests_reach_each_other_and_the_lan_and_leave_nothing",
            NEEDS,
            two_guests_reach_all,
        ),
        claim(
            "interrupted_two_guests_leave_nothing",
            NEEDS,
            interrupted_two_guests,
        ),
        claim(
            "terminated_two_guests_leave_nothing",
            NEEDS,
            terminated_two_guests,
        ),
        claim(
            "killed_two_guests_leave_no_process_and_no_network",
            NEEDS,
            killed_two_guests,
        ),
        claim(
            "two_guests_without_a_kernel_fail_and_leave_nothing",
            NEEDS,
            two_guests_without_a_kernel,
        ),
    ])
}

/// `examples/two-guests.sh` as it runs, on a "host" of its own.
struct Example {
    lab: Lab,
    host: Namespace,
    script: Child,
    output: BufReader<ChildStdout>,
}

impl Example {
    fn start(settings: &[(&str, &Path)]) -> Result<Example> {
        let (lab, host) = (Lab::new()?, Namespace::new()?);
        let launcher = binary("launcher")?;
        let mut script = host
            .command(repository().join("examples/two-guests.sh"))
            .env("TMPDIR", lab.path("tmp"))
            .env(
                "BIN",
                launcher.parent().context("The launcher is in no folder")?,
            )
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("Running two-guests.sh")?;
        let output = BufReader::new(script.stdout.take().context("No stdout")?);
        Ok(Example {
            lab,
            host,
            script,
            output,
        })
    }

    /// Reads on until a line with `text` in it; what was read.
    fn reads(&mut self, text: &str) -> Result<String> {
        let mut read = String::new();
        while !read.contains(text) {
            ensure!(
                self.output.read_line(&mut read)? > 0,
                "It ended before it said `{text}`:\n{read}"
            );
        }
        Ok(read)
    }

    /// The script and all it started.
    fn processes(&self) -> Result<Vec<Process>> {
        let script = Process::find(self.script.id()).context("The script is gone")?;
        let mut all = script.descendants()?;
        all.push(script);
        Ok(all)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.script.id())?), signal)
            .context("Sending a signal to the script")
    }

    fn ends(&mut self) -> Result<ExitStatus> {
        let script = &mut self.script;
        until("the script to end", 4 * PATIENCE, || Ok(script.try_wait()?))
    }

    /// No process, no link on the host, no file.
    fn left_nothing(&self, processes: &[Process]) -> Result<()> {
        process::gone(processes)?;
        ensure!(
            self.host.link_names()?.is_empty(),
            "Links are left: {:?}",
            self.host.links()?
        );
        let left: Vec<_> = fs::read_dir(self.lab.path("tmp"))?.collect();
        ensure!(left.is_empty(), "Files are left: {left:?}");
        Ok(())
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // It may have ended, which is what is wanted.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

fn two_guests_reach_all() -> Result<()> {
    let mut example = Example::start(&[])?;
    let mut text = example.reads("Two guests:")?;
    example.output.read_to_string(&mut text)?;
    let status = example.ends()?;
    ensure!(status.success(), "It ended with {status}:\n{text}");
    let answered = text.matches(" 0% packet loss").count();
    ensure!(
        answered == 8,
        "{answered} of 8 pings were answered:\n{text}"
    );
    ensure!(
        text.contains("lan0: 2 of "),
        "It does not show who is on the segment:\n{text}"
    );
    example.left_nothing(&[])
}

/// Sends the signal while the guests ping each other.
fn ended_by(signal: Signal) -> Result<(Example, Vec<Process>, ExitStatus)> {
    let mut example = Example::start(&[])?;
    example.reads("Everyone pings")?;
    let processes = example.processes()?;
    let guests = processes
        .iter()
        .filter(|process| process.name == "launcher")
        .count();
    ensure!(guests == 2, "Two launchers should run: {processes:?}");
    example.signal(signal)?;
    let status = example.ends()?;
    Ok((example, processes, status))
}

fn interrupted_two_guests() -> Result<()> {
    let (example, processes, status) = ended_by(Signal::SIGINT)?;
    ensure!(status.code() == Some(128 + 2), "It ended with {status}");
    example.left_nothing(&processes)
}

fn terminated_two_guests() -> Result<()> {
    let (example, processes, status) = ended_by(Signal::SIGTERM)?;
    ensure!(status.code() == Some(128 + 15), "It ended with {status}");
    example.left_nothing(&processes)
}

fn killed_two_guests() -> Result<()> {
    let (example, processes, _) = ended_by(Signal::SIGKILL)?;
    process::gone(&processes)?;
    ensure!(
        example.host.link_names()?.is_empty(),
        "Links are left: {:?}",
        example.host.links()?
    );
    Ok(())
}

fn two_guests_without_a_kernel() -> Result<()> {
    let letter = Lab::new()?;
    fs::write(letter.path("letter"), "Dear reader,\n")?;
    let mut example = Example::start(&[("KERNEL", &letter.path("letter"))])?;
    let status = example.ends()?;
    ensure!(status.code() == Some(1), "It ended with {status}");
    let mut errors = String::new();
    example
        .script
        .stderr
        .take()
        .context("No stderr")?
        .read_to_string(&mut errors)?;
    ensure!(errors.contains("letter"), "It does not say why: {errors}");
    example.left_nothing(&[])
}
