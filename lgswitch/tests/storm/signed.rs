//! Frames that tell whether they are whole: sender, number, and a sum over all of it.

use lgswitch::MacAddr;

pub const BROADCAST: MacAddr = MacAddr(0xff, 0xff, 0xff, 0xff, 0xff, 0xff);

/// Numbers with no pattern, the same for the same seed (Steele, Lea, Flood 2014: SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// The address of the `index`th actor.
pub fn mac(index: u8) -> MacAddr {
    MacAddr(2, 0, 0, 0, 0x57, index)
}

/// What a whole frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed {
    pub to: MacAddr,
    pub from: u8,
    /// Which process it was: the same actor is born again and again.
    pub life: u32,
    /// Counts all frames of that life.
    pub number: u64,
    /// Counts its frames to this address.
    pub of_address: u64,
}

const HEAD: usize = 14 + 4 + 8 + 8;
/// The least a signed frame is long.
pub const LEAST: usize = HEAD + 8;

/// FNV-1a over words: any torn copy shows.
fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl Signed {
    /// The frame, `len` bytes of it.
    pub fn frame(&self, len: usize, out: &mut Vec<u8>) {
        let len = len.max(LEAST);
        out.clear();
        out.extend(self.to.octets());
        out.extend(mac(self.from).octets());
        out.extend([0x88, 0xb5]);
        out.extend(self.life.to_le_bytes());
        out.extend(self.number.to_le_bytes());
        out.extend(self.of_address.to_le_bytes());
        let mut fill = Random(self.number ^ u64::from(self.life) << 32);
        while out.len() < len - 8 {
            let word = fill.next().to_le_bytes();
            let room = (len - 8 - out.len()).min(8);
            out.extend(&word[..room]);
        }
        out.extend(sum(out).to_le_bytes());
    }

    /// Reads a frame back; `None` if it is not whole.
    pub fn read(frame: &[u8]) -> Option<Self> {
        if frame.len() < LEAST {
            return None;
        }
        let (body, signature) = frame.split_at(frame.len() - 8);
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| frame[at + i]));
        (sum(body).to_le_bytes() == signature).then(|| Self {
            to: MacAddr(frame[0], frame[1], frame[2], frame[3], frame[4], frame[5]),
            from: frame[11],
            life: word(14) as u32,
            number: word(18),
            of_address: word(26),
        })
    }
}
