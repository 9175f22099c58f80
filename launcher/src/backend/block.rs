//! A disk: an image file or a block device, or [`layers`] of them, opened and measured.
//!
//! A guest's writes go past the host's page cache (`O_DIRECT`) where the filesystem takes that:
//! the guest has a cache of its own, and one is enough. And no guest makes a file grow: its size
//! in whole sectors is the disk's size, for good.

pub mod layers;
mod lock;

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::reason;
use crate::plan::disk::{BlockPlan, DiskFormat, DiskSerial};
use layers::{Access, Layer};

/// A sector, in bytes: the unit virtio-blk and all disks before it count in.
pub const SECTOR: u64 = 512;

/// The largest unit of direct I/O in use, in bytes. A file that ends within such a unit would grow
/// to its end by a direct write, so it is written through the cache instead.
const DIRECT_UNIT: u64 = 4096;

/// An opened disk.
#[derive(Debug)]
pub struct Disk {
    /// Its name.
    pub path: PathBuf,
    /// The image or device, open with the rights the guest shall have, and `O_DIRECT` if `direct`.
    pub file: File,
    /// Its size in bytes: whole sectors, not zero.
    pub size: u64,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// Whether it is accessed past the host's page cache.
    pub direct: bool,
    /// Whether it is a block device of the host.
    pub is_device: bool,
    /// What it is known by in the guest, if by anything.
    pub serial: Option<DiskSerial>,
    /// What it is made of, from the top down, if it is not just what is in `file`.
    pub layers: Vec<Layer>,
}

/// Why something can't be a disk.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// It is not there.
    #[error("There is no disk {}; make it with 'truncate -s 1G', and write ',ro' behind a file that is only read", .0.display())]
    Missing(PathBuf),
    /// It can't be read, or not written.
    #[error("No permission to {how} the disk {}{hint}", .path.display())]
    NoPermission {
        /// The disk.
        path: PathBuf,
        /// What was asked for.
        how: &'static str,
        /// What might help.
        hint: &'static str,
    },
    /// A directory, a terminal, a pipe.
    #[error("{} is {what}; a disk is a file or a block device", .path.display())]
    NotADisk {
        /// What was given.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Nothing in it.
    #[error("The disk {} is empty; give it a size with 'truncate -s'", .0.display())]
    Empty(PathBuf),
    /// Not whole sectors.
    #[error("The disk {} has {size} bytes, which is not a multiple of {SECTOR}; is it a raw image, and whole? (A qcow2 image needs ',format=qcow2')", .path.display())]
    Ragged {
        /// The disk.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// Another guest, or another program that keeps to the same locks, has it.
    #[error(
        "The disk {} is in use by another guest or program; end that one, or give the disk to both with ',ro'", .0.display()
    )]
    InUse(PathBuf),
    /// Not an image of the format it is said to be, or one with something in it that nobody here knows.
    #[error("Cannot take the disk {} for a qcow2 image: {}", .path.display(), reason(.error))]
    Image {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        error: io::Error,
    },
    /// It builds upon another image, and nobody said so.
    #[error("The disk {} stands on {named}, which is not opened unasked; if that is well, write ',backing={named}' behind it (a path from here)", .path.display())]
    StandsOn {
        /// The image.
        path: PathBuf,
        /// What it names.
        named: String,
    },
    /// It does not.
    #[error("The disk {} stands on no other image; leave ',backing={}' away", .path.display(), .said.display())]
    StandsAlone {
        /// The image.
        path: PathBuf,
        /// What it was said to stand on.
        said: PathBuf,
    },
    /// What is below is not said to be anything that is known.
    #[error("The disk {} does not say which format the image below it has, raw or qcow2 (it says '{format}'); 'qemu-img rebase -u -F' writes it there", .path.display())]
    UnknownBacking {
        /// The image.
        path: PathBuf,
        /// What it says instead.
        format: String,
    },
    /// There is nothing in layers about this disk.
    #[error("A raw disk has no layers")]
    NoLayers,
    /// An engine that reads raw disks only.
    #[error("The engine lguest takes raw disks only, and {} is a qcow2 image; 'qemu-img convert -O raw' makes one of it", .0.display())]
    RawOnly(PathBuf),
    /// Something else.
    #[error("Cannot open the disk {}: {}", .path.display(), reason(.error))]
    Io {
        /// The disk.
        path: PathBuf,
        /// The kernel's reason.
        error: io::Error,
    },
}

impl Disk {
    /// Opens a disk.
    ///
    /// # Errors
    /// See [`BlockError`].
    pub fn open(plan: &BlockPlan) -> Result<Self, BlockError> {
        let mut disk = Self::open_file(plan)?;
        if plan.format == DiskFormat::Qcow2 {
            disk.layers = disk.open_layers(plan)?;
            // Only read for now: it may be another guest's, or another program is to open it.
            disk.size = layers::open(&mut disk.layers, false)?.size() / SECTOR * SECTOR;
            if disk.size == 0 {
                return Err(BlockError::Empty(disk.path));
            }
        }
        Ok(disk)
    }

    /// Through its layers, if it has any: to be written, if the guest may. For an engine that accesses
    /// it itself, after [`Disk::lock`].
    ///
    /// # Errors
    /// An image is another by now.
    pub fn access(&mut self) -> Result<Option<Access>, BlockError> {
        match self.layers.is_empty() {
            true => Ok(None),
            false => layers::open(&mut self.layers, !self.read_only).map(Some),
        }
    }

    /// Itself, and those below it.
    fn open_layers(&self, plan: &BlockPlan) -> Result<Vec<Layer>, BlockError> {
        let layer = |disk: &Self, format| {
            Ok(Layer {
                path: disk.path.clone(),
                file: disk.file.try_clone().map_err(|error| BlockError::Io {
                    path: disk.path.clone(),
                    error,
                })?,
                direct: disk.direct,
                is_device: disk.is_device,
                format,
            })
        };
        let mut layers = vec![layer(self, plan.format)?];
        for path in &plan.backing {
            let below = Self::open_file(&BlockPlan {
                path: path.clone(),
                read_only: true,
                // Or raw: then the image above says how much of it counts.
                format: DiskFormat::Qcow2,
                ..BlockPlan::default()
            })?;
            layers.push(layer(&below, DiskFormat::default())?);
        }
        Ok(layers)
    }

    fn open_file(plan: &BlockPlan) -> Result<Self, BlockError> {
        let path = plan.path.clone();
        let explain = |error| explain(&path, plan.read_only, error);
        // Looked at before it is opened: opening a pipe would wait for its other end.
        let kind = std::fs::metadata(&path).map_err(explain)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let what = if kind.is_dir() {
                "a directory"
            } else {
                "neither a file nor a block device"
            };
            return Err(BlockError::NotADisk { path, what });
        }
        let mut file = open(&path, plan.read_only, 0).map_err(explain)?;
        // A block device has no length but an end.
        let size = file
            .seek(SeekFrom::End(0))
            .and_then(|end| file.rewind().map(|()| end))
            .map_err(explain)?;
        if size == 0 {
            return Err(BlockError::Empty(path));
        }
        let is_raw = plan.format == DiskFormat::Raw;
        if is_raw && size % SECTOR != 0 {
            return Err(BlockError::Ragged { path, size });
        }
        // Opening is the only question that every filesystem answers.
        let direct = (!is_raw || size % DIRECT_UNIT == 0)
            .then(|| open(&path, plan.read_only, libc::O_DIRECT).ok())
            .flatten();
        let is_direct = direct.is_some();
        Ok(Self {
            path,
            file: direct.unwrap_or(file),
            size,
            read_only: plan.read_only,
            direct: is_direct,
            is_device: kind.is_block_device(),
            serial: plan.serial.clone(),
            layers: Vec::new(),
        })
    }
}

impl Disk {
    /// Takes the disk for a guest, as long as it is open: to write it alone, or to read it with
    /// others. For engines that access it themselves.
    ///
    /// # Errors
    /// Somebody else has it. (Where the filesystem knows no locks nobody can tell.)
    pub fn lock(&self) -> Result<(), BlockError> {
        lock(&self.path, &self.file, self.read_only)?;
        // The first is the disk's own file. Those below are read, with whoever else reads them.
        let mut below = self.layers.iter().skip(1);
        below.try_for_each(|layer| lock(&layer.path, &layer.file, true))
    }
}

fn lock(path: &Path, file: &File, read_only: bool) -> Result<(), BlockError> {
    match lock::take(file, read_only) {
        Ok(false) => Err(BlockError::InUse(path.to_owned())),
        Ok(true) => Ok(()),
        Err(error) => {
            tracing::debug!("no locks on {}: {error}", path.display());
            Ok(())
        }
    }
}

fn open(path: &Path, read_only: bool, flags: i32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(!read_only)
        .custom_flags(flags)
        .open(path)
}

fn explain(path: &Path, read_only: bool, error: io::Error) -> BlockError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => BlockError::Missing(path),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if read_only => {
            BlockError::NoPermission {
                path,
                how: "read",
                hint: "",
            }
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            BlockError::NoPermission {
                path,
                how: "read and write",
                hint: "; if the guest need not write, add ',ro' to its name",
            }
        }
        _ => BlockError::Io { path, error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_of(bytes: u64) -> (tempfile::NamedTempFile, BlockPlan) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        let plan = BlockPlan {
            path: file.path().to_owned(),
            ..Default::default()
        };
        (file, plan)
    }

    #[test]
    fn a_disk_is_whole_sectors() {
        let (_file, plan) = disk_of(1 << 20);
        assert_eq!(Disk::open(&plan).unwrap().size, 1 << 20);
        let (_file, plan) = disk_of(0);
        assert!(matches!(Disk::open(&plan), Err(BlockError::Empty(_))));
        let (_file, plan) = disk_of(513);
        assert!(matches!(
            Disk::open(&plan),
            Err(BlockError::Ragged { size: 513, .. })
        ));
    }

    #[test]
    fn a_file_that_ends_within_a_direct_block_is_never_written_directly() {
        let (_file, plan) = disk_of(4096 + 512);
        assert!(!Disk::open(&plan).unwrap().direct);
    }

    #[test]
    fn what_cannot_be_a_disk_is_named() {
        let plan = |path: &str| BlockPlan {
            path: path.into(),
            read_only: true,
            ..Default::default()
        };
        assert!(matches!(
            Disk::open(&plan("/")),
            Err(BlockError::NotADisk {
                what: "a directory",
                ..
            })
        ));
        assert!(matches!(
            Disk::open(&plan("/dev/null")),
            Err(BlockError::NotADisk { .. })
        ));
        assert!(matches!(
            Disk::open(&plan("/no/such/disk")),
            Err(BlockError::Missing(_))
        ));
    }
}
