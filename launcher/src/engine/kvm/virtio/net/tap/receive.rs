//! Host to guest: a frame is read straight into the buffers that the guest has ready.
//!
//! How long it is shows only when it is read, so the last part of each `readv` is a buffer of ours. A
//! frame that runs over into that one waits, whole, until the guest has made room for it.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use lgswitch::plug::virtio::memory::{Access, Memory, Run};
use lgswitch::plug::virtio::pump::Burst;
use lgswitch::plug::virtio::queue::{self, Queue};
use lgswitch::plug::virtio::virtqueue::{Broken, Virtqueue};

use super::{BURST, MOST};

/// The most parts of a `readv` (`IOV_MAX`), less our own.
const MOST_PARTS: usize = 1023;
/// Where in the header the number of chains stands (5.1.6).
const NUM_BUFFERS: usize = 10;

/// The receiving half of a pair of queues.
#[derive(Debug, Default)]
pub struct Receiver {
    /// What runs over.
    spill: Vec<u8>,
    /// A frame that waits, with its header; empty if there is none.
    waiting: Vec<u8>,
}

impl Receiver {
    /// One burst of a receive queue.
    ///
    /// # Errors
    /// The driver broke the rules.
    pub fn burst(
        &mut self,
        memory: &Memory,
        queue: &mut Queue,
        tap: &OwnedFd,
    ) -> Result<Burst, Broken> {
        let mergeable = queue.format.mergeable;
        let Some((vq, call)) = queue.open_with_call(memory) else {
            return Ok(Burst::Idle);
        };
        let mut room = Room::new(vq, call, mergeable);
        let mut done = 0;
        let mut end = Burst::Idle;
        while done < BURST {
            if self.waiting.is_empty() {
                room.gather(MOST)?;
                if room.chains.is_empty() {
                    end = Burst::Stuck;
                    break;
                }
                let Some(len) = self.read(&room, tap) else {
                    break;
                };
                if len <= room.bytes {
                    room.fill(len);
                } else {
                    self.keep(&room, len);
                }
            }
            if !self.waiting.is_empty() {
                if !room.put(&self.waiting)? {
                    end = Burst::Stuck;
                    break;
                }
                self.waiting.clear();
            }
            done += 1;
        }
        room.show();
        Ok(if done > 0 { Burst::Some } else { end })
    }

    /// The driver is gone, and so is what waited for it.
    pub fn forget(&mut self) {
        self.waiting.clear();
    }

    /// Reads a frame into the room there is, and over into our own; `None` if there is none.
    fn read(&mut self, room: &Room<'_, '_>, tap: &OwnedFd) -> Option<usize> {
        if self.spill.is_empty() {
            self.spill.resize(MOST, 0);
        }
        let parts = room.runs.iter().take(MOST_PARTS).map(|run| libc::iovec {
            iov_base: run.bytes().as_ptr().cast_mut().cast(),
            iov_len: run.len(),
        });
        let spill = libc::iovec {
            iov_base: self.spill.as_mut_ptr().cast(),
            iov_len: self.spill.len(),
        };
        let parts: Vec<_> = parts.chain([spill]).collect();
        // SAFETY: all parts but the last are runs of the guest's memory that it gave to be written,
        // mapped as long as `room` is there; no reference to them exists. The last is ours alone. There
        // are no more than the kernel takes.
        let read =
            unsafe { libc::readv(tap.as_raw_fd(), parts.as_ptr(), parts.len() as libc::c_int) };
        match usize::try_from(read) {
            Ok(len) if len > 0 => Some(len),
            Ok(_) => None,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::WouldBlock {
                    tracing::debug!("a tap can't be read: {error}");
                }
                None
            }
        }
    }

    /// Takes a frame that was read and did not fit out of the guest's buffers again.
    fn keep(&mut self, room: &Room<'_, '_>, len: usize) {
        for run in room.runs.iter().take(MOST_PARTS) {
            self.waiting.extend(run.bytes().to_vec());
        }
        let spilled = len.saturating_sub(self.waiting.len()).min(self.spill.len());
        self.waiting.extend(&self.spill[..spilled]);
        self.waiting.truncate(len);
    }
}

/// The buffers that a guest has ready, as far as they were looked up.
struct Room<'m, 'q> {
    vq: Virtqueue<'m, 'q>,
    call: Option<&'q File>,
    /// Whether a frame may be in several chains.
    mergeable: bool,
    /// Chains the guest is known to have made available and that were not taken.
    available: usize,
    runs: VecDeque<Run<'m>>,
    /// The chains that they are of: what the guest knows each by, its runs, its bytes.
    chains: VecDeque<(u16, usize, usize)>,
    /// Bytes in the runs that can be read into by one call.
    bytes: usize,
}

impl<'m, 'q> Room<'m, 'q> {
    fn new(vq: Virtqueue<'m, 'q>, call: Option<&'q File>, mergeable: bool) -> Self {
        Self {
            vq,
            call,
            mergeable,
            available: 0,
            runs: VecDeque::new(),
            chains: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Looks up buffers until they have room for `enough` bytes, or there are no more.
    fn gather(&mut self, enough: usize) -> Result<(), Broken> {
        while self.bytes < enough && self.runs.len() < MOST_PARTS {
            let count = self.chains.len();
            if count > 0 && !self.mergeable {
                return Ok(());
            }
            if count == self.available {
                self.available = self.vq.available()? as usize;
                if count == self.available {
                    return Ok(());
                }
                self.vq.disable_kicks();
            }
            let (before, mut bytes) = (self.runs.len(), 0);
            let runs = &mut self.runs;
            let head = self.vq.chain(count as u32, Access::Write, |run| {
                bytes += run.len();
                runs.push_back(run);
            })?;
            self.chains
                .push_back((head, self.runs.len() - before, bytes));
            self.count();
        }
        Ok(())
    }

    fn count(&mut self) {
        self.bytes = self.runs.iter().take(MOST_PARTS).map(Run::len).sum();
    }

    /// Puts a frame with its header into buffers; `false` if there are not enough yet. One that can
    /// never fit is dropped.
    fn put(&mut self, frame: &[u8]) -> Result<bool, Broken> {
        self.gather(frame.len())?;
        if self.bytes < frame.len() {
            let all = self.chains.len() as u32 == self.vq.size();
            let one = !self.mergeable && !self.chains.is_empty();
            return Ok(all || one || self.runs.len() >= MOST_PARTS);
        }
        let mut rest = frame;
        for run in &self.runs {
            let (part, after) = rest.split_at(rest.len().min(run.len()));
            run.write(0, part);
            rest = after;
        }
        self.fill(frame.len());
        Ok(true)
    }

    /// The first `len` bytes of the room are a frame with its header: gives their chains back.
    fn fill(&mut self, len: usize) {
        let mut covered = 0;
        let needed = self.chains.iter().take_while(|(_, _, bytes)| {
            let more = covered < len;
            covered += bytes;
            more
        });
        let count = needed.count();
        self.write_at(NUM_BUFFERS, &(count as u16).to_le_bytes());
        let mut left = len;
        for (head, runs, bytes) in self.chains.drain(..count) {
            let written = bytes.min(left);
            left -= written;
            self.vq.give_back(head, written as u32);
            self.runs.drain(..runs);
        }
        self.vq.take(count as u32);
        self.available -= count;
        self.count();
    }

    /// Writes into the room, `at` bytes from its start.
    fn write_at(&self, mut at: usize, mut bytes: &[u8]) {
        for run in &self.runs {
            if at >= run.len() {
                at -= run.len();
                continue;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(run.len() - at));
            run.write(at, part);
            (at, bytes) = (0, rest);
            if bytes.is_empty() {
                return;
            }
        }
    }

    /// Shows the guest its frames.
    fn show(mut self) {
        if self.vq.show() {
            queue::interrupt(self.call);
        }
    }
}
