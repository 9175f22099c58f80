//! How fast is the i386 in software? The same machine code runs in it and, where it is installed, in
//! `qemu-i386` (user mode), whose start is taken off. Time is the processor's, the two take turns, and the
//! least of each counts, so that what else runs here counts little.
//!
//! `cargo bench -p launcher --bench i386`; `--bench i386 -- --test` only shows that it works.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use launcher::engine::lguest::cpu::{Cpu, Exit, GDT_ENTRIES, Register, Segment};
use launcher::engine::lguest::memory::{GuestMemory, PAGE};
use nix::sys::resource::{UsageWho, getrusage};

/// Time spent in user mode.
fn used(by: UsageWho) -> Duration {
    let time = getrusage(by).expect("usage").user_time();
    Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000)
}

/// Where a static Linux program is linked by custom, and ours is.
const BASE: u32 = 0x0804_8000;
/// Bytes of the program, its data and its stack.
const SIZE: u32 = 16 * PAGE;

/// A program: machine code that counts ecx down to zero and then ends.
struct Program {
    name: &'static str,
    /// Instructions each time round.
    round: u32,
    code: &'static [u8],
}

const PROGRAMS: &[Program] = &[
    Program {
        // again: add eax, ecx; xor edx, eax; lea ebx, [eax+edx*2+3]; shr edx, 1; cmp ebx, eax;
        //        dec ecx; jnz again
        name: "arithmetic in registers",
        round: 7,
        code: &[
            0x01, 0xC8, 0x31, 0xC2, 0x8D, 0x5C, 0x50, 0x03, 0xD1, 0xEA, 0x39, 0xC3, 0x49, 0x75,
            0xF1,
        ],
    },
    Program {
        // again: mov eax, ecx; and eax, 0xFFC; mov edx, [esi+eax]; add edx, ecx;
        //        mov [esi+eax], edx; test dl, 1; jz over; inc ebx; over: dec ecx; jnz again
        name: "memory and branches",
        round: 10,
        code: &[
            0x89, 0xC8, 0x25, 0xFC, 0x0F, 0, 0, 0x8B, 0x14, 0x06, 0x01, 0xCA, 0x89, 0x14, 0x06,
            0xF6, 0xC2, 0x01, 0x74, 0x01, 0x43, 0x49, 0x75, 0xE8,
        ],
    },
    Program {
        // again: call f; dec ecx; jnz again; jmp end; f: push ebp; mov ebp, esp; push ecx;
        //        mov eax, [ebp-4]; add eax, 5; movzx edx, al; pop ecx; pop ebp; ret; end:
        name: "calls",
        round: 12,
        code: &[
            0xE8, 0x05, 0, 0, 0, 0x49, 0x75, 0xF8, 0xEB, 0x10, 0x55, 0x89, 0xE5, 0x51, 0x8B, 0x45,
            0xFC, 0x83, 0xC0, 0x05, 0x0F, 0xB6, 0xD0, 0x59, 0x5D, 0xC3,
        ],
    },
];

/// The whole program: ecx = rounds, esi = data, the code, exit(0).
fn machine_code(program: &Program, rounds: u32) -> Vec<u8> {
    let mut code = vec![0xB9];
    code.extend(rounds.to_le_bytes());
    code.push(0xBE);
    code.extend((BASE + 4 * PAGE).to_le_bytes());
    code.extend(program.code);
    code.extend([0xB8, 1, 0, 0, 0, 0x31, 0xDB, 0xCD, 0x80]);
    code
}

fn in_software(code: &[u8]) -> (Duration, u64) {
    let frames = SIZE / PAGE + 2;
    let memory = GuestMemory::new(frames * PAGE).expect("memory");
    let (directory, table) = (SIZE, SIZE + PAGE);
    memory
        .store(directory + (BASE >> 22) * 4, table | 7)
        .expect("inside");
    for page in 0..SIZE / PAGE {
        let entry = table + ((BASE >> 12) % 1024 + page) * 4;
        memory.store(entry, (page * PAGE) | 7).expect("inside");
    }
    memory.write_bytes(0, code).expect("inside");
    let mut cpu = Cpu::new(frames);
    let mut gdt = [0; GDT_ENTRIES];
    gdt[14] = 0x00CF_FB00_0000_FFFF;
    gdt[15] = 0x00CF_F300_0000_FFFF;
    cpu.set_gdt(&gdt);
    cpu.set_cr3(directory);
    cpu.load_segment(Segment::Cs, 0x73).expect("flat code");
    for segment in [Segment::Ss, Segment::Ds, Segment::Es] {
        cpu.load_segment(segment, 0x7B).expect("flat data");
    }
    cpu.set_register(Register::Esp, BASE + SIZE);
    cpu.set_eip(BASE);
    let begun = used(UsageWho::RUSAGE_SELF);
    let exit = cpu.run(&memory, u64::MAX, &AtomicBool::new(false));
    let took = used(UsageWho::RUSAGE_SELF) - begun;
    assert!(
        matches!(exit, Exit::Interrupt { vector: 0x80, .. }),
        "{exit:?}"
    );
    (took, cpu.retired())
}

/// A static ELF program of one segment (ELF specification, 32 bits).
fn elf(code: &[u8]) -> Vec<u8> {
    let headers = 52 + 32;
    let mut file = b"\x7FELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2_u16, 3] {
        file.extend(half.to_le_bytes());
    }
    for word in [1, BASE + headers, 52, 0, 0] {
        file.extend(word.to_le_bytes());
    }
    for half in [52_u16, 32, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let bytes = headers + code.len() as u32;
    for word in [1, 0, BASE, BASE, bytes, SIZE, 7, PAGE] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

/// None: it is not installed.
fn in_qemu(code: &[u8]) -> Option<Duration> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("program");
    fs::write(&path, elf(code)).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    let begun = used(UsageWho::RUSAGE_CHILDREN);
    let status = Command::new("qemu-i386").arg(&path).status().ok()?;
    assert!(status.success(), "qemu-i386: {status}");
    Some(used(UsageWho::RUSAGE_CHILDREN).saturating_sub(begun))
}

/// How often each is timed.
const TURNS: usize = 3;

fn main() {
    let test_only = std::env::args().any(|argument| argument == "--test");
    // Both run for a large part of a second: their time is counted in milliseconds.
    let (ours, theirs) = if test_only {
        (1000, 1000)
    } else {
        (20_000_000, 160_000_000)
    };
    for program in PROGRAMS {
        let code = machine_code(program, ours);
        let long = machine_code(program, theirs);
        let short = machine_code(program, 1);
        let (mut least, mut instructions) = (Duration::MAX, 0);
        let mut qemu = Some((Duration::MAX, Duration::MAX));
        for _ in 0..TURNS {
            let (took, count) = in_software(&code);
            least = least.min(took);
            instructions = count;
            qemu = qemu.and_then(|(run, start)| {
                Some((run.min(in_qemu(&long)?), start.min(in_qemu(&short)?)))
            });
        }
        assert!(instructions >= u64::from(program.round) * u64::from(ours) * 8 / 10);
        let rate = instructions as f64 / least.as_secs_f64() / 1e6;
        print!(
            "{:24} {rate:6.0} million instructions a second",
            program.name
        );
        match qemu {
            Some((run, start)) => {
                let all = instructions as f64 * f64::from(theirs) / f64::from(ours);
                let qemu = all / run.saturating_sub(start).as_secs_f64() / 1e6;
                println!(", {:.3} of qemu-i386's {qemu:.0}", rate / qemu);
            }
            None => println!("; qemu-i386 is not installed"),
        }
    }
}
