//! What keeps rings and segments apart: `iret` in all directions, limits, what page faults say (Intel SDM volume 2,
//! `IRET`; volume 3, chapters 3.4 and 4.7).

use super::*;

/// A limit of 4 KiB, data.
const SMALL: u64 = 0x0040_F300_0000_0FFF;
/// The same in ring 3's code.
const SMALL_CODE: u64 = 0x0040_FB00_0000_0FFF;
/// Not present.
const NO_CODE: u64 = 0x00CF_7B00_0000_FFFF;
const NO_DATA: u64 = 0x00CF_7300_0000_FFFF;

/// A machine with entries 16 on of its table set.
fn with_entries(code: &[u8], ring: u16, entries: &[u64]) -> (Cpu, GuestMemory) {
    let (mut cpu, memory) = machine(code, ring);
    let mut gdt = cpu.core.gdt;
    gdt[16..16 + entries.len()].copy_from_slice(entries);
    cpu.set_gdt(&gdt);
    (cpu, memory)
}

/// What a processor has that a fault leaves alone.
fn state(cpu: &Cpu) -> (u8, u32, u32, u32, [u16; 4]) {
    let all = [Segment::Cs, Segment::Ss, Segment::Ds, Segment::Es];
    (
        cpu.ring(),
        cpu.eip(),
        cpu.eflags(),
        cpu.register(Register::Esp),
        all.map(|segment| cpu.segment(segment).selector),
    )
}

/// A machine about to execute `iret`, with this frame.
fn returning(ring: u16, frame: &[u32]) -> (Cpu, GuestMemory) {
    let (cpu, memory) = with_entries(&[0xCF], ring, &[NO_CODE, NO_DATA, SMALL_CODE]);
    for (at, word) in (STACK..).step_by(4).zip(frame) {
        memory.store(at, *word).unwrap();
    }
    (cpu, memory)
}

#[test]
fn iret_goes_to_the_same_ring_and_outwards() {
    for (from, frame, ring, esp, ss) in [
        (1, &[0x2000, 0x61, 0x202][..], 1, STACK + 12, 0x69),
        (3, &[0x2000, 0x73, 0x202], 3, STACK + 12, 0x7B),
        (1, &[0x2000, 0x73, 0x202, 0x7000, 0x7B], 3, 0x7000, 0x7B),
    ] {
        let (mut cpu, memory) = returning(from, frame);
        assert_eq!(run(&mut cpu, &memory, 1), Exit::Budget);
        let there = (cpu.ring(), cpu.eip(), cpu.register(Register::Esp));
        assert_eq!(there, (ring, 0x2000, esp));
        assert_eq!(cpu.segment(Segment::Ss).selector, ss);
    }
}

#[test]
fn an_iret_to_where_nobody_may_go_faults_and_changes_nothing() {
    let refused = |from, frame: &[u32], vector, error| {
        let (mut cpu, memory) = returning(from, frame);
        let before = state(&cpu);
        let exit = run(&mut cpu, &memory, 1);
        let fault = Exit::Fault {
            vector,
            error: Some(error),
            cr2: 0,
        };
        assert_eq!(exit, fault, "{frame:x?}");
        assert_eq!(state(&cpu), before, "{frame:x?}");
    };
    // Inwards, and to a ring there is not.
    refused(3, &[0x2000, 0x61, 0x202], 13, 0x60);
    refused(1, &[0x2000, 0x60, 0x202], 13, 0x60);
    // Null; data; the LDT's, of which there is none; beyond the table; not present.
    refused(1, &[0x2000, 0x00, 0x202], 13, 0);
    refused(3, &[0x2000, 0x7B, 0x202], 13, 0x78);
    refused(3, &[0x2000, 0x77, 0x202], 13, 0x74);
    refused(3, &[0x2000, 0x103, 0x202], 13, 0x100);
    refused(3, &[0x2000, 0x83, 0x202], 11, 0x80);
    // Another ring's code.
    refused(1, &[0x2000, 0x71, 0x202], 13, 0x70);
    // Beyond the end of its segment, in the same ring and outwards.
    refused(3, &[0x2000, 0x93, 0x202], 13, 0);
    refused(1, &[0x2000, 0x93, 0x202, 0x7000, 0x7B], 13, 0);
    // The stack outside is null, another ring's, code, or not present.
    refused(1, &[0x2000, 0x73, 0x202, 0x7000, 0x03], 13, 0);
    refused(1, &[0x2000, 0x73, 0x202, 0x7000, 0x69], 13, 0x68);
    refused(1, &[0x2000, 0x73, 0x202, 0x7000, 0x79], 13, 0x78);
    refused(1, &[0x2000, 0x73, 0x202, 0x7000, 0x73], 13, 0x70);
    refused(1, &[0x2000, 0x73, 0x202, 0x7000, 0x8B], 12, 0x88);
}

#[test]
fn an_iret_of_a_nested_task_finds_none() {
    let (mut cpu, memory) = returning(1, &[0x2000, 0x61, 0x202]);
    cpu.set_eflags(flags::NT);
    let fault = Exit::Fault {
        vector: 10,
        error: Some(0),
        cr2: 0,
    };
    assert_eq!(run(&mut cpu, &memory, 1), fault);
}

#[test]
fn outside_the_kernels_segments_are_gone_and_its_flags_stay() {
    let frame = [0x2000, 0x73, 0x3000 | flags::CF, 0x7000, 0x7B];
    let (mut cpu, memory) = returning(1, &frame);
    cpu.load_segment(Segment::Es, 0x7B).unwrap();
    // mov eax, [0x9000]
    memory.write_bytes(0x2000, &[0xA1, 0, 0x90, 0, 0]).unwrap();
    let fault = Exit::Fault {
        vector: 13,
        error: Some(0),
        cr2: 0,
    };
    assert_eq!(run(&mut cpu, &memory, 2), fault);
    assert_eq!(cpu.segment(Segment::Ds).selector, 0);
    assert_eq!(cpu.segment(Segment::Es).selector, 0x7B);
    // Neither IF nor IOPL is for rings 1 and 3 to set.
    assert_eq!(cpu.eflags(), flags::CF | flags::ALWAYS | flags::IF);
}

#[test]
fn a_segment_ends_where_its_limit_says() {
    // Upwards from 0x3000, 4 KiB by bytes and by pages; downwards above them, of 32 and of 16 bits; read only.
    let by_pages = 0x00C0_F300_3000_0000;
    let small = SMALL | 0x3000 << 16;
    let down = 0x0040_F700_3000_0FFF;
    let narrow_down = 0x0000_F700_3000_0FFF;
    let read_only = 0x0040_F100_3000_0FFF;
    const LOAD: u8 = 0xA1;
    const LOAD_BYTE: u8 = 0xA0;
    const STORE: u8 = 0xA3;
    for (entry, opcode, offset, inside) in [
        (small, LOAD, 0xFFC, true),
        (small, LOAD, 0xFFD, false),
        (small, LOAD_BYTE, 0xFFF, true),
        (small, LOAD_BYTE, 0x1000, false),
        (small, LOAD, 0xFFFF_FFFE, false),
        (small, STORE, 0xFFC, true),
        (small, STORE, 0xFFD, false),
        (by_pages, LOAD, 0xFFC, true),
        (by_pages, LOAD, 0xFFD, false),
        (down, LOAD, 0xFFF, false),
        (down, LOAD, 0x1000, true),
        (down, LOAD, 0xFFFD, true),
        (narrow_down, LOAD, 0x1000, true),
        (narrow_down, LOAD, 0xFFFC, true),
        (narrow_down, LOAD, 0xFFFD, false),
        (read_only, LOAD, 0x10, true),
        (read_only, STORE, 0x10, false),
    ] {
        for (segment, prefix, vector) in [(Segment::Ds, 0x3E, 13), (Segment::Ss, 0x36, 12)] {
            let mut code = vec![prefix, opcode];
            code.extend(u32::to_le_bytes(offset));
            let (mut cpu, memory) = with_entries(&code, 3, &[entry]);
            if cpu.load_segment(segment, 0x83).is_err() {
                // What can't be written is no stack.
                assert_eq!((segment, entry), (Segment::Ss, read_only));
                continue;
            }
            let linear = offset.wrapping_add(0x3000);
            if inside && opcode != STORE {
                memory.store(linear, 0x5A_u8).unwrap();
            }
            cpu.set_register(Register::Eax, 0x77);
            let exit = run(&mut cpu, &memory, 1);
            if inside {
                assert_eq!(exit, Exit::Budget, "{entry:x} {offset:x}");
                let value: u8 = memory.load(linear).unwrap();
                assert_eq!(value, cpu.register(Register::Eax) as u8);
            } else {
                let fault = Exit::Fault {
                    vector,
                    error: Some(0),
                    cr2: 0,
                };
                assert_eq!(exit, fault, "{entry:x} {offset:x}");
                assert_eq!(cpu.eip(), CODE);
            }
        }
    }
}

#[test]
fn page_faults_of_reads_fetches_and_whole_tables_say_so_too() {
    let directory = (PAGES - 2) * PAGE;
    let table = (PAGES - 1) * PAGE;
    // mov eax, [0x9000]
    let load = [0xA1, 0x00, 0x90, 0, 0];
    for (ring, flags, error) in [
        (1, 0_u32, Some(0)),
        (3, 0, Some(4)),
        (3, 3, Some(5)),
        (1, 3, None),
        (1, 1, None),
        (3, 5, None),
    ] {
        let (mut cpu, memory) = machine(&load, ring);
        memory.store(entry_of(9), 0x9000 | flags).unwrap();
        let exit = run(&mut cpu, &memory, 1);
        let fault = error.map(|error| Exit::Fault {
            vector: 14,
            error: Some(error),
            cr2: 0x9000,
        });
        assert_eq!(exit, fault.unwrap_or(Exit::Budget));
        // Read, and not written.
        let used = u32::from(error.is_none()) * 0x20;
        assert_eq!(memory.load(entry_of(9)), Ok(0x9000 | flags | used));
    }
    // A fetch is a read to a processor without NX.
    for (ring, flags, error) in [(1, 0_u32, 0), (3, 0, 4), (3, 3, 5)] {
        let (mut cpu, memory) = machine(&[], ring);
        memory.store(entry_of(9), 0x9000 | flags).unwrap();
        cpu.set_eip(0x9123);
        let fault = Exit::Fault {
            vector: 14,
            error: Some(error),
            cr2: 0x9123,
        };
        assert_eq!(run(&mut cpu, &memory, 1), fault);
    }
    // The directory's entry counts as the page's does: here for the code itself.
    for (ring, flags, error) in [(3, 3_u32, 5), (3, 0, 4), (1, 0, 0)] {
        let (mut cpu, memory) = machine(&load, ring);
        memory.store(directory, table | flags).unwrap();
        let fault = Exit::Fault {
            vector: 14,
            error: Some(error),
            cr2: CODE,
        };
        assert_eq!(run(&mut cpu, &memory, 1), fault);
    }
    // And one that may not be written: mov [0x9000], eax.
    let (mut cpu, memory) = machine(&[0xA3, 0x00, 0x90, 0, 0], 1);
    memory.store(directory, table | 5).unwrap();
    let fault = Exit::Fault {
        vector: 14,
        error: Some(3),
        cr2: 0x9000,
    };
    assert_eq!(run(&mut cpu, &memory, 1), fault);
}
