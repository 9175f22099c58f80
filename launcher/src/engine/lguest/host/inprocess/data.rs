//! The page through which guest and host know of each other's state (`struct lguest_data`), and the
//! ring of calls in it.
//!
//! | at | what | who writes it |
//! |---|---|---|
//! | 0 | `irq_enabled`: the interrupt flag, where the processor has it | both |
//! | 4 | `blocked_interrupts`: a bit set masks an interrupt | guest |
//! | 8 | `cr2` | host, before a page fault |
//! | 12 | time, seconds and nanoseconds | host, after each interrupt |
//! | 20 | status of 64 calls: 0xff is none | both |
//! | 84 | 64 calls of eax, edx, ebx, ecx | guest |
//! | 1108 | memory at the top of the address space it must leave alone | host, once |
//! | 1112 | its number | host, once |
//! | 1116 | speed of its cycle counter in kHz | host, once |
//! | 1120 | where it must not be interrupted: from, to | guest, before it starts |

use std::ops::Range;
use std::time::{Duration, SystemTime};

use crate::engine::lguest::memory::{GuestMemory, OutOfBounds};

/// Its size in bytes.
pub const BYTES: u32 = 1128;

const IRQ_ENABLED: u32 = 0;
const BLOCKED_INTERRUPTS: u32 = 4;
const CR2: u32 = 8;
const TIME: u32 = 12;
const STATUS: u32 = 20;
const CALLS: u32 = 84;
const RESERVE_MEM: u32 = 1108;
const GUEST_ID: u32 = 1112;
const TSC_KHZ: u32 = 1116;
const NO_IRQ: u32 = 1120;

/// Places for calls.
pub const RING: u32 = 64;
/// The status of a place without a call.
const FREE: u8 = 0xff;

/// The interrupt flag among the flags.
pub const IF: u32 = 0x200;

/// A call: number and three arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Which.
    pub number: u32,
    /// First argument.
    pub edx: u32,
    /// Second argument.
    pub ebx: u32,
    /// Third argument.
    pub ecx: u32,
}

/// The page, where the guest said it is.
#[derive(Debug, Clone)]
pub struct GuestData {
    at: u32,
    /// The host's position in the ring.
    cursor: u32,
    /// Where the guest is between restoring its interrupt flag and returning, and must not be interrupted.
    pub no_irq: Range<u32>,
}

/// What the host tells the guest once.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Its number: what its network addresses are made of.
    pub guest_id: u16,
    /// Speed of its cycle counter in kHz.
    pub tsc_khz: u32,
    /// Bytes at the top of its address space that are the host's.
    pub reserve_mem: u32,
}

impl GuestData {
    /// Meets the guest. All of the page is known to be in memory.
    pub fn open(memory: &GuestMemory, at: u32, facts: Facts) -> Result<Self, OutOfBounds> {
        memory.store(at + RESERVE_MEM, facts.reserve_mem)?;
        memory.store(at + GUEST_ID, facts.guest_id)?;
        memory.store(at + TSC_KHZ, facts.tsc_khz)?;
        let data = Self {
            at,
            cursor: 0,
            no_irq: memory.load(at + NO_IRQ)?..memory.load(at + NO_IRQ + 4)?,
        };
        data.tell_time(memory)?;
        Ok(data)
    }

    /// Whether the guest takes interrupts. It stores all its flags there at times, so one bit counts.
    pub fn irq_enabled(&self, memory: &GuestMemory) -> Result<bool, OutOfBounds> {
        Ok(memory.load::<u32>(self.at + IRQ_ENABLED)? & IF != 0)
    }

    /// Sets the guest's interrupt flag.
    pub fn set_irq_enabled(&self, memory: &GuestMemory, on: bool) -> Result<(), OutOfBounds> {
        memory.store(self.at + IRQ_ENABLED, if on { IF } else { 0 })
    }

    /// The interrupts it masks, one bit each.
    pub fn blocked(&self, memory: &GuestMemory) -> Result<u32, OutOfBounds> {
        memory.load(self.at + BLOCKED_INTERRUPTS)
    }

    /// Says where a page fault was.
    pub fn set_cr2(&self, memory: &GuestMemory, cr2: u32) -> Result<(), OutOfBounds> {
        memory.store(self.at + CR2, cr2)
    }

    /// Says what time it is.
    pub fn tell_time(&self, memory: &GuestMemory) -> Result<(), OutOfBounds> {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        // Its seconds have 31 bits; it is of 2007.
        memory.store(self.at + TIME, now.as_secs() as u32)?;
        memory.store(self.at + TIME + 4, now.subsec_nanos())
    }

    /// The next call in the ring, if there is any; it stays there until [`done`](Self::done).
    pub fn next_call(&self, memory: &GuestMemory) -> Result<Option<Call>, OutOfBounds> {
        if memory.load::<u8>(self.at + STATUS + self.cursor)? == FREE {
            return Ok(None);
        }
        let at = self.at + CALLS + self.cursor * 16;
        Ok(Some(Call {
            number: memory.load(at)?,
            edx: memory.load(at + 4)?,
            ebx: memory.load(at + 8)?,
            ecx: memory.load(at + 12)?,
        }))
    }

    /// The call was made: its place is free, and the next is looked at next.
    pub fn done(&mut self, memory: &GuestMemory) -> Result<(), OutOfBounds> {
        memory.store(self.at + STATUS + self.cursor, FREE)?;
        self.cursor = (self.cursor + 1) % RING;
        Ok(())
    }
}
