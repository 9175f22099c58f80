//! Sums, products, quotients, roots, remainders, comparisons: to the last bit.

use super::extended::{BIAS, Class, Environment, Extended, FULL, Finite};
use super::{DE, IE, PE, ZE};

/// `a + b`.
pub(in super::super) fn add(a: Extended, b: Extended, env: &mut Environment) -> Extended {
    if let Some(nan) = env.nan_of(a, b) {
        return nan;
    }
    match (a.class(), b.class()) {
        (Class::Infinite, Class::Infinite) if a.sign() != b.sign() => env.invalid(),
        (Class::Infinite, _) => a,
        (_, Class::Infinite) => b,
        (Class::Zero, Class::Zero) if a.sign() == b.sign() => a,
        (Class::Zero, Class::Zero) => cancelled(env),
        (Class::Zero, Class::Finite(x)) | (Class::Finite(x), Class::Zero) => exactly(x, env),
        (Class::Finite(x), Class::Finite(y)) => add_finite(x, y, env),
        _ => env.invalid(),
    }
}

/// `a - b`.
pub(in super::super) fn subtract(a: Extended, b: Extended, env: &mut Environment) -> Extended {
    // The sign of a NaN is not changed by this.
    if matches!(b.class(), Class::Nan { .. }) {
        add(a, b, env)
    } else {
        add(a, b.negated(), env)
    }
}

/// The zero that is left when nothing is.
fn cancelled(env: &Environment) -> Extended {
    Extended::zero(env.rounding == super::extended::Rounding::Down)
}

/// A number by itself, which the precision may still cut.
fn exactly(x: Finite, env: &mut Environment) -> Extended {
    env.pack(x.sign, x.exponent, u128::from(x.significand) << 64)
}

fn add_finite(x: Finite, y: Finite, env: &mut Environment) -> Extended {
    let larger = (x.exponent, x.significand) >= (y.exponent, y.significand);
    let (x, y) = if larger { (x, y) } else { (y, x) };
    // One bit of room for the carry, 63 below to tell what is cut off.
    let top = u128::from(x.significand) << 63;
    let distance = (x.exponent - y.exponent).min(127) as u32;
    let whole = u128::from(y.significand) << 63;
    let lost = distance > 0 && whole << (128 - distance) != 0;
    let small = whole >> distance | u128::from(lost);
    let sum = if x.sign == y.sign {
        top + small
    } else {
        top - small
    };
    if sum == 0 {
        return cancelled(env);
    }
    let shift = sum.leading_zeros();
    env.pack(x.sign, x.exponent + 1 - shift as i32, sum << shift)
}

/// `a * b`.
pub(in super::super) fn multiply(a: Extended, b: Extended, env: &mut Environment) -> Extended {
    if let Some(nan) = env.nan_of(a, b) {
        return nan;
    }
    let sign = a.sign() != b.sign();
    match (a.class(), b.class()) {
        (Class::Infinite, Class::Zero) | (Class::Zero, Class::Infinite) => env.invalid(),
        (Class::Infinite, _) | (_, Class::Infinite) => Extended::infinity(sign),
        (Class::Finite(x), Class::Finite(y)) => {
            let product = u128::from(x.significand) * u128::from(y.significand);
            let shift = product.leading_zeros();
            env.pack(
                sign,
                x.exponent + y.exponent + 1 - shift as i32,
                product << shift,
            )
        }
        _ => Extended::zero(sign),
    }
}

/// `a / b`.
pub(in super::super) fn divide(a: Extended, b: Extended, env: &mut Environment) -> Extended {
    if let Some(nan) = env.nan_of(a, b) {
        // Division by zero is not looked at.
        return nan;
    }
    let sign = a.sign() != b.sign();
    match (a.class(), b.class()) {
        (Class::Infinite, Class::Infinite) | (Class::Zero, Class::Zero) => env.invalid(),
        (Class::Infinite, _) => Extended::infinity(sign),
        (_, Class::Infinite) | (Class::Zero, _) => Extended::zero(sign),
        (Class::Finite(x), Class::Finite(y)) => {
            let divisor = u128::from(y.significand);
            let dividend = u128::from(x.significand) << 64;
            let (high, rest) = (dividend / divisor, dividend % divisor);
            let (low, rest) = ((rest << 63) / divisor, (rest << 63) % divisor);
            let quotient = high << 63 | low | u128::from(rest != 0);
            let shift = quotient.leading_zeros();
            env.pack(
                sign,
                x.exponent - y.exponent - shift as i32,
                quotient << shift,
            )
        }
        _ => {
            env.exceptions = env.exceptions & !DE | ZE;
            Extended::infinity(sign)
        }
    }
}

/// The square root.
pub(in super::super) fn root(a: Extended, env: &mut Environment) -> Extended {
    match a.class() {
        Class::Nan { quiet } => {
            env.note(if quiet { 0 } else { IE });
            a.quieted()
        }
        Class::Zero => a,
        Class::Infinite if !a.sign() => a,
        Class::Finite(x) if !x.sign => {
            env.note(if a.is_denormal() { DE } else { 0 });
            let odd = x.exponent & 1;
            let square = u128::from(x.significand) << (63 + odd);
            let root = square.isqrt();
            let rest = square - root * root;
            // The part that is cut off is at least a half if the rest is more than the root.
            let significand = root << 64 | u128::from(rest > root) << 63 | u128::from(rest != 0);
            env.pack(false, (x.exponent - odd) / 2, significand)
        }
        _ => env.invalid(),
    }
}

/// What a comparison finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Order {
    Less,
    Equal,
    Greater,
    Unordered,
}

/// Compares; `quiet` ones take quiet NaNs without complaint.
pub(in super::super) fn compare(
    a: Extended,
    b: Extended,
    quiet: bool,
    env: &mut Environment,
) -> Order {
    let classes = [a.class(), b.class()];
    let nan = |class: &Class| matches!(class, Class::Nan { .. } | Class::Unsupported);
    let bad = |class: &Class| matches!(class, Class::Nan { quiet: false } | Class::Unsupported);
    if classes.iter().any(nan) {
        if !quiet || classes.iter().any(bad) {
            env.note(IE);
        }
        return Order::Unordered;
    }
    if a.is_denormal() || b.is_denormal() {
        env.note(DE);
    }
    if classes == [Class::Zero, Class::Zero] {
        return Order::Equal;
    }
    let key = |x: Extended| {
        let size = i128::from(x.exponent().max(u16::from(x.low != 0))) << 64 | i128::from(x.low);
        if x.sign() { -size } else { size }
    };
    match key(a).cmp(&key(b)) {
        std::cmp::Ordering::Less => Order::Less,
        std::cmp::Ordering::Equal => Order::Equal,
        std::cmp::Ordering::Greater => Order::Greater,
    }
}

/// To a whole number, as the environment rounds.
pub(in super::super) fn round_to_integer(a: Extended, env: &mut Environment) -> Extended {
    match a.class() {
        Class::Unsupported => env.invalid(),
        Class::Nan { quiet } => {
            env.note(if quiet { 0 } else { IE });
            a.quieted()
        }
        Class::Finite(x) if x.exponent < 63 => {
            env.note(if a.is_denormal() { DE } else { 0 });
            match whole(x, env) {
                0 => Extended::zero(x.sign),
                whole => {
                    let shift = whole.leading_zeros();
                    let exponent = 127 - shift as i32 + BIAS;
                    Extended::new(x.sign, exponent as u16, (whole << shift >> 64) as u64)
                }
            }
        }
        _ => a,
    }
}

/// The magnitude of a number below 2^64 as a whole number.
pub(in super::super) fn whole(x: Finite, env: &mut Environment) -> u128 {
    // Bits of the significand behind the point; the fraction is moved to the top.
    let behind = (63 - x.exponent).clamp(0, 255) as u32;
    let significand = u128::from(x.significand);
    let (integer, fraction) = match behind {
        0 => (significand, 0),
        1..=64 => (significand >> behind, significand << (128 - behind)),
        _ => {
            let shift = (behind - 64).min(127);
            let moved = significand << 64;
            (0, moved >> shift | u128::from(moved << (128 - shift) != 0))
        }
    };
    let half = fraction >> 127 != 0;
    let rest = fraction << 1 != 0;
    let up = env.rounds_up(x.sign, integer & 1 != 0, half, rest);
    if half || rest {
        env.note(PE);
    }
    env.rounded_up = up;
    integer + u128::from(up)
}

/// `a * 2^(b, cut to a whole number)`.
pub(in super::super) fn scale(a: Extended, b: Extended, env: &mut Environment) -> Extended {
    if let Some(nan) = env.nan_of(a, b) {
        return nan;
    }
    match (a.class(), b.class()) {
        (Class::Zero, Class::Infinite) if !b.sign() => env.invalid(),
        (Class::Infinite, Class::Infinite) if b.sign() => env.invalid(),
        (_, Class::Infinite) if b.sign() => Extended::zero(a.sign()),
        (_, Class::Infinite) => Extended::infinity(a.sign()),
        (Class::Finite(x), Class::Finite(y)) => {
            let size = if y.exponent < 0 {
                0
            } else if y.exponent > 16 {
                0x1_0000
            } else {
                (y.significand >> (63 - y.exponent)) as i32
            };
            let by = if y.sign { -size } else { size };
            env.pack_as(
                x.sign,
                x.exponent + by,
                u128::from(x.significand) << 64,
                FULL,
            )
        }
        (Class::Finite(x), _) => exactly_full(x, env),
        _ => a,
    }
}

/// The exponent and the significand of a number, each as a number.
pub(in super::super) fn extract(a: Extended, env: &mut Environment) -> (Extended, Extended) {
    match a.class() {
        Class::Zero => {
            env.note(ZE);
            (Extended::infinity(true), a)
        }
        Class::Infinite => (Extended::infinity(false), a),
        Class::Finite(x) => {
            env.note(if a.is_denormal() { DE } else { 0 });
            let significand = Extended::new(x.sign, BIAS as u16, x.significand);
            (super::convert::from_integer(x.exponent.into()), significand)
        }
        Class::Nan { quiet } => {
            env.note(if quiet { 0 } else { IE });
            (a.quieted(), a.quieted())
        }
        Class::Unsupported => (env.invalid(), env.invalid()),
    }
}

/// A remainder: the result, whether that is only a step towards it, and the low bits of the quotient.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Remainder {
    pub value: Extended,
    pub partial: bool,
    pub quotient: u64,
}

/// `a` less a whole multiple of `b`: the quotient is cut, or with `nearest` rounded to the nearest.
/// Exponents more than 63 apart take several steps (Intel SDM volume 2, `FPREM`).
pub(in super::super) fn remainder(
    a: Extended,
    b: Extended,
    nearest: bool,
    env: &mut Environment,
) -> Remainder {
    let done = |value| Remainder {
        value,
        partial: false,
        quotient: 0,
    };
    if let Some(nan) = env.nan_of(a, b) {
        return done(nan);
    }
    let (x, y) = match (a.class(), b.class()) {
        (Class::Infinite, _) | (_, Class::Zero) => return done(env.invalid()),
        (Class::Finite(x), Class::Finite(y)) => (x, y),
        _ => return done(a),
    };
    let distance = x.exponent - y.exponent;
    if distance < -1 || (distance < 0 && !nearest) {
        return done(exactly_full(x, env));
    }
    let partial = distance >= 64;
    // A step takes 32 to 63 bits of the quotient.
    let bits = if partial {
        32 + distance % 32
    } else {
        distance
    };
    let mut rest = u128::from(x.significand);
    let divisor = u128::from(y.significand);
    let mut quotient = 0_u64;
    let mut exponent = x.exponent;
    if distance < 0 {
        // The quotient is below one; the divisor is twice as far up.
        exponent = y.exponent;
        let twice = rest;
        let up = twice > divisor;
        let (sign, left) = if up {
            (!x.sign, 2 * divisor - twice)
        } else {
            (x.sign, twice)
        };
        return Remainder {
            value: normalized(sign, exponent - 1, left, env),
            partial,
            quotient: up.into(),
        };
    }
    for n in 0..=bits {
        if n > 0 {
            rest <<= 1;
            exponent -= 1;
        }
        quotient <<= 1;
        if rest >= divisor {
            rest -= divisor;
            quotient |= 1;
        }
    }
    let mut sign = x.sign;
    if nearest && !partial {
        let twice = 2 * rest;
        if twice > divisor || (twice == divisor && quotient & 1 != 0) {
            rest = divisor - rest;
            sign = !sign;
            quotient = quotient.wrapping_add(1);
        }
    }
    let value = if rest == 0 {
        Extended::zero(x.sign)
    } else {
        normalized(sign, exponent, rest, env)
    };
    Remainder {
        value,
        partial,
        quotient: if partial { 0 } else { quotient },
    }
}

fn exactly_full(x: Finite, env: &mut Environment) -> Extended {
    env.pack_as(x.sign, x.exponent, u128::from(x.significand) << 64, FULL)
}

/// `rest / 2^63 * 2^exponent`.
fn normalized(sign: bool, exponent: i32, rest: u128, env: &mut Environment) -> Extended {
    let shift = rest.leading_zeros();
    env.pack_as(sign, exponent + 64 - shift as i32, rest << shift, FULL)
}
