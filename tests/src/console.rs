//! A guest's serial console as a programming interface: type a command, get what it printed and
//! its exit status.
//!
//! The other end is an interactive shell on a terminal. A terminal echoes what is typed, and so
//! would make every command look like its own output; [`Console::settle`] turns that off. The
//! end of a command's output is marked by a line whose text the shell *computes*, so that it can
//! not be mistaken for an echo either.

use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// What a command in the guest printed (stdout and stderr, as a terminal shows them) and how it
/// ended.
#[derive(Debug)]
pub struct Answer {
    /// The exit status.
    pub status: i32,
    /// The output, without carriage returns.
    pub text: String,
}

/// Everything the guest ever printed, filled by a thread of its own.
#[derive(Default)]
struct Transcript {
    bytes: Mutex<(Vec<u8>, bool)>,
    grown: Condvar,
}

impl Transcript {
    fn lock(&self) -> MutexGuard<'_, (Vec<u8>, bool)> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(&self, mut from: impl Read) {
        let mut buffer = [0; 4096];
        // A pseudo-terminal whose other side is gone reports EIO, which is its end of file.
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            self.lock().0.extend_from_slice(&buffer[..length]);
            self.grown.notify_all();
        }
        self.lock().1 = true;
        self.grown.notify_all();
    }
}

/// The host's end of a guest's serial console.
pub struct Console {
    input: Option<Box<dyn Write + Send>>,
    transcript: Arc<Transcript>,
    /// How much of the transcript has been answered for.
    seen: usize,
    commands: u32,
}

impl Console {
    /// A console that is typed to through `input` and read from `output`, both until they end.
    pub fn new(input: impl Write + Send + 'static, output: impl Read + Send + 'static) -> Self {
        let transcript = Arc::new(Transcript::default());
        let filled = Arc::clone(&transcript);
        std::thread::spawn(move || filled.collect(output));
        Console {
            input: Some(Box::new(input)),
            transcript,
            seen: 0,
            commands: 0,
        }
    }

    /// Everything printed so far, without carriage returns.
    #[must_use]
    pub fn transcript(&self) -> String {
        String::from_utf8_lossy(&self.transcript.lock().0).replace('\r', "")
    }

    /// Types `bytes`, as a person would.
    ///
    /// # Errors
    /// If the console is closed.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let input = self
            .input
            .as_mut()
            .context("The console's input was closed")?;
        input
            .write_all(bytes)
            .and_then(|()| input.flush())
            .context("Typing on the guest's console")
    }

    /// Ends the input for good: the other side reads end of file.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits for the first shell prompt of the guest called `host`, then makes the console fit
    /// for [`Console::run`].
    ///
    /// # Errors
    /// With the transcript, if the guest does not get there in time.
    pub fn settle(&mut self, host: &str, patience: Duration) -> Result<()> {
        self.expect(&format!("{host}:/root# "), patience)?;
        self.send(b"stty -echo; PS1= PS2=\n")?;
        let answer = self.run("true", patience)?;
        ensure!(
            answer.status == 0,
            "The guest's shell says {answer:?} to `true`"
        );
        Ok(())
    }

    /// Waits until the guest prints `text`, and returns what it printed before, since what was
    /// last waited for.
    ///
    /// # Errors
    /// With the transcript, when time is up or the console ends.
    pub fn expect(&mut self, text: &str, patience: Duration) -> Result<String> {
        let deadline = Instant::now() + patience;
        let mut transcript = self.transcript.lock();
        loop {
            let new = &transcript.0[self.seen..];
            if let Some(at) = new
                .windows(text.len())
                .position(|window| window == text.as_bytes())
            {
                let before = String::from_utf8_lossy(&new[..at]).replace('\r', "");
                self.seen += at + text.len();
                return Ok(before);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if transcript.1 || left.is_zero() {
                let how = if transcript.1 { "ended" } else { "was silent" };
                let shown = String::from_utf8_lossy(&transcript.0).replace('\r', "");
                bail!("The console {how} while waiting for `{text}`; it said:\n{shown}");
            }
            transcript = self
                .transcript
                .grown
                .wait_timeout(transcript, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Runs a command (of one line, under 4000 bytes: the guest's terminal takes no longer ones)
    /// with nothing on its stdin.
    ///
    /// # Errors
    /// With the transcript, if it does not end in time.
    pub fn run(&mut self, command: &str, patience: Duration) -> Result<Answer> {
        ensure!(
            command.len() < 4000 && !command.contains('\n'),
            "Not one short line: {command}"
        );
        self.start(command)?;
        self.finish(command, patience)
    }

    /// The first half of [`Console::run`]: types the command and does not wait for it.
    ///
    /// # Errors
    /// If the console is closed.
    pub fn start(&mut self, command: &str) -> Result<()> {
        self.commands += 1;
        let before = self.commands - 1;
        self.send(
            format!("{{ {command}\n}} </dev/null 2>&1; echo \"=[$(({before}+1)) $?]=\"\n")
                .as_bytes(),
        )
    }

    /// The second half: waits for the command typed last.
    ///
    /// # Errors
    /// With the transcript, if it does not end in time.
    pub fn finish(&mut self, command: &str, patience: Duration) -> Result<Answer> {
        let context = || format!("Running `{command}` in the guest");
        let text = self
            .expect(&format!("=[{} ", self.commands), patience)
            .with_context(context)?;
        let status = self.expect("]=", patience).with_context(context)?;
        self.expect("\n", patience)?;
        let status = status
            .parse()
            .with_context(|| format!("The guest's shell gave `{status}` as exit status"))?;
        Ok(Answer { status, text })
    }
}
