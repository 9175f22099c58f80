//! The QEMU process: our child in the strict sense.
//!
//! * It dies when we do, however that happens (`PR_SET_PDEATHSIG`).
//! * It inherits the descriptors on its command line and no others: a tap or a port's lock that
//!   leaked into it would outlive us.
//! * It has a session of its own, so that ^C at the terminal is not for it.
//!
//! `unsafe` is here because code must run between fork and exec, where only async-signal-safe
//! calls are allowed; `become_child` makes no others.

use std::io::{self, PipeReader, pipe};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::QemuError;
use super::args::CommandLine;

/// QEMU's ends of the channels between us.
#[derive(Debug)]
pub struct Channels {
    /// The guest's console.
    pub console: OwnedFd,
    /// QMP.
    pub control: OwnedFd,
    /// QEMU's log.
    pub log: OwnedFd,
}

/// Our ends, but for the console, which is the console's.
#[derive(Debug)]
pub struct OurEnds {
    control: UnixStream,
    log: PipeReader,
}

/// A running QEMU and what it says. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    /// The child.
    pub child: Child,
    /// QMP, non-blocking.
    pub control: UnixStream,
    /// Its log, non-blocking.
    pub log: PipeReader,
    /// Its complaints, non-blocking.
    pub stderr: PipeReader,
}

/// Makes the channels.
///
/// # Errors
/// No descriptor is left.
pub fn channels(console: UnixStream) -> Result<(Channels, OurEnds), QemuError> {
    let prepare = |error| QemuError::Prepare {
        action: "make a channel",
        error,
    };
    let (control, theirs) = UnixStream::pair().map_err(prepare)?;
    let (log, log_writer) = pipe().map_err(prepare)?;
    control.set_nonblocking(true).map_err(prepare)?;
    set_nonblocking(&log).map_err(prepare)?;
    let channels = Channels {
        console: console.into(),
        control: theirs.into(),
        log: log_writer.into(),
    };
    Ok((channels, OurEnds { control, log }))
}

/// Starts QEMU. Its ends of the channels are closed here, so that their end is seen.
///
/// Call it on the process's first thread: the kernel kills the child when the *thread* that
/// started it ends.
///
/// # Errors
/// The program can't be started.
pub fn spawn(program: &Path, line: CommandLine, ours: OurEnds) -> Result<Process, QemuError> {
    let failed = |error| QemuError::Spawn {
        program: program.to_owned(),
        error,
    };
    tracing::debug!("{} {}", program.display(), shown(&line));
    let (stderr, stderr_writer) = pipe().map_err(failed)?;
    set_nonblocking(&stderr).map_err(failed)?;
    let mut command = Command::new(program);
    command
        .args(line.words())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr_writer);

    let inherited: Vec<RawFd> = line.inherited().iter().map(AsRawFd::as_raw_fd).collect();
    let parent = std::process::id();
    // SAFETY: `become_child` makes only async-signal-safe calls and allocates nothing.
    unsafe { command.pre_exec(move || become_child(parent, &inherited)) };
    let child = command.spawn().map_err(failed)?;
    // `command` keeps a copy of stderr's other end, `line` the inherited descriptors.
    drop((command, line));
    Ok(Process {
        child,
        control: ours.control,
        log: ours.log,
        stderr,
    })
}

/// Between fork and exec.
fn become_child(parent: u32, inherited: &[RawFd]) -> io::Result<()> {
    let check = |answer: libc::c_int| {
        if answer == -1 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    // SAFETY: plain system calls on values of their own, all async-signal-safe
    // (signal-safety(7), or not in libc at all but direct).
    unsafe {
        check(libc::prctl(
            libc::PR_SET_PDEATHSIG,
            libc::SIGKILL as libc::c_ulong,
        ))?;
        // Had the parent died before that, nobody would tell us.
        if libc::getppid() as u32 != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        check(libc::setsid())?;

        // We block signals; it must not.
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        check(libc::sigprocmask(
            libc::SIG_SETMASK,
            none.as_ptr(),
            std::ptr::null_mut(),
        ))?;

        // Whatever somebody let us inherit without meaning to stops here. Kernels before 5.11
        // can't; ours are close-on-exec anyway.
        libc::syscall(
            libc::SYS_close_range,
            3u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
        for &fd in inherited {
            check(libc::fcntl(fd, libc::F_SETFD, 0))?;
        }
    }
    Ok(())
}

fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

fn shown(line: &CommandLine) -> String {
    line.words()
        .iter()
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both say only that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
