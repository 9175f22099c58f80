//! A guest's split virtqueue, as a device sees it (Virtual I/O Device 1.2, section 2.7).
//!
//! [`Ring`] keeps where the three parts are and how far we have come. [`Virtqueue`] moves buffers:
//! it looks the three parts up once a burst, hands out chains as plain runs of memory, and shows the
//! guest all used buffers of a burst with one store. (That store is not only for speed: the buffers
//! of one mergeable frame must all be seen together, 5.1.6.4, which is why no library's queue
//! serves here: they show each by itself.)
//!
//! The guest may write any of it at any time: indices and descriptors are read once, checked, then
//! used; a chain can not be longer than its queue.

use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::{
    VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
    VRING_USED_F_NO_NOTIFY,
};

use super::memory::{Access, Memory, Run};

/// The guest broke the rules of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the guest's virtqueue is broken: {0}")]
pub struct Broken(pub &'static str);

/// Where a queue's three parts are in the guest's memory, and how far we have come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ring {
    /// Entries, a power of two; 0 while it is not set up.
    pub size: u32,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the ring of available chains.
    pub available: u64,
    /// Guest-physical address of the ring of used chains.
    pub used: u64,
    /// The place of the chain we look at next. (A count of 16 bits, as the guest's; kept in 32, because
    /// what is stored narrow and then read wide, with a neighbour, waits for all stores before it,
    /// and those to the guest's memory take long.)
    pub next_available: u32,
    /// The place of the chain we give back next.
    pub next_used: u32,
    /// Both sides say at which place they want to be notified (VIRTIO_F_EVENT_IDX).
    pub event_index: bool,
    /// The guest was told not to kick.
    pub quiet: bool,
}

const DESCRIPTOR: usize = 16;
const USED_ELEMENT: usize = 8;
/// Flags and index, before the entries of both rings.
const RING_HEADER: usize = 4;

/// One entry of a table of descriptors, in our own memory.
struct Descriptor {
    address: u64,
    len: usize,
    flags: u32,
    next: u16,
}

impl Descriptor {
    /// The one at `index` of a table.
    #[inline]
    fn read(table: &Run<'_>, index: u16) -> Result<Self, Broken> {
        let at = usize::from(index) * DESCRIPTOR;
        if at + DESCRIPTOR > table.len() {
            return Err(Broken("a descriptor outside its table"));
        }
        // Read once and whole, whatever the guest writes meanwhile.
        let raw = u128::from_le_bytes(table.read(at));
        Ok(Self {
            address: raw as u64,
            len: (raw >> 64) as u32 as usize,
            flags: u32::from((raw >> 96) as u16),
            next: (raw >> 112) as u16,
        })
    }

    #[inline]
    fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// A virtqueue for the length of a burst.
#[derive(Debug)]
pub struct Virtqueue<'m, 'q> {
    memory: &'m Memory,
    ring: &'q mut Ring,
    descriptors: Run<'m>,
    available: Run<'m>,
    used: Run<'m>,
    /// Used elements written and not yet shown.
    unshown: u32,
}

impl<'m, 'q> Virtqueue<'m, 'q> {
    /// Looks up the three parts. `None` while the guest has not set the queue up.
    #[inline]
    pub fn open(memory: &'m Memory, ring: &'q mut Ring) -> Option<Self> {
        let entries = ring.size as usize;
        if !ring.size.is_power_of_two() {
            return None;
        }
        // The two bytes after the entries of each ring are the event index of the other side.
        let available = memory.run(ring.available, RING_HEADER + entries * 2 + 2)?;
        let used = memory.run(ring.used, RING_HEADER + entries * USED_ELEMENT + 2)?;
        if !(available.is_aligned(2) && used.is_aligned(2)) {
            return None;
        }
        Some(Self {
            descriptors: memory.run(ring.descriptors, entries * DESCRIPTOR)?,
            available,
            used,
            unshown: 0,
            memory,
            ring,
        })
    }

    /// Chains it has room for.
    pub fn size(&self) -> u32 {
        self.ring.size
    }

    /// The entry of a ring for a place that counts on.
    #[inline]
    fn entry(&self, place: u32) -> usize {
        (place & (self.ring.size - 1)) as usize
    }

    /// Chains the guest has made available and that were not [`take`](Self::take)n.
    #[inline]
    pub fn available(&self) -> Result<u32, Broken> {
        let index = u16::from_le(self.available.word(2).load(Ordering::Acquire));
        match index.wrapping_sub(self.ring.next_available as u16).into() {
            count if count <= self.ring.size => Ok(count),
            _ => Err(Broken("more buffers available than it has room for")),
        }
    }

    /// The head of the chain `ahead` places after the next one.
    #[inline]
    fn head(&self, ahead: u32) -> u16 {
        let entry = self.entry(self.ring.next_available.wrapping_add(ahead));
        let head = self.available.word(RING_HEADER + entry * 2);
        u16::from_le(head.load(Ordering::Relaxed))
    }

    /// Reads the chain `ahead` places after the next one, which must be
    /// [`available`](Self::available): gives each run of its memory to `each`, and returns what the
    /// guest knows it by. All its buffers must be for `access`.
    #[inline]
    pub fn chain(
        &self,
        ahead: u32,
        access: Access,
        mut each: impl FnMut(Run<'m>),
    ) -> Result<u16, Broken> {
        let head = self.head(ahead);
        let mut table = self.descriptors;
        let mut index = head;
        let mut indirect = false;
        // Linux makes no chain longer than its queue, and nothing longer than this ends well.
        for _ in 0..=self.ring.size {
            let descriptor = Descriptor::read(&table, index)?;
            if descriptor.is(VRING_DESC_F_INDIRECT) {
                if indirect || descriptor.is(VRING_DESC_F_NEXT) {
                    return Err(Broken("a malformed indirect descriptor"));
                }
                let run = self.memory.run(descriptor.address, descriptor.len);
                table = run.ok_or(Broken("an indirect table outside its memory"))?;
                (index, indirect) = (0, true);
                continue;
            }
            if descriptor.is(VRING_DESC_F_WRITE) != (access == Access::Write) {
                return Err(Broken("a buffer for the other direction"));
            }
            if !self
                .memory
                .runs(descriptor.address, descriptor.len, &mut each)
            {
                return Err(Broken("a buffer outside its memory"));
            }
            if !descriptor.is(VRING_DESC_F_NEXT) {
                return Ok(head);
            }
            index = descriptor.next;
        }
        Err(Broken("a chain of descriptors without end"))
    }

    /// Has the processor fetch what is needed for the chain `ahead` places after the next one: its
    /// descriptor, its place among the used ones, and the heads of chains as far ahead again. Hints:
    /// there may be no such chain.
    ///
    /// All this was last touched by the guest, on another processor, from where a line takes longer
    /// than all else that is done to a small frame; but many can be under way at once.
    #[inline]
    pub fn prefetch_descriptor(&self, ahead: u32) {
        let later = self.entry(self.ring.next_available.wrapping_add(2 * ahead));
        let head = RING_HEADER + later * size_of::<u16>();
        self.available.prefetch(head, 1, Access::Read);
        let descriptor = usize::from(self.head(ahead)) * DESCRIPTOR;
        self.descriptors.prefetch(descriptor, 1, Access::Read);
        let entry = self.entry(self.ring.next_used.wrapping_add(self.unshown + ahead));
        let element = RING_HEADER + entry * USED_ELEMENT;
        self.used.prefetch(element, 1, Access::Write);
    }

    /// Has the processor fetch the start of the chain `ahead` places after the next one, if it is
    /// one buffer and its descriptor is fetched.
    #[inline]
    pub fn prefetch_buffer(&self, ahead: u32, access: Access) {
        /// A virtio-net header and a small frame, wherever they start.
        const LINES: usize = 2;
        if let Ok(descriptor) = Descriptor::read(&self.descriptors, self.head(ahead))
            && let Some(run) = self.memory.run(descriptor.address, descriptor.len)
        {
            run.prefetch(0, LINES, access);
        }
    }

    /// Is done with the next `count` chains' place in the ring of available ones.
    #[inline]
    pub fn take(&mut self, count: u32) {
        self.ring.next_available = self.ring.next_available.wrapping_add(count);
    }

    /// Gives a chain back, `written` bytes of it written. The guest sees it after [`show`](Self::show).
    #[inline]
    pub fn give_back(&mut self, head: u16, written: u32) {
        let entry = self.entry(self.ring.next_used.wrapping_add(self.unshown));
        let element = u64::from(head) | u64::from(written) << 32;
        self.used
            .write(RING_HEADER + entry * USED_ELEMENT, &element.to_le_bytes());
        self.unshown += 1;
    }

    /// Lets the guest see all that was given back; tells whether it wants to be interrupted.
    pub fn show(&mut self) -> bool {
        if self.unshown == 0 {
            return false;
        }
        let old = self.ring.next_used;
        self.ring.next_used = old.wrapping_add(std::mem::take(&mut self.unshown));
        let shown = self.ring.next_used as u16;
        self.used.word(2).store(shown.to_le(), Ordering::Release);
        // The guest stores what it wants, then looks at the index; we the other way round.
        fence(Ordering::SeqCst);
        if self.ring.event_index {
            let event = self
                .available
                .word(RING_HEADER + self.ring.size as usize * 2);
            let event = u16::from_le(event.load(Ordering::Relaxed));
            // 2.7.10: the event is among the entries just shown.
            shown.wrapping_sub(event).wrapping_sub(1) < shown.wrapping_sub(old as u16)
        } else {
            let flags = u16::from_le(self.available.word(0).load(Ordering::Relaxed));
            u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0
        }
    }

    /// Asks the guest to kick when it has made `count` more buffers available, at least 1; without event
    /// indices it can only be asked for the first. Those of before it is asked must be looked for once more
    /// afterwards.
    pub fn enable_kicks(&mut self, count: u32) {
        if self.ring.event_index {
            // When it goes past what is there now, be it looked at or not.
            let index = u16::from_le(self.available.word(2).load(Ordering::Relaxed));
            let index = index.wrapping_add(count as u16).wrapping_sub(1).to_le();
            let event = self
                .used
                .word(RING_HEADER + self.ring.size as usize * USED_ELEMENT);
            event.store(index, Ordering::Relaxed);
        } else {
            self.used.word(0).store(0, Ordering::Relaxed);
        }
        self.ring.quiet = false;
        fence(Ordering::SeqCst);
    }

    /// Tells the guest that it need not kick: we are looking anyway. With event indices there is
    /// nothing to say; the last event asked for has passed, or will and then be the last.
    pub fn disable_kicks(&mut self) {
        // The guest reads the line this stands in all the time: not without need.
        if !self.ring.event_index && !self.ring.quiet {
            let no_notify = (VRING_USED_F_NO_NOTIFY as u16).to_le();
            self.used.word(0).store(no_notify, Ordering::Relaxed);
        }
        self.ring.quiet = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plug::virtio::memory::Place;

    const SIZE: u32 = 8;
    const DESC: u64 = 0x1000;
    const AVAIL: u64 = 0x2000;
    const USED: u64 = 0x3000;
    const DATA: u64 = 0x4000;

    fn memory() -> Memory {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x10000).unwrap();
        let place = Place {
            guest_address: 0,
            vmm_address: 0,
            size: 0x10000,
            offset: 0,
        };
        Memory::map(vec![(place, file.into())]).unwrap()
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

    fn put(memory: &Memory, at: u64, bytes: &[u8]) {
        memory.run(at, bytes.len()).unwrap().write(0, bytes);
    }

    fn descriptor(
        memory: &Memory,
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

    fn make_available(memory: &Memory, head: u16, index: u16) {
        let slot = u64::from(index.wrapping_sub(1) % SIZE as u16);
        put(memory, AVAIL + 4 + slot * 2, &head.to_le_bytes());
        put(memory, AVAIL + 2, &index.to_le_bytes());
    }

    #[test]
    fn a_chain_is_read_directly_and_through_an_indirect_table() {
        let (memory, mut ring) = (memory(), ring());
        descriptor(&memory, DESC, 0, DATA, 10, VRING_DESC_F_NEXT, 1);
        descriptor(&memory, DESC, 1, DATA + 0x100, 20, 0, 0);
        descriptor(&memory, DESC, 2, 0x5000, 32, VRING_DESC_F_INDIRECT, 0);
        descriptor(&memory, 0x5000, 0, DATA, 7, VRING_DESC_F_NEXT, 1);
        descriptor(&memory, 0x5000, 1, DATA, 9, 0, 0);
        make_available(&memory, 0, 1);
        make_available(&memory, 2, 2);
        let vq = Virtqueue::open(&memory, &mut ring).unwrap();
        assert_eq!(vq.available(), Ok(2));
        let lens = |ahead| {
            let mut lens = Vec::new();
            let head = vq.chain(ahead, Access::Read, |run| lens.push(run.len()));
            (head, lens)
        };
        assert_eq!(lens(0), (Ok(0), vec![10, 20]));
        assert_eq!(lens(1), (Ok(2), vec![7, 9]));
    }

    #[test]
    fn loops_and_wild_descriptors_break_the_queue_and_nothing_else() {
        let (memory, mut ring) = (memory(), ring());
        make_available(&memory, 0, 1);
        let vq = Virtqueue::open(&memory, &mut ring).unwrap();
        for (address, len, flags, next) in [
            (DATA, 4, VRING_DESC_F_NEXT, 0),
            (DATA, 4, VRING_DESC_F_NEXT, 8),
            (u64::MAX, 4, 0, 0),
            (0xff00, 0x200, 0, 0),
            (DESC, 16, VRING_DESC_F_INDIRECT, 0),
            (DATA, u32::MAX, VRING_DESC_F_INDIRECT, 0),
            (u64::MAX - 8, 16, VRING_DESC_F_INDIRECT, 0),
            (DATA, 3, VRING_DESC_F_INDIRECT, 0),
            (DATA, 4, VRING_DESC_F_WRITE, 0),
        ] {
            descriptor(&memory, DESC, 0, address, len, flags, next);
            assert!(
                vq.chain(0, Access::Read, |_| ()).is_err(),
                "{address:#x} {len} {flags} {next}"
            );
        }
        make_available(&memory, 0, SIZE as u16 + 1);
        assert!(vq.available().is_err());
    }

    #[test]
    fn used_buffers_are_shown_together() {
        let (memory, mut ring) = (memory(), ring());
        make_available(&memory, 0, 1);
        make_available(&memory, 1, 2);
        let used_index = || memory.run(USED + 2, 2).unwrap().read::<2>(0)[0];
        let mut vq = Virtqueue::open(&memory, &mut ring).unwrap();
        vq.take(2);
        vq.give_back(0, 5);
        vq.give_back(1, 6);
        assert_eq!(used_index(), 0);
        assert!(vq.show());
        assert_eq!(used_index(), 2);
        assert_eq!((ring.next_available, ring.next_used), (2, 2));
    }

    #[test]
    fn with_event_indices_the_guest_kicks_when_it_was_asked_to() {
        let (memory, mut ring) = (memory(), ring());
        ring.event_index = true;
        let mut vq = Virtqueue::open(&memory, &mut ring).unwrap();
        let event = || u16::from_le_bytes(memory.run(USED + 4 + 64, 2).unwrap().read(0));
        // 2.7.10: it kicks when its index goes past the event.
        for (index, count, wanted) in [(0, 1, 0u16), (5, 1, 5), (5, 4, 8), (0xffff, 3, 1)] {
            put(&memory, AVAIL + 2, &u16::to_le_bytes(index));
            vq.enable_kicks(count);
            assert_eq!(event(), wanted, "{index} {count}");
        }
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
