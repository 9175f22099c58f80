//! A number of 80 bits: sign, 15 bits of exponent, 64 of significand whose integer bit is written
//! down (Intel SDM volume 1, 4.2.2 and 8.2).
//!
//! A computation makes an exact result, or one with a bit that says that more follows, of 128 bits;
//! [`Environment::round`] makes a number of that in any format.

use super::{DE, IE, OE, PE, UE};

/// The exponent of 1, as it is stored.
pub(in super::super) const BIAS: i32 = 0x3FFF;
/// The exponent of infinities and NaNs.
const MAX: u16 = 0x7FFF;
/// The integer bit.
const INTEGER: u64 = 1 << 63;
/// What makes a NaN quiet.
const QUIET: u64 = 1 << 62;

/// A number in memory's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) struct Extended {
    /// Sign in bit 15, and exponent.
    pub high: u16,
    /// Significand.
    pub low: u64,
}

/// What an invalid operation gives.
pub(in super::super) const INDEFINITE: Extended = Extended {
    high: 0xFFFF,
    low: INTEGER | QUIET,
};

/// A number that is not zero: `significand / 2^63 * 2^exponent`, with the top bit set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Finite {
    pub sign: bool,
    pub exponent: i32,
    pub significand: u64,
}

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Class {
    Zero,
    Finite(Finite),
    Infinite,
    /// A NaN, quiet or not.
    Nan {
        quiet: bool,
    },
    /// A pattern that processors since the 387 refuse.
    Unsupported,
}

/// How a format is rounded to.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Format {
    /// Bits of significand, with the integer bit.
    pub precision: u32,
    /// The exponent of 1, as it is stored.
    pub bias: i32,
    /// The stored exponent of infinity.
    pub max: i32,
}

/// IEEE single.
pub(in super::super) const SINGLE: Format = Format {
    precision: 24,
    bias: 127,
    max: 0xFF,
};
/// IEEE double.
pub(in super::super) const DOUBLE: Format = Format {
    precision: 53,
    bias: 1023,
    max: 0x7FF,
};
/// All of an extended number.
pub(in super::super) const FULL: Format = Format {
    precision: 64,
    bias: BIAS,
    max: MAX as i32,
};

/// Where results go that are between two numbers (RC).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Rounding {
    Nearest,
    Down,
    Up,
    Chop,
}

/// Rounding and masks, and what a computation notes.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Environment {
    pub rounding: Rounding,
    /// The format that sums, products, quotients and roots are rounded to (PC).
    pub format: Format,
    /// Exception bits, as in the status word.
    pub exceptions: u16,
    /// The result is larger in magnitude than what was computed: C1.
    pub rounded_up: bool,
    /// Exceptions that are raised.
    unmasked: u16,
}

/// What is added to the exponent of what is too small, and taken from that of what is too large, for who handles the
/// exception (SDM volume 1, 8.5.4 and 8.5.5).
const WRAP: i32 = 24576;

/// A rounded number in some format.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Rounded {
    /// As stored: 0 for denormals, the format's `max` for infinity.
    pub exponent: i32,
    /// From the top bit down; the integer bit is clear in denormals.
    pub significand: u64,
}

/// A significand cut to its top bits.
struct Cut {
    /// What is left of it, from bit 63 down.
    kept: u64,
    /// Rounding made it the next power of two.
    carry: bool,
    /// Something was cut off.
    inexact: bool,
    /// It became larger in magnitude.
    up: bool,
}

impl Cut {
    /// What is stored of it, if that is this exponent before it was cut.
    fn at(&self, exponent: i32) -> Rounded {
        Rounded {
            exponent: exponent.saturating_add(self.carry.into()),
            significand: if self.carry { INTEGER } else { self.kept },
        }
    }
}

impl Extended {
    pub fn new(sign: bool, exponent: u16, low: u64) -> Self {
        Self {
            high: u16::from(sign) << 15 | exponent,
            low,
        }
    }

    pub fn zero(sign: bool) -> Self {
        Self::new(sign, 0, 0)
    }

    pub fn infinity(sign: bool) -> Self {
        Self::new(sign, MAX, INTEGER)
    }

    pub fn sign(self) -> bool {
        self.high >> 15 != 0
    }

    pub fn exponent(self) -> u16 {
        self.high & MAX
    }

    pub fn negated(self) -> Self {
        Self {
            high: self.high ^ 0x8000,
            ..self
        }
    }

    pub fn absolute(self) -> Self {
        Self {
            high: self.high & MAX,
            ..self
        }
    }

    /// A NaN with the bit set that makes it quiet.
    pub fn quieted(self) -> Self {
        Self {
            low: self.low | QUIET,
            ..self
        }
    }

    pub fn is_denormal(self) -> bool {
        self.exponent() == 0 && self.low != 0
    }

    /// Its tag: 0 a number, 1 zero, 2 neither.
    pub fn tag(self) -> u16 {
        match (self.exponent(), self.low) {
            (0, 0) => 1,
            (0 | MAX, _) => 2,
            (_, low) if low & INTEGER == 0 => 2,
            _ => 0,
        }
    }

    pub fn class(self) -> Class {
        match self.exponent() {
            0 if self.low == 0 => Class::Zero,
            0 => {
                // Denormals, and those with an integer bit that should have had exponent 1.
                let shift = self.low.leading_zeros();
                Class::Finite(Finite {
                    sign: self.sign(),
                    exponent: 1 - BIAS - shift as i32,
                    significand: self.low << shift,
                })
            }
            _ if self.low & INTEGER == 0 => Class::Unsupported,
            MAX if self.low == INTEGER => Class::Infinite,
            MAX => Class::Nan {
                quiet: self.low & QUIET != 0,
            },
            exponent => Class::Finite(Finite {
                sign: self.sign(),
                exponent: i32::from(exponent) - BIAS,
                significand: self.low,
            }),
        }
    }
}

impl Environment {
    /// From a control word.
    pub fn new(control: u16) -> Self {
        let rounding = match control >> 10 & 3 {
            0 => Rounding::Nearest,
            1 => Rounding::Down,
            2 => Rounding::Up,
            _ => Rounding::Chop,
        };
        let precision = match control >> 8 & 3 {
            0 => 24,
            2 => 53,
            // 1 is reserved.
            _ => 64,
        };
        Self {
            rounding,
            format: Format { precision, ..FULL },
            exceptions: 0,
            rounded_up: false,
            unmasked: !control,
        }
    }

    pub fn note(&mut self, exceptions: u16) {
        self.exceptions |= exceptions;
    }

    /// That an operand was denormal is no news beside a NaN, or where the operation is invalid.
    pub fn outrank_denormal(&mut self, a: Extended, b: Extended) {
        let nan = |x: Extended| matches!(x.class(), Class::Nan { .. } | Class::Unsupported);
        if self.exceptions & IE != 0 || nan(a) || nan(b) {
            self.exceptions &= !DE;
        }
    }

    /// What an invalid operation gives.
    pub fn invalid(&mut self) -> Extended {
        // What is invalid is nothing else.
        self.exceptions = IE;
        INDEFINITE
    }

    /// Whether what is cut off, of which `half` is the top bit and `rest` whether more is set, makes
    /// the number larger in magnitude.
    pub fn rounds_up(&self, sign: bool, odd: bool, half: bool, rest: bool) -> bool {
        match self.rounding {
            Rounding::Nearest => half && (rest || odd),
            Rounding::Down => sign && (half || rest),
            Rounding::Up => !sign && (half || rest),
            Rounding::Chop => false,
        }
    }

    /// Cuts a significand to its top bits.
    fn cut(&self, sign: bool, significand: u128, precision: u32) -> Cut {
        let cut = significand << precision;
        let kept = (significand >> (128 - precision)) as u64;
        let half = cut >> 127 != 0;
        let rest = cut << 1 != 0;
        let up = self.rounds_up(sign, kept & 1 != 0, half, rest);
        let rounded = u128::from(kept) + u128::from(up);
        Cut {
            kept: (rounded << (64 - precision)) as u64,
            carry: rounded >> precision != 0,
            inexact: half || rest,
            up,
        }
    }

    /// Rounds `significand / 2^127 * 2^exponent`, whose top bit is set, to a format.
    pub fn round(
        &mut self,
        sign: bool,
        exponent: i32,
        significand: u128,
        format: Format,
    ) -> Rounded {
        let stored = exponent.saturating_add(format.bias);
        if stored > 0 {
            let cut = self.cut(sign, significand, format.precision);
            let rounded = cut.at(stored);
            if rounded.exponent >= format.max {
                return self.overflow(sign, format);
            }
            self.inexact(&cut);
            return rounded;
        }
        // Too small: what is lost before the last place counts as "more follows".
        let shift = (1 - stored).min(127) as u32;
        let shifted = significand >> shift | u128::from(significand << (128 - shift) != 0);
        let cut = self.cut(sign, shifted, format.precision);
        // Only what is still too small after rounding to unlimited range underflows.
        let tiny = stored < 0 || !self.cut(sign, significand, format.precision).carry;
        // To a handler it is too small, exact or not.
        if tiny && (cut.inexact || self.unmasked & UE != 0) {
            self.note(UE);
        }
        self.inexact(&cut);
        let normal = cut.carry || cut.kept & INTEGER != 0;
        Rounded {
            exponent: normal.into(),
            significand: cut.kept,
        }
    }

    fn inexact(&mut self, cut: &Cut) {
        if cut.inexact {
            self.note(PE);
        }
        self.rounded_up = cut.up;
    }

    fn overflow(&mut self, sign: bool, format: Format) -> Rounded {
        self.note(OE | PE);
        let away = match self.rounding {
            Rounding::Nearest => true,
            Rounding::Down => sign,
            Rounding::Up => !sign,
            Rounding::Chop => false,
        };
        self.rounded_up = away;
        if away {
            Rounded {
                exponent: format.max,
                significand: INTEGER,
            }
        } else {
            Rounded {
                exponent: format.max - 1,
                significand: u64::MAX << (64 - format.precision),
            }
        }
    }

    /// Rounds to an extended number of this environment's precision.
    pub fn pack(&mut self, sign: bool, exponent: i32, significand: u128) -> Extended {
        let format = self.format;
        self.pack_as(sign, exponent, significand, format)
    }

    /// Rounds to an extended number.
    pub fn pack_as(
        &mut self,
        sign: bool,
        exponent: i32,
        significand: u128,
        format: Format,
    ) -> Extended {
        if let Some(wrapped) = self.wrap(sign, exponent, significand, format) {
            return wrapped;
        }
        let rounded = self.round(sign, exponent, significand, format);
        Extended::new(sign, rounded.exponent as u16, rounded.significand)
    }

    /// The result of an overflow or underflow that is not masked, if it is one.
    fn wrap(
        &mut self,
        sign: bool,
        exponent: i32,
        significand: u128,
        format: Format,
    ) -> Option<Extended> {
        // Both are masked nearly always: then nothing is rounded twice.
        if self.unmasked & (OE | UE) == 0 {
            return None;
        }
        let cut = self.cut(sign, significand, format.precision);
        let rounded = cut.at(exponent.saturating_add(format.bias));
        let (exception, wrapped) = if rounded.exponent >= format.max {
            (OE, rounded.exponent - WRAP)
        } else if rounded.exponent <= 0 {
            (UE, rounded.exponent + WRAP)
        } else {
            return None;
        };
        // What is out of reach even then (`fscale`) is what it would be if it were masked.
        if self.unmasked & exception == 0 || !(1..format.max).contains(&wrapped) {
            return None;
        }
        self.note(exception);
        self.inexact(&cut);
        Some(Extended::new(sign, wrapped as u16, rounded.significand))
    }

    /// Looks at two operands. Some: the result of what has a NaN or an unsupported operand.
    pub fn nan_of(&mut self, a: Extended, b: Extended) -> Option<Extended> {
        let classes = [a.class(), b.class()];
        if classes.contains(&Class::Unsupported) {
            return Some(self.invalid());
        }
        if classes.contains(&Class::Nan { quiet: false }) {
            self.note(IE);
        }
        match classes {
            [Class::Nan { quiet: one }, Class::Nan { quiet: other }] => Some(if one != other {
                // A quiet one wins over one that is not.
                if one { a } else { b }
            } else {
                larger(a, b).quieted()
            }),
            [Class::Nan { .. }, _] => Some(a.quieted()),
            [_, Class::Nan { .. }] => Some(b.quieted()),
            _ => {
                if a.is_denormal() || b.is_denormal() {
                    self.note(DE);
                }
                None
            }
        }
    }
}

/// The one with the larger significand; of equal ones the positive.
fn larger(a: Extended, b: Extended) -> Extended {
    if a.low > b.low || (a.low == b.low && !a.sign()) {
        a
    } else {
        b
    }
}
