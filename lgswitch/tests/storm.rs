#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
//! The crash storm: processes on one segment send and receive as fast as they can ([`actor`]), some of
//! which are SIGKILLed, SIGSTOPped and SIGCONTed at random ([`weather`]); those that are not go on
//! as if nothing had been. What it is to stall is in [`stall`]. A long one:
//!
//! ```text
//! STORM_SECONDS=600 STORM_SEED=7 cargo test --release -p lgswitch --test storm -- --nocapture
//! ```
//!
//! The processes are this binary, told by its environment what to be. The same at every moment there
//! is, one after another: `every_store.rs`.

#[path = "storm/actor.rs"]
mod actor;
#[path = "storm/signed.rs"]
mod signed;
#[path = "storm/stall.rs"]
mod stall;
#[path = "storm/weather.rs"]
mod weather;

use libtest_mimic::{Arguments, Trial};

fn main() {
    if std::env::var_os(actor::SEGMENT).is_some() {
        return actor::live();
    }
    let claim = Trial::test(
        "survivors_of_a_storm_never_stall_hear_whole_frames_and_count_each_one",
        || {
            weather::storm();
            Ok(())
        },
    );
    libtest_mimic::run(&Arguments::from_args(), vec![claim]).exit();
}
