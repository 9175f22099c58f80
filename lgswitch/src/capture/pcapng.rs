//! The file format of captures: pcapng (draft-ietf-opsawg-pcapng, 2024; sections in brackets).
//!
//! A file is a section: a header, then blocks. An interface is described before the first packet of
//! it, and has its statistics at the end. Each function here appends one whole block to a buffer.
//! Everything is little endian, which the header's byte-order magic tells a reader; times are in
//! nanoseconds since 1970.

use std::time::Duration;

use pnet_base::MacAddr;

/// Bytes of a [`statistics`] block: its head and tail, interface and time, four options of eight
/// bytes, and their end.
pub const STATISTICS_BYTES: usize = 12 + 12 + 4 * (4 + 8) + 4;

/// Block types (section 11.1).
mod block_type {
    pub const INTERFACE: u32 = 1;
    pub const STATISTICS: u32 = 5;
    pub const PACKET: u32 = 6;
    pub const SECTION: u32 = 0x0a0d_0d0a;
}

/// Option codes, each within its kind of block (3.5, 4.1 to 4.6).
mod option {
    pub const END: u16 = 0;
    pub const COMMENT: u16 = 1;
    pub const SHB_OS: u16 = 3;
    pub const SHB_USERAPPL: u16 = 4;
    pub const IF_NAME: u16 = 2;
    pub const IF_DESCRIPTION: u16 = 3;
    pub const IF_MACADDR: u16 = 6;
    pub const IF_TSRESOL: u16 = 9;
    pub const EPB_FLAGS: u16 = 2;
    pub const ISB_STARTTIME: u16 = 2;
    pub const ISB_ENDTIME: u16 = 3;
    pub const ISB_IFRECV: u16 = 4;
    pub const ISB_IFDROP: u16 = 5;
}

/// LINKTYPE_ETHERNET of the registry of link types.
const ETHERNET: u16 = 1;
/// Times are powers of ten: 10⁻⁹ seconds (4.2, if_tsresol).
const NANOSECONDS: u8 = 9;
/// In a packet's flags: it came into the segment (4.3.1, bits 0 and 1).
const INBOUND: u32 = 1;

/// An interface.
#[derive(Debug, Clone, Copy)]
pub struct Interface<'a> {
    /// What it is called.
    pub name: &'a str,
    /// More of it; may be empty.
    pub description: &'a str,
    /// Its address.
    pub mac: Option<MacAddr>,
    /// Bytes kept of a packet at most; 0 is all.
    pub snaplen: u32,
}

/// A packet.
#[derive(Debug, Clone, Copy)]
pub struct EnhancedPacket<'a> {
    /// The interface it came in by, counted from the section's first.
    pub interface: u32,
    /// When, since 1970.
    pub time: Duration,
    /// What is kept of it.
    pub bytes: &'a [u8],
    /// How long it was.
    pub original_len: usize,
    /// A remark.
    pub comment: Option<&'a str>,
}

/// What came of an interface.
#[derive(Debug, Clone, Copy)]
pub struct Statistics {
    /// Which, counted from the section's first.
    pub interface: u32,
    /// When the capture started, since 1970.
    pub start: Duration,
    /// When it ended.
    pub end: Duration,
    /// Packets received.
    pub received: u64,
    /// Packets lost for want of room.
    pub dropped: u64,
}

/// Starts a section; `application` says who does (4.1).
pub fn section(out: &mut Vec<u8>, application: &str) {
    let mut block = Block::start(out, block_type::SECTION);
    block.u32(0x1a2b_3c4d);
    // Version 1.0, length of the section unknown.
    block.u16(1);
    block.u16(0);
    block.bytes(&(-1i64).to_le_bytes());
    block.option(option::SHB_OS, std::env::consts::OS.as_bytes());
    block.option(option::SHB_USERAPPL, application.as_bytes());
    block.end_with_options();
}

/// Describes the next interface (4.2).
pub fn interface(out: &mut Vec<u8>, interface: &Interface<'_>) {
    let mut block = Block::start(out, block_type::INTERFACE);
    block.u16(ETHERNET);
    block.u16(0);
    block.u32(interface.snaplen);
    block.option(option::IF_NAME, interface.name.as_bytes());
    if !interface.description.is_empty() {
        block.option(option::IF_DESCRIPTION, interface.description.as_bytes());
    }
    if let Some(mac) = interface.mac {
        block.option(option::IF_MACADDR, &mac.octets());
    }
    block.option(option::IF_TSRESOL, &[NANOSECONDS]);
    block.end_with_options();
}

/// Adds a packet (4.3).
pub fn packet(out: &mut Vec<u8>, packet: &EnhancedPacket<'_>) {
    let mut block = Block::start(out, block_type::PACKET);
    block.u32(packet.interface);
    block.time(packet.time);
    block.u32(packet.bytes.len() as u32);
    block.u32(packet.original_len as u32);
    block.bytes(packet.bytes);
    block.pad();
    let flags = INBOUND | reception(packet.bytes) << 2;
    block.option(option::EPB_FLAGS, &flags.to_le_bytes());
    if let Some(comment) = packet.comment {
        block.option(option::COMMENT, comment.as_bytes());
    }
    block.end_with_options();
}

/// Sums up an interface (4.6).
pub fn statistics(out: &mut Vec<u8>, statistics: &Statistics) {
    let mut block = Block::start(out, block_type::STATISTICS);
    block.u32(statistics.interface);
    block.time(statistics.end);
    for (code, moment) in [
        (option::ISB_STARTTIME, statistics.start),
        (option::ISB_ENDTIME, statistics.end),
    ] {
        block.option_head(code, 8);
        block.time(moment);
    }
    block.option(option::ISB_IFRECV, &statistics.received.to_le_bytes());
    block.option(option::ISB_IFDROP, &statistics.dropped.to_le_bytes());
    block.end_with_options();
}

/// How a packet was addressed (4.3.1, bits 2 to 4): 1 to one station, 2 to several, 3 to all.
fn reception(bytes: &[u8]) -> u32 {
    match bytes.get(..6) {
        Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => 3,
        Some([first, ..]) if first & 1 != 0 => 2,
        Some(_) => 1,
        None => 0,
    }
}

/// A block in the making (3.1): type, length, body padded to 32 bits, length again.
struct Block<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Block<'a> {
    fn start(out: &'a mut Vec<u8>, kind: u32) -> Self {
        let start = out.len();
        let mut block = Self { out, start };
        block.u32(kind);
        block.u32(0);
        block
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    /// The high half of a time, then the low one.
    fn time(&mut self, time: Duration) {
        let nanoseconds = time.as_nanos() as u64;
        self.u32((nanoseconds >> 32) as u32);
        self.u32(nanoseconds as u32);
    }

    fn pad(&mut self) {
        let len = (self.out.len() - self.start).next_multiple_of(4);
        self.out.resize(self.start + len, 0);
    }

    fn option_head(&mut self, code: u16, len: usize) {
        self.u16(code);
        self.u16(len as u16);
    }

    /// An option; of one longer than options can be, what fits.
    fn option(&mut self, code: u16, value: &[u8]) {
        let value = &value[..value.len().min(usize::from(u16::MAX))];
        self.option_head(code, value.len());
        self.bytes(value);
        self.pad();
    }

    fn end_with_options(mut self) {
        self.option_head(option::END, 0);
        let len = (self.out.len() - self.start + 4) as u32;
        self.u32(len);
        self.out[self.start + 4..self.start + 8].copy_from_slice(&len.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Walks over blocks as a reader does; gives their types.
    fn walk(mut bytes: &[u8]) -> Vec<u32> {
        let mut types = Vec::new();
        while !bytes.is_empty() {
            let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            let len = word(4) as usize;
            assert!(len.is_multiple_of(4) && len <= bytes.len());
            assert_eq!(word(len - 4), len as u32);
            types.push(word(0));
            bytes = &bytes[len..];
        }
        types
    }

    proptest! {
        #[test]
        fn every_block_is_whole_whatever_is_in_it(
            name in ".{0,70}",
            description in ".{0,70}",
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            comment in prop::option::of(".{0,9}"),
            n: u64,
        ) {
            let mut out = Vec::new();
            section(&mut out, "test");
            interface(&mut out, &Interface {
                name: &name,
                description: &description,
                mac: Some(MacAddr::zero()),
                snaplen: n as u32,
            });
            packet(&mut out, &EnhancedPacket {
                interface: 0,
                time: Duration::from_nanos(n),
                bytes: &bytes,
                original_len: n as usize,
                comment: comment.as_deref(),
            });
            let before = out.len();
            let time = Duration::from_nanos(n);
            statistics(&mut out, &Statistics {
                interface: 0,
                start: time,
                end: time,
                received: n,
                dropped: n,
            });
            prop_assert_eq!(out.len() - before, STATISTICS_BYTES);
            prop_assert_eq!(walk(&out), [0x0a0d_0d0a, 1, 6, 5]);
        }
    }
}
