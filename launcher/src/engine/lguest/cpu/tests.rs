//! The processor as a whole: little programs in flat memory. Instructions one by one are compared
//! with a real processor elsewhere.

mod protection;

use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;
use crate::engine::lguest::memory::{GuestMemory, PAGE};

/// Memory in pages; the last two hold the page directory and one table.
const PAGES: u32 = 64;
const CODE: u32 = 0x1000;
const STACK: u32 = 0x8000;
static RUNNING: AtomicBool = AtomicBool::new(false);

/// The linear address of a page's table entry is also where it is in memory.
fn entry_of(page: u32) -> u32 {
    (PAGES - 1) * PAGE + 4 * page
}

/// A processor in ring 1 or 3, all memory mapped where it is, flat segments, code at [`CODE`].
fn machine(code: &[u8], ring: u16) -> (Cpu, GuestMemory) {
    let memory = GuestMemory::new(PAGES * PAGE).unwrap();
    let directory = (PAGES - 2) * PAGE;
    memory.store(directory, ((PAGES - 1) * PAGE) | 7).unwrap();
    for page in 0..PAGES {
        memory.store(entry_of(page), (page * PAGE) | 7).unwrap();
    }
    memory.write_bytes(CODE, code).unwrap();
    let mut cpu = Cpu::new(PAGES);
    let mut gdt = [0; GDT_ENTRIES];
    gdt[12] = 0x00CF_BB00_0000_FFFF;
    gdt[13] = 0x00CF_B300_0000_FFFF;
    gdt[14] = 0x00CF_FB00_0000_FFFF;
    gdt[15] = 0x00CF_F300_0000_FFFF;
    cpu.set_gdt(&gdt);
    cpu.set_cr3(directory);
    let (code, data) = if ring == 3 {
        (0x73, 0x7B)
    } else {
        (0x61, 0x69)
    };
    cpu.load_segment(Segment::Cs, code).unwrap();
    for segment in [Segment::Ss, Segment::Ds, Segment::Es] {
        cpu.load_segment(segment, data).unwrap();
    }
    cpu.set_register(Register::Esp, STACK);
    cpu.set_eip(CODE);
    (cpu, memory)
}

fn run(cpu: &mut Cpu, memory: &GuestMemory, budget: u64) -> Exit {
    cpu.run(memory, budget, &RUNNING)
}

/// mov ecx, n; xor eax, eax; again: add eax, ecx; dec ecx; jnz again; int 0x1F
fn sum_to(n: u8) -> Vec<u8> {
    let mut code = vec![0xB9, n, 0, 0, 0, 0x31, 0xC0];
    code.extend([0x01, 0xC8, 0x49, 0x75, 0xFB, 0xCD, 0x1F]);
    code
}

#[test]
fn a_loop_adds_up() {
    let (mut cpu, memory) = machine(&sum_to(100), 1);
    let end = CODE + 14;
    assert_eq!(
        run(&mut cpu, &memory, 1_000_000),
        Exit::Interrupt {
            vector: 0x1F,
            at: end - 2
        }
    );
    assert_eq!(cpu.register(Register::Eax), 5050);
    assert_eq!(cpu.eip(), end);
    assert_eq!(cpu.retired(), 2 + 3 * 100 + 1);
}

#[test]
fn any_budget_stops_after_exactly_so_many_instructions_and_the_end_is_the_same() {
    let (mut whole, whole_memory) = machine(&sum_to(20), 1);
    run(&mut whole, &whole_memory, 1000);
    for budget in 1..30 {
        let (mut cpu, memory) = machine(&sum_to(20), 1);
        for n in 1.. {
            let exit = run(&mut cpu, &memory, budget);
            if exit != Exit::Budget {
                break;
            }
            assert_eq!(cpu.retired(), n * budget);
        }
        assert_eq!(cpu.retired(), whole.retired());
        assert_eq!(cpu.register(Register::Eax), 210);
        assert_eq!(cpu.eip(), whole.eip());
    }
}

#[test]
fn code_that_writes_the_next_instruction_runs_what_it_wrote() {
    // mov byte [0x1008], 0x42 (inc edx); nop; then at 0x1008 inc eax (0x40); int 0x1F
    let code = [0xC6, 0x05, 0x08, 0x10, 0, 0, 0x42, 0x90, 0x40, 0xCD, 0x1F];
    let (mut cpu, memory) = machine(&code, 1);
    run(&mut cpu, &memory, 100);
    assert_eq!(
        (cpu.register(Register::Eax), cpu.register(Register::Edx)),
        (0, 1)
    );
}

#[test]
fn code_that_a_device_wrote_is_run_as_it_is_now() {
    let (mut cpu, memory) = machine(&sum_to(4), 1);
    run(&mut cpu, &memory, 1000);
    memory.store(CODE + 1, 10_u8).unwrap();
    cpu.set_eip(CODE);
    run(&mut cpu, &memory, 1000);
    assert_eq!(cpu.register(Register::Eax), 55);
}

#[test]
fn code_that_is_rewritten_ever_again_is_run_as_it_is_now() {
    // mov eax, n; int 0x1F: more often than there are blocks
    let (mut cpu, memory) = machine(&[0xB8, 0, 0, 0, 0, 0xCD, 0x1F], 1);
    for n in 0..20_000_u32 {
        memory.store(CODE + 1, n).unwrap();
        cpu.set_eip(CODE);
        run(&mut cpu, &memory, 10);
        assert_eq!(cpu.register(Register::Eax), n);
    }
}

#[test]
fn more_code_than_is_kept_is_run_as_any_other() {
    // 20,000 jumps to the next instruction, each a block; loop to the first; int 0x1F
    let (start, jumps) = (0x10000, 20_000);
    let mut code = [0xEB, 0].repeat(jumps);
    let back = -(2 * jumps as i32 + 7);
    code.extend([0x49, 0x0F, 0x85]);
    code.extend(back.to_le_bytes());
    code.extend([0xCD, 0x1F]);
    let (mut cpu, memory) = machine(&[], 1);
    memory.write_bytes(start, &code).unwrap();
    cpu.set_eip(start);
    cpu.set_register(Register::Ecx, 3);
    run(&mut cpu, &memory, 1_000_000);
    assert_eq!(cpu.eip(), start + code.len() as u32);
    assert_eq!(cpu.retired(), 3 * (jumps as u64 + 2) + 1);
}

#[test]
fn code_whose_page_went_elsewhere_is_run_from_where_it_is_now() {
    // jmp 0x9000; there: mov eax, n; int 0x1F
    let there = |n| [0xB8, n, 0, 0, 0, 0xCD, 0x1F];
    let flushes: [fn(&mut Cpu); 4] = [
        |cpu| cpu.flush_page(0x9FFF),
        |cpu| cpu.flush_below(0xA000),
        Cpu::flush_all,
        |cpu| cpu.set_cr3(cpu.cr3()),
    ];
    for flush in flushes {
        let (mut cpu, memory) = machine(&[0xE9, 0xFB, 0x7F, 0, 0], 1);
        for n in [1, 2] {
            let page = 8 + u32::from(n);
            memory.write_bytes(page * PAGE, &there(n)).unwrap();
        }
        for (page, n) in [(9, 1), (9, 1), (10, 2), (10, 2), (9, 1)] {
            memory.store(entry_of(9), (page * PAGE) | 7).unwrap();
            flush(&mut cpu);
            for eip in [CODE, CODE, 0x9000] {
                cpu.set_eip(eip);
                run(&mut cpu, &memory, 10);
                assert_eq!(cpu.register(Register::Eax), n);
            }
        }
    }
}

#[test]
fn an_instruction_may_lie_across_two_pages_and_follow_the_second() {
    // mov eax, imm32 begins 2 bytes before the page's end.
    let (mut cpu, memory) = machine(&[], 3);
    let at = 0x3000 - 2;
    memory
        .write_bytes(at, &[0xB8, 0x11, 0x22, 0x33, 0x44, 0xCD, 0x80])
        .unwrap();
    memory
        .write_bytes(0x5000, &[0x66, 0x77, 0x88, 0xCD, 0x80])
        .unwrap();
    cpu.set_eip(at);
    run(&mut cpu, &memory, 10);
    assert_eq!(cpu.register(Register::Eax), 0x4433_2211);
    memory.store(entry_of(3), 0x5007_u32).unwrap();
    cpu.flush_page(0x3000);
    cpu.set_eip(at);
    run(&mut cpu, &memory, 10);
    assert_eq!(cpu.register(Register::Eax), 0x8877_6611);
}

#[test]
fn page_faults_say_what_was_done_and_by_whom() {
    // mov [0x9000], eax
    let store = [0xA3, 0x00, 0x90, 0, 0];
    for (ring, flags, error) in [
        (1, 0, Some(2)),
        (1, 5, Some(3)),
        (3, 0, Some(6)),
        (3, 3, Some(7)),
        (3, 5, Some(7)),
        (1, 3, None),
    ] {
        let (mut cpu, memory) = machine(&store, ring);
        memory.store(entry_of(9), 0x9000 | flags).unwrap();
        let exit = run(&mut cpu, &memory, 1);
        match error {
            Some(error) => {
                let fault = Exit::Fault {
                    vector: 14,
                    error: Some(error),
                    cr2: 0x9000,
                };
                assert_eq!(exit, fault);
                assert_eq!(cpu.eip(), CODE);
                assert_eq!(memory.load::<u32>(entry_of(9)), Ok(0x9000 | flags));
            }
            None => {
                assert_eq!(exit, Exit::Budget);
                assert_eq!(memory.load::<u32>(entry_of(9)), Ok(0x9000 | flags | 0x60));
            }
        }
    }
}

#[test]
fn page_tables_that_break_the_hosts_rules_end_the_guest() {
    let load = [0xA1, 0x00, 0x90, 0, 0];
    let linear = 0x9000;
    let broken = |change: &dyn Fn(&mut Cpu, &GuestMemory)| {
        let (mut cpu, memory) = machine(&load, 3);
        change(&mut cpu, &memory);
        match run(&mut cpu, &memory, 1) {
            Exit::Broken(broken) => broken,
            exit => panic!("it goes on: {exit:?}"),
        }
    };
    // Write-through, a large page, and beyond memory.
    for entry in [
        0x9000 | 7 | 8,
        0x9000 | 7 | 0x80,
        (PAGES * PAGE) | 7,
        !0xfff | 7,
    ] {
        let end = broken(&|_, memory| memory.store(entry_of(9), entry).unwrap());
        assert_eq!(end, Broken::TableEntry { entry, linear });
    }
    // The same of a table, which must not be uncached, global, or other things, either. The code is found first.
    let (directory, table) = ((PAGES - 2) * PAGE, (PAGES - 1) * PAGE);
    for entry in [
        table | 7 | 8,
        table | 7 | 0x10,
        table | 7 | 0x80,
        table | 7 | 0x100,
        (PAGES * PAGE) | 7,
        !0xfff | 7,
    ] {
        let end = broken(&|_, memory| memory.store(directory, entry).unwrap());
        let linear = CODE;
        assert_eq!(end, Broken::DirectoryEntry { entry, linear });
    }
    let end = broken(&|cpu, _| cpu.set_cr3(PAGES * PAGE));
    let directory_beyond = Broken::Directory {
        directory: PAGES * PAGE,
    };
    assert_eq!(end, directory_beyond);
    // The last 4 MiB are the host's, whatever the guest has there.
    let end = broken(&|_, memory| {
        memory.store(directory + 1023 * 4, table | 7).unwrap();
        memory.store(CODE + 1, 0xFFC0_9000_u32).unwrap();
    });
    let linear = 0xFFC0_9000;
    assert_eq!(end, Broken::SwitcherPages { linear });
}

#[test]
fn a_trap_is_delivered_on_the_other_stack_and_iret_comes_back() {
    // int 0x80 in ring 3; the handler in ring 1: iret
    let (mut cpu, memory) = machine(&[0xCD, 0x80, 0x90], 3);
    memory.store(0x2000, 0xCF_u8).unwrap();
    cpu.set_register(Register::Esp, 0x7000);
    assert_eq!(
        run(&mut cpu, &memory, 9),
        Exit::Interrupt {
            vector: 0x80,
            at: CODE
        }
    );
    let delivery = Delivery {
        stack: Some((0x69, STACK)),
        eflags: cpu.eflags(),
        error: None,
        selector: 0x61,
        offset: 0x2000,
    };
    cpu.deliver(&memory, &delivery).unwrap();
    assert_eq!((cpu.ring(), cpu.register(Register::Esp)), (1, STACK - 20));
    assert_eq!(memory.load::<u32>(STACK - 20), Ok(CODE + 2));
    assert_eq!(run(&mut cpu, &memory, 2), Exit::Budget);
    assert_eq!((cpu.ring(), cpu.eip()), (3, CODE + 3));
    assert_eq!(cpu.register(Register::Esp), 0x7000);
    assert_eq!(cpu.segment(Segment::Cs).selector, 0x73);
}

#[test]
fn a_repeated_move_that_faults_goes_on_where_it_was() {
    // rep movsd from 0x2000 to 0x8FF0, eight of them; page 9 comes after the fault.
    let (mut cpu, memory) = machine(&[0xF3, 0xA5, 0xCD, 0x80], 3);
    for n in 0..8 {
        memory.store(0x2000 + 4 * n, n).unwrap();
    }
    memory.store(entry_of(9), 0_u32).unwrap();
    cpu.set_register(Register::Ecx, 8);
    cpu.set_register(Register::Esi, 0x2000);
    cpu.set_register(Register::Edi, 0x8FF0);
    let exit = run(&mut cpu, &memory, 9);
    assert!(
        matches!(
            exit,
            Exit::Fault {
                vector: 14,
                cr2: 0x9000,
                ..
            }
        ),
        "{exit:?}"
    );
    assert_eq!((cpu.register(Register::Ecx), cpu.eip()), (4, CODE));
    memory.store(entry_of(9), 0x9007_u32).unwrap();
    assert!(matches!(run(&mut cpu, &memory, 9), Exit::Interrupt { .. }));
    assert_eq!(memory.load::<u32>(0x9000 + 12), Ok(7));
}

/// Instructions on registers of 32 bits, of which a block makes what it can: flags that are not made, pairs, comparisons
/// joined with jumps. None of them writes esp.
fn on_registers() -> impl Strategy<Value = Vec<u8>> {
    let register = || (0..8_u8).prop_filter("esp", |n| *n != 4);
    let two = move |opcodes: &'static [u8]| {
        (proptest::sample::select(opcodes), register(), register())
            .prop_map(|(opcode, to, from)| vec![opcode, 0xC0 | from << 3 | to])
    };
    prop_oneof![
        // add or adc sbb and sub xor cmp; test, mov
        4 => two(&[0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x39, 0x85, 0x89]),
        // The same with a number.
        2 => (0..8_u8, register(), any::<i8>())
            .prop_map(|(kind, to, n)| vec![0x83, 0xC0 | kind << 3 | to, n as u8]),
        // rol ror rcl rcr shl shr sar, also by nothing
        2 => (proptest::sample::select(&[0, 1, 2, 3, 4, 5, 7][..]), register(), 0..34_u8)
            .prop_map(|(kind, to, n)| vec![0xC1, 0xC0 | kind << 3 | to, n]),
        // inc dec; mov of a number
        2 => (proptest::sample::select(&[0x40_u8, 0x48][..]), register())
            .prop_map(|(opcode, to)| vec![opcode | to]),
        1 => (register(), any::<u32>())
            .prop_map(|(to, n)| [&[0xB8 | to][..], &n.to_le_bytes()].concat()),
        // lea, with 32 and with 16 bits of address; of 8 and 16 bits; movzx; lahf
        2 => (register(), register(), register(), 0..4_u8, any::<i8>()).prop_map(
            |(to, base, index, scale, n)| {
                vec![0x8D, 0x44 | to << 3, scale << 6 | index << 3 | base, n as u8]
            }
        ),
        1 => (register(), any::<i8>()).prop_map(|(to, n)| vec![0x67, 0x8D, 0x40 | to << 3, n as u8]),
        1 => two(&[0x00, 0x28, 0x88]),
        1 => two(&[0x01, 0x29, 0x89]).prop_map(|code| [&[0x66][..], &code].concat()),
        1 => two(&[0xB6, 0xB7]).prop_map(|code| [&[0x0F][..], &code].concat()),
        1 => Just(vec![0x9F]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn what_a_block_makes_of_instructions_is_what_they_make_one_by_one(
        code in proptest::collection::vec(on_registers(), 1..30),
        registers in proptest::array::uniform7(any::<u32>()),
        jump in 0x70..0x80_u8,
    ) {
        let count = code.len() as u64 + 1;
        let mut code = code.concat();
        // jcc over an inc; int 0x1F
        code.extend([jump, 1, 0x40, 0xCD, 0x1F]);
        const ALL: [Register; 7] = [
            Register::Eax,
            Register::Ecx,
            Register::Edx,
            Register::Ebx,
            Register::Ebp,
            Register::Esi,
            Register::Edi,
        ];
        let ends = [u64::MAX, 1].map(|budget| {
            let (mut cpu, memory) = machine(&code, 1);
            for (register, value) in ALL.into_iter().zip(registers) {
                cpu.set_register(register, value);
            }
            while run(&mut cpu, &memory, budget) == Exit::Budget {}
            assert!(cpu.retired() >= count);
            let state = (cpu.retired(), cpu.eip(), cpu.eflags());
            (state, ALL.map(|register| cpu.register(register)))
        });
        prop_assert_eq!(ends[0], ends[1]);
    }
}
