//! Our processor, in a world like the child's.

use std::sync::atomic::AtomicBool;

use launcher::engine::lguest::cpu::{Cpu, Exit, GDT_ENTRIES, Register, Segment};
use launcher::engine::lguest::memory::GuestMemory;

use super::case::{CODE, Case, DATA, END, End, Memory, Outcome, PAGE, READ_ONLY, Registers, STACK};

const GENERAL: [Register; 8] = [
    Register::Eax,
    Register::Ecx,
    Register::Edx,
    Register::Ebx,
    Register::Esp,
    Register::Ebp,
    Register::Esi,
    Register::Edi,
];
const SEGMENTS: [Segment; 6] = [
    Segment::Es,
    Segment::Cs,
    Segment::Ss,
    Segment::Ds,
    Segment::Fs,
    Segment::Gs,
];

/// Flat ring-3 code and data, under the selectors that Linux gives 32-bit programs.
pub const USER_CODE: u16 = 0x23;
pub const USER_DATA: u16 = 0x2B;

/// What Linux has below them is for ring 0; to ring 3 that is as if there was nothing but a name.
const KERNEL_CODE: u64 = 0x00CF_9B00_0000_FFFF;
const KERNEL_DATA: u64 = 0x00CF_9300_0000_FFFF;

/// Repeated instructions may come back in their middle.
const MOST_RUNS: usize = 70_000;

pub struct Software {
    cpu: Cpu,
    memory: GuestMemory,
}

impl Software {
    pub fn new() -> Self {
        let pages = END / PAGE;
        let memory = GuestMemory::new(END).expect("a few pages of memory");
        let (directory, table) = ((pages - 2) * PAGE, (pages - 1) * PAGE);
        let map = |page: u32, flags: u32| {
            memory
                .store(table + page / PAGE * 4, page | flags)
                .expect("the table is in memory");
        };
        memory
            .store(directory, table | 7)
            .expect("the directory is in memory");
        for page in [DATA, DATA + PAGE, STACK] {
            map(page, 7);
        }
        for page in [CODE, READ_ONLY] {
            map(page, 5);
        }
        let mut cpu = Cpu::new(pages);
        let mut gdt = [0; GDT_ENTRIES];
        gdt[1] = KERNEL_CODE;
        gdt[2] = KERNEL_CODE;
        gdt[3] = KERNEL_DATA;
        gdt[usize::from(USER_CODE) / 8] = 0x00CF_FB00_0000_FFFF;
        gdt[usize::from(USER_DATA) / 8] = 0x00CF_F300_0000_FFFF;
        cpu.set_gdt(&gdt);
        cpu.set_cr3(directory);
        Self { cpu, memory }
    }

    pub fn run(&mut self, case: &Case) -> Outcome {
        let stop = AtomicBool::new(false);
        let write = |at, bytes: &[u8]| self.memory.write_bytes(at, bytes).expect("in memory");
        write(case.start.eip, &case.code);
        write(DATA, &case.memory.data);
        write(STACK, &case.memory.stack);
        for (segment, &selector) in SEGMENTS.iter().zip(&case.start.segments) {
            // The code segment decides what the others may be.
            self.cpu
                .load_segment(Segment::Cs, USER_CODE)
                .expect("ring 3's code");
            self.cpu
                .load_segment(*segment, selector)
                .expect("a case starts with good segments");
        }
        for (register, &value) in GENERAL.iter().zip(&case.start.general) {
            self.cpu.set_register(*register, value);
        }
        self.cpu.set_eip(case.start.eip);
        self.cpu.set_eflags(case.start.eflags);

        let mut end = End::Done;
        'instructions: for _ in 0..case.instructions {
            let at = self.cpu.eip();
            for _ in 0..MOST_RUNS {
                match self.cpu.run(&self.memory, 1, &stop) {
                    Exit::Budget | Exit::Stopped => {}
                    Exit::Fault { vector, error, cr2 } => {
                        end = End::Trap {
                            vector: vector.into(),
                            error: error.unwrap_or(0),
                            cr2,
                        };
                        break 'instructions;
                    }
                    Exit::Interrupt { vector, .. } => {
                        end = End::Trap {
                            vector: vector.into(),
                            error: 0,
                            cr2: 0,
                        };
                        break 'instructions;
                    }
                    Exit::Broken(reason) => panic!("the world is broken: {reason}"),
                }
                if self.cpu.eip() != at {
                    break;
                }
            }
        }

        let mut memory = Memory {
            data: vec![0; 2 * PAGE as usize],
            stack: vec![0; PAGE as usize],
        };
        self.memory
            .read_bytes(DATA, &mut memory.data)
            .expect("in memory");
        self.memory
            .read_bytes(STACK, &mut memory.stack)
            .expect("in memory");
        Outcome {
            registers: Registers {
                general: GENERAL.map(|register| self.cpu.register(register)),
                eip: self.cpu.eip(),
                eflags: self.cpu.eflags(),
                segments: SEGMENTS.map(|segment| self.cpu.segment(segment).selector),
            },
            memory,
            end,
        }
    }
}
