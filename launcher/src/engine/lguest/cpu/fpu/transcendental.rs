//! Sines, logarithms and powers. Through the host's doubles: 53 of 64 bits are right, the rest are
//! zero. Guests of a kernel and a libc without graphics hardly meet them.

use super::convert::{from_host, to_host};
use super::extended::{Class, Environment, Extended};
use super::{DE, IE, PE, ZE};

/// Angles from 2^63 on are refused (C2).
pub(in super::super) fn in_range(angle: Extended) -> bool {
    !matches!(angle.class(), Class::Finite(x) if x.exponent >= 63)
}

/// A function of one number. NaNs pass; infinity, where it has no value, is invalid.
fn one(a: Extended, env: &mut Environment, of: impl Fn(f64) -> f64) -> Extended {
    match a.class() {
        Class::Nan { quiet } => {
            env.note(if quiet { 0 } else { IE });
            a.quieted()
        }
        Class::Unsupported | Class::Infinite => env.invalid(),
        Class::Zero => from_host(of(to_host(a))),
        Class::Finite(_) => {
            env.note(PE | if a.is_denormal() { DE } else { 0 });
            let value = of(to_host(a));
            // Below what a double can hold these functions are their argument.
            if value == 0.0 && to_host(a) == 0.0 {
                a
            } else {
                from_host(value)
            }
        }
    }
}

pub(in super::super) fn sine(a: Extended, env: &mut Environment) -> Extended {
    one(a, env, libm::sin)
}

pub(in super::super) fn cosine(a: Extended, env: &mut Environment) -> Extended {
    match a.class() {
        // The cosine of almost nothing.
        Class::Finite(x) if x.exponent < -1000 => {
            env.note(PE | if a.is_denormal() { DE } else { 0 });
            from_host(1.0)
        }
        _ => one(a, env, libm::cos),
    }
}

pub(in super::super) fn tangent(a: Extended, env: &mut Environment) -> Extended {
    one(a, env, libm::tan)
}

/// `2^a - 1`, for -1 to 1.
pub(in super::super) fn power(a: Extended, env: &mut Environment) -> Extended {
    if a.class() == Class::Infinite {
        return if a.sign() { from_host(-1.0) } else { a };
    }
    one(a, env, |x| libm::expm1(x * std::f64::consts::LN_2))
}

/// The angle of the point (x, y).
pub(in super::super) fn angle(y: Extended, x: Extended, env: &mut Environment) -> Extended {
    if let Some(nan) = env.nan_of(y, x) {
        return nan;
    }
    if y.class() != Class::Zero || x.sign() {
        env.note(PE);
    }
    from_host(libm::atan2(to_host(y), to_host(x)))
}

/// `y * log2(x)`, or with `plus_one` of `x + 1`.
pub(in super::super) fn logarithm(
    y: Extended,
    x: Extended,
    plus_one: bool,
    env: &mut Environment,
) -> Extended {
    if let Some(nan) = env.nan_of(y, x) {
        return nan;
    }
    let (factor, of) = (to_host(y), to_host(x));
    let log = if plus_one {
        libm::log1p(of) * std::f64::consts::LOG2_E
    } else {
        libm::log2(of)
    };
    if log.is_nan() || (factor * log).is_nan() {
        return env.invalid();
    }
    if log.is_infinite() && of.is_finite() && y.class() != Class::Infinite {
        env.note(ZE);
    } else if log != 0.0 && log.is_finite() && factor.is_finite() {
        env.note(PE);
    }
    from_host(factor * log)
}
