//! A disk as wished for: `--block=<file>[,ro][,serial=<text>][,format=qcow2[,backing=<file>]…]`.
//!
//! A file is raw unless its format is said, whatever is in it: what is in a raw disk is its guest's to
//! write, and a guest that wrote there what begins like another format, one that names files of the
//! host's to build upon, would read those the next time. For the same reason the layers below a qcow2
//! image are those that are said here, and never those that only the image names.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::cli::UsageError;

/// A disk of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockPlan {
    /// The image, or the host's device.
    pub path: PathBuf,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// What it is known by in the guest, if by anything.
    pub serial: Option<DiskSerial>,
    /// What the file is.
    pub format: DiskFormat,
    /// What it stands on, from the top down.
    pub backing: Vec<PathBuf>,
}

/// What a file is to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskFormat {
    /// The disk itself, byte for byte.
    #[default]
    Raw,
    /// A layer of a disk, perhaps on others (QEMU's `docs/interop/qcow2.txt`).
    Qcow2,
}

/// A disk's serial number: 1 to 20 printable ASCII characters. A guest finds the disk by it under
/// `/dev/disk/by-id/virtio-…`, in whatever order its devices come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSerial(String);

impl DiskSerial {
    /// The longest, in bytes (virtio 1.2, 5.2.6: the answer to `VIRTIO_BLK_T_GET_ID`).
    pub const MAX: usize = 20;

    /// Checks a serial number.
    fn parse(text: &OsStr) -> Result<Self, UsageError> {
        match text.to_str() {
            Some(serial)
                if (1..=Self::MAX).contains(&serial.len())
                    && serial.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                Ok(Self(serial.to_owned()))
            }
            _ => Err(UsageError(format!(
                "--block: '{}' is no serial number for a disk: it is 1 to {} printable ASCII characters without blanks",
                text.display(),
                Self::MAX
            ))),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl DiskFormat {
    fn parse(text: &OsStr) -> Result<Self, UsageError> {
        match text.as_bytes() {
            b"raw" => Ok(Self::Raw),
            b"qcow2" => Ok(Self::Qcow2),
            _ => Err(UsageError(format!(
                "--block: '{}' is no format of a disk here; there are raw and qcow2",
                text.display()
            ))),
        }
    }
}

impl BlockPlan {
    /// Reads the value of `--block`. What stands behind the file is taken off from the right as
    /// long as it is known and new: a file may have a comma in its name.
    ///
    /// # Errors
    /// No file is named, the serial number can't be one, there is no such format, or it has no layers.
    pub fn parse(value: &OsStr) -> Result<Self, UsageError> {
        let mut plan = Self::default();
        let mut format = None;
        let mut path = value.as_bytes();
        while let Some(comma) = path.iter().rposition(|&b| b == b',') {
            let setting = &path[comma + 1..];
            if setting == b"ro" && !plan.read_only {
                plan.read_only = true;
            } else if let Some(text) = setting.strip_prefix(b"serial=") {
                if plan.serial.is_some() {
                    return Err(UsageError(
                        "--block: serial= is given twice; give it once".into(),
                    ));
                }
                plan.serial = Some(DiskSerial::parse(OsStr::from_bytes(text))?);
            } else if let Some(text) = setting.strip_prefix(b"format=") {
                if format.is_some() {
                    return Err(UsageError(
                        "--block: format= is given twice; give it once".into(),
                    ));
                }
                format = Some(DiskFormat::parse(OsStr::from_bytes(text))?);
            } else if let Some(file) = setting.strip_prefix(b"backing=") {
                if file.is_empty() {
                    return Err(UsageError("--block: backing= names no file".into()));
                }
                plan.backing.insert(0, OsStr::from_bytes(file).into());
            } else {
                break;
            }
            path = &path[..comma];
        }
        if path.is_empty() {
            return Err(UsageError(format!(
                "--block={} names no file",
                value.display()
            )));
        }
        plan.path = OsStr::from_bytes(path).into();
        plan.format = format.unwrap_or_default();
        if plan.format == DiskFormat::Raw && !plan.backing.is_empty() {
            return Err(UsageError(format!(
                "--block={}: a raw disk stands on no other; write format=qcow2 if it is a layer",
                value.display()
            )));
        }
        Ok(plan)
    }
}

impl fmt::Display for BlockPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk {}", self.path.display())?;
        if self.read_only {
            f.write_str(", read-only")?;
        }
        if self.format == DiskFormat::Qcow2 {
            f.write_str(", qcow2")?;
        }
        for path in &self.backing {
            write!(f, " on {}", path.display())?;
        }
        match &self.serial {
            Some(serial) => write!(f, ", serial number {}", serial.as_str()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_a_comma_in_its_name_is_still_that_file() {
        for (text, path, read_only, serial) in [
            ("a,b", "a,b", false, None),
            ("a,b,ro", "a,b", true, None),
            ("a,rw", "a,rw", false, None),
            ("a,ro,ro", "a,ro", true, None),
            ("a,serial=s1", "a", false, Some("s1")),
            ("a,b,serial=s1,ro", "a,b", true, Some("s1")),
            ("a,ro,serial=x=y", "a", true, Some("x=y")),
        ] {
            let disk = BlockPlan::parse(OsStr::new(text)).unwrap();
            let found = disk.serial.as_ref().map(DiskSerial::as_str);
            assert_eq!(
                (disk.path, disk.read_only, found),
                (PathBuf::from(path), read_only, serial)
            );
        }
    }

    #[test]
    fn only_what_is_said_to_be_a_layer_is_one_and_stands_on_what_is_said() {
        for (text, path, format, backing) in [
            ("a.qcow2", "a.qcow2", DiskFormat::Raw, &[][..]),
            ("a,format=raw", "a", DiskFormat::Raw, &[]),
            ("a,format=qcow2", "a", DiskFormat::Qcow2, &[]),
            (
                "a,format=qcow2,backing=b,backing=c,ro",
                "a",
                DiskFormat::Qcow2,
                &["b", "c"],
            ),
        ] {
            let disk = BlockPlan::parse(OsStr::new(text)).unwrap();
            let backing = backing.iter().map(PathBuf::from).collect::<Vec<_>>();
            assert_eq!(
                (disk.path, disk.format, disk.backing),
                (PathBuf::from(path), format, backing)
            );
        }
    }

    #[test]
    fn what_can_be_no_disk_is_refused_by_name() {
        for (text, named) in [
            ("", "names no file"),
            (",ro", "names no file"),
            (",serial=x", "names no file"),
            ("a,serial=", "''"),
            ("a,serial=a b", "'a b'"),
            ("a,serial=ä", "'ä'"),
            ("a,serial=123456789012345678901", "123456789012345678901"),
            ("a,serial=x,serial=y", "twice"),
            ("a,format=vhd", "'vhd'"),
            ("a,format=raw,format=raw", "twice"),
            ("a,format=qcow2,backing=", "backing="),
            ("a,backing=b", "format=qcow2"),
        ] {
            let UsageError(message) = BlockPlan::parse(OsStr::new(text)).unwrap_err();
            assert!(message.contains(named), "{text}: {message}");
        }
        assert!(BlockPlan::parse(OsStr::new("a,serial=12345678901234567890")).is_ok());
    }
}
