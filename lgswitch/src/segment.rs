//! A segment: making the file, opening it, removing it.
//!
//! A file is made whole without a name and then linked into place, so nobody ever opens a
//! half-made one. A file of one page is the seed's kind; whoever opens it to join grows it under
//! the admin lock.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::fcntl::{AtFlags, FallocateFlags, OFlag};
use nix::unistd::Gid;

use crate::layout::{
    self, Geometry, GeometryError, HEADER, HEADER_BYTES, Header, HeaderError, MTU_RANGE, PAGE, Uuid,
};
use crate::lock::{self, AdminLock, Holder};
use crate::map::Mapping;
use crate::slot::SlotIndex;

/// What can be wrong with a segment. Each names the file and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is there already.
    #[error("Sharenet {} exists already; use it, or remove it with 'lgswitch rm'", .0.display())]
    Exists(PathBuf),
    /// It is not there.
    #[error("There is no sharenet {}; make it with 'lgswitch create'", .0.display())]
    Missing(PathBuf),
    /// The file is something else, or of another time, or damaged.
    #[error("Can't use {} as a sharenet: {reason}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: HeaderError,
    },
    /// The file ends before its header says it does.
    #[error(
        "Can't use {} as a sharenet: it is truncated, {size} bytes of {expected}; make it anew with \
         'lgswitch rm --force' and 'lgswitch create'", .path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// What its header says, in bytes.
        expected: u64,
    },
    /// Sizes that the format does not have.
    #[error("Can't make sharenet {}: {reason}", .path.display())]
    Geometry {
        /// The file.
        path: PathBuf,
        /// Which size.
        reason: GeometryError,
    },
    /// An MTU that IP does not have.
    #[error("Can't make sharenet {}: an MTU is 68 to 65535 bytes, not {mtu}", .path.display())]
    Mtu {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        mtu: u32,
    },
    /// No room on the filesystem.
    #[error(
        "No room for {what} on the filesystem of {}; free some, or keep sharenets elsewhere with \
         LGSWITCH_DIR", .path.display()
    )]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// What needed the room.
        what: &'static str,
    },
    /// An address the peers page has no way to say.
    #[error(
        "A port of {} can't have the MAC {mac}: its first byte must be even, and not 00 (which \
         says 'unused' on a peers page)", .path.display()
    )]
    Mac {
        /// The file.
        path: PathBuf,
        /// The address asked for.
        mac: pnet_base::MacAddr,
    },
    /// Nobody gave the slot back.
    #[error(
        "Slot {slot} of {} is held{}; leave the choice to us, or end its holder", .path.display(),
        .pid.map(|p| format!(" by process {p}")).unwrap_or_default()
    )]
    SlotHeld {
        /// The file.
        path: PathBuf,
        /// The slot asked for.
        slot: SlotIndex,
        /// Its holder, as far as it is known.
        pid: Option<i32>,
    },
    /// A slot the segment does not have.
    #[error("{} has slots 0 to {}, and no slot {slot}", .path.display(), .slots - 1)]
    NoSuchSlot {
        /// The file.
        path: PathBuf,
        /// The slot asked for.
        slot: SlotIndex,
        /// How many it has.
        slots: usize,
    },
    /// Nothing left.
    #[error(
        "All {slots} slots of {} are taken; make a segment with more ('lgswitch create --slots N', \
         682 at most)", .path.display()
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// How many it has.
        slots: usize,
    },
    /// Removing what is in use.
    #[error(
        "{held} of its slots are held, so sharenet {} stays; end their holders, or remove it all \
         the same with --force", .path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// Slots held.
        held: usize,
    },
    /// It was removed while we opened it.
    #[error("Sharenet {} was removed while it was being opened; make it anew", .0.display())]
    Removed(PathBuf),
    /// A system call failed.
    #[error("Can't {action} sharenet {}: {}", .path.display(), describe(.error))]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// The kernel's reason.
        error: io::Error,
    },
}

/// The kernel's reason, with the way out where there is one to tell.
fn describe(error: &io::Error) -> String {
    let reason = nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0)).desc();
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => format!(
            "{reason}; its owner can open it to others with 'lgswitch create --mode' or --group"
        ),
        Some(libc::ENOENT) => format!("{reason}; its folder does not exist"),
        Some(_) => reason.to_owned(),
        None => error.to_string(),
    }
}

/// How a new segment is to be.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// Slots, 2 to 682.
    pub slots: u32,
    /// Bytes of a unicast ring, a power of two.
    pub ring_bytes: u64,
    /// Bytes of a flood log, a power of two.
    pub log_bytes: u64,
    /// Largest IP packet of an ordinary frame, in bytes.
    pub mtu: u32,
    /// Permissions of the file, whatever the umask.
    pub mode: u32,
    /// The file's group, if not the creator's.
    pub group: Option<Gid>,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            slots: Geometry::DEFAULT_SLOTS,
            ring_bytes: Geometry::DEFAULT_RING,
            log_bytes: Geometry::DEFAULT_LOG,
            mtu: 1500,
            mode: 0o600,
            group: None,
        }
    }
}

impl CreateOptions {
    /// The header page of such a segment.
    fn header(&self, path: &Path) -> Result<Header, Error> {
        let geometry =
            Geometry::new(self.slots, self.ring_bytes, self.log_bytes).map_err(|reason| {
                Error::Geometry {
                    path: path.to_owned(),
                    reason,
                }
            })?;
        if !MTU_RANGE.contains(&self.mtu) {
            return Err(Error::Mtu {
                path: path.to_owned(),
                mtu: self.mtu,
            });
        }
        Ok(Header {
            geometry,
            mtu: self.mtu,
            optional_features: 0,
            uuid: Uuid(random_uuid()?),
            created: seconds_since_1970(),
        })
    }
}

/// An open segment: its file, and the mapping of all that is not ring or log.
#[derive(Debug)]
pub struct Segment {
    path: PathBuf,
    file: File,
    header: Header,
    control: Mapping,
}

impl Segment {
    /// Makes a segment; its file appears whole or not at all.
    pub fn create(path: &Path, options: &CreateOptions) -> Result<Arc<Self>, Error> {
        let header = options.header(path)?;
        let folder = parent(path);
        make_default_folder(folder).map_err(io_error("make the folder of", path))?;
        let file = unnamed_file(folder).map_err(io_error("make", path))?;
        lay_out(&file, path, &header)?;
        if let Some(group) = options.group {
            nix::unistd::fchown(file.as_fd(), None, Some(group))
                .map_err(io::Error::from)
                .map_err(io_error("give to that group", path))?;
        }
        file.set_permissions(std::fs::Permissions::from_mode(options.mode & 0o777))
            .map_err(io_error("set the permissions of", path))?;
        let proc_name = format!("/proc/self/fd/{}", file.as_raw_fd());
        match nix::unistd::linkat(
            nix::fcntl::AT_FDCWD,
            proc_name.as_str(),
            nix::fcntl::AT_FDCWD,
            path,
            AtFlags::AT_SYMLINK_FOLLOW,
        ) {
            Ok(()) => Self::map(path, file, header, true),
            Err(nix::errno::Errno::EEXIST) => Err(Error::Exists(path.to_owned())),
            Err(e) => Err(io_error("make", path)(e.into())),
        }
    }

    /// Opens a segment to join it. A one-page file of the old kind is grown first.
    pub fn open(path: &Path) -> Result<Arc<Self>, Error> {
        let file = open_file(path, true)?;
        let header = match read_header(&file, path)? {
            Kind::Segment(header) => header,
            Kind::OnePage => grow(&file, path)?,
        };
        Self::map(path, file, header, true)
    }

    /// Opens a segment, making it if there is none: what a launcher does.
    pub fn open_or_create(path: &Path, options: &CreateOptions) -> Result<Arc<Self>, Error> {
        // Whoever loses the race to make it opens the winner's.
        match Self::open(path) {
            Err(Error::Missing(_)) => match Self::create(path, options) {
                Err(Error::Exists(_)) => Self::open(path),
                made => made,
            },
            opened => opened,
        }
    }

    /// Opens a segment to look at it: nothing is written, and read permission is enough.
    pub fn open_read_only(path: &Path) -> Result<Viewed, Error> {
        let file = open_file(path, false)?;
        match read_header(&file, path)? {
            Kind::Segment(header) => Ok(Viewed::Segment(Self::map(path, file, header, false)?)),
            Kind::OnePage => Ok(Viewed::OnePage(OnePage {
                peers: Mapping::new(&file, 0, PAGE, false).map_err(io_error("map", path))?,
                path: path.to_owned(),
                file,
            })),
        }
    }

    /// Removes a segment's file. Unless `force`, not while any slot is held. Ports that are open
    /// stay as they are; their segment just has no name any more.
    pub fn remove(path: &Path, force: bool) -> Result<(), Error> {
        let unlink = || match std::fs::remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::Missing(path.to_owned())),
            result => result.map_err(io_error("remove", path)),
        };
        let file = match open_file(path, true) {
            Err(Error::Missing(path)) => return Err(Error::Missing(path)),
            Err(_) if force && std::fs::symlink_metadata(path).is_ok_and(|m| m.is_file()) => {
                return unlink();
            }
            opened => opened?,
        };
        // Refuse to remove what is no sharenet, even by force; a damaged one still has the magic.
        match read_header(&file, path) {
            Err(Error::Unusable {
                reason: HeaderError::NotASharenet,
                ..
            }) => {
                return Err(unusable(path, HeaderError::NotASharenet));
            }
            Err(e) if !force => return Err(e),
            _ => {}
        }
        let _admin = AdminLock::take(&file).map_err(io_error("lock", path))?;
        let all = 0..layout::MAX_SLOTS as u64;
        // With every slot ours nobody can take one between the question and the removal.
        let idle = lock::try_lock(&file, all.clone()).map_err(io_error("lock", path))?;
        if !idle && !force {
            let held = all
                .filter(|&i| !matches!(lock::holder(&file, i), Ok(Holder::Free)))
                .count();
            return Err(Error::InUse {
                path: path.to_owned(),
                held,
            });
        }
        unlink()
    }

    fn map(path: &Path, file: File, header: Header, writable: bool) -> Result<Arc<Self>, Error> {
        let control = Mapping::new(&file, 0, header.geometry.rings(), writable)
            .map_err(io_error("map", path))?;
        Ok(Arc::new(Self {
            path: path.to_owned(),
            file,
            header,
            control,
        }))
    }

    /// The file, as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the header page says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where things stand in the file.
    pub fn geometry(&self) -> &Geometry {
        &self.header.geometry
    }

    /// Largest IP packet of an ordinary frame, in bytes.
    pub fn mtu(&self) -> u32 {
        self.header.mtu
    }

    /// Slots it has.
    pub fn slots(&self) -> usize {
        self.geometry().slots()
    }

    /// One more than the highest slot ever taken: beyond it there is nobody.
    pub fn high_water(&self) -> usize {
        let hint = self.control.word32(layout::HEADER_HIGH_WATER);
        (hint.load(Ordering::Relaxed) as usize).min(self.slots())
    }

    /// Bytes of memory or disk the file takes now.
    pub fn allocated_bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |m| m.blocks() * 512)
    }

    /// All but rings and logs.
    pub(crate) fn control(&self) -> &Mapping {
        &self.control
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Who holds `slot`.
    pub fn holder(&self, slot: SlotIndex) -> Result<Holder, Error> {
        lock::holder(&self.file, slot.get() as u64)
            .map_err(io_error("read the locks of", &self.path))
    }

    /// A new open file description of the same file, to carry a port's lock; the name may be gone
    /// or mean another file by now.
    pub(crate) fn reopen(&self) -> Result<File, Error> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
            .map_err(io_error("reopen", &self.path))
    }

    /// Whether the file still has a name.
    pub(crate) fn has_name(&self) -> bool {
        self.file.metadata().is_ok_and(|m| m.nlink() > 0)
    }
}

/// A file opened to look at.
#[derive(Debug)]
pub enum Viewed {
    /// A segment of this format.
    Segment(Arc<Segment>),
    /// The seed's one page.
    OnePage(OnePage),
}

/// A one-page sharenet: MACs and locks are all it has.
#[derive(Debug)]
pub struct OnePage {
    /// The file.
    pub path: PathBuf,
    /// The page.
    pub(crate) peers: Mapping,
    /// For its locks.
    pub(crate) file: File,
}

enum Kind {
    Segment(Header),
    OnePage,
}

/// Makes an error of a failed system call.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |error| match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => Error::NoRoom {
            path,
            what: "a sharenet",
        },
        _ => Error::Io {
            action,
            path,
            error,
        },
    }
}

fn unusable(path: &Path, reason: HeaderError) -> Error {
    Error::Unusable {
        path: path.to_owned(),
        reason,
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// The folder of bare names is made when first needed; other folders are the user's affair.
fn make_default_folder(folder: &Path) -> io::Result<()> {
    if crate::name::directory().is_some_and(|d| d == folder) && !folder.exists() {
        std::fs::create_dir_all(folder)?;
    }
    Ok(())
}

/// A file with no name yet: if we die before it gets one, nothing is left.
fn unnamed_file(folder: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(OFlag::O_TMPFILE.bits())
        .open(folder)
}

/// Gives a file its size and header. Everything that is mapped for good gets its room now.
fn lay_out(file: &File, path: &Path, header: &Header) -> Result<(), Error> {
    let geometry = &header.geometry;
    file.set_len(geometry.file_bytes())
        .map_err(io_error("size", path))?;
    allocate(file, geometry.pairs()).map_err(io_error("make room for", path))?;
    // One write, and last: a header that is there at all is whole.
    file.write_all_at(&header.encode(), HEADER)
        .map_err(io_error("write", path))
}

fn allocate(file: &File, len: u64) -> io::Result<()> {
    match nix::fcntl::fallocate(file, FallocateFlags::empty(), 0, len as libc::off_t) {
        // A filesystem without it: write the zeroes.
        Err(nix::errno::Errno::EOPNOTSUPP) => {
            file.write_all_at(&vec![0; len as usize - PAGE as usize], PAGE)
        }
        result => Ok(result?),
    }
}

fn open_file(path: &Path, writable: bool) -> Result<File, Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(writable)
        // A FIFO in its place must not make us wait.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|e| match e.raw_os_error() {
            Some(libc::ENOENT)
                if parent(path).is_dir() || make_default_folder(parent(path)).is_ok() =>
            {
                Error::Missing(path.to_owned())
            }
            Some(libc::EISDIR | libc::ENXIO) => unusable(path, HeaderError::NotASharenet),
            _ => io_error("open", path)(e),
        })?;
    if !file.metadata().is_ok_and(|m| m.is_file()) {
        return Err(unusable(path, HeaderError::NotASharenet));
    }
    Ok(file)
}

fn read_header(file: &File, path: &Path) -> Result<Kind, Error> {
    let size = file.metadata().map_err(io_error("look at", path))?.len();
    if size == PAGE {
        let mut peers = [0; PAGE as usize];
        file.read_exact_at(&mut peers, 0)
            .map_err(io_error("read", path))?;
        return match is_peers_page(&peers) {
            true => Ok(Kind::OnePage),
            false => Err(unusable(path, HeaderError::NotASharenet)),
        };
    }
    let mut page = [0; HEADER_BYTES];
    file.read_exact_at(&mut page, HEADER)
        .map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => unusable(path, HeaderError::NotASharenet),
            _ => io_error("read", path)(e),
        })?;
    // A grown page whose header is not written yet, or never was because its grower died.
    if page == [0; HEADER_BYTES] && size > 2 * PAGE {
        return Ok(Kind::OnePage);
    }
    let header = Header::decode(&page).map_err(|reason| unusable(path, reason))?;
    match header.geometry.file_bytes() {
        expected if size < expected => Err(Error::Truncated {
            path: path.to_owned(),
            size,
            expected,
        }),
        _ => Ok(Kind::Segment(header)),
    }
}

/// Whether 4096 bytes can be the seed's peers page, rather than some other file of that size: an
/// unused slot is all zeroes, and so is what is left over after 682 MACs.
fn is_peers_page(page: &[u8; PAGE as usize]) -> bool {
    let (macs, rest) = page.split_at(layout::MAX_SLOTS * layout::MAC_BYTES);
    let unused_is_clean = |mac: &[u8]| mac[0] != layout::UNUSED || mac.iter().all(|&b| b == 0);
    rest.iter().all(|&b| b == 0) && macs.chunks(layout::MAC_BYTES).all(unused_is_clean)
}

/// Makes a segment of a one-page file, in place: its slots may be held by the seed's launchers.
fn grow(file: &File, path: &Path) -> Result<Header, Error> {
    let _admin = AdminLock::take(file).map_err(io_error("lock", path))?;
    // Somebody else may have grown it while we waited.
    if let Kind::Segment(header) = read_header(file, path)? {
        return Ok(header);
    }
    let options = CreateOptions {
        slots: layout::MAX_SLOTS as u32,
        ..CreateOptions::default()
    };
    let header = options.header(path)?;
    lay_out(file, path, &header).inspect_err(|_| {
        // Nothing half made: back to one page.
        let _ = file.set_len(PAGE);
    })?;
    Ok(header)
}

fn random_uuid() -> Result<[u8; 16], Error> {
    let mut bytes = random_bytes().map_err(io_error("draw a name for", Path::new("new")))?;
    // RFC 9562, section 5.4: version 4, variant 10.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes)
}

/// Random bytes from the kernel.
pub(crate) fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: writes at most N bytes, and up to 256 never come short.
    match unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) } {
        n if n == N as isize => Ok(bytes),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Now, as files of the format say it.
pub(crate) fn seconds_since_1970() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
