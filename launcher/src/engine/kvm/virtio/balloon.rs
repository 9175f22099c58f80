//! The balloon (Virtual I/O Device 1.2, 5.5): the guest gives memory back that it does not use.
//!
//! A guest that frees a gigabyte keeps it, as far as the host can see. By *free page reporting* its
//! kernel tells of blocks it does not use, a few every two seconds while it idles, and the host has
//! them back until the guest touches them again. The balloon itself, memory that the guest sets aside
//! because it is asked to, is served, too; nobody asks yet.

use std::io;

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

use super::chain::{Broken, Buffers, Chain};
use super::description::{Config, Description};
use super::device::Device;
use super::vring::{Outcome, Vring};
use super::worker::{self, Work};

/// Features (5.5.3), which the bindings do not name: the guest may take pages out of the balloon when
/// it would run out of memory; it reports free pages.
const F_DEFLATE_ON_OOM: u32 = 2;
const F_REPORTING: u32 = 5;

/// The queues (5.5.2). Of those after the first two only the reporting queue is offered, but drivers
/// do not agree on whether it keeps its number then: whichever they set up is that one.
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const QUEUES: usize = 5;

/// A page of the balloon's, in bytes, whatever the guest's is (5.5.6).
const PAGE: u64 = 4096;
/// Bytes of page numbers in one request: Linux sends 256 numbers.
const MOST_NUMBERS: usize = 64 << 10;

/// `num_pages` and `actual`, the configuration's first fields. The second is the driver's to write.
const CONFIG: usize = 8;

struct Balloon;

/// Makes the device.
///
/// # Errors
/// No descriptor or no thread is left.
pub fn device() -> io::Result<Device> {
    let description = Description {
        id: VIRTIO_ID_BALLOON,
        features: 1 << F_DEFLATE_ON_OOM | 1 << F_REPORTING,
        queues: vec![128; QUEUES],
        config: Config::new(vec![0; CONFIG], 4..CONFIG),
    };
    worker::device("balloon", description, Balloon)
}

impl Work for Balloon {
    fn serve(&mut self, index: usize, queue: &mut Vring) -> Result<bool, Broken> {
        let memory = queue.memory();
        queue.serve(|chain| {
            match index {
                INFLATE => inflate(&memory, &mut chain.readable)?,
                // What is taken out of the balloon is there when it is touched.
                DEFLATE => {}
                _ => report(chain),
            }
            Ok(Outcome::Done(0))
        })
    }
}

/// Gives the host the pages of these numbers, neighbours together.
fn inflate(memory: &GuestMemoryMmap, numbers: &mut Buffers<'_>) -> Result<(), Broken> {
    if numbers.len() > MOST_NUMBERS {
        return Err(Broken("more pages at once than anybody sets aside"));
    }
    let mut run = 0..0;
    while let Some(number) = numbers.read_object::<u32>() {
        let page = u64::from(u32::from_le(number));
        if page == run.end {
            run.end += 1;
        } else if page.checked_add(1) == Some(run.start) {
            run.start -= 1;
        } else {
            release_pages(memory, run);
            run = page..page + 1;
        }
    }
    release_pages(memory, run);
    Ok(())
}

fn release_pages(memory: &GuestMemoryMmap, pages: std::ops::Range<u64>) {
    let bytes = (pages.end - pages.start) * PAGE;
    let address = GuestAddress(pages.start * PAGE);
    // Pages that are not the guest's give nothing back.
    for run in memory.get_slices(address, bytes as usize).flatten() {
        release(&run);
    }
}

/// The guest does not use these blocks; they lie in the buffers that the device may write.
fn report(chain: &Chain<'_>) {
    chain.writable.runs().iter().for_each(release);
}

/// Gives the host the whole pages in `run`.
fn release(run: &VolatileSlice<'_>) {
    let guard = run.ptr_guard_mut();
    let unit = page_size();
    let start = (guard.as_ptr() as usize).next_multiple_of(unit);
    let end = (guard.as_ptr() as usize + run.len()) / unit * unit;
    if start < end {
        // SAFETY: whole pages inside the guest's memory, which is mapped as long as `run` is there, and
        // private to this process: what is lost is what the guest had there, which it gave up. Nothing
        // but copies and atomics reads the guest's memory, so there is no reference to what changes.
        let _ =
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

/// The host's, in bytes.
fn page_size() -> usize {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let size = size
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok());
    // Never so; then it is one that no page is smaller than.
    size.unwrap_or(2 << 20)
}
