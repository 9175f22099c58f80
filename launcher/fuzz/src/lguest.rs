//! A guest of the engine `lguest`: its calls to the host, and whatever instructions it has.

use launcher::engine::lguest::boot::Start;
use launcher::engine::lguest::host::inprocess::InProcess;
use launcher::engine::lguest::host::{Exit, Host};
use launcher::engine::lguest::memory::GuestMemory;

use super::Numbers;

const PAGE_OFFSET: u32 = 0xc000_0000;
const RAM: u32 = 1 << 20;
const PAGE: u32 = 4096;
const DIRECTORY: u32 = 0x1000;
const TABLE: u32 = 0x2000;
const CODE: u32 = 0x1_0000;
const DATA: u32 = 0x2_0000;
const STACK: u32 = 0x3_0000;

/// How often it may come back to us.
const SLICES: usize = 20;

/// Calls with any arguments, between any instructions, with any data at hand.
pub fn lguest_guest(data: &[u8]) {
    let memory = GuestMemory::new(RAM + PAGE).unwrap();
    for page in 0..RAM / PAGE {
        memory.store(TABLE + page * 4, (page * PAGE) | 7).unwrap();
    }
    let entry = DIRECTORY + (PAGE_OFFSET >> 22) * 4;
    memory.store(entry, TABLE | 7).unwrap();
    memory.write_bytes(DATA + 20, &[0xff; 64]).unwrap();

    let mut numbers = Numbers(data);
    let mut code = vec![0xbc];
    code.extend((PAGE_OFFSET + STACK).to_le_bytes());
    let mut call = |number: u32, edx: u32, ebx: u32, ecx: u32| {
        for (opcode, value) in [(0xb8, number), (0xba, edx), (0xbb, ebx), (0xb9, ecx)] {
            code.push(opcode);
            code.extend(value.to_le_bytes());
        }
        code.extend([0xcd, 0x1f]);
    };
    call(1, DATA, 0, 0);
    let calls = numbers.byte() % 16;
    for _ in 0..calls {
        let number = u32::from(numbers.byte() % 18);
        let mut argument = || {
            let (place, value) = (numbers.byte(), u32::from(numbers.byte()));
            match place % 8 {
                0 => value,
                1 => PAGE_OFFSET + value * 0x1000,
                2 => DATA + value * 8,
                3 => value * 0x1000,
                4 => value << 8 | u32::from(place >> 3),
                5 => RAM - value,
                6 => CODE + value,
                _ => numbers.long(),
            }
        };
        let [edx, ebx, ecx] = [argument(), argument(), argument()];
        call(number, edx, ebx, ecx);
    }
    let (words, rest) = numbers.0.split_at(numbers.0.len() / 2);
    memory
        .write_bytes(DATA, &words[..words.len().min(4096)])
        .unwrap();
    code.extend(&rest[..rest.len().min(4096)]);
    code.extend([0xeb, 0xfe]);
    memory.write_bytes(CODE, &code).unwrap();

    let start = Start {
        directory: DIRECTORY,
        entry: PAGE_OFFSET + CODE,
        page_offset: PAGE_OFFSET,
    };
    let mut guest = InProcess::initialize(&memory, &start, 0x1234);
    for slice in 0..SLICES {
        match guest.run().unwrap() {
            Exit::Died(_) => return,
            Exit::Sent(sent) => {
                let _ = guest.get_dma(sent.key).unwrap();
            }
            Exit::Break | Exit::Idle(_) => guest.irq((slice % 32) as u8).unwrap(),
        }
    }
}
