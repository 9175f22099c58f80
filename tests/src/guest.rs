//! A guest: started by the launcher as its user would, driven over its serial console.

use std::ffi::OsString;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pnet_base::MacAddr;

use crate::console::{Answer, Console};
use crate::lab::Lab;
use crate::machine;
use crate::namespace::Namespace;
use crate::process::{self, Process};
use crate::wait::{self, PATIENCE};

/// How long a guest may take from the launcher's start to its shell's prompt. Emulated, on a
/// machine that emulates two more at the same time, it takes several seconds.
const BOOT: Duration = Duration::from_secs(90);

/// What a guest boots.
#[derive(Clone, Copy, Debug)]
enum System {
    /// A stock kernel with a shell on its console, on whichever engine the launcher takes.
    Linux,
    /// The guest of `examples/guest`, on the engine `lguest`.
    Tiny,
}

/// What a guest is to be, before it is started.
pub struct GuestBuilder<'a> {
    lab: &'a Lab,
    name: String,
    system: System,
    enter: Vec<String>,
    options: Vec<OsString>,
    kernel_arguments: Vec<String>,
}

impl<'a> GuestBuilder<'a> {
    pub(crate) fn new(lab: &'a Lab, name: &str) -> Self {
        GuestBuilder {
            lab,
            name: name.into(),
            system: System::Linux,
            enter: Vec::new(),
            options: Vec::new(),
            kernel_arguments: vec!["quiet".into(), format!("host={name}")],
        }
    }

    pub(crate) fn tiny(lab: &'a Lab, name: &str) -> Self {
        GuestBuilder {
            system: System::Tiny,
            kernel_arguments: Vec::new(),
            ..GuestBuilder::new(lab, name)
        }
    }

    /// A launcher option, such as `--sharenet=lan0`. Their order is the devices' order.
    #[must_use]
    pub fn option(mut self, option: impl Into<OsString>) -> Self {
        self.options.push(option.into());
        self
    }

    /// A kernel argument; the guest's /init takes `ethN=ADDRESS/LEN,...` and others, see
    /// `examples/guest-init`. A tiny guest takes the jobs of `examples/guest/jobs.c`.
    #[must_use]
    pub fn kernel_argument(mut self, argument: &str) -> Self {
        self.kernel_arguments.push(argument.into());
        self
    }

    /// The launcher is to run in this network namespace.
    #[must_use]
    pub fn inside(mut self, namespace: &Namespace) -> Self {
        self.enter = namespace.enter().into();
        self
    }

    /// The launcher is to be run by these words, as by `env` and what that sets.
    #[must_use]
    pub fn by(mut self, words: &[&str]) -> Self {
        self.enter.extend(words.iter().map(ToString::to_string));
        self
    }

    /// The launcher's command line, whole.
    ///
    /// # Errors
    /// If the launcher or the guests' image is missing, or a tiny guest can't be built.
    pub fn command(&self) -> Result<Command> {
        self.command_after(&[])
    }

    /// The same, run by the words of `before`.
    ///
    /// # Errors
    /// As [`GuestBuilder::command`].
    pub fn command_after(&self, before: &[&str]) -> Result<Command> {
        let mut words: Vec<OsString> = self.enter.iter().map(OsString::from).collect();
        words.extend(before.iter().map(OsString::from));
        words.push(machine::binary("launcher")?.into());
        words.extend(self.options.iter().cloned());
        match self.system {
            System::Linux => {
                let image = machine::image()?;
                let mut initrd = OsString::from("--initrd=");
                initrd.push(&image.initrd);
                words.extend([initrd, "256".into(), image.kernel.into()]);
            }
            System::Tiny => {
                let kernel = machine::tiny_guest(self.lab)?;
                words.extend(["--engine=lguest".into(), "4".into(), kernel.into()]);
            }
        }
        words.extend(self.kernel_arguments.iter().map(OsString::from));
        let mut command = self.lab.command(&words[0]);
        command.args(&words[1..]);
        Ok(command)
    }

    /// Starts the guest, on pipes, and does not wait for it to boot: several can boot at once.
    ///
    /// # Errors
    /// If the launcher cannot be run.
    pub fn start(&self) -> Result<Guest> {
        let mut command = self.command()?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("Running the launcher")?;
        let (Some(input), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            anyhow::bail!("The launcher has no pipes");
        };
        Ok(Guest::new(
            &self.name,
            child,
            Console::new(input, output),
            errors,
        ))
    }

    /// Starts the guest and waits for its shell.
    ///
    /// # Errors
    /// With the console's transcript and the launcher's messages, if it does not boot.
    pub fn boot(&self) -> Result<Guest> {
        let mut guest = self.start()?;
        guest.booted()?;
        Ok(guest)
    }
}

/// A running guest and its launcher. Dropping it kills both.
pub struct Guest {
    name: String,
    child: Child,
    /// The serial console.
    pub console: Console,
    errors: Arc<Mutex<Vec<u8>>>,
}

impl Guest {
    /// Takes over a launcher that was started otherwise than by [`GuestBuilder::start`], say on a
    /// pseudo-terminal.
    pub fn new(
        name: &str,
        child: Child,
        console: Console,
        mut errors: impl Read + Send + 'static,
    ) -> Self {
        let collected = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&collected);
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(length @ 1..) = errors.read(&mut buffer) {
                into.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(&buffer[..length]);
            }
        });
        Guest {
            name: name.into(),
            child,
            console,
            errors: collected,
        }
    }

    /// What the launcher said on stderr so far.
    #[must_use]
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.errors.lock().unwrap_or_else(PoisonError::into_inner))
            .into_owned()
    }

    fn told<T>(&self, result: Result<T>) -> Result<T> {
        result.with_context(|| format!("Guest {}; its launcher said: {}", self.name, self.errors()))
    }

    /// Waits until the guest prints `text`, and gives what it printed from there to the end of
    /// that line. For guests that have no shell to ask.
    ///
    /// # Errors
    /// With the console's transcript, if it does not.
    pub fn prints(&mut self, text: &str) -> Result<String> {
        let said = self.console.expect(text, BOOT);
        let said = said.and_then(|_| self.console.expect("\n", PATIENCE));
        self.told(said)
    }

    /// Waits for the guest's shell.
    ///
    /// # Errors
    /// With the console's transcript, if it does not come.
    pub fn booted(&mut self) -> Result<()> {
        let settled = self.console.settle(&self.name, BOOT);
        self.told(settled)
    }

    /// Runs a command in the guest, whatever its exit status.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn run(&mut self, command: &str) -> Result<Answer> {
        let answer = self.console.run(command, 2 * PATIENCE);
        self.told(answer)
    }

    /// Runs a command in the guest that must succeed; what it printed.
    ///
    /// # Errors
    /// With what it printed, if it does not succeed.
    pub fn succeeds(&mut self, command: &str) -> Result<String> {
        let answer = self.run(command)?;
        ensure!(
            answer.status == 0,
            "`{command}` in guest {} ended with {} and said:\n{}",
            self.name,
            answer.status,
            answer.text
        );
        Ok(answer.text)
    }

    /// Runs a command in the guest that must fail; what it printed.
    ///
    /// # Errors
    /// With what it printed, if it succeeds.
    pub fn fails(&mut self, command: &str) -> Result<String> {
        let answer = self.run(command)?;
        ensure!(
            answer.status != 0,
            "`{command}` in guest {} should fail, and said:\n{}",
            self.name,
            answer.text
        );
        Ok(answer.text)
    }

    /// Whether `address` answers three pings.
    ///
    /// # Errors
    /// With what ping said, if it does not.
    pub fn pings(&mut self, address: &str) -> Result<()> {
        self.succeeds(&format!("/usr/bin/ping -n -c 3 -i 0.2 -W 5 {address}"))
            .map(drop)
    }

    /// The MAC address of one of the guest's links.
    ///
    /// # Errors
    /// If there is no such link.
    pub fn mac(&mut self, link: &str) -> Result<MacAddr> {
        let text = self.succeeds(&format!("cat /sys/class/net/{link}/address"))?;
        text.trim()
            .parse()
            .map_err(|error| anyhow!("`{text}` is no MAC address: {error:?}"))
    }

    /// Makes a file of `length` bytes that nobody can guess, in the guest; returns its digest as
    /// `sha256sum` prints it for its standard input.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn makes_a_file(&mut self, path: &str, length: usize) -> Result<String> {
        self.succeeds(&format!(
            "head -c {length} /dev/urandom >{path} && sha256sum <{path}"
        ))
    }

    /// Whoever connects to this TCP port and sends something gets the digest of it back.
    ///
    /// # Errors
    /// If the guest does not listen there in the end.
    pub fn serves_a_digest(&mut self, port: u16) -> Result<()> {
        self.serves(port, "sha256sum")
    }

    /// Whoever connects to this TCP port gets this file.
    ///
    /// # Errors
    /// If the guest does not listen there in the end.
    pub fn serves_a_file(&mut self, port: u16, path: &str) -> Result<()> {
        self.serves(port, &format!("cat {path}"))
    }

    fn serves(&mut self, port: u16, program: &str) -> Result<()> {
        // `-ll`: again and again. Listening once, it would be gone with the first connection.
        self.succeeds(&format!("nc -ll -p {port} -e {program} >/dev/null 2>&1 & "))?;
        self.succeeds(&format!(
            "for try in $(seq 50); do netstat -ltn | grep -q ':{port} ' && break; sleep 0.1; done"
        ))?;
        Ok(())
    }

    /// The launcher's process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The launcher and all it started.
    ///
    /// # Errors
    /// If the launcher is gone.
    pub fn processes(&self) -> Result<Vec<Process>> {
        let launcher = Process::find(self.pid()).context("The launcher is gone")?;
        let mut all = launcher.descendants()?;
        all.push(launcher);
        Ok(all)
    }

    /// Waits for the launcher to end by itself.
    ///
    /// # Errors
    /// With the transcript, if it does not end in time.
    pub fn ends(&mut self) -> Result<ExitStatus> {
        let child = &mut self.child;
        let ended = wait::until("the launcher to end", PATIENCE, || Ok(child.try_wait()?));
        self.told(ended)
            .with_context(|| format!("The console said:\n{}", self.console.transcript()))
    }

    /// Powers the guest off and waits for the launcher.
    ///
    /// # Errors
    /// If the launcher does not end.
    pub fn power_off(&mut self) -> Result<ExitStatus> {
        self.console.send(b"poweroff -f\n")?;
        self.ends()
    }

    /// Powers the guest off, and sees that the launcher ends with 0 and without a word, and leaves no
    /// process.
    ///
    /// # Errors
    /// With what is otherwise.
    pub fn powers_off(&mut self) -> Result<()> {
        let processes = self.processes()?;
        let status = self.power_off()?;
        let errors = self.errors();
        ensure!(
            status.code() == Some(0) && errors.is_empty(),
            "The launcher ended with {status} and said: {errors}"
        );
        process::gone(&processes)
    }

    /// Sends a signal to the launcher.
    ///
    /// # Errors
    /// If it is gone already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).context("The launcher's process number")?;
        kill(Pid::from_raw(pid), signal)
            .with_context(|| format!("Sending {signal} to the launcher"))
    }

    /// `kill -9` of the launcher, and of nothing else.
    ///
    /// # Errors
    /// If it is gone already.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("Killing the launcher")?;
        self.child
            .wait()
            .context("Waiting for the killed launcher")?;
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // A launcher that fails its claim to take everything along must not leave an emulator
        // spinning on the machine of whoever ran the tests.
        let all = self.processes().unwrap_or_default();
        let _ = self.kill();
        for process in all {
            process.kill();
        }
    }
}
