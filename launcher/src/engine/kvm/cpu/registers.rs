//! The registers a kernel expects at its first instruction: flat segments, and in 64-bit mode page
//! tables that map memory one to one.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;

use super::tables::{self, CODE, DATA, Descriptor};
use crate::engine::kvm::KvmError;
use crate::engine::kvm::boot::{Mode, STACK, Start};

/// Protected mode, and a mathematics unit of its own (Intel SDM volume 3, 2.5: CR0).
const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
/// Paging.
const CR0_PG: u64 = 1 << 31;
/// Page tables of three levels and more (CR4).
const CR4_PAE: u64 = 1 << 5;
/// Long mode: wished for, and in force (EFER).
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The flags register's one bit that is always set.
const FLAGS: u64 = 1 << 1;

/// Sets them.
///
/// # Errors
/// KVM refuses.
pub fn set(fd: &VcpuFd, start: &Start) -> Result<(), KvmError> {
    let refused = KvmError::refused("set a processor's registers");
    let mut special = fd.get_sregs().map_err(&refused)?;
    set_special(&mut special, start.mode);
    fd.set_sregs(&special).map_err(&refused)?;
    fd.set_regs(&general(start)).map_err(&refused)
}

fn general(start: &Start) -> kvm_regs {
    let mut general = kvm_regs {
        rip: start.entry,
        rflags: FLAGS,
        rsp: STACK,
        ..Default::default()
    };
    match start.mode {
        Mode::Linux64 | Mode::Linux32 => general.rsi = start.parameters,
        Mode::Pvh => general.rbx = start.parameters,
    }
    general
}

fn set_special(special: &mut kvm_sregs, mode: Mode) {
    let is_64 = mode == Mode::Linux64;
    let [code, data, task] = tables::descriptors(is_64);
    special.cs = segment(code, CODE);
    let data = segment(data, DATA);
    for register in [
        &mut special.ds,
        &mut special.es,
        &mut special.fs,
        &mut special.gs,
        &mut special.ss,
    ] {
        *register = data;
    }
    special.tr = segment(task, tables::TASK);
    special.gdt.base = tables::GDT;
    special.gdt.limit = tables::GDT_LIMIT;
    // No interrupt is expected yet: one would be a triple fault.
    special.idt.base = 0;
    special.idt.limit = 0;

    special.cr0 = CR0_PE | CR0_ET;
    special.cr3 = 0;
    special.cr4 = 0;
    special.efer = 0;
    if is_64 {
        special.cr0 |= CR0_PG;
        special.cr3 = tables::PAGE_TABLES;
        special.cr4 = CR4_PAE;
        special.efer = EFER_LME | EFER_LMA;
    }
}

/// A segment register as it stands after its selector was loaded.
fn segment(descriptor: Descriptor, selector: u16) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: descriptor.limit,
        selector,
        type_: descriptor.kind,
        present: 1,
        dpl: 0,
        db: descriptor.is_32.into(),
        s: descriptor.is_memory.into(),
        l: descriptor.is_64.into(),
        g: descriptor.in_pages.into(),
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(mode: Mode) -> (kvm_regs, kvm_sregs) {
        let start = Start {
            mode,
            entry: 0x10_0200,
            parameters: 0x7000,
        };
        let mut special = kvm_sregs::default();
        set_special(&mut special, mode);
        (general(&start), special)
    }

    #[test]
    fn each_protocol_finds_its_parameters_where_it_looks() {
        let (linux, _) = start(Mode::Linux64);
        assert_eq!(
            (linux.rip, linux.rsi, linux.rbx, linux.rflags),
            (0x10_0200, 0x7000, 0, 2)
        );
        let (pvh, _) = start(Mode::Pvh);
        assert_eq!((pvh.rip, pvh.rsi, pvh.rbx), (0x10_0200, 0, 0x7000));
    }

    #[test]
    fn only_the_64_bit_protocol_pages() {
        let (_, long) = start(Mode::Linux64);
        assert_eq!(
            (long.cr0, long.cr3, long.cs.l, long.cs.db),
            (0x8000_0011, tables::PAGE_TABLES, 1, 0)
        );
        for mode in [Mode::Linux32, Mode::Pvh] {
            let (_, protected) = start(mode);
            assert_eq!(
                (
                    protected.cr0,
                    protected.efer,
                    protected.cs.l,
                    protected.cs.db
                ),
                (0x11, 0, 0, 1)
            );
            assert_eq!((protected.ds.limit, protected.ds.g), (0xffff_ffff, 1));
        }
    }
}
