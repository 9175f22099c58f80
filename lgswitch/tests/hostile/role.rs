//! Processes of this test, and what they share.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;

use lgswitch::frame::Offloads;
use lgswitch::port::Sent;
use lgswitch::{Gather, MacAddr, PortOptions, PortRx, PortTx, Segment, SlotIndex, VnetHeader};

const ROLE: &str = "HOSTILE_ROLE";
const SEGMENT: &str = "HOSTILE_SEGMENT";
const INDEX: &str = "HOSTILE_INDEX";

pub const BROADCAST: MacAddr = MacAddr(0xff, 0xff, 0xff, 0xff, 0xff, 0xff);

/// What this process is to be, if it is not the test itself.
pub fn of_this_process() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// The segment it is told of.
pub fn segment_path() -> PathBuf {
    std::env::var_os(SEGMENT).unwrap().into()
}

/// Which of several it is.
pub fn index() -> usize {
    std::env::var(INDEX).unwrap().parse().unwrap()
}

/// The address of the port at slot `index`.
pub fn mac(index: usize) -> MacAddr {
    let [.., a, b] = index.to_be_bytes();
    MacAddr(2, 0, 0, 0x68, a, b)
}

/// A number the user may set in the environment.
pub fn number(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |v| v.parse().expect("a number"))
}

/// Where a segment belongs, if this machine has it.
pub fn memory_backed() -> PathBuf {
    let shm = Path::new("/dev/shm");
    match shm.is_dir() {
        true => shm.to_owned(),
        false => std::env::temp_dir(),
    }
}

/// Takes slot `index`.
pub fn join(segment: &Arc<Segment>, index: usize) -> (PortTx, PortRx) {
    join_with(segment, index, Offloads::NONE)
}

/// The same, and takes frames that are not finished.
pub fn join_with(segment: &Arc<Segment>, index: usize, offloads: Offloads) -> (PortTx, PortRx) {
    let options = PortOptions {
        mac: Some(mac(index)),
        slot: SlotIndex::new(index),
        offloads,
        ..PortOptions::default()
    };
    segment.port(options).unwrap().split()
}

/// Sends `len` bytes after the addresses; unflushed.
pub fn send(tx: &mut PortTx, to: MacAddr, tag: u8, len: usize) -> Sent {
    let mut bytes = [to.octets(), mac(tx.slot().get()).octets()].concat();
    bytes.extend([0x88, 0xb5]);
    bytes.resize(14 + len, tag);
    tx.send(
        &VnetHeader::default(),
        &Gather::new(&[bytes.as_slice().into()]),
    )
}

/// Says a line to the test.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).unwrap();
}

/// Waits for a line from the test; its end is ours.
pub fn hear() -> String {
    let mut line = String::new();
    if std::io::stdin().lock().read_line(&mut line).unwrap() == 0 {
        std::process::exit(0);
    }
    line.trim_end().to_owned()
}

/// A process with a role. It ends with the test.
pub struct Actor {
    child: Option<Child>,
    says: BufReader<ChildStdout>,
}

impl Actor {
    pub fn start(role: &str, segment: &Path, index: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(ROLE, role)
            .env(SEGMENT, segment)
            .env(INDEX, index.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            says: BufReader::new(child.stdout.take().unwrap()),
            child: Some(child),
        }
    }

    /// Tells it. One that has ended by now shows that in what it says.
    pub fn order(&mut self, what: &str) {
        let child = self.child.as_mut().unwrap();
        let _ = writeln!(child.stdin.as_mut().unwrap(), "{what}");
    }

    /// The next line it says; empty if it ended.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Waits for its end; tells its status and what it said on stderr.
    pub fn end(mut self) -> Output {
        self.child.take().unwrap().wait_with_output().unwrap()
    }

    /// Ends it.
    pub fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a process said on stderr.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
