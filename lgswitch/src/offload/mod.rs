//! Finishing what a guest left to its network card, for a peer that cannot.
//!
//! A guest may send a frame whose checksum is still to be computed, or 64 KiB of TCP that are to be
//! cut to packets. Most peers take such frames as they are. For one that does not, the sender does
//! the card's work here: [`checksum`] sums, [`segment`] cuts, [`unsaid`] finds out where nobody said. Header and frame come from a guest
//! and may say anything; what makes no sense is refused.

pub mod checksum;
pub mod segment;
pub mod unsaid;

use crate::frame::{Gather, VnetHeader};

/// Why a frame could not be finished: its header does not fit its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the virtio-net header does not fit the frame")]
pub struct Malformed;

/// Frames ready for a plain wire, one after another in one buffer that is used again.
#[derive(Debug, Default)]
pub struct Finished {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// A frame as it was handed over, in one piece and out of the guest's reach.
    copy: Vec<u8>,
}

impl Finished {
    /// As [`finish`], for a frame in pieces that others may change meanwhile: it is copied first.
    pub fn finish(&mut self, header: &VnetHeader, frame: &Gather<'_>) -> Result<(), Malformed> {
        let mut copy = std::mem::take(&mut self.copy);
        copy.resize(frame.len(), 0);
        frame.peek(&mut copy);
        let result = finish(header, &copy, self);
        self.copy = copy;
        result
    }

    /// The frames.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, &end)| &self.bytes[start..end])
    }

    /// Starts a frame with a copy of `bytes`; gives it, to be completed.
    fn push(&mut self, parts: [&[u8]; 2]) -> &mut [u8] {
        let start = self.bytes.len();
        parts
            .iter()
            .for_each(|part| self.bytes.extend_from_slice(part));
        self.ends.push(self.bytes.len());
        &mut self.bytes[start..]
    }
}

/// Does for `frame` what `header` leaves to be done. `out` then holds one frame or several.
pub fn finish(header: &VnetHeader, frame: &[u8], out: &mut Finished) -> Result<(), Malformed> {
    out.bytes.clear();
    out.ends.clear();
    if header.gso_type == VnetHeader::GSO_NONE {
        let frame = out.push([frame, &[]]);
        if header.flags & VnetHeader::NEEDS_CHECKSUM != 0 {
            checksum::complete(frame, header.checksum_start, header.checksum_offset)?;
        }
        Ok(())
    } else {
        segment::cut(header, frame, out)
    }
}
