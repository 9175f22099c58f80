//! A fault of the launcher's own: a panic, on any thread.
//!
//! The thread is gone then, and so is what it did for the guest: a disk answers no more, a card hears
//! nothing. A guest is not to wait for that for ever, so a fault ends it, told in a sentence, whichever
//! thread it is and whoever made it: all panics pass the process's panic hook, and there the guest's end
//! is asked for, as a person asks for it ([`crate::stop`]).

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::backend::console::terminal;
use crate::error::Error;
use crate::report;
use crate::stop::{StopCause, StopRequest, StopSender};

/// Whom to ask for the guest's end, while there is one.
static STOP: Mutex<Option<StopSender>> = Mutex::new(None);

/// There was a fault.
static MET: AtomicBool = AtomicBool::new(false);

/// How long the guest's end may take, in seconds. It ends in good order, if what is left of us can do
/// that; if not, the kernel ends us (`SIGALRM`).
const PATIENCE: u32 = 10;

/// From here on faults are watched for.
pub fn watch() {
    set_hook(Box::new(meet));
}

/// From here on a fault asks on this line for the guest's end.
///
/// # Errors
/// No file descriptor is left.
pub fn ends_guest(stop: &StopSender) -> Result<(), Error> {
    let stop = stop.try_clone()?;
    STOP.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .replace(stop);
    Ok(())
}

/// Whether there was a fault.
pub fn met() -> bool {
    MET.load(Ordering::SeqCst)
}

/// What `work` gives; nothing if it panics.
pub fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    // What it leaves half done is not used again: the process ends.
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// The hook. What can't fail comes first: the thread may have been about to do what comes later.
fn meet(panic: &PanicHookInfo<'_>) {
    MET.store(true, Ordering::SeqCst);
    nix::unistd::alarm::set(PATIENCE);
    if let Some(stop) = &*STOP.lock().unwrap_or_else(PoisonError::into_inner) {
        stop.request(StopRequest::End(StopCause::Fault));
    }
    terminal::restore();
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let what = panic.payload_as_str().unwrap_or("no reason given");
    let place = panic.location().map(ToString::to_string);
    let place = place.as_deref().unwrap_or("an unknown place");
    report::say(&format_args!(
        "A fault of the launcher's own, which its makers want to know of: {what}, at {place}, in the thread '{name}'"
    ));
}
