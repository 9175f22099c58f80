//! Guest to host: each chain of buffers is a header and a frame, and becomes one `writev`.

use std::os::fd::{AsRawFd, OwnedFd};

use lgswitch::plug::virtio::memory::{Access, Memory};
use lgswitch::plug::virtio::pump::Burst;
use lgswitch::plug::virtio::queue::Queue;
use lgswitch::plug::virtio::virtqueue::Broken;

use super::BURST;

/// The most parts of a `writev` (`IOV_MAX`).
const MOST_PARTS: usize = 1024;

/// One burst of a transmit queue.
///
/// # Errors
/// The driver broke the rules.
pub fn burst(memory: &Memory, queue: &mut Queue, tap: &OwnedFd) -> Result<Burst, Broken> {
    let Some((mut vq, call)) = queue.open_with_call(memory) else {
        return Ok(Burst::Idle);
    };
    let count = vq.available()?.min(BURST);
    if count == 0 {
        return Ok(Burst::Idle);
    }
    vq.disable_kicks();
    let mut parts = Vec::with_capacity(4);
    for _ in 0..count {
        parts.clear();
        let head = vq.chain(0, Access::Read, |run| {
            parts.push(libc::iovec {
                iov_base: run.bytes().as_ptr().cast_mut().cast(),
                iov_len: run.len(),
            });
        })?;
        let count = parts.len().min(MOST_PARTS) as libc::c_int;
        // SAFETY: each part is a run of the guest's memory, mapped as long as `memory` is there, of which
        // the kernel only reads. What it makes of a frame that is cut short, malformed, or comes while
        // the tap is down is a lost frame, as on any wire.
        let _ = unsafe { libc::writev(tap.as_raw_fd(), parts.as_ptr(), count) };
        vq.take(1);
        vq.give_back(head, 0);
    }
    if vq.show() {
        lgswitch::plug::virtio::queue::interrupt(call);
    }
    Ok(Burst::Some)
}
