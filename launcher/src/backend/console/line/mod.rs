//! A console on a line: somebody may be at its other end, or come later, or go and come back. A
//! [`pty`], or a Unix [`socket`] on which one client at a time is served and others are told so.
//!
//! One thread does all: it never waits for the guest alone, nor for the client. What the guest
//! prints goes to the [`backlog`] and from there to the client, as fast as that reads; what the
//! client types is kept for the guest, up to a limit, past which the client has to wait.
//!
//! Unlike stdin, the line is watched for no ^C: whoever is at it can leave it in other ways.

mod backlog;
pub mod pty;
pub mod socket;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::{read, write};

use super::hearing::{Hearing, Said};
use super::size::ConsoleSize;
use super::terminal;
use crate::error::Error;
use crate::seccomp;
use backlog::Backlog;
use pty::Pty;
use socket::Socket;

/// How much of what is typed is kept for a guest that does not listen, in bytes.
const LIMIT: usize = 64 << 10;

/// How long a client that reads nothing is waited for when the guest has ended.
const STILL: Duration = Duration::from_millis(250);

/// How long one that reads a little is.
const LAST: Duration = Duration::from_secs(2);

/// What somebody connects to.
#[derive(Debug)]
pub enum Line {
    /// A pseudo-terminal, which we take to have somebody at it: the kernel keeps what is not read.
    Pty(Pty),
    /// A socket.
    Socket(Socket),
}

/// Starts the thread. The receiver's other end is dropped when the guest's end is closed, what the
/// client would read is read, and the line is gone.
pub(super) fn start(
    line: Line,
    hearing: Hearing,
    size: ConsoleSize,
) -> Result<Receiver<()>, Error> {
    let (printing, printed) = sync_channel(0);
    let (client, listener, side) = match line {
        Line::Pty(Pty { master, side, .. }) => (Some(Client::new(master)), None, Some(side)),
        Line::Socket(socket) => (None, Some(socket), None),
    };
    let serving = Serving {
        hearing,
        listener,
        client,
        side,
        size,
        printed: Backlog::default(),
        typed: Vec::new(),
    };
    thread::Builder::new()
        .name("console line".into())
        .spawn(move || serving.run(printing))
        .map_err(Error::system::<io::Error>("start a thread"))?;
    Ok(printed)
}

/// Somebody at the other end: a client.
struct Client {
    /// Non-blocking.
    fd: OwnedFd,
    /// It may still type.
    types: bool,
}

impl Client {
    fn new(fd: OwnedFd) -> Self {
        Self { fd, types: true }
    }
}

struct Serving {
    hearing: Hearing,
    listener: Option<Socket>,
    client: Option<Client>,
    /// The pseudo-terminal's other side.
    side: Option<OwnedFd>,
    size: ConsoleSize,
    /// By the guest, and not yet read.
    printed: Backlog,
    /// By the client, and not yet taken by the guest.
    typed: Vec<u8>,
}

/// What can be done.
struct Ready {
    guest: PollFlags,
    client: PollFlags,
    listener: PollFlags,
}

impl Serving {
    fn run(mut self, printing: SyncSender<()>) {
        seccomp::confine(seccomp::Work::AtTheConsole);
        let mut buffer = [0; 4096];
        while let Ok(ready) = self.wait() {
            if ready.guest.contains(PollFlags::POLLOUT) {
                self.pass_on();
            }
            if ready.guest.intersects(!PollFlags::POLLOUT) {
                match self.hearing.take(&mut buffer) {
                    Said::Bytes(bytes) => self.printed.push(bytes),
                    Said::Nothing => {}
                    Said::End => break,
                }
            }
            if !ready.client.is_empty() {
                self.take_in(ready.client);
            }
            if !ready.listener.is_empty() {
                self.accept();
            }
            self.print();
        }
        self.finish();
        drop(self);
        drop(printing);
    }

    /// Sleeps until anything can be done.
    fn wait(&self) -> Result<Ready, Errno> {
        let when = |wanted, flag| if wanted { flag } else { PollFlags::empty() };
        let mut fds = vec![PollFd::new(
            self.hearing.line().as_fd(),
            PollFlags::POLLIN | when(!self.typed.is_empty(), PollFlags::POLLOUT),
        )];
        if let Some(client) = &self.client {
            let may_type = client.types && self.typed.len() < LIMIT;
            fds.push(PollFd::new(
                client.fd.as_fd(),
                when(may_type, PollFlags::POLLIN)
                    | when(!self.printed.is_empty(), PollFlags::POLLOUT),
            ));
        }
        if let Some(socket) = &self.listener {
            fds.push(PollFd::new(socket.listener.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        let mut happened = fds
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let mut next = |is_there: bool| {
            is_there
                .then(|| happened.next())
                .flatten()
                .unwrap_or(PollFlags::empty())
        };
        Ok(Ready {
            guest: next(true),
            client: next(self.client.is_some()),
            listener: next(self.listener.is_some()),
        })
    }

    /// Somebody has come.
    fn accept(&mut self) {
        let Some(socket) = &self.listener else { return };
        // Gone again, or no descriptor is left: the next may fare better.
        let Ok((stream, _)) = socket.listener.accept() else {
            // The queue stays as it is while there are no descriptors: do not spin on it.
            thread::sleep(Duration::from_millis(10));
            return;
        };
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let client = Client::new(stream.into());
        if self.client.is_some() {
            let _ = write(
                &client.fd,
                b"launcher: somebody else is at this console; one can be at a time\r\n",
            );
        } else {
            self.client = Some(client);
        }
    }

    /// Takes what the client has typed, or that it has gone.
    fn take_in(&mut self, ready: PollFlags) {
        let Some(client) = &mut self.client else {
            return;
        };
        let may_type = client.types && self.typed.len() < LIMIT;
        if may_type && ready.intersects(!PollFlags::POLLOUT) {
            if self.side.is_some() {
                // Nobody tells us when a window on a pseudo-terminal changes its size.
                self.size.set(terminal::size_of(&client.fd));
            }
            let mut buffer = [0; 4096];
            match read(&client.fd, &mut buffer) {
                // It may have shut its side only, and still read.
                Ok(0) => client.types = false,
                Ok(n) => {
                    self.typed.extend_from_slice(&buffer[..n]);
                    // A guest that listens gets it without another round.
                    self.pass_on();
                }
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(_) => self.client = None,
            }
        } else if ready.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
            self.client = None;
        }
    }

    /// Gives the guest as much of what was typed as it takes now.
    fn pass_on(&mut self) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.hearing.line().as_raw_fd(), &self.typed, flags) {
            Ok(n) => drop(self.typed.drain(..n)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // It ends: what is left to hear says so.
            Err(_) => self.typed.clear(),
        }
    }

    /// Gives the client as much of what was printed as it takes now. Whether it took any.
    fn print(&mut self) -> bool {
        let mut some = false;
        while let Some(client) = &self.client
            && !self.printed.is_empty()
        {
            match write(&client.fd, self.printed.next()) {
                Ok(n @ 1..) => {
                    self.printed.read(n);
                    some = true;
                }
                Err(Errno::EINTR) => {}
                Ok(_) | Err(Errno::EAGAIN) => break,
                Err(_) => self.client = None,
            }
        }
        some
    }

    /// Lets the client read the guest's last words, if it reads at all.
    fn finish(&mut self) {
        let end = Instant::now() + LAST;
        let mut still_since = Instant::now();
        while still_since.elapsed() < STILL && Instant::now() < end {
            if self.print() {
                still_since = Instant::now();
            }
            if self.client.is_none() || (self.printed.is_empty() && !self.has_unread()) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether something printed waits in the pseudo-terminal, whose end drops it. A socket's does
    /// not.
    fn has_unread(&self) -> bool {
        self.side.as_ref().is_some_and(|side| {
            let mut fds = [PollFd::new(side.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        })
    }
}
