//! What a processor holds.

use std::time::Instant;

use super::exit::{Broken, Exit};
use super::flags::Flags;
use super::fpu::Fpu;
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

/// Why a handler ends the block it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Leave {
    /// eip is set: a direct jump that was taken.
    Taken = 1,
    /// eip is set: a direct jump that was not taken.
    NotTaken,
    /// eip is set: a jump to what only this instruction knew, or the ring, a segment or TF changed.
    Jump,
    /// The instruction is done, and wrote where code was decoded.
    Written,
    /// A repeated instruction has done a part, and is to be gone on with.
    Again,
    /// The instruction is done, and the host is needed: [`Core::exit`].
    Trap,
    /// The instruction did nothing, and the host is needed: [`Core::exit`].
    Fault,
    /// The instruction did nothing: it is one for the long way (see [`access`](super::access)). Never
    /// leaves a handler.
    Missed,
}

/// A value, or why there is none.
pub(super) type Outcome<T> = Result<T, Leave>;
/// What a handler gives: on to the next one, or not.
pub(super) type Step = Outcome<()>;

impl Leave {
    /// The one of this number, if there is one.
    #[inline(always)]
    pub fn numbered(number: u8) -> Option<Self> {
        const ALL: [Leave; 8] = [
            Leave::Taken,
            Leave::NotTaken,
            Leave::Jump,
            Leave::Written,
            Leave::Again,
            Leave::Trap,
            Leave::Fault,
            Leave::Missed,
        ];
        ALL.into_iter().find(|leave| *leave as u8 == number)
    }

    /// Whether nothing was done.
    #[inline(always)]
    pub fn did_nothing(self) -> bool {
        matches!(self, Self::Fault | Self::Missed)
    }
}

/// The rest of an instruction is done, even if what it wrote was code: a fault ends it here, other
/// results are handed on when it is complete.
#[inline(always)]
pub(super) fn landed(step: Step) -> Outcome<Step> {
    match step {
        Err(leave) if leave.did_nothing() => Err(leave),
        other => Ok(other),
    }
}

/// How a block was decoded, and the only state it may run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Mode {
    /// In ring 3.
    pub user: bool,
    /// ds, es and ss are flat and may be written: their offsets are linear addresses.
    pub flat: bool,
    /// cs is flat, of 32 bits: blocks can be kept.
    pub plain: bool,
    /// One operation for each instruction, all their flags made.
    pub exact: bool,
}

/// The state that instructions work on.
#[derive(Debug)]
pub(super) struct Core {
    /// The general registers. The ninth is always zero: an address without a base has that one. There are
    /// as many as a byte can name, so that no number needs a check; the rest are never touched.
    pub regs: [u32; 256],
    pub eip: u32,
    pub flags: Flags,
    pub segments: [SegmentRegister; 6],
    pub ring: u8,
    pub gdt: [u64; GDT_ENTRIES],
    pub cr3: u32,
    pub task_switched: bool,
    pub fpu: Fpu,
    pub paging: Paging,
    pub clock: Clock,
    pub retired: u64,
    /// How the instructions at eip are to be decoded. Follows from ring and segments.
    pub mode: Mode,
    /// Why the host is needed, when [`Leave`] says it is.
    pub exit: Exit,
}

impl Core {
    pub fn new(frames: u32) -> Self {
        Self {
            regs: [0; 256],
            eip: 0,
            flags: Flags::new(),
            segments: [SegmentRegister::null(0); 6],
            ring: 1,
            gdt: [0; GDT_ENTRIES],
            cr3: 0,
            task_switched: false,
            fpu: Fpu::new(),
            paging: Paging::new(frames),
            clock: Clock::Since(Instant::now()),
            retired: 0,
            mode: Mode::default(),
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
        let flat = |segment: Segment| {
            let register = &self.segments[segment as usize];
            register.is_flat() && register.writable
        };
        self.mode = Mode {
            user: self.ring == 3,
            flat: flat(Segment::Ds) && flat(Segment::Es) && flat(Segment::Ss),
            plain: self.segments[Segment::Cs as usize].is_flat(),
            exact: false,
        };
        self.paging.set_user(self.ring == 3);
    }

    /// Notes why the host is needed.
    #[cold]
    pub fn leave(&mut self, exit: Exit) -> Leave {
        self.exit = exit;
        Leave::Fault
    }

    /// Notes an exception.
    #[cold]
    pub fn fault(&mut self, vector: u8, error: Option<u32>) -> Leave {
        self.leave(Exit::Fault {
            vector,
            error,
            cr2: 0,
        })
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
