//! What moves a card's frames: its port, its guest's queues, and turns.
//!
//! Both directions and all queues are one piece of work, done by one thread at a time: each burst one way
//! mostly has an answer the other way. In a *turn* each queue gets one burst. When there is nothing to
//! do it looks on for a moment ([`Polling`]); then it asks the guest to kick and peers to ring, takes one
//! more turn for what came in between, and is done until one of them does.
//!
//! A guest that is short of buffers makes them a few at a time, and a kick for each few takes it longer than
//! to make them. So it is asked to kick when it has made a good part of its queue; and as nobody
//! says that it ever will, we look by ourselves after a moment, and then take the first that comes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::epoll::Epoll;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::features;
use super::guest::Guest;
use super::pump::{self, Burst};
use super::virtqueue::Broken;
use crate::bell::Bell;
use crate::plug::patience::{self, Patience};
use crate::plug::polling::Polling;
use crate::port::{Caller, Port, PortRx, PortTx};

/// Turns between two looks at other things while there is no end of frames.
const TURNS: u32 = 256;
/// The part of its queue that a guest is to make available before it kicks, while frames wait for buffers:
/// a fourth. That is enough to go on with, while there is still much that it has not looked at.
const PART: u32 = 4;
/// How long it has for that. Shorter than [`patience`] is with the ring that the frames wait in.
const MOMENT: Duration = Duration::from_millis(2);

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

/// A card's frames.
pub struct Traffic {
    /// The guest, as far as it is known.
    pub guest: Guest,
    tx: PortTx,
    rx: PortRx,
    caller: Caller,
    /// The patience of each transmit queue: their frames wait apart.
    patience: Vec<Patience>,
    polling: Polling,
    /// Goes off when a guest has had its moment to make buffers.
    moment: TimerFd,
    /// It has had it, and nothing has passed since.
    is_over: bool,
    /// The bell was told to ring.
    armed: bool,
    /// The guest broke the rules.
    broken: bool,
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

impl Traffic {
    /// That of a card on `port`, with `pairs` pairs of queues, which has no guest yet.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(port: Port, pairs: usize) -> io::Result<Self> {
        let (tx, rx) = port.split();
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Self {
            guest: Guest::new(pairs),
            caller: rx.caller(),
            tx,
            rx,
            patience: (0..pairs).map(|_| Patience::default()).collect(),
            polling: Polling::default(),
            moment: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?,
            is_over: false,
            armed: false,
            broken: false,
        })
    }

    /// Readable when it is time to [`work`](Self::work), though nobody kicked or rang: to be waited for on
    /// the edge.
    pub fn alarm(&self) -> BorrowedFd<'_> {
        self.moment.as_fd()
    }

    /// The guest is gone: nothing of it is touched any more. It was heard of by `kicks`.
    pub fn forget_guest(&mut self, kicks: &Epoll) {
        self.guest.forget(kicks);
        self.patience.fill_with(Patience::default);
        self.broken = false;
        self.agree_on_offloads();
    }

    /// Tells peers what they may leave undone, by what the guest has agreed to.
    pub fn agree_on_offloads(&self) {
        let offloads = features::offloads(self.guest.features);
        self.caller.set_offloads(offloads);
    }

    /// Takes turns until there is nothing to do, which is `true`: from then on kicks and the bell tell
    /// when there is again. `false`: it was told to `stop`, or it is time to look at other things.
    ///
    /// # Errors
    /// The guest broke the rules. It is served no more.
    pub fn work(&mut self, bell: &Bell, stop: impl Fn() -> bool) -> Result<bool, Trouble> {
        if self.broken {
            return Ok(true);
        }
        let end = self.take_turns(bell, stop);
        self.broken = end.is_err();
        end
    }

    fn take_turns(&mut self, bell: &Bell, stop: impl Fn() -> bool) -> Result<bool, Trouble> {
        self.disarm(bell);
        for _ in 0..TURNS {
            match self.turn()? {
                Turn::Busy => self.busy(),
                // A moment for them. It is not ours alone: a peer may wait for us just so.
                Turn::NoRoom => std::thread::sleep(patience::STEP),
                Turn::Idle | Turn::NoBuffers if self.polling.once_more() => {}
                idle => {
                    if self.prepare_to_sleep(idle, bell)? {
                        return Ok(true);
                    }
                }
            }
            if stop() {
                break;
            }
        }
        Ok(false)
    }

    fn busy(&mut self) {
        self.polling.busy();
        self.is_over = false;
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
    fn prepare_to_sleep(&mut self, idle: Turn, bell: &Bell) -> Result<bool, Trouble> {
        let gets_a_moment = idle == Turn::NoBuffers && !self.is_over;
        let Guest { memory, queues, .. } = &mut self.guest;
        for (index, queue) in queues.iter_mut().enumerate() {
            let is_ours_to_fill = index % 2 == 0;
            // Room is asked for if frames wait; else the guest makes some without a word.
            if (!is_ours_to_fill || idle == Turn::NoBuffers)
                && let Some(mut queue) = queue.open(memory)
            {
                let part = if is_ours_to_fill && gets_a_moment {
                    queue.size() / PART
                } else {
                    1
                };
                queue.enable_kicks(part.max(1));
            }
        }
        if gets_a_moment {
            self.is_over = true;
            let moment = Expiration::OneShot(TimeSpec::from_duration(MOMENT));
            let set = self.moment.set(moment, TimerSetTimeFlags::empty());
            set.map_err(|error| Trouble::Wait(error.into()))?;
        }
        // More frames are no help while those that are there can't be taken.
        if idle == Turn::Idle {
            self.rx.settle_down();
            bell.arm();
            self.armed = true;
        }
        let nothing = self.turn()? == idle;
        if !nothing {
            self.disarm(bell);
            self.busy();
        }
        Ok(nothing)
    }

    fn disarm(&mut self, bell: &Bell) {
        if std::mem::take(&mut self.armed) {
            bell.disarm();
        }
    }
}
