//! The monitor: a promiscuous port that never sends, and what it makes of the frames it hears.
//!
//! It says that it takes every offload, so senders hand it what they hand each other, and do no work
//! for its sake. What they left to a network card is done here: a frame leaves as the packets a plain
//! wire would have carried, or with [`Form::AsSent`] as one packet of whatever size, its lengths and
//! checksums set.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::sources::{SourceId, Sources};
use crate::frame::{Offloads, VnetHeader};
use crate::offload::{self, Finished};
use crate::port::{Caller, Verdict};
use crate::segment::Error;
use crate::slot::{SlotIndex, SlotSet};
use crate::{Frame, PortOptions, PortRx, Segment};

/// What is made of a frame that its sender left to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// Packets of the size that goes over a wire.
    #[default]
    Cut,
    /// One packet, as large as it was sent. (One that IP has no length for is cut all the same.)
    AsSent,
}

/// A packet, complete.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// When its frame was received, since 1970.
    pub time: Duration,
    /// Who sent it.
    pub source: SourceId,
    /// Ethernet header and payload.
    pub bytes: &'a [u8],
    /// What could not be done for it.
    pub flaw: Option<Flaw>,
}

/// Why a packet is not as a wire would have carried it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Its virtio-net header asks for what does not fit the frame: it is as its sender left it.
    Unfinished,
}

impl Flaw {
    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Flaw::Unfinished => "its virtio-net header does not fit it; left as it was sent",
        }
    }
}

/// The monitor. Dropping it gives its slot back.
#[derive(Debug)]
pub struct Monitor {
    rx: PortRx,
    sources: Sources,
    form: Form,
    /// Only what these sent; everyone if there is none.
    only: Option<SlotSet>,
    bytes: Vec<u8>,
    finished: Finished,
}

impl Monitor {
    /// Takes a slot of `segment`, to hear what `only` these slots send, or everyone if it is empty.
    pub fn join(segment: &Arc<Segment>, only: &[SlotIndex], form: Form) -> Result<Self, Error> {
        let slots = segment.slots();
        if let Some(&slot) = only.iter().find(|slot| slot.get() >= slots) {
            let path = segment.path().to_owned();
            return Err(Error::NoSuchSlot { path, slot, slots });
        }
        let only = (!only.is_empty()).then(|| {
            let mut set = SlotSet::new();
            only.iter().for_each(|&slot| set.insert(slot));
            set
        });
        let port = segment.port(PortOptions {
            promiscuous: true,
            offloads: Offloads::ALL,
            name: "capture".into(),
            ..PortOptions::default()
        })?;
        // The half that would send is not wanted; the other keeps the slot.
        let (_, rx) = port.split();
        Ok(Self {
            sources: Sources::new(Arc::clone(segment), rx.slot(), only.as_ref()),
            rx,
            form,
            only,
            bytes: Vec::new(),
            finished: Finished::default(),
        })
    }

    /// Its own slot.
    pub fn slot(&self) -> SlotIndex {
        self.rx.slot()
    }

    /// Something to call it out of [`wait`](Self::wait) with.
    pub fn caller(&self) -> Caller {
        self.rx.caller()
    }

    /// Whose packets these are, and what was lost.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Counts what was lost up to now.
    pub fn settle_accounts(&mut self) {
        self.sources.settle(&self.rx);
    }

    /// Sleeps until there is something, it is called, or `timeout` is over. May return early.
    pub fn wait(&mut self, timeout: Duration) {
        self.rx.wait(timeout);
    }

    /// Hands over the packets of up to `budget` frames, until `take` says that it wants no more.
    /// Tells how many frames there were.
    pub fn recv(
        &mut self,
        budget: usize,
        mut take: impl FnMut(&Packet<'_>, &Sources) -> bool,
    ) -> usize {
        let Self {
            rx,
            sources,
            form,
            only,
            bytes,
            finished,
        } = self;
        let mut wanted = true;
        rx.recv(budget, |frame: &Frame<'_>| {
            if !wanted {
                return Verdict::Later;
            }
            if only.as_ref().is_some_and(|only| !only.contains(frame.from)) {
                return Verdict::Taken;
            }
            let time = SystemTime::now().duration_since(UNIX_EPOCH);
            // Copied once, then read: its sender may still be writing it.
            bytes.resize(frame.bytes.len(), 0);
            frame.bytes.copy_to(bytes);
            let mut packet = Packet {
                time: time.unwrap_or_default(),
                source: sources.of(frame.from),
                bytes,
                flaw: None,
            };
            if !frame.header.is_unfinished() {
                wanted = take(&packet, sources);
            } else if finish(*form, &frame.header, bytes, finished).is_ok() {
                wanted = finished
                    .frames()
                    .all(|bytes| take(&Packet { bytes, ..packet }, sources));
            } else {
                packet.flaw = Some(Flaw::Unfinished);
                wanted = take(&packet, sources);
            }
            Verdict::Taken
        })
    }
}

/// Completes a frame, in the form that is asked for.
fn finish(
    form: Form,
    header: &VnetHeader,
    frame: &[u8],
    out: &mut Finished,
) -> Result<(), offload::Malformed> {
    if form == Form::AsSent && header.gso_type != VnetHeader::GSO_NONE {
        // Cut to pieces as large as IP has lengths for, which is one piece.
        let whole = VnetHeader {
            gso_size: u16::MAX,
            ..*header
        };
        if offload::finish(&whole, frame, out).is_ok() {
            return Ok(());
        }
    }
    offload::finish(header, frame, out)
}
