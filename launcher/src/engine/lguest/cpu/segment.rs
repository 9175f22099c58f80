//! Segments: descriptors, and the registers that cache them (Intel SDM volume 3, chapter 3.4).
//!
//! There is one table, the GDT that the host keeps, and no LDT. A segment register keeps the range
//! of offsets that are in its segment and what may be done there, worked out when it is loaded.

use super::state::{Core, Segment};

/// Entries of the descriptor table lguest gives its guests.
pub const GDT_ENTRIES: usize = 32;

/// A descriptor, as the guest wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Descriptor(pub u64);

impl Descriptor {
    fn bit(self, n: u32) -> bool {
        self.0 >> n & 1 != 0
    }

    /// The linear address of offset 0.
    pub fn base(self) -> u32 {
        ((self.0 >> 16 & 0xFF_FFFF) | (self.0 >> 32 & 0xFF00_0000)) as u32
    }

    /// The largest offset, in bytes whatever the granularity.
    pub fn limit(self) -> u32 {
        let raw = ((self.0 & 0xFFFF) | (self.0 >> 32 & 0xF_0000)) as u32;
        if self.bit(55) { raw << 12 | 0xFFF } else { raw }
    }

    /// Privilege level, 0 to 3.
    pub fn dpl(self) -> u8 {
        (self.0 >> 45 & 3) as u8
    }

    /// Whether it is there at all.
    pub fn present(self) -> bool {
        self.bit(47)
    }

    /// Code or data, not a gate or a task.
    pub fn is_segment(self) -> bool {
        self.bit(44)
    }

    /// The type field of a system descriptor.
    pub fn system_type(self) -> u8 {
        (self.0 >> 40 & 0xF) as u8
    }

    /// The upper half, as `lar` shows it.
    pub fn high(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Executable.
    pub fn is_code(self) -> bool {
        self.is_segment() && self.bit(43)
    }

    /// Code that runs in its caller's ring.
    pub fn is_conforming(self) -> bool {
        self.is_code() && self.bit(42)
    }

    /// Data, or code that may be read.
    pub fn is_readable(self) -> bool {
        self.is_segment() && (!self.bit(43) || self.bit(41))
    }

    /// Data that may be written.
    pub fn is_writable(self) -> bool {
        self.is_segment() && !self.bit(43) && self.bit(41)
    }

    fn expands_down(self) -> bool {
        self.is_segment() && !self.bit(43) && self.bit(42)
    }

    /// 32-bit code, or a stack with esp rather than sp.
    pub fn is_wide(self) -> bool {
        self.bit(54)
    }
}

/// A segment register and what it remembers of its descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentRegister {
    /// The visible part.
    pub selector: u16,
    /// The linear address of offset 0.
    pub base: u32,
    /// The lowest offset inside.
    pub first: u32,
    /// The highest offset inside; below `first` if there is none.
    pub last: u32,
    /// Whether bytes may be read.
    pub readable: bool,
    /// Whether bytes may be written.
    pub writable: bool,
    /// 32-bit code or stack.
    pub wide: bool,
}

impl SegmentRegister {
    fn new(selector: u16, descriptor: Descriptor) -> Self {
        let limit = descriptor.limit();
        let top = if descriptor.is_wide() {
            u32::MAX
        } else {
            0xFFFF
        };
        let (first, last) = match (descriptor.expands_down(), limit.checked_add(1)) {
            (false, _) => (0, limit),
            (true, Some(first)) => (first, top),
            (true, None) => (1, 0),
        };
        Self {
            selector,
            base: descriptor.base(),
            first,
            last,
            readable: descriptor.is_readable(),
            writable: descriptor.is_writable(),
            wide: descriptor.is_wide(),
        }
    }

    /// A register without a segment: any access through it faults.
    pub(super) fn null(selector: u16) -> Self {
        Self {
            selector,
            first: 1,
            ..Self::default()
        }
    }

    /// Whether `bytes` (at least 1) bytes from `offset` are all inside.
    pub(super) fn contains(&self, offset: u32, bytes: u32) -> bool {
        offset >= self.first && offset <= self.last && bytes - 1 <= self.last - offset
    }

    /// Whether offsets are linear addresses and nothing is refused.
    pub(super) fn is_flat(&self) -> bool {
        self.base == 0 && self.first == 0 && self.last == u32::MAX && self.wide
    }
}

/// A selector that can't be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("selector {0:#06x} can't be loaded")]
pub struct BadSelector(pub u16);

/// What is wrong with a selector, by the vector it raises: its error code is the selector without RPL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SegmentFault {
    /// #GP
    Protection(u16),
    /// #NP
    NotPresent(u16),
    /// #SS
    Stack(u16),
}

impl Core {
    /// The descriptor a selector names. None for null, the LDT's, and what is beyond the table.
    pub(super) fn descriptor(&self, selector: u16) -> Option<Descriptor> {
        let index = usize::from(selector >> 3);
        if index == 0 || selector & 4 != 0 {
            return None;
        }
        self.gdt.get(index).map(|raw| Descriptor(*raw))
    }

    /// What loading es, ds, fs or gs with this selector gives (SDM volume 2, `MOV`).
    pub(super) fn data_segment(&self, selector: u16) -> Result<SegmentRegister, SegmentFault> {
        if selector & !3 == 0 {
            return Ok(SegmentRegister::null(selector));
        }
        let bad = SegmentFault::Protection(selector & !3);
        let descriptor = self.descriptor(selector).ok_or(bad)?;
        if !descriptor.is_readable() {
            return Err(bad);
        }
        if !descriptor.is_conforming() && descriptor.dpl() < self.ring.max(selector as u8 & 3) {
            return Err(bad);
        }
        if !descriptor.present() {
            return Err(SegmentFault::NotPresent(selector & !3));
        }
        Ok(SegmentRegister::new(selector, descriptor))
    }

    /// What loading ss with this selector gives, for code in `ring`.
    pub(super) fn stack_segment(
        &self,
        selector: u16,
        ring: u8,
    ) -> Result<SegmentRegister, SegmentFault> {
        let bad = SegmentFault::Protection(selector & !3);
        let descriptor = self.descriptor(selector).ok_or(bad)?;
        if selector as u8 & 3 != ring || descriptor.dpl() != ring || !descriptor.is_writable() {
            return Err(bad);
        }
        if !descriptor.present() {
            return Err(SegmentFault::Stack(selector & !3));
        }
        Ok(SegmentRegister::new(selector, descriptor))
    }

    /// What going to this code segment, to run in `ring`, gives. The selector's RPL is not looked at.
    pub(super) fn code_segment(
        &self,
        selector: u16,
        ring: u8,
    ) -> Result<SegmentRegister, SegmentFault> {
        let bad = SegmentFault::Protection(selector & !3);
        let descriptor = self.descriptor(selector).ok_or(bad)?;
        let privileged = if descriptor.is_conforming() {
            descriptor.dpl() > ring
        } else {
            descriptor.dpl() != ring
        };
        if !descriptor.is_code() || privileged {
            return Err(bad);
        }
        if !descriptor.present() {
            return Err(SegmentFault::NotPresent(selector & !3));
        }
        Ok(SegmentRegister::new(
            selector & !3 | u16::from(ring),
            descriptor,
        ))
    }

    /// Loads a segment register as the host does when it returns to the guest.
    pub(super) fn load_for_host(
        &mut self,
        segment: Segment,
        selector: u16,
    ) -> Result<(), BadSelector> {
        let rpl = selector as u8 & 3;
        let loaded = match segment {
            Segment::Cs => self.code_segment(selector, rpl),
            Segment::Ss => self.stack_segment(selector, self.ring),
            _ => self.data_segment(selector),
        };
        let loaded = loaded.map_err(|_| BadSelector(selector))?;
        if segment == Segment::Cs {
            self.ring = rpl;
        }
        self.set_segment(segment, loaded);
        Ok(())
    }
}
