//! The console device (Virtual I/O Device 1.2, 5.3): hvc0 in the guest, beside the serial port.
//!
//! Both print to the one stream that is the guest's console. What is typed can go to one only: it goes
//! to the serial port, where a kernel that was told nothing looks for it, until the guest prints on hvc0.
//! From then on somebody is there who talks and will want to listen, and it goes to hvc0, until the
//! device is reset. The [`Handover`] is how the serial port gets to know.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, recv, send};
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::chain::{Broken, Buffers};
use super::description::{Config, Description};
use super::device::{Device, borrow};
use super::vring::{Outcome, Vring};
use super::worker::{self, Source, Work};

/// The feature "the size of the terminal is known" (5.3.3), which the bindings do not name.
const F_SIZE: u32 = 0;
/// Bytes of `columns` and `rows`, the configuration's first two fields.
const CONFIG: usize = 4;
/// Bytes moved at a time, and before others get their turn.
const PIECE: usize = 4096;
const BURST: usize = 1 << 20;
/// The queues of the only port (5.3.2).
const INPUT: usize = 0;
const OUTPUT: usize = 1;

/// The stream is the serial port's, too, whose waiting is its own affair.
const DONT_WAIT: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);

/// Who gets what is typed.
#[derive(Debug)]
pub struct Handover {
    to_hvc: AtomicBool,
    bell: EventFd,
}

impl Handover {
    /// To the serial port, as it begins.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            to_hvc: AtomicBool::new(false),
            bell: EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        })
    }

    /// Whether hvc0 gets it. Whoever serves the serial port then leaves the stream alone.
    pub fn is_hvc(&self) -> bool {
        self.to_hvc.load(Ordering::SeqCst)
    }

    fn set(&self, to_hvc: bool) {
        if self.to_hvc.swap(to_hvc, Ordering::SeqCst) != to_hvc {
            let _ = self.bell.write(1);
        }
    }

    /// It was heard that it is another by now.
    pub fn heard(&self) {
        let _ = self.bell.read();
    }
}

/// Can be read when it is another by now, until that was [`heard`](Handover::heard).
impl AsFd for Handover {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.bell)
    }
}

struct Console {
    stream: UnixStream,
    handover: Arc<Handover>,
    /// The guest has room for what is typed.
    hungry: bool,
    /// All was read that will ever be typed.
    at_end: bool,
    /// The stream took no more, after so many bytes of the request at hand.
    printed: Option<usize>,
}

/// Makes the device, at the guest's end of its console.
///
/// # Errors
/// No descriptor or no thread is left.
pub fn device(stream: UnixStream, handover: Arc<Handover>) -> io::Result<Device> {
    let description = Description {
        id: VIRTIO_ID_CONSOLE,
        features: 1 << F_SIZE,
        queues: vec![64; 2],
        config: Config::new(vec![0; CONFIG], 0..0),
    };
    let console = Console {
        stream,
        handover,
        hungry: false,
        at_end: false,
        printed: None,
    };
    worker::device("console", description, console)
}

/// The configuration that says how large the terminal is, in characters.
pub fn size(columns: u16, rows: u16) -> [u8; CONFIG] {
    let [[a, b], [c, d]] = [columns, rows].map(u16::to_le_bytes);
    [a, b, c, d]
}

impl Console {
    /// Prints a request; `false` if the stream does not take all of it now, or there is a lot of it.
    /// One that is closed takes everything.
    fn print(&mut self, text: &mut Buffers<'_>) -> bool {
        let mut printed = self.printed.take().unwrap_or(0);
        text.take(printed);
        let end = printed.saturating_add(BURST);
        let mut piece = [0; PIECE];
        loop {
            let mut ahead = text.clone();
            let count = ahead.read(&mut piece);
            if count == 0 {
                return true;
            }
            match send(self.stream.as_raw_fd(), &piece[..count], DONT_WAIT) {
                Ok(sent) => {
                    text.take(sent);
                    printed += sent;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(_) => return true,
            }
            if printed >= end {
                break;
            }
        }
        self.printed = Some(printed);
        false
    }

    /// Reads what was typed into a request; none if nothing was.
    fn type_into(&mut self, buffers: &mut Buffers<'_>) -> Option<u32> {
        let mut piece = [0; PIECE];
        let room = buffers.len().min(PIECE);
        if room == 0 {
            return Some(0);
        }
        if self.at_end || !self.handover.is_hvc() {
            return None;
        }
        match recv(self.stream.as_raw_fd(), &mut piece[..room], DONT_WAIT) {
            Ok(count) if count > 0 => Some(buffers.write(&piece[..count]) as u32),
            Err(Errno::EAGAIN | Errno::EINTR) => None,
            Ok(_) | Err(_) => {
                self.at_end = true;
                None
            }
        }
    }
}

impl Work for Console {
    fn serve(&mut self, index: usize, queue: &mut Vring) -> Result<bool, Broken> {
        if index == INPUT {
            self.hungry = false;
            return queue.serve(|chain| {
                let count = self.type_into(&mut chain.writable);
                self.hungry |= count.is_none();
                Ok(count.map_or(Outcome::Later, Outcome::Done))
            });
        }
        queue.serve(|chain| {
            if !chain.readable.is_empty() {
                self.handover.set(true);
            }
            Ok(match self.print(&mut chain.readable) {
                true => Outcome::Done(0),
                false => Outcome::Later,
            })
        })
    }

    fn sources(&self) -> Vec<Source<'_>> {
        let listens = self.hungry && !self.at_end && self.handover.is_hvc();
        let source = |event, queue| Source {
            fd: self.stream.as_fd(),
            event,
            queue,
        };
        let input = listens.then(|| source(PollFlags::POLLIN, INPUT));
        let output = self.printed.map(|_| source(PollFlags::POLLOUT, OUTPUT));
        input.into_iter().chain(output).collect()
    }

    fn stop(&mut self) {
        self.handover.set(false);
        self.printed = None;
    }
}
