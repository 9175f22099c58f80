//! The pump between a guest's two virtqueues and a port's two halves.
//!
//! Guest to wire: each chain is a virtio-net header and a frame; the frame goes to its ring by one
//! copy straight from the guest's memory. Wire to guest: a frame is copied straight from its ring to
//! the next buffers of the guest, to several of them if it is large and they may be merged.

use vm_memory::GuestMemoryMmap;

use super::virtqueue::{Broken, Chain, Ring, Virtqueue, Writable};
use crate::frame::{Frame, Gather, VnetHeader};
use crate::map::SharedBytes;
use crate::plug::patience::Patience;
use crate::port::{PortRx, PortTx, Verdict};

/// Frames handled before others get a turn at the queue's lock.
const BURST: usize = 64;
/// What the guest and we agreed on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Format {
    /// Bytes of the virtio-net header: 12 with a buffer count, 10 without (5.1.6.1).
    pub header_len: usize,
    /// Whether a frame may span several chains.
    pub mergeable: bool,
}

/// How a burst ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Burst {
    /// There was something, and there may be more.
    More,
    /// Nothing left to do.
    Idle,
    /// Frames wait, and the guest has no buffers.
    NoBuffers,
}

/// A burst's end, and whether the guest is to be interrupted.
pub type Outcome = Result<(Burst, bool), Broken>;

/// Guest to wire.
pub fn transmit(
    memory: &GuestMemoryMmap,
    ring: &mut Ring,
    format: Format,
    tx: &mut PortTx,
    patience: &mut Patience,
) -> Outcome {
    let Some(mut vq) = Virtqueue::open(memory, ring) else {
        return Ok((Burst::Idle, false));
    };
    vq.disable_kicks();
    let mut chain = Chain::default();
    let mut handled = 0;
    while handled < BURST && vq.available()? > 0 {
        vq.chain(0, &mut chain)?;
        send(&mut chain, format, tx, patience);
        vq.take(1);
        vq.give_back(chain.head, 0);
        handled += 1;
    }
    tx.flush();
    let interrupt = vq.show();
    let more = handled == BURST || vq.enable_kicks()?;
    Ok((if more { Burst::More } else { Burst::Idle }, interrupt))
}

fn send(chain: &mut Chain<'_>, format: Format, tx: &mut PortTx, patience: &mut Patience) {
    let mut header = [0; VnetHeader::BYTES];
    Gather::new(&chain.readable).peek(&mut header);
    // Whatever is shorter than header and Ethernet, the port calls malformed.
    skip(&mut chain.readable, format.header_len);
    let header = VnetHeader::decode(&header);
    let frame = Gather::new(&chain.readable);
    patience.send(tx, &header, &frame);
}

/// Drops the first `count` bytes.
fn skip(parts: &mut Vec<SharedBytes<'_>>, mut count: usize) {
    let whole = parts
        .iter()
        .take_while(|part| {
            let gone = part.len() <= count;
            count -= if gone { part.len() } else { 0 };
            gone
        })
        .count();
    parts.drain(..whole);
    if let Some(first) = parts.first_mut() {
        *first = first.part(count, first.len());
    }
}

/// Wire to guest.
pub fn receive(
    memory: &GuestMemoryMmap,
    ring: &mut Ring,
    format: Format,
    rx: &mut PortRx,
) -> Outcome {
    let Some(vq) = Virtqueue::open(memory, ring) else {
        return Ok((discard(rx), false));
    };
    let mut filler = Filler {
        vq,
        format,
        chains: Vec::new(),
        spare: Vec::new(),
        trouble: None,
        short: false,
    };
    let handled = rx.recv(BURST, |frame| filler.put(frame));
    let interrupt = filler.vq.show();
    if let Some(broken) = filler.trouble {
        return Err(broken);
    }
    if filler.short {
        // Ask to be told, then look once more: what came in between was not told.
        let buffers = filler.vq.available()?;
        filler.vq.enable_kicks()?;
        let more = filler.vq.available()? > buffers;
        return Ok((if more { Burst::More } else { Burst::NoBuffers }, interrupt));
    }
    let burst = if handled == 0 {
        Burst::Idle
    } else {
        Burst::More
    };
    Ok((burst, interrupt))
}

/// A guest whose interface is down hears nothing, and nobody waits for it.
pub fn discard(rx: &mut PortRx) -> Burst {
    match rx.recv(BURST, |_| Verdict::Refused) {
        0 => Burst::Idle,
        _ => Burst::More,
    }
}

/// Puts frames into the guest's buffers.
struct Filler<'m, 'q> {
    vq: Virtqueue<'m, 'q>,
    format: Format,
    /// The chains of the frame at hand.
    chains: Vec<Chain<'m>>,
    /// Chains to be used again.
    spare: Vec<Chain<'m>>,
    trouble: Option<Broken>,
    /// The guest had too few buffers.
    short: bool,
}

impl Filler<'_, '_> {
    fn put(&mut self, frame: &Frame<'_>) -> Verdict {
        let verdict = self.try_put(frame).unwrap_or_else(|broken| {
            self.trouble = Some(broken);
            Verdict::Later
        });
        self.short |= verdict == Verdict::Later;
        self.spare.append(&mut self.chains);
        verdict
    }

    fn try_put(&mut self, frame: &Frame<'_>) -> Result<Verdict, Broken> {
        let total = self.format.header_len + frame.bytes.len();
        let available = self.vq.available()?;
        let mut room = 0;
        while room < total {
            let count = self.chains.len() as u16;
            // Waiting would not help.
            if count == self.vq.size() || count > 0 && !self.format.mergeable {
                return Ok(Verdict::Refused);
            }
            if count == available {
                return Ok(Verdict::Later);
            }
            let mut chain = self.spare.pop().unwrap_or_default();
            self.vq.chain(count, &mut chain)?;
            room += chain.room();
            self.chains.push(chain);
        }
        let mut header = [0; 12];
        header[..VnetHeader::BYTES].copy_from_slice(&frame.header.encode());
        header[10..].copy_from_slice(&(self.chains.len() as u16).to_le_bytes());
        let mut cursor = Cursor {
            header: &header[..self.format.header_len],
            frame: frame.bytes,
        };
        self.vq.take(self.chains.len() as u16);
        for chain in &self.chains {
            let written: usize = chain.writable.iter().map(|w| cursor.fill(w)).sum();
            self.vq.give_back(chain.head, written as u32);
        }
        Ok(Verdict::Taken)
    }
}

/// What is left to be written of a header and the frame after it.
struct Cursor<'a> {
    header: &'a [u8],
    frame: SharedBytes<'a>,
}

impl Cursor<'_> {
    /// Writes as much as fits; tells how much.
    fn fill(&mut self, to: &Writable) -> usize {
        let (head, rest) = self.header.split_at(self.header.len().min(to.room()));
        to.write(0, head);
        self.header = rest;
        let part = self.frame.part(0, to.room() - head.len());
        to.copy_from(head.len(), &part);
        self.frame = self.frame.part(part.len(), self.frame.len());
        head.len() + part.len()
    }
}
