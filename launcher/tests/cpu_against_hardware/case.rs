//! What both processors are given, and what they make of it.
//!
//! A [`Case`] is a few instructions, registers and memory; an [`Outcome`] is what they leave. Memory
//! is a small world that looks the same to both: nothing but these pages exists below [`END`].

/// One page, in bytes.
pub const PAGE: u32 = 4096;
/// Where the instructions are: a page that may be read and executed.
pub const CODE: u32 = 0x2_0000;
/// Two pages that may be written, nothing behind them.
pub const DATA: u32 = 0x3_0000;
/// A page that may only be read, nothing behind it.
pub const READ_ONLY: u32 = 0x3_3000;
/// A page for the stack, nothing around it.
pub const STACK: u32 = 0x3_8000;
/// Above are things of the harness, which differ.
pub const END: u32 = 0x4_0000;

/// The two pages of data and the stack's: what a case starts with and is compared by.
#[derive(Clone, PartialEq, Eq)]
pub struct Memory {
    pub data: Vec<u8>,
    pub stack: Vec<u8>,
}

impl Memory {
    /// Pages of bytes from a generator.
    pub fn filled(mut byte: impl FnMut() -> u8) -> Self {
        Self {
            data: (0..2 * PAGE).map(|_| byte()).collect(),
            stack: (0..PAGE).map(|_| byte()).collect(),
        }
    }

    /// Writes what fits into the data pages or the stack.
    pub fn write(&mut self, at: u32, bytes: &[u8]) {
        for (n, byte) in bytes.iter().enumerate() {
            let at = at.wrapping_add(n as u32);
            let place = match at {
                _ if (DATA..DATA + 2 * PAGE).contains(&at) => {
                    self.data.get_mut((at - DATA) as usize)
                }
                _ if (STACK..STACK + PAGE).contains(&at) => {
                    self.stack.get_mut((at - STACK) as usize)
                }
                _ => None,
            };
            if let Some(place) = place {
                *place = *byte;
            }
        }
    }

    /// The first byte that differs, as a sentence.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let pages = [
            (DATA, &self.data, &other.data),
            (STACK, &self.stack, &other.stack),
        ];
        pages.into_iter().find_map(|(base, ours, theirs)| {
            let at = ours.iter().zip(theirs).position(|(a, b)| a != b)?;
            let range = at..(at + 16).min(ours.len());
            Some(format!(
                "memory at {:#x}: {:02x?}, hardware {:02x?}",
                base + at as u32,
                &ours[range.clone()],
                &theirs[range]
            ))
        })
    }
}

/// General registers and segments are numbered as in machine code.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Registers {
    pub general: [u32; 8],
    pub eip: u32,
    pub eflags: u32,
    pub segments: [u16; 6],
}

pub const EAX: usize = 0;
pub const ECX: usize = 1;
pub const ESP: usize = 4;

/// How the last of the instructions ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Done,
    /// An exception, with the processor's error code (0 if it has none), and cr2 of a page fault.
    Trap {
        vector: u32,
        error: u32,
        cr2: u32,
    },
}

pub struct Case {
    /// The instructions, from `start.eip` on.
    pub code: Vec<u8>,
    /// How many to execute.
    pub instructions: usize,
    /// How many single steps hardware takes for them.
    pub steps: usize,
    pub start: Registers,
    pub memory: Memory,
}

pub struct Outcome {
    pub registers: Registers,
    pub memory: Memory,
    pub end: End,
}

/// How much of a fault is compared. An instruction with several accesses does them in an order of its
/// own, so which of them faults first is open, and what those before it have written.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Faults {
    #[default]
    All,
    /// Not where a page fault was, nor the memory it leaves.
    NotWhere,
    /// Only that there was one.
    Any,
}

/// The places of flags that may differ, and of bytes of memory that hardware leaves open.
#[derive(Default)]
pub struct Open {
    pub flags: u32,
    pub faults: Faults,
    /// Address, and which bits of the byte there.
    pub bits: Vec<(u32, u8)>,
}

/// Of eflags, what programs see: not IF, RF, or reserved bits; and not ID, which a debugger can't set.
const VISIBLE_FLAGS: u32 = 0x0004_4CD5;

fn end(outcome: &Outcome, open: &Open) -> End {
    match outcome.end {
        End::Trap { vector, error, .. } if open.faults == Faults::NotWhere => End::Trap {
            vector,
            error,
            cr2: 0,
        },
        End::Trap { .. } if open.faults == Faults::Any => End::Trap {
            vector: 0,
            error: 0,
            cr2: 0,
        },
        end => end,
    }
}

/// What is different about the two, if anything is.
pub fn difference(ours: &Outcome, hardware: &Outcome, open: &Open) -> Option<String> {
    const NAMES: [&str; 8] = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];
    const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];
    if end(ours, open) != end(hardware, open) {
        return Some(format!("{:x?}, hardware {:x?}", ours.end, hardware.end));
    }
    let (a, b) = (&ours.registers, &hardware.registers);
    if a.eip != b.eip {
        return Some(format!("eip {:#x}, hardware {:#x}", a.eip, b.eip));
    }
    for (name, (a, b)) in NAMES.iter().zip(a.general.iter().zip(b.general)) {
        if *a != b {
            return Some(format!("{name} {a:#x}, hardware {b:#x}"));
        }
    }
    for (name, (a, b)) in SEGMENTS.iter().zip(a.segments.iter().zip(b.segments)) {
        if *a != b {
            return Some(format!("{name} {a:#x}, hardware {b:#x}"));
        }
    }
    let compared = VISIBLE_FLAGS & !open.flags;
    if (a.eflags ^ b.eflags) & compared != 0 {
        return Some(format!(
            "flags {:#x}, hardware {:#x} (compared are {compared:#x})",
            a.eflags & compared,
            b.eflags & compared
        ));
    }
    if open.faults != Faults::All && matches!(hardware.end, End::Trap { .. }) {
        return None;
    }
    let mut hidden = ours.memory.clone();
    for &(at, bits) in &open.bits {
        let byte = |memory: &Memory| match at {
            _ if (DATA..DATA + 2 * PAGE).contains(&at) => {
                memory.data.get((at - DATA) as usize).copied()
            }
            _ if (STACK..STACK + PAGE).contains(&at) => {
                memory.stack.get((at - STACK) as usize).copied()
            }
            _ => None,
        };
        if let (Some(a), Some(b)) = (byte(&ours.memory), byte(&hardware.memory)) {
            hidden.write(at, &[a & !bits | b & bits]);
        }
    }
    hidden.difference(&hardware.memory)
}
