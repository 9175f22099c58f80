//! A guest's split virtqueue, as a device sees it (Virtual I/O Device 1.2, section 2.7).
//!
//! [`Ring`] keeps where the three parts are and how far we have come. [`Virtqueue`] moves buffers:
//! it looks the three parts up once a burst, hands out chains as plain runs of memory, and shows the
//! guest all used buffers of a burst with one store. (That store is not only for speed: the buffers
//! of one mergeable frame must all be seen together, 5.1.6.4, which is why no library's queue
//! serves here: they show each by itself.)
//!
//! # Why this is `unsafe`, and why it is sound
//!
//! Every run of guest memory comes from the memory map, which checks that it is the guest's, and
//! lives as long as the map is borrowed. The guest may write any of it at any time: indices and
//! descriptors are read once, checked, then used; a chain can not be longer than its queue.

use std::sync::atomic::{AtomicU16, Ordering, fence};

use virtio_bindings::virtio_ring::{
    VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
    VRING_USED_F_NO_NOTIFY,
};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::map::SharedBytes;

/// The guest broke the rules of the queue; it is not looked at again until it is set up anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the guest's virtqueue is broken: {0}")]
pub struct Broken(pub &'static str);

/// Where a queue's three parts are in the guest's memory, and how far we have come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ring {
    /// Entries, a power of two; 0 while it is not set up.
    pub size: u16,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the ring of available chains.
    pub available: u64,
    /// Guest-physical address of the ring of used chains.
    pub used: u64,
    /// The place of the chain we look at next.
    pub next_available: u16,
    /// The place of the chain we give back next.
    pub next_used: u16,
    /// Both sides say at which place they want to be notified (VIRTIO_F_EVENT_IDX).
    pub event_index: bool,
}

const DESCRIPTOR: usize = 16;
const USED_ELEMENT: usize = 8;
/// Flags and index, before the entries of both rings.
const RING_HEADER: usize = 4;

/// A run of guest memory.
#[derive(Debug, Clone, Copy)]
struct Run {
    start: *mut u8,
    len: usize,
}

impl Run {
    fn of(memory: &GuestMemoryMmap, address: u64, len: usize) -> Option<Self> {
        let slice = memory.get_slice(GuestAddress(address), len).ok()?;
        Some(Self {
            start: slice.ptr_guard_mut().as_ptr(),
            len,
        })
    }

    /// The aligned 16-bit word at `offset`.
    fn word(&self, offset: usize) -> &AtomicU16 {
        assert!(offset + 2 <= self.len && (self.start as usize + offset).is_multiple_of(2));
        // SAFETY: inside the run, which is mapped, and aligned.
        unsafe { AtomicU16::from_ptr(self.start.add(offset).cast()) }
    }

    fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
        assert!(offset + N <= self.len);
        let mut out = [0; N];
        // SAFETY: inside the run, which is mapped.
        unsafe { std::ptr::copy_nonoverlapping(self.start.add(offset), out.as_mut_ptr(), N) };
        out
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        // SAFETY: inside the run, which is mapped; `bytes` is private memory.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(offset), bytes.len())
        };
    }
}

/// Memory that the guest lent us for writing.
#[derive(Debug, Clone, Copy)]
pub struct Writable(Run);

impl Writable {
    /// Bytes of it.
    pub fn room(&self) -> usize {
        self.0.len
    }

    /// Writes `bytes` at `offset`; both must be inside.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.0.write(offset, bytes);
    }

    /// Copies all of `bytes` to `offset`; both must be inside.
    pub fn copy_from(&self, offset: usize, bytes: &SharedBytes<'_>) {
        assert!(offset + bytes.len() <= self.0.len);
        // SAFETY: inside the run, which is mapped; the source is a sharenet or our own memory, never the guest's.
        unsafe { bytes.copy_to_raw(self.0.start.add(offset)) };
    }
}

/// The buffers of one chain.
#[derive(Debug, Default)]
pub struct Chain<'m> {
    /// What the guest knows it by.
    pub head: u16,
    /// What the device may read.
    pub readable: Vec<SharedBytes<'m>>,
    /// What the device may write.
    pub writable: Vec<Writable>,
}

impl Chain<'_> {
    fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
    }

    /// Bytes the device may write.
    pub fn room(&self) -> usize {
        self.writable.iter().map(Writable::room).sum()
    }
}

/// A virtqueue for the length of a burst.
pub struct Virtqueue<'m, 'q> {
    memory: &'m GuestMemoryMmap,
    ring: &'q mut Ring,
    descriptors: Run,
    available: Run,
    used: Run,
    /// Used elements written and not yet shown.
    unshown: u16,
}

impl<'m, 'q> Virtqueue<'m, 'q> {
    /// Looks up the three parts. `None` while the guest has not set the queue up.
    pub fn open(memory: &'m GuestMemoryMmap, ring: &'q mut Ring) -> Option<Self> {
        let entries = usize::from(ring.size);
        if !ring.size.is_power_of_two() {
            return None;
        }
        let run = |address, len| Run::of(memory, address, len);
        // The two bytes after the entries of each ring are the event index of the other side.
        let available = run(ring.available, RING_HEADER + entries * 2 + 2)?;
        let used = run(ring.used, RING_HEADER + entries * USED_ELEMENT + 2)?;
        if !(available.start as usize | used.start as usize).is_multiple_of(2) {
            return None;
        }
        Some(Self {
            descriptors: run(ring.descriptors, entries * DESCRIPTOR)?,
            available,
            used,
            unshown: 0,
            memory,
            ring,
        })
    }

    /// Chains it has room for.
    pub fn size(&self) -> u16 {
        self.ring.size
    }

    /// Chains the guest has made available and that were not [`take`](Self::take)n.
    pub fn available(&self) -> Result<u16, Broken> {
        let index = u16::from_le(self.available.word(2).load(Ordering::Acquire));
        match index.wrapping_sub(self.ring.next_available) {
            count if count <= self.ring.size => Ok(count),
            _ => Err(Broken("more buffers available than it has room for")),
        }
    }

    /// Reads the chain `ahead` places after the next one, which must be [`available`](Self::available).
    pub fn chain(&self, ahead: u16, chain: &mut Chain<'m>) -> Result<(), Broken> {
        chain.clear();
        let slot = usize::from(self.ring.next_available.wrapping_add(ahead) % self.ring.size);
        let entry = self.available.word(RING_HEADER + slot * 2);
        chain.head = u16::from_le(entry.load(Ordering::Relaxed));
        let mut table = self.descriptors;
        let mut index = chain.head;
        let mut indirect = false;
        // Linux makes no chain longer than its queue, and nothing longer than this ends well.
        for _ in 0..=self.ring.size {
            let at = usize::from(index) * DESCRIPTOR;
            if at + DESCRIPTOR > table.len {
                return Err(Broken("a descriptor outside its table"));
            }
            let raw: [u8; DESCRIPTOR] = table.read(at);
            let address = u64::from_le_bytes(std::array::from_fn(|i| raw[i]));
            let len = u32::from_le_bytes(std::array::from_fn(|i| raw[8 + i])) as usize;
            let flags = u32::from(u16::from_le_bytes([raw[12], raw[13]]));
            if flags & VRING_DESC_F_INDIRECT != 0 {
                if indirect
                    || flags & VRING_DESC_F_NEXT != 0
                    || len > usize::from(u16::MAX) * DESCRIPTOR
                {
                    return Err(Broken("a malformed indirect descriptor"));
                }
                let run = Run::of(self.memory, address, len);
                table = run.ok_or(Broken("an indirect table outside its memory"))?;
                (index, indirect) = (0, true);
                continue;
            }
            self.push(chain, address, len, flags & VRING_DESC_F_WRITE != 0)?;
            if flags & VRING_DESC_F_NEXT == 0 {
                return Ok(());
            }
            index = u16::from_le_bytes([raw[14], raw[15]]);
        }
        Err(Broken("a chain of descriptors without end"))
    }

    fn push(
        &self,
        chain: &mut Chain<'m>,
        address: u64,
        len: usize,
        write: bool,
    ) -> Result<(), Broken> {
        // A buffer may lie across two regions of memory.
        for slice in self.memory.get_slices(GuestAddress(address), len) {
            let slice = slice.map_err(|_| Broken("a buffer outside its memory"))?;
            let run = Run {
                start: slice.ptr_guard_mut().as_ptr(),
                len: slice.len(),
            };
            if write {
                chain.writable.push(Writable(run));
            } else {
                // SAFETY: mapped for as long as `memory` is borrowed.
                let bytes = unsafe { SharedBytes::from_raw(run.start, run.len) };
                chain.readable.push(bytes);
            }
        }
        Ok(())
    }

    /// Is done with the next `count` chains' place in the ring of available ones.
    pub fn take(&mut self, count: u16) {
        self.ring.next_available = self.ring.next_available.wrapping_add(count);
    }

    /// Gives a chain back, `written` bytes of it written. The guest sees it after [`show`](Self::show).
    pub fn give_back(&mut self, head: u16, written: u32) {
        let slot = usize::from(self.ring.next_used.wrapping_add(self.unshown) % self.ring.size);
        let mut element = [0; USED_ELEMENT];
        element[..4].copy_from_slice(&u32::from(head).to_le_bytes());
        element[4..].copy_from_slice(&written.to_le_bytes());
        self.used.write(RING_HEADER + slot * USED_ELEMENT, &element);
        self.unshown += 1;
    }

    /// Lets the guest see all that was given back; tells whether it wants to be interrupted.
    pub fn show(&mut self) -> bool {
        if self.unshown == 0 {
            return false;
        }
        let old = self.ring.next_used;
        self.ring.next_used = old.wrapping_add(std::mem::take(&mut self.unshown));
        self.used
            .word(2)
            .store(self.ring.next_used.to_le(), Ordering::Release);
        // The guest stores what it wants, then looks at the index; we the other way round.
        fence(Ordering::SeqCst);
        if self.ring.event_index {
            let event = self
                .available
                .word(RING_HEADER + usize::from(self.ring.size) * 2);
            let event = u16::from_le(event.load(Ordering::Relaxed));
            // 2.7.10: the event is among the entries just shown.
            self.ring.next_used.wrapping_sub(event).wrapping_sub(1)
                < self.ring.next_used.wrapping_sub(old)
        } else {
            let flags = u16::from_le(self.available.word(0).load(Ordering::Relaxed));
            u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0
        }
    }

    /// Asks the guest to kick when it makes buffers available; `true` if there are some by now.
    pub fn enable_kicks(&mut self) -> Result<bool, Broken> {
        if self.ring.event_index {
            self.store_available_event(self.ring.next_available);
        } else {
            self.used.word(0).store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        Ok(self.available()? > 0)
    }

    /// Tells the guest that it need not kick: we are looking anyway. With event indices there is
    /// nothing to say; the last event asked for has passed.
    pub fn disable_kicks(&mut self) {
        if !self.ring.event_index {
            let no_notify = (VRING_USED_F_NO_NOTIFY as u16).to_le();
            self.used.word(0).store(no_notify, Ordering::Relaxed);
        }
    }

    fn store_available_event(&self, index: u16) {
        let event = self
            .used
            .word(RING_HEADER + usize::from(self.ring.size) * USED_ELEMENT);
        event.store(index.to_le(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u16 = 8;
    const DESC: u64 = 0x1000;
    const AVAIL: u64 = 0x2000;
    const USED: u64 = 0x3000;
    const DATA: u64 = 0x4000;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap()
    }

    fn ring() -> Ring {
        Ring {
            size: SIZE,
            descriptors: DESC,
            available: AVAIL,
            used: USED,
            ..Ring::default()
        }
    }

    fn put(memory: &GuestMemoryMmap, at: u64, bytes: &[u8]) {
        Run::of(memory, at, bytes.len()).unwrap().write(0, bytes);
    }

    fn descriptor(
        memory: &GuestMemoryMmap,
        table: u64,
        i: u64,
        address: u64,
        len: u32,
        flags: u32,
        next: u16,
    ) {
        let mut raw = address.to_le_bytes().to_vec();
        raw.extend(len.to_le_bytes());
        raw.extend((flags as u16).to_le_bytes());
        raw.extend(next.to_le_bytes());
        put(memory, table + i * 16, &raw);
    }

    fn make_available(memory: &GuestMemoryMmap, head: u16, index: u16) {
        let slot = u64::from(index.wrapping_sub(1) % SIZE);
        put(memory, AVAIL + 4 + slot * 2, &head.to_le_bytes());
        put(memory, AVAIL + 2, &index.to_le_bytes());
    }

    #[test]
    fn a_chain_is_read_directly_and_through_an_indirect_table() {
        let (memory, mut ring) = (memory(), ring());
        descriptor(&memory, DESC, 0, DATA, 10, VRING_DESC_F_NEXT, 1);
        descriptor(&memory, DESC, 1, DATA + 0x100, 20, VRING_DESC_F_WRITE, 0);
        descriptor(&memory, DESC, 2, 0x5000, 32, VRING_DESC_F_INDIRECT, 0);
        descriptor(&memory, 0x5000, 0, DATA, 7, VRING_DESC_F_NEXT, 1);
        descriptor(&memory, 0x5000, 1, DATA, 9, 0, 0);
        make_available(&memory, 0, 1);
        make_available(&memory, 2, 2);
        let vq = Virtqueue::open(&memory, &mut ring).unwrap();
        assert_eq!(vq.available(), Ok(2));
        let mut chain = Chain::default();
        vq.chain(0, &mut chain).unwrap();
        assert_eq!(
            (chain.head, chain.readable[0].len(), chain.room()),
            (0, 10, 20)
        );
        vq.chain(1, &mut chain).unwrap();
        let lens: Vec<_> = chain.readable.iter().map(SharedBytes::len).collect();
        assert_eq!((chain.head, lens), (2, vec![7, 9]));
    }

    #[test]
    fn loops_and_wild_descriptors_break_the_queue_and_nothing_else() {
        let (memory, mut ring) = (memory(), ring());
        make_available(&memory, 0, 1);
        let vq = Virtqueue::open(&memory, &mut ring).unwrap();
        let mut chain = Chain::default();
        for (address, len, flags, next) in [
            (DATA, 4, VRING_DESC_F_NEXT, 0),
            (DATA, 4, VRING_DESC_F_NEXT, 8),
            (u64::MAX, 4, 0, 0),
            (0xff00, 0x200, 0, 0),
            (DESC, 16, VRING_DESC_F_INDIRECT, 0),
            (DATA, u32::MAX, VRING_DESC_F_INDIRECT, 0),
            (u64::MAX - 8, 16, VRING_DESC_F_INDIRECT, 0),
            (DATA, 3, VRING_DESC_F_INDIRECT, 0),
        ] {
            descriptor(&memory, DESC, 0, address, len, flags, next);
            assert!(
                vq.chain(0, &mut chain).is_err(),
                "{address:#x} {len} {flags} {next}"
            );
        }
        make_available(&memory, 0, SIZE + 1);
        assert!(vq.available().is_err());
    }

    #[test]
    fn used_buffers_are_shown_together() {
        let (memory, mut ring) = (memory(), ring());
        make_available(&memory, 0, 1);
        make_available(&memory, 1, 2);
        let used_index = || Run::of(&memory, USED + 2, 2).unwrap().read::<2>(0)[0];
        let mut vq = Virtqueue::open(&memory, &mut ring).unwrap();
        vq.take(2);
        vq.give_back(0, 5);
        vq.give_back(1, 6);
        assert_eq!(used_index(), 0);
        assert!(vq.show());
        assert_eq!(used_index(), 2);
        assert_eq!(vq.enable_kicks(), Ok(false));
        assert_eq!((ring.next_available, ring.next_used), (2, 2));
    }

    #[test]
    fn with_event_indices_the_guest_is_interrupted_when_it_asked_to_be() {
        let (memory, mut ring) = (memory(), ring());
        ring.event_index = true;
        let mut vq = Virtqueue::open(&memory, &mut ring).unwrap();
        let used_event = AVAIL + 4 + u64::from(SIZE) * 2;
        for (event, interrupt) in [(0u16, true), (5, false), (2, true)] {
            put(&memory, used_event, &event.to_le_bytes());
            vq.give_back(0, 0);
            assert_eq!(vq.show(), interrupt, "event {event}");
        }
    }
}
