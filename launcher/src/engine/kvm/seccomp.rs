//! What the kernel lets a thread do that a guest can reach: a processor's, a device's. Should a guest
//! ever get hold of one, by a fault of ours that we do not know, it holds a thread that cannot open a
//! file, start a program or a thread, connect to anything, or make memory executable.
//!
//! Everything a thread works on has been opened by the time it [confines](confine) itself, so the list
//! is short. What is not on it fails with `EPERM`. The process's first thread and the console's
//! threads are not confined: they see nothing of a guest but the bytes it prints.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

/// Calls that are harmless with whatever descriptors and memory there are.
const FREE: [i64; 53] = [
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
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The kinds of ioctl that are allowed, by the second byte of their numbers
/// (Documentation/userspace-api/ioctl/ioctl-number.rst): KVM's, vhost's, a tap's or terminal's.
const IOCTLS: [u64; 3] = [0xae, 0xaf, 0x54];

/// Of those, the ones that type on a terminal in its user's name.
const TYPING: [u64; 2] = [libc::TIOCSTI, libc::TIOCLINUX];

/// Confines the thread that calls this, for good.
///
/// A kernel without seccomp leaves it as it is, with a warning.
pub fn confine() {
    static PROGRAM: LazyLock<Option<BpfProgram>> = LazyLock::new(|| match program() {
        Ok(program) => Some(program),
        Err(error) => {
            tracing::warn!("Threads are not confined: {error}");
            None
        }
    });
    if let Some(program) = PROGRAM.as_ref()
        && let Err(error) = apply_filter(program)
    {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        tracing::warn!("The thread '{name}' is not confined: {error}");
    }
}

fn program() -> Result<BpfProgram, BackendError> {
    let condition = SeccompCondition::new;
    let word = SeccompCmpArgLen::Dword;
    // An empty list of rules allows all arguments.
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        FREE.iter().map(|&call| (call, Vec::new())).collect();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let executable = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
        let never = condition(2, word.clone(), executable, 0)?;
        rules.insert(call, vec![SeccompRule::new(vec![never])?]);
    }
    let mut ioctls = Vec::new();
    for kind in IOCTLS {
        let mut all = vec![condition(
            1,
            word.clone(),
            SeccompCmpOp::MaskedEq(0xff00),
            kind << 8,
        )?];
        for typing in TYPING {
            all.push(condition(1, word.clone(), SeccompCmpOp::Ne, typing)?);
        }
        ioctls.push(SeccompRule::new(all)?);
    }
    rules.insert(libc::SYS_ioctl, ioctls);
    SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?
    .try_into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Read, Write};
    use std::os::unix::net::UnixStream;
    use std::thread;

    /// What a confined thread gets.
    fn confined<T: Send + 'static>(attempt: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = thread::spawn(|| {
            confine();
            attempt()
        });
        thread.join().unwrap()
    }

    fn denied<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
    }

    #[test]
    fn a_confined_thread_opens_starts_and_connects_nothing() {
        assert!(confined(|| denied(std::fs::File::open("/dev/null"))));
        assert!(confined(|| denied(thread::Builder::new().spawn(|| ()))));
        assert!(confined(|| denied(
            std::process::Command::new("true").spawn()
        )));
        assert!(confined(|| denied(UnixStream::pair())));
        assert!(denied(Err::<(), _>(confined(|| {
            // SAFETY: it types nothing: either it is refused, or there is no such descriptor.
            unsafe { libc::ioctl(-1, libc::TIOCSTI, c"x".as_ptr()) };
            io::Error::last_os_error()
        }))));
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
