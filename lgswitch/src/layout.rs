//! What stands where in a sharenet file, format version 1.
//!
//! Little endian; a page is 4096 bytes whatever the host's is.
//!
//! ```text
//! page 0      peers page: slot i's MAC at byte 6·i, as in 2007
//! page 1      header: what this file says of itself (fixed at creation), and one hint word
//! slots       one record of 1024 bytes a slot: holder, doorbell, flood position, counters
//! pairs       [to][from] two cache lines: how far `from` wrote and `to` read of their ring
//! rings       [to][from] one byte ring: unicast, each at a multiple of a power of two
//! logs        [from] one byte log: broadcast, multicast, unknown unicast
//! ```
//!
//! Offsets follow from three numbers (slots, ring bytes, log bytes), so a reader never uses an
//! offset that stands in the file: it computes them and demands that the file agrees.
//!
//! Why the positions of a ring do not stand in the ring: a receiver sweeps those of all its
//! peers, and reading a hole of a memory-backed file costs a page. Here they lie side by side.

use std::fmt;

use uuid::Uuid;

/// The unit of the format.
pub const PAGE: u64 = 4096;
/// MACs that fit the peers page.
pub const MAX_SLOTS: usize = 682;
/// Bytes of a MAC on the peers page.
pub const MAC_BYTES: usize = 6;
/// A slot nobody uses has 0 as the first byte of its MAC.
pub const UNUSED: u8 = 0;
/// This bit of a MAC's first byte says: wants every frame. (It is the multicast bit, which no
/// station's own address has.)
pub const PROMISCUOUS: u8 = 0x01;

/// First eight bytes of the header.
pub const MAGIC: [u8; 8] = *b"LGSHARE\0";
/// The version this code writes, and the only one it reads.
pub const VERSION: u32 = 1;
/// Required features this code knows. A file with any other is refused.
pub const KNOWN_REQUIRED: u64 = 0;

/// Where the header stands.
pub const HEADER: u64 = PAGE;
/// In the header: one more than the highest slot ever taken (u32). A hint that bounds sweeps; it
/// only grows, and is cut to the number of slots when read.
pub const HEADER_HIGH_WATER: u64 = HEADER + 1024;
/// Where the slot table stands.
pub const SLOTS: u64 = 2 * PAGE;
/// Bytes of a slot record.
pub const SLOT_BYTES: u64 = 1024;
/// Bytes of a pair record: the writer's cache line, then the reader's.
pub const PAIR_BYTES: u64 = 128;
/// In a pair record: bytes the writer has published since the beginning of time (u64).
pub const PAIR_HEAD: u64 = 0;
/// In a pair record: bytes the reader is done with (u64).
pub const PAIR_TAIL: u64 = 64;

/// Offsets in a slot record. Each group has its own cache lines and, save the doorbell, one writer:
/// the slot's holder.
pub mod slot_record {
    /// u64, counts holders; sequence numbers of records start from it.
    pub const GENERATION: u64 = 0;
    /// u32: [`FREE`] or [`LIVE`].
    pub const STATE: u64 = 8;
    /// u32: the holder's process id. Information only.
    pub const PID: u64 = 12;
    /// u32: offloads the holder takes, see [`crate::frame::Offloads`].
    pub const OFFLOADS: u64 = 16;
    /// u64: when the slot was taken, seconds since 1970.
    pub const SINCE: u64 = 24;
    /// [`NAME_BYTES`] bytes: what the holder calls itself, zero-padded.
    pub const NAME: u64 = 64;
    /// u32, the futex: [`AWAKE`](crate::doorbell::AWAKE) or [`ASLEEP`](crate::doorbell::ASLEEP).
    pub const BELL: u64 = 128;
    /// [`SLOT_WORDS`](crate::slot::SLOT_WORDS) words of u64: bit *i* says that slot *i* has published something.
    pub const PENDING: u64 = 192;
    /// u64: bytes published in this slot's flood log.
    pub const FLOOD_HEAD: u64 = 320;
    /// u64: bytes up to which this slot's flood log may be being overwritten.
    pub const FLOOD_RESERVED: u64 = 328;
    /// u64: frames published in this slot's flood log.
    pub const FLOOD_FRAMES: u64 = 336;
    /// u64s: frames sent, bytes sent, then frames not sent by reason.
    pub const SENT: u64 = 448;
    /// u64s: frames received, bytes received, then frames lost on the way in by reason.
    pub const RECEIVED: u64 = 576;

    /// Room for a holder's name.
    pub const NAME_BYTES: usize = 64;
    /// Nobody holds the slot, says its record. (The lock is the truth.)
    pub const FREE: u32 = 0;
    /// Its record is filled in and its positions are set.
    pub const LIVE: u32 = 1;
}

/// Frames up to this size cross a segment whatever its MTU, when they are TCP or UDP that its
/// receiver, or the sender for it, cuts to size: 64 KiB of IP packet, Ethernet header, two tags.
pub const MAX_FRAME: usize = 65_536 + 14 + 8;

/// The three numbers that fix every offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    slots: u32,
    ring_bytes: u64,
    log_bytes: u64,
}

/// Which of a geometry's numbers is out of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// The number of slots.
    #[error("a segment has 2 to 682 slots, not {0}")]
    Slots(u32),
    /// The size of a ring.
    #[error("a ring has 256 KiB to 64 MiB, a multiple of 64 KiB, not {0} bytes")]
    Ring(u64),
    /// The size of a flood log.
    #[error("a flood log has 256 KiB to 64 MiB, a power of two, not {0} bytes")]
    Log(u64),
}

impl Geometry {
    /// Ring size unless asked otherwise: room for twenty-five 64 KiB frames. Half as much again as the
    /// second-level caches of today (1 MiB): a line that is still in the reader's when the writer comes
    /// round has to be taken back from there first, and then half as many frames pass.
    pub const DEFAULT_RING: u64 = 1664 << 10;
    /// Flood log size unless asked otherwise.
    pub const DEFAULT_LOG: u64 = 1 << 19;
    /// Slots unless asked otherwise. Slots cost nothing until taken.
    pub const DEFAULT_SLOTS: u32 = 128;

    /// Checks the three numbers. A ring must hold a few of the largest frames.
    pub fn new(slots: u32, ring_bytes: u64, log_bytes: u64) -> Result<Self, GeometryError> {
        let size_ok = |n: u64| (256 << 10..=64 << 20).contains(&n) && n.is_multiple_of(64 << 10);
        if !(2..=MAX_SLOTS as u32).contains(&slots) {
            Err(GeometryError::Slots(slots))
        } else if !size_ok(ring_bytes) {
            Err(GeometryError::Ring(ring_bytes))
        } else if !size_ok(log_bytes) || !log_bytes.is_power_of_two() {
            Err(GeometryError::Log(log_bytes))
        } else {
            Ok(Self {
                slots,
                ring_bytes,
                log_bytes,
            })
        }
    }

    /// One that no file has: rings and logs of a few records.
    #[cfg(lgswitch_loom)]
    pub fn tiny(slots: u32, ring_bytes: u64) -> Self {
        Self {
            slots,
            ring_bytes,
            log_bytes: ring_bytes,
        }
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.slots as usize
    }

    /// Bytes of one unicast ring.
    pub fn ring_bytes(&self) -> u64 {
        self.ring_bytes
    }

    /// Bytes from one ring to the next: positions in a ring are counted in these, so it is a power
    /// of two. What is beyond the ring is never touched and takes no memory.
    pub fn ring_stride(&self) -> u64 {
        self.ring_bytes.next_power_of_two()
    }

    /// Bytes of one flood log.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// Start of slot `slot`'s record.
    pub fn slot(&self, slot: usize) -> u64 {
        SLOTS + slot as u64 * SLOT_BYTES
    }

    /// Start of the pair table.
    pub fn pairs(&self) -> u64 {
        (SLOTS + u64::from(self.slots) * SLOT_BYTES).next_multiple_of(PAGE)
    }

    /// Bytes of the pair records of one receiver: whole pages, so that each port can make sure of its own.
    pub fn pair_row_bytes(&self) -> u64 {
        (u64::from(self.slots) * PAIR_BYTES).next_multiple_of(PAGE)
    }

    /// Start of the record of the pair `from` → `to`.
    pub fn pair(&self, from: usize, to: usize) -> u64 {
        self.pairs() + to as u64 * self.pair_row_bytes() + from as u64 * PAIR_BYTES
    }

    /// Start of the rings, which is the end of all that is mapped for the life of a segment. On a
    /// 64 KiB boundary: some hosts have pages that large.
    pub fn rings(&self) -> u64 {
        (self.pairs() + u64::from(self.slots) * self.pair_row_bytes()).next_multiple_of(64 << 10)
    }

    /// Start of the ring `from` → `to`.
    pub fn ring(&self, from: usize, to: usize) -> u64 {
        self.rings() + (to as u64 * u64::from(self.slots) + from as u64) * self.ring_stride()
    }

    fn logs(&self) -> u64 {
        self.rings() + u64::from(self.slots).pow(2) * self.ring_stride()
    }

    /// Start of the flood log of `from`.
    pub fn log(&self, from: usize) -> u64 {
        self.logs() + from as u64 * self.log_bytes
    }

    /// Size of the file.
    pub fn file_bytes(&self) -> u64 {
        self.logs() + u64::from(self.slots) * self.log_bytes
    }
}

/// What the header page says, all fixed when the file is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Where everything stands.
    pub geometry: Geometry,
    /// Largest IP packet of an ordinary frame, in bytes.
    pub mtu: u32,
    /// Features a reader may ignore.
    pub optional_features: u64,
    /// Names this segment for good, across renames (RFC 9562, version 4).
    pub uuid: Uuid,
    /// When it was made, seconds since 1970.
    pub created: u64,
}

/// What is wrong with a header page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It does not start with the magic.
    #[error("it is not a sharenet")]
    NotASharenet,
    /// Another version.
    #[error("its format is version {0} and this program knows version {VERSION}; use a newer one")]
    Version(u32),
    /// A required feature nobody told us of.
    #[error("it needs features this program does not know ({0:#x}); use a newer one")]
    Feature(u64),
    /// Numbers that cannot be.
    #[error("its header is damaged: {0}")]
    Damaged(String),
}

/// Bytes of a header page that carry something.
pub const HEADER_BYTES: usize = 128;

/// The MTUs a segment may have: RFC 791's least, and the largest IP packet there is.
pub const MTU_RANGE: std::ops::RangeInclusive<u32> = 68..=65_535;

impl Header {
    /// The bytes of the page, up to the last that carries something.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut page = [0; HEADER_BYTES];
        let g = &self.geometry;
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(16, &KNOWN_REQUIRED.to_le_bytes());
        put(24, &self.optional_features.to_le_bytes());
        put(32, &g.slots.to_le_bytes());
        put(36, &(SLOT_BYTES as u32).to_le_bytes());
        put(40, &(PAIR_BYTES as u32).to_le_bytes());
        put(44, &self.mtu.to_le_bytes());
        put(48, &g.ring_bytes.to_le_bytes());
        put(56, &g.log_bytes.to_le_bytes());
        put(64, &SLOTS.to_le_bytes());
        put(72, &g.pairs().to_le_bytes());
        put(80, &g.rings().to_le_bytes());
        put(88, &g.logs().to_le_bytes());
        put(96, &g.file_bytes().to_le_bytes());
        put(104, self.uuid.as_bytes());
        put(120, &self.created.to_le_bytes());
        page
    }

    /// Reads a header page: it was copied out of the file first, so nobody changes it under us.
    pub fn decode(page: &[u8; HEADER_BYTES]) -> Result<Self, HeaderError> {
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| page[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| page[at + i]));
        if page[..8] != MAGIC {
            return Err(HeaderError::NotASharenet);
        }
        if u32_at(8) != VERSION {
            return Err(HeaderError::Version(u32_at(8)));
        }
        let unknown = u64_at(16) & !KNOWN_REQUIRED;
        if unknown != 0 {
            return Err(HeaderError::Feature(unknown));
        }
        let damaged = |what: &dyn fmt::Display| HeaderError::Damaged(what.to_string());
        let geometry =
            Geometry::new(u32_at(32), u64_at(48), u64_at(56)).map_err(|e| damaged(&e))?;
        let header = Self {
            geometry,
            mtu: u32_at(44),
            optional_features: u64_at(24),
            uuid: Uuid::from_bytes(std::array::from_fn(|i| page[104 + i])),
            created: u64_at(120),
        };
        if !MTU_RANGE.contains(&header.mtu) {
            return Err(damaged(&format_args!("an MTU of {}", header.mtu)));
        }
        // Whatever else stands there must be what we would have written.
        if header.encode() != *page {
            return Err(damaged(&"its offsets do not follow from its sizes"));
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            geometry: Geometry::new(64, 1 << 20, 1 << 19).unwrap(),
            mtu: 1500,
            optional_features: 4,
            uuid: Uuid::from_bytes([7; 16]),
            created: 1,
        }
    }

    #[test]
    fn a_header_reads_back_as_written() {
        assert_eq!(Header::decode(&header().encode()), Ok(header()));
    }

    #[test]
    fn unknown_required_features_and_versions_are_refused_by_name() {
        let mut page = header().encode();
        page[16] = 2;
        assert_eq!(Header::decode(&page), Err(HeaderError::Feature(2)));
        page[8] = 2;
        assert_eq!(Header::decode(&page), Err(HeaderError::Version(2)));
    }

    #[test]
    fn areas_follow_one_another_without_overlap_at_every_number_of_slots() {
        for slots in 2..=MAX_SLOTS as u32 {
            let g = Geometry::new(slots, 1 << 18, 1 << 18).unwrap();
            let last = slots as usize - 1;
            assert!(g.slot(last) + SLOT_BYTES <= g.pairs());
            assert!(g.pair(last, last) + PAIR_BYTES <= g.rings());
            assert_eq!(g.ring(last, last) + g.ring_stride(), g.log(0));
            assert_eq!(g.log(last) + g.log_bytes(), g.file_bytes());
            assert_eq!(g.ring(0, 0) % (64 << 10), 0);
        }
    }

    #[test]
    fn groups_of_a_slot_record_do_not_overlap() {
        use slot_record::*;
        const { assert!(NAME + NAME_BYTES as u64 <= BELL) };
        const { assert!(PENDING + 8 * crate::slot::SLOT_WORDS as u64 <= FLOOD_HEAD) };
        const { assert!(RECEIVED + 16 * 8 <= SLOT_BYTES) };
    }

    proptest! {
        #[test]
        fn no_damage_to_a_header_panics_or_passes_unseen(at in 0..120usize, byte: u8) {
            let mut page = header().encode();
            prop_assume!(page[at] != byte);
            page[at] = byte;
            if let Ok(read) = Header::decode(&page) {
                let sizes = (48..64).contains(&at);
                prop_assert!(sizes || at >= 104 || (24..32).contains(&at) || (44..48).contains(&at));
                // Another size of a ring or log passes only where it takes as much of the file.
                prop_assert_eq!(sizes, read.geometry != header().geometry);
                prop_assert_eq!(read.geometry.file_bytes(), header().geometry.file_bytes());
            }
        }
    }
}
