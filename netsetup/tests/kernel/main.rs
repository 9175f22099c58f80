//! What the kernel holds after each operation, as `ip` tells it, never our own code.
//!
//! Each test has a fresh network namespace of its own, made by unsharing its thread; the host's
//! network is never touched. Where that is refused, or `ip` or `/dev/net/tun` is missing, the
//! tests are ignored and say so.
//!
//! The test binary is also its own helper: `kernel hold-tap NAME` opens a tap and waits to be
//! killed.

#![allow(
    clippy::unwrap_used,
    reason = "the exception for tests does not see harnesses of one's own"
)]

mod address;
mod bridge;
mod lab;
mod link;
mod macvtap;
mod netns;
mod tap;
mod tap_obstacles;
mod undo;
mod vxlan;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some(tap::HOLD_TAP) {
        return tap::hold(&args.next().unwrap_or_default());
    }
    let arguments = Arguments::from_args();
    // Listing needs no lab, and must not fail where there is none.
    let lab = if arguments.list { Ok(()) } else { lab::open() };
    let mut trials = Vec::new();
    for (needs_tun, tests) in [
        (false, address::TESTS),
        (false, bridge::TESTS),
        (false, link::TESTS),
        (false, macvtap::TESTS),
        (false, netns::TESTS),
        (true, tap::TESTS),
        (true, tap_obstacles::TESTS),
        (false, undo::TESTS),
        (false, vxlan::TESTS),
    ] {
        let why_not = match (&lab, needs_tun) {
            (Err(reason), _) => Some(reason.clone()),
            (Ok(()), true) if !arguments.list => lab::no_tun(),
            _ => None,
        };
        trials.extend(tests.iter().map(|(name, test)| match why_not.clone() {
            None => Trial::ignorable_test(*name, lab::in_fresh_namespace(*test)),
            Some(reason) => Trial::ignorable_test(*name, || Ok(Completion::ignored_with(reason))),
        }));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
