//! Where the guest finds its devices: PCI addresses in command-line order, since a kernel looks
//! for them in that order. First network device = eth0, first disk = vda.

use std::fmt;

/// Slots on the root bus that are free on a q35 machine: 0 is the host bridge, 31 the chipset's.
const FIRST_SLOT: u8 = 1;
const SLOTS: usize = 30;

/// Functions a slot may have.
const FUNCTIONS: usize = 8;

/// More devices than these have no place on the bus.
pub const MAX_DEVICES: usize = SLOTS * FUNCTIONS;

/// A place on the root bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PciAddress {
    /// 1 to 30.
    slot: u8,
    /// 0 to 7.
    function: u8,
    /// The slot has more functions than one. Only function 0 has to say so.
    pub multifunction: bool,
}

/// Addresses for `count` devices, ascending. A slot each while there are enough: a guest's names
/// by place (`enp0s1`) then count as its names by order do.
pub fn addresses(count: usize) -> impl Iterator<Item = PciAddress> {
    let per_slot = if count <= SLOTS { 1 } else { FUNCTIONS };
    (0..count.min(MAX_DEVICES)).map(move |index| PciAddress {
        slot: FIRST_SLOT + (index / per_slot) as u8,
        function: (index % per_slot) as u8,
        multifunction: per_slot > 1 && index % per_slot == 0,
    })
}

impl fmt::Display for PciAddress {
    /// As QEMU's property `addr` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}.{:#x}", self.slot, self.function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_on_the_bus_is_order_on_the_line() {
        for count in [0, 1, 30, 31, 32, MAX_DEVICES, MAX_DEVICES + 1] {
            let all: Vec<_> = addresses(count).collect();
            assert_eq!(all.len(), count.min(MAX_DEVICES));
            assert!(all.is_sorted_by(|a, b| (a.slot, a.function) < (b.slot, b.function)));
            assert!(
                all.iter()
                    .all(|a| (1..=30).contains(&a.slot) && a.function < 8)
            );
        }
    }

    #[test]
    fn few_devices_have_a_slot_each() {
        assert_eq!(addresses(30).last().unwrap().to_string(), "0x1e.0x0");
        assert_eq!(addresses(31).last().unwrap().to_string(), "0x4.0x6");
    }
}
