//! How many processors a guest has.

use std::fmt;

/// The most there are: an xAPIC id has eight bits, and 255 is for all processors at once (Intel's
/// SDM, volume 3, "APIC ID").
const MOST: u8 = 255;

/// A guest's processors: 1 to 255. An engine may take fewer, and says so itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuCount(u8);

/// Why a word is no number of processors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a number of processors: a guest has 1 to {MOST}")]
pub struct CpuCountError(String);

impl CpuCount {
    /// Reads the value of `--cpus`.
    ///
    /// # Errors
    /// Not a number, or not one of 1 to 255.
    pub fn parse(text: &str) -> Result<Self, CpuCountError> {
        // Only digits: a sign is no part of a count.
        match text.parse() {
            Ok(count @ 1..=MOST) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(Self(count)),
            _ => Err(CpuCountError(text.into())),
        }
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for CpuCount {
    /// One, as the seed's guests had.
    fn default() -> Self {
        Self(1)
    }
}

impl fmt::Display for CpuCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_has_1_to_255_processors() {
        for (text, count) in [("1", 1), ("2", 2), ("255", 255)] {
            assert_eq!(CpuCount::parse(text).unwrap().get(), count);
        }
        for text in [
            "",
            "0",
            "256",
            "-1",
            "+2",
            "1.5",
            "two",
            "99999999999999999999",
        ] {
            let error = CpuCount::parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("'{text}'")), "{error}");
        }
    }
}
