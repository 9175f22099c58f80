//! Capture: what passes on a segment, kept or shown as a plain wire would have carried it.
//!
//! # The tour
//!
//! 1. [`monitor`]: a promiscuous port that never sends. Frames come in as their senders left them;
//!    here their checksums are completed and large segments cut.
//! 2. [`sources`]: whose packets these are, and how many of them never reached us.
//! 3. A [`Sink`] takes the packets: [`writer`] makes a [`pcapng`] file, a pipe or a ring of files of
//!    them, [`printer`] prints a line for each, from what [`summary`] reads in it. [`output`] is
//!    where the bytes of either go.
//! 4. Here: [`run`] carries packets from the monitor to the sink until a limit is reached.
//!
//! A monitor is not free of charge for those it listens to: each unicast frame is written once more,
//! for it. Nobody ever waits for it, though; a copy for which its ring has no room is counted by the
//! sender and not made.

pub mod monitor;
pub mod output;
pub mod pcapng;
pub mod printer;
pub mod sources;
pub mod summary;
pub mod writer;

use std::fmt;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

pub use monitor::{Form, Monitor, Packet};
pub use output::{Output, OutputError};
pub use printer::Printer;
pub use sources::{Losses, Sources};
pub use writer::Writer;

/// Frames taken between two looks at clock and limits.
const BURST: usize = 64;
/// How often senders are asked what they could not hand us, and a pipe whether it has a reader.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How long at most it goes on with what is there, after it was told to end.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// Where packets go.
pub trait Sink {
    /// The capture starts: what may have been there goes.
    fn begin(&mut self) -> Result<(), OutputError>;
    /// Takes a packet, if there is room.
    fn packet(&mut self, packet: &Packet<'_>, sources: &Sources) -> Result<Room, OutputError>;
    /// Nothing more comes for now: whoever reads along sees everything so far.
    fn flush(&mut self) -> Result<(), OutputError>;
    /// Nothing more comes at all.
    fn finish(&mut self, sources: &Sources) -> Result<(), OutputError>;
    /// Whether whoever read along has gone.
    fn reader_is_gone(&self) -> bool;
}

/// Whether a packet was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It was.
    Taken,
    /// It was not, nor will any other be.
    Full,
}

/// When a capture ends by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// After so many packets.
    pub count: Option<NonZeroU64>,
    /// After so long.
    pub duration: Option<Duration>,
}

/// Why a capture ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// It was told to.
    Stopped,
    /// It has the packets it was to have.
    Count,
    /// Its time is over.
    Duration,
    /// The next packet would not fit the size it was to keep to.
    Size,
    /// Nobody reads any more.
    ReaderGone,
}

/// What came of a capture.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Account {
    /// Packets kept or shown.
    pub packets: u64,
    /// Frames that were not, though they passed.
    pub dropped: Losses,
    /// Why it ended.
    pub end: End,
}

/// "12 packets captured, 3 dropped (3 copy-full); that is the count asked for"
impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.packets == 1 { "" } else { "s" };
        write!(f, "{} packet{plural} captured, ", self.packets)?;
        match self.dropped.total() {
            0 => f.write_str("none dropped")?,
            total => write!(f, "{total} dropped ({})", self.dropped)?,
        }
        f.write_str(match self.end {
            End::Stopped => "",
            End::Count => "; that is the count asked for",
            End::Duration => "; the time asked for is over",
            End::Size => "; the size asked for is full",
            End::ReaderGone => "; its reader has gone",
        })
    }
}

/// Captures until a limit is reached, `stop` is set (and the monitor's caller called), or the sink
/// is full or has lost its reader. Whatever the end, the sink is finished.
///
/// Fails if the sink can't be written; then what it has is as whole as it could be made.
pub fn run(
    monitor: &mut Monitor,
    sink: &mut dyn Sink,
    limits: &Limits,
    stop: &AtomicBool,
) -> Result<Account, OutputError> {
    let mut packets = 0;
    let end = match carry(monitor, sink, limits, stop, &mut packets) {
        Err(OutputError::ReaderGone) => End::ReaderGone,
        end => end?,
    };
    monitor.settle_accounts();
    match sink.finish(monitor.sources()) {
        Err(OutputError::ReaderGone) => {}
        finished => finished?,
    }
    let dropped = monitor.sources().losses();
    Ok(Account {
        packets,
        dropped,
        end,
    })
}

fn carry(
    monitor: &mut Monitor,
    sink: &mut dyn Sink,
    limits: &Limits,
    stop: &AtomicBool,
    packets: &mut u64,
) -> Result<End, OutputError> {
    let started = Instant::now();
    let mut housekeeping = started;
    sink.begin()?;
    // A reader of a pipe is to know that there is a capture before there are packets.
    sink.flush()?;
    let mut stopped: Option<Instant> = None;
    loop {
        if stopped.is_none() && stop.load(Ordering::Acquire) {
            stopped = Some(Instant::now());
        }
        let left = limits.duration.map(|d| d.saturating_sub(started.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(End::Duration);
        }
        let mut end = None;
        let handled = monitor.recv(BURST, |packet, sources| {
            match sink.packet(packet, sources) {
                Ok(Room::Taken) => *packets += 1,
                Ok(Room::Full) => end = Some(Ok(End::Size)),
                Err(error) => end = Some(Err(error)),
            }
            if limits.count.is_some_and(|count| *packets >= count.get()) && end.is_none() {
                end = Some(Ok(End::Count));
            }
            end.is_none()
        });
        if let Some(end) = end {
            return end;
        }
        // What was there when it was told to end still counts, as far as there is an end to it.
        if stopped.is_some_and(|at| handled == 0 || at.elapsed() >= LAST_LOOK) {
            return Ok(End::Stopped);
        }
        if housekeeping.elapsed() >= HOUSEKEEPING {
            housekeeping = Instant::now();
            monitor.settle_accounts();
            if sink.reader_is_gone() {
                return Err(OutputError::ReaderGone);
            }
        }
        if handled == 0 {
            sink.flush()?;
            monitor.wait(left.map_or(HOUSEKEEPING, |left| left.min(HOUSEKEEPING)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_one_sentence() {
        let mut account = Account {
            packets: 1,
            dropped: Losses::default(),
            end: End::Count,
        };
        assert_eq!(
            account.to_string(),
            "1 packet captured, none dropped; that is the count asked for"
        );
        account.packets = 20;
        account.end = End::Stopped;
        account.dropped.lapped = 3;
        account.dropped.copy_full = 4;
        assert_eq!(
            account.to_string(),
            "20 packets captured, 7 dropped (3 lapped, 4 copy-full)"
        );
    }
}
