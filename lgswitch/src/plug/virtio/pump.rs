//! The pump between a guest's virtqueues and a port's two halves.
//!
//! Guest to wire: each chain is a virtio-net header and a frame; the frame goes to its ring by one
//! copy straight from the guest's memory. Wire to guest: a frame is copied straight from its ring to
//! the next buffers of the guest, to several of them if it is large and they may be merged.

use super::memory::{Access, Memory, Run};
use super::queue::{self, Queue};
use super::rss;
use super::virtqueue::{Broken, Virtqueue};
use crate::frame::{Frame, Gather, VnetHeader};
use crate::map::SharedBytes;
use crate::plug::patience::Patience;
use crate::port::{PortRx, PortTx, Verdict};

/// Frames of a queue handled before the others get their turn.
const BURST: u32 = 64;
/// How many frames before its turn a buffer is fetched, and its descriptor: that comes first.
const AHEAD: u32 = 16;
const FAR_AHEAD: u32 = 48;

/// What the guest and we agreed on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Format {
    /// Bytes of the virtio-net header: 12 with a buffer count, 10 without (5.1.6.1).
    pub header_len: usize,
    /// Whether a frame may span several chains.
    pub mergeable: bool,
}

/// What a burst was like. Of several, the last of these counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Burst {
    /// There was nothing to do.
    Idle,
    /// All frames wait: the guest has no buffers, or their receiver's ring no room.
    Stuck,
    /// Something was done, and there may be more.
    Some,
}

/// Guest to wire: one burst of a transmit queue.
pub fn transmit(
    memory: &Memory,
    queue: &mut Queue,
    tx: &mut PortTx,
    patience: &mut Patience,
) -> Result<Burst, Broken> {
    let format = queue.format;
    let Some(mut vq) = queue.open(memory) else {
        return Ok(Burst::Idle);
    };
    let count = vq.available()?.min(BURST);
    if count == 0 {
        return Ok(Burst::Idle);
    }
    vq.disable_kicks();
    fetch_first(&vq, count, Access::Read);
    let mut parts = Vec::with_capacity(4);
    let mut end = Burst::Stuck;
    for left in (0..count).rev() {
        fetch_next(&vq, left, Access::Read);
        parts.clear();
        let head = vq.chain(0, Access::Read, |run| parts.push(run.bytes()))?;
        if !send(&mut parts, format, tx, patience) {
            break;
        }
        vq.take(1);
        vq.give_back(head, 0);
        end = Burst::Some;
    }
    tx.flush();
    let interrupt = vq.show();
    if interrupt {
        queue.interrupt();
    }
    Ok(end)
}

/// Has the processor fetch what the first chains need, of `count` there are.
fn fetch_first(vq: &Virtqueue<'_, '_>, count: u32, access: Access) {
    (0..count.min(FAR_AHEAD)).for_each(|ahead| vq.prefetch_descriptor(ahead));
    (0..count.min(AHEAD)).for_each(|ahead| vq.prefetch_buffer(ahead, access));
}

/// Has it fetch what comes next, with `left` chains after the one at hand.
#[inline]
fn fetch_next(vq: &Virtqueue<'_, '_>, left: u32, access: Access) {
    if left >= FAR_AHEAD {
        vq.prefetch_descriptor(FAR_AHEAD);
    }
    if left >= AHEAD {
        vq.prefetch_buffer(AHEAD, access);
    }
}

/// Sends a chain; `false` if it must wait.
#[inline]
fn send(
    parts: &mut [SharedBytes<'_>],
    format: Format,
    tx: &mut PortTx,
    patience: &mut Patience,
) -> bool {
    let header = header(parts);
    // Whatever is shorter than header and Ethernet, the port calls malformed.
    let frame = after(parts, format.header_len);
    patience.offer(tx, &header, &Gather::new(frame))
}

/// The header that the bytes start with.
#[inline]
fn header(parts: &[SharedBytes<'_>]) -> VnetHeader {
    if let Some(first) = parts.first()
        && let (Some(low), Some(high)) = (first.array(0), first.array::<2>(8))
    {
        return VnetHeader::from_words([u64::from_le_bytes(low), u16::from_le_bytes(high).into()]);
    }
    let mut bytes = [0; VnetHeader::BYTES];
    Gather::new(parts).peek(&mut bytes);
    VnetHeader::decode(&bytes)
}

/// What is left after the first `count` bytes.
#[inline]
fn after<'p, 'm>(parts: &'p mut [SharedBytes<'m>], mut count: usize) -> &'p [SharedBytes<'m>] {
    let mut whole = 0;
    while let Some(part) = parts.get(whole)
        && part.len() <= count
    {
        count -= part.len();
        whole += 1;
    }
    if let Some(first) = parts.get_mut(whole) {
        *first = first.part(count, first.len());
    }
    &parts[whole..]
}

/// Wire to guest: one burst, to the receive queues among `queues`. A guest whose interface is down
/// has none that runs; it hears nothing, and nobody waits for it.
pub fn receive<'q>(
    memory: &Memory,
    queues: impl Iterator<Item = &'q mut Queue>,
    rx: &mut PortRx,
) -> Result<Burst, Broken> {
    let mut fillers: Vec<_> = queues
        .filter_map(|queue| Filler::new(memory, queue))
        .collect();
    let mut trouble = None;
    let mut stuck = false;
    let handled = rx.recv(BURST as usize, |frame| {
        let count = fillers.len();
        let Some(filler) = fillers.get_mut(rss::queue(frame, count)) else {
            return Verdict::Refused;
        };
        let verdict = filler.put(frame).unwrap_or_else(|broken| {
            trouble = Some(broken);
            Verdict::Later
        });
        stuck |= verdict == Verdict::Later;
        verdict
    });
    for filler in fillers {
        filler.end();
    }
    match trouble {
        Some(broken) => Err(broken),
        None if handled > 0 => Ok(Burst::Some),
        None if stuck => Ok(Burst::Stuck),
        None => Ok(Burst::Idle),
    }
}

/// Puts frames into a guest's buffers.
struct Filler<'m, 'q> {
    vq: Virtqueue<'m, 'q>,
    call: Option<&'q std::fs::File>,
    format: Format,
    /// Chains the guest is known to have made available and that were not taken.
    available: u32,
    /// The buffers of the frame at hand.
    runs: Vec<Run<'m>>,
    /// The chains they are of: what the guest knows each by, and how many of the buffers are its.
    chains: Vec<(u16, usize)>,
}

impl<'m, 'q> Filler<'m, 'q> {
    fn new(memory: &'m Memory, queue: &'q mut Queue) -> Option<Self> {
        let format = queue.format;
        let (vq, call) = queue.open_with_call(memory)?;
        Some(Self {
            vq,
            call,
            format,
            available: 0,
            runs: Vec::new(),
            chains: Vec::new(),
        })
    }

    /// Looks how many chains there are by now. The guest writes that word, so not for every frame.
    #[cold]
    fn look(&mut self) -> Result<(), Broken> {
        let before = std::mem::replace(&mut self.available, self.vq.available()?);
        if self.available > before {
            // Only now: if there is nothing new, the guest is still to tell.
            self.vq.disable_kicks();
            fetch_first(&self.vq, self.available, Access::Write);
        }
        Ok(())
    }

    #[inline]
    fn put(&mut self, frame: &Frame<'_>) -> Result<Verdict, Broken> {
        let total = self.format.header_len + frame.bytes.len();
        self.runs.clear();
        self.chains.clear();
        let mut room = 0;
        while room < total {
            let count = self.chains.len() as u32;
            // Waiting would not help.
            if count == self.vq.size() || count > 0 && !self.format.mergeable {
                return Ok(Verdict::Refused);
            }
            if count == self.available {
                self.look()?;
                if count == self.available {
                    return Ok(Verdict::Later);
                }
            }
            let before = self.runs.len();
            let runs = &mut self.runs;
            let head = self.vq.chain(count, Access::Write, |run| {
                room += run.len();
                runs.push(run);
            })?;
            self.chains.push((head, self.runs.len() - before));
        }
        self.write(frame);
        Ok(Verdict::Taken)
    }

    /// Writes a frame to the buffers at hand, and gives their chains back.
    #[inline]
    fn write(&mut self, frame: &Frame<'_>) {
        let count = self.chains.len() as u32;
        self.vq.take(count);
        self.available -= count;
        fetch_next(&self.vq, self.available, Access::Write);
        let [low, high] = frame.header.words();
        let header = [low, high | u64::from(count) << 16];
        let mut bytes = frame.bytes;
        let mut skip = self.format.header_len;
        let first = self.runs.first();
        if !first.is_some_and(|run| run.write_words(header, skip)) {
            self.write_in_pieces(header);
        }
        let mut runs = self.runs.iter();
        for &(head, parts) in &self.chains {
            let mut written = 0;
            for run in runs.by_ref().take(parts) {
                let before = skip.min(run.len());
                skip -= before;
                let part = bytes.part(0, run.len() - before);
                run.copy_from(before, &part);
                bytes = bytes.part(part.len(), bytes.len());
                written += before + part.len();
            }
            self.vq.give_back(head, written as u32);
        }
    }

    /// Writes the header to buffers too small to have it in one piece.
    #[cold]
    fn write_in_pieces(&self, words: [u64; 2]) {
        let bytes = words.map(u64::to_le_bytes);
        let mut bytes = &bytes.as_flattened()[..self.format.header_len];
        for run in &self.runs {
            let (part, rest) = bytes.split_at(bytes.len().min(run.len()));
            run.write(0, part);
            bytes = rest;
        }
    }

    /// Shows the guest its frames.
    fn end(mut self) {
        if self.vq.show() {
            queue::interrupt(self.call);
        }
    }
}
