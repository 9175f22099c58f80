//! Numbers that are the same on every machine for the same seed, and values at which processors err.

/// Steele and others' SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// 0 to `below` - 1.
    pub fn below(&mut self, below: u32) -> u32 {
        (self.next() >> 33) as u32 % below
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u32) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }

    pub fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// A number near an edge of some width, or a small one, or any.
    pub fn value(&mut self) -> u32 {
        match self.below(4) {
            0 => self.next() as u32,
            1 => self.below(40),
            _ => {
                let edge = self.pick(&[
                    0_u32,
                    0x80,
                    0x100,
                    0x8000,
                    0x1_0000,
                    0x8000_0000,
                    0x0F0F_0F0F,
                    0x99,
                    0x5555_5555,
                ]);
                edge.wrapping_add(self.pick(&[0, 0, 1, 2, u32::MAX]))
            }
        }
    }
}
