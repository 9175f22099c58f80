//! Why a guest ended, and the exit status that tells it: the same for all engines.
//!
//! | end | status |
//! |---|---|
//! | the guest powered itself off, or asked for a reboot: also if a signal pressed its power button | 0 |
//! | it crashed: kernel panic, triple fault | 1 |
//! | a fault of the launcher's own ([`crate::fault`]) | 1 |
//! | three ^C on the console | 2 |
//! | signal *n* to the launcher, and the guest had to be ended | 128 + *n*, as shells count |

use std::fmt;

use crate::backend::console::words::GuestWords;
use crate::stop::StopCause;

/// How a guest came to its end. An engine that itself fails gives an error instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestEnd {
    /// It switched itself off.
    PoweredOff,
    /// It pulled the reset line; [`GuestEnd::explained_by`] tells a wish from a crash.
    Reset {
        /// The processor did so itself, finding no handler for a fault in a fault.
        triple_fault: bool,
    },
    /// Its kernel panicked, with these words.
    Panicked(String),
    /// It did what no guest of its engine may do, or can go on from.
    Died(String),
    /// Somebody asked us to end it.
    Stopped(StopCause),
}

impl GuestEnd {
    /// What the guest's last words make of a reset: a panicking Linux resets the machine as a
    /// rebooting one does, and only its console says which it was.
    #[must_use]
    pub fn explained_by(self, words: &GuestWords) -> Self {
        match self {
            Self::Reset { triple_fault } => match &words.panic {
                Some(text) => Self::Panicked(text.clone()),
                // A kernel told to (`reboot=t`) reboots by triple fault, and says so before.
                None => Self::Reset {
                    triple_fault: triple_fault && !words.restarting,
                },
            },
            other => other,
        }
    }

    /// The launcher's exit status.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::PoweredOff
            | Self::Reset {
                triple_fault: false,
            } => 0,
            Self::Panicked(_) | Self::Died(_) | Self::Reset { triple_fault: true } => 1,
            Self::Stopped(StopCause::Fault) => 1,
            Self::Stopped(StopCause::Escape) => 2,
            Self::Stopped(StopCause::Signal(signal)) => 128 + *signal as u8,
        }
    }

    /// The sentence for stderr, if this end is one to complain about.
    pub fn complaint(&self) -> Option<String> {
        match self {
            Self::PoweredOff
            | Self::Reset {
                triple_fault: false,
            } => None,
            other => Some(other.to_string()),
        }
    }
}

impl fmt::Display for GuestEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => f.write_str("The guest powered off"),
            Self::Reset { triple_fault: false } => f.write_str("The guest rebooted, which ends it here"),
            Self::Reset { triple_fault: true } => f.write_str(
                "The guest crashed: its processor met a triple fault, so its kernel may not be one for this engine",
            ),
            Self::Panicked(text) => write!(f, "The guest's kernel panicked: {text}"),
            Self::Died(reason) => write!(f, "The guest died: {reason}"),
            Self::Stopped(StopCause::Escape) => f.write_str("Three ^C within a second ended the guest"),
            Self::Stopped(StopCause::Fault) => f.write_str("A fault of the launcher's own ended the guest"),
            Self::Stopped(StopCause::Signal(signal)) => write!(f, "{signal} ended the guest"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRASH: GuestEnd = GuestEnd::Reset { triple_fault: true };
    const REBOOT: GuestEnd = GuestEnd::Reset {
        triple_fault: false,
    };

    #[test]
    fn a_reset_after_a_panic_is_a_crash() {
        let words = GuestWords {
            panic: Some("Fatal exception".into()),
            restarting: false,
        };
        let end = REBOOT.explained_by(&words);
        assert_eq!(end.exit_status(), 1);
        assert!(end.complaint().unwrap().contains("Fatal exception"));
    }

    #[test]
    fn a_reboot_by_triple_fault_is_a_reboot() {
        let words = GuestWords {
            panic: None,
            restarting: true,
        };
        assert_eq!(CRASH.explained_by(&words), REBOOT);
        assert_eq!(CRASH.explained_by(&GuestWords::default()).exit_status(), 1);
    }

    #[test]
    fn a_panic_does_not_explain_a_power_off() {
        let words = GuestWords {
            panic: Some("an old log".into()),
            restarting: false,
        };
        assert_eq!(GuestEnd::PoweredOff.explained_by(&words).exit_status(), 0);
    }

    #[test]
    fn signals_are_told_as_shells_do() {
        let end = GuestEnd::Stopped(StopCause::Signal(nix::sys::signal::Signal::SIGTERM));
        assert_eq!(end.exit_status(), 143);
        assert_eq!(GuestEnd::Stopped(StopCause::Escape).exit_status(), 2);
    }
}
