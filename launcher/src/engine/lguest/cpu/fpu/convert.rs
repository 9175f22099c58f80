//! Between extended numbers and integers, IEEE singles and doubles, and decimals.

use super::arithmetic::{round_to_integer, whole};
use super::extended::{BIAS, Class, DOUBLE, Environment, Extended, Format, SINGLE};
use super::{DE, IE};

/// A whole number: exactly.
pub(in super::super) fn from_integer(value: i64) -> Extended {
    if value == 0 {
        return Extended::zero(false);
    }
    let size = value.unsigned_abs();
    let shift = size.leading_zeros();
    Extended::new(value < 0, (BIAS + 63 - shift as i32) as u16, size << shift)
}

/// A whole number of so many bits; what does not fit is the most negative one, and invalid.
pub(in super::super) fn to_integer(a: Extended, bits: u32, env: &mut Environment) -> i64 {
    let indefinite = i64::MIN >> (64 - bits);
    match a.class() {
        Class::Zero => 0,
        Class::Finite(x) if x.exponent < 64 => {
            let before = *env;
            let size = whole(x, env);
            let limit = 1_u128 << (bits - 1);
            if size < limit || (size == limit && x.sign) {
                let value = size as i64;
                return if x.sign { value.wrapping_neg() } else { value };
            }
            *env = before;
            env.note(IE);
            indefinite
        }
        _ => {
            env.note(IE);
            indefinite
        }
    }
}

/// From the bits of an IEEE number of this format.
fn from_ieee(bits: u64, format: Format, env: &mut Environment) -> Extended {
    let fraction_bits = format.precision - 1;
    let exponent = (bits >> fraction_bits) as i32 & format.max;
    let fraction = bits << (64 - fraction_bits) >> 1;
    let sign = bits >> fraction_bits > format.max as u64;
    if exponent == format.max {
        let nan = Extended::new(sign, 0x7FFF, 1 << 63 | fraction);
        if let Class::Nan { quiet } = nan.class() {
            env.note(if quiet { 0 } else { IE });
            return nan.quieted();
        }
        return nan;
    }
    if exponent == 0 {
        if fraction == 0 {
            return Extended::zero(sign);
        }
        env.note(DE);
        let shift = fraction.leading_zeros();
        let exponent = 1 - format.bias - shift as i32 + BIAS;
        return Extended::new(sign, exponent as u16, fraction << shift);
    }
    Extended::new(
        sign,
        (exponent - format.bias + BIAS) as u16,
        1 << 63 | fraction,
    )
}

/// To the bits of an IEEE number of this format.
fn to_ieee(a: Extended, format: Format, env: &mut Environment) -> u64 {
    let fraction_bits = format.precision - 1;
    let sign_bit = (format.max as u64 + 1) << fraction_bits;
    let bits = |sign: bool, exponent: i32, significand: u64| {
        let fraction = significand << 1 >> (64 - fraction_bits);
        (if sign { sign_bit } else { 0 }) | (exponent as u64) << fraction_bits | fraction
    };
    match a.class() {
        Class::Zero => bits(a.sign(), 0, 0),
        Class::Infinite => bits(a.sign(), format.max, 0),
        Class::Nan { quiet } => {
            env.note(if quiet { 0 } else { IE });
            bits(a.sign(), format.max, a.quieted().low)
        }
        Class::Unsupported => {
            let indefinite = env.invalid();
            bits(true, format.max, indefinite.low)
        }
        Class::Finite(x) => {
            let rounded = env.round(x.sign, x.exponent, u128::from(x.significand) << 64, format);
            bits(x.sign, rounded.exponent, rounded.significand)
        }
    }
}

pub(in super::super) fn from_single(bits: u32, env: &mut Environment) -> Extended {
    from_ieee(bits.into(), SINGLE, env)
}

pub(in super::super) fn from_double(bits: u64, env: &mut Environment) -> Extended {
    from_ieee(bits, DOUBLE, env)
}

pub(in super::super) fn to_single(a: Extended, env: &mut Environment) -> u32 {
    to_ieee(a, SINGLE, env) as u32
}

pub(in super::super) fn to_double(a: Extended, env: &mut Environment) -> u64 {
    to_ieee(a, DOUBLE, env)
}

/// From 18 decimal digits, two a byte, and a sign in the tenth byte.
pub(in super::super) fn from_decimal(bytes: &[u8; 10]) -> Extended {
    let value = bytes[..9].iter().rev().fold(0_i64, |value, byte| {
        value * 100 + i64::from(byte >> 4) * 10 + i64::from(byte & 0xF)
    });
    let size = from_integer(value);
    if bytes[9] & 0x80 != 0 {
        size.negated()
    } else {
        size
    }
}

/// To 18 decimal digits.
pub(in super::super) fn to_decimal(a: Extended, env: &mut Environment) -> [u8; 10] {
    const INDEFINITE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xC0, 0xFF, 0xFF];
    let before = *env;
    let rounded = round_to_integer(a, env);
    // That a number was denormal is no news where it is stored.
    env.exceptions &= !DE;
    let value = to_integer(rounded, 64, &mut Environment::new(0x37F)).unsigned_abs();
    let fits = match a.class() {
        Class::Zero => true,
        Class::Finite(x) => x.exponent < 63 && value < 1_000_000_000_000_000_000,
        _ => false,
    };
    if !fits {
        *env = before;
        env.note(IE);
        return INDEFINITE;
    }
    let mut bytes = [0; 10];
    let mut left = value;
    for byte in &mut bytes[..9] {
        let pair = (left % 100) as u8;
        *byte = ((pair / 10) << 4) | (pair % 10);
        left /= 100;
    }
    bytes[9] = u8::from(a.sign()) << 7;
    bytes
}

/// To a host's double, for what is computed in those.
pub(in super::super) fn to_host(a: Extended) -> f64 {
    f64::from_bits(to_double(a, &mut Environment::new(0x37F)))
}

/// From a host's double.
pub(in super::super) fn from_host(value: f64) -> Extended {
    from_double(value.to_bits(), &mut Environment::new(0x37F))
}
