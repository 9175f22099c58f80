//! Taking a slot: which, and what stands in the way.

use std::fs::File;
use std::ops::Range;

use crate::lock::{self, Attempt};
use crate::segment::{Error, Segment, io_error};
use crate::slot::SlotIndex;

/// Locks the slot asked for, or the first free one, by `file`.
pub(super) fn slot(
    segment: &Segment,
    file: &File,
    wanted: Option<SlotIndex>,
) -> Result<SlotIndex, Error> {
    let slots = segment.slots();
    let range = match wanted {
        Some(slot) if slot.get() >= slots => {
            let path = segment.path().to_owned();
            return Err(Error::NoSuchSlot { path, slot, slots });
        }
        Some(slot) => slot.get()..slot.get() + 1,
        None => 0..slots,
    };
    let taken = lock::patiently(|| first_free(file, range.clone()))
        .map_err(io_error("lock a slot of", segment.path()))?;
    if !segment.has_name() {
        // Whoever removes a segment holds all its slots for that moment.
        return Err(Error::Removed(segment.path().to_owned()));
    }
    let path = segment.path().to_owned();
    taken.flatten().ok_or_else(|| match wanted {
        Some(slot) => {
            let pid = crate::report::holder_pid(segment, slot);
            Error::SlotHeld { path, slot, pid }
        }
        None => Error::Full { path, slots },
    })
}

/// Locks the first slot of `range` that can be had now.
fn first_free(file: &File, range: Range<usize>) -> std::io::Result<Attempt<Option<SlotIndex>>> {
    let mut result = Attempt::Done(None);
    for slot in range.filter_map(SlotIndex::new) {
        match lock::attempt(file, slot.get() as u64)? {
            Attempt::Done(true) => return Ok(Attempt::Done(Some(slot))),
            Attempt::Done(false) => {}
            Attempt::Guarded => result = Attempt::Guarded,
        }
    }
    Ok(result)
}

#[cfg(test)]
#[cfg(not(lgswitch_loom))]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use crate::{CreateOptions, PortOptions, Segment, SlotIndex};

    fn options(slot: usize) -> PortOptions {
        PortOptions {
            slot: SlotIndex::new(slot),
            ..PortOptions::default()
        }
    }

    /// `body` while a port looks without end whether another's holder is dead.
    fn while_somebody_buries(body: impl FnOnce(&std::path::Path)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("graveyard");
        let few = CreateOptions {
            slots: 2,
            ..CreateOptions::default()
        };
        let segment = Segment::create(&path, &few).unwrap();
        let over = AtomicBool::new(false);
        let undertaker = segment.port(options(0)).unwrap();
        let dead = SlotIndex::new(1).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    undertaker.held.bury_if_dead(dead);
                }
            });
            let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(&path)));
            over.store(true, Ordering::Relaxed);
            end.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }

    #[test]
    fn a_slot_whose_dead_holder_is_being_buried_is_free() {
        while_somebody_buries(|path| {
            let segment = Segment::open(path).unwrap();
            for _ in 0..200 {
                drop(segment.port(options(1)).unwrap());
                drop(segment.port(PortOptions::default()).unwrap());
                let all = segment.port(options(1)).unwrap();
                assert!(segment.port(options(1)).is_err());
                drop(all);
            }
        });
    }

    #[test]
    fn a_slot_whose_dead_holder_is_being_buried_is_nobodys_to_who_removes() {
        while_somebody_buries(|path| {
            for _ in 0..200 {
                let told = Segment::remove(path, false).unwrap_err().to_string();
                // The undertaker's own.
                assert!(told.starts_with("1 of its slots"), "{told}");
            }
        });
    }
}
