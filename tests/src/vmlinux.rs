//! The linked kernel (`vmlinux`, an ELF file) inside a bzImage, as the kernel's own decompressor
//! would put it into memory.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// The programs that unpack what kernels are packed with, by the packed bytes' first ones.
const PACKERS: [(&[u8], &str); 4] = [
    (&[0x02, 0x21, 0x4c, 0x18], "lz4"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0xfd, b'7', b'z', b'X'], "xz"),
    (&[0x1f, 0x8b], "gzip"),
];

/// Offsets of the x86 boot protocol's header (Documentation/arch/x86/boot.rst): how many sectors of
/// 512 bytes follow the first, and where, after those, the packed kernel is.
const SETUP_SECTS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// Unpacks the kernel in `bzimage` to the file `to`.
///
/// # Errors
/// It is no bzImage, or the program that unpacks it is missing or fails.
pub fn unpack(bzimage: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(bzimage).with_context(|| format!("Reading {}", bzimage.display()))?;
    let packed =
        payload(&bytes).with_context(|| format!("{} is no whole bzImage", bzimage.display()))?;
    let program = PACKERS
        .iter()
        .find_map(|(magic, program)| packed.starts_with(magic).then_some(*program))
        .with_context(|| format!("{} is packed in an unknown way", bzimage.display()))?;

    let packed_file = to.with_extension("packed");
    fs::write(&packed_file, packed).context("Writing the packed kernel")?;
    let status = Command::new(program)
        .arg("-dc")
        .stdin(File::open(&packed_file).context("Reading the packed kernel")?)
        .stdout(File::create(to).context("Making a file for the kernel")?)
        .stderr(Stdio::null())
        .status()
        .with_context(|| format!("Running {program}"))?;
    fs::remove_file(&packed_file).context("Removing the packed kernel")?;
    ensure!(status.success(), "{program} ended with {status}");
    Ok(())
}

/// The packed bytes. Behind them the kernel's build writes their unpacked length, four bytes that
/// gzip has anyway and the others do not know.
fn payload(bzimage: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| -> Option<usize> {
        let bytes = bzimage.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let start = (usize::from(*bzimage.get(SETUP_SECTS)?) + 1) * 512 + number(PAYLOAD_OFFSET)?;
    let payload = bzimage.get(start..start.checked_add(number(PAYLOAD_LENGTH)?)?)?;
    if payload.starts_with(&[0x1f, 0x8b]) {
        return Some(payload);
    }
    payload.get(..payload.len().checked_sub(4)?)
}
