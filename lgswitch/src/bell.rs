//! A port's doorbell, for a port that sleeps on other things besides.
//!
//! A port is woken by a futex, a network card also by kicks and messages, which are descriptors; the
//! kernel of today's long-term releases has no call that waits for both. So a second thread waits for the
//! futex, for as long as the port lives. Whether it is woken at all is for who serves the port to say: while the
//! port is up, peers see that and make no call.
//!
//! # Why no ring is lost
//!
//! Who rings makes the word [`ASLEEP`] into [`AWAKE`], and nobody else writes either while the port
//! is served: the port says `ASLEEP` when it [arms](Bell::arm) the bell, and `UP` when it needs none. So a word
//! that is `AWAKE` was rung, and was not heard: the listener says that it heard (`UP`), then
//! what it was told to do. It never lies down upon `AWAKE`, so a ring before that is found in the word, by
//! itself or by the kernel, which compares the word once more; one after that wakes it, whatever
//! the word was when it lay down.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::doorbell::{ASLEEP, AWAKE};
use crate::layout::slot_record::BELL;
use crate::port::Port;
use crate::segment::Segment;
use crate::slot::SlotIndex;
use crate::sync::{AtomicBool, AtomicU32, fence, futex};

/// What a bell says that will not be waited for any more. To peers it is as good as awake.
const SILENT: u32 = 2;
/// What it says of a port that looks for itself. To peers it is as good as awake.
const UP: u32 = 3;

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
        Self::at(Arc::clone(port.segment()), port.slot())
    }

    /// The bell of the port at `slot`.
    pub(crate) fn at(segment: Arc<Segment>, slot: SlotIndex) -> Self {
        let at = segment.geometry().slot(slot.get()) + BELL;
        Self {
            segment,
            at,
            silent: AtomicBool::new(false),
        }
    }

    fn word(&self) -> &AtomicU32 {
        self.segment.control().word32(self.at)
    }

    /// From here on whoever publishes for the port rings, provided that
    /// [`PortRx::settle_down`](crate::PortRx::settle_down) came before. What was published before must be
    /// looked for once more afterwards ([`crate::doorbell`] has the reason).
    pub fn arm(&self) {
        self.say(ASLEEP);
        fence(Ordering::SeqCst);
    }

    /// Nobody need ring: we are looking anyway.
    pub fn disarm(&self) {
        self.say(UP);
    }

    /// Ends the waiting, for good.
    pub fn silence(&self) {
        self.silent.store(true, Ordering::SeqCst);
        self.say(SILENT);
    }

    fn say(&self, what: u32) {
        self.word().swap(what, Ordering::SeqCst);
        // Looked at afterwards: nobody shall lie down upon what was said over `SILENT`.
        if self.silent.load(Ordering::SeqCst) {
            self.word().swap(SILENT, Ordering::SeqCst);
            futex::wake(self.word());
        }
    }

    /// Calls `rung` whenever the bell was rung and not [disarmed](Self::disarm) since, until
    /// [silenced](Self::silence). There is to be one listener.
    pub fn listen(&self, mut rung: impl FnMut()) {
        // An end in case somebody scribbles over the bell just when it is silenced.
        const LONG: Duration = Duration::from_secs(60);
        loop {
            let said = self.word().load(Ordering::SeqCst);
            if self.silent.load(Ordering::SeqCst) {
                return;
            }
            if said != AWAKE {
                futex::wait(self.word(), said, LONG);
            } else if self.hear() {
                rung();
            }
            // Else the port has said something else since, and looks anyway. Not to lie down upon AWAKE
            // all the same: it may be rung again by then.
        }
    }

    /// Makes a bell that was rung one that was heard. `false` if it was not: the port has said something
    /// else since.
    fn hear(&self) -> bool {
        let word = self.word();
        word.compare_exchange(AWAKE, UP, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }
}
