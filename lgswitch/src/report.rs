//! What can be seen of a segment from outside: the table of `lgswitch inspect`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::layout::slot_record as rec;
use crate::layout::{MAC_BYTES, MAX_SLOTS};
use crate::lock::{self, Holder};
use crate::map::Mapping;
use crate::peers;
use crate::port::counters::{Counters, RX_REASONS, TX_REASONS};
use crate::segment::{Error, OnePage, Segment, Viewed};
use crate::slot::SlotIndex;

/// A segment as it is at this moment.
#[derive(Debug, Serialize)]
pub struct SegmentReport {
    /// The file.
    pub path: String,
    /// Version of the format; 0 is the seed's one page.
    pub version: u32,
    /// Its name for good; empty for a one-page file.
    pub uuid: String,
    /// When it was made, seconds since 1970.
    pub created: Option<u64>,
    /// Largest IP packet of an ordinary frame, in bytes.
    pub mtu: Option<u32>,
    /// Slots it has.
    pub slots: usize,
    /// Slots held.
    pub held: usize,
    /// Bytes of memory or disk it takes.
    pub allocated_bytes: u64,
    /// Slots that are held, or have a MAC on the peers page.
    pub ports: Vec<SlotReport>,
}

/// One slot.
#[derive(Debug, Serialize)]
pub struct SlotReport {
    /// Its number.
    pub slot: usize,
    /// Whether somebody holds its lock.
    pub held: bool,
    /// Its MAC on the peers page.
    pub mac: Option<String>,
    /// Whether it wants every frame.
    pub promiscuous: bool,
    /// The holder's process id: from the kernel for a plain lock, else what the holder wrote.
    pub pid: Option<i32>,
    /// The name of that process's program.
    pub command: Option<String>,
    /// What the holder calls itself.
    pub name: Option<String>,
    /// When it took the slot, seconds since 1970.
    pub since: Option<u64>,
    /// Sent, by a holder that counts.
    pub sent: Option<Traffic>,
    /// Received, by a holder that counts.
    pub received: Option<Traffic>,
}

/// One direction's counters.
#[derive(Debug, Serialize)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Their bytes, Ethernet header included.
    pub bytes: u64,
    /// Frames lost, by reason; reasons that did not occur are left out.
    pub dropped: std::collections::BTreeMap<&'static str, u64>,
}

impl Traffic {
    fn new(counters: &Counters, reasons: &[&'static str]) -> Self {
        Self {
            frames: counters.frames,
            bytes: counters.bytes,
            dropped: reasons
                .iter()
                .zip(counters.dropped)
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| (*reason, count))
                .collect(),
        }
    }
}

impl SegmentReport {
    /// Looks at a segment of either kind.
    pub fn of(viewed: &Viewed) -> Result<Self, Error> {
        match viewed {
            Viewed::Segment(segment) => Self::of_segment(segment),
            Viewed::OnePage(page) => Ok(Self::of_page(page)),
        }
    }

    fn of_segment(segment: &Arc<Segment>) -> Result<Self, Error> {
        let header = segment.header();
        let ports = (0..segment.slots())
            .filter_map(SlotIndex::new)
            .map(|slot| slot_report(segment, slot))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            path: segment.path().display().to_string(),
            version: crate::layout::VERSION,
            uuid: header.uuid.to_string(),
            created: Some(header.created),
            mtu: Some(header.mtu),
            slots: segment.slots(),
            held: ports.iter().filter(|p| p.held).count(),
            allocated_bytes: segment.allocated_bytes(),
            ports: ports
                .into_iter()
                .filter(SlotReport::is_of_interest)
                .collect(),
        })
    }

    fn of_page(page: &OnePage) -> Self {
        let ports: Vec<_> = (0..MAX_SLOTS)
            .map(|slot| {
                let holder = lock::holder(&page.file, slot as u64).unwrap_or(Holder::Free);
                SlotReport::bare(&page.peers, slot, holder)
            })
            .filter(SlotReport::is_of_interest)
            .collect();
        Self {
            path: page.path.display().to_string(),
            version: 0,
            uuid: String::new(),
            created: None,
            mtu: None,
            slots: MAX_SLOTS,
            held: ports.iter().filter(|p| p.held).count(),
            allocated_bytes: crate::layout::PAGE,
            ports,
        }
    }
}

impl SlotReport {
    /// What the peers page and the locks alone tell.
    fn bare(peers: &Mapping, slot: usize, holder: Holder) -> Self {
        let mut mac = [0; MAC_BYTES];
        peers.read((slot * MAC_BYTES) as u64, &mut mac);
        let entry = peers::entry(mac);
        let pid = match holder {
            Holder::Process(pid) => Some(pid),
            _ => None,
        };
        Self {
            slot,
            held: holder != Holder::Free,
            mac: entry.map(|(mac, _)| mac.to_string()),
            promiscuous: entry.is_some_and(|(_, all)| all),
            command: pid.and_then(command),
            pid,
            name: None,
            since: None,
            sent: None,
            received: None,
        }
    }

    fn is_of_interest(&self) -> bool {
        self.held || self.mac.is_some()
    }
}

fn slot_report(segment: &Segment, slot: SlotIndex) -> Result<SlotReport, Error> {
    let holder = segment.holder(slot)?;
    let control = segment.control();
    let mut report = SlotReport::bare(control, slot.get(), holder);
    let record = segment.geometry().slot(slot.get());
    let live = control.word32(record + rec::STATE).load(Ordering::Acquire) == rec::LIVE;
    // A holder of another kind, or none, has left the record as it was.
    if live && holder == Holder::Description {
        let word = |at| control.word64(record + at).load(Ordering::Relaxed);
        report.pid = holder_pid(segment, slot);
        report.command = report.pid.and_then(command);
        report.name = Some(name(control, record)).filter(|n| !n.is_empty());
        report.since = Some(word(rec::SINCE));
        let counters = |at| Counters::read(control, record + at);
        report.sent = Some(Traffic::new(&counters(rec::SENT), &TX_REASONS));
        report.received = Some(Traffic::new(&counters(rec::RECEIVED), &RX_REASONS));
    }
    if holder == Holder::Free {
        // Its holder was killed and nobody has come by since; it is as free as any.
        report.mac = None;
        report.promiscuous = false;
    }
    Ok(report)
}

/// The process that holds `slot`, as far as anyone knows.
pub(crate) fn holder_pid(segment: &Segment, slot: SlotIndex) -> Option<i32> {
    match segment.holder(slot).ok()? {
        Holder::Free => None,
        Holder::Process(pid) => Some(pid),
        Holder::Description => {
            let record = segment.geometry().slot(slot.get());
            let control = segment.control();
            let live = control.word32(record + rec::STATE).load(Ordering::Acquire) == rec::LIVE;
            let pid = control.word32(record + rec::PID).load(Ordering::Relaxed);
            i32::try_from(pid).ok().filter(|&pid| live && pid > 0)
        }
    }
}

/// A holder's name, made fit for a terminal: a hostile one may write anything.
fn name(control: &Mapping, record: u64) -> String {
    let mut bytes = [0; rec::NAME_BYTES];
    control.read(record + rec::NAME, &mut bytes);
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    printable(&String::from_utf8_lossy(&bytes[..end]))
}

fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// The name of a process's program.
fn command(pid: i32) -> Option<String> {
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(printable(comm.trim_end()))
}
