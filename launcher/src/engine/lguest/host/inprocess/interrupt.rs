//! Interrupts: 32 of them, number 0 the clock's.
//!
//! The guest's interrupt flag is in its memory, and it turns it on and masks off without telling
//! anybody. So whenever it comes by here it is asked; and while one waits, it comes by often.

use std::time::{Duration, Instant};

use super::data::IF;
use super::death::Death;
use super::{InProcess, SHORT_SLICE, SLICE, WINDOW_SLICE};

/// The vector of interrupt 0.
const FIRST_VECTOR: u8 = 32;
/// How many there are.
pub const COUNT: u8 = 32;
/// The clock's.
const CLOCK: u8 = 0;

/// What was raised, and the clock.
#[derive(Debug, Default)]
pub struct Interrupts {
    pending: u32,
    clock: Option<Instant>,
}

impl Interrupts {
    /// Raises one; raised again before it is delivered, it is delivered once.
    pub fn raise(&mut self, irq: u8) {
        self.pending |= 1u32.checked_shl(irq.into()).unwrap_or(0);
    }

    /// Whether one was raised and not delivered yet.
    pub fn is_pending(&self) -> bool {
        self.pending != 0
    }

    /// Sets the clock to go off once, so many nanoseconds from now; never, if that is none.
    pub fn set_clock(&mut self, nanoseconds: u32) {
        let wait = Duration::from_nanos(nanoseconds.into());
        self.clock = (nanoseconds > 0).then(|| Instant::now() + wait);
    }

    /// When the clock goes off.
    pub fn clock(&self) -> Option<Instant> {
        self.clock
    }

    /// Looks at the time.
    pub fn tick(&mut self) {
        if self.clock.is_some_and(|due| due <= Instant::now()) {
            self.clock = None;
            self.raise(CLOCK);
        }
    }
}

impl InProcess<'_> {
    /// Delivers the lowest interrupt that may be delivered now, if any.
    pub(super) fn deliver_interrupt(&mut self) -> Result<(), Death> {
        let Some(data) = &self.data else {
            return Ok(());
        };
        let ready = self.interrupts.pending & !data.blocked(self.memory)?;
        if ready == 0 || data.no_irq.contains(&self.cpu.eip()) {
            return Ok(());
        }
        if self.halted {
            self.halted = false;
            data.set_irq_enabled(self.memory, true)?;
        } else if !data.irq_enabled(self.memory)? {
            return Ok(());
        }
        let irq = ready.trailing_zeros() as u8;
        // Without a gate it stays pending.
        if let Some(gate) = self.gates.get(FIRST_VECTOR + irq) {
            self.interrupts.pending &= !(1 << irq);
            self.enter(gate, None)?;
        }
        if let Some(data) = &self.data {
            data.tell_time(self.memory)?;
        }
        Ok(())
    }

    /// How many instructions may pass before the guest is asked again.
    pub(super) fn patience(&self) -> Result<u64, Death> {
        let Some(data) = &self.data else {
            return Ok(SLICE);
        };
        let ready = self.interrupts.pending & !data.blocked(self.memory)?;
        Ok(if !self.interrupts.is_pending() {
            SLICE
        } else if ready != 0 && data.no_irq.contains(&self.cpu.eip()) {
            WINDOW_SLICE
        } else {
            SHORT_SLICE
        })
    }

    /// The flags to push: the interrupt flag is where the guest has it.
    pub(super) fn flags_to_push(&self) -> Result<u32, Death> {
        let flags = self.cpu.eflags();
        match &self.data {
            Some(data) if !data.irq_enabled(self.memory)? => Ok(flags & !IF),
            _ => Ok(flags),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_raised_twice_is_pending_once_and_what_is_no_interrupt_never() {
        let mut interrupts = Interrupts::default();
        interrupts.raise(3);
        interrupts.raise(3);
        interrupts.raise(32);
        interrupts.raise(255);
        assert_eq!(interrupts.pending, 1 << 3);
    }

    #[test]
    fn the_clock_goes_off_once_and_can_be_stopped() {
        let mut interrupts = Interrupts::default();
        interrupts.set_clock(1);
        while Instant::now() <= interrupts.clock().unwrap() {}
        interrupts.tick();
        assert_eq!((interrupts.pending, interrupts.clock()), (1, None));
        interrupts.pending = 0;
        interrupts.set_clock(u32::MAX);
        interrupts.set_clock(0);
        interrupts.tick();
        assert_eq!((interrupts.pending, interrupts.clock()), (0, None));
    }
}
