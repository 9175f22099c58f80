//! An initramfs for guests that only have to say something: busybox, and an `/init` of the claim's
//! own.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::machine;

/// Writes an initramfs to the file `to`, with the machine's (static) busybox as `/bin/busybox` and
/// `init` as `/init`, a script of `#!/bin/busybox sh`.
///
/// # Errors
/// There is no busybox, or no room for the file.
pub fn of_busybox(init: &str, to: &Path) -> Result<()> {
    let busybox = machine::tool("busybox").context("Needs the program `busybox`")?;
    let busybox = fs::read(&busybox).with_context(|| format!("Reading {}", busybox.display()))?;
    let mut archive = Vec::new();
    for (name, mode, bytes) in [
        ("bin", 0o040_755, &[][..]),
        ("dev", 0o040_755, &[]),
        ("bin/busybox", 0o100_755, &busybox),
        ("init", 0o100_755, init.as_bytes()),
        // The end of an archive is a file of this name.
        ("TRAILER!!!", 0, &[]),
    ] {
        add(&mut archive, name, mode, bytes);
    }
    fs::write(to, archive).with_context(|| format!("Writing {}", to.display()))
}

/// One file, in the format the kernel calls "newc" (Documentation/driver-api/early-userspace/
/// buffer-format.rst): thirteen numbers of eight hexadecimal digits, name, contents, each part filled
/// up to a multiple of four bytes.
fn add(archive: &mut Vec<u8>, name: &str, mode: u32, bytes: &[u8]) {
    let inode = archive.len();
    let (length, name_length) = (bytes.len(), name.len() + 1);
    archive.extend_from_slice(b"070701");
    // inode, mode, uid, gid, links, time, length, device (2), special file's device (2), name, sum
    for number in [
        inode,
        mode as usize,
        0,
        0,
        1,
        0,
        length,
        0,
        0,
        0,
        0,
        name_length,
        0,
    ] {
        archive.extend_from_slice(format!("{number:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(bytes);
    archive.resize(archive.len().next_multiple_of(4), 0);
}
