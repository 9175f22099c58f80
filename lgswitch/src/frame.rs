//! One Ethernet frame, as it is handed to a port or comes out of one.

use crate::map::SharedBytes;
use crate::slot::SlotIndex;

/// Bytes of an Ethernet header: two addresses and a type.
pub const ETHERNET_HEADER: usize = 14;

/// What stands beside a frame on the wire: the first ten bytes of `struct virtio_net_hdr`
/// (Virtual I/O Device 1.2, section 5.1.6), in little endian.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VnetHeader {
    /// [`NEEDS_CHECKSUM`](Self::NEEDS_CHECKSUM), [`CHECKSUM_VALID`](Self::CHECKSUM_VALID).
    pub flags: u8,
    /// One of the `GSO_` values, perhaps with [`GSO_ECN`](Self::GSO_ECN).
    pub gso_type: u8,
    /// Bytes of all headers, a hint.
    pub header_len: u16,
    /// Bytes of payload in each packet to be cut from this one.
    pub gso_size: u16,
    /// Where the sum starts.
    pub checksum_start: u16,
    /// Where, from there, it is put.
    pub checksum_offset: u16,
}

impl VnetHeader {
    /// Bytes on the wire.
    pub const BYTES: usize = 10;
    /// The checksum is to be finished.
    pub const NEEDS_CHECKSUM: u8 = 1;
    /// The checksum was checked.
    pub const CHECKSUM_VALID: u8 = 2;
    /// Not to be cut.
    pub const GSO_NONE: u8 = 0;
    /// TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// UDP to be fragmented by IP.
    pub const GSO_UDP: u8 = 3;
    /// TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// UDP to be cut to datagrams.
    pub const GSO_UDP_L4: u8 = 5;
    /// With the ECN bits of TCP set.
    pub const GSO_ECN: u8 = 0x80;

    /// As bytes.
    #[inline]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let [l0, l1] = self.header_len.to_le_bytes();
        let [s0, s1] = self.gso_size.to_le_bytes();
        let [c0, c1] = self.checksum_start.to_le_bytes();
        let [o0, o1] = self.checksum_offset.to_le_bytes();
        [self.flags, self.gso_type, l0, l1, s0, s1, c0, c1, o0, o1]
    }

    /// From bytes.
    #[inline]
    pub fn decode(b: &[u8; Self::BYTES]) -> Self {
        Self {
            flags: b[0],
            gso_type: b[1],
            header_len: u16::from_le_bytes([b[2], b[3]]),
            gso_size: u16::from_le_bytes([b[4], b[5]]),
            checksum_start: u16::from_le_bytes([b[6], b[7]]),
            checksum_offset: u16::from_le_bytes([b[8], b[9]]),
        }
    }

    /// As two words, little endian, the second of which is filled to 16 bits.
    #[inline]
    pub(crate) fn words(&self) -> [u64; 2] {
        let low = u64::from(self.flags)
            | u64::from(self.gso_type) << 8
            | u64::from(self.header_len) << 16
            | u64::from(self.gso_size) << 32
            | u64::from(self.checksum_start) << 48;
        [low, self.checksum_offset.into()]
    }

    /// From two words; what is beyond is ignored.
    #[inline]
    pub(crate) fn from_words([low, high]: [u64; 2]) -> Self {
        Self {
            flags: low as u8,
            gso_type: (low >> 8) as u8,
            header_len: (low >> 16) as u16,
            gso_size: (low >> 32) as u16,
            checksum_start: (low >> 48) as u16,
            checksum_offset: high as u16,
        }
    }

    /// Whether something is left to be done to the frame before a plain wire could carry it.
    #[inline]
    pub fn is_unfinished(&self) -> bool {
        // Both in one look: each frame is asked this twice. `GSO_NONE` is 0.
        u16::from_le_bytes([self.flags & Self::NEEDS_CHECKSUM, self.gso_type]) != 0
    }

    /// The offloads a receiver must take to be handed this frame as it is. `None` for a kind of
    /// GSO nobody takes.
    #[inline]
    pub fn needs(&self) -> Option<Offloads> {
        if !self.is_unfinished() {
            return Some(Offloads::NONE);
        }
        let mut needs = Offloads::NONE;
        if self.flags & Self::NEEDS_CHECKSUM != 0 {
            needs = needs.with(Offloads::CHECKSUM);
        }
        needs = match self.gso_type & !Self::GSO_ECN {
            Self::GSO_NONE => needs,
            Self::GSO_TCPV4 => needs.with(Offloads::TSO4),
            Self::GSO_TCPV6 => needs.with(Offloads::TSO6),
            Self::GSO_UDP_L4 => needs.with(Offloads::USO),
            _ => return None,
        };
        if self.gso_type & Self::GSO_ECN != 0 {
            needs = needs.with(Offloads::ECN);
        }
        Some(needs)
    }
}

/// What a receiver can take unfinished. It stands in its slot record, so a sender knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads(u32);

impl Offloads {
    /// Finished frames only.
    pub const NONE: Self = Self(0);
    /// Unfinished checksums.
    pub const CHECKSUM: Self = Self(1);
    /// Uncut TCP over IPv4.
    pub const TSO4: Self = Self(2);
    /// Uncut TCP over IPv6.
    pub const TSO6: Self = Self(4);
    /// Uncut TCP with ECN.
    pub const ECN: Self = Self(8);
    /// Uncut UDP.
    pub const USO: Self = Self(16);
    /// All there are.
    pub const ALL: Self = Self(31);

    /// From a slot record's word; bits nobody knows are ignored.
    #[inline]
    pub fn from_bits(bits: u32) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// As a slot record's word.
    #[inline]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Both.
    #[inline]
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `other` is all in it.
    #[inline]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A frame that came in.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Who sent it.
    pub from: SlotIndex,
    /// What is left to do to it.
    pub header: VnetHeader,
    /// Ethernet header and payload. May change as it is read.
    pub bytes: SharedBytes<'a>,
}

/// A frame to be sent: the runs of bytes it is made of.
#[derive(Debug, Clone, Copy)]
pub struct Gather<'a> {
    parts: &'a [SharedBytes<'a>],
    len: usize,
}

impl<'a> Gather<'a> {
    /// The frame whose bytes are `parts`, one after another.
    #[inline]
    pub fn new(parts: &'a [SharedBytes<'a>]) -> Self {
        Self {
            parts,
            len: parts.iter().map(SharedBytes::len).sum(),
        }
    }

    /// Bytes in all.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its first bytes, as many as fit; tells how many.
    #[inline]
    pub fn peek(&self, out: &mut [u8]) -> usize {
        let mut done = 0;
        for part in self.parts {
            done += part.copy_to(&mut out[done..]);
            if done == out.len() {
                break;
            }
        }
        done
    }

    /// Its destination's and its source's address as numbers (see [`crate::peers::number`]), if it has
    /// an Ethernet header.
    #[inline]
    pub fn addresses(&self) -> Option<(u64, u64)> {
        self.first_addresses().or_else(|| {
            let mut header = [0; ETHERNET_HEADER];
            match self.peek(&mut header) {
                ETHERNET_HEADER => addresses(&SharedBytes::from(&header[..])),
                _ => None,
            }
        })
    }

    /// The same, if its Ethernet header is in one piece.
    #[inline(always)]
    fn first_addresses(&self) -> Option<(u64, u64)> {
        addresses(self.parts.first()?)
    }

    /// Both addresses as they stand there, if its Ethernet header is in one piece.
    #[inline(always)]
    pub(crate) fn raw_addresses(&self) -> Option<[u8; 12]> {
        let [addresses @ .., _, _] = self.parts.first()?.array::<ETHERNET_HEADER>(0)?;
        Some(addresses)
    }

    /// The runs of bytes, in order.
    #[inline]
    pub(crate) fn parts(&self) -> &'a [SharedBytes<'a>] {
        self.parts
    }
}

/// The addresses that an Ethernet header starts with.
#[inline(always)]
fn addresses(bytes: &SharedBytes<'_>) -> Option<(u64, u64)> {
    // Each address and two bytes more.
    let number = |at| Some(u64::from_be_bytes(bytes.array(at)?) >> 16);
    Some((number(0)?, number(6)?))
}
