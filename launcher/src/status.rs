//! `--status-fd`: a guest's life for programs, a JSON object a line.
//!
//! ```text
//! {"event":"created","time":1795621518.123,"pid":4711,"engine":"qemu"}
//! {"event":"running","time":1795621518.301,"pid":4711}
//! {"event":"ready","time":1795621521.007,"pid":4711}
//! {"event":"oops","time":1795621533.410,"pid":4711,"reason":"BUG: kernel NULL pointer dereference, …"}
//! {"event":"ended","time":1795621540.822,"pid":4711,"status":1,"reason":"The guest's kernel panicked: …"}
//! ```
//!
//! `time` is in seconds since 1970, `pid` the launcher's. `created` also has the `console`, if that
//! is a pseudo-terminal. `running` and `ready` come again when the guest starts again. `ended` is
//! the last, also when the guest never ran; `status` is the launcher's exit status.
//!
//! A thread writes the lines, so that no reader, however slow, keeps the guest waiting: what it has
//! not read is kept, up to a limit, past which all but `ended` is dropped.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use serde::Serialize;

use crate::error::Error;
use crate::plan::life::StatusFd;
use crate::seccomp;

/// How many lines are kept for a reader that does not read.
const KEPT: usize = 64;

/// How long the last line may take to be read, before we end without that.
const PATIENCE: Duration = Duration::from_secs(1);

/// What happens to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Its devices are there.
    Created {
        /// Who is its computer.
        engine: &'a str,
        /// Its console, if somebody has to find that.
        console: Option<&'a str>,
    },
    /// It runs its first instruction.
    Running,
    /// It has printed what marks it ready.
    Ready,
    /// Its kernel has told of an error of its own, in these words.
    Oops(&'a str),
    /// It is no more.
    Ended {
        /// The launcher's exit status.
        status: u8,
        /// Why, in a sentence.
        reason: &'a str,
    },
}

/// Why no status can be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// Nobody gave us this descriptor.
    #[error(
        "--status-fd={0}: no such file descriptor was handed to the launcher; a shell does that with {0}>file"
    )]
    NotOpen(i32),
    /// It is there for reading only.
    #[error("--status-fd={0}: this file descriptor is open for reading only")]
    NotWritable(i32),
}

/// Where a guest's life is told. Clones tell the same reader, if there is one.
#[derive(Debug, Clone, Default)]
pub struct Status(Option<Arc<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    /// Something was put in, or all was taken out.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<String>,
    /// A line is on its way.
    writing: bool,
    /// The reader has gone away.
    gone: bool,
}

/// A line as it is written.
#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    time: f64,
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    console: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl Status {
    /// Tells on this descriptor, or nobody. Call it before any descriptor of our own is opened, lest
    /// one of them is taken for it.
    ///
    /// # Errors
    /// The descriptor is not open, or not for writing; no thread is left.
    pub fn open(fd: Option<StatusFd>) -> Result<Self, Error> {
        match fd {
            None => Ok(Self::default()),
            Some(fd) => Self::to(inherited(fd)?.into()),
        }
    }

    /// Tells what `out` writes to.
    ///
    /// # Errors
    /// No thread is left.
    pub fn to(out: std::fs::File) -> Result<Self, Error> {
        let queue = Arc::new(Queue::default());
        let read = Arc::clone(&queue);
        thread::Builder::new()
            .name("status".into())
            .spawn(move || {
                seccomp::confine(seccomp::Work::AtTheConsole);
                read.write_to(out);
            })
            .map_err(Error::system::<io::Error>("start a thread"))?;
        Ok(Self(Some(queue)))
    }

    /// Tells an event. Never waits, but for the last: that is given a moment to be read.
    pub fn tell(&self, event: Event<'_>) {
        let Some(queue) = &self.0 else { return };
        let last = matches!(event, Event::Ended { .. });
        // Strings and numbers: there is nothing in it that could not be written.
        let Ok(line) = serde_json::to_string(&line(event)) else {
            return;
        };
        let mut state = queue.lock();
        if last || state.lines.len() < KEPT {
            state.lines.push_back(line);
            queue.changed.notify_all();
        }
        if last {
            let unread =
                |state: &mut State| !state.gone && (state.writing || !state.lines.is_empty());
            // Poisoned by nobody who holds it for long; whoever does not read has been waited for.
            drop(queue.changed.wait_timeout_while(state, PATIENCE, unread));
        }
    }
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread. It ends with the process, or when the reader goes away.
    fn write_to(&self, mut out: impl Write) {
        let mut state = self.lock();
        loop {
            let Some(line) = state.lines.pop_front() else {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.writing = true;
            drop(state);
            let written = out.write_all(format!("{line}\n").as_bytes());
            state = self.lock();
            state.writing = false;
            state.gone = written.is_err();
            self.changed.notify_all();
            if state.gone {
                return;
            }
        }
    }
}

fn line(event: Event<'_>) -> Line<'_> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let milliseconds = since.unwrap_or_default().as_millis();
    let line = |event| Line {
        event,
        // Exact: it has 41 bits.
        time: milliseconds as f64 / 1000.0,
        pid: std::process::id(),
        engine: None,
        console: None,
        status: None,
        reason: None,
    };
    match event {
        Event::Created { engine, console } => Line {
            engine: Some(engine),
            console,
            ..line("created")
        },
        Event::Running => line("running"),
        Event::Ready => line("ready"),
        Event::Oops(reason) => Line {
            reason: Some(reason),
            ..line("oops")
        },
        Event::Ended { status, reason } => Line {
            status: Some(status),
            reason: Some(reason),
            ..line("ended")
        },
    }
}

/// A descriptor handed to us by whoever started us, as one of our own.
fn inherited(fd: StatusFd) -> Result<OwnedFd, StatusError> {
    let number = fd.number();
    let not_open = |_| StatusError::NotOpen(number);
    // SAFETY: it is only borrowed for the calls below, which tell if it is open, and copy it; nothing
    // of ours is closed meanwhile, since this runs before anything of ours is opened.
    let theirs = unsafe { BorrowedFd::borrow_raw(number) };
    // What outlived the exec that made us is not close-on-exec; what we open is.
    let flags = FdFlag::from_bits_retain(fcntl(theirs, FcntlArg::F_GETFD).map_err(not_open)?);
    if flags.contains(FdFlag::FD_CLOEXEC) {
        return Err(StatusError::NotOpen(number));
    }
    let mode = OFlag::from_bits_retain(fcntl(theirs, FcntlArg::F_GETFL).map_err(not_open)?);
    if mode & OFlag::O_ACCMODE == OFlag::O_RDONLY || mode.contains(OFlag::O_PATH) {
        return Err(StatusError::NotWritable(number));
    }
    // A copy that no program we start inherits.
    theirs
        .as_fd()
        .try_clone_to_owned()
        .map_err(|_| StatusError::NotOpen(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read};
    use std::os::unix::net::UnixStream;

    const ENDED: Event<'_> = Event::Ended {
        status: 1,
        reason: "It \"broke\"\n",
    };

    fn pair() -> (Status, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        (Status::to(OwnedFd::from(near).into()).unwrap(), far)
    }

    #[test]
    fn events_are_json_objects_a_line() {
        let (status, far) = pair();
        status.tell(Event::Created {
            engine: "qemu",
            console: Some("/dev/pts/7"),
        });
        status.tell(Event::Oops("BUG: x"));
        status.tell(ENDED);
        let mut lines = BufReader::new(far)
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
        let created = lines.next().unwrap();
        assert_eq!(created["event"], "created");
        assert_eq!(created["pid"], std::process::id());
        assert_eq!(created["console"], "/dev/pts/7");
        assert!(created["time"].as_f64().unwrap() > 1e9 && created.get("status").is_none());
        assert_eq!(lines.next().unwrap()["reason"], "BUG: x");
        let ended = lines.next().unwrap();
        assert_eq!(
            (&ended["status"], &ended["reason"]),
            (&1.into(), &"It \"broke\"\n".into())
        );
    }

    #[test]
    fn a_reader_that_does_not_read_keeps_nobody_waiting_and_one_that_is_gone_neither() {
        let (status, far) = pair();
        let long = "x".repeat(100_000);
        for _ in 0..10 * KEPT {
            status.tell(Event::Oops(&long));
        }
        status.tell(ENDED);
        let queue = status.0.as_ref().unwrap();
        assert!(queue.lock().lines.len() <= KEPT + 1);
        drop(far);
        status.tell(ENDED);
        status.tell(Event::Running);
    }

    #[test]
    fn the_last_line_comes_through_however_many_were_dropped() {
        let (status, mut far) = pair();
        for _ in 0..100_000 {
            status.tell(Event::Running);
        }
        let reader = thread::spawn(move || {
            let mut text = String::new();
            let mut buffer = [0; 4096];
            while !text.contains("ended") {
                let n = far.read(&mut buffer).unwrap();
                assert!(n > 0, "{text}");
                text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
            }
        });
        status.tell(ENDED);
        reader.join().unwrap();
    }

    #[test]
    fn a_descriptor_nobody_gave_us_is_refused() {
        let refused = |number: i32| {
            let fd = StatusFd::parse(&number.to_string()).unwrap();
            inherited(fd).map(drop)
        };
        assert_eq!(refused(987_654), Err(StatusError::NotOpen(987_654)));
        // Ours, as everything the standard library opens.
        let ours = std::fs::File::create(tempfile::tempdir().unwrap().path().join("x")).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&ours);
        assert_eq!(refused(number), Err(StatusError::NotOpen(number)));
    }
}
