//! The sink that keeps packets: pcapng to a file, a pipe, or a ring of files.
//!
//! Each file is a section of its own, with a header, the interfaces its packets came in by and their
//! statistics at the end; any of a ring can be read without the others.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::output::{Output, OutputError};
use super::pcapng::{self, EnhancedPacket, Interface, STATISTICS_BYTES, Statistics};
use super::sources::{SourceId, Sources};
use super::{Packet, Room, Sink};

/// Blocks are written in lots of about this many bytes, or when nothing more comes for now.
const LOT: usize = 128 << 10;
/// The smallest size a file of a ring can be held to: that of a few of the largest packets, each
/// with its interface.
pub const MIN_FILE_SIZE: u64 = 512 << 10;
/// At most what the losses of others take at the end of a file: an interface and its statistics.
const OWN_BYTES: usize = 512 + STATISTICS_BYTES;

/// How packets are kept.
#[derive(Debug, Clone, Default)]
pub struct WriterOptions {
    /// Bytes kept of a packet at most.
    pub snaplen: Option<NonZeroU32>,
    /// Bytes in all files together at most.
    pub size: Option<u64>,
}

/// Files that follow one another.
#[derive(Debug, Clone)]
pub struct Ring {
    /// `lan0.pcapng` makes `lan0-00001.pcapng`, `lan0-00002.pcapng`, and so on.
    pub path: PathBuf,
    /// Bytes in each at most; not less than [`MIN_FILE_SIZE`] is kept to.
    pub file_size: u64,
    /// How many are kept; all, if none is given.
    pub files: Option<NonZeroUsize>,
}

impl Ring {
    /// The name of file `number`.
    fn file(&self, number: u64) -> PathBuf {
        let mut name = OsString::from(self.path.file_stem().unwrap_or_default());
        name.push(format!("-{number:05}"));
        if let Some(extension) = self.path.extension() {
            name.push(".");
            name.push(extension);
        }
        self.path.with_file_name(name)
    }
}

/// A [`Ring`] in use.
#[derive(Debug)]
struct Turn {
    ring: Ring,
    number: u64,
    /// Files made and not taken away, oldest first.
    made: VecDeque<PathBuf>,
}

/// An interface of the file in hand.
#[derive(Debug)]
struct Seen {
    source: SourceId,
    received: u64,
}

/// The sink.
#[derive(Debug)]
pub struct Writer {
    options: WriterOptions,
    output: Output,
    turn: Option<Turn>,
    /// Whole blocks that are not written yet.
    buffer: Vec<u8>,
    /// Blocks in the making.
    blocks: Vec<u8>,
    /// Bytes of the file in hand, and of those before it.
    file_bytes: u64,
    earlier_bytes: u64,
    file_start: Duration,
    interfaces: Vec<Seen>,
    by_source: HashMap<SourceId, u32>,
    /// What the files before this one say was lost, of each source that has lost any.
    told: HashMap<SourceId, u64>,
    /// And of nobody in particular.
    own_told: u64,
}

impl Writer {
    /// Writes to one output.
    pub fn new(output: Output, options: WriterOptions) -> Self {
        Self {
            options,
            output,
            turn: None,
            buffer: Vec::new(),
            blocks: Vec::new(),
            file_bytes: 0,
            earlier_bytes: 0,
            file_start: Duration::ZERO,
            interfaces: Vec::new(),
            by_source: HashMap::new(),
            told: HashMap::new(),
            own_told: 0,
        }
    }

    /// Writes to one file after another; opens the first.
    pub fn ring(ring: Ring, options: WriterOptions) -> Result<Self, OutputError> {
        let first = ring.file(1);
        let mut writer = Self::new(Output::open(&first)?, options);
        writer.turn = Some(Turn {
            ring,
            number: 1,
            made: VecDeque::from([first]),
        });
        Ok(writer)
    }

    /// What was in the file goes, and a section starts.
    fn start_section(&mut self) -> Result<(), OutputError> {
        let application = concat!("lgswitch ", env!("CARGO_PKG_VERSION"));
        self.output.begin()?;
        pcapng::section(&mut self.buffer, application);
        self.file_bytes = self.buffer.len() as u64;
        self.file_start = now();
        self.interfaces.clear();
        self.by_source.clear();
        Ok(())
    }

    /// The interface of a source in the file in hand; describes it in `blocks` if it is new.
    fn interface(&mut self, source: SourceId, sources: &Sources) -> u32 {
        let next = self.interfaces.len() as u32;
        let index = *self.by_source.entry(source).or_insert(next);
        if index == next {
            let described = sources.get(source);
            self.interfaces.push(Seen {
                source,
                received: 0,
            });
            let interface = Interface {
                name: &described.name,
                description: &described.description,
                mac: described.mac,
                snaplen: self.options.snaplen.map_or(0, NonZeroU32::get),
            };
            pcapng::interface(&mut self.blocks, &interface);
        }
        index
    }

    /// Adds the blocks of a packet if they fit below both limits; what they would need if they don't.
    fn add(&mut self, packet: &Packet<'_>, sources: &Sources) -> Added {
        let known = self.interfaces.len();
        self.blocks.clear();
        let interface = self.interface(packet.source, sources);
        let snaplen = self
            .options
            .snaplen
            .map_or(usize::MAX, |n| n.get() as usize);
        let enhanced = EnhancedPacket {
            interface,
            time: packet.time,
            bytes: &packet.bytes[..packet.bytes.len().min(snaplen)],
            original_len: packet.bytes.len(),
            comment: packet.flaw.map(|flaw| flaw.describe()),
        };
        pcapng::packet(&mut self.blocks, &enhanced);
        // The end of the file is to fit too.
        let end = self.interfaces.len() * STATISTICS_BYTES + OWN_BYTES;
        let file = self.file_bytes + (self.blocks.len() + end) as u64;
        let fits_file = |turn: &Turn| file <= turn.ring.file_size || known == 0;
        let added = if self.turn.as_ref().is_some_and(|turn| !fits_file(turn)) {
            Added::FileFull
        } else if self
            .options
            .size
            .is_some_and(|s| self.earlier_bytes + file > s)
        {
            Added::AllFull
        } else {
            self.interfaces[interface as usize].received += 1;
            self.file_bytes += self.blocks.len() as u64;
            self.buffer.append(&mut self.blocks);
            return Added::Yes;
        };
        if self.interfaces.len() > known {
            self.interfaces.truncate(known);
            self.by_source.remove(&packet.source);
        }
        added
    }

    /// What a source has lost that no file has told yet. From here on it is told.
    fn untold(&mut self, source: SourceId, sources: &Sources) -> u64 {
        let lost = sources.get(source).lost();
        if lost == 0 {
            return 0;
        }
        lost - self.told.insert(source, lost).unwrap_or(0)
    }

    /// Ends the section: what came of each interface, and what was lost of others, of which nothing came.
    fn end_section(&mut self, sources: &Sources) -> Result<(), OutputError> {
        let (start, end) = (self.file_start, now());
        let before = self.buffer.len();
        let interfaces = std::mem::take(&mut self.interfaces);
        for (index, seen) in (0..).zip(&interfaces) {
            let statistics = Statistics {
                interface: index,
                start,
                end,
                received: seen.received,
                dropped: self.untold(seen.source, sources),
            };
            pcapng::statistics(&mut self.buffer, &statistics);
        }
        let own = sources.losses().own();
        let mut dropped = own - std::mem::replace(&mut self.own_told, own);
        for source in sources.ids() {
            dropped = dropped.saturating_add(self.untold(source, sources));
        }
        if dropped > 0 {
            let interface = Interface {
                name: &format!("slot{} capture", sources.me()),
                description: "Others: frames of slots of which nothing is in this file, or nobody's",
                mac: None,
                snaplen: 0,
            };
            let statistics = Statistics {
                interface: interfaces.len() as u32,
                start,
                end,
                received: 0,
                dropped,
            };
            pcapng::interface(&mut self.buffer, &interface);
            pcapng::statistics(&mut self.buffer, &statistics);
        }
        self.earlier_bytes += self.file_bytes + (self.buffer.len() - before) as u64;
        self.write()
    }

    /// Ends the file in hand, starts the next, and takes away what is too many.
    fn turn(&mut self, sources: &Sources) -> Result<(), OutputError> {
        self.end_section(sources)?;
        let Some(turn) = &mut self.turn else {
            return Ok(());
        };
        turn.number += 1;
        let path = turn.ring.file(turn.number);
        self.output = Output::open(&path)?;
        turn.made.push_back(path);
        while turn.ring.files.is_some_and(|n| turn.made.len() > n.get())
            && let Some(oldest) = turn.made.pop_front()
        {
            // One that is gone is as good as taken away; one that can't be costs room only.
            if let Err(error) = std::fs::remove_file(&oldest) {
                tracing::warn!("Can't remove capture file {}: {error}", oldest.display());
            }
        }
        self.start_section()
    }

    fn write(&mut self) -> Result<(), OutputError> {
        let written = self.output.write(&self.buffer);
        self.buffer.clear();
        written
    }
}

/// Whether a packet was added.
#[derive(PartialEq, Eq)]
enum Added {
    Yes,
    /// It goes to the next file.
    FileFull,
    /// There is no room for it.
    AllFull,
}

impl Sink for Writer {
    fn begin(&mut self) -> Result<(), OutputError> {
        self.start_section()
    }

    fn packet(&mut self, packet: &Packet<'_>, sources: &Sources) -> Result<Room, OutputError> {
        let mut added = self.add(packet, sources);
        if added == Added::FileFull {
            self.turn(sources)?;
            // A new file takes one packet, whatever its size.
            added = self.add(packet, sources);
        }
        if added != Added::Yes {
            return Ok(Room::Full);
        }
        if self.buffer.len() >= LOT {
            self.write()?;
        }
        Ok(Room::Taken)
    }

    fn flush(&mut self) -> Result<(), OutputError> {
        match self.buffer.is_empty() {
            true => Ok(()),
            false => self.write(),
        }
    }

    fn finish(&mut self, sources: &Sources) -> Result<(), OutputError> {
        self.end_section(sources)
    }

    fn reader_is_gone(&self) -> bool {
        self.output.reader_is_gone()
    }
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Whether a path can name the files of a ring.
pub fn names_files(path: &Path) -> bool {
    path.file_stem().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_ring_are_numbered_before_their_extension() {
        let ring = |path: &str| Ring {
            path: path.into(),
            file_size: 0,
            files: None,
        };
        for (path, expected) in [
            ("dir/lan0.pcapng", "dir/lan0-00001.pcapng"),
            ("lan0", "lan0-00001"),
            ("a.b.c", "a.b-00001.c"),
        ] {
            assert_eq!(ring(path).file(1), Path::new(expected));
        }
    }
}
