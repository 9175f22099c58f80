//! How long a frame may wait for room in its receiver's ring.
//!
//! A guest's transmit queue can push back, and TCP does better waiting than losing. But the frames
//! behind it wait too, so it is a moment and no more; and a receiver that did not make room in that
//! moment is not waited for again for a while, so one that stands still costs the others a
//! hundredth of the time. For a receiver that is dead [`PortTx`] finds out itself.

use std::time::{Duration, Instant};

use crate::frame::{Gather, VnetHeader};
use crate::port::{PortTx, Sent};
use crate::slot::SlotIndex;

/// Between two tries: short enough for a receiver that is only a little behind.
pub const STEP: Duration = Duration::from_micros(50);
/// How long one frame waits: as long as a receiver that works may be without a processor.
const MOMENT: Duration = Duration::from_millis(10);
/// How long a receiver that wasted our patience is not waited for.
const GRUDGE: Duration = Duration::from_secs(1);

/// The patience of one sender whose frames go in their order.
#[derive(Debug, Default)]
pub struct Patience {
    /// Since when the frame at hand waits.
    since: Option<Instant>,
    /// Receivers not to be waited for, and until when.
    grudges: Vec<(SlotIndex, Instant)>,
}

impl Patience {
    /// Sends a frame, or drops it (counted) if it has waited long enough. `false`: its receiver's
    /// ring is full, and it is to be offered again soon, before any other.
    #[inline]
    pub fn offer(&mut self, tx: &mut PortTx, header: &VnetHeader, frame: &Gather<'_>) -> bool {
        self.judge(tx.send(header, frame), tx)
    }

    /// Whether a frame is dealt with, this having become of it.
    #[inline]
    fn judge(&mut self, sent: Sent, tx: &mut PortTx) -> bool {
        if let Sent::Full(slot) = sent {
            return self.is_over(slot, tx);
        }
        self.since = None;
        true
    }

    /// As [`send`](Self::send), to the port at `slot` whatever address the frame bears. Tells what became
    /// of it.
    pub fn send_to(
        &mut self,
        slot: SlotIndex,
        tx: &mut PortTx,
        header: &VnetHeader,
        frame: &Gather<'_>,
    ) -> Sent {
        loop {
            let sent = tx.send_to(slot, header, frame);
            if self.judge(sent, tx) {
                return sent;
            }
            tx.flush();
            std::thread::sleep(STEP);
        }
    }

    /// Sends a frame; waits a moment if its receiver's ring is full, then drops it (counted).
    #[inline]
    pub fn send(&mut self, tx: &mut PortTx, header: &VnetHeader, frame: &Gather<'_>) {
        while !self.offer(tx, header, frame) {
            // Let them see what there is, and have a moment to make room.
            tx.flush();
            std::thread::sleep(STEP);
        }
    }

    /// Whether a frame has waited long enough for `slot`, and is dropped.
    #[cold]
    fn is_over(&mut self, slot: SlotIndex, tx: &mut PortTx) -> bool {
        let now = Instant::now();
        self.grudges.retain(|(_, until)| *until > now);
        if self.grudges.iter().all(|(held, _)| *held != slot) {
            if now - *self.since.get_or_insert(now) < MOMENT {
                return false;
            }
            self.grudges.push((slot, now + GRUDGE));
        }
        self.since = None;
        tx.give_up();
        true
    }
}
