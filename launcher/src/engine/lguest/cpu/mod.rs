//! An i386 in software, for guests that run in rings 1 and 3 under a host in ring 0 that is not there.
//!
//! # The tour
//!
//! 1. [`Cpu`]: the face to the host: registers, segments, page tables, and [`Cpu::run`].
//! 2. [`exit`]: why `run` came back. Everything a processor would enter ring 0 for is an exit.
//! 3. [`state`]: what a processor holds; [`segment`] and [`flags`] are parts of it.
//! 4. [`paging`]: linear addresses become places in guest memory, by the guest's tables, through a
//!    translation cache; [`access`] is how instructions get there.
//! 5. [`decode`]: machine code becomes operations ([`op`]), each a function of [`exec`] and its numbers;
//!    [`blocks`] keeps them.
//! 6. [`run`]: block after block.
//!
//! It does not know lguest: hypercalls, virtual interrupts and the rules of what is reflected
//! where are the host's. What it knows of it is what page tables may hold ([`exit::Broken`]).

mod access;
mod blocks;
mod decode;
mod exec;
pub mod exit;
pub mod flags;
mod fpu;
mod op;
mod paging;
mod run;
pub mod segment;
mod state;

use std::sync::atomic::AtomicBool;

use blocks::Blocks;
pub use exit::{Broken, Exit};
pub use segment::{BadSelector, GDT_ENTRIES, SegmentRegister};
use state::Core;
pub use state::{Clock, Register, Segment};

use super::memory::GuestMemory;

/// A processor.
#[derive(Debug)]
pub struct Cpu {
    core: Core,
    blocks: Blocks,
}

/// What is pushed when the host enters the guest by a gate, as a processor does for an interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// The stack to go to, as ss and esp, if the guest comes from ring 3; otherwise it stays.
    pub stack: Option<(u16, u32)>,
    /// The flags to push.
    pub eflags: u32,
    /// The error code to push, for the vectors that have one.
    pub error: Option<u32>,
    /// Where to go on.
    pub selector: u16,
    /// Where in that segment.
    pub offset: u32,
}

impl Cpu {
    /// A processor whose registers are zero, eflags 2 and IF, segments null, ring 1.
    ///
    /// `frames` is the number of 4 KiB frames its page tables may name (lguest's `pfn_limit`).
    pub fn new(frames: u32) -> Self {
        Self {
            core: Core::new(frames),
            blocks: Blocks::new(),
        }
    }

    /// Executes exactly `budget` instructions, unless something else comes first. `stop` may be set
    /// by any thread; it is looked at every few thousand instructions.
    ///
    /// State is at an instruction's boundary whenever this returns: for a fault, before the
    /// instruction that faulted; for `int n`, after it. A repeated string instruction counts as
    /// one, and may be left in its middle, to be gone on with.
    pub fn run(&mut self, memory: &GuestMemory, budget: u64, stop: &AtomicBool) -> Exit {
        run::run(&mut self.core, &mut self.blocks, memory, budget, stop)
    }

    /// Instructions completed so far.
    pub fn retired(&self) -> u64 {
        self.core.retired
    }

    /// A general register.
    pub fn register(&self, register: Register) -> u32 {
        self.core.register(register)
    }

    /// Sets a general register.
    pub fn set_register(&mut self, register: Register, value: u32) {
        self.core.set_register(register, value);
    }

    /// The offset in cs of the next instruction.
    pub fn eip(&self) -> u32 {
        self.core.eip
    }

    /// Sets the offset in cs of the next instruction.
    pub fn set_eip(&mut self, eip: u32) {
        self.core.eip = eip;
    }

    /// The flags. IF is always set, IOPL 0.
    pub fn eflags(&self) -> u32 {
        self.core.flags.get()
    }

    /// Sets the flags, save IF, IOPL and VM.
    pub fn set_eflags(&mut self, eflags: u32) {
        self.core.flags.set(eflags);
    }

    /// The ring it runs in.
    pub fn ring(&self) -> u8 {
        self.core.ring
    }

    /// A segment register.
    pub fn segment(&self, segment: Segment) -> &SegmentRegister {
        &self.core.segments[segment as usize]
    }

    /// Loads a segment register as a return to the guest would: cs sets the ring, ss must fit it,
    /// the others may be null.
    ///
    /// # Errors
    /// If the selector or its descriptor will not do; the register is as it was.
    pub fn load_segment(&mut self, segment: Segment, selector: u16) -> Result<(), BadSelector> {
        self.core.load_for_host(segment, selector)
    }

    /// Loads all segment registers again, after their descriptors changed: cs first, then the rest.
    ///
    /// # Errors
    /// The first selector that will not do any more.
    pub fn reload_segments(&mut self) -> Result<(), BadSelector> {
        for segment in [
            Segment::Cs,
            Segment::Ss,
            Segment::Ds,
            Segment::Es,
            Segment::Fs,
            Segment::Gs,
        ] {
            let selector = self.core.segments[segment as usize].selector;
            self.core.load_for_host(segment, selector)?;
        }
        Ok(())
    }

    /// Replaces the descriptor table. Segment registers hold on to what they were loaded with.
    pub fn set_gdt(&mut self, gdt: &[u64; GDT_ENTRIES]) {
        self.core.gdt = *gdt;
    }

    /// The guest-physical address of the page directory.
    pub fn cr3(&self) -> u32 {
        self.core.cr3
    }

    /// Changes to another page directory. Translations of the old one are forgotten.
    pub fn set_cr3(&mut self, directory: u32) {
        self.core.cr3 = directory;
        self.core.paging.flush_all();
    }

    /// Forgets all translations.
    pub fn flush_all(&mut self) {
        self.core.paging.flush_all();
    }

    /// Forgets the translations below a linear address.
    pub fn flush_below(&mut self, end: u32) {
        self.core.paging.flush_below(end);
    }

    /// Forgets the translation of one page, given by any address in it.
    pub fn flush_page(&mut self, linear: u32) {
        self.core.paging.flush_page(linear);
    }

    /// Whether the next x87 instruction faults (#NM): the TS bit of cr0.
    pub fn set_task_switched(&mut self, on: bool) {
        self.core.task_switched = on;
    }

    /// Whether x87 instructions fault.
    pub fn task_switched(&self) -> bool {
        self.core.task_switched
    }

    /// What `rdtsc` counts.
    pub fn set_clock(&mut self, clock: Clock) {
        self.core.clock = clock;
    }

    /// Where a linear address is in guest memory, if it is mapped. Changes nothing.
    ///
    /// # Errors
    /// If the page tables break the host's rules.
    pub fn translate(&self, memory: &GuestMemory, linear: u32) -> Result<Option<u32>, Broken> {
        self.core.look_up(memory, linear)
    }

    /// Enters the guest by a gate: pushes ss and esp if the stack changes, the flags, cs, eip, and the
    /// error code, all of them or nothing, then goes to the handler in ring 1. TF, NT and RF are cleared.
    ///
    /// # Errors
    /// If the handler's segments will not do or its stack is not mapped and writable: nobody could
    /// be told of that but the host.
    pub fn deliver(&mut self, memory: &GuestMemory, delivery: &Delivery) -> Result<(), Broken> {
        self.core.deliver(memory, delivery)
    }
}

#[cfg(test)]
mod tests;
