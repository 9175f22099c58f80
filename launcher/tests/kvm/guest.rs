//! A guest: its kernel in ELF, the launcher that runs it, and how that ends.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::PATIENCE;
use super::code::Code;

/// Where the code goes.
const CODE: u64 = 0x10_1000;

/// Where the segment below it goes.
const BELOW: u64 = 0x10_0000;

/// A guest to run.
pub struct Guest {
    code: Code,
    options: Vec<String>,
    arguments: Vec<String>,
    typed: String,
    /// What stands in a segment below the code.
    pub below: Vec<u8>,
    /// Whether the kernel has a PVH note, and starts by it.
    pub pvh: bool,
}

/// How a guest ended.
#[derive(Debug)]
pub struct Ended {
    pub status: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    /// Asserts status and output.
    pub fn is(&self, status: i32, stdout: &str) {
        let text = String::from_utf8_lossy(&self.stdout);
        assert_eq!(
            (self.status, &*text),
            (Some(status), stdout),
            "{}",
            self.stderr
        );
    }
}

impl Guest {
    pub fn of(code: Code) -> Self {
        Self {
            code,
            options: Vec::new(),
            arguments: Vec::new(),
            typed: String::new(),
            below: Vec::new(),
            pvh: false,
        }
    }

    /// With these options of the launcher's.
    pub fn with(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(ToString::to_string));
        self
    }

    /// With these arguments of the kernel's.
    pub fn with_arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// With this typed at once.
    pub fn type_in(mut self, text: &str) -> Self {
        self.typed = text.into();
        self
    }

    /// Runs it to its end.
    pub fn run(&self) -> Ended {
        self.start().end()
    }

    /// Runs it until it has printed this, then does something to it, and awaits its end.
    pub fn run_until(&self, text: &str, then: impl Fn(&Running)) -> Ended {
        let mut running = self.start();
        running.hear(text.as_bytes());
        then(&running);
        running.end()
    }

    fn start(&self) -> Running {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel");
        std::fs::write(&kernel, self.elf()).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_launcher"))
            .arg("--engine=kvm")
            .args(&self.options)
            .arg("16")
            .arg(&kernel)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(self.typed.as_bytes()).unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Running {
            child,
            stdout: reader(stdout),
            stderr: reader(stderr),
            heard: Vec::new(),
            deadline: Instant::now() + PATIENCE,
            _folder: folder,
        }
    }

    /// The kernel's file: a header, program headers, and one page for each part.
    fn elf(&self) -> Vec<u8> {
        const PAGE: u64 = 4096;
        let (load, note) = (1u32, 4u32);
        // type, offset in the file, address, bytes
        let mut parts = vec![(load, PAGE, CODE, self.code.bytes().to_vec())];
        if !self.below.is_empty() {
            parts.insert(0, (load, 2 * PAGE, BELOW, self.below.clone()));
        }
        if self.pvh {
            let words = [4u32, 4, 18, u32::from_le_bytes(*b"Xen\0"), CODE as u32];
            let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            parts.push((note, 3 * PAGE, 0, bytes));
        }

        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut put = |field: &[u8]| file.extend_from_slice(field);
        put(&2u16.to_le_bytes()); // ET_EXEC
        put(&62u16.to_le_bytes()); // EM_X86_64
        put(&1u32.to_le_bytes());
        // With a note, what else the header says of the entry is not to matter.
        let entry = if self.pvh { BELOW } else { CODE };
        for word in [entry, 64, 0] {
            put(&word.to_le_bytes()); // entry, phoff, shoff
        }
        put(&0u32.to_le_bytes());
        for half in [64, 56, parts.len() as u16, 0, 0, 0] {
            put(&half.to_le_bytes()); // ehsize, phentsize, phnum, …
        }
        for (kind, offset, address, bytes) in &parts {
            put(&kind.to_le_bytes());
            put(&7u32.to_le_bytes());
            let len = bytes.len() as u64;
            for word in [*offset, *address, *address, len, len, 4] {
                put(&word.to_le_bytes());
            }
        }
        file.resize(4 * PAGE as usize, 0);
        for (_, offset, _, bytes) in &parts {
            file[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        file
    }
}

/// A guest that runs. It never outlives its test.
pub struct Running {
    child: Child,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    heard: Vec<u8>,
    deadline: Instant,
    _folder: tempfile::TempDir,
}

impl Running {
    pub fn terminate(&self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
    }

    fn hear(&mut self, text: &[u8]) {
        while !self.heard.starts_with(text) {
            let piece = receive(&self.stdout, self.deadline);
            let piece = piece.unwrap_or_else(|| panic!("it ended: {:?}", self.heard));
            self.heard.extend(piece);
        }
    }

    fn end(mut self) -> Ended {
        while let Some(piece) = receive(&self.stdout, self.deadline) {
            self.heard.extend(piece);
        }
        let mut stderr = Vec::new();
        while let Some(piece) = receive(&self.stderr, self.deadline) {
            stderr.extend(piece);
        }
        Ended {
            // Both of its outputs are closed: it has ended, or is about to.
            status: self.child.wait().unwrap().code(),
            stdout: std::mem::take(&mut self.heard),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The next piece, or none at the end.
fn receive(from: &Receiver<Vec<u8>>, deadline: Instant) -> Option<Vec<u8>> {
    match from.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(piece) => Some(piece),
        Err(RecvTimeoutError::Disconnected) => None,
        Err(RecvTimeoutError::Timeout) => panic!("the guest neither speaks nor ends"),
    }
}

fn reader(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}
