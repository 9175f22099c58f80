#![allow(clippy::unwrap_used, reason = "what can't be set up is a failed test")]
//! What a hostile guest, disk or kernel can hand us, as bytes. Each function takes any bytes at all, and
//! must neither panic nor go on for ever.

mod images;
mod lguest;
mod virtio;

pub use images::{disk_image, kernel_image, lguest_image};
pub use lguest::lguest_guest;
pub use virtio::{queues, registers};

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes of `base` replaced as `data` says: an offset of two bytes, and what stands there.
fn patch(base: &mut [u8], data: &[u8]) {
    for change in data.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % base.len();
        base[at] = change[2];
    }
}

fn memory_file(bytes: &[u8]) -> File {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let file = File::from(nix::sys::memfd::memfd_create(c"fuzz", flags).unwrap());
    file.write_all_at(bytes, 0).unwrap();
    file
}

/// Numbers out of the front of `data`; zeroes when it is used up.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn long(&mut self) -> u32 {
        u32::from(self.word()) | u32::from(self.word()) << 16
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
