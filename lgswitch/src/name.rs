//! Where a segment lives: `lan0` or a path.
//!
//! A bare name stands in a memory-backed folder ([`directory`]); anything with a `/` in it is a
//! path and is taken as it is. Everything a user can type is parsed here, once.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest bare name, in bytes: what a file name may have on every filesystem, less what a
/// temporary name adds.
const MAX_NAME: usize = 200;

/// A segment as named on a command line, resolved to the file that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentName {
    text: String,
    path: PathBuf,
}

/// Why a text does not name a segment.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// An empty text.
    #[error("A sharenet needs a name, such as lan0, or a path")]
    Empty,
    /// A bare name with bytes that have no place in one.
    #[error(
        "'{0}' is not a sharenet name: use letters, digits, '.', '_' and '-', at most 200 of \
         them and none of '.' or '-' first, or write a path with a '/'"
    )]
    Malformed(String),
    /// A bare name, and no folder to keep it in.
    #[error(
        "No folder to keep '{0}' in: XDG_RUNTIME_DIR is not set; set LGSWITCH_DIR, or write a \
         path with a '/'"
    )]
    NoDirectory(String),
}

impl SegmentName {
    /// The file that holds the segment.
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

impl FromStr for SegmentName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        let path = if text.contains('/') {
            PathBuf::from(text)
        } else if is_bare_name(text) {
            directory()
                .ok_or_else(|| NameError::NoDirectory(text.to_owned()))?
                .join(text)
        } else {
            return Err(NameError::Malformed(text.to_owned()));
        };
        Ok(Self {
            text: text.to_owned(),
            path,
        })
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether `text` may name a segment in [`directory`]. Leading dots are kept for files in the
/// making, leading dashes for options.
pub fn is_bare_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !text.is_empty()
        && text.len() <= MAX_NAME
        && !text.starts_with(['.', '-'])
        && text.chars().all(plain)
}

/// The folder of bare names: `$LGSWITCH_DIR`, else `/run/lgswitch` for root, else
/// `$XDG_RUNTIME_DIR/lgswitch`. `None` when there is none for this user.
pub fn directory() -> Option<PathBuf> {
    let from_env = |key| {
        std::env::var_os(key)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    from_env("LGSWITCH_DIR")
        .or_else(|| {
            nix::unistd::geteuid()
                .is_root()
                .then(|| Path::new("/run/lgswitch").to_owned())
        })
        .or_else(|| from_env("XDG_RUNTIME_DIR").map(|dir| dir.join("lgswitch")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_makes_it_a_path() {
        let name: SegmentName = "./lan0".parse().unwrap();
        assert_eq!(name.path(), Path::new("./lan0"));
    }

    #[test]
    fn names_that_could_leave_the_folder_or_look_like_options_are_refused() {
        for text in [
            "",
            "..",
            ".",
            ".hidden",
            "-n",
            "a b",
            "lan\n0",
            "höhe",
            &"x".repeat(201),
        ] {
            assert!(text.parse::<SegmentName>().is_err(), "{text:?}");
        }
    }
}
