//! What a guest tells of its tables, and of its x87: from then on it counts.

use super::*;

/// Two pages with different words, and where what was read is kept.
const ONE: u32 = 0x70000;
const OTHER: u32 = 0x71000;
const SEEN: u32 = SPARE + 0x100;

/// Another directory and table, in which ONE is where OTHER is.
const SECOND_DIRECTORY: u32 = 0x72000;
const SECOND_TABLE: u32 = 0x73000;

/// Where memory is a second time, below the page offset.
const LOW: u32 = 0x1000_0000;

/// `mov (from), %eax; mov %eax, (to)`
fn copy(code: Code, from: u32, to: u32) -> Code {
    code.raw(&[0xa1])
        .raw(&from.to_le_bytes())
        .raw(&[0xa3])
        .raw(&(PAGE_OFFSET + to).to_le_bytes())
}

/// `movl value, (to)`
fn set(code: Code, to: u32, value: u32) -> Code {
    code.raw(&[0xc7, 5])
        .raw(&(PAGE_OFFSET + to).to_le_bytes())
        .raw(&value.to_le_bytes())
}

#[test]
fn a_changed_table_counts_once_the_guest_has_told() {
    let entry = ONE / PAGE * 4;
    let moved = OTHER | 7;
    let high = PAGE_OFFSET + ONE;
    let second = DIRECTORY + (PAGE_OFFSET >> 22) * 4;
    for (name, place, changes, call) in [
        (
            "set PTE",
            high,
            (TABLE + entry, moved),
            [14, DIRECTORY, high, moved],
        ),
        ("flush all", high, (TABLE + entry, moved), [5, 1, 0, 0]),
        (
            "flush user",
            LOW + ONE,
            (TABLE + entry, moved),
            [5, 0, 0, 0],
        ),
        (
            "set PMD",
            high,
            (second, SECOND_TABLE | 7),
            [15, DIRECTORY, PAGE_OFFSET >> 22, 0],
        ),
        ("new table", high, (SPARE, 0), [4, SECOND_DIRECTORY, 0, 0]),
    ] {
        let memory = memory();
        memory.store(ONE, 1u32).unwrap();
        memory.store(OTHER, 2u32).unwrap();
        memory
            .store(DIRECTORY + (LOW >> 22) * 4, TABLE | 7)
            .unwrap();
        for page in 0..RAM / PAGE {
            let entry = memory.load::<u32>(TABLE + page * 4).unwrap();
            memory.store(SECOND_TABLE + page * 4, entry).unwrap();
        }
        memory.store(SECOND_TABLE + entry, moved).unwrap();
        let in_second = SECOND_DIRECTORY + (PAGE_OFFSET >> 22) * 4;
        memory.store(in_second, SECOND_TABLE | 7).unwrap();
        let [number, edx, ebx, ecx] = call;
        let code = copy(Code::init(), place, SEEN);
        let code = set(code, changes.0, changes.1).call(number, edx, ebx, ecx);
        let code = copy(code, place, SEEN + 4).raw(&FOR_EVER);
        let mut guest = code.guest(&memory);
        assert_eq!(guest.run().unwrap(), Exit::Break, "{name}");
        assert_eq!(memory.load::<u32>(SEEN), Ok(1), "{name}");
        assert_eq!(memory.load::<u32>(SEEN + 4), Ok(2), "{name}");
    }
}

#[test]
fn a_thread_has_the_segments_it_said() {
    let memory = memory();
    // A segment of data from ONE on, as the second of the three.
    let base = u64::from(PAGE_OFFSET + ONE);
    let descriptor = 0x00cf_f300_0000_ffff | (base & 0xff_ffff) << 16 | (base >> 24) << 56;
    memory.store(SPARE + 8, descriptor).unwrap();
    memory.store(ONE + 4, 0x5a_u32).unwrap();
    // mov $0x3b, %eax; mov %eax, %fs; mov %fs:4, %eax; and what it is.
    let load = [
        0xb8, 0x3b, 0, 0, 0, 0x8e, 0xe0, 0x64, 0xa1, 4, 0, 0, 0, 0xa3,
    ];
    let code = Code::init()
        .call(16, SPARE, 0, 0)
        .raw(&load)
        .raw(&(PAGE_OFFSET + SEEN).to_le_bytes())
        .raw(&FOR_EVER);
    let mut guest = code.guest(&memory);
    assert_eq!(guest.run().unwrap(), Exit::Break);
    assert_eq!(memory.load::<u32>(SEEN), Ok(0x5a));
}

#[test]
fn x87_traps_while_the_guest_wants_it_to() {
    const FNINIT: [u8; 2] = [0xdb, 0xe3];
    let reason = Code::init().call(8, 1, 0, 0).raw(&FNINIT).death();
    assert!(reason.starts_with("unhandled trap 7"), "{reason}");
    let memory = memory();
    let twice = Code::init().call(8, 1, 0, 0).call(8, 0, 0, 0);
    let mut guest = twice.raw(&FNINIT).raw(&FOR_EVER).guest(&memory);
    assert_eq!(guest.run().unwrap(), Exit::Break);
}
