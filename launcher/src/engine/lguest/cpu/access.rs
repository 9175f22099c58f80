//! Memory as instructions see it: offset in a segment, linear address, place, bytes.
//!
//! The way of most accesses is short ([`Flat`]): a flat segment adds nothing and refuses nothing, and the
//! translation cache knows the page. For all else (limits, a walk of the tables, an access across two
//! pages, a write to decoded code) there is a long one ([`Segmented`]), and an instruction that finds
//! out that it needs it, having done nothing, is done over on it. So the functions of the short
//! way call no others, and keep all they work on in registers.

use super::exit::{Broken, Exit};
use super::op::{Op, Width};
use super::segment::SegmentFault;
use super::state::{Core, Leave, Outcome, Segment, Step};
use crate::engine::lguest::memory::{GuestMemory, PAGE};

/// How an instruction's address operand becomes linear.
pub(super) trait Address {
    /// Whether a stack of this kind uses all of esp.
    const FLAT: bool;

    fn linear(core: &mut Core, op: &Op, bytes: u32, write: bool) -> Outcome<u32>;

    /// Reads.
    fn load<T: Width>(core: &mut Core, memory: &GuestMemory, linear: u32) -> Outcome<u32>;

    /// Writes.
    fn store<T: Width>(core: &mut Core, memory: &GuestMemory, linear: u32, value: u32) -> Step;

    /// Reads, changes and writes; `change` runs once both are sure to succeed.
    fn modify<T: Width>(
        core: &mut Core,
        memory: &GuestMemory,
        linear: u32,
        change: impl FnOnce(&mut Core, u32) -> u32,
    ) -> Step;
}

/// Through a segment that starts at 0, ends at 4 GiB and may be written, in a page the translation cache
/// knows. Otherwise [`Leave::Missed`].
pub(super) struct Flat;

/// Through any segment, with its checks, to any page; also addresses of 16 bits.
pub(super) struct Segmented;

impl Address for Flat {
    const FLAT: bool = true;

    #[inline(always)]
    fn linear(core: &mut Core, op: &Op, _bytes: u32, _write: bool) -> Outcome<u32> {
        Ok(op.offset(core))
    }

    #[inline(always)]
    fn load<T: Width>(core: &mut Core, memory: &GuestMemory, linear: u32) -> Outcome<u32> {
        let place = core.paging.readable(linear, T::BYTES);
        match place.map(|place| memory.load::<T>(place)) {
            Some(Ok(value)) => Ok(value.widen()),
            _ => Err(Leave::Missed),
        }
    }

    #[inline(always)]
    fn store<T: Width>(core: &mut Core, memory: &GuestMemory, linear: u32, value: u32) -> Step {
        let place = core.paging.writable(linear, T::BYTES);
        match place.map(|place| memory.store_unwatched(place, T::truncate(value))) {
            Some(Ok(())) => Ok(()),
            _ => Err(Leave::Missed),
        }
    }

    #[inline(always)]
    fn modify<T: Width>(
        core: &mut Core,
        memory: &GuestMemory,
        linear: u32,
        change: impl FnOnce(&mut Core, u32) -> u32,
    ) -> Step {
        let place = core.paging.writable(linear, T::BYTES);
        let change = |value: T| T::truncate(change(core, value.widen()));
        match place.map(|place| memory.change_unwatched(place, change)) {
            Some(Ok(())) => Ok(()),
            _ => Err(Leave::Missed),
        }
    }
}

impl Address for Segmented {
    const FLAT: bool = false;

    #[inline(always)]
    fn linear(core: &mut Core, op: &Op, bytes: u32, write: bool) -> Outcome<u32> {
        core.linear(op.segment(), op.offset_any(core), bytes, write)
    }

    #[inline(always)]
    fn load<T: Width>(core: &mut Core, memory: &GuestMemory, linear: u32) -> Outcome<u32> {
        core.load::<T>(memory, linear)
    }

    #[inline(always)]
    fn store<T: Width>(core: &mut Core, memory: &GuestMemory, linear: u32, value: u32) -> Step {
        core.store::<T>(memory, linear, value)
    }

    #[inline(always)]
    fn modify<T: Width>(
        core: &mut Core,
        memory: &GuestMemory,
        linear: u32,
        change: impl FnOnce(&mut Core, u32) -> u32,
    ) -> Step {
        let place = core.open::<T>(memory, linear)?;
        let old = core.load_place::<T>(memory, place)?;
        let new = change(core, old);
        core.store_place::<T>(memory, place, new)
    }
}

/// Where an instruction reads and then writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    at: u32,
    /// Where the next page is, for what crosses into it; any page if `odd` is not set.
    next: u32,
    /// It crosses into the next page, or its page is watched.
    odd: bool,
}

impl Core {
    /// The linear address of bytes in a segment.
    #[inline(never)]
    pub fn linear(
        &mut self,
        segment: Segment,
        offset: u32,
        bytes: u32,
        write: bool,
    ) -> Outcome<u32> {
        let register = &self.segments[segment as usize];
        let allowed = if write {
            register.writable
        } else {
            register.readable
        };
        if allowed && register.contains(offset, bytes) {
            return Ok(register.base.wrapping_add(offset));
        }
        Err(self.fault(if segment == Segment::Ss { 12 } else { 13 }, Some(0)))
    }

    /// Raises what is wrong with a selector.
    #[cold]
    pub fn segment_fault(&mut self, fault: SegmentFault) -> Leave {
        let (vector, selector) = match fault {
            SegmentFault::NotPresent(selector) => (11, selector),
            SegmentFault::Stack(selector) => (12, selector),
            SegmentFault::Protection(selector) => (13, selector),
        };
        self.fault(vector, Some(selector.into()))
    }

    /// For a place that is not in memory. The tables were checked against its length, so there is none.
    #[cold]
    pub fn beyond(&mut self, linear: u32) -> Leave {
        self.leave(Exit::Broken(Broken::TableEntry { entry: 0, linear }))
    }

    /// Reads.
    #[inline(always)]
    pub fn load<T: Width>(&mut self, memory: &GuestMemory, linear: u32) -> Outcome<u32> {
        match self.paging.readable(linear, T::BYTES) {
            Some(place) => match memory.load::<T>(place) {
                Ok(value) => Ok(value.widen()),
                Err(_) => Err(self.beyond(linear)),
            },
            None => self.load_slowly::<T>(memory, linear),
        }
    }

    #[cold]
    #[inline(never)]
    fn load_slowly<T: Width>(&mut self, memory: &GuestMemory, linear: u32) -> Outcome<u32> {
        let at = self.translate(memory, linear, false)?;
        let next = if crosses(linear, T::BYTES) {
            self.translate(memory, next_page(linear), false)?
        } else {
            0
        };
        self.load_place::<T>(
            memory,
            Place {
                at,
                next,
                odd: true,
            },
        )
    }

    /// Writes.
    #[inline(always)]
    pub fn store<T: Width>(&mut self, memory: &GuestMemory, linear: u32, value: u32) -> Step {
        match self.paging.writable(linear, T::BYTES) {
            Some(place) => match memory.store_unwatched(place, T::truncate(value)) {
                Ok(()) => Ok(()),
                Err(_) => Err(self.beyond(linear)),
            },
            None => self.store_slowly::<T>(memory, linear, value),
        }
    }

    #[cold]
    #[inline(never)]
    fn store_slowly<T: Width>(&mut self, memory: &GuestMemory, linear: u32, value: u32) -> Step {
        let place = self.open_slowly::<T>(memory, linear)?;
        self.store_place::<T>(memory, place, value)
    }

    /// Makes sure that a value can be read and written.
    #[inline(always)]
    pub fn open<T: Width>(&mut self, memory: &GuestMemory, linear: u32) -> Outcome<Place> {
        match self.paging.writable(linear, T::BYTES) {
            Some(at) => Ok(Place {
                at,
                next: 0,
                odd: false,
            }),
            None => self.open_slowly::<T>(memory, linear),
        }
    }

    #[cold]
    #[inline(never)]
    fn open_slowly<T: Width>(&mut self, memory: &GuestMemory, linear: u32) -> Outcome<Place> {
        let at = self.translate(memory, linear, true)?;
        let next = if crosses(linear, T::BYTES) {
            self.translate(memory, next_page(linear), true)?
        } else {
            0
        };
        Ok(Place {
            at,
            next,
            odd: true,
        })
    }

    /// Makes sure that `bytes` (up to a page) bytes can be written from a linear address on.
    pub fn open_range(&mut self, memory: &GuestMemory, linear: u32, bytes: u32) -> Step {
        self.translate(memory, linear, true)?;
        if crosses(linear, bytes) {
            self.translate(memory, next_page(linear), true)?;
        }
        Ok(())
    }

    /// Reads a place that was opened.
    #[inline(always)]
    pub fn load_place<T: Width>(&mut self, memory: &GuestMemory, place: Place) -> Outcome<u32> {
        if place.odd && crosses(place.at, T::BYTES) {
            return self.load_split::<T>(memory, place);
        }
        match memory.load::<T>(place.at) {
            Ok(value) => Ok(value.widen()),
            Err(_) => Err(self.beyond(place.at)),
        }
    }

    /// Writes a place that was opened.
    #[inline(always)]
    pub fn store_place<T: Width>(
        &mut self,
        memory: &GuestMemory,
        place: Place,
        value: u32,
    ) -> Step {
        if place.odd {
            return self.store_odd::<T>(memory, place, value);
        }
        match memory.store_unwatched(place.at, T::truncate(value)) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.beyond(place.at)),
        }
    }

    #[cold]
    #[inline(never)]
    fn load_split<T: Width>(&mut self, memory: &GuestMemory, place: Place) -> Outcome<u32> {
        let mut value = 0;
        for n in 0..T::BYTES {
            let byte = memory
                .load::<u8>(place.byte(n))
                .map_err(|_| self.beyond(place.at))?;
            value |= u32::from(byte) << (8 * n);
        }
        Ok(value)
    }

    #[cold]
    #[inline(never)]
    fn store_odd<T: Width>(&mut self, memory: &GuestMemory, place: Place, value: u32) -> Step {
        let stored = if crosses(place.at, T::BYTES) {
            (0..T::BYTES).try_for_each(|n| memory.store(place.byte(n), (value >> (8 * n)) as u8))
        } else {
            memory.store(place.at, T::truncate(value))
        };
        stored.map_err(|_| self.beyond(place.at))?;
        if memory.has_written() {
            Err(Leave::Written)
        } else {
            Ok(())
        }
    }
}

impl Place {
    /// Where its n-th byte is.
    fn byte(self, n: u32) -> u32 {
        let offset = self.at % PAGE + n;
        if offset < PAGE {
            self.at + n
        } else {
            (self.next & !(PAGE - 1)) + offset - PAGE
        }
    }
}

fn crosses(address: u32, bytes: u32) -> bool {
    address % PAGE + bytes > PAGE
}

fn next_page(linear: u32) -> u32 {
    (linear & !(PAGE - 1)).wrapping_add(PAGE)
}
