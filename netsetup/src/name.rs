//! Names of network interfaces: the first thing any request carries, checked before the
//! kernel sees it so that a bad one is explained here rather than as `EINVAL`.
//!
//! Two types, because a tap may also be asked for by *pattern* (`tap%d`: the kernel puts in
//! the first free number) while every other request needs one exact name.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// Longest name, in bytes: the kernel's `IFNAMSIZ` (16, `linux/if.h`) less the final NUL.
pub const MAX_NAME_LEN: usize = libc::IFNAMSIZ - 1;

/// The name of one network interface, as the kernel accepts it (`dev_valid_name`): 1 to 15
/// bytes, no `/`, `:` or white space, not `.` or `..`; and no `%`, which stands for a number
/// the kernel picks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct InterfaceName(String);

/// Why a text cannot name an interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} cannot name an interface: {reason}")]
pub struct InvalidName {
    name: String,
    reason: &'static str,
}

impl InterfaceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = |reason| {
            Err(InvalidName {
                name: text.to_owned(),
                reason,
            })
        };
        if text.contains('%') {
            return invalid(
                "a % stands for a number the kernel picks, which only a new tap may have",
            );
        }
        match fault(text) {
            Some(reason) => invalid(reason),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for InterfaceName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// How a tap is to be called: by one exact name, or by a pattern in which `%d` is the first
/// free number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapName {
    /// This name and no other.
    Exact(InterfaceName),
    /// The first free name of this pattern; such a tap is always a new one.
    Pattern(NamePattern),
}

impl Default for TapName {
    /// `tap%d`: the next free `tap0`, `tap1`, ….
    fn default() -> Self {
        Self::Pattern(NamePattern("tap%d".to_owned()))
    }
}

impl FromStr for TapName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.contains('%') {
            text.parse().map(Self::Pattern)
        } else {
            text.parse().map(Self::Exact)
        }
    }
}

impl From<InterfaceName> for TapName {
    fn from(name: InterfaceName) -> Self {
        Self::Exact(name)
    }
}

impl TapName {
    /// The text `TUNSETIFF` is given.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Exact(name) => name.as_str(),
            Self::Pattern(pattern) => &pattern.0,
        }
    }
}

impl fmt::Display for TapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A name with exactly one `%d` in it, such as `tap%d`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern(String);

impl FromStr for NamePattern {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = |reason| {
            Err(InvalidName {
                name: text.to_owned(),
                reason,
            })
        };
        if text.matches('%').count() != 1 || !text.contains("%d") {
            return invalid("a pattern has exactly one %d and no other %");
        }
        // The shortest name the pattern can become must be a name.
        match fault(&text.replace("%d", "0")) {
            Some(reason) => invalid(reason),
            None => Ok(Self(text.to_owned())),
        }
    }
}

/// What the kernel would hold against this name, if anything.
fn fault(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("it is empty")
    } else if text.len() > MAX_NAME_LEN {
        Some("it is longer than 15 bytes")
    } else if text == "." || text == ".." {
        Some("it would be a directory of its own in /sys")
    } else if text.contains('/') {
        Some("it contains a /")
    } else if text.contains(':') {
        Some("it contains a :, the mark of an alias")
    } else if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        Some("it contains white space or a control character")
    } else if text.bytes().any(|byte| byte == 0xa0) {
        // The kernel's `isspace` reads Latin-1, where this is the no-break space; in UTF-8 it is
        // a part of "à".
        Some("it contains the byte A0, which the kernel takes for white space")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_takes_is_a_name() {
        for name in ["a", "tap0", "br-lan.1", "fifteen-letters", "é"] {
            assert_eq!(name.parse::<InterfaceName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_explained() {
        for (name, why) in [
            ("", "empty"),
            ("sixteen-letters-", "longer"),
            (".", "directory"),
            ("..", "directory"),
            ("a/b", "/"),
            ("eth0:1", "alias"),
            ("a b", "white space"),
            ("a\tb", "white space"),
            ("a\0b", "control"),
            ("à", "A0"),
            ("tap%d", "only a new tap"),
        ] {
            let error = name.parse::<InterfaceName>().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_tap_may_be_asked_for_by_pattern() {
        assert!(matches!("lab%d".parse(), Ok(TapName::Pattern(_))));
        assert!(matches!("lab0".parse(), Ok(TapName::Exact(_))));
        for bad in ["%d%d", "%s", "a%", "fifteen-lettersx%d", "%"] {
            assert!(bad.parse::<TapName>().is_err(), "{bad}");
        }
    }
}
