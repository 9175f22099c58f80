#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
//! The crash storm: processes on one segment are killed and stopped at every moment there is, and
//! those that are not go on as if nothing had been.
//!
//! ```text
//! cargo test -p lgswitch --features failpoints --test storm
//! STORM_SECONDS=600 STORM_SEED=7 cargo test --release -p lgswitch --test storm -- a_storm --nocapture
//! ```
//!
//! * [`weather`]: processes that send and receive as fast as they can ([`actor`]), some of which
//!   are SIGKILLed, SIGSTOPped and SIGCONTed at random.
//! * [`stores`]: one that is killed at its n-th store to shared memory, for every n there is.
//!
//! What "stall" means is in [`stall`].
//!
//! The processes are this binary, told by its environment what to be.

#[path = "storm/actor.rs"]
mod actor;
#[path = "storm/signed.rs"]
mod signed;
#[path = "storm/stall.rs"]
mod stall;
#[cfg(feature = "failpoints")]
#[path = "storm/stores.rs"]
mod stores;
#[path = "storm/weather.rs"]
mod weather;

use libtest_mimic::{Arguments, Trial};

/// In the environment of a process that is to be an actor: what to be.
const ROLE: &str = "STORM_ROLE";

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        return match role.as_str() {
            #[cfg(feature = "failpoints")]
            "mortal" => stores::live_and_die(),
            _ => actor::live(),
        };
    }
    let trials = vec![
        Trial::test(
            "survivors_of_a_storm_never_stall_hear_whole_frames_and_count_each_one",
            || {
                weather::storm();
                Ok(())
            },
        ),
        enumeration(),
    ];
    let mut arguments = Arguments::from_args();
    // One after another: what one forks holds another's locks until it is a program of its own.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit();
}

#[cfg(feature = "failpoints")]
fn enumeration() -> Trial {
    Trial::test(
        "whatever_store_a_process_is_killed_at_the_others_go_on_and_its_slot_works_again",
        || {
            stores::every_store();
            Ok(())
        },
    )
}

#[cfg(not(feature = "failpoints"))]
fn enumeration() -> Trial {
    Trial::test(
        "whatever_store_a_process_is_killed_at (needs --features failpoints)",
        || Ok(()),
    )
    .with_ignored_flag(true)
}
