//! The card itself, and the life of the thread that serves it.
//!
//! One thread does it all, both directions and the conversation: each burst one way mostly has an
//! answer the other way, and a thread for each would be woken by turns. In a *turn* it does one burst of
//! each queue. When there is nothing to do it looks on for a moment ([`Polling`]); then it asks the
//! guest to kick and peers to ring, takes one more turn for what came in between, and sleeps.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use vhost::vhost_user::message::VhostUserU64;
use vm_memory::ByteValued;

use super::message::{Message, ProtocolError};
use super::session::Session;
use crate::plug::patience::{self, Patience};
use crate::plug::polling::Polling;
use crate::plug::virtio::bell::Bell;
use crate::plug::virtio::features;
use crate::plug::virtio::pump::{self, Burst};
use crate::plug::virtio::virtqueue::Broken;
use crate::port::{Caller, Port, PortRx, PortTx};

/// What the epoll set says is ready.
const KICK: u64 = 0;
const SOCKET: u64 = 1;
const NUDGE: u64 = 2;

/// Turns between two looks at the socket while there is no end of frames.
const TURNS: u32 = 256;
/// The longest sleep: the port looks after itself now and then.
const LONG: u16 = 2000;

/// What others than the card's thread may do.
#[derive(Debug)]
pub struct Remote {
    /// The port's doorbell.
    pub bell: Bell,
    nudge: EventFd,
    stopping: AtomicBool,
}

impl Remote {
    /// Tells the card's thread to look.
    pub fn nudge(&self) {
        // It can only be full, and then it is nudged already.
        let _ = self.nudge.write(1);
    }

    /// Tells all threads to end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.nudge();
        self.bell.silence();
    }

    /// Whether they were told.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

/// A card.
pub struct Card {
    tx: PortTx,
    rx: PortRx,
    caller: Caller,
    session: Session,
    /// The patience of each transmit queue: their frames wait apart.
    patience: Vec<Patience>,
    polling: Polling,
    ready: Epoll,
}

/// What a turn was like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Frames passed.
    Busy,
    /// Nothing to do.
    Idle,
    /// Nothing but frames the guest has no buffers for.
    NoBuffers,
    /// Nothing but frames some peer has no room for.
    NoRoom,
}

impl Card {
    /// A card with `pairs` pairs of queues that nobody has connected to yet.
    pub fn new(port: Port, pairs: usize) -> io::Result<(Self, Remote)> {
        let remote = Remote {
            bell: Bell::of(&port),
            nudge: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            stopping: AtomicBool::new(false),
        };
        let (tx, rx) = port.split();
        let card = Self {
            caller: rx.caller(),
            tx,
            rx,
            session: Session::new(pairs),
            patience: (0..pairs).map(|_| Patience::default()).collect(),
            polling: Polling::default(),
            ready: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        };
        // On the edge, so that it need not be read.
        card.listen_to(&remote.nudge, NUDGE, EpollFlags::EPOLLET)?;
        Ok((card, remote))
    }

    fn listen_to(&self, fd: impl AsFd, token: u64, flags: EpollFlags) -> nix::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | flags, token);
        self.ready.add(fd, event)
    }

    /// Without a VMM: what comes is counted and dropped, until `socket` can be read.
    ///
    /// # Errors
    /// As of `epoll_wait`.
    pub fn idle_until(&mut self, socket: impl AsFd, remote: &Remote) -> io::Result<()> {
        self.listen_to(&socket, SOCKET, EpollFlags::empty())?;
        let end = self.serve(remote, |_| Ok(false));
        let _ = self.ready.delete(&socket);
        match end {
            Err(ProtocolError::Socket(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Talks with a VMM until either ends.
    pub fn converse(&mut self, socket: &UnixStream, remote: &Remote) -> Result<(), ProtocolError> {
        self.listen_to(socket, SOCKET, EpollFlags::empty())
            .map_err(io::Error::from)?;
        self.patience.fill_with(Patience::default);
        let end = self.serve(remote, |card| card.listen(socket));
        self.session.end(&self.ready);
        self.caller.set_offloads(features::offloads(0));
        // Closing would not do: there is another descriptor of it, to shut it down with.
        let _ = self.ready.delete(socket);
        end
    }

    /// Moves frames, and calls `heard` whenever the socket can be read, until that says `false`.
    fn serve(
        &mut self,
        remote: &Remote,
        mut heard: impl FnMut(&mut Self) -> Result<bool, ProtocolError>,
    ) -> Result<(), ProtocolError> {
        loop {
            let sleep = self.work(remote)?;
            let ready = self.wait(if sleep { LONG } else { 0 });
            if sleep {
                remote.bell.disarm();
            }
            if remote.is_stopping() || ready? && !heard(self)? {
                return Ok(());
            }
        }
    }

    /// Waits for at most `timeout` milliseconds; tells whether the socket can be read.
    fn wait(&self, timeout: u16) -> io::Result<bool> {
        let mut events = [EpollEvent::empty(); 8];
        match self.ready.wait(&mut events, EpollTimeout::from(timeout)) {
            Ok(count) => Ok(events[..count].iter().any(|event| event.data() == SOCKET)),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Hears one message; `false` when the VMM has hung up.
    fn listen(&mut self, socket: &UnixStream) -> Result<bool, ProtocolError> {
        let Some(mut message) = Message::receive(socket)? else {
            return Ok(false);
        };
        let reply = self.session.handle(&mut message, &self.ready, KICK)?;
        self.caller
            .set_offloads(features::offloads(self.session.features));
        match reply {
            Some(body) => message.reply(socket, &body)?,
            None if message.wants_acknowledgement() => {
                message.reply(socket, VhostUserU64::new(0).as_slice())?;
            }
            None => {}
        }
        Ok(true)
    }

    /// Takes turns until there is nothing to do, or it is time to look at the socket. `true`: all is
    /// prepared for a sleep.
    fn work(&mut self, remote: &Remote) -> Result<bool, ProtocolError> {
        for _ in 0..TURNS {
            match self.turn()? {
                Turn::Busy => self.polling.busy(),
                // A moment for them. It is not ours alone: a peer may wait for us just so.
                Turn::NoRoom => std::thread::sleep(patience::STEP),
                Turn::Idle | Turn::NoBuffers if self.polling.once_more() => {}
                idle => {
                    if self.prepare_to_sleep(idle, remote)? {
                        return Ok(true);
                    }
                }
            }
            if remote.is_stopping() {
                break;
            }
        }
        Ok(false)
    }

    /// One burst of each queue.
    fn turn(&mut self) -> Result<Turn, ProtocolError> {
        let end = self.bursts();
        if self.session.memory.is_lost() {
            // Whatever sense was made of it.
            return Err(ProtocolError::MemoryLost);
        }
        Ok(end?)
    }

    fn bursts(&mut self) -> Result<Turn, Broken> {
        let Session { memory, queues, .. } = &mut self.session;
        let mut sent = Burst::Idle;
        let transmit = queues.iter_mut().skip(1).step_by(2);
        for (queue, patience) in transmit.zip(&mut self.patience) {
            sent = sent.max(pump::transmit(memory, queue, &mut self.tx, patience)?);
        }
        let receive = queues.iter_mut().step_by(2);
        let received = pump::receive(memory, receive, &mut self.rx)?;
        Ok(match (sent, received) {
            (Burst::Some, _) | (_, Burst::Some) => Turn::Busy,
            (Burst::Stuck, _) => Turn::NoRoom,
            (Burst::Idle, Burst::Stuck) => Turn::NoBuffers,
            (Burst::Idle, Burst::Idle) => Turn::Idle,
        })
    }

    /// Asks for what ends a sleep, then takes one more turn for what came before they were asked.
    /// Tells whether there was nothing.
    fn prepare_to_sleep(&mut self, idle: Turn, remote: &Remote) -> Result<bool, ProtocolError> {
        let Session { memory, queues, .. } = &mut self.session;
        for (index, queue) in queues.iter_mut().enumerate() {
            // Room is asked for if frames wait; else the guest makes some without a word.
            if (index % 2 == 1 || idle == Turn::NoBuffers)
                && let Some(mut queue) = queue.open(memory)
            {
                queue.enable_kicks();
            }
        }
        // More frames are no help while those that are there can't be taken.
        if idle == Turn::Idle {
            // Not to sleep, but to do what comes before: from here on sources set their bits.
            self.rx.wait(Duration::ZERO);
            remote.bell.arm();
        }
        let nothing = self.turn()? == idle;
        if !nothing {
            remote.bell.disarm();
            self.polling.busy();
        }
        Ok(nothing)
    }
}
