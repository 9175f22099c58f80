//! The port's doorbell, for a thread that sleeps on descriptors.
//!
//! A port is woken by a futex, a card also by kicks and messages, which are descriptors; the kernel
//! has no call that waits for both. So a second thread does nothing but wait for the futex, for as
//! long as the card lives, and passes a wake-up on. Whether it is woken at all is for the card to
//! say, by storing to the bell: while the card is up, peers see it awake and make no call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::doorbell::{ASLEEP, AWAKE};
use crate::layout::slot_record::BELL;
use crate::port::Port;
use crate::segment::Segment;
use crate::sync::{AtomicU32, fence, futex};

/// What a bell says that will not be waited for any more. To peers it is as good as awake.
const SILENT: u32 = 2;

/// A port's doorbell.
#[derive(Debug)]
pub struct Bell {
    segment: Arc<Segment>,
    /// Where it is.
    at: u64,
    silent: AtomicBool,
}

impl Bell {
    /// The bell of `port`. While it is in use, [`PortRx::wait`](crate::PortRx::wait) is not.
    pub fn of(port: &Port) -> Self {
        let segment = Arc::clone(port.segment());
        let at = segment.geometry().slot(port.slot().get()) + BELL;
        Self {
            segment,
            at,
            silent: AtomicBool::new(false),
        }
    }

    fn word(&self) -> &AtomicU32 {
        self.segment.control().word32(self.at)
    }

    /// From here on whoever publishes for the port rings. What was published before must be looked
    /// for once more afterwards ([`crate::doorbell`] has the reason).
    pub fn arm(&self) {
        self.word().store(ASLEEP, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Nobody need ring: we are looking anyway.
    pub fn disarm(&self) {
        self.word().store(AWAKE, Ordering::SeqCst);
    }

    /// Ends the waiting, for good.
    pub fn silence(&self) {
        self.silent.store(true, Ordering::SeqCst);
        self.word().store(SILENT, Ordering::SeqCst);
        futex::wake(self.word());
    }

    /// Calls `rung` whenever the bell was rung, and perhaps when not, until [silenced](Self::silence).
    pub fn listen(&self, mut rung: impl FnMut()) {
        // An end in case somebody scribbles over the bell just when it is silenced.
        const LONG: Duration = Duration::from_secs(60);
        loop {
            // Waiting for anything but this: a change since is a ring, or the card's own doing, and
            // who rings after the card said ASLEEP wakes us whatever the word was when we lay down.
            let said = self.word().load(Ordering::SeqCst);
            if self.silent.load(Ordering::SeqCst) {
                return;
            }
            if !futex::wait(self.word(), said, LONG) {
                rung();
            }
        }
    }
}
