//! What the kernel lets our threads do once the guest runs. Should a guest, or a client at its console,
//! ever get hold of one, by a fault of ours that we do not know, it holds a thread that cannot open a
//! file, start a program, connect to anything, or make memory executable.
//!
//! Everything a thread works on has been opened by the time it [confines](confine) itself, so the lists
//! are short. There are three, by what a thread does ([`Work`]); what is not on its list fails with
//! `EPERM`.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

/// Calls that are harmless with whatever descriptors and memory there are.
const FREE: [i64; 56] = [
    // Moving bytes.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
    libc::SYS_lseek,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    // Only the rings that are there, which have restrictions of their own.
    libc::SYS_io_uring_enter,
    // Descriptors.
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_eventfd2,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    // Waiting.
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_timerfd_settime,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    // What the language does for a thread, and at its end.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_sched_getaffinity,
    libc::SYS_getrandom,
    // The last resort of a fault.
    libc::SYS_alarm,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The kinds of ioctl that are allowed, by the second byte of their numbers
/// (Documentation/userspace-api/ioctl/ioctl-number.rst): KVM's, vhost's, a tap's or terminal's.
const IOCTLS: [u64; 3] = [0xae, 0xaf, 0x54];

/// Of those, the ones that type on a terminal in its user's name.
const TYPING: [u64; 2] = [libc::TIOCSTI, libc::TIOCLINUX];

/// At the console: clients come, and the name they came by goes at the end; whose is the terminal?
const AT_THE_CONSOLE: [i64; 6] = [
    libc::SYS_accept4,
    libc::SYS_getpgrp,
    libc::SYS_getpgid,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_unlink,
];

/// For whoever runs the guest: threads for its processors, at each start anew, which confine themselves
/// further, and what is to be cleared away at the end. ([`allowed`] has more, with conditions.)
const RUNNING_THE_GUEST: [i64; 6] = [
    libc::SYS_set_robust_list,
    libc::SYS_seccomp,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_unlink,
    libc::SYS_flock,
];

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// What the guest reaches: a processor, a device.
    ForTheGuest,
    /// What is said to the guest and of it; signals.
    AtTheConsole,
    /// The first thread's, when all is made: it starts processors and stops them, and clears away.
    RunningTheGuest,
}

/// Confines the thread that calls this, and those it starts, for good.
///
/// A kernel without seccomp leaves it as it is, with a warning.
pub fn confine(work: Work) {
    let filter = |rules, refused, rest| -> Result<(), Error> {
        let program: BpfProgram =
            SeccompFilter::new(rules, rest, refused, TargetArch::x86_64)?.try_into()?;
        apply_filter(&program)
    };
    let done = allowed(work).map_err(Error::from).and_then(|rules| {
        filter(rules, SeccompAction::Allow, error(libc::EPERM))?;
        // `clone3` keeps its flags where no filter can look. The C library makes do with `clone` if it
        // is told that there is no other. (Of two filters that refuse, the later is heard.)
        let successor = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        match work {
            Work::RunningTheGuest => filter(successor, error(libc::ENOSYS), SeccompAction::Allow),
            _ => Ok(()),
        }
    });
    if let Err(error) = done {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        tracing::warn!("The thread '{name}' is not confined: {error}");
    }
}

fn error(number: i32) -> SeccompAction {
    SeccompAction::Errno(number as u32)
}

/// What a thread may call, and with which arguments. An empty list of rules is for any.
fn allowed(work: Work) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let word = |argument, operator, value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
    };
    let more = match work {
        Work::ForTheGuest => &[][..],
        Work::AtTheConsole => &AT_THE_CONSOLE,
        Work::RunningTheGuest => &RUNNING_THE_GUEST,
    };
    let calls = FREE.iter().chain(more);
    let mut rules: BTreeMap<_, _> = calls.map(|&call| (call, Vec::new())).collect();

    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let executable = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
        rules.insert(call, vec![SeccompRule::new(vec![word(2, executable, 0)?])?]);
    }
    let ioctls = IOCTLS.map(|kind| {
        let mut all = vec![word(1, SeccompCmpOp::MaskedEq(0xff00), kind << 8)?];
        for typing in TYPING {
            all.push(word(1, SeccompCmpOp::Ne, typing)?);
        }
        SeccompRule::new(all)
    });
    rules.insert(
        libc::SYS_ioctl,
        ioctls.into_iter().collect::<Result<_, _>>()?,
    );
    if work == Work::RunningTheGuest {
        // A thread, and never a process.
        let thread = libc::CLONE_THREAD as u64;
        let thread = word(0, SeccompCmpOp::MaskedEq(thread), thread)?;
        rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![thread])?]);
        // Its name, and what a filter is preceded by.
        let own = [libc::PR_SET_NAME, libc::PR_SET_NO_NEW_PRIVS];
        let own = own.map(|what| SeccompRule::new(vec![word(0, SeccompCmpOp::Eq, what as u64)?]));
        rules.insert(libc::SYS_prctl, own.into_iter().collect::<Result<_, _>>()?);
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Read, Write};
    use std::os::unix::net::UnixStream;
    use std::thread;

    const ALL: [Work; 3] = [Work::ForTheGuest, Work::AtTheConsole, Work::RunningTheGuest];

    /// What a thread gets that is confined to this.
    fn confined_to<T: Send + 'static>(
        work: Work,
        attempt: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let thread = thread::spawn(move || {
            confine(work);
            attempt()
        });
        thread.join().unwrap()
    }

    fn confined<T: Send + 'static>(attempt: impl FnOnce() -> T + Send + 'static) -> T {
        confined_to(Work::ForTheGuest, attempt)
    }

    fn denied<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
    }

    #[test]
    fn a_confined_thread_opens_starts_and_connects_nothing() {
        for work in ALL {
            let denied_to = |attempt: fn() -> bool| confined_to(work, attempt);
            assert!(denied_to(|| denied(std::fs::File::open("/dev/null"))));
            assert!(denied_to(|| denied(
                std::process::Command::new("true").spawn()
            )));
            assert!(denied_to(|| denied(UnixStream::pair())));
            assert!(denied_to(|| {
                // SAFETY: it types nothing: either it is refused, or there is no such descriptor.
                unsafe { libc::ioctl(-1, libc::TIOCSTI, c"x".as_ptr()) };
                denied(Err::<(), _>(io::Error::last_os_error()))
            }));
        }
    }

    #[test]
    fn only_who_runs_the_guest_starts_threads_and_they_are_confined_no_less() {
        for work in [Work::ForTheGuest, Work::AtTheConsole] {
            let spawn = || thread::Builder::new().spawn(|| ());
            assert!(confined_to(work, move || denied(spawn())));
        }
        let (file, more) = confined_to(Work::RunningTheGuest, || {
            let thread = thread::Builder::new().name("cpu".into());
            let thread = thread.spawn(|| {
                let file = denied(std::fs::File::open("/dev/null"));
                confine(Work::ForTheGuest);
                (file, denied(thread::Builder::new().spawn(|| ())))
            });
            thread.unwrap().join().unwrap()
        });
        assert!(file && more);
    }

    #[test]
    fn who_runs_the_guest_clears_away_what_was_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let held = crate::pidfile::PidFile::take(&path).unwrap();
        confined_to(Work::RunningTheGuest, move || drop(held));
        assert!(!path.exists());
    }

    #[test]
    fn a_confined_thread_gets_memory_but_none_to_execute() {
        let map = |protection| {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: a new mapping, which nothing else knows of, and which stays.
            let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
            at != libc::MAP_FAILED
        };
        let both = confined(move || {
            (
                map(libc::PROT_READ | libc::PROT_WRITE),
                map(libc::PROT_READ | libc::PROT_EXEC),
            )
        });
        assert_eq!(both, (true, false));
        assert_eq!(
            confined(|| vec![7u8; 64 << 20].iter().filter(|&&b| b == 7).count()),
            64 << 20
        );
    }

    #[test]
    fn a_confined_thread_works_on_what_it_has() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        near.write_all(b"hello").unwrap();
        let heard = confined(move || {
            let mut heard = [0; 5];
            far.read_exact(&mut heard)
                .and_then(|()| far.write_all(&heard))?;
            far.set_nonblocking(true).map(|()| heard)
        });
        assert_eq!(&heard.unwrap(), b"hello");
    }
}
