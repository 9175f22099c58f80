//! The host in this process: what the lguest module did, over a processor in software.
//!
//! In reading order:
//!
//! 1. [`InProcess::run`], below: the loop. Calls, then one interrupt, then the guest for a while, then whatever
//!    made it stop.
//! 2. `hypercall`: what the guest asks for, at once or through the ring in its [`data`].
//! 3. `trap`: what the processor can't do alone becomes the guest's own business, by its [`gates`].
//! 4. `interrupt`: when one may be delivered, and the one the host itself raises, the clock's.
//! 5. [`segments`]: the descriptor table as the host lets it be.
//! 6. [`dma`]: what the guest bound for input.
//! 7. [`death`]: what it can die of.
//!
//! The guest's page tables are the processor's to walk; the calls that tell of changes to them make it
//! forget what it knew. Nothing here trusts a number of the guest's: addresses are checked where they
//! are used, counts have an end, and what makes no sense is the guest's death.

pub mod data;
pub mod death;
pub mod dma;
pub mod gates;
mod hypercall;
mod interrupt;
pub mod segments;
#[cfg(test)]
mod tests;
mod trap;

use std::sync::atomic::AtomicBool;

use super::{Bound, Exit, Host, HostError, Sent};
use crate::engine::lguest::boot::Start;
use crate::engine::lguest::cpu::{self, Cpu, Register, Segment};
use crate::engine::lguest::memory::{GuestMemory, PAGE};
use data::{Facts, GuestData};
use death::Death;
use dma::Bindings;
use gates::Gates;
use interrupt::Interrupts;
use segments::{KERNEL_CS, KERNEL_DS, Table};

/// Instructions before we look at the world again: a fraction of a millisecond.
const SLICE: u64 = 20_000;
/// And while an interrupt waits for the guest to allow it, which nobody tells us of.
const SHORT_SLICE: u64 = 200;
/// And while the guest is on its way out of an interrupt: a few instructions.
const WINDOW_SLICE: u64 = 4;

/// What the processor's cycle counter counts in a second is nanoseconds.
const TSC_KHZ: u32 = 1_000_000;

/// The top of the address space is the host's.
const RESERVE_MEM: u32 = 4 << 20;

/// The guest and all that is known of it.
#[derive(Debug)]
pub struct InProcess<'m> {
    memory: &'m GuestMemory,
    cpu: Cpu,
    page_offset: u32,
    guest_id: u16,
    /// Where the guest said its data are: nothing, before it has.
    data: Option<GuestData>,
    table: Table,
    gates: Gates,
    interrupts: Interrupts,
    /// The stack for what comes from ring 3: ss and esp.
    stack: (u16, u32),
    bindings: Bindings,
    /// A call was made and not served yet.
    called: bool,
    /// A block was sent and not handed over yet.
    sent: Option<Sent>,
    halted: bool,
    dead: Option<Death>,
    /// Nobody stops the processor but its budget.
    never: AtomicBool,
}

impl<'m> InProcess<'m> {
    /// A guest about to execute its first instruction. `guest_id` is to differ among the guests of a segment.
    pub fn initialize(memory: &'m GuestMemory, start: &Start, guest_id: u16) -> Self {
        let table = Table::default();
        let mut cpu = Cpu::new((memory.len() / PAGE as usize) as u32);
        cpu.set_gdt(&table.0);
        cpu.set_cr3(start.directory);
        cpu.set_eip(start.entry);
        let mut host = Self {
            memory,
            cpu,
            page_offset: start.page_offset,
            guest_id,
            data: None,
            table,
            gates: Gates::default(),
            interrupts: Interrupts::default(),
            stack: (0, 0),
            bindings: Bindings::default(),
            called: false,
            sent: None,
            halted: false,
            dead: None,
            never: AtomicBool::new(false),
        };
        let selectors = [
            (Segment::Cs, KERNEL_CS),
            (Segment::Ss, KERNEL_DS),
            (Segment::Ds, KERNEL_DS),
            (Segment::Es, KERNEL_DS),
        ];
        for (segment, selector) in selectors {
            if let Err(bad) = host.cpu.load_segment(segment, selector) {
                host.dead = Some(bad.into());
            }
        }
        host
    }

    /// One slice of the guest's life: as long as nobody else is needed, and until it has executed so many
    /// instructions since its first.
    fn live(&mut self, end: u64) -> Result<Exit, Death> {
        loop {
            self.serve_calls()?;
            if let Some(sent) = self.sent.take() {
                return Ok(Exit::Sent(sent));
            }
            self.interrupts.tick();
            self.deliver_interrupt()?;
            if self.halted {
                return Ok(Exit::Idle(self.interrupts.clock()));
            }
            let left = end.saturating_sub(self.cpu.retired());
            if left == 0 {
                return Ok(Exit::Break);
            }
            let budget = left.min(self.patience()?);
            let exit = self.cpu.run(self.memory, budget, &self.never);
            self.handle(exit)?;
        }
    }

    /// Whether `bytes` bytes at `at` are in the guest's memory, by the host's own rule: what ends where
    /// memory ends is not.
    fn check(&self, at: u32, bytes: u32) -> Result<(), Death> {
        let limit = self.memory.len() as u64;
        let end = u64::from(at) + u64::from(bytes);
        if end / u64::from(PAGE) < limit / u64::from(PAGE) {
            return Ok(());
        }
        Err(Death::BadAddress {
            at,
            bytes,
            limit: limit as u32,
        })
    }

    /// Meets the guest: it says where its data are.
    fn open_data(&mut self, at: u32) -> Result<(), Death> {
        if self.data.is_some() {
            return Err(Death::SecondInit);
        }
        self.check(at, data::BYTES)?;
        let facts = Facts {
            guest_id: self.guest_id,
            tsc_khz: TSC_KHZ,
            reserve_mem: RESERVE_MEM,
        };
        self.data = Some(GuestData::open(self.memory, at, facts)?);
        self.cpu.flush_all();
        Ok(())
    }

    fn register(&self, register: Register) -> u32 {
        self.cpu.register(register)
    }
}

impl Host for InProcess<'_> {
    fn run(&mut self) -> Result<Exit, HostError> {
        if self.dead.is_none() {
            match self.live(self.cpu.retired() + SLICE) {
                Ok(exit) => return Ok(exit),
                Err(death) => self.dead = Some(death),
            }
        }
        let reason = self.dead.as_ref().map(Death::to_string);
        Ok(Exit::Died(reason.unwrap_or_default()))
    }

    fn get_dma(&mut self, key: u32) -> Result<Bound, HostError> {
        // All it looks at was found to be in memory when it was bound.
        Ok(self
            .bindings
            .get(self.memory, key)
            .unwrap_or(Bound::Nothing))
    }

    fn irq(&mut self, irq: u8) -> Result<(), HostError> {
        self.interrupts.raise(irq);
        Ok(())
    }

    fn waits_itself(&self) -> bool {
        false
    }
}

/// For tests and the curious: where the guest is.
impl InProcess<'_> {
    /// The processor.
    pub fn cpu(&self) -> &cpu::Cpu {
        &self.cpu
    }
}
