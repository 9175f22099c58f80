//! Making a segment: a file is made whole without a name and then linked into place, so nobody
//! ever opens a half-made one, and a maker that dies leaves nothing.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::{AtFlags, FallocateFlags, OFlag};
use nix::unistd::Gid;
use uuid::Uuid;

use super::error::{Error, io_error};
use super::{Kind, Segment, parent, read_header, seconds_since_1970};
use crate::layout::{self, Geometry, HEADER, Header, MTU_RANGE, PAGE};
use crate::lock::AdminLock;

/// How a new segment is to be.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// Slots, 2 to 682.
    pub slots: u32,
    /// Bytes of a unicast ring, a multiple of 64 KiB.
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
            uuid: Uuid::new_v4(),
            created: seconds_since_1970(),
        })
    }
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
}

/// The folder of bare names is made when first needed; other folders are the user's affair.
pub(super) fn make_default_folder(folder: &Path) -> io::Result<()> {
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

/// What a one-page file grows to.
fn grown() -> CreateOptions {
    CreateOptions {
        slots: layout::MAX_SLOTS as u32,
        ..CreateOptions::default()
    }
}

/// Whether a file of `size` bytes without a header can be one that grows at this moment, or whose
/// grower died: the size is the first thing to grow.
pub(super) fn may_be_growing(size: u64) -> bool {
    let CreateOptions {
        slots,
        ring_bytes,
        log_bytes,
        ..
    } = grown();
    Geometry::new(slots, ring_bytes, log_bytes).is_ok_and(|grown| grown.file_bytes() == size)
}

/// Makes a segment of a one-page file, in place: its slots may be held by the seed's launchers.
pub(super) fn grow(file: &File, path: &Path) -> Result<Header, Error> {
    let _admin = AdminLock::take(file).map_err(io_error("lock", path))?;
    // Somebody else may have grown it while we waited.
    if let Kind::Segment(header) = read_header(file, path)? {
        return Ok(header);
    }
    let header = grown().header(path)?;
    lay_out(file, path, &header).inspect_err(|_| {
        // Nothing half made: back to one page.
        let _ = file.set_len(PAGE);
    })?;
    Ok(header)
}
