//! A machine's life: from its start to its end, by way of resets, with an ear for requests to stop.

use std::os::fd::{AsFd, BorrowedFd};

use kvm_ioctls::VcpuFd;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::KvmError;
use super::machine::Machine;
use super::power::Ending;
use super::processors::Processors;
use crate::backend::console::size::ConsoleSize;
use crate::end::GuestEnd;
use crate::life::Life;
use crate::seccomp;
use crate::stop::{StopRequest, StopRequests};

/// Runs a machine to its end.
///
/// # Errors
/// The kernel could not be loaded, or KVM failed.
pub fn run(
    mut machine: Machine<'_>,
    stop: &StopRequests,
    size: &ConsoleSize,
    life: &Life,
) -> Result<GuestEnd, KvmError> {
    // Made is all there is to make: what follows takes few rights, at a second start as at the first.
    seccomp::confine(seccomp::Work::RunningTheGuest);
    let mut is_first = true;
    let end = loop {
        let cpus = machine.start()?;
        if std::mem::take(&mut is_first) {
            life.running();
        }
        let ending = run_once(&machine, cpus, stop, size)?;
        let reset = match ending {
            Outcome::Stopped(end) => break Ok(end),
            Outcome::Ended(Ending::PoweredOff) => break Ok(GuestEnd::PoweredOff),
            Outcome::Ended(Ending::Failed(error)) => break Err(error),
            Outcome::Ended(Ending::Reset) => life.reset(false),
            Outcome::Ended(Ending::TripleFault) => life.reset(true),
        };
        match reset {
            Some(end) => break Ok(end),
            None => machine = machine.reset()?,
        }
    };
    finish(machine, stop);
    end
}

/// How one start came to its end.
enum Outcome {
    /// By itself.
    Ended(Ending),
    /// By our doing.
    Stopped(GuestEnd),
}

/// From a start to its end, with all processors stopped.
fn run_once(
    machine: &Machine<'_>,
    cpus: Vec<VcpuFd>,
    stop: &StopRequests,
    size: &ConsoleSize,
) -> Result<Outcome, KvmError> {
    let power = &machine.board().power;
    let processors = Processors::start(cpus, machine.board())?;
    let mut stopped = None;
    while stopped.is_none() && !power.has_ended() {
        wait([stop.as_fd(), power.as_fd(), size.as_fd()]);
        if size.take_change()
            && let Some(window) = size.get()
        {
            machine.resize(window);
        }
        match stop.take() {
            Some(StopRequest::PowerButton(_)) => machine.press_power_button(),
            Some(StopRequest::End(cause)) => stopped = Some(GuestEnd::Stopped(cause)),
            None => {}
        }
    }
    power.stop();
    machine.serial().release();
    drop(processors);
    Ok(match (power.take_ending(), stopped) {
        (_, Some(end)) => Outcome::Stopped(end),
        (Some(ending), None) => Outcome::Ended(ending),
        // Nobody switches a machine off without a word, but for us.
        (None, None) => Outcome::Ended(Ending::PoweredOff),
    })
}

/// Takes the machine apart when all it printed has reached the console. A console that takes
/// nothing makes this wait; a request to stop ends that.
fn finish(machine: Machine<'_>, stop: &StopRequests) {
    let serial = machine.serial();
    serial.close();
    while !wait([serial.as_fd(), stop.as_fd()])[0] {
        if let Some(StopRequest::End(_)) = stop.take() {
            break;
        }
    }
    machine.finish();
}

/// Sleeps until one of several has something to say. Tells which.
fn wait<const N: usize>(sources: [BorrowedFd<'_>; N]) -> [bool; N] {
    let mut fds = sources.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        // Out of memory in the kernel: look again a little later.
        Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
    }
    fds.map(|fd| fd.any().unwrap_or(false))
}
