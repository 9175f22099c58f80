//! The card itself, and the life of the thread that serves it.
//!
//! One thread does it all, both directions and the [`Conversation`]: each burst one way mostly has an
//! answer the other way, and a thread for each would be woken by turns. In a *turn* it does one burst of
//! each queue. When there is nothing to do it looks on for a moment ([`Polling`]); then it asks the
//! guest to kick and peers to ring, takes one more turn for what came in between, and sleeps.
//!
//! Who has the guest, and how we are told of it, is the conversation's: messages of another VMM over a
//! socket, or what the guest wrote to the registers of the launcher's own.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::bell::Bell;
use super::features;
use super::guest::Guest;
use super::pump::{self, Burst};
use super::queue::Queue;
use super::virtqueue::Broken;
use crate::plug::patience::{self, Patience};
use crate::plug::polling::Polling;
use crate::port::{Caller, Port, PortRx, PortTx};

/// What the epoll set says is ready.
const KICK: u64 = 0;
const SPEECH: u64 = 1;
const NUDGE: u64 = 2;

/// Turns between two looks at the conversation while there is no end of frames.
const TURNS: u32 = 256;
/// The longest sleep: the port looks after itself now and then.
const LONG: u16 = 2000;

/// Whoever tells a card of its guest.
pub trait Conversation {
    /// Why it may end: what goes wrong with the guest, or with the talking.
    type Error: From<Trouble>;

    /// Can be read as long as there is something to hear.
    fn source(&self) -> BorrowedFd<'_>;

    /// Hears some of it, and makes of `guest` what was said. `false`: that was the end.
    ///
    /// # Errors
    /// What was heard makes no sense, or can't be heard.
    fn hear(&mut self, guest: &mut Guest, kicks: &Kicks<'_>) -> Result<bool, Self::Error>;
}

/// Why a guest can't be served any longer.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A queue of the guest's can't be made sense of.
    #[error(transparent)]
    Queue(#[from] Broken),
    /// Its file is shorter than it was when it was mapped.
    #[error("the guest's memory was cut short")]
    MemoryLost,
    /// There is no waiting for it.
    #[error("waiting for the guest failed: {0}")]
    Wait(#[from] io::Error),
}

/// Where the card's thread hears kicks.
#[derive(Debug, Clone, Copy)]
pub struct Kicks<'a>(&'a Epoll);

impl Kicks<'_> {
    /// Lets `queue` run: `kick` is what its guest kicks.
    ///
    /// # Errors
    /// It is no descriptor one can wait for.
    pub fn plug_in(&self, queue: &mut Queue, kick: File) -> io::Result<()> {
        Ok(queue.plug_in(kick, self.0, KICK)?)
    }

    /// The queue runs no longer.
    pub fn unplug(&self, queue: &mut Queue) {
        queue.unplug(self.0);
    }

    /// No queue of the guest runs any longer, and nothing is known of it.
    pub fn forget(&self, guest: &mut Guest) {
        guest.forget(self.0);
    }
}

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
    guest: Guest,
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
    /// A card with `pairs` pairs of queues that has no guest yet.
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
            guest: Guest::new(pairs),
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

    /// Without a guest: what comes is counted and dropped, until `source` can be read.
    ///
    /// # Errors
    /// As of `epoll_wait`.
    pub fn idle_until(&mut self, source: impl AsFd, remote: &Remote) -> io::Result<()> {
        self.listen_to(&source, SPEECH, EpollFlags::empty())?;
        let end = self.serve(remote, |_| Ok(false));
        let _ = self.ready.delete(&source);
        match end {
            Err(Trouble::Wait(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Serves the guest that is talked of, until the conversation ends.
    ///
    /// # Errors
    /// The guest, or who talks of it, broke the rules. Nothing is known of the guest from then on.
    pub fn converse<C: Conversation>(
        &mut self,
        conversation: &mut C,
        remote: &Remote,
    ) -> Result<(), C::Error> {
        self.listen_to(conversation.source(), SPEECH, EpollFlags::empty())
            .map_err(|error| Trouble::Wait(error.into()))?;
        self.patience.fill_with(Patience::default);
        let end = self.serve(remote, |card| {
            let goes_on = conversation.hear(&mut card.guest, &Kicks(&card.ready))?;
            card.caller
                .set_offloads(features::offloads(card.guest.features));
            Ok(goes_on)
        });
        self.guest.forget(&self.ready);
        self.caller.set_offloads(features::offloads(0));
        // Closing would not do: there may be another descriptor of it.
        let _ = self.ready.delete(conversation.source());
        end
    }

    /// Moves frames, and calls `heard` whenever there is something to hear, until that says `false`.
    fn serve<E: From<Trouble>>(
        &mut self,
        remote: &Remote,
        mut heard: impl FnMut(&mut Self) -> Result<bool, E>,
    ) -> Result<(), E> {
        loop {
            let sleep = self.work(remote)?;
            let ready = self.wait(if sleep { LONG } else { 0 });
            if sleep {
                remote.bell.disarm();
            }
            if remote.is_stopping() || ready.map_err(Trouble::Wait)? && !heard(self)? {
                return Ok(());
            }
        }
    }

    /// Waits for at most `timeout` milliseconds; tells whether there is something to hear.
    fn wait(&self, timeout: u16) -> io::Result<bool> {
        let mut events = [EpollEvent::empty(); 8];
        match self.ready.wait(&mut events, EpollTimeout::from(timeout)) {
            Ok(count) => Ok(events[..count].iter().any(|event| event.data() == SPEECH)),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes turns until there is nothing to do, or it is time to listen. `true`: all is
    /// prepared for a sleep.
    fn work(&mut self, remote: &Remote) -> Result<bool, Trouble> {
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
    fn turn(&mut self) -> Result<Turn, Trouble> {
        let end = self.bursts();
        if self.guest.memory.is_lost() {
            // Whatever sense was made of it.
            return Err(Trouble::MemoryLost);
        }
        Ok(end?)
    }

    fn bursts(&mut self) -> Result<Turn, Broken> {
        let Guest { memory, queues, .. } = &mut self.guest;
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
    fn prepare_to_sleep(&mut self, idle: Turn, remote: &Remote) -> Result<bool, Trouble> {
        let Guest { memory, queues, .. } = &mut self.guest;
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
