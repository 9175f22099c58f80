//! The guest's processors at work, each on a thread of its own: they run the guest until it does
//! something that takes this process, do that, and go on.
//!
//! A thread in the guest is fetched out of it by a signal. It is blocked everywhere but inside
//! `KVM_RUN` (`KVM_SET_SIGNAL_MASK`), so none is ever lost between a look at the power switch and
//! the way into the guest, and none interrupts anything else.

use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use kvm_ioctls::{VcpuExit, VcpuFd};
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::{SigSet, Signal};
use vmm_sys_util::ioctl::ioctl_with_ref;

use super::KvmError;
use super::machine::Board;
use super::power::Ending;
use crate::seccomp;

/// The signal that fetches a processor out of the guest.
const KICK: Signal = Signal::SIGUSR1;

mod request {
    // KVM API, 4.21. The set behind the structure is not counted in its size.
    vmm_sys_util::ioctl_iow_nr!(KVM_SET_SIGNAL_MASK, kvm_bindings::KVMIO, 0x8b, u32);
}

/// `struct kvm_signal_mask`: the length of a set, and the set.
#[repr(C)]
struct SignalMask {
    len: u32,
    set: [u8; 8],
}

/// Processors at work. When this is dropped they have stopped.
#[derive(Debug)]
pub struct Processors {
    threads: Vec<JoinHandle<()>>,
    board: Arc<Board>,
}

impl Processors {
    /// Sets them to work.
    ///
    /// # Errors
    /// No thread is left, or KVM refuses.
    pub fn start(cpus: Vec<VcpuFd>, board: &Arc<Board>) -> Result<Self, KvmError> {
        // The threads inherit the block.
        let mut kick = SigSet::empty();
        kick.add(KICK);
        kick.thread_block()
            .map_err(KvmError::prepare("block a signal"))?;
        let mut processors = Self {
            threads: Vec::with_capacity(cpus.len()),
            board: Arc::clone(board),
        };
        for (number, cpu) in cpus.into_iter().enumerate() {
            unblock_inside(&cpu).map_err(KvmError::refused("let a processor be interrupted"))?;
            let board = Arc::clone(board);
            let thread = thread::Builder::new()
                .name(format!("cpu {number}"))
                .spawn(move || {
                    seccomp::confine(seccomp::Work::ForTheGuest);
                    work(cpu, number, &board);
                })
                .map_err(KvmError::prepare("start a processor's thread"))?;
            processors.threads.push(thread);
        }
        Ok(processors)
    }
}

impl Drop for Processors {
    fn drop(&mut self) {
        self.board.power.stop();
        for thread in &self.threads {
            // It fails only for a thread that has ended.
            let _ = pthread_kill(thread.as_pthread_t(), KICK);
        }
        for thread in self.threads.drain(..) {
            // A panic of its has been reported.
            let _ = thread.join();
        }
    }
}

/// Lets the kick through while this processor is in the guest.
fn unblock_inside(cpu: &VcpuFd) -> io::Result<()> {
    let blocked = SigSet::thread_get_mask()?;
    let set = blocked
        .iter()
        .filter(|&signal| signal != KICK)
        .fold(0u64, |set, signal| set | 1 << (signal as i32 - 1));
    let mask = SignalMask {
        len: 8,
        set: set.to_ne_bytes(),
    };
    // SAFETY: KVM reads the length, and a set of that length behind it: our whole structure.
    match unsafe { ioctl_with_ref(cpu, request::KVM_SET_SIGNAL_MASK(), &mask) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs the guest until the machine is off.
fn work(mut cpu: VcpuFd, number: usize, board: &Board) {
    while !board.power.has_ended() {
        if let Err(ending) = exit(&mut cpu, board) {
            board.power.end(ending);
        }
    }
    // All of them: what ended one processor may have begun on another.
    if board.power.has_failed() {
        tell_registers(&cpu, number);
    }
}

/// Runs the guest until it needs us, and does what it needs. Gives the machine's end, if this is it.
fn exit(cpu: &mut VcpuFd, board: &Board) -> Result<(), Ending> {
    let failed = |what: String| Err(Ending::Failed(KvmError::Failed(what)));
    match cpu.run() {
        Ok(VcpuExit::IoOut(port, data)) => board.ports.write_port(port, data),
        Ok(VcpuExit::IoIn(port, data)) => board.ports.read_port(port, data),
        Ok(VcpuExit::MmioRead(address, data)) => board.memory.read(address, data),
        Ok(VcpuExit::MmioWrite(address, data)) => board.memory.write(address, data),
        Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => {}
        Ok(VcpuExit::Shutdown) => return Err(Ending::TripleFault),
        Ok(VcpuExit::FailEntry(reason, _)) => {
            return failed(format!(
                "the processor refuses to enter the guest (reason {reason:#x})"
            ));
        }
        Ok(VcpuExit::InternalError) => return failed(internal_error(cpu)),
        Ok(VcpuExit::MemoryFault { gpa, .. }) => {
            return failed(format!("the guest's memory at {gpa:#x} is gone"));
        }
        Ok(other) => {
            return failed(format!(
                "it stopped for a reason nobody asked for ({other:?})"
            ));
        }
        Err(error) => match error.errno() {
            libc::EINTR | libc::EAGAIN => {}
            // The files mapped into it are the only memory that can go away.
            libc::EFAULT => {
                return failed(
                    "a part of the guest's memory is gone; was the file of its kernel or initrd cut short?".into(),
                );
            }
            _ => return failed(crate::error::reason(&error.into())),
        },
    }
    Ok(())
}

/// What KVM says of its own trouble.
fn internal_error(cpu: &mut VcpuFd) -> String {
    // SAFETY: KVM has just stopped for this reason, for which it fills in this part of the union;
    // and any bytes are a number.
    let number = unsafe { cpu.get_kvm_run().__bindgen_anon_1.internal.suberror };
    // KVM_INTERNAL_ERROR_…, KVM API, 5.
    match number {
        1 => "it met an instruction that it cannot emulate".into(),
        2 => "the guest's interrupts came at the same time as a fault".into(),
        3 => "the guest's interrupt could not be delivered".into(),
        4 => "the processor left the guest for a reason that KVM does not know".into(),
        number => format!("internal error {number}"),
    }
}

/// Tells a processor's registers, for whoever asked for more (`--verbose`). On AMD's processors the
/// one that met a triple fault is as after a reset: what it was then, the hardware does not keep.
fn tell_registers(cpu: &VcpuFd, number: usize) {
    if let Ok(r) = cpu.get_regs() {
        tracing::debug!(
            "cpu {number}: rip {:#x} rflags {:#x} rax {:#x} rbx {:#x} rcx {:#x} rdx {:#x} rsi {:#x} rdi {:#x} rsp {:#x} rbp {:#x}",
            r.rip,
            r.rflags,
            r.rax,
            r.rbx,
            r.rcx,
            r.rdx,
            r.rsi,
            r.rdi,
            r.rsp,
            r.rbp
        );
        tracing::debug!(
            "cpu {number}: r8 {:#x} r9 {:#x} r10 {:#x} r11 {:#x} r12 {:#x} r13 {:#x} r14 {:#x} r15 {:#x}",
            r.r8,
            r.r9,
            r.r10,
            r.r11,
            r.r12,
            r.r13,
            r.r14,
            r.r15
        );
    }
    if let Ok(s) = cpu.get_sregs() {
        tracing::debug!(
            "cpu {number}: cr0 {:#x} cr2 {:#x} cr3 {:#x} cr4 {:#x} efer {:#x} cs {:#x}:{:#x} ss {:#x} gdt {:#x} idt {:#x}",
            s.cr0,
            s.cr2,
            s.cr3,
            s.cr4,
            s.efer,
            s.cs.selector,
            s.cs.base,
            s.ss.selector,
            s.gdt.base,
            s.idt.base
        );
    }
}
