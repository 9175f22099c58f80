//! A queue of a card: where it is in the guest's memory, how frames stand in it, and the two event
//! descriptors that go with it. Who sets it up, a VMM by messages or our own by registers, is all one
//! to the pump.

use std::fs::File;
use std::io::Write;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::memory::Memory;
use super::pump::Format;
use super::virtqueue::{Ring, Virtqueue};

/// A queue, as far as it has been set up.
#[derive(Default)]
pub struct Queue {
    /// How frames stand in its buffers.
    pub format: Format,
    /// Its place in the guest's memory.
    pub ring: Ring,
    /// What the guest kicks. Without it the queue does not run.
    pub kick: Option<File>,
    /// What interrupts the guest. It must not make a writer wait.
    pub call: Option<File>,
    /// Whether the guest has switched it on.
    pub enabled: bool,
}

impl Queue {
    /// Whether the pump may touch it.
    fn is_running(&self) -> bool {
        self.enabled && self.kick.is_some()
    }

    /// The queue, for a burst; `None` if it does not run.
    #[inline]
    pub fn open<'m>(&mut self, memory: &'m Memory) -> Option<Virtqueue<'m, '_>> {
        self.open_with_call(memory).map(|(queue, _)| queue)
    }

    /// As [`open`](Self::open), with what to [`interrupt`] the guest by.
    #[inline]
    pub fn open_with_call<'m>(
        &mut self,
        memory: &'m Memory,
    ) -> Option<(Virtqueue<'m, '_>, Option<&File>)> {
        if !self.is_running() {
            return None;
        }
        let queue = Virtqueue::open(memory, &mut self.ring)?;
        Some((queue, self.call.as_ref()))
    }

    /// Interrupts the guest.
    pub fn interrupt(&self) {
        interrupt(self.call.as_ref());
    }

    /// Runs, once the guest has enabled it: `kick` is heard by whoever waits on `kicks`, as `token`.
    ///
    /// # Errors
    /// It is no descriptor one can wait for.
    pub fn plug_in(&mut self, kick: File, kicks: &Epoll, token: u64) -> nix::Result<()> {
        self.unplug(kicks);
        // On the edge: each kick is heard, and none has to be read.
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, token);
        kicks.add(&kick, event)?;
        // What it was told when it last ran is forgotten.
        self.ring.quiet = false;
        self.kick = Some(kick);
        Ok(())
    }

    /// Is deaf to its kicks from now on: closing would not do, for a VMM has the descriptor, too.
    pub fn unplug(&mut self, kicks: &Epoll) {
        if let Some(kick) = self.kick.take() {
            let _ = kicks.delete(kick);
        }
    }
}

/// Interrupts a guest that gave us `call`.
pub fn interrupt(call: Option<&File>) {
    if let Some(mut call) = call {
        // Full means that an interrupt is on its way already.
        let _ = call.write(&1u64.to_ne_bytes());
    }
}
