//! A segment: making the file, opening it, removing it.
//!
//! A file is made whole without a name and then linked into place, so nobody ever opens a
//! half-made one. A file of one page is the seed's kind; whoever opens it to join grows it under
//! the admin lock.

mod create;
mod error;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use create::CreateOptions;
pub use error::Error;
pub(crate) use error::io_error;

use create::{grow, make_default_folder, may_be_growing};

use crate::layout::{self, Geometry, HEADER, HEADER_BYTES, Header, HeaderError, PAGE};
use crate::lock::{self, AdminLock, Holder};
use crate::map::Mapping;
use crate::slot::SlotIndex;

/// An open segment: its file, and the mapping of all that is not ring or log.
#[derive(Debug)]
pub struct Segment {
    path: PathBuf,
    file: File,
    header: Header,
    control: Mapping,
}

impl Segment {
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
        // With every slot guarded nobody can take one between the question and the removal.
        let idle = lock::try_guard(&file, all.clone()).map_err(io_error("lock", path))?;
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

    /// One on the model's file.
    #[cfg(lgswitch_loom)]
    pub(crate) fn of_model(geometry: Geometry) -> Arc<Self> {
        let header = Header {
            geometry,
            mtu: 1500,
            optional_features: 0,
            uuid: uuid::Uuid::nil(),
            created: 0,
        };
        let path = Path::new("/dev/null");
        let file = OpenOptions::new().read(true).write(true).open(path);
        Self::map(path, file.expect("it opens"), header, true).expect("the model's file maps")
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

    /// The file, whose first page is the peers page: for an engine to map where its guest looks for it.
    pub fn as_file(&self) -> &File {
        &self.file
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
    if page == [0; HEADER_BYTES] && may_be_growing(size) {
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

/// Now, as files of the format say it.
pub(crate) fn seconds_since_1970() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
