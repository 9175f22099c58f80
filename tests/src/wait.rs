//! Bounded waiting: look, look again a little later, give up with a sentence.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a claim waits for something that takes milliseconds on an idle machine. Generous:
/// two emulated guests share two processors with whatever else runs there.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Looks until `look` finds something, at most `patience` long. `what` completes the sentence
/// "Waited 30 s in vain for ...".
///
/// # Errors
/// `look`'s own error at once; a sentence with `what` when time is up.
pub fn until<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() >= patience {
            bail!("Waited {} s in vain for {what}", patience.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until `condition` holds. See [`until`].
///
/// # Errors
/// As [`until`].
pub fn until_true(
    what: &str,
    patience: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    until(what, patience, || Ok(condition()?.then_some(())))
}
