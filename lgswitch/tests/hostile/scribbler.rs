//! A peer that writes whatever it likes, wherever it likes, as fast as it can.
//!
//! Noise alone is refused at the first look. So most of what it writes is a lie that could be true: a
//! position near the real one, a record whose length is just too large, a second holder of a
//! MAC, a header that is damaged for a moment.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use lgswitch::layout::{
    Geometry, HEADER, HEADER_BYTES, HEADER_HIGH_WATER, MAX_FRAME, PAIR_HEAD, PAIR_TAIL, SLOT_BYTES,
    slot_record as rec,
};
use lgswitch::map::Mapping;

use super::role;

pub const SLOTS: u32 = 6;
/// Bytes of a ring, and of a log.
pub const BYTES: u64 = 1 << 18;

/// Numbers with no pattern, the same for the same seed (Marsaglia 2003: xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn slot(&mut self) -> usize {
        self.below(SLOTS.into()) as usize
    }

    /// Any word, and oftener one that programs trip over.
    fn word(&mut self) -> u64 {
        match self.below(5) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(64),
            3 => self.below(1 << 20),
            _ => self.next(),
        }
    }
}

struct Scribbler {
    geometry: Geometry,
    control: Mapping,
    rings: Vec<Mapping>,
    logs: Vec<Mapping>,
    random: Random,
}

impl Scribbler {
    fn store(&mut self, at: u64, value: u64) {
        self.control
            .word64(at / 8 * 8)
            .store(value, Ordering::Relaxed);
    }

    /// Anything, anywhere before the rings except the header.
    fn noise(&mut self) {
        let slots = self.geometry.slot(0)..self.geometry.rings();
        let at = match self.random.below(4) {
            0 => self.random.below(u64::from(SLOTS) * 6),
            _ => slots.start + self.random.below(slots.end - slots.start),
        };
        let value = self.random.word();
        self.store(at, value);
    }

    /// Somebody else's address, a promiscuous bit, a group's address, nobody.
    fn lie_of_a_mac(&mut self) {
        let at = self.random.slot() as u64 * 6;
        let [_, _, _, _, a, b] = role::mac(self.random.slot()).octets();
        for (i, byte) in [2, 0, 0, 0x68, a, b].into_iter().enumerate() {
            let byte = match self.random.below(12) {
                0 => byte | 1,
                1 => 0,
                _ => byte,
            };
            self.control
                .byte(at + i as u64)
                .store(byte, Ordering::Relaxed);
        }
    }

    /// A position that is nearly right.
    fn lie_of_a_position(&mut self) {
        let (from, to) = (self.random.slot(), self.random.slot());
        let pair = self.geometry.pair(from, to);
        let slot = self.geometry.slot(from);
        let places = [
            pair + PAIR_HEAD,
            pair + PAIR_TAIL,
            slot + rec::FLOOD_HEAD,
            slot + rec::FLOOD_RESERVED,
            slot + rec::FLOOD_FRAMES,
        ];
        let read = places[self.random.below(5) as usize];
        let at = places[self.random.below(5) as usize];
        let now = self.control.word64(read).load(Ordering::Relaxed);
        let off = match self.random.below(4) {
            0 => BYTES,
            1 => 64 * self.random.below(BYTES / 64),
            2 => 64 * self.random.below(40),
            _ => self.random.below(200),
        };
        let value = match self.random.below(2) {
            0 => now.wrapping_add(off),
            _ => now.wrapping_sub(off),
        };
        self.store(at, value);
    }

    /// Words that others sleep and sweep by.
    fn lie_of_a_hint(&mut self) {
        let value = self.random.word();
        let slot = self.geometry.slot(self.random.slot());
        let at = match self.random.below(5) {
            0 => HEADER_HIGH_WATER,
            1 => slot + rec::BELL,
            2 => slot + rec::PENDING + 8 * self.random.below(11),
            3 => slot + rec::OFFLOADS,
            _ => slot + rec::GENERATION,
        };
        self.store(at, value);
    }

    /// A record at the edge of what may be one, with a virtio-net header that asks for the impossible.
    fn lie_of_a_record(&mut self) {
        let lens = [
            0,
            13,
            14,
            60,
            1500,
            65_535,
            MAX_FRAME as u64,
            MAX_FRAME as u64 + 1,
            1 << 31,
        ];
        let len = lens[self.random.below(lens.len() as u64) as usize];
        let kind = self.random.below(4);
        let at = match self.random.below(3) {
            0 => BYTES - 64 * (1 + self.random.below(4)),
            _ => 64 * self.random.below(BYTES / 64),
        };
        let words = [
            len | kind << 32,
            self.random.word(),
            self.random.next(),
            self.random.next(),
        ];
        let areas = if self.random.below(2) == 0 {
            &self.rings
        } else {
            &self.logs
        };
        let area = &areas[self.random.below(areas.len() as u64) as usize];
        for (i, word) in (0..).zip(words) {
            area.word64(at + 8 * i).store(word, Ordering::Relaxed);
        }
    }

    /// A slot's whole record is another's, or noise.
    fn replace_a_slot(&mut self) {
        let mut record = [0; SLOT_BYTES as usize];
        let from = self.geometry.slot(self.random.slot());
        self.control.read(from, &mut record);
        if self.random.below(2) == 0 {
            record.fill_with(|| self.random.next() as u8);
        }
        let to = self.geometry.slot(self.random.slot());
        self.control.write(to, &record);
    }
}

/// The role.
pub fn scribble() {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(role::segment_path())
        .unwrap();
    let geometry = Geometry::new(SLOTS, BYTES, BYTES).unwrap();
    let map = |at| Mapping::new(&file, at, BYTES, true).unwrap();
    let slots = 0..SLOTS as usize;
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, HEADER).unwrap();
    let mut scribbler = Scribbler {
        control: Mapping::new(&file, 0, geometry.rings(), true).unwrap(),
        rings: slots
            .clone()
            .flat_map(|to| slots.clone().map(move |from| geometry.ring(from, to)))
            .map(map)
            .collect(),
        logs: slots.clone().map(|slot| map(geometry.log(slot))).collect(),
        geometry,
        random: Random(role::number("HOSTILE_SEED", 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
    };
    role::say("here");
    for round in 0u64.. {
        match scribbler.random.below(16) {
            0..3 => scribbler.noise(),
            3 => scribbler.lie_of_a_mac(),
            4..9 => scribbler.lie_of_a_position(),
            9..11 => scribbler.lie_of_a_hint(),
            11..15 => scribbler.lie_of_a_record(),
            _ if round.is_multiple_of(64) => scribbler.replace_a_slot(),
            _ => {}
        }
        // Whoever opens the file meets a damaged header half of the time.
        if round.is_multiple_of(1 << 12) {
            scribbler.control.write(HEADER, &header);
            if round.is_multiple_of(1 << 13) {
                let at = HEADER + scribbler.random.below(HEADER_BYTES as u64);
                let value = scribbler.random.word();
                scribbler.store(at, value);
            }
        }
        // Faster than this, and nobody else ever gets a word in.
        if round.is_multiple_of(64) {
            std::thread::sleep(std::time::Duration::from_micros(
                scribbler.random.below(100),
            ));
        }
    }
}
