//! The guest's interrupt table, as far as the host keeps it.

use super::death::Death;

/// Vectors below this are kept.
const KEPT: usize = 64;
/// And the one for system calls.
const SYSCALL: u8 = 0x80;
/// `int` of this is a hypercall.
pub const HYPERCALL: u8 = 0x1f;

/// Vectors that are never the guest's: NMI, double fault, a reserved one, hypercalls.
const HOSTS: [u32; 4] = [2, 8, 15, HYPERCALL as u32];

const PRESENT: u32 = 1 << 15;
/// The types of a gate (SDM volume 3, table 3-2).
const INTERRUPT: u32 = 14;
const TRAP: u32 = 15;

/// Where a vector leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// The handler, in the guest kernel's code segment.
    pub offset: u32,
    /// The highest ring whose `int n` may go there.
    pub dpl: u8,
    /// Going there disables interrupts.
    pub disables_interrupts: bool,
}

/// The gates the guest has set.
#[derive(Debug)]
pub struct Gates {
    low: [Option<Gate>; KEPT],
    syscall: Option<Gate>,
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            low: [None; KEPT],
            syscall: None,
        }
    }
}

impl Gates {
    /// Where `vector` leads, if anywhere.
    pub fn get(&self, vector: u8) -> Option<Gate> {
        match vector {
            SYSCALL => self.syscall,
            _ => *self.low.get(usize::from(vector))?,
        }
    }

    /// Takes a gate from the guest, in the two words of a descriptor. Vectors the host does not keep are
    /// ignored.
    ///
    /// # Errors
    /// A present gate that is neither for an interrupt nor for a trap.
    pub fn set(&mut self, vector: u32, low: u32, high: u32) -> Result<(), Death> {
        if HOSTS.contains(&vector) {
            return Ok(());
        }
        let place = match vector as usize {
            _ if vector == u32::from(SYSCALL) => &mut self.syscall,
            index => match self.low.get_mut(index) {
                Some(place) => place,
                None => return Ok(()),
            },
        };
        let kind = high >> 8 & 0xf;
        *place = match kind {
            _ if high & PRESENT == 0 => None,
            INTERRUPT | TRAP => Some(Gate {
                offset: high & 0xffff_0000 | low & 0xffff,
                dpl: (high >> 13 & 3) as u8,
                disables_interrupts: kind == INTERRUPT,
            }),
            _ => return Err(Death::BadGate { vector, kind }),
        };
        Ok(())
    }
}

/// Whether the processor pushes an error code for this vector (SDM volume 3, table 6-1, as far as an i386 has
/// them).
pub fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_leads_to_its_offset_whatever_its_selector_says() {
        let mut gates = Gates::default();
        gates.set(0x80, 0x0010_5678, 0xc010_ef00).unwrap();
        let gate = gates.get(0x80).unwrap();
        assert_eq!((gate.offset, gate.dpl), (0xc010_5678, 3));
        assert!(!gate.disables_interrupts);
        gates.set(14, 0, 0x8e00).unwrap();
        assert!(gates.get(14).unwrap().disables_interrupts);
        gates.set(14, 0, 0x0e00).unwrap();
        assert_eq!(gates.get(14), None);
    }

    #[test]
    fn vectors_that_are_not_the_guests_are_ignored_whatever_they_hold() {
        let mut gates = Gates::default();
        for vector in [2, 8, 15, 0x1f, 64, 0x7f, 0x81, 255, 256, u32::MAX] {
            gates.set(vector, 0, 0x8500).unwrap();
            assert_eq!(gates.get(vector as u8), None);
        }
        let bad = gates.set(3, 0, 0x8500);
        assert_eq!(bad, Err(Death::BadGate { vector: 3, kind: 5 }));
    }
}
