//! Signals to the launcher. They are blocked in all threads and collected by one that does nothing
//! else (`signalfd`), so no code of ours ever runs in a signal handler.
//!
//! | signal | the first | the second | the third |
//! |---|---|---|---|
//! | `SIGTERM`, `SIGINT`, `SIGHUP` | presses the guest's power button, and ends the guest when its grace is over; without either, acts as the second | ends the guest at once | ends the launcher, whatever the engine does |
//! | `SIGQUIT` | ends the guest at once | as the third | |
//! | `SIGCONT`, `SIGWINCH` | the terminal is ours again; it has another size | | |

use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::{Grace, StopCause, StopRequest, StopSender};
use crate::backend::console::size::ConsoleSize;
use crate::backend::console::terminal;
use crate::error::Error;
use crate::seccomp;

/// The signals that ask a program to end.
const ENDING: [Signal; 4] = [
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
];

/// The signals of the table above, blocked, and not yet collected.
#[derive(Debug)]
pub struct Signals(SigSet);

impl Signals {
    /// Blocks them, and those a program gets for touching a terminal from the background. Call it
    /// before any thread is made, since threads inherit the block, and a signal goes to any thread
    /// that lets it through.
    ///
    /// A signal that was ignored when we were started (`nohup`, a shell's background jobs) stays so.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn block() -> Result<Self, Error> {
        let mut collected = SigSet::empty();
        for signal in ENDING.into_iter().filter(|&signal| !is_ignored(signal)) {
            collected.add(signal);
        }
        collected.add(Signal::SIGCONT);
        collected.add(Signal::SIGWINCH);
        let mut blocked = collected;
        blocked.add(Signal::SIGTTIN);
        blocked.add(Signal::SIGTTOU);
        blocked
            .thread_block()
            .map_err(Error::system("block signals"))?;
        Ok(Self(collected))
    }

    /// Starts the thread that collects them, those that have come meanwhile first. `window` follows
    /// the size of the terminal on stdin.
    ///
    /// # Errors
    /// No thread or file descriptor is left.
    pub fn watch(
        self,
        stop: &StopSender,
        grace: Grace,
        window: Option<ConsoleSize>,
    ) -> Result<(), Error> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let watch = Watch {
            signals: SignalFd::with_flags(&self.0, flags)
                .map_err(Error::system("make a descriptor for signals"))?,
            asking: Asking::new(grace.duration()),
            stop: stop.try_clone()?,
            window,
        };
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || watch.run())
            .map(drop)
            .map_err(Error::system::<io::Error>("start a thread"))
    }
}

/// The thread.
struct Watch {
    signals: SignalFd,
    asking: Asking,
    stop: StopSender,
    /// The size of the window on stdin, if the console is there.
    window: Option<ConsoleSize>,
}

impl Watch {
    fn run(mut self) {
        seccomp::confine(seccomp::Work::AtTheConsole);
        while self.wait().is_ok() {
            let mut steps = Vec::new();
            while let Ok(Some(info)) = self.signals.read_signal() {
                match i32::try_from(info.ssi_signo).map(Signal::try_from) {
                    // Whoever had the terminal meanwhile, a shell, left it in its own mode.
                    Ok(Ok(Signal::SIGCONT)) => terminal::resume(),
                    Ok(Ok(Signal::SIGWINCH)) => self.window_changed(),
                    Ok(Ok(signal)) => steps.push(self.asking.signal(signal, Instant::now())),
                    _ => {}
                }
            }
            steps.extend(self.asking.time(Instant::now()));
            for step in steps {
                match step {
                    Step::Request(request) => self.stop.request(request),
                    Step::Exit(signal) => {
                        terminal::restore();
                        std::process::exit(128 + signal as i32);
                    }
                }
            }
        }
    }

    fn window_changed(&self) {
        if let Some(size) = &self.window {
            size.set(terminal::size_of(io::stdin()));
        }
    }

    /// Sleeps until a signal comes or the grace is over.
    fn wait(&self) -> Result<(), Errno> {
        let timeout = match self.asking.deadline() {
            // Rounded up: a wait of no time would spin. A day fits.
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        match poll(
            &mut [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)],
            timeout,
        ) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// What to do about a signal, or about time that has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Request(StopRequest),
    Exit(Signal),
}

/// How far the asking has got.
#[derive(Debug)]
struct Asking {
    grace: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nobody has asked.
    Quiet,
    /// This signal pressed the button; the guest has until then.
    Pressed(Signal, Instant),
    /// The guest is to end at once.
    Ending,
}

impl Asking {
    fn new(grace: Duration) -> Self {
        Self {
            grace,
            state: State::Quiet,
        }
    }

    /// One of the signals that ask a program to end has come.
    fn signal(&mut self, signal: Signal, now: Instant) -> Step {
        let cause = StopCause::Signal(signal);
        match self.state {
            State::Quiet if signal != Signal::SIGQUIT && !self.grace.is_zero() => {
                self.state = State::Pressed(signal, now + self.grace);
                tracing::info!(
                    "{signal}: the guest's power button is pressed; it has {} s to power off",
                    self.grace.as_secs()
                );
                Step::Request(StopRequest::PowerButton(cause))
            }
            State::Quiet | State::Pressed(..) => {
                self.state = State::Ending;
                Step::Request(StopRequest::End(cause))
            }
            State::Ending => Step::Exit(signal),
        }
    }

    /// When something is to be done without a signal.
    fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Pressed(_, deadline) => Some(deadline),
            State::Quiet | State::Ending => None,
        }
    }

    /// Time has passed.
    fn time(&mut self, now: Instant) -> Option<Step> {
        match self.state {
            State::Pressed(signal, deadline) if now >= deadline => {
                self.state = State::Ending;
                tracing::info!("The guest did not heed its power button");
                Some(Step::Request(StopRequest::End(StopCause::Signal(signal))))
            }
            _ => None,
        }
    }
}

/// Whether we were started with this signal ignored. A blocked signal is collected all the same,
/// so this has to be asked.
fn is_ignored(signal: Signal) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with a null new action, sigaction only writes the old one, to memory of its size.
    let answer = unsafe { libc::sigaction(signal as i32, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: it was zeroed, which is a valid value, before the kernel filled it in.
    answer == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);
    const TERM: StopCause = StopCause::Signal(Signal::SIGTERM);
    const PRESS: Step = Step::Request(StopRequest::PowerButton(TERM));
    const END: Step = Step::Request(StopRequest::End(TERM));

    #[test]
    fn the_grace_bounds_a_guest_that_does_not_heed_its_button() {
        let start = Instant::now();
        let mut asking = Asking::new(GRACE);
        assert_eq!(asking.time(start + 2 * GRACE), None);
        assert_eq!(asking.signal(Signal::SIGTERM, start), PRESS);
        assert_eq!(asking.time(start + GRACE - Duration::from_millis(1)), None);
        assert_eq!(asking.deadline(), Some(start + GRACE));
        assert_eq!(asking.time(start + GRACE), Some(END));
        assert_eq!(asking.deadline(), None);
        assert_eq!(asking.time(start + 2 * GRACE), None);
    }

    #[test]
    fn a_second_signal_ends_the_guest_and_a_third_the_launcher() {
        let now = Instant::now();
        let mut asking = Asking::new(GRACE);
        assert_eq!(asking.signal(Signal::SIGTERM, now), PRESS);
        assert_eq!(asking.signal(Signal::SIGTERM, now), END);
        assert_eq!(
            asking.signal(Signal::SIGINT, now),
            Step::Exit(Signal::SIGINT)
        );
    }

    #[test]
    fn without_grace_and_for_sigquit_the_first_ends_it() {
        let now = Instant::now();
        assert_eq!(
            Asking::new(Duration::ZERO).signal(Signal::SIGTERM, now),
            END
        );
        let quit = StopRequest::End(StopCause::Signal(Signal::SIGQUIT));
        assert_eq!(
            Asking::new(GRACE).signal(Signal::SIGQUIT, now),
            Step::Request(quit)
        );
    }
}
