//! From QEMU's first word to its last: one loop that waits for all of them at once, and for
//! requests to stop.
//!
//! QEMU starts stopped (`-S`). It greets, we negotiate, we let the guest run: so whatever ends the
//! guest is heard, and a QEMU that ends before it greeted could not run this guest.

use std::io::PipeReader;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::QemuError;
use super::lines::Lines;
use super::process::Process;
use super::qmp::{self, Message, Reason};
use super::verdict::Account;
use crate::end::GuestEnd;
use crate::life::Life;
use crate::stop::{StopCause, StopRequest, StopRequests};

/// How long QEMU may take to end after it was asked to, or said it would: its disks are flushed.
const GRACE: Duration = Duration::from_secs(3);

/// How it stands between QEMU and us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It has not said anything.
    Started,
    /// It has greeted us and was sent our capabilities.
    Negotiating,
    /// It was told to let the guest run.
    Continuing,
    /// The guest runs.
    Running,
}

/// One QEMU, heard to its end.
#[derive(Debug)]
pub struct Session {
    process: Process,
    control: Lines<UnixStream>,
    log: Lines<PipeReader>,
    stderr: Lines<PipeReader>,
    phase: Phase,
    /// When our patience ends.
    deadline: Option<Instant>,
    account: Account,
    /// How we ended the guest, if it was we who did.
    ended: Option<GuestEnd>,
}

impl Session {
    /// Listens to a QEMU just started.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn new(process: Process) -> Result<Self, QemuError> {
        let prepare = |error| QemuError::Prepare {
            action: "copy a channel",
            error,
        };
        Ok(Self {
            control: Lines::new(process.control.try_clone().map_err(prepare)?),
            log: Lines::new(process.log.try_clone().map_err(prepare)?),
            stderr: Lines::new(process.stderr.try_clone().map_err(prepare)?),
            process,
            phase: Phase::Started,
            deadline: None,
            account: Account::default(),
            ended: None,
        })
    }

    /// Waits for the guest's end, or brings it about when asked to.
    ///
    /// # Errors
    /// QEMU could not run the guest, failed, or was killed.
    pub fn run(mut self, stop: &StopRequests, life: &Life) -> Result<GuestEnd, QemuError> {
        // QMP's end is QEMU's end: it holds the only other copy.
        while self.control.source().is_some() {
            self.wait(stop.as_fd());
            match stop.take() {
                Some(StopRequest::PowerButton(_)) if self.phase != Phase::Started => {
                    let phase = self.phase;
                    self.say(qmp::POWER_BUTTON, phase);
                }
                Some(StopRequest::PowerButton(cause) | StopRequest::End(cause)) => self.stop(cause),
                None => {}
            }
            self.hear(life);
            if self
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline)
            {
                self.kill();
            }
        }
        let status = self.reap();
        self.hear(life);
        if let Some(end) = self.ended {
            return Ok(end);
        }
        self.account.verdict(self.phase != Phase::Started, status)
    }

    /// Sleeps until somebody says something, or patience ends.
    fn wait(&self, stop: BorrowedFd<'_>) {
        let sources = [
            Some(stop),
            self.control.source().map(AsFd::as_fd),
            self.log.source().map(AsFd::as_fd),
            self.stderr.source().map(AsFd::as_fd),
        ];
        let mut fds: Vec<_> = sources
            .into_iter()
            .flatten()
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let timeout = match self.deadline {
            // Rounded up: a wait of no time would spin.
            Some(deadline) => {
                let left = deadline
                    .saturating_duration_since(Instant::now())
                    .as_millis()
                    + 1;
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            // Out of memory in the kernel: look again a little later.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }

    /// Takes in all that was said.
    fn hear(&mut self, life: &Life) {
        self.hear_complaints();
        for line in self.control.read().unwrap_or_default() {
            self.message(Message::parse(&line), life);
        }
    }

    fn hear_complaints(&mut self) {
        for line in self.stderr.read().unwrap_or_default() {
            tracing::debug!("QEMU: {line}");
            self.account.complaint(line);
        }
        for line in self.log.read().unwrap_or_default() {
            tracing::debug!("QEMU: {line}");
            self.account.log(&line);
        }
    }

    fn message(&mut self, message: Message, life: &Life) {
        match (self.phase, message) {
            (Phase::Started, Message::Greeting) => self.say(qmp::CAPABILITIES, Phase::Negotiating),
            (Phase::Negotiating, Message::Done) => {
                life.running();
                self.say(qmp::CONTINUE, Phase::Continuing);
            }
            (Phase::Continuing, Message::Done) => self.phase = Phase::Running,
            (_, Message::Refused(why)) => {
                // It won't let the guest run, or won't quit: either way it is of no more use.
                self.account.complaint(why);
                self.kill();
            }
            (_, Message::Reset) => {
                // How it came to that was logged before it was told.
                self.hear_complaints();
                let reset = self.account.take_reset();
                // The firmware's own is no concern of the guest's.
                if (reset.triple_fault || !reset.in_firmware)
                    && let Some(end) = life.reset(reset.triple_fault)
                {
                    self.end(end);
                }
            }
            (_, Message::Shutdown(reason)) => {
                if reason != Reason::Quit {
                    self.account.shutdown(reason);
                }
                self.deadline.get_or_insert_with(|| Instant::now() + GRACE);
            }
            _ => {}
        }
    }

    fn say(&mut self, command: &[u8], next: Phase) {
        // If it hears no more, its end is what we hear next.
        if (&self.process.control).write_all(command).is_ok() {
            self.phase = next;
        }
    }

    /// Somebody asked us to end the guest: in good order; at the second request, or before QEMU
    /// listens, at once.
    fn stop(&mut self, cause: StopCause) {
        if self.ended.is_none() && self.phase != Phase::Started {
            self.end(GuestEnd::Stopped(cause));
        } else {
            self.ended.get_or_insert(GuestEnd::Stopped(cause));
            self.kill();
        }
    }

    /// Ends the guest in good order, if it is not ending already.
    fn end(&mut self, end: GuestEnd) {
        if self.ended.is_none() {
            self.ended = Some(end);
            self.deadline = Some(Instant::now() + GRACE);
            let phase = self.phase;
            self.say(qmp::QUIT, phase);
        }
    }

    fn kill(&mut self) {
        // It says only that it has ended already.
        let _ = self.process.child.kill();
        self.deadline = None;
    }

    /// Its exit status. QMP has ended, so the process has, or is about to.
    fn reap(&mut self) -> Option<std::process::ExitStatus> {
        let deadline = Instant::now() + GRACE;
        loop {
            match self.process.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2))
                }
                Ok(None) => {
                    self.kill();
                    return self.process.child.wait().ok();
                }
                Err(_) => return None,
            }
        }
    }
}
