//! The processor of this machine: a 32-bit child, one instruction at a time under ptrace.
//!
//! The child is an ELF file made here, in memory. It has the pages of [`super::case`], and some of
//! its own above them: a handler for signals with a stack of its own. When an instruction faults,
//! Linux makes a signal of it; only in the frame it writes for the handler does it tell the
//! exception's number, error code and cr2. So we let it enter the handler, read the frame, and set
//! all registers anew for the next case; nobody ever returns.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::case::{CODE, Case, DATA, End, Memory, Outcome, PAGE, READ_ONLY, Registers, STACK};

/// The harness's own code, and behind it the stack of its signal handler: room for all registers
/// any processor may have to save.
const HARNESS: u32 = 0x6_0000;
const SIGNAL_STACK: u32 = HARNESS + PAGE;
const SIGNAL_STACK_PAGES: u32 = 8;

/// In the frame of a 32-bit handler (struct sigframe_ia32 of Linux): behind the return address and
/// the signal's number, the registers.
const FRAME_TRAPNO: u64 = 8 + 48;
const FRAME_ERROR: u64 = 8 + 52;
const FRAME_CR2: u64 = 8 + 84;

const PAGE_FAULT: u32 = 14;
/// In a page fault's error code: an instruction was fetched. Only with the no-execute bit, which an
/// i386 does not have.
const FETCH: u32 = 0x10;
/// A repeated instruction stops after each round.
const MOST_ROUNDS: usize = 70_000;

pub struct Hardware {
    child: Child,
    pid: Pid,
    memory: File,
    start: libc::user_regs_struct,
}

impl Hardware {
    /// Starts a child. The thread that calls this is the only one that may use it.
    ///
    /// # Errors
    /// If this machine runs no 32-bit code, or lets nobody trace it.
    pub fn start() -> io::Result<Self> {
        let file = memfd_create("cpu-against-hardware", MFdFlags::MFD_CLOEXEC)?;
        // SAFETY: the descriptor was ours alone, and is now the file's.
        let mut file = unsafe { File::from_raw_fd(file.into_raw_fd()) };
        file.write_all(&program())?;
        let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: one system call, which neither allocates nor locks.
        unsafe {
            command.pre_exec(|| ptrace::traceme().map_err(Into::into));
        }
        let child = command.spawn()?;
        let pid = Pid::from_raw(child.id() as i32);
        let memory = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"));
        let mut hardware = Self {
            child,
            pid,
            memory: memory?,
            // SAFETY: a struct of integers.
            start: unsafe { std::mem::zeroed() },
        };
        hardware.wait_for_trap()?;
        ptrace::setoptions(pid, ptrace::Options::PTRACE_O_EXITKILL)?;
        ptrace::cont(pid, None)?;
        hardware.wait_for_trap()?;
        hardware.start = ptrace::getregs(pid)?;
        // Pages come when they are first used; faults shall be the instructions' alone.
        hardware.memory.read_exact_at(&mut [0], READ_ONLY.into())?;
        Ok(hardware)
    }

    fn wait(&self) -> io::Result<Signal> {
        match waitpid(self.pid, None)? {
            WaitStatus::Stopped(_, signal) => Ok(signal),
            other => Err(io::Error::other(format!(
                "the 32-bit child is gone: {other:?}"
            ))),
        }
    }

    fn wait_for_trap(&self) -> io::Result<()> {
        match self.wait()? {
            Signal::SIGTRAP => Ok(()),
            other => Err(io::Error::other(format!(
                "the 32-bit child got {other} instead of a trap"
            ))),
        }
    }

    /// Executes a case.
    ///
    /// # Errors
    /// The child's end, or the kernel's refusals.
    pub fn run(&mut self, case: &Case) -> io::Result<Outcome> {
        self.memory
            .write_all_at(&case.code, case.start.eip.into())?;
        self.memory.write_all_at(&case.memory.data, DATA.into())?;
        self.memory.write_all_at(&case.memory.stack, STACK.into())?;
        ptrace::setregs(self.pid, self.to_linux(&case.start))?;

        let mut end = End::Done;
        let mut registers = ptrace::getregs(self.pid)?;
        'instructions: for _ in 0..case.steps {
            let at = registers.rip;
            for _ in 0..MOST_ROUNDS {
                ptrace::step(self.pid, None)?;
                let signal = self.wait()?;
                registers = ptrace::getregs(self.pid)?;
                if signal != Signal::SIGTRAP {
                    end = self.trap(signal)?;
                    break 'instructions;
                }
                if registers.rip != at {
                    break;
                }
            }
        }

        let mut memory = Memory {
            data: vec![0; 2 * PAGE as usize],
            stack: vec![0; PAGE as usize],
        };
        self.memory.read_exact_at(&mut memory.data, DATA.into())?;
        self.memory.read_exact_at(&mut memory.stack, STACK.into())?;
        Ok(Outcome {
            registers: from_linux(&registers),
            memory,
            end,
        })
    }

    /// Lets the signal enter its handler, whose frame tells what the exception was.
    fn trap(&self, signal: Signal) -> io::Result<End> {
        ptrace::step(self.pid, signal)?;
        self.wait_for_trap()?;
        let frame = ptrace::getregs(self.pid)?.rsp;
        let word = |at: u64| -> io::Result<u32> {
            let mut bytes = [0; 4];
            self.memory.read_exact_at(&mut bytes, frame + at)?;
            Ok(u32::from_le_bytes(bytes))
        };
        let (vector, error) = (word(FRAME_TRAPNO)?, word(FRAME_ERROR)?);
        Ok(if vector == PAGE_FAULT {
            End::Trap {
                vector,
                error: error & !FETCH,
                cr2: word(FRAME_CR2)?,
            }
        } else {
            End::Trap {
                vector,
                error,
                cr2: 0,
            }
        })
    }

    fn to_linux(&self, registers: &Registers) -> libc::user_regs_struct {
        let [eax, ecx, edx, ebx, esp, ebp, esi, edi] = registers.general.map(u64::from);
        let [es, cs, ss, ds, fs, gs] = registers.segments.map(u64::from);
        libc::user_regs_struct {
            rax: eax,
            rcx: ecx,
            rdx: edx,
            rbx: ebx,
            rsp: esp,
            rbp: ebp,
            rsi: esi,
            rdi: edi,
            rip: registers.eip.into(),
            eflags: registers.eflags.into(),
            es,
            cs,
            ss,
            ds,
            fs,
            gs,
            // It is in no system call that would have to be begun again.
            orig_rax: u64::MAX,
            ..self.start
        }
    }
}

impl Drop for Hardware {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn from_linux(registers: &libc::user_regs_struct) -> Registers {
    Registers {
        general: [
            registers.rax as u32,
            registers.rcx as u32,
            registers.rdx as u32,
            registers.rbx as u32,
            registers.rsp as u32,
            registers.rbp as u32,
            registers.rsi as u32,
            registers.rdi as u32,
        ],
        eip: registers.rip as u32,
        eflags: registers.eflags as u32,
        segments: [
            registers.es as u16,
            registers.cs as u16,
            registers.ss as u16,
            registers.ds as u16,
            registers.fs as u16,
            registers.gs as u16,
        ],
    }
}

/// The child: an ELF file of which every page is one of the file's, mapped where it is to be.
fn program() -> Vec<u8> {
    const READ: u32 = 4;
    const WRITE: u32 = 2;
    const EXECUTE: u32 = 1;
    const PT_LOAD: u32 = 1;
    const PT_GNU_STACK: u32 = 0x6474_E551;
    // Type, address, pages, flags, page of the file.
    let segments = [
        (PT_LOAD, CODE, 1, READ | EXECUTE, 2),
        (PT_LOAD, DATA, 2, READ | WRITE, 2),
        (PT_LOAD, READ_ONLY, 1, READ, 2),
        (PT_LOAD, STACK, 1, READ | WRITE, 2),
        (PT_LOAD, HARNESS, 1, READ | EXECUTE, 1),
        (PT_LOAD, SIGNAL_STACK, SIGNAL_STACK_PAGES, READ | WRITE, 2),
        // There, so that what may be read may not be executed.
        (PT_GNU_STACK, 0, 0, READ | WRITE, 0),
    ];
    let mut file = Vec::new();
    file.extend([0x7F, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for half in [2_u16, 3] {
        file.extend(half.to_le_bytes()); // ET_EXEC, EM_386
    }
    for word in [1, HARNESS, 52, 0, 0] {
        file.extend(word.to_le_bytes()); // version, entry, program headers, sections, flags
    }
    for half in [52, 32, segments.len() as u16, 40, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for (kind, address, pages, flags, page) in segments {
        let bytes = pages * PAGE;
        for word in [
            kind,
            page * PAGE,
            address,
            address,
            bytes,
            bytes,
            flags,
            PAGE,
        ] {
            file.extend(word.to_le_bytes());
        }
    }
    file.resize(PAGE as usize, 0);
    file.extend(harness());
    file.resize(((2 + SIGNAL_STACK_PAGES) * PAGE) as usize, 0);
    file
}

/// What the child does before it is ours: a stack and a handler for the signals of exceptions.
fn harness() -> Vec<u8> {
    const SIGACTION: u32 = 174;
    const SIGALTSTACK: u32 = 186;
    const ON_STACK_EACH_TIME: u32 = 0x4800_0000; // SA_ONSTACK, SA_NODEFER
    const STACK_STRUCT: u32 = HARNESS + 0x800;
    const ACTION_STRUCT: u32 = HARNESS + 0x840;
    const HANDLER: u32 = HARNESS + 0x900;

    let mut code = Vec::new();
    // mov eax, a; mov ebx, b; mov ecx, c; xor edx, edx; mov esi, 8; int 0x80
    let mut call = |a: u32, b: u32, c: u32| {
        for (opcode, value) in [(0xB8, a), (0xBB, b), (0xB9, c), (0xBE, 8)] {
            code.push(opcode);
            code.extend(value.to_le_bytes());
        }
        code.extend([0x31, 0xD2, 0xCD, 0x80]);
    };
    call(SIGALTSTACK, STACK_STRUCT, 0);
    for signal in [
        Signal::SIGSEGV,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGBUS,
    ] {
        call(SIGACTION, signal as u32, ACTION_STRUCT);
    }
    code.push(0xCC); // and here we take over
    code.resize(0x800, 0x90);
    for word in [SIGNAL_STACK, 0, SIGNAL_STACK_PAGES * PAGE] {
        code.extend(word.to_le_bytes());
    }
    code.resize(0x840, 0);
    for word in [HANDLER, ON_STACK_EACH_TIME, 0, 0, 0] {
        code.extend(word.to_le_bytes());
    }
    code.resize(0x900, 0);
    code.resize(PAGE as usize, 0x90);
    code
}
