//! What becomes of a guest that resets itself: `--on-reset`.

use std::fmt;
use std::str::FromStr;

/// What becomes of a guest that reboots. One that crashes ends in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnReset {
    /// It ends, as the seed's did.
    #[default]
    End,
    /// It starts again.
    Reboot,
}

impl FromStr for OnReset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "end" => Ok(Self::End),
            "reboot" => Ok(Self::Reboot),
            _ => Err(format!(
                "'{text}' can't become of a guest that resets itself; there are end and reboot"
            )),
        }
    }
}

impl fmt::Display for OnReset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::End => "ends the guest",
            Self::Reboot => "starts it again, unless it crashed",
        })
    }
}
