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
    let storage = || Storage::from_open_file(top.file.try_clone()?, options.clone());
    let raw = |writable| {
        let closed = DenyImplicitOpenGate::default();
        let image = Raw::builder(storage()?).write(writable).open(closed)?;
        Ok(FormatAccess::new(image))
    };
    if top.format == DiskFormat::Raw {
        if let Some(more) = below.first() {
            return Err(BlockError::StandsAlone {
                path: top.path.clone(),
                said: more.path.clone(),
            });
        }
        return raw(writable).map_err(failed);
    }
    let image = Qcow2::<Storage>::builder(storage().map_err(failed)?)
        .write(writable)
        .backing(None)
        .data_file(None);
    let mut image = image
        .open(DenyImplicitOpenGate::default())
        .map_err(failed)?;
    if writable {
        raw(false).and_then(|file| counted(&file)).map_err(failed)?;
    }
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

/// Whether a qcow2 file counts its own header among the clusters in use. Where it does not, its first
/// cluster is free to be given to anything; `imago` 0.2.6 puts the missing block of counts there, takes a
/// block at 0 for none, and calls itself without end.
///
/// # Errors
/// It does not.
fn counted(file: &Access) -> io::Result<()> {
    let long = |at| read(file, at).map(u32::from_be_bytes);
    let offset = |at| read(file, at).map(u64::from_be_bytes);
    // Where the table of blocks of counts is, and how many clusters it has.
    let (table, clusters) = (offset(48)?, long(56)?);
    let block = match clusters {
        0 => 0,
        // The low bits mean nothing.
        _ => offset(table)? & !0x1ff,
    };
    // The first count is in the first byte or starts with it; version 2 has 16 bits, always.
    let bits = match long(4)? {
        2 => 16,
        _ => 1u64 << long(96)?.min(6),
    };
    let mut count = [0; 8];
    let count = &mut count[..bits.div_ceil(8) as usize];
    if block != 0 {
        file.read(&mut *count, block)?;
    }
    count[0] &= (0xff >> (8 - bits.min(8))) as u8;
    match count.iter().all(|byte| *byte == 0) {
        true => Err(io::Error::other(
            "its reference counts take its own header for free; 'qemu-img check -r all' mends them",
        )),
        false => Ok(()),
    }
}

fn read<const N: usize>(file: &Access, at: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read(&mut bytes[..], at).map(|()| bytes)
}
