//! Network namespaces: separate sets of links, addresses and routes. Named ones are the same as
//! `ip netns` makes: a file in `/run/netns` with the namespace mounted on it, which keeps it alive.
//!
//! A namespace belongs to a *thread*. To work in another one, [`Netns::run`] does so on a thread
//! of its own, so that the caller never has to find the way back.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fmt, thread};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::error::{Error, Result};
use crate::{Change, NetSetup};

/// Where named namespaces are, by agreement with iproute2.
pub const NETNS_DIR: &str = "/run/netns";

/// The namespace of the calling thread.
const OWN_NETNS: &str = "/proc/thread-self/ns/net";

/// Which namespace something is in: the device and inode of its file tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NamespaceId(u64, u64);

impl NamespaceId {
    /// The calling thread's; `None` where `/proc` is not mounted.
    pub(crate) fn of_this_thread() -> Option<Self> {
        fs::metadata(OWN_NETNS).ok().map(|m| Self(m.dev(), m.ino()))
    }
}

/// The name of a namespace: one path component, not hidden.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsName(String);

impl FromStr for NetnsName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty()
            || text.starts_with('.')
            || text.len() > 255
            || text.contains(['/', '\0'])
        {
            let reason = "a name has 1 to 255 bytes, no / and no leading dot";
            return Err(Error::contradiction(
                format!("call a network namespace {text:?}"),
                reason,
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for NetnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl NetnsName {
    fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.0)
    }
}

/// A network namespace, kept alive by being open.
#[derive(Debug)]
pub struct Netns {
    file: File,
    what: String,
}

impl Netns {
    /// The calling thread's.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn current() -> Result<Self> {
        let file = File::open(OWN_NETNS)
            .map_err(|e| failed("open this thread's network namespace", &e))?;
        Ok(Self {
            file,
            what: "this thread's network namespace".into(),
        })
    }

    /// A new one without a name: it ends when nobody has it open or is in it, and so do its software
    /// links. Needs `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn unnamed() -> Result<Self> {
        let operation = || "make a network namespace".to_owned();
        on_own_thread(operation, || {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| needs_sys_admin(operation(), e))?;
            Self::current()
        })?
        .map(|own| Self {
            what: "a network namespace without a name".into(),
            ..own
        })
    }

    /// A named one.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn open(name: &NetnsName) -> Result<Self> {
        let what = format!("network namespace {name}");
        let file = File::open(name.path()).map_err(|e| failed(format!("open {what}"), &e))?;
        Ok(Self { file, what })
    }

    /// The namespace `nsfs` file of a process, by its pid.
    ///
    /// # Errors
    /// There is no such process, or it is another user's.
    pub fn of_process(pid: u32) -> Result<Self> {
        let what = format!("the network namespace of process {pid}");
        let file = File::open(format!("/proc/{pid}/ns/net"))
            .map_err(|e| failed(format!("open {what}"), &e))?;
        Ok(Self { file, what })
    }

    /// Makes a named namespace, with nothing in it but a loopback that is down. `Unchanged` if
    /// there is one of this name. Needs `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// A file of this name is in the way, or the kernel's refusal. Nothing half made stays.
    pub fn create(name: &NetnsName) -> Result<Change> {
        let operation = || format!("create network namespace {name}");
        prepare_dir().map_err(|errno| needs_sys_admin(operation(), errno))?;
        let path = name.path();
        match OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&path)
        {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return if is_namespace(&path) {
                    Ok(Change::Unchanged)
                } else {
                    let obstacle = format!(
                        "{} is a file that no namespace is mounted on; remove it",
                        path.display()
                    );
                    Err(Error::in_the_way(operation(), obstacle))
                };
            }
            Err(e) => return Err(failed(operation(), &e)),
        }
        let made = on_own_thread(operation, || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(
                Some(OWN_NETNS),
                &path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
        })?;
        made.map_err(|errno| {
            let _ = fs::remove_file(&path);
            needs_sys_admin(operation(), errno)
        })?;
        Ok(Change::Changed)
    }

    /// Forgets a named namespace; it ends when nobody is in it or has it open. `Unchanged` if there
    /// is none of this name.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn delete(name: &NetnsName) -> Result<Change> {
        let operation = || format!("delete network namespace {name}");
        let path = name.path();
        match umount2(&path, MntFlags::MNT_DETACH) {
            // Not mounted (any more): only the file is left, or not even that.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => return Err(needs_sys_admin(operation(), errno)),
        }
        match fs::remove_file(&path) {
            Ok(()) => Ok(Change::Changed),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Change::Unchanged),
            Err(e) => Err(failed(operation(), &e)),
        }
    }

    /// Runs `work` inside the namespace, on a thread of its own, and waits for it. Processes it
    /// starts, files it opens in `/proc/thread-self` and taps it opens are in there too.
    ///
    /// # Errors
    /// The namespace may not be entered (`CAP_SYS_ADMIN`), or `work` panicked.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let operation = || format!("enter {}", self.what);
        on_own_thread(operation, || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).map(|()| work())
        })?
        .map_err(|errno| needs_sys_admin(operation(), errno))
    }

    /// A [`NetSetup`] for the namespace, usable from any thread (but for taps, which are opened
    /// inside [`run`](Self::run)).
    ///
    /// # Errors
    /// As [`run`](Self::run) and [`NetSetup::new`].
    pub fn net_setup(&self) -> Result<NetSetup> {
        self.run(NetSetup::new)?
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Runs `work` on a thread whose namespaces nobody else minds.
fn on_own_thread<T: Send>(
    operation: impl Fn() -> String,
    work: impl FnOnce() -> T + Send,
) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)
            .map_err(|e| failed(operation(), &e))?;
        thread
            .join()
            .map_err(|_| Error::answer(operation(), "the thread in there panicked"))
    })
}

/// `/run/netns`, shared with later mount namespaces as iproute2 has it: without that, deleting a
/// namespace in one mount namespace would leave it alive in all others.
fn prepare_dir() -> Result<(), Errno> {
    let dir = Path::new(NETNS_DIR);
    match fs::DirBuilder::new().mode(0o755).create(dir) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(errno_of(&e)),
    }
    let none = None::<&str>;
    let share = || mount(none, dir, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    match share() {
        // Only a mount point can be shared: make it one.
        Err(Errno::EINVAL) => {
            mount(
                Some(dir),
                dir,
                none,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                none,
            )?;
            share()
        }
        outcome => outcome,
    }
}

/// A file with a namespace mounted on it is on another file system than its directory.
fn is_namespace(path: &Path) -> bool {
    match (fs::metadata(path), fs::metadata(NETNS_DIR)) {
        (Ok(file), Ok(dir)) => file.dev() != dir.dev(),
        _ => false,
    }
}

fn errno_of(error: &io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}

fn failed(operation: impl Into<String>, error: &io::Error) -> Error {
    let errno = errno_of(error);
    match errno {
        Errno::EPERM | Errno::EACCES => needs_sys_admin(operation.into(), errno),
        _ => Error::system(operation, errno),
    }
}

/// Namespaces want another privilege than links do.
fn needs_sys_admin(operation: String, errno: Errno) -> Error {
    match errno {
        Errno::EPERM | Errno::EACCES => Error::in_the_way(
            operation,
            format!(
                "{}; it needs the capability CAP_SYS_ADMIN (be root)",
                errno.desc()
            ),
        ),
        _ => Error::system(operation, errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_name_stays_in_its_directory() {
        for bad in ["", ".", "..", ".hidden", "a/b", "a\0"] {
            assert!(bad.parse::<NetnsName>().is_err(), "{bad:?}");
        }
        assert_eq!(
            "lan-host".parse::<NetnsName>().unwrap().path(),
            Path::new("/run/netns/lan-host")
        );
    }

    #[test]
    fn a_missing_namespace_is_named() {
        let name = "no-such-namespace-here".parse().unwrap();
        let error = Netns::open(&name).unwrap_err().to_string();
        assert!(error.contains("no-such-namespace-here"), "{error}");
    }
}
