//! A port: a slot that is held, and its two halves.
//!
//! # What a port promises
//!
//! 1. **Crash-safe.** SIGKILL of any process at any instruction never blocks, corrupts or slows
//!    another port, and loses only the frames in flight to or from the dead one. (No lock is held
//!    on the packet path, every word there has one writer, and whoever takes a slot next sets its
//!    positions to what it finds.)
//! 2. **Hostile-safe.** All shared bytes may change at any time. A peer can drop, forge or garble
//!    traffic (one file is one trust domain) but never make another process panic, loop without
//!    bound, read or write outside the mapping, or die of SIGBUS without a clear message. (Lengths
//!    and positions are read once, checked, then used; positions we rely on are in private memory.)
//! 3. **Ethernet semantics.** The order between a pair of ports is kept. A full ring costs only its
//!    own pair: the frame is dropped and counted, and frames to other ports are not held up. A source
//!    that can push back may hold that frame for a bounded moment ([`Sent::Full`]), never for a dead
//!    peer. Unicast goes by the peers page, then by what the port has learned, then to all;
//!    multicast to all. 802.1Q tags pass untouched, and frames up to 64 KiB.
//! 4. **Offloads cross the wire.** A frame carries a virtio-net header. A peer that takes the frame
//!    as it is gets it untouched; for one that does not, the sender completes and cuts it.
//! 5. **Idle is free, busy is fast.** A waiting port sleeps on its doorbell; a source rings once a
//!    burst, and makes a system call only if the receiver sleeps. The first use of a ring makes sure
//!    of its pages, so a full filesystem is a counted drop.
//! 6. **Seen.** Every frame is counted once: sent, received, or dropped with a reason
//!    ([`counters`]).

pub mod counters;
mod rx;
mod take;
#[cfg(all(test, not(lgswitch_loom)))]
mod tests;
mod tx;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use pnet_base::MacAddr;

pub use rx::{PortRx, Verdict};
pub use tx::{PortTx, Sent};

use crate::doorbell;
use crate::fdb::Fdb;
use crate::frame::Offloads;
use crate::layout::slot_record as rec;
use crate::layout::{self, MAC_BYTES, PAGE, PAIR_BYTES, PROMISCUOUS};
use crate::lock;
use crate::map::Mapping;
use crate::peers;
use crate::segment::{Error, Segment, io_error, seconds_since_1970};
use crate::slot::{SLOT_WORDS, SlotIndex};
use crate::sync::{AtomicBool, fence};

/// How a port is to be.
#[derive(Debug, Clone)]
pub struct PortOptions {
    /// Its address on the peers page. A random locally administered one if none is given.
    pub mac: Option<MacAddr>,
    /// That slot and no other; else the first free one.
    pub slot: Option<SlotIndex>,
    /// Wants every frame.
    pub promiscuous: bool,
    /// Its address, and whether it wants every frame, is for its guest to write on the peers page and
    /// not for the port, as guests of 2007 do when they bring their interface up: until then nobody
    /// is there. `mac` and `promiscuous` say nothing then.
    pub guest_writes_address: bool,
    /// What it takes unfinished; can be changed later.
    pub offloads: Offloads,
    /// What the holder calls itself, for `lgswitch inspect`; at most 64 bytes of it are shown.
    pub name: String,
}

impl Default for PortOptions {
    fn default() -> Self {
        Self {
            mac: None,
            slot: None,
            promiscuous: false,
            guest_writes_address: false,
            offloads: Offloads::NONE,
            name: String::new(),
        }
    }
}

/// A random MAC that belongs to nobody: locally administered (IEEE 802-2014, 8.4), not a group's.
pub fn random_mac() -> std::io::Result<MacAddr> {
    let mut bytes = [0; 5];
    getrandom::fill(&mut bytes)?;
    let [a, b, c, d, e] = bytes;
    Ok(MacAddr::new(0x02, a, b, c, d, e))
}

/// What the two halves of a port share: the slot, until both are gone.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) segment: Arc<Segment>,
    pub(crate) slot: SlotIndex,
    /// All zero if it is not ours to write.
    pub(crate) mac: MacAddr,
    /// The same as a number.
    pub(crate) mac_number: u64,
    /// It wants every frame.
    promiscuous: bool,
    pub(crate) fdb: Fdb,
    /// What we take unfinished. The slot record shows it to senders; we go by this.
    offloads: AtomicU32,
    /// The receiving half is wanted for something else than a frame.
    called: AtomicBool,
    /// Carries the lock on the slot's byte. Its description is this port's own.
    lock: File,
}

impl Held {
    pub(crate) fn control(&self) -> &Mapping {
        self.segment.control()
    }

    /// Where the slot's record is.
    pub(crate) fn record(&self) -> u64 {
        self.segment.geometry().slot(self.slot.get())
    }

    /// What this port takes unfinished.
    #[inline]
    pub(crate) fn offloads(&self) -> Offloads {
        Offloads::from_bits(self.offloads.load(Ordering::Relaxed))
    }

    /// Tells senders what it takes.
    fn reassert_offloads(&self) {
        let word = self.control().word32(self.record() + rec::OFFLOADS);
        word.store(self.offloads().bits(), Ordering::Release);
    }

    /// Everything is in place: lets the others see us.
    fn announce(&self) {
        self.set_live();
        self.show_address();
        self.raise_high_water();
    }

    /// The first byte goes last, for it says that the rest is there.
    fn show_address(&self) {
        if self.mac.is_zero() {
            return;
        }
        let (control, at) = (self.control(), address(self.slot));
        let MacAddr(first, a, b, c, d, e) = self.mac;
        for (i, byte) in (1..).zip([a, b, c, d, e]) {
            control.byte(at + i).store(byte, Ordering::Relaxed);
        }
        let all = if self.promiscuous { PROMISCUOUS } else { 0 };
        control.byte(at).store(first | all, Ordering::Release);
    }

    /// Lets the others look this far; tells how far we have to.
    fn raise_high_water(&self) -> usize {
        let high_water = self.control().word32(layout::HEADER_HIGH_WATER);
        let mine = self.slot.get() + 1;
        let before = high_water.fetch_max(mine as u32, Ordering::AcqRel) as usize;
        before.clamp(mine, self.segment.slots())
    }

    /// Makes sure of the pair records of what the slots below `sources` send us.
    fn populate_pairs(&self, sources: usize) -> io::Result<()> {
        let geometry = self.segment.geometry();
        let row = geometry.pair(0, self.slot.get());
        let bytes = (sources as u64 * PAIR_BYTES).next_multiple_of(PAGE);
        self.control().populate(self.segment.file(), 0, row, bytes)
    }

    /// Says again what somebody may have scribbled over. An address that is there stands, whatever it is: a
    /// guest of 2007 writes its own.
    pub(crate) fn reassert(&self) {
        let first = self.control().byte(address(self.slot));
        if first.load(Ordering::Relaxed) == layout::UNUSED {
            self.show_address();
        }
        self.set_live();
        self.raise_high_water();
        self.reassert_offloads();
    }

    /// The slot's record is filled in.
    fn set_live(&self) {
        let state = self.control().word32(self.record() + rec::STATE);
        state.store(rec::LIVE, Ordering::Release);
    }

    /// Marks `slot` free if its holder is gone without having done so. Guarding its byte for that
    /// moment is what makes it safe: nobody else can be taking the slot.
    pub(crate) fn bury_if_dead(&self, slot: SlotIndex) -> bool {
        let byte = slot.get() as u64;
        if slot == self.slot || !matches!(lock::try_guard(&self.lock, byte..byte + 1), Ok(true)) {
            return false;
        }
        mark_free(&self.segment, slot);
        // If this fails the descriptor is bad, and no lock is left on it.
        let _ = lock::unlock(&self.lock, byte..byte + 1);
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        #[cfg(lgswitch_loom)]
        let _closing = crate::model::lock::Closing(&self.lock);
        mark_free(&self.segment, self.slot);
        // It would go with the last descriptor, but a child that was forked and has not execed yet
        // may have one. If this fails ours is bad, and no lock is left on it.
        let byte = self.slot.get() as u64;
        let _ = lock::unlock(&self.lock, byte..byte + 1);
    }
}

/// Where a slot's address is on the peers page.
fn address(slot: SlotIndex) -> u64 {
    (slot.get() * MAC_BYTES) as u64
}

fn mark_free(segment: &Segment, slot: SlotIndex) {
    let control = segment.control();
    let record = segment.geometry().slot(slot.get());
    let at = address(slot);
    for byte in 0..MAC_BYTES as u64 {
        control.byte(at + byte).store(0, Ordering::Release);
    }
    control
        .word32(record + rec::STATE)
        .store(rec::FREE, Ordering::Release);
}

/// A port, whole. Dropping it gives the slot back.
#[derive(Debug)]
pub struct Port {
    held: Arc<Held>,
    tx: PortTx,
    rx: PortRx,
}

/// A slot that is held and has no address: nobody sends there. Dropping it gives the slot back.
#[derive(Debug)]
pub struct Reservation(Held);

impl Reservation {
    /// The slot.
    pub fn slot(&self) -> SlotIndex {
        self.0.slot
    }
}

impl Segment {
    /// Takes a slot and joins the segment.
    pub fn port(self: &Arc<Self>, options: PortOptions) -> Result<Port, Error> {
        let mac = match options.mac {
            _ if options.guest_writes_address => MacAddr::zero(),
            Some(mac) if mac.0 == layout::UNUSED || mac.is_multicast() => {
                let path = self.path().to_owned();
                return Err(Error::Mac { path, mac });
            }
            Some(mac) => mac,
            None => random_mac().map_err(io_error("draw a MAC for", self.path()))?,
        };
        // From here on, dropping `held` undoes everything.
        let held = Arc::new(self.take(&options, mac)?);
        let generation = settle(&held, &options);
        // First, for a source that is not among them has not sent anything yet: it looks this far
        // only after us.
        let sources = held.raise_high_water();
        held.populate_pairs(sources)
            .map_err(io_error("make room for a port of", self.path()))?;
        let tx = PortTx::new(Arc::clone(&held), generation);
        let rx = PortRx::new(Arc::clone(&held), sources);
        let port = Port { held, tx, rx };
        port.held.announce();
        Ok(port)
    }

    /// Takes a slot and does not join, so that nobody else has it.
    pub fn hold(
        self: &Arc<Self>,
        slot: Option<SlotIndex>,
        name: &str,
    ) -> Result<Reservation, Error> {
        let options = PortOptions {
            slot,
            name: name.to_owned(),
            ..PortOptions::default()
        };
        let held = self.take(&options, MacAddr::zero())?;
        settle(&held, &options);
        held.set_live();
        Ok(Reservation(held))
    }

    fn take(self: &Arc<Self>, options: &PortOptions, mac: MacAddr) -> Result<Held, Error> {
        let lock = self.reopen()?;
        let slot = take::slot(self, &lock, options.slot)?;
        Ok(Held {
            segment: Arc::clone(self),
            slot,
            mac_number: peers::number(&mac),
            mac,
            promiscuous: options.promiscuous,
            fdb: Fdb::default(),
            offloads: AtomicU32::new(options.offloads.bits()),
            called: AtomicBool::new(false),
            lock,
        })
    }
}

impl Port {
    /// Its slot.
    pub fn slot(&self) -> SlotIndex {
        self.held.slot
    }

    /// Its address on the peers page; all zero if that is for its guest to write.
    pub fn mac(&self) -> MacAddr {
        self.held.mac
    }

    /// Its segment.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.held.segment
    }

    #[cfg(all(test, lgswitch_loom))]
    pub(crate) fn held(&self) -> &Held {
        &self.held
    }

    /// The two halves, each for a thread of its own.
    pub fn split(self) -> (PortTx, PortRx) {
        (self.tx, self.rx)
    }
}

/// Fills in the slot's record; tells its generation. Nobody sends to it before it is announced.
fn settle(held: &Held, options: &PortOptions) -> u64 {
    let (control, record) = (held.control(), held.record());
    mark_free(&held.segment, held.slot);
    let generation = control.word64(record + rec::GENERATION);
    // One writer: we have the lock.
    let next = generation.load(Ordering::Relaxed).wrapping_add(1);
    generation.store(next, Ordering::Release);
    control
        .word32(record + rec::PID)
        .store(std::process::id(), Ordering::Relaxed);
    held.reassert_offloads();
    control
        .word64(record + rec::SINCE)
        .store(seconds_since_1970(), Ordering::Relaxed);
    let mut name = [0; rec::NAME_BYTES];
    let shown = options.name.floor_char_boundary(rec::NAME_BYTES);
    name[..shown].copy_from_slice(&options.name.as_bytes()[..shown]);
    control.write(record + rec::NAME, &name);
    for word in 0..SLOT_WORDS as u64 {
        control
            .word64(record + rec::PENDING + word * 8)
            .store(0, Ordering::Relaxed);
    }
    control
        .word32(record + rec::BELL)
        .store(doorbell::AWAKE, Ordering::Relaxed);
    let zero = counters::Counters::default();
    zero.show(control, record + rec::SENT);
    zero.show(control, record + rec::RECEIVED);
    next
}

/// Calls the receiving half out of its sleep.
#[derive(Debug, Clone)]
pub struct Caller(Arc<Held>);

impl Caller {
    /// [`PortRx::wait`] returns now, or as soon as it is next called.
    pub fn call(&self) {
        self.0.called.store(true, Ordering::SeqCst);
        // The sleeper stores its bell, then looks whether it was called; we the other way round.
        fence(Ordering::SeqCst);
        doorbell::wake(self.0.control().word32(self.0.record() + rec::BELL));
    }

    /// Tells senders what this port takes unfinished from now on.
    pub fn set_offloads(&self, offloads: Offloads) {
        // A frame that comes between the two stores is dropped, and counted.
        self.0.offloads.store(offloads.bits(), Ordering::Relaxed);
        self.0.reassert_offloads();
    }
}
