//! A guest's life, from its first instruction to its end: it runs, devices look at what there is for it, it
//! sleeps.
//!
//! One thread does it all. While the guest runs, devices look between two slices of its time; when it
//! waits, they first see to it that whatever comes wakes us.

use std::time::{Duration, Instant};

use lgswitch::plug::polling::Polling;

use super::bus::Bus;
use super::devices::{Line, Trouble};
use super::host::{Exit, Host};
use super::inputs::{Inputs, Source};
use super::memory::GuestMemory;
use super::watch::Watch;
use crate::end::GuestEnd;
use crate::footprint;
use crate::stop::{StopCause, StopRequest, StopRequests};

/// The longest sleep: ports look after themselves now and then.
const LONG: Duration = Duration::from_secs(2);

/// How the reason begins if the guest itself gave it.
const CRASH: &str = "CRASH: ";
/// And what it is if it switched itself off.
const POWER_DOWN: &str = "Power down";

/// All that has a part in it.
pub struct Session<'a> {
    /// The guest's memory.
    pub memory: &'a GuestMemory,
    /// What runs it.
    pub host: &'a mut dyn Host,
    /// Its devices.
    pub bus: Bus<'a>,
    /// What they wait for; requests to stop among it.
    pub inputs: &'a Inputs,
    /// Who looks at that, if a device is slept on.
    pub watch: Option<Watch>,
    /// Those requests.
    pub stop: &'a StopRequests,
    /// One of them.
    pub stopped: Option<StopCause>,
}

impl Session<'_> {
    /// Runs the guest to its end.
    ///
    /// # Errors
    /// What is not the guest's fault.
    pub fn run(mut self) -> Result<GuestEnd, Trouble> {
        match self.live() {
            Err(Trouble::Guest(reason)) => Ok(GuestEnd::Died(reason)),
            end => end,
        }
    }

    fn live(&mut self) -> Result<GuestEnd, Trouble> {
        // An answer to what the guest sent comes sooner than anything else: there are two habits to learn.
        let (mut after_sending, mut otherwise) = (Polling::default(), Polling::default());
        let mut has_sent = false;
        self.look()?;
        let mut has_slept = false;
        while self.stopped.is_none() {
            if self.host.waits_itself() {
                self.prepare_to_sleep()?;
            }
            match self.host.run()? {
                Exit::Sent(sent) => {
                    has_sent = true;
                    self.with_devices(|bus, line| bus.sent(line, sent))?;
                }
                Exit::Died(reason) => return Ok(end_of(reason)),
                Exit::Break => {
                    self.look()?;
                }
                Exit::Idle(until) => {
                    let polling = match has_sent {
                        true => &mut after_sending,
                        false => &mut otherwise,
                    };
                    if self.look()? {
                        polling.busy();
                        has_sent = false;
                    } else if self.stopped.is_none()
                        && !polling.once_more()
                        && !self.prepare_to_sleep()?
                    {
                        if !has_slept {
                            footprint::let_go_of_what_has_run();
                            has_slept = true;
                        }
                        self.sleep(until)?;
                        polling.busy();
                        has_sent = false;
                    }
                }
            }
            self.bus.awake();
        }
        // The loop ended because of it.
        Ok(self.stopped.map_or(GuestEnd::PoweredOff, GuestEnd::Stopped))
    }

    /// Looks what there is for the guest, and for us; tells whether the guest was interrupted.
    fn look(&mut self) -> Result<bool, Trouble> {
        let ready = match &self.watch {
            Some(watch) => watch.ready(self.inputs)?,
            None => self.inputs.ready()?,
        };
        if ready.has(Source::Stop) {
            // There is no power button on it, so any request is the last.
            self.stopped = self.stop.take().map(|request| match request {
                StopRequest::PowerButton(cause) | StopRequest::End(cause) => cause,
            });
        }
        self.with_devices(|bus, line| {
            bus.poll(line, ready)?;
            Ok(line.raised)
        })
    }

    /// From here on whatever comes makes the inputs ready. Tells whether something came before.
    fn prepare_to_sleep(&mut self) -> Result<bool, Trouble> {
        self.with_devices(|bus, line| {
            bus.prepare_to_sleep(line)?;
            Ok(line.raised)
        })
    }

    /// Sleeps until there is something, or until then; may end early.
    fn sleep(&mut self, until: Option<Instant>) -> Result<(), Trouble> {
        let now = Instant::now();
        let left = until.map_or(LONG, |until| until.saturating_duration_since(now));
        let left = left.min(LONG);
        if self.watch.is_none() || !self.bus.sleep(left) {
            self.inputs.wait(Some(now + left))?;
        }
        Ok(())
    }

    fn with_devices<T>(
        &mut self,
        work: impl FnOnce(&mut Bus<'_>, &mut Line<'_>) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let mut line = Line {
            memory: self.memory,
            host: self.host,
            inputs: self.inputs,
            raised: false,
        };
        work(&mut self.bus, &mut line)
    }
}

/// What a guest's death is to the person who started it.
fn end_of(reason: String) -> GuestEnd {
    match reason.strip_prefix(CRASH) {
        Some(POWER_DOWN) => GuestEnd::PoweredOff,
        Some(text) => GuestEnd::Panicked(text.to_owned()),
        None => GuestEnd::Died(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_says_power_down_is_off_and_all_others_failed() {
        assert_eq!(end_of("CRASH: Power down".into()), GuestEnd::PoweredOff);
        for reason in [
            "CRASH: Attempted to kill init!",
            "CRASH: ",
            "Bad hypercall 11",
            "Power down",
        ] {
            let end = end_of(reason.into());
            assert_eq!(end.exit_status(), 1);
            let words = reason.trim_start_matches(CRASH);
            assert!(end.complaint().unwrap().contains(words));
        }
    }
}
