//! A guest's life while an engine runs it: what the engine tells of it, and what it asks.

use crate::backend::console::hearing::Hearing;
use crate::end::GuestEnd;
use crate::plan::reset::OnReset;
use crate::status::{Event, Status};

/// An engine's line to the rest of the launcher while its guest runs.
#[derive(Debug, Clone)]
pub struct Life {
    on_reset: OnReset,
    hearing: Hearing,
    status: Status,
}

impl Life {
    /// A life of which `hearing` hears and `status` is told, and that goes on after a reset if the
    /// user wants that.
    pub fn new(on_reset: OnReset, hearing: Hearing, status: Status) -> Self {
        Self {
            on_reset,
            hearing,
            status,
        }
    }

    /// The guest is about to run its first instruction. To be told once: of a new start after a reset
    /// [`Life::reset`] tells.
    pub fn running(&self) {
        self.status.tell(Event::Running);
    }

    /// The guest has pulled the reset line, or (`triple_fault`) its processor did. `None`: it is to
    /// start again from its kernel's first instruction, with the devices it has. Otherwise it has
    /// ended, and so.
    ///
    /// It is a crash that ends it in any case, since a guest that crashes as soon as it has booted
    /// would do so for ever: a triple fault, or a panic, which only the guest's words tell from a
    /// reboot. They are waited for, for a moment; the guest must not run meanwhile, or not for long.
    pub fn reset(&self, triple_fault: bool) -> Option<GuestEnd> {
        let reset = GuestEnd::Reset { triple_fault };
        if self.on_reset == OnReset::End {
            return Some(reset);
        }
        let end = reset.explained_by(&self.hearing.words());
        if end
            != (GuestEnd::Reset {
                triple_fault: false,
            })
        {
            return Some(end);
        }
        tracing::debug!("The guest rebooted, and starts again");
        self.hearing.start_again();
        self.running();
        None
    }
}
