//! ACPI tables: how a kernel learns what is in the machine. Nothing has to be said on its command
//! line, so the initrd of a distribution finds its devices.
//!
//! The machine is "hardware-reduced" (ACPI specification 6.5, 4.1): it has none of a PC's old
//! power-management hardware, and the kernel does not look for an old PC's timers and interrupt
//! controllers either. It switches itself off and on by three registers ([`power`](super::power)),
//! and hears of its power button by an interrupt of its own.

use acpi_tables::aml::{
    Arg, Device, EISAName, Equal, IO, If, Interrupt, Memory32Fixed, Method, Name, Notify, Package,
    Path, ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};

use super::layout::{IO_APIC, LOCAL_APIC};
use super::power;
use super::serial;
use super::virtio::Placement;

/// Where the tables begin, with the one that leads to all others: the part of the first megabyte
/// that kernels search (ACPI specification 6.5, 5.2.5.1).
pub const TABLES: u64 = 0xe_0000;

/// How long they may be, in bytes.
pub const TABLES_LIMIT: u64 = power::RESET_VECTOR - TABLES;

/// Who made them.
const OEM: [u8; 6] = *b"LGUEST";
const OEM_TABLE: [u8; 8] = *b"LAUNCHER";
const OEM_REVISION: u32 = 1;

/// FADT, `IAPC_BOOT_ARCH` (5.2.9.3): there is no VGA and no CMOS clock, and, by the bits that are
/// not set, no other old device and no 8042.
const NO_VGA_NO_CLOCK: u16 = 1 << 2 | 1 << 5;

/// What a guest is told to write to switch itself off: the S5 state's type.
pub const S5: u8 = 5;

/// Writes all tables of a machine with so many processors and these devices, as they stand in
/// memory from [`TABLES`] on. The processor with number *n* has the local APIC *n*.
pub fn tables(cpus: u8, devices: &[Placement]) -> Vec<u8> {
    // The first table is the last to be known, but its length is: the others follow it.
    let mut others = Vec::new();
    let mut add = |table: &[u8]| {
        let address = TABLES + (Rsdp::len().next_multiple_of(16) + others.len()) as u64;
        others.extend_from_slice(table);
        others.resize(others.len().next_multiple_of(16), 0);
        address
    };
    let dsdt = add(&dsdt(devices));
    let fadt = add(&bytes(&fadt(dsdt)));
    let madt = add(&bytes(&madt(cpus)));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = add(&bytes(&xsdt));

    let mut tables = bytes(&Rsdp::new(OEM, xsdt));
    tables.resize(tables.len().next_multiple_of(16), 0);
    tables.append(&mut others);
    tables
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// The fixed description: what kind of machine this is, and its power registers.
fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let port = |port: u16| {
        let width = (8, AccessSize::ByteAccess);
        GAS::new(AddressSpace::SystemIo, width.0, 0, width.1, port.into())
    };
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        // Set means: there is a device for it, or none, but no fixed register.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = NO_VGA_NO_CLOCK.into();
    fadt.sleep_control_reg = port(power::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(power::SLEEP_STATUS);
    fadt.reset_reg = port(power::RESET);
    fadt.reset_value = power::RESET_VALUE;
    fadt.finalize()
}

/// The interrupt controllers, and with them the processors.
fn madt(cpus: u8) -> MADT {
    let local = LocalInterruptController::Address(LOCAL_APIC as u32);
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, local);
    for number in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(
            number,
            number,
            EnabledStatus::Enabled,
        ));
    }
    madt.add_structure(IoApic::new(0, IO_APIC as u32, 0));
    madt
}

/// The devices, in ACPI's own language.
fn dsdt(devices: &[Placement]) -> Vec<u8> {
    // Signature, length, revision 2 (integers of 64 bits).
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(&bytes(&Name::new(
        "_S5_".into(),
        &Package::new(vec![&S5, &aml::ZERO]),
    )));
    table.append_slice(&bytes(&Scope::new(
        "_SB_".into(),
        vec![&SerialPort, &PowerButton, &EventDevice],
    )));
    for (number, device) in devices.iter().enumerate() {
        let device = VirtioDevice(number, device);
        table.append_slice(&bytes(&Scope::new("_SB_".into(), vec![&device])));
    }
    table.as_slice().to_vec()
}

/// A wire that a device pulls once for each event.
fn edge(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

/// The serial port: a 16550 of a PC's first one's place.
struct SerialPort;

impl Aml for SerialPort {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let ports = IO::new(serial::PORT, serial::PORT, 1, serial::PORTS as u8);
        Device::new(
            "COM1".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0501")),
                &Name::new("_UID".into(), &aml::ZERO),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![&ports, &edge(serial::GSI)]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The power button, which has no registers: [`EventDevice`] tells of it.
struct PowerButton;

impl Aml for PowerButton {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let id = Name::new("_HID".into(), &EISAName::new("PNP0C0C"));
        Device::new("PWRB".into(), vec![&id]).to_aml_bytes(sink);
    }
}

/// The generic event device (ACPI specification 6.5, 5.6.9): its interrupt means that the power
/// button was pressed, which is notification 0x80 to that.
struct EventDevice;

impl Aml for EventDevice {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let button = Path::new("PWRB");
        let pressed = Notify::new(&button, &0x80u8);
        let is_button = Equal::new(&Arg(0), &power::BUTTON_GSI);
        Device::new(
            "GED_".into(),
            vec![
                &Name::new("_HID".into(), &"ACPI0013"),
                &Name::new("_UID".into(), &aml::ZERO),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![&edge(power::BUTTON_GSI)]),
                ),
                &Method::new(
                    "_EVT".into(),
                    1,
                    true,
                    vec![&If::new(&is_button, vec![&pressed])],
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// A virtio device with registers in memory (Linux's `virtio_mmio` knows it by this name).
struct VirtioDevice<'a>(usize, &'a Placement);

impl Aml for VirtioDevice<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let Self(number, place) = self;
        // Below 4 GiB, all of them.
        let registers = Memory32Fixed::new(true, place.address as u32, place.size as u32);
        Device::new(
            Path::new(&format!("V{number:03X}")),
            vec![
                &Name::new("_HID".into(), &"LNRO0005"),
                &Name::new("_UID".into(), number),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![&registers, &edge(place.gsi)]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(count: u64) -> Vec<Placement> {
        (0..count)
            .map(|n| Placement {
                address: 0xd000_0000 + n * 0x1000,
                size: 0x1000,
                gsi: 5 + n as u32,
            })
            .collect()
    }

    /// The table at a physical address, whole and with its sum right.
    fn table(tables: &[u8], address: u64, signature: &[u8]) -> Vec<u8> {
        let rest = &tables[(address - TABLES) as usize..];
        let len = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
        let table = rest[..len].to_vec();
        assert_eq!(&table[..4], signature);
        let sum = table.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
        assert_eq!(sum, 0, "{}", String::from_utf8_lossy(signature));
        table
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn every_table_is_found_from_the_first_and_its_sum_is_zero() {
        for (cpus, count) in [(1, 0), (4, 3), (255, 18)] {
            let tables = tables(cpus, &devices(count));
            assert!(tables.len() as u64 <= TABLES_LIMIT);
            assert_eq!(&tables[..8], b"RSD PTR ");
            for len in [20, 36] {
                assert_eq!(
                    tables[..len]
                        .iter()
                        .fold(0u8, |sum, &b| sum.wrapping_add(b)),
                    0
                );
            }
            let xsdt = table(&tables, u64_at(&tables, 24), b"XSDT");
            assert_eq!(xsdt.len(), 36 + 2 * 8);
            let fadt = table(&tables, u64_at(&xsdt, 36), b"FACP");
            let madt = table(&tables, u64_at(&xsdt, 44), b"APIC");
            assert_eq!(madt.len(), 44 + usize::from(cpus) * 8 + 12);
            // X_DSDT (5.2.9).
            let dsdt = table(&tables, u64_at(&fadt, 140), b"DSDT");
            let mentioned = dsdt.windows(8).filter(|bytes| bytes == b"LNRO0005").count();
            assert_eq!(mentioned as u64, count);
        }
    }

    #[test]
    fn the_power_registers_stand_where_the_specification_puts_them() {
        let tables = tables(1, &[]);
        let xsdt = table(&tables, u64_at(&tables, 24), b"XSDT");
        let fadt = table(&tables, u64_at(&xsdt, 36), b"FACP");
        let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
        assert_eq!(
            flags & (1 << 20 | 1 << 10 | 1 << 4),
            1 << 20 | 1 << 10 | 1 << 4
        );
        for (at, port) in [
            (116, power::RESET),
            (244, power::SLEEP_CONTROL),
            (256, power::SLEEP_STATUS),
        ] {
            assert_eq!((fadt[at], fadt[at + 1]), (1, 8));
            assert_eq!(u64_at(&fadt, at + 4), u64::from(port));
        }
        assert_eq!(fadt[128], power::RESET_VALUE);
    }
}
