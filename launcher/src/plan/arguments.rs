//! The kernel's command line: what the user wrote after the kernel, and what an engine adds if the
//! user said nothing about it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// A kernel command line. Bytes, not text: nobody but the kernel reads it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KernelArguments(OsString);

impl KernelArguments {
    /// Words joined by blanks, as the kernel wants them.
    pub fn new(words: impl IntoIterator<Item = OsString>) -> Self {
        let words: Vec<_> = words.into_iter().collect();
        Self(words.join(OsStr::new(" ")))
    }

    /// Whether one of the words is `name=…`. A word of the user's may itself hold several.
    pub fn has(&self, name: &str) -> bool {
        let is_named = |word: &[u8]| {
            word.strip_prefix(name.as_bytes())
                .is_some_and(|rest| rest.starts_with(b"="))
        };
        self.0
            .as_bytes()
            .split(u8::is_ascii_whitespace)
            .any(is_named)
    }

    /// With each `name=value` added whose name the user did not mention. They go first: a `--`
    /// among the user's words ends what the kernel itself reads.
    #[must_use]
    pub fn with_defaults(&self, defaults: &[(&str, &str)]) -> Self {
        let added = defaults
            .iter()
            .filter(|(name, _)| !self.has(name))
            .map(|(name, value)| format!("{name}={value}"));
        let mut words: Vec<OsString> = added.map(OsString::from).collect();
        if !self.0.is_empty() {
            words.push(self.0.clone());
        }
        Self::new(words)
    }

    /// The line as it goes to the kernel, without a final NUL.
    pub fn as_os_str(&self) -> &OsStr {
        &self.0
    }

    /// Its length in bytes, without a final NUL.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is said at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for KernelArguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: [(&str, &str); 2] = [("console", "ttyS0"), ("panic", "-1")];

    fn line(words: &[&str]) -> String {
        KernelArguments::new(words.iter().map(OsString::from))
            .with_defaults(&DEFAULTS)
            .to_string()
    }

    #[test]
    fn what_the_user_says_is_never_overruled() {
        assert_eq!(line(&[]), "console=ttyS0 panic=-1");
        assert_eq!(line(&["quiet"]), "console=ttyS0 panic=-1 quiet");
        assert_eq!(line(&["console=hvc0"]), "panic=-1 console=hvc0");
        assert_eq!(
            line(&["quiet panic=5 console=tty0"]),
            "quiet panic=5 console=tty0"
        );
    }

    #[test]
    fn a_name_that_only_begins_alike_is_another() {
        assert_eq!(
            line(&["consoleblank=0", "panic_on_oops=1"]),
            "console=ttyS0 panic=-1 consoleblank=0 panic_on_oops=1"
        );
    }

    #[test]
    fn what_is_added_stands_before_a_double_dash() {
        assert_eq!(
            line(&["quiet", "--", "init-arg"]),
            "console=ttyS0 panic=-1 quiet -- init-arg"
        );
    }
}
