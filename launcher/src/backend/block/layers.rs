//! A disk in layers: qcow2 images (QEMU's `docs/interop/qcow2.txt`), the top one written, those below
//! only read. The crate `imago`, by people of QEMU's block layer, reads and writes them.
//!
//! An image names the one that it stands on. It is not taken by its word: the user says the files, and
//! the image only what format the next one has, if it was told that when it was made (`qemu-img create
//! -F`). So nothing is opened that was not named on the command line, and nothing is ever guessed from
//! what is in a file.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use imago::file::File as Storage;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, StorageOpenOptions};

use super::BlockError;
use crate::plan::disk::DiskFormat;

/// An image's file.
#[derive(Debug)]
pub struct Layer {
    /// Its name.
    pub path: PathBuf,
    /// Open as it is to be used: the top one for writing, if the guest may write.
    pub file: File,
    /// Whether it was opened with `O_DIRECT`.
    pub direct: bool,
    /// Whether it is a block device of the host's.
    pub is_device: bool,
    /// What it is: of those below the top one, what the one above says.
    pub format: DiskFormat,
}

/// What a guest reads and writes, through all layers.
pub type Access = FormatAccess<Storage>;

/// Opens images, from the top down, and notes of each but the first what it is.
///
/// # Errors
/// An image is none, or stands on another than is said.
pub fn open(layers: &mut [Layer], writable: bool) -> Result<Access, BlockError> {
    let Some((top, below)) = layers.split_first_mut() else {
        return Err(BlockError::NoLayers);
    };
    let failed = |error| BlockError::Image {
        path: top.path.clone(),
        error,
    };
    let options = StorageOpenOptions::new()
        .filename(&top.path)
        .write(writable)
        .direct(top.direct);
    let copy = top.file.try_clone().map_err(failed)?;
    let storage = Storage::from_open_file(copy, options).map_err(failed)?;
    let closed = DenyImplicitOpenGate::default();
    if top.format == DiskFormat::Raw {
        if let Some(more) = below.first() {
            return Err(BlockError::StandsAlone {
                path: top.path.clone(),
                said: more.path.clone(),
            });
        }
        let image = Raw::builder(storage).write(writable).open(closed);
        return Ok(FormatAccess::new(image.map_err(failed)?));
    }
    let image = Qcow2::<Storage>::builder(storage)
        .write(writable)
        .backing(None)
        .data_file(None);
    let mut image = image.open(closed).map_err(failed)?;
    if image.requires_external_data_file() {
        let why = "it keeps its data in another file, which is not supported";
        return Err(failed(io::Error::other(why)));
    }
    let path = &top.path;
    match (image.implicit_backing_file(), below.first_mut()) {
        (None, None) => {}
        (Some(named), None) => {
            return Err(BlockError::StandsOn {
                path: path.clone(),
                named: named.into(),
            });
        }
        (None, Some(more)) => {
            return Err(BlockError::StandsAlone {
                path: path.clone(),
                said: more.path.clone(),
            });
        }
        (Some(_), Some(more)) => {
            more.format = match image.implicit_backing_format().map(String::as_str) {
                Some("raw") => DiskFormat::Raw,
                Some("qcow2") => DiskFormat::Qcow2,
                other => {
                    return Err(BlockError::UnknownBacking {
                        path: path.clone(),
                        format: other.unwrap_or_default().into(),
                    });
                }
            };
            image.set_backing(Some(open(below, false)?));
        }
    }
    Ok(FormatAccess::new(image))
}
