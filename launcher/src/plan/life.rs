//! How the launcher attends to a guest's life: where its console is, who is told what, and what is
//! done about its ends.

use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;

use super::console::ConsolePlan;
use super::reset::OnReset;
use crate::stop::Grace;

/// Everything about a guest's life that is not the guest.
#[derive(Debug, Clone, Default)]
pub struct LifePlan {
    /// Where its console is.
    pub console: ConsolePlan,
    /// The file to which all it prints, and all we say, is added.
    pub log: Option<PathBuf>,
    /// What it prints when it is ready.
    pub ready: Option<ReadyText>,
    /// The descriptor on which its life is told, inherited from whoever started us.
    pub status: Option<StatusFd>,
    /// The file that holds our process number while it lives.
    pub pidfile: Option<PathBuf>,
    /// What becomes of it when it resets itself.
    pub on_reset: OnReset,
    /// How long it may take to power off when a signal asks for that.
    pub grace: Grace,
}

/// A text that marks a guest ready when it stands anywhere in a line of its console: 1 to 256
/// bytes without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyText(String);

/// Why a text can't mark a guest ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{}' can't mark a guest ready: it takes a part of one line, 1 to {} bytes long",
    .0.escape_debug(), ReadyText::MAX
)]
pub struct ReadyTextError(String);

impl ReadyText {
    /// The longest, in bytes.
    pub const MAX: usize = 256;

    /// Reads the value of `--ready`.
    ///
    /// # Errors
    /// It is empty, too long, or more than a part of one line.
    pub fn parse(text: &str) -> Result<Self, ReadyTextError> {
        if text.is_empty() || text.len() > Self::MAX || text.contains(char::is_control) {
            return Err(ReadyTextError(text.into()));
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The number of a file descriptor. Whether it is open, only [`crate::status`] can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusFd(RawFd);

/// Why a word is no number of a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not the number of a file descriptor, such as 3")]
pub struct StatusFdError(String);

impl StatusFd {
    /// Reads the value of `--status-fd`.
    ///
    /// # Errors
    /// Not a number.
    pub fn parse(text: &str) -> Result<Self, StatusFdError> {
        match text.parse() {
            Ok(number) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(Self(number)),
            _ => Err(StatusFdError(text.into())),
        }
    }

    /// The number.
    pub fn number(self) -> RawFd {
        self.0
    }
}

impl fmt::Display for LifePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "console   {}", self.console)?;
        if let Some(path) = &self.log {
            writeln!(f, "log       {}", path.display())?;
        }
        if let Some(text) = &self.ready {
            writeln!(f, "ready     '{}' on its console", text.as_str())?;
        }
        if let Some(fd) = self.status {
            writeln!(f, "status    file descriptor {}", fd.number())?;
        }
        if let Some(path) = &self.pidfile {
            writeln!(f, "pidfile   {}", path.display())?;
        }
        writeln!(f, "reset     {}", self.on_reset)?;
        writeln!(f, "grace     {}", self.grace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_marks_readiness_is_part_of_one_line() {
        assert_eq!(ReadyText::parse("a: b").unwrap().as_str(), "a: b");
        assert!(ReadyText::parse(&"x".repeat(ReadyText::MAX)).is_ok());
        for text in ["", "a\nb", "a\u{1b}", &"x".repeat(ReadyText::MAX + 1)] {
            let error = ReadyText::parse(text).unwrap_err().to_string();
            assert!(
                !error.contains('\n') && error.contains("can't mark"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_descriptor_is_a_number() {
        assert_eq!(StatusFd::parse("3").unwrap().number(), 3);
        for text in ["", "-1", "+3", "three", "4294967296"] {
            let error = StatusFd::parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("'{text}'")), "{error}");
        }
    }
}
