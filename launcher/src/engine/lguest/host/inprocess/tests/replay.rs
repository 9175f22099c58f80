//! Interrupts between any two instructions, and the same again: a run is known by where in it they came.

use super::*;
use proptest::collection::vec;

/// Where the code is, and where each handler is behind it.
const PROGRAM: u32 = 0x11000;
const FAULT_AT: u32 = PROGRAM + 0xd0;
const CALL_AT: u32 = PROGRAM + 0xf0;
const IRQ_AT: u32 = PROGRAM + 0x100;
const OVER_AT: u32 = PROGRAM + 0x120;
/// Where it must not be interrupted: from where its handlers allow interrupts again to their end.
const WINDOW: std::ops::Range<u32> = IRQ_AT + 0x12..IRQ_AT + 0x1d;

/// The stack for what comes from ring 3, and a descriptor table.
const OTHER_STACK: u32 = 0x38000;
const GDT: u32 = 0x60000;

/// The interrupt there is a handler for, and how many instructions that has.
const IRQ_NUMBER: u8 = 2;
const IRQ_LENGTH: u64 = 8;

/// What is interrupted: arithmetic that goes from flag to flag, a loop, strings, a call, x87, code that changes itself, a stretch without
/// interrupts, a page fault, and ring 3 with its calls.
#[rustfmt::skip]
const BODY: &[u8] = &[
    0xc7, 0x05, 0x00, 0x00, 0x02, 0xc0, 0x00, 0x02, 0x00, 0x00, // movl $0x200,0xc0020000
    0xb9, 0x05, 0x00, 0x00, 0x00, // mov $0x5,%ecx
    0xb8, 0x78, 0x56, 0x34, 0x12, // mov $0x12345678,%eax
    0xf9, // stc
    0x11, 0xc8, // adc %ecx,%eax
    0xc1, 0xc2, 0x03, // rol $0x3,%edx
    0x6b, 0xd8, 0x07, // imul $0x7,%eax,%ebx
    0x11, 0xda, // adc %ebx,%edx
    0x89, 0x14, 0x8d, 0x00, 0x01, 0x05, 0xc0, // mov %edx,-0x3ffaff00(,%ecx,4)
    0x83, 0xf9, 0x03, // cmp $0x3,%ecx
    0x76, 0x02, // jbe c001102d
    0x31, 0xd0, // xor %edx,%eax
    0x49, // dec %ecx
    0x75, 0xe5, // jne c0011015
    0xbe, 0x00, 0x01, 0x05, 0xc0, // mov $0xc0050100,%esi
    0xbf, 0xf3, 0x1f, 0x05, 0xc0, // mov $0xc0051ff3,%edi
    0xb9, 0x1e, 0x00, 0x00, 0x00, // mov $0x1e,%ecx
    0xfc, // cld
    0xf3, 0xa4, // rep movsb %ds:(%esi),%es:(%edi)
    0xe8, 0x5f, 0x00, 0x00, 0x00, // call c00110a6
    0x9c, // pushf
    0x8f, 0x05, 0x40, 0x01, 0x05, 0xc0, // pop 0xc0050140
    0xd9, 0xeb, // fldpi
    0xd9, 0xe8, // fld1
    0xde, 0xc1, // faddp %st,%st(1)
    0xdb, 0x1d, 0x44, 0x01, 0x05, 0xc0, // fistpl 0xc0050144
    0xc6, 0x05, 0x62, 0x10, 0x01, 0xc0, 0x42, // movb $0x42,0xc0011062
    0x90, // nop
    0x40, // inc %eax
    0xc7, 0x05, 0x00, 0x00, 0x02, 0xc0, 0x00, 0x00, 0x00, 0x00, // movl $0x0,0xc0020000
    0xff, 0x05, 0x48, 0x01, 0x05, 0xc0, // incl 0xc0050148
    0x0f, 0xc1, 0x05, 0x48, 0x01, 0x05, 0xc0, // xadd %eax,0xc0050148
    0xc7, 0x05, 0x00, 0x00, 0x02, 0xc0, 0x00, 0x02, 0x00, 0x00, // movl $0x200,0xc0020000
    0xa3, 0x00, 0x00, 0x00, 0x10, // mov %eax,0x10000000
    0x6a, 0x7b, // push $0x7b
    0x68, 0x00, 0x50, 0x03, 0xc0, // push $0xc0035000
    0x68, 0x02, 0x02, 0x00, 0x00, // push $0x202
    0x6a, 0x73, // push $0x73
    0x68, 0xb3, 0x10, 0x01, 0xc0, // push $0xc00110b3
    0xb9, 0x7b, 0x00, 0x00, 0x00, // mov $0x7b,%ecx
    0x8e, 0xd9, // mov %ecx,%ds
    0x8e, 0xc1, // mov %ecx,%es
    0xcf, // iret
    0x55, // push %ebp
    0x89, 0xe5, // mov %esp,%ebp
    0x8d, 0x44, 0x40, 0x03, // lea 0x3(%eax,%eax,2),%eax
    0x0f, 0xc8, // bswap %eax
    0x19, 0xd2, // sbb %edx,%edx
    0xc9, // leave
    0xc3, // ret
    0xb9, 0x03, 0x00, 0x00, 0x00, // mov $0x3,%ecx
    0x01, 0xc8, // add %ecx,%eax
    0x50, // push %eax
    0xcd, 0x80, // int $0x80
    0x5a, // pop %edx
    0xe2, 0xf8, // loop c00110b8
    0xcd, 0x21, // int $0x21
];

/// Of page faults: goes on behind the instruction, by the end of the handler of interrupts.
#[rustfmt::skip]
const FAULT: &[u8] = &[
    0x83, 0xc4, 0x04, // add $0x4,%esp
    0x83, 0x04, 0x24, 0x05, // addl $0x5,(%esp)
    0xeb, 0x39, // jmp c0011112
];

/// Of `int $0x80`, which leaves interrupts as they are.
#[rustfmt::skip]
const CALL: &[u8] = &[
    0xff, 0x05, 0x4c, 0x01, 0x05, 0xc0, // incl 0xc005014c
    0x6b, 0xc0, 0x03, // imul $0x3,%eax,%eax
    0xcf, // iret
];

/// Of interrupts: spoils all registers and flags and brings them back, and returns as a kernel of 2.6.23 does.
#[rustfmt::skip]
const IRQ: &[u8] = &[
    0x60, // pusha
    0xff, 0x05, 0x00, 0x00, 0x05, 0xc0, // incl 0xc0050000
    0xb8, 0xff, 0xff, 0xff, 0xff, // mov $0xffffffff,%eax
    0x83, 0xc0, 0x01, // add $0x1,%eax
    0x89, 0xc2, // mov %eax,%edx
    0x61, // popa
    0xc7, 0x05, 0x00, 0x00, 0x02, 0xc0, 0x00, 0x02, 0x00, 0x00, // movl $0x200,0xc0020000
    0xcf, // iret
];

/// Of `int $0x21`: sends a block, which is the end.
#[rustfmt::skip]
const OVER: &[u8] = &[
    0xa3, 0x50, 0x01, 0x05, 0xc0, // mov %eax,0xc0050150
    0x89, 0x15, 0x54, 0x01, 0x05, 0xc0, // mov %edx,0xc0050154
    0xb8, 0x0d, 0x00, 0x00, 0x00, // mov $0xd,%eax
    0xba, 0x00, 0x00, 0x00, 0x00, // mov $0x0,%edx
    0xbb, 0x00, 0x02, 0x05, 0x00, // mov $0x50200,%ebx
    0xcd, 0x1f, // int $0x1f
    0xeb, 0xfe, // jmp c001113c
];

/// Memory with the program in it, and code that makes ready for it.
fn program() -> (GuestMemory, Code) {
    let memory = memory();
    for (at, code) in [
        (PROGRAM, BODY),
        (FAULT_AT, FAULT),
        (CALL_AT, CALL),
        (IRQ_AT, IRQ),
        (OVER_AT, OVER),
    ] {
        memory.write_bytes(at, code).unwrap();
    }
    for (entry, descriptor) in [
        (12, 0x00cf_9b00_0000_ffff_u64),
        (13, 0x00cf_9300_0000_ffff),
        (14, 0x00cf_fb00_0000_ffff),
        (15, 0x00cf_f300_0000_ffff),
    ] {
        memory.store(GDT + entry * 8, descriptor).unwrap();
    }
    memory
        .store(DATA + 1120, PAGE_OFFSET + WINDOW.start)
        .unwrap();
    memory.store(DATA + 1124, PAGE_OFFSET + WINDOW.end).unwrap();
    let for_all = 0x6000;
    let gates = [
        (14, FAULT_AT, INTERRUPT_GATE),
        (0x80, CALL_AT, TRAP_GATE | for_all),
        (0x21, OVER_AT, TRAP_GATE | for_all),
        (32 + u32::from(IRQ_NUMBER), IRQ_AT, INTERRUPT_GATE),
    ];
    let code = Code::init()
        .call(3, GDT, 16, 0)
        .call(7, 0x69, PAGE_OFFSET + OTHER_STACK, 1);
    let code = gates.into_iter().fold(code, |code, (vector, at, kind)| {
        let at = PAGE_OFFSET + at;
        code.call(6, vector, at & 0xffff, at & 0xffff_0000 | kind)
    });
    // jmp PROGRAM
    let next = CODE + code.0.len() as u32 + 5;
    let code = code.raw(&[0xe9]).raw(&(PROGRAM - next).to_le_bytes());
    (memory, code)
}

/// All that a guest is at one moment, save what time it was told.
#[derive(Debug, PartialEq, Clone)]
struct Moment {
    retired: u64,
    place: (u32, u32, u8),
    registers: [u32; 8],
    segments: [u16; 6],
    memory: Vec<u8>,
}

impl Moment {
    fn of(guest: &InProcess<'_>) -> Self {
        let mut memory = vec![0; guest.memory.len()];
        guest.memory.read_bytes(0, &mut memory).unwrap();
        memory[DATA as usize + 12..DATA as usize + 20].fill(0);
        use Register::{Eax, Ebp, Ebx, Ecx, Edi, Edx, Esi, Esp};
        use Segment::{Cs, Ds, Es, Fs, Gs, Ss};
        let registers = [Eax, Ecx, Edx, Ebx, Esp, Ebp, Esi, Edi];
        let segments = [Es, Cs, Ss, Ds, Fs, Gs];
        let cpu = guest.cpu();
        Self {
            retired: cpu.retired(),
            place: (cpu.eip(), cpu.eflags(), cpu.ring()),
            registers: registers.map(|register| cpu.register(register)),
            segments: segments.map(|segment| cpu.segment(segment).selector),
            memory,
        }
    }

    /// What an interrupt leaves no trace in: not how long it took, how often there was one, and what is below the
    /// stacks' ends.
    fn without_interrupts(mut self) -> Self {
        let counter = &mut self.memory[SPARE as usize..SPARE as usize + 4];
        let count = u32::from_le_bytes(counter.try_into().unwrap());
        counter.fill(0);
        self.retired -= IRQ_LENGTH * u64::from(count);
        for top in [STACK, OTHER_STACK] {
            self.memory[top as usize - 256..top as usize].fill(0);
        }
        self
    }
}

/// Runs so many instructions more, or to the end, which it tells.
fn go(guest: &mut InProcess<'_>, instructions: u64) -> bool {
    let end = guest.cpu().retired().saturating_add(instructions);
    match guest.live(end) {
        Ok(Exit::Break) => false,
        Ok(Exit::Sent(_)) => true,
        other => panic!("{other:?} at {:#x}", guest.cpu().eip()),
    }
}

/// A run without interrupts: how many instructions it has, and its end.
fn undisturbed() -> (u64, Moment) {
    let (memory, code) = program();
    let mut guest = code.guest(&memory);
    assert!(go(&mut guest, u64::MAX));
    let end = Moment::of(&guest);
    // What it did shows in what it left: pi and 1 to the next integer, and three calls of ring 3's.
    assert_eq!(memory.load::<u32>(SPARE + 0x144), Ok(4));
    assert_eq!(memory.load::<u32>(SPARE + 0x14c), Ok(3));
    (end.retired, end.without_interrupts())
}

#[test]
fn an_interrupt_between_any_two_instructions_changes_nothing_of_the_rest() {
    let (length, end) = undisturbed();
    assert!(length > 100, "{length}");
    let mut late = 0;
    for at in 0..length {
        let (memory, code) = program();
        let mut guest = code.guest(&memory);
        assert!(!go(&mut guest, at));
        assert_eq!(guest.cpu().retired(), at);
        guest.irq(IRQ_NUMBER).unwrap();
        assert!(!go(&mut guest, 0));
        while guest.interrupts.is_pending() {
            let allowed = memory.load::<u32>(DATA) != Ok(0);
            let eip = guest.cpu().eip() - PAGE_OFFSET;
            assert!(
                !allowed || WINDOW.contains(&eip),
                "kept from it at {eip:#x}"
            );
            late += 1;
            assert!(!go(&mut guest, 1));
        }
        let cpu = guest.cpu();
        assert_eq!(cpu.eip(), PAGE_OFFSET + IRQ_AT);
        let frame = cpu.register(Register::Esp) - PAGE_OFFSET;
        let interrupted = memory.load::<u32>(frame).unwrap() - PAGE_OFFSET;
        assert!(
            !WINDOW.contains(&interrupted),
            "delivered at {interrupted:#x}"
        );
        let flags = memory.load::<u32>(frame + 8).unwrap();
        assert_ne!(flags & 0x200, 0, "delivered at {interrupted:#x}");
        assert!(go(&mut guest, u64::MAX));
        assert_eq!(memory.load::<u32>(SPARE), Ok(1));
        let moment = Moment::of(&guest).without_interrupts();
        assert!(
            moment == end,
            "an interrupt after {at} instructions shows in the end"
        );
    }
    assert!(late > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Once instruction by instruction, once in one go from each interrupt to the next.
    #[test]
    fn the_same_interrupts_at_the_same_instructions_are_the_same_run(
        gaps in vec(0u64..40, 0..24),
    ) {
        let (_, end) = undisturbed();
        let (memory, code) = program();
        let mut guest = code.guest(&memory);
        let mut gaps = gaps.into_iter();
        let mut left = gaps.next();
        // When they were delivered, and what it all was then.
        let mut came = Vec::new();
        let mut over = false;
        while !over {
            let raised = left == Some(0);
            left = match left {
                Some(0) => gaps.next(),
                left => left.map(|left| left - 1),
            };
            if raised {
                guest.irq(IRQ_NUMBER).unwrap();
            }
            let before = guest.interrupts.is_pending();
            over = go(&mut guest, u64::from(!raised));
            if before && !guest.interrupts.is_pending() {
                came.push(Moment::of(&guest));
            }
        }
        prop_assert_eq!(memory.load::<u32>(SPARE), Ok(came.len() as u32));
        let last = Moment::of(&guest);
        prop_assert!(last.clone().without_interrupts() == end);

        let (memory, code) = program();
        let mut guest = code.guest(&memory);
        for moment in came {
            let gap = moment.retired - guest.cpu().retired();
            prop_assert!(!go(&mut guest, gap));
            guest.irq(IRQ_NUMBER).unwrap();
            prop_assert!(!go(&mut guest, 0));
            let now = Moment::of(&guest);
            prop_assert!(now == moment, "another state after {} instructions", now.retired);
        }
        prop_assert!(go(&mut guest, u64::MAX));
        prop_assert!(Moment::of(&guest) == last);
    }
}
