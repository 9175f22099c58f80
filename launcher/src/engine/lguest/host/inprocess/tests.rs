//! Guests of a few instructions, good and hostile.

mod replay;
mod tables;

use proptest::prelude::*;

use super::*;
use crate::engine::lguest::dma as blocks;

const PAGE_OFFSET: u32 = 0xc000_0000;
const RAM: u32 = 2 << 20;
const DIRECTORY: u32 = 0x1000;
const TABLE: u32 = 0x2000;
/// Where tests put things: code, the guest's data, a stack, handlers.
const CODE: u32 = 0x10000;
const DATA: u32 = 0x20000;
const STACK: u32 = 0x30000;
const HANDLER: u32 = 0x40000;
const SPARE: u32 = 0x50000;

/// `int $0x1f`
const HYPERCALL: [u8; 2] = [0xcd, 0x1f];
/// `jmp .`
const FOR_EVER: [u8; 2] = [0xeb, 0xfe];

/// Memory with one page table, which maps all of it from the page offset on.
fn memory() -> GuestMemory {
    let memory = GuestMemory::new(RAM + PAGE).unwrap();
    for page in 0..RAM / PAGE {
        memory.store(TABLE + page * 4, (page * PAGE) | 7).unwrap();
    }
    memory
        .store(DIRECTORY + (PAGE_OFFSET >> 22) * 4, TABLE | 7)
        .unwrap();
    // The status of each call in the ring: none.
    memory.write_bytes(DATA + 20, &[0xff; 64]).unwrap();
    memory
}

/// Machine code, put together call by call.
#[derive(Default)]
struct Code(Vec<u8>);

impl Code {
    /// `mov` to eax, edx, ebx, ecx, and the call.
    fn call(mut self, number: u32, edx: u32, ebx: u32, ecx: u32) -> Self {
        for (opcode, value) in [(0xb8, number), (0xba, edx), (0xbb, ebx), (0xb9, ecx)] {
            self.0.push(opcode);
            self.0.extend(value.to_le_bytes());
        }
        self.raw(&HYPERCALL)
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// The guest says where its data are, and gets a stack.
    fn init() -> Self {
        let esp = (PAGE_OFFSET + STACK).to_le_bytes();
        Self::default().raw(&[0xbc]).raw(&esp).call(1, DATA, 0, 0)
    }

    /// Puts it into memory, and makes a guest of it.
    fn guest(self, memory: &GuestMemory) -> InProcess<'_> {
        memory.write_bytes(CODE, &self.0).unwrap();
        let start = Start {
            directory: DIRECTORY,
            entry: PAGE_OFFSET + CODE,
            page_offset: PAGE_OFFSET,
        };
        InProcess::initialize(memory, &start, 0x1234)
    }

    /// What a guest of this code dies of.
    fn death(self) -> String {
        let memory = memory();
        let mut guest = self.raw(&FOR_EVER).guest(&memory);
        match guest.run().unwrap() {
            Exit::Died(reason) => reason,
            other => panic!("it lives: {other:?}"),
        }
    }
}

/// A gate for the handler, as the two words of a descriptor.
fn gate(kind: u32) -> (u32, u32) {
    let offset = PAGE_OFFSET + HANDLER;
    (offset & 0xffff, (offset & 0xffff_0000) | kind)
}

const INTERRUPT_GATE: u32 = 0x8e00;
const TRAP_GATE: u32 = 0x8f00;

#[test]
fn a_guest_starts_as_the_interface_says_and_meets_its_host() {
    let memory = memory();
    memory.store(DATA + 1120, PAGE_OFFSET + 7).unwrap();
    let mut guest = Code::init().raw(&FOR_EVER).guest(&memory);
    let cpu = guest.cpu();
    assert_eq!(
        (cpu.eip(), cpu.eflags(), cpu.ring()),
        (PAGE_OFFSET + CODE, 0x202, 1)
    );
    for (segment, selector) in [
        (Segment::Cs, 0x61),
        (Segment::Ds, 0x69),
        (Segment::Es, 0x69),
        (Segment::Ss, 0x69),
        (Segment::Fs, 0),
        (Segment::Gs, 0),
    ] {
        assert_eq!(cpu.segment(segment).selector, selector);
    }
    assert_eq!(cpu.register(Register::Esi), 0);
    assert_eq!(guest.run().unwrap(), Exit::Break);
    assert_eq!(memory.load::<u32>(DATA + 1108), Ok(4 << 20));
    assert_eq!(memory.load::<u16>(DATA + 1112), Ok(0x1234));
    assert_eq!(memory.load::<u32>(DATA + 1116), Ok(1_000_000));
    assert!(memory.load::<u32>(DATA + 12).unwrap() > 1_000_000_000);
    // Registers are as they were: a call that has no result changes none.
    assert_eq!(guest.cpu().register(Register::Eax), 1);
}

#[test]
fn what_makes_no_sense_is_the_guests_death_with_its_reason() {
    let deaths = [
        (
            Code::default().call(0, 0, 0, 0),
            "hypercall 0 before LGUEST_INIT",
        ),
        (Code::init().call(1, DATA, 0, 0), "second LGUEST_INIT"),
        (Code::default().call(1, RAM + PAGE - 8, 0, 0), "bad address"),
        (Code::default().call(1, u32::MAX - 3, 0, 0), "bad address"),
        (Code::init().call(11, 0, 0, 0), "Bad hypercall 11"),
        (
            Code::init().call(u32::MAX, 0, 0, 0),
            "Bad hypercall 4294967295",
        ),
        (Code::init().call(3, SPARE, 33, 0), "too many gdt entries"),
        (Code::init().call(3, u32::MAX, 1, 0), "bad address"),
        // It would take away the segments it runs in.
        (Code::init().call(3, SPARE, 32, 0), "bad segment 0x0061"),
        (Code::init().call(4, !4095, 0, 0), "bad address"),
        (Code::init().call(6, 13, 0, 0x8500), "bad IDT type 5"),
        (Code::init().call(7, 0x68, 0, 1), "bad stack segment 0x68"),
        (Code::init().call(7, 0x69, 0, 3), "bad stack of 3 pages"),
        (
            Code::init().call(7, 0x69, 0x1000, 1),
            "bad stack page 0xfff",
        ),
        (Code::init().call(12, 2, SPARE, 0x101), "bad DMA key 0x2"),
        (Code::init().call(12, SPARE, u32::MAX, 0x101), "bad address"),
        (
            Code::init().call(12, SPARE, SPARE, 0xffff_ff01),
            "bad address",
        ),
        (Code::init().call(13, RAM + PAGE, SPARE, 0), "bad DMA key"),
        (Code::init().call(13, 0, RAM + PAGE - 4, 0), "bad address"),
        (Code::init().call(16, u32::MAX - 20, 0, 0), "bad address"),
        (Code::init().raw(&[0x0f, 0x0b]), "unhandled trap 6 at 0xc00"),
        // The first thing it touches is not there, and nobody handles that.
        (
            Code::init().raw(&[0xa1, 0, 0, 0, 0x10]),
            "unhandled trap 14",
        ),
    ];
    for (code, words) in deaths {
        let reason = code.death();
        assert!(reason.starts_with(words), "{reason} is not {words}");
    }
}

#[test]
fn the_dead_stay_dead_and_say_why_again() {
    let memory = memory();
    memory.write_bytes(SPARE, b"Power down\0").unwrap();
    let mut guest = Code::init().call(2, SPARE, 0, 0).guest(&memory);
    for _ in 0..3 {
        assert_eq!(guest.run().unwrap(), Exit::Died("CRASH: Power down".into()));
    }
    guest.irq(3).unwrap();
    assert!(matches!(guest.run().unwrap(), Exit::Died(_)));
}

#[test]
fn last_words_end_where_they_must() {
    let memory = memory();
    memory.write_bytes(SPARE, &[b'x'; 200]).unwrap();
    let mut guest = Code::init().call(2, SPARE, 0, 0).guest(&memory);
    let Exit::Died(reason) = guest.run().unwrap() else {
        panic!("it lives")
    };
    assert_eq!(reason.len(), "CRASH: ".len() + 127);
}

#[test]
fn the_ring_is_run_first_and_stops_where_the_launcher_is_needed() {
    let memory = memory();
    // Two sends in the ring, then a send by a call.
    for (n, key) in [(0, 0u32), (1, SPARE)] {
        let at = DATA + 84 + n * 16;
        for (word, value) in (0..).zip([13, key, SPARE + 100 * n, 0]) {
            memory.store(at + word * 4, value).unwrap();
        }
        memory.store(DATA + 20 + n, 0u8).unwrap();
    }
    let code = Code::init().call(13, SPARE + 4, SPARE + 200, 0);
    let mut guest = code.raw(&FOR_EVER).guest(&memory);
    let sent = |n: u32, key| {
        Exit::Sent(Sent {
            block: SPARE + 100 * n,
            key,
        })
    };
    assert_eq!(guest.run().unwrap(), sent(0, 0));
    // It is done, the next is not.
    assert_eq!(memory.load::<u8>(DATA + 20), Ok(0xff));
    assert_eq!(memory.load::<u8>(DATA + 21), Ok(0));
    assert_eq!(guest.run().unwrap(), sent(1, SPARE));
    assert_eq!(guest.run().unwrap(), sent(2, SPARE + 4));
    assert_eq!(guest.run().unwrap(), Exit::Break);
}

#[test]
fn binding_has_a_result_and_the_launcher_finds_the_block() {
    let memory = memory();
    let bind = Code::init().call(12, SPARE, SPARE + 0x1000, 0x203);
    // The result, where we can see it.
    let store = [&[0xa3][..], &(PAGE_OFFSET + SPARE + 0x800).to_le_bytes()].concat();
    let mut guest = bind.raw(&store).raw(&FOR_EVER).guest(&memory);
    assert_eq!(guest.run().unwrap(), Exit::Break);
    assert_eq!(memory.load::<u32>(SPARE + 0x800), Ok(1));
    let block = SPARE + 0x1000;
    assert_eq!(guest.get_dma(SPARE).unwrap(), Bound::Free { block, irq: 3 });
    let block = block + blocks::BYTES;
    assert_eq!(guest.get_dma(SPARE).unwrap(), Bound::Free { block, irq: 3 });
    assert_eq!(guest.get_dma(SPARE + 4).unwrap(), Bound::Nothing);
}

/// A guest with a handler for interrupt 2 that counts in memory and stays there.
fn interruptible(memory: &GuestMemory, kind: u32, then: Code) -> InProcess<'_> {
    let (low, high) = gate(kind);
    // `incl counter`
    let count = [
        &[0xff, 0x05][..],
        &(PAGE_OFFSET + SPARE).to_le_bytes(),
        &FOR_EVER,
    ]
    .concat();
    memory.write_bytes(HANDLER, &count).unwrap();
    let code = Code::init().call(6, 34, low, high);
    code.raw(&then.0).guest(memory)
}

#[test]
fn an_interrupt_comes_when_the_guest_allows_it_and_once() {
    let memory = memory();
    let mut guest = interruptible(&memory, INTERRUPT_GATE, Code::default().raw(&FOR_EVER));
    let counted = || memory.load::<u32>(SPARE).unwrap();
    guest.irq(2).unwrap();
    guest.irq(2).unwrap();
    assert_eq!(guest.run().unwrap(), Exit::Break);
    assert_eq!(counted(), 0);
    // Allowed, and masked; by a flag nobody tells of.
    memory.store(DATA, 0x200u32).unwrap();
    memory.store(DATA + 4, 1u32 << 2).unwrap();
    assert_eq!(guest.run().unwrap(), Exit::Break);
    assert_eq!(counted(), 0);
    memory.store(DATA + 4, 0u32).unwrap();
    assert_eq!(guest.run().unwrap(), Exit::Break);
    assert_eq!(counted(), 1);
    // It is in its handler, with interrupts off; the frame says they were on.
    assert_eq!(memory.load::<u32>(DATA), Ok(0));
    assert_eq!(memory.load::<u32>(STACK - 4).unwrap() & 0x200, 0x200);
    assert_eq!(memory.load::<u32>(STACK - 8), Ok(0x61));
    assert_eq!(
        guest.cpu().register(Register::Esp),
        PAGE_OFFSET + STACK - 12
    );
    memory.store(DATA, 0x200u32).unwrap();
    assert_eq!(guest.run().unwrap(), Exit::Break);
    assert_eq!(counted(), 1);
}

#[test]
fn an_interrupt_without_a_gate_stays_pending_until_there_is_one() {
    let memory = memory();
    let mut guest = interruptible(&memory, INTERRUPT_GATE, Code::default().raw(&FOR_EVER));
    memory.store(DATA, 0x200u32).unwrap();
    guest.irq(5).unwrap();
    assert_eq!(guest.run().unwrap(), Exit::Break);
    let (low, high) = gate(INTERRUPT_GATE);
    guest.gates.set(37, low, high).unwrap();
    assert_eq!(guest.run().unwrap(), Exit::Break);
    assert_eq!(memory.load::<u32>(SPARE), Ok(1));
}

#[test]
fn a_guest_on_its_way_out_of_an_interrupt_is_let_go_first() {
    let memory = memory();
    let wait = Code::default().raw(&FOR_EVER);
    let mut guest = interruptible(&memory, INTERRUPT_GATE, wait);
    memory.store(DATA, 0x200u32).unwrap();
    guest.run().unwrap();
    // All of its code, as it stands, is such a place.
    if let Some(data) = &mut guest.data {
        data.no_irq = PAGE_OFFSET + CODE..PAGE_OFFSET + CODE + 0x1000;
    }
    guest.irq(2).unwrap();
    guest.run().unwrap();
    assert_eq!(memory.load::<u32>(SPARE), Ok(0));
    if let Some(data) = &mut guest.data {
        data.no_irq = 0..0;
    }
    guest.run().unwrap();
    assert_eq!(memory.load::<u32>(SPARE), Ok(1));
}

#[test]
fn a_halted_guest_waits_for_an_interrupt_that_is_not_masked() {
    let memory = memory();
    let halt = Code::default().call(10, 0, 0, 0).raw(&FOR_EVER);
    let mut guest = interruptible(&memory, INTERRUPT_GATE, halt);
    memory.store(DATA + 4, 1u32 << 7).unwrap();
    assert_eq!(guest.run().unwrap(), Exit::Idle(None));
    guest.irq(7).unwrap();
    assert_eq!(guest.run().unwrap(), Exit::Idle(None));
    // Interrupts were off: halting allows them.
    guest.irq(2).unwrap();
    assert_eq!(guest.run().unwrap(), Exit::Break);
    assert_eq!(memory.load::<u32>(SPARE), Ok(1));
}

#[test]
fn the_clock_wakes_a_halted_guest() {
    let memory = memory();
    let (low, high) = gate(INTERRUPT_GATE);
    let sleep = Code::default()
        .call(6, 32, low, high)
        .call(9, 1_000_000, 0, 0)
        .call(10, 0, 0, 0)
        .raw(&FOR_EVER);
    let mut guest = interruptible(&memory, INTERRUPT_GATE, sleep);
    let Exit::Idle(Some(until)) = guest.run().unwrap() else {
        panic!("it does not wait for its clock")
    };
    std::thread::sleep(until.saturating_duration_since(std::time::Instant::now()));
    while guest.run().unwrap() != Exit::Break {}
    assert_eq!(memory.load::<u32>(SPARE), Ok(1));
}

#[test]
fn a_page_fault_says_where_and_why() {
    let memory = memory();
    let (low, high) = gate(TRAP_GATE);
    let load = [0xa1, 0x78, 0x56, 0x34, 0x12];
    let code = Code::init().call(6, 14, low, high).raw(&load);
    memory.write_bytes(HANDLER, &FOR_EVER).unwrap();
    memory.store(DATA, 0x200u32).unwrap();
    let mut guest = code.guest(&memory);
    assert_eq!(guest.run().unwrap(), Exit::Break);
    assert_eq!(guest.cpu().eip(), PAGE_OFFSET + HANDLER);
    assert_eq!(memory.load::<u32>(DATA + 8), Ok(0x1234_5678));
    // Error code: read, by the supervisor, of what is not there. A trap gate leaves the flag alone.
    assert_eq!(memory.load::<u32>(STACK - 16), Ok(0));
    assert_eq!(memory.load::<u32>(DATA), Ok(0x200));
}

#[test]
fn ports_read_as_ones_and_swallow_what_is_written() {
    let memory = memory();
    // inb $0x21; outb; inw with its prefix; then eax is stored.
    let accesses = [
        0xb8, 0, 0, 0, 0, 0xe4, 0x21, 0xe6, 0x21, 0xee, 0xef, 0x66, 0xed,
    ];
    let store = [
        &[0xa3][..],
        &(PAGE_OFFSET + SPARE).to_le_bytes(),
        &[0xed, 0xa3],
        &(PAGE_OFFSET + SPARE + 4).to_le_bytes(),
    ]
    .concat();
    let code = Code::init().raw(&accesses).raw(&store).raw(&FOR_EVER);
    let mut guest = code.guest(&memory);
    assert_eq!(guest.run().unwrap(), Exit::Break);
    assert_eq!(memory.load::<u32>(SPARE), Ok(0xffff));
    assert_eq!(memory.load::<u32>(SPARE + 4), Ok(u32::MAX));
}

#[test]
fn int_n_is_for_those_its_gate_is_for() {
    let memory = memory();
    let (low, high) = gate(TRAP_GATE);
    let dpl_3 = 0x6000;
    memory.write_bytes(HANDLER, &FOR_EVER).unwrap();
    let code = Code::init()
        .call(6, 0x80, low, high | dpl_3)
        .raw(&[0xcd, 0x80]);
    let mut guest = code.guest(&memory);
    assert_eq!(guest.run().unwrap(), Exit::Break);
    assert_eq!(guest.cpu().eip(), PAGE_OFFSET + HANDLER);
    // The gate of a fault is not for `int`: that is a fault of its own, at the instruction.
    let reason = Code::init().call(6, 14, low, high).raw(&[0xcd, 14]).death();
    assert!(reason.starts_with("unhandled trap 13"), "{reason}");
    assert!(reason.ends_with("(0x72)"), "{reason}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a guest asks for, it lives or dies, and the host stays.
    #[test]
    fn any_calls_end_in_an_answer(
        calls in proptest::collection::vec((0u32..18, word(), word(), word()), 1..6),
        ring in proptest::collection::vec((0u32..18, word(), word(), word()), 0..6),
        junk in proptest::collection::vec(any::<u8>(), 64),
        raised in 0u8..40,
    ) {
        let memory = memory();
        memory.write_bytes(SPARE, &junk).unwrap();
        for (n, (number, edx, ebx, ecx)) in (0..).zip(ring) {
            for (word, value) in (0..).zip([number, edx, ebx, ecx]) {
                memory.store(DATA + 84 + n * 16 + word * 4, value).unwrap();
            }
            memory.store(DATA + 20 + n, 0u8).unwrap();
        }
        let code = calls.iter().fold(Code::init(), |code, (number, edx, ebx, ecx)| {
            code.call(*number, *edx, *ebx, *ecx)
        });
        let mut guest = code.raw(&FOR_EVER).guest(&memory);
        memory.store(DATA, 0x200u32).unwrap();
        guest.irq(raised).unwrap();
        for _ in 0..20 {
            match guest.run().unwrap() {
                Exit::Sent(sent) => {
                    let _ = blocks::Block::read(&memory, sent.block);
                    guest.get_dma(sent.key).unwrap();
                }
                Exit::Idle(_) => guest.irq(raised).unwrap(),
                Exit::Break => {}
                Exit::Died(reason) => {
                    prop_assert!(!reason.is_empty());
                    break;
                }
            }
        }
    }
}

/// A number a hostile guest may give: near what there is, near the ends of numbers, or anything.
fn word() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(SPARE),
        Just(DIRECTORY),
        Just(DATA),
        Just(0x69u32),
        Just(0u32),
        0u32..64,
        (0u32..0x200).prop_map(|n| RAM + PAGE - n),
        (0u32..0x200).prop_map(|n| u32::MAX - n),
        (0u32..RAM / 4).prop_map(|n| n * 4),
        (0u32..RAM / 4).prop_map(|n| PAGE_OFFSET + n * 4),
        any::<u32>(),
    ]
}
