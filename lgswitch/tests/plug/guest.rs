//! A VMM and its guest, as far as a card goes, that says and writes whatever a test wants.
//!
//! Its memory is a file that is read and written by system calls: nothing here needs a mapping.

use std::cell::Cell;
use std::fs::File;
use std::io::{IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// Requests by their numbers in the protocol.
pub mod request {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_LOG_BASE: u32 = 6;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const SET_VRING_ENABLE: u32 = 18;
}

/// The first pair of queues.
pub const RX: u32 = 0;
pub const TX: u32 = 1;
/// Bytes of the guest's memory.
pub const MEMORY: u64 = 0x2_0000;
/// Where it is in the VMM.
const VMM: u64 = 0x7000_0000;
const ENTRIES: u64 = 64;
/// The bits VIRTIO_F_VERSION_1 and VHOST_USER_F_PROTOCOL_FEATURES.
const FEATURES: u64 = 1 << 32 | 1 << 30;
/// The bit VIRTIO_F_EVENT_IDX.
const EVENT_INDEX: u64 = 1 << 29;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks again and again, until there is an answer.
pub fn soon<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub struct Guest {
    pub socket: UnixStream,
    memory: File,
}

/// One of its queues, set up: 0x4000 bytes of its memory for each.
pub struct Queue {
    base: u64,
    kick: EventFd,
    call: EventFd,
    available: Cell<u16>,
}

impl Guest {
    pub fn connect(path: &Path) -> Self {
        let socket = soon("the plug listens", || UnixStream::connect(path).ok());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let memory = File::from(memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap());
        memory.set_len(MEMORY).unwrap();
        Self { socket, memory }
    }

    pub fn memory_file(&self) -> File {
        self.memory.try_clone().unwrap()
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, at).unwrap();
    }

    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    fn word(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.read(at, 2).try_into().unwrap())
    }

    /// Sends a message. If nobody listens any more, that is for the test to find out.
    pub fn say(&self, request: u32, body: &[u8], files: &[BorrowedFd<'_>]) {
        let header = [request, 1, body.len() as u32].map(u32::to_le_bytes);
        let parts = [IoSlice::new(header.as_flattened()), IoSlice::new(body)];
        let files: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&files)];
        let control = if files.is_empty() { &[][..] } else { &rights };
        let flags = MsgFlags::MSG_NOSIGNAL;
        let _ = sendmsg::<()>(self.socket.as_raw_fd(), &parts, control, flags, None);
    }

    pub fn say_numbers(&self, request: u32, numbers: &[u64], files: &[BorrowedFd<'_>]) {
        let body: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.say(request, &body, files);
    }

    /// The number a message is answered with.
    pub fn ask(&self, request: u32) -> u64 {
        self.say(request, &[], &[]);
        let mut answer = [0; 20];
        (&self.socket).read_exact(&mut answer).unwrap();
        u64::from_le_bytes(std::array::from_fn(|i| answer[12 + i]))
    }

    /// Says everything a VMM says before its guest uses a queue.
    pub fn set_up(&self, index: u32) -> Queue {
        self.set_up_with(FEATURES, index)
    }

    /// As [`set_up`](Self::set_up), with event indices.
    pub fn set_up_with_events(&self, index: u32) -> Queue {
        self.set_up_with(FEATURES | EVENT_INDEX, index)
    }

    fn set_up_with(&self, features: u64, index: u32) -> Queue {
        self.say(request::SET_OWNER, &[], &[]);
        self.say_numbers(request::SET_FEATURES, &[features], &[]);
        self.say_numbers(request::SET_PROTOCOL_FEATURES, &[0], &[]);
        let region = [1, 0, MEMORY, VMM, 0];
        self.say_numbers(request::SET_MEM_TABLE, &region, &[self.memory.as_fd()]);
        let queue = Queue {
            base: u64::from(index) * 0x4000,
            kick: EventFd::new().unwrap(),
            call: EventFd::new().unwrap(),
            available: Cell::new(0),
        };
        let index = u64::from(index);
        let state = |n: u64| index | n << 32;
        self.say_numbers(request::SET_VRING_NUM, &[state(ENTRIES)], &[]);
        self.say_numbers(request::SET_VRING_BASE, &[state(0)], &[]);
        let [table, used, available] =
            [queue.table(), queue.used(), queue.available()].map(|at| VMM + at);
        let addresses = [index, table, used, available, 0];
        self.say_numbers(request::SET_VRING_ADDR, &addresses, &[]);
        self.say_numbers(request::SET_VRING_CALL, &[index], &[queue.call.as_fd()]);
        self.say_numbers(request::SET_VRING_KICK, &[index], &[queue.kick.as_fd()]);
        self.say_numbers(request::SET_VRING_ENABLE, &[state(1)], &[]);
        // Once this is answered, all that was heard.
        self.ask(request::GET_FEATURES);
        queue
    }

    /// Until the plug has hung up.
    pub fn wait_for_the_end(&self) {
        loop {
            match (&self.socket).read(&mut [0; 64]) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
                Err(error) => panic!("the plug does not hang up: {error}"),
            }
        }
    }
}

impl Queue {
    /// Where its table of descriptors is.
    pub fn table(&self) -> u64 {
        self.base
    }

    fn available(&self) -> u64 {
        self.base + 0x1000
    }

    fn used(&self) -> u64 {
        self.base + 0x2000
    }

    pub fn descriptor(
        &self,
        guest: &Guest,
        index: u64,
        address: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) {
        let mut raw = address.to_le_bytes().to_vec();
        raw.extend(len.to_le_bytes());
        raw.extend(flags.to_le_bytes());
        raw.extend(next.to_le_bytes());
        guest.write(self.table() + index * 16, &raw);
    }

    /// Makes chains available that start at these descriptors.
    pub fn make_available(&self, guest: &Guest, heads: &[u16]) {
        for head in heads {
            let place = u64::from(self.available.get()) % ENTRIES;
            guest.write(self.available() + 4 + place * 2, &head.to_le_bytes());
            self.available.set(self.available.get().wrapping_add(1));
        }
        self.set_available_index(guest, self.available.get());
    }

    pub fn set_available_index(&self, guest: &Guest, index: u16) {
        guest.write(self.available() + 2, &index.to_le_bytes());
    }

    /// Kicks, whether or not it is asked to.
    pub fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// Kicks if it is asked to.
    pub fn kick_if_wanted(&self, guest: &Guest) {
        if guest.word(self.used()) & 1 == 0 {
            self.kick();
        }
    }

    /// With event indices: kicks, having made one more chain available, if that is the one it was asked
    /// to kick for (Virtual I/O Device 1.2, 2.7.10). Nothing is ordered after what was written but by the
    /// system calls in between.
    pub fn kick_if_it_is_the_one(&self, guest: &Guest) {
        let event = guest.word(self.used() + 4 + ENTRIES * 8);
        if event.wrapping_add(1) == self.available.get() {
            self.kick();
        }
    }

    /// Chains that came back so far.
    pub fn came_back(&self, guest: &Guest) -> u16 {
        guest.word(self.used() + 2)
    }

    /// Sleeps until the guest is interrupted for it.
    pub fn wait_for_call(&self) {
        // The plug has made it one that makes nobody wait.
        let mut call = [PollFd::new(self.call.as_fd(), PollFlags::POLLIN)];
        poll(&mut call, PollTimeout::from(10_000u16)).unwrap();
        self.call.read().unwrap();
    }

    /// Until so many chains came back.
    pub fn wait_for_used(&self, guest: &Guest, count: u16) {
        soon("chains come back", || {
            (self.came_back(guest) >= count).then_some(())
        });
    }
}
