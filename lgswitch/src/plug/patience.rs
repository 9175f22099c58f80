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

/// A frame waits in steps: short enough for a receiver that is only a little behind.
const STEP: Duration = Duration::from_micros(50);
const STEPS: u32 = 20;
/// How long a receiver that wasted our patience is not waited for.
const GRUDGE: Duration = Duration::from_millis(100);

/// The patience of one sender.
#[derive(Debug, Default)]
pub struct Patience {
    /// Receivers not to be waited for, and until when.
    grudges: Vec<(SlotIndex, Instant)>,
}

impl Patience {
    /// Sends a frame; waits a moment if its receiver's ring is full, then drops it (counted).
    #[inline]
    pub fn send(&mut self, tx: &mut PortTx, header: &VnetHeader, frame: &Gather<'_>) {
        if let Sent::Full(slot) = tx.send(header, frame) {
            self.insist(tx, header, frame, slot);
        }
    }

    #[cold]
    fn insist(
        &mut self,
        tx: &mut PortTx,
        header: &VnetHeader,
        frame: &Gather<'_>,
        mut slot: SlotIndex,
    ) {
        let now = Instant::now();
        self.grudges.retain(|(_, until)| *until > now);
        if self.grudges.iter().all(|(held, _)| *held != slot) {
            for _ in 0..STEPS {
                // Let them see what there is, and have a moment to make room.
                tx.flush();
                std::thread::sleep(STEP);
                match tx.send(header, frame) {
                    Sent::Full(still) => slot = still,
                    Sent::Done | Sent::Dropped(_) => return,
                }
            }
            self.grudges.push((slot, Instant::now() + GRUDGE));
        }
        tx.give_up();
    }
}
