//! A bzImage: real-mode code and an unpacker, which lguest does not run, and behind them the kernel in
//! gzip. It is unpacked here, to 1 MiB; what it was linked for, its own code has to tell.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use flate2::read::GzDecoder;

use super::tag::TAG;
use super::{BootError, Kernel, scan};
use crate::engine::lguest::memory::{GuestMemory, OutOfBounds};
use crate::image::ImageFile;

/// Where the kernel goes.
const LOAD_ADDRESS: u32 = 1 << 20;

/// A gzip header (RFC 1952): two magic bytes, 8 for deflate; flags, time and extra flags, six bytes; the
/// system it was made on.
const GZIP: [u8; 3] = [0x1f, 0x8b, 8];
const SYSTEM_AT: usize = 9;
const UNIX: u8 = 3;

/// How much is read in one go, in bytes.
const STEP: usize = 1 << 16;

/// More than a kernel of that time has unpacked, in bytes.
const LARGEST: u64 = 256 << 20;

/// `mov moffs, %eax`: the four bytes behind it are an address.
const LOAD_EAX: u8 = 0xa1;
/// So many addresses with the same highest byte are no accident.
const ENOUGH: u32 = 4;

/// Unpacks a kernel that must end below `room`.
pub(super) fn load(
    memory: &GuestMemory,
    kernel: &ImageFile,
    room: u32,
    no_room: impl Fn(u64) -> BootError,
) -> Result<Kernel, BootError> {
    let unpack = |error| BootError::Unpack {
        path: kernel.path.clone(),
        error,
    };
    let start = find_gzip(kernel)
        .map_err(unpack)?
        .ok_or_else(|| BootError::NoGzip(kernel.path.clone()))?;
    let mut packed = GzDecoder::new(From { kernel, at: start });
    let mut bytes = vec![0; STEP];
    let mut end = LOAD_ADDRESS;
    loop {
        let count = match packed.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unpack(error)),
        };
        let next = u64::from(end) + count as u64;
        if next > room.into() {
            return Err(no_room(next));
        }
        memory.write_bytes(end, &bytes[..count])?;
        end = next as u32;
    }
    let page_offset = guess_page_offset(memory, LOAD_ADDRESS, end)?;
    let page_offset = page_offset.ok_or_else(|| BootError::NoOffset(kernel.path.clone()))?;
    Ok(Kernel {
        start: LOAD_ADDRESS,
        end,
        page_offset,
    })
}

/// Whether there is a kernel packed in the file that can be an lguest guest. What can't be unpacked is none.
pub fn has_tag(kernel: &ImageFile) -> bool {
    let Ok(Some(at)) = find_gzip(kernel) else {
        return false;
    };
    let mut packed = GzDecoder::new(From { kernel, at }).take(LARGEST);
    let mut bytes = vec![0; STEP + TAG.len() - 1];
    // The end of what was seen before: the tag may begin in it.
    let mut kept = 0;
    while let Ok(count @ 1..) = packed.read(&mut bytes[kept..]) {
        let have = kept + count;
        if bytes[..have].windows(TAG.len()).any(|window| window == TAG) {
            return true;
        }
        kept = have.min(TAG.len() - 1);
        bytes.copy_within(have - kept..have, 0);
    }
    false
}

/// A file from some place on.
struct From<'a> {
    kernel: &'a ImageFile,
    at: u64,
}

impl Read for From<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.kernel.file.read_at(out, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// Where the first gzip header made on Unix is in a file.
fn find_gzip(kernel: &ImageFile) -> io::Result<Option<u64>> {
    let mut bytes = vec![0; STEP + SYSTEM_AT];
    let mut at = 0;
    loop {
        let mut have = 0;
        while have < bytes.len() {
            match kernel.file.read_at(&mut bytes[have..], at + have as u64)? {
                0 => break,
                count => have += count,
            }
        }
        let found = bytes[..have]
            .windows(SYSTEM_AT + 1)
            .position(|window| window.starts_with(&GZIP) && window[SYSTEM_AT] == UNIX);
        if let Some(found) = found {
            return Ok(Some(at + found as u64));
        }
        if have < bytes.len() {
            return Ok(None);
        }
        at += STEP as u64;
    }
}

/// Nothing in the unpacked code says for which addresses it was linked, except all of it: the kernel loads eax
/// from its own variables again and again, and all of those have the page offset in their highest byte.
fn guess_page_offset(memory: &GuestMemory, from: u32, to: u32) -> Result<Option<u32>, OutOfBounds> {
    let mut seen = [0; 256];
    // An overlap of four: the last instruction of a piece has its address in it, and is not seen again.
    scan(memory, from, to, 4, |_, bytes| {
        bytes.windows(5).find_map(|window| {
            let highest = window[4];
            let seen = &mut seen[usize::from(highest)];
            *seen += u32::from(window[0] == LOAD_EAX);
            (*seen >= ENOUGH).then(|| u32::from(highest) << 24)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tests::file_of;

    #[test]
    fn the_first_header_made_on_unix_is_found_wherever_it_is() {
        for at in [0, 1, STEP - 5, STEP, STEP + 1, 3 * STEP + 17] {
            let mut bytes = vec![0; at];
            bytes.extend([0x1f, 0x8b, 8, 0, 1, 2, 3, 4, 5, 3, 9]);
            assert_eq!(find_gzip(&file_of(&bytes)).unwrap(), Some(at as u64));
            let len = bytes.len();
            bytes[len - 2] = 11;
            assert_eq!(find_gzip(&file_of(&bytes)).unwrap(), None);
            assert_eq!(find_gzip(&file_of(&bytes[..len - 2])).unwrap(), None);
        }
    }

    #[test]
    fn the_byte_that_comes_a_fourth_time_is_the_offset() {
        let memory = GuestMemory::new(4 << 20).unwrap();
        let mut at = 0x10_0000;
        let mut put = |highest: u8| {
            memory
                .write_bytes(at, &[LOAD_EAX, 1, 2, 3, highest])
                .unwrap();
            at += 0x8_0000 - 1;
        };
        [0x08, 0xc0, 0x08, 0xc0, 0xc0]
            .into_iter()
            .for_each(&mut put);
        assert_eq!(guess_page_offset(&memory, 0x10_0000, 4 << 20), Ok(None));
        put(0xc0);
        assert_eq!(
            guess_page_offset(&memory, 0x10_0000, 4 << 20),
            Ok(Some(0xc000_0000))
        );
    }
}
