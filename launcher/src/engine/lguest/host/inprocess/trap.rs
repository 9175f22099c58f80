//! What the processor came back for: most of it is handed to the guest's own handlers.

use super::InProcess;
use super::death::Death;
use super::gates::{Gate, HYPERCALL, has_error_code};
use super::segments::KERNEL_CS;
use crate::engine::lguest::cpu::{Delivery, Exit, Register};

const PROTECTION: u8 = 13;
const PAGE_FAULT: u8 = 14;

/// Operand size prefix.
const WORD: u8 = 0x66;

impl InProcess<'_> {
    /// Deals with what ended the guest's turn.
    pub(super) fn handle(&mut self, exit: Exit) -> Result<(), Death> {
        match exit {
            Exit::Budget | Exit::Stopped => Ok(()),
            Exit::Broken(broken) => Err(broken.into()),
            Exit::Interrupt {
                vector: HYPERCALL, ..
            } if self.cpu.ring() <= 1 => {
                self.called = true;
                Ok(())
            }
            Exit::Interrupt { vector, at } => self.software_interrupt(vector, at),
            Exit::Fault {
                vector: PROTECTION,
                error: Some(0),
                ..
            } if self.skip_port_access()? => Ok(()),
            Exit::Fault { vector, error, cr2 } => {
                if let (PAGE_FAULT, Some(data)) = (vector, &self.data) {
                    data.set_cr2(self.memory, cr2)?;
                }
                let about = if vector == PAGE_FAULT {
                    cr2
                } else {
                    error.unwrap_or(0)
                };
                self.reflect(vector, error, about)
            }
        }
    }

    /// `int n`, for whoever may. For others it is a fault, at the instruction itself.
    fn software_interrupt(&mut self, vector: u8, at: u32) -> Result<(), Death> {
        if let Some(gate) = self.gates.get(vector)
            && gate.dpl >= self.cpu.ring()
        {
            return self.enter(gate, None);
        }
        self.cpu.set_eip(at);
        // Error code: the vector, in the interrupt table (SDM volume 3, 6.13).
        let error = u32::from(vector) << 3 | 2;
        self.reflect(PROTECTION, Some(error), error)
    }

    /// Hands a trap to the guest. `about` is for the case that it has no handler.
    fn reflect(&mut self, vector: u8, error: Option<u32>, about: u32) -> Result<(), Death> {
        let error = has_error_code(vector).then(|| error.unwrap_or(0));
        match self.gates.get(vector) {
            Some(gate) => self.enter(gate, error),
            None => Err(Death::Unhandled {
                vector,
                eip: self.cpu.eip(),
                about,
            }),
        }
    }

    /// Enters the guest by a gate.
    pub(super) fn enter(&mut self, gate: Gate, error: Option<u32>) -> Result<(), Death> {
        let delivery = Delivery {
            stack: (self.cpu.ring() != 1).then_some(self.stack),
            eflags: self.flags_to_push()?,
            error,
            selector: KERNEL_CS,
            offset: gate.offset,
        };
        self.cpu.deliver(self.memory, &delivery)?;
        match &self.data {
            Some(data) if gate.disables_interrupts => Ok(data.set_irq_enabled(self.memory, false)?),
            _ => Ok(()),
        }
    }

    /// There are no ports: the kernel reads all ones from them, and what it writes is lost. Tells whether
    /// that is what it tried.
    fn skip_port_access(&mut self) -> Result<bool, Death> {
        let eip = self.cpu.eip();
        if eip < self.page_offset {
            return Ok(false);
        }
        // The kernel's code is where it is linked to be.
        let byte = |at: u32| {
            let place = eip.wrapping_sub(self.page_offset).wrapping_add(at);
            self.memory.load::<u8>(place).ok()
        };
        let prefix = u32::from(byte(0) == Some(WORD));
        let Some(opcode) = byte(prefix) else {
            return Ok(false);
        };
        let (reads, length) = match opcode {
            0xe4 | 0xe5 => (true, 2),
            0xec | 0xed => (true, 1),
            0xe6 | 0xe7 => (false, 2),
            0xee | 0xef => (false, 1),
            _ => return Ok(false),
        };
        if reads {
            let ones = match (opcode & 1, prefix) {
                (0, _) => 0xff,
                (_, 1) => 0xffff,
                _ => u32::MAX,
            };
            let eax = self.register(Register::Eax) | ones;
            self.cpu.set_register(Register::Eax, eax);
        }
        self.cpu.set_eip(eip.wrapping_add(prefix + length));
        Ok(true)
    }
}
