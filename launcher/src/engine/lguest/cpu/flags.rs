//! The flags, worked out when somebody asks.
//!
//! Most results are overwritten before anything looks at their flags. So arithmetic leaves three
//! words, and a flag is one or two operations on them:
//!
//! * `result`, sign-extended to 32 bits: ZF is whether it is zero, SF its sign, PF its low byte;
//! * `carry`: the carry (or borrow) out of the top bit of the operand in bit 31, and the one *into*
//!   the top bit in bit 30: CF is bit 31, and OF is whether the two differ;
//! * `fix`: AF in bit 4, and what must be inverted, where flags were set to what no result gives
//!   (`popf`): SF in bit 31, PF in bit 0.
//!
//! Bochs keeps its flags much like this; the idea is from D. Mihocka and S. Shwartsman,
//! "Virtualization Without Direct Execution or Jitting" (2008).

/// Carry.
pub const CF: u32 = 1;
/// Bit 1 is always set.
pub const ALWAYS: u32 = 2;
/// Even parity of the low byte.
pub const PF: u32 = 1 << 2;
/// Carry out of bit 3.
pub const AF: u32 = 1 << 4;
/// Zero.
pub const ZF: u32 = 1 << 6;
/// Sign.
pub const SF: u32 = 1 << 7;
/// Single step.
pub const TF: u32 = 1 << 8;
/// Interrupts on. Always, here.
pub const IF: u32 = 1 << 9;
/// String instructions go down.
pub const DF: u32 = 1 << 10;
/// Signed overflow.
pub const OF: u32 = 1 << 11;
/// Nested task.
pub const NT: u32 = 1 << 14;
/// Resume.
pub const RF: u32 = 1 << 16;
/// Virtual 8086 mode: never, here.
pub const VM: u32 = 1 << 17;
/// Alignment check.
pub const AC: u32 = 1 << 18;
/// Can be changed: there is a cpuid.
pub const ID: u32 = 1 << 21;

/// The flags of arithmetic.
pub const ARITHMETIC: u32 = CF | PF | AF | ZF | SF | OF;
/// What popf may change in rings 1 and 3 of the others.
const CONTROL: u32 = TF | DF | NT | AC | ID;

/// The flags register.
#[derive(Debug, Clone, Copy)]
pub struct Flags {
    pub(super) result: u32,
    pub(super) carry: u32,
    pub(super) fix: u32,
    /// TF, DF, NT, RF, AC, ID where they stand in the register.
    pub(super) control: u32,
}

impl Flags {
    /// All clear, save IF and bit 1.
    pub fn new() -> Self {
        let mut flags = Self {
            result: 0,
            carry: 0,
            fix: 0,
            control: 0,
        };
        flags.set(0);
        flags
    }

    /// Carry.
    #[inline(always)]
    pub fn cf(&self) -> bool {
        self.carry >> 31 != 0
    }

    /// Zero.
    #[inline(always)]
    pub fn zf(&self) -> bool {
        self.result == 0
    }

    /// Sign.
    #[inline(always)]
    pub fn sf(&self) -> bool {
        (self.result ^ self.fix) >> 31 != 0
    }

    /// Overflow.
    #[inline(always)]
    pub fn of(&self) -> bool {
        (self.carry ^ self.carry << 1) >> 31 != 0
    }

    /// Parity.
    #[inline(always)]
    pub fn pf(&self) -> bool {
        ((self.result as u8).count_ones() + (self.fix & 1)).is_multiple_of(2)
    }

    /// Auxiliary carry.
    #[inline(always)]
    pub fn af(&self) -> bool {
        self.fix & AF != 0
    }

    /// The six flags of arithmetic, where they stand in the register.
    pub fn arithmetic(&self) -> u32 {
        (u32::from(self.cf()) * CF)
            | (u32::from(self.pf()) * PF)
            | (u32::from(self.af()) * AF)
            | (u32::from(self.zf()) * ZF)
            | (u32::from(self.sf()) * SF)
            | (u32::from(self.of()) * OF)
    }

    /// Sets the six flags of arithmetic from where they stand in the register.
    pub fn set_arithmetic(&mut self, value: u32) {
        // A result that is zero, or one with sign and parity clear; the rest is inverted.
        let zf = value & ZF != 0;
        self.result = u32::from(!zf);
        let parity_of_result = zf;
        let fix_parity = (value & PF != 0) != parity_of_result;
        self.fix = (value & AF) | u32::from(fix_parity) | u32::from(value & SF != 0) << 31;
        self.set_carry_overflow(value & CF != 0, value & OF != 0);
    }

    /// Sets CF and OF, leaves the others.
    #[inline(always)]
    pub fn set_carry_overflow(&mut self, cf: bool, of: bool) {
        self.carry = u32::from(cf) << 31 | u32::from(cf != of) << 30;
    }

    /// Sets CF, leaves the others.
    #[inline(always)]
    pub fn set_carry(&mut self, cf: bool) {
        let of = self.of();
        self.set_carry_overflow(cf, of);
    }

    /// The register.
    pub fn get(&self) -> u32 {
        self.arithmetic() | self.control | ALWAYS | IF
    }

    /// Sets what may be set in rings 1 and 3.
    pub fn set(&mut self, value: u32) {
        self.set_arithmetic(value);
        self.control = value & (CONTROL | RF);
    }

    /// Whether string instructions go down.
    #[inline(always)]
    pub fn down(&self) -> bool {
        self.control & DF != 0
    }
}

impl Default for Flags {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_flags_comes_back_as_it_was_set() {
        for bits in 0..64_u32 {
            let value = [CF, PF, AF, ZF, SF, OF]
                .iter()
                .enumerate()
                .filter(|(n, _)| bits >> n & 1 != 0)
                .fold(0, |all, (_, flag)| all | flag);
            let mut flags = Flags::new();
            flags.set(value);
            assert_eq!(flags.get(), value | ALWAYS | IF);
        }
    }

    #[test]
    fn if_iopl_and_vm_are_not_the_guests_to_change() {
        let mut flags = Flags::new();
        flags.set(u32::MAX);
        assert_eq!(flags.get() & (VM | 3 << 12), 0);
        flags.set(0);
        assert_eq!(flags.get(), ALWAYS | IF);
    }
}
