//! The devices of the engine `kvm`, driven as a guest's driver drives them: through their registers,
//! queues in memory, kicks and interrupts, with no KVM and no guest.
//!
//! Tests of a tap have a network namespace of their own, and are ignored where there is none to be had; so
//! are those of disks in layers where there is no `qemu-img` to make some.

#![allow(
    clippy::unwrap_used,
    reason = "the exception for tests does not see harnesses of one's own"
)]

mod balloon;
mod block;
mod console;
mod driver;
mod hostile;
mod layers;
mod net;
mod tap;
mod transport;

use libtest_mimic::{Arguments, Completion, Trial};

/// Names tests after their functions.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub const TESTS: &[(&str, fn())] = &[$((stringify!($name), $name)),*];
    };
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let mut trials: Vec<Trial> = [
        balloon::TESTS,
        block::TESTS,
        console::TESTS,
        hostile::TESTS,
        net::TESTS,
        transport::TESTS,
    ]
    .into_iter()
    .flatten()
    .map(|&(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    })
    .collect();
    trials.extend(tap::TESTS.iter().map(|&(name, test)| {
        Trial::ignorable_test(name, move || match tap::enter_namespace() {
            Ok(()) => {
                test();
                Ok(Completion::Completed)
            }
            Err(reason) => Ok(Completion::ignored_with(reason)),
        })
    }));
    trials.extend(layers::TESTS.iter().map(|&(name, test)| {
        Trial::ignorable_test(name, move || match layers::missing() {
            None => {
                test();
                Ok(Completion::Completed)
            }
            Some(reason) => Ok(Completion::ignored_with(reason)),
        })
    }));
    libtest_mimic::run(&arguments, trials).exit_code()
}
