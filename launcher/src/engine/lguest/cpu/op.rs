//! What an instruction is decoded to: a function, and the few numbers it works on.
//!
//! The functions are made by the compiler for each operation, width and form of operand
//! (`add` of 32 bits from memory to register is one), so that nothing is asked at run time that
//! was known when decoding.

use super::access::Address;
use super::state::{Core, Leave, Outcome, Segment, Step};
use crate::engine::lguest::memory::{GuestMemory, Word};

/// Executes an operation, and then those that come after it in its block. An instruction does
/// everything or, if it faults, nothing.
pub(super) type Handler = fn(&mut Core, &GuestMemory, &Op, &[Op]) -> Run;

/// How executing operations ended: all were, or one of them left. A word, so that a handler hands it on
/// without looking at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run(u32);

impl Run {
    /// All were executed.
    pub const DONE: Self = Self(0);

    /// Which way a direct jump went, if that is how it ended: 0 for taken, 1 for not.
    #[inline(always)]
    pub fn way(self) -> Option<usize> {
        const TAKEN: u32 = Leave::Taken as u32;
        const NOT_TAKEN: u32 = Leave::NotTaken as u32;
        match self.0 {
            TAKEN => Some(0),
            NOT_TAKEN => Some(1),
            _ => None,
        }
    }

    /// Why one left.
    #[inline(always)]
    pub fn left(self) -> Option<Leave> {
        Leave::numbered(self.0 as u8)
    }

    /// How many instructions of its block come before the one that left, and where that begins and ends.
    #[inline(always)]
    pub fn place(self) -> [u8; 3] {
        let [_, number, at, end] = self.0.to_le_bytes();
        [number, at, end]
    }
}

/// Executes operations, one after another.
#[inline(always)]
pub(super) fn run(core: &mut Core, memory: &GuestMemory, ops: &[Op]) -> Run {
    match ops {
        [op, rest @ ..] => (op.run)(core, memory, op, rest),
        [] => Run::DONE,
    }
}

/// The "register" that is always zero, for addresses without a base or an index.
pub(super) const ZERO: u8 = 8;

/// Addresses are of 16 bits.
pub(super) const NARROW: u8 = 0x80;

/// Executes an operation by another handler than its own, and then the rest. A call of its own, so that the
/// handlers of the short way need not keep anything for one.
#[cold]
#[inline(never)]
pub(super) fn run_over(
    core: &mut Core,
    memory: &GuestMemory,
    op: &Op,
    rest: &[Op],
    handler: Handler,
) -> Run {
    handler(core, memory, op, rest)
}

/// A decoded instruction.
#[derive(Clone, Copy)]
pub(super) struct Op {
    pub run: Handler,
    /// An immediate; for jumps, where to, from the start of the block.
    pub imm: u32,
    /// The constant part of an address.
    pub disp: u32,
    /// The register that is written, or the only one.
    pub reg: u8,
    /// The other register.
    pub other: u8,
    /// An address is `base + index << scale + disp`.
    pub base: u8,
    pub index: u8,
    /// Of an address: scale in bits 0 and 1, segment in bits 2 to 4, [`NARROW`].
    pub address: u8,
    /// How many instructions of its block come before it.
    pub number: u8,
    /// Where this instruction begins, in bytes from the start of the block.
    pub at: u8,
    /// Where the next one begins.
    pub end: u8,
}

impl Op {
    /// eip while this is executed, given that of the block.
    pub fn eip(&self, core: &Core) -> u32 {
        core.eip.wrapping_add(self.at.into())
    }

    /// Leaving, from here. A jump has seen to eip, so nobody asks which it was.
    #[inline(always)]
    pub fn leave(&self, why: Leave) -> Run {
        Run(match why {
            Leave::Taken | Leave::NotTaken => why as u32,
            _ => u32::from_le_bytes([why as u8, self.number, self.at, self.end]),
        })
    }

    /// eip of the next instruction.
    #[inline(always)]
    pub fn next(&self, core: &Core) -> u32 {
        core.eip.wrapping_add(self.end.into())
    }

    /// The segment of the address.
    pub fn segment(&self) -> Segment {
        const ALL: [Segment; 6] = [
            Segment::Es,
            Segment::Cs,
            Segment::Ss,
            Segment::Ds,
            Segment::Fs,
            Segment::Gs,
        ];
        ALL[usize::from(self.address >> 2 & 7) % 6]
    }

    /// Sets the segment of the address, by its number.
    pub fn set_segment(&mut self, number: u8) {
        self.address = self.address & !0x1C | (number & 7) << 2;
    }

    /// The offset its address operand gives.
    #[inline(always)]
    pub fn offset(&self, core: &Core) -> u32 {
        core.reg(self.base)
            .wrapping_add(core.reg(self.index) << (self.address & 3))
            .wrapping_add(self.disp)
    }

    /// The same where addresses of 16 bits may occur.
    pub fn offset_any(&self, core: &Core) -> u32 {
        let offset = self.offset(core);
        if self.narrow_address() {
            offset & 0xFFFF
        } else {
            offset
        }
    }

    /// Whether addresses are of 16 bits.
    pub fn narrow_address(&self) -> bool {
        self.address & NARROW != 0
    }
}

impl std::fmt::Debug for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Op")
            .field("at", &self.at)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl Core {
    /// A register of 32 bits, or [`ZERO`].
    #[inline(always)]
    pub fn reg(&self, n: u8) -> u32 {
        self.regs[usize::from(n)]
    }

    #[inline(always)]
    pub fn set_reg(&mut self, n: u8, value: u32) {
        self.regs[usize::from(n)] = value;
    }
}

/// 8, 16 or 32 bits. Values are handled as `u32`, zero-extended.
pub(super) trait Width: Word {
    /// Bits in it.
    const BITS: u32;
    /// Bytes in it.
    const BYTES: u32 = Self::BITS / 8;
    /// Ones in all its bits.
    const MASK: u32 = u32::MAX >> (32 - Self::BITS);
    /// Its top bit.
    const SIGN: u32 = 1 << (Self::BITS - 1);

    /// The low bits of a value.
    fn truncate(value: u32) -> Self;
    fn widen(self) -> u32;
    /// The low bits with their sign.
    fn extend(value: u32) -> u32;
    /// A register, as machine code numbers them for this width.
    fn get(core: &Core, n: u8) -> u32;
    fn set(core: &mut Core, n: u8, value: u32);

    /// The memory operand's value.
    #[inline(always)]
    fn load<A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op) -> Outcome<u32> {
        let linear = A::linear(core, op, Self::BYTES, false)?;
        A::load::<Self>(core, memory, linear)
    }

    /// Writes the memory operand.
    #[inline(always)]
    fn store<A: Address>(core: &mut Core, memory: &GuestMemory, op: &Op, value: u32) -> Step {
        let linear = A::linear(core, op, Self::BYTES, true)?;
        A::store::<Self>(core, memory, linear, value)
    }

    /// Reads, changes and writes the memory operand; `change` runs once both are sure to succeed.
    #[inline(always)]
    fn modify<A: Address>(
        core: &mut Core,
        memory: &GuestMemory,
        op: &Op,
        change: impl FnOnce(&mut Core, u32) -> u32,
    ) -> Step {
        let linear = A::linear(core, op, Self::BYTES, true)?;
        A::modify::<Self>(core, memory, linear, change)
    }
}

impl Width for u8 {
    const BITS: u32 = 8;

    #[inline(always)]
    fn truncate(value: u32) -> Self {
        value as u8
    }

    #[inline(always)]
    fn widen(self) -> u32 {
        self.into()
    }

    #[inline(always)]
    fn extend(value: u32) -> u32 {
        value as i8 as u32
    }

    #[inline(always)]
    fn get(core: &Core, n: u8) -> u32 {
        // al cl dl bl, then ah ch dh bh.
        (core.reg(n & 3) >> ((n & 4) * 2)) & 0xFF
    }

    #[inline(always)]
    fn set(core: &mut Core, n: u8, value: u32) {
        let shift = (n & 4) * 2;
        let kept = core.reg(n & 3) & !(0xFF << shift);
        core.set_reg(n & 3, kept | (value & 0xFF) << shift);
    }
}

impl Width for u16 {
    const BITS: u32 = 16;

    #[inline(always)]
    fn truncate(value: u32) -> Self {
        value as u16
    }

    #[inline(always)]
    fn widen(self) -> u32 {
        self.into()
    }

    #[inline(always)]
    fn extend(value: u32) -> u32 {
        value as i16 as u32
    }

    #[inline(always)]
    fn get(core: &Core, n: u8) -> u32 {
        core.reg(n) & 0xFFFF
    }

    #[inline(always)]
    fn set(core: &mut Core, n: u8, value: u32) {
        let kept = core.reg(n) & 0xFFFF_0000;
        core.set_reg(n, kept | value & 0xFFFF);
    }
}

impl Width for u32 {
    const BITS: u32 = 32;

    #[inline(always)]
    fn truncate(value: u32) -> Self {
        value
    }

    #[inline(always)]
    fn widen(self) -> u32 {
        self
    }

    #[inline(always)]
    fn extend(value: u32) -> u32 {
        value
    }

    #[inline(always)]
    fn get(core: &Core, n: u8) -> u32 {
        core.reg(n)
    }

    #[inline(always)]
    fn set(core: &mut Core, n: u8, value: u32) {
        core.set_reg(n, value);
    }
}
