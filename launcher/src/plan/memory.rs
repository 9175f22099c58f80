//! How much memory a guest has, and whether the host can give it.

use std::ffi::OsStr;
use std::fmt;
use std::fs;

/// A guest's memory: a whole number of MiB, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemorySize {
    mib: u64,
}

/// Why a word is no memory size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Not a number.
    #[error("'{0}' is not a number: the guest's memory is given in MiB, such as 512")]
    NotANumber(String),
    /// None at all, or less.
    #[error("A guest with {0} MiB of memory can't run: give it some, such as 512")]
    None(String),
}

/// The host is smaller than the guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("A guest with {wanted} is more than this host can give: it has {has} MiB, swap included")]
pub struct HostMemoryError {
    wanted: MemorySize,
    has: u64,
}

impl MemorySize {
    /// So many MiB. `None` for zero.
    pub fn from_mib(mib: u64) -> Option<Self> {
        // Bytes fit in 64 bits; nobody has as much as the limit.
        (mib > 0).then(|| Self {
            mib: mib.min(u64::MAX >> 20),
        })
    }

    /// Reads `<mem-in-mb>`.
    ///
    /// # Errors
    /// Not a number, or not a positive one.
    pub fn parse(word: &OsStr) -> Result<Self, MemoryError> {
        let text = word.to_string_lossy();
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.as_ref()),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(MemoryError::NotANumber(text.into_owned()));
        }
        // Only digits: what does not fit is more than anybody has, and the host check says so.
        let mib = digits.parse().unwrap_or(u64::MAX);
        match Self::from_mib(mib) {
            Some(size) if !negative => Ok(size),
            _ => Err(MemoryError::None(text.into_owned())),
        }
    }

    /// In MiB.
    pub fn mib(self) -> u64 {
        self.mib
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.mib << 20
    }

    /// Whether this host could ever give as much. It may still be short of it just now: guests
    /// rarely use all of theirs, so what is free at the moment is no measure.
    ///
    /// # Errors
    /// It could not.
    pub fn check_host(self) -> Result<(), HostMemoryError> {
        // Without /proc there is nothing to compare with; the engine will find out.
        match fs::read_to_string("/proc/meminfo")
            .ok()
            .as_deref()
            .and_then(host_mib)
        {
            Some(has) if self.mib > has => Err(HostMemoryError { wanted: self, has }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.mib)
    }
}

/// RAM and swap in MiB, out of the text of /proc/meminfo (proc_meminfo(5): lines `name: N kB`).
fn host_mib(meminfo: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = meminfo.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    Some((field("MemTotal:")? + field("SwapTotal:").unwrap_or(0)) >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MemorySize, MemoryError> {
        MemorySize::parse(OsStr::new(text))
    }

    #[test]
    fn memory_is_a_positive_number_of_mib() {
        assert_eq!(parse("512").unwrap().bytes(), 512 << 20);
        for none in ["0", "-1", "-0", "00"] {
            assert_eq!(parse(none), Err(MemoryError::None(none.into())));
        }
        for word in ["", "-", "--", "1.5", "1G", "+3", "0x10", " 1", "vmlinux"] {
            assert_eq!(parse(word), Err(MemoryError::NotANumber(word.into())));
        }
    }

    #[test]
    fn more_than_the_host_has_is_refused_however_much_it_is() {
        for absurd in [
            "1000000000",
            "18446744073709551615",
            "99999999999999999999999999",
        ] {
            let error = parse(absurd).unwrap().check_host().unwrap_err().to_string();
            assert!(error.contains("more than this host"), "{error}");
        }
        assert_eq!(parse("1").unwrap().check_host(), Ok(()));
    }

    #[test]
    fn the_hosts_memory_includes_its_swap() {
        assert_eq!(
            host_mib("MemTotal:       2048 kB\nMemFree: 1 kB\nSwapTotal:      1024 kB\n"),
            Some(3)
        );
        assert_eq!(host_mib("MemFree: 1 kB\n"), None);
    }
}
