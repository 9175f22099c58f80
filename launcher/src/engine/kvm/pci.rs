//! A PCI bus with nothing on it but the bridge that leads there.
//!
//! All devices of this machine are found by ACPI, without PCI. But no PC of this century lacks it,
//! and a kernel that finds none calls that fatal, on the console, even when asked to be quiet. So it
//! may ask what is on bus 0 and learns: a host bridge.
//!
//! It asks by configuration mechanism #1 (PCI Local Bus 3.0, 3.2.2.3.2): the first port takes a bus,
//! device, function and register, all in one write of 32 bits; the second, four bytes wide, is then
//! that register.

use std::sync::atomic::{AtomicU32, Ordering};

use super::bus::MmioDevice;

/// The first port: `CONFIG_ADDRESS`, and after it `CONFIG_DATA`.
pub const PORT: u16 = 0xcf8;

/// How many there are.
pub const PORTS: u64 = 8;

/// Where `CONFIG_DATA` begins.
const DATA: u64 = 4;

/// `CONFIG_ADDRESS`: ports of the second register reach a configuration space.
const ENABLE: u32 = 1 << 31;

/// What `CONFIG_ADDRESS` can hold: above the register is the function, the device, the bus.
const HELD: u32 = ENABLE | 0xff_fffc;

/// The host bridge: all registers of its first 16 bytes (3.0, 6.1), others are 0. Its vendor and
/// device are those that Red Hat gives to host bridges of virtual machines, its class is that of
/// all host bridges, and its header has no base addresses in use.
const BRIDGE: [u32; 4] = [0x0008_1b36, 0, 0x0600_0000, 0];

/// The two registers.
#[derive(Debug, Default)]
pub struct Configuration {
    address: AtomicU32,
}

impl Configuration {
    /// What the register says that is now asked for.
    fn register(&self) -> u32 {
        let address = self.address.load(Ordering::Relaxed);
        match (address ^ ENABLE) >> 8 {
            0 => {
                let number = (address & 0xff) as usize / 4;
                BRIDGE.get(number).copied().unwrap_or(0)
            }
            _ => u32::MAX,
        }
    }
}

impl MmioDevice for Configuration {
    fn width(&self) -> usize {
        4
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        let (register, at) = match offset {
            DATA.. => (self.register(), (offset - DATA) as usize),
            // Nothing narrower reaches it.
            0 if data.len() == 4 => (self.address.load(Ordering::Relaxed), 0),
            _ => return,
        };
        let bytes = register.to_le_bytes();
        if let Some(from) = bytes.get(at..).and_then(|rest| rest.get(..data.len())) {
            data.copy_from_slice(from);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        // The bridge's registers are not to be written.
        if let (0, Ok(address)) = (offset, data.try_into()) {
            let address = u32::from_le_bytes(address) & HELD;
            self.address.store(address, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read where, as a kernel's `inb`, `inw` and `inl` do.
    fn read(pci: &Configuration, offset: u64, len: usize) -> u32 {
        let mut data = [0xff; 4];
        pci.read(offset, &mut data[..len]);
        data[len..].fill(0);
        u32::from_le_bytes(data)
    }

    fn select(pci: &Configuration, bus: u32, slot: u32, function: u32, register: u32) {
        let address = ENABLE | bus << 16 | slot << 11 | function << 8 | register;
        pci.write(0, &address.to_le_bytes());
    }

    #[test]
    fn there_is_a_host_bridge_and_nothing_else() {
        let pci = Configuration::default();
        select(&pci, 0, 0, 0, 0);
        assert_eq!(read(&pci, DATA, 2), 0x1b36);
        select(&pci, 0, 0, 0, 8);
        assert_eq!(read(&pci, DATA + 2, 2), 0x0600);
        assert_eq!(read(&pci, DATA + 3, 1), 0x06);
        select(&pci, 0, 0, 0, 0xfc);
        assert_eq!(read(&pci, DATA, 4), 0);
        for (bus, slot, function) in [(0, 0, 1), (0, 1, 0), (0, 31, 7), (1, 0, 0), (255, 31, 7)] {
            select(&pci, bus, slot, function, 0);
            assert_eq!(read(&pci, DATA, 4), u32::MAX);
        }
    }

    #[test]
    fn only_a_whole_write_selects_and_only_an_enabled_address_does() {
        let pci = Configuration::default();
        assert_eq!(read(&pci, DATA, 4), u32::MAX);
        select(&pci, 0, 0, 0, 0);
        // Linux does this before it looks whether mechanism #1 works.
        pci.write(3, &[1]);
        pci.write(0, &[0]);
        pci.write(0, &[0, 0]);
        pci.write(DATA, &[0; 4]);
        assert_eq!(read(&pci, 0, 4), ENABLE);
        assert_eq!(read(&pci, DATA, 4), BRIDGE[0]);
        pci.write(0, &[0; 4]);
        assert_eq!(read(&pci, DATA, 4), u32::MAX);
    }

    #[test]
    fn what_crosses_its_end_reads_as_ones() {
        let pci = Configuration::default();
        select(&pci, 0, 0, 0, 4);
        assert_eq!(read(&pci, DATA + 2, 4), u32::MAX);
        assert_eq!(read(&pci, DATA + 3, 2), 0xffff);
        assert_eq!(read(&pci, 1, 4), u32::MAX);
    }
}
