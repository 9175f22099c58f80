//! The card itself, and the two threads that serve it.
//!
//! The card's own thread waits for what comes by descriptors: kicks of the guest, and the
//! [`Conversation`]. The other waits for the port's [bell](crate::bell). Whichever wakes moves the
//! frames itself ([`Traffic`]), so a frame from a peer is in the guest's hands one wake-up after it was
//! sent, and a frame of the guest's in a peer's ring one wake-up after the kick; who wakes while the other
//! is at it leaves a note ([`Lead`]), and goes back to sleep.
//!
//! Only the card's own thread hears the conversation and tells of trouble. While it has something to hear, the other
//! gives way ([`Served::take_over`]); the trouble that the other runs into waits for it, and no
//! frame moves until that guest is forgotten.
//!
//! Who has the guest, and how we are told of it, is the conversation's: messages of another VMM over a
//! socket, or what the guest wrote to the registers of the launcher's own.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::guest::Guest;
use super::queue::Queue;
use super::traffic::Traffic;
pub use super::traffic::Trouble;
use crate::bell::Bell;
use crate::port::{Port, PortRx};
use crate::sync::lead::Lead;

/// What the epoll set says is ready.
const KICK: u64 = 0;
const SPEECH: u64 = 1;
const NUDGE: u64 = 2;

/// The longest sleep, in milliseconds: the port looks after itself now and then.
const LONG: u16 = PortRx::SWEEP.as_millis() as u16;

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

/// What a card's threads share.
pub(super) struct Served {
    traffic: Mutex<Traffic>,
    /// Who moves frames.
    lead: Lead,
    /// The card's thread wants the traffic for itself.
    wanted: AtomicBool,
    /// What the guest did wrong, until the card's thread has taken note.
    trouble: Mutex<Option<Trouble>>,
    bell: Bell,
    /// What the card's thread sleeps on.
    ready: Epoll,
    nudge: EventFd,
    stopping: AtomicBool,
}

impl Served {
    pub(super) fn new(port: Port, pairs: usize) -> io::Result<Self> {
        let bell = Bell::of(&port);
        let traffic = Traffic::new(port, pairs)?;
        let served = Self {
            bell,
            traffic: Mutex::new(traffic),
            lead: Lead::default(),
            wanted: AtomicBool::new(false),
            trouble: Mutex::new(None),
            ready: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            nudge: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            stopping: AtomicBool::new(false),
        };
        // On the edge, so that neither need be read.
        served.listen_to(&served.nudge, NUDGE, EpollFlags::EPOLLET)?;
        served.listen_to(lock(&served.traffic).alarm(), NUDGE, EpollFlags::EPOLLET)?;
        Ok(served)
    }

    fn listen_to(&self, fd: impl AsFd, token: u64, flags: EpollFlags) -> nix::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | flags, token);
        self.ready.add(fd, event)
    }

    /// Tells the card's thread to look.
    fn nudge(&self) {
        // It can only be full, and then it is nudged already.
        let _ = self.nudge.write(1);
    }

    /// Tells all threads to end.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.nudge();
        self.bell.silence();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The life of the thread that waits for the bell.
    pub(super) fn listen_to_the_bell(&self) {
        self.bell.listen(|| while !self.move_frames() {});
    }

    /// Moves frames until there is nothing more to do for the caller, which is `true`, or until it is
    /// time to look at other things.
    fn move_frames(&self) -> bool {
        let mut done = true;
        self.lead.call(|| done = self.lead_on());
        done
    }

    fn lead_on(&self) -> bool {
        let stop = || self.is_stopping() || self.wanted.load(Ordering::Relaxed);
        let mut traffic = lock(&self.traffic);
        // Who is stopped by the card's thread is done: that one calls when it has heard.
        match traffic.work(&self.bell, stop) {
            Ok(nothing) => nothing || stop(),
            Err(trouble) => {
                *lock(&self.trouble) = Some(trouble);
                self.nudge();
                true
            }
        }
    }

    /// The traffic, for the card's thread to do something else with. Who moves frames gives way after the
    /// turn at hand, and it is for the caller to move them afterwards.
    fn take_over(&self) -> MutexGuard<'_, Traffic> {
        self.wanted.store(true, Ordering::Relaxed);
        let traffic = lock(&self.traffic);
        self.wanted.store(false, Ordering::Relaxed);
        traffic
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
}

/// Nothing is left half done by a panic that the guest's end does not set right.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A card, in the hands of its own thread.
pub struct Card {
    served: Arc<Served>,
}

impl Card {
    pub(super) fn new(served: Arc<Served>) -> Self {
        Self { served }
    }

    /// Whether its threads were told to end.
    pub fn is_stopping(&self) -> bool {
        self.served.is_stopping()
    }

    /// Without a guest: what comes is counted and dropped, until `source` can be read.
    ///
    /// # Errors
    /// As of `epoll_wait`.
    pub fn idle_until(&mut self, source: impl AsFd) -> io::Result<()> {
        let listening = self.served.listen_to(&source, SPEECH, EpollFlags::empty());
        listening?;
        let end = self.serve(|_| Ok(false));
        let _ = self.served.ready.delete(&source);
        match end {
            Err(Trouble::Wait(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Serves the guest that is talked of, until the conversation ends.
    ///
    /// # Errors
    /// The guest, or who talks of it, broke the rules. Nothing is known of the guest from then on.
    pub fn converse<C: Conversation>(&mut self, conversation: &mut C) -> Result<(), C::Error> {
        self.served
            .listen_to(conversation.source(), SPEECH, EpollFlags::empty())
            .map_err(|error| Trouble::Wait(error.into()))?;
        let ready = &self.served.ready;
        let end = self.serve(|traffic| {
            let goes_on = conversation.hear(&mut traffic.guest, &Kicks(ready))?;
            traffic.agree_on_offloads();
            Ok(goes_on)
        });
        let mut traffic = self.served.take_over();
        traffic.forget_guest(ready);
        // It was this guest's, whoever ran into it.
        *lock(&self.served.trouble) = None;
        drop(traffic);
        // Closing would not do: there may be another descriptor of it.
        let _ = ready.delete(conversation.source());
        end
    }

    /// Moves frames, and calls `heard` whenever there is something to hear, until that says `false`.
    fn serve<E: From<Trouble>>(
        &self,
        mut heard: impl FnMut(&mut Traffic) -> Result<bool, E>,
    ) -> Result<(), E> {
        let served = &self.served;
        loop {
            let done = served.move_frames();
            let ready = served.wait(if done { LONG } else { 0 });
            if let Some(trouble) = lock(&served.trouble).take() {
                return Err(trouble.into());
            }
            if served.is_stopping()
                || ready.map_err(Trouble::Wait)? && !heard(&mut served.take_over())?
            {
                return Ok(());
            }
        }
    }
}
