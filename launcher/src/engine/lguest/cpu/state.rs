//! What a processor holds.

use std::time::Instant;

use super::exit::{Broken, Exit};
use super::flags::Flags;
use super::paging::Paging;
use super::segment::{GDT_ENTRIES, SegmentRegister};
use super::{Delivery, flags};
use crate::engine::lguest::memory::GuestMemory;

/// The general registers, numbered as in machine code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Register {
    Eax,
    Ecx,
    Edx,
    Ebx,
    Esp,
    Ebp,
    Esi,
    Edi,
}

/// The segment registers, numbered as in machine code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Segment {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
}

/// What `rdtsc` counts.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// Nanoseconds since this moment: 1,000,000 kHz on any host.
    Since(Instant),
    /// Instructions, so that the same run gives the same numbers.
    Instructions,
}

/// Why a handler stops the block it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// `exit` says what happened; the instruction did not.
    Fault,
}

/// What a step can fail with.
pub(super) type Outcome<T> = Result<T, Leave>;

/// The state that instructions work on.
#[derive(Debug)]
pub(super) struct Core {
    /// The general registers. The ninth is always zero: an address without a base has that one.
    pub regs: [u32; 16],
    pub eip: u32,
    pub flags: Flags,
    pub segments: [SegmentRegister; 6],
    pub ring: u8,
    pub gdt: [u64; GDT_ENTRIES],
    pub cr3: u32,
    pub task_switched: bool,
    pub paging: Paging,
    pub clock: Clock,
    pub retired: u64,
    /// Why the host is needed, when [`Leave`] says it is.
    pub exit: Exit,
}

impl Core {
    pub fn new(frames: u32) -> Self {
        Self {
            regs: [0; 16],
            eip: 0,
            flags: Flags::new(),
            segments: [SegmentRegister::null(0); 6],
            ring: 1,
            gdt: [0; GDT_ENTRIES],
            cr3: 0,
            task_switched: false,
            paging: Paging::new(frames),
            clock: Clock::Since(Instant::now()),
            retired: 0,
            exit: Exit::Budget,
        }
    }

    pub fn register(&self, register: Register) -> u32 {
        self.regs[register as usize]
    }

    pub fn set_register(&mut self, register: Register, value: u32) {
        self.regs[register as usize] = value;
    }

    pub fn set_segment(&mut self, segment: Segment, loaded: SegmentRegister) {
        self.segments[segment as usize] = loaded;
    }

    /// Enters the guest by a gate; see [`super::Cpu::deliver`].
    pub fn deliver(&mut self, memory: &GuestMemory, delivery: &Delivery) -> Result<(), Broken> {
        let code = self
            .code_segment(delivery.selector, delivery.selector as u8 & 3)
            .map_err(|_| Broken::Selector {
                selector: delivery.selector,
            })?;
        let mut frame = [0_u32; 6];
        let mut words = 0;
        let mut push = |word| {
            frame[words] = word;
            words += 1;
        };
        let esp = self.register(Register::Esp);
        let mut stack = self.segments[Segment::Ss as usize];
        let mut top = esp;
        if let Some((selector, offset)) = delivery.stack {
            push(stack.selector.into());
            push(esp);
            stack = self
                .stack_segment(selector, delivery.selector as u8 & 3)
                .map_err(|_| Broken::Selector { selector })?;
            top = offset;
        }
        push(delivery.eflags);
        push(self.segments[Segment::Cs as usize].selector.into());
        push(self.eip);
        if let Some(error) = delivery.error {
            push(error);
        }
        self.write_frame(memory, &stack, top, &frame[..words])?;
        self.ring = delivery.selector as u8 & 3;
        self.set_segment(Segment::Ss, stack);
        self.set_segment(Segment::Cs, code);
        self.set_register(Register::Esp, top.wrapping_sub(4 * words as u32));
        self.eip = delivery.offset;
        self.flags.control &= !(flags::TF | flags::NT | flags::RF);
        Ok(())
    }

    /// Writes words downwards from `top`, all or none, as the supervisor.
    fn write_frame(
        &mut self,
        memory: &GuestMemory,
        stack: &SegmentRegister,
        top: u32,
        words: &[u32],
    ) -> Result<(), Broken> {
        let esp = top.wrapping_sub(4 * words.len() as u32);
        let bad = Broken::Stack { esp };
        if !stack.contains(esp, 4 * words.len() as u32) {
            return Err(bad);
        }
        let mut places = [0; 6];
        for (n, place) in places.iter_mut().enumerate().take(words.len()) {
            let linear = stack
                .base
                .wrapping_add(top.wrapping_sub(4 * (n as u32 + 1)));
            // A word across two pages: stacks of kernels are aligned, and nobody but the host would
            // mind, so that is refused rather than split.
            if !linear.is_multiple_of(4) {
                return Err(bad);
            }
            *place = self.writable_for_host(memory, linear)?.ok_or(bad)?;
        }
        for (place, word) in places.iter().zip(words) {
            memory.store(*place, *word).map_err(|_| bad)?;
        }
        Ok(())
    }
}
