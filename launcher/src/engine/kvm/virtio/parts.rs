//! All devices of a guest, in their places.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::console::Handover;
use super::device::Device;
use super::transport::Transport;
use super::{Placement, Wiring, balloon, block, console, net, rng};
use crate::backend;
use crate::engine::kvm::bus::MmioDevice;
use crate::engine::kvm::layout::{VIRTIO_SIZE, VIRTIO_START};

/// The interrupts for devices, in the order they are given out: pins of the I/O APIC that nothing else
/// of a PC has (timer 0, keyboard 1, serial 3 and 4, clock 8, ACPI 9).
const INTERRUPTS: [u32; MAX_DEVICES] = [
    5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23,
];

/// Devices there is room for, our own included.
pub const MAX_DEVICES: usize = 17;

/// Devices each guest has, asked for or not: console, random numbers, balloon.
pub const OWN_DEVICES: usize = 3;

/// A guest's devices. Dropping them ends their threads and closes what they had.
#[derive(Debug)]
pub struct Parts {
    devices: Vec<(Placement, Arc<Transport>)>,
    console: Arc<Transport>,
    handover: Arc<Handover>,
}

impl Parts {
    /// Makes the devices of a guest with this memory and so many processors: networks and disks in
    /// their order, then the console, whose guest's end is `console`, and our own.
    ///
    /// # Errors
    /// There are too many, no descriptor or no thread is left, or KVM does not wire them.
    pub fn build(
        wiring: &dyn Wiring,
        memory: &GuestMemoryMmap,
        devices: Vec<backend::Device>,
        console: UnixStream,
        cpus: u8,
    ) -> io::Result<Self> {
        let handover = Arc::new(Handover::new()?);
        let mut all = Vec::new();
        let (mut disks, mut cards) = (0, 0);
        for device in devices {
            all.push(match device {
                backend::Device::Net(card) => {
                    cards += 1;
                    net::device(card, cards - 1, cpus.into(), memory)?
                }
                backend::Device::Block(disk) => {
                    disks += 1;
                    block::device(disk, disks - 1)?
                }
            });
        }
        let console_at = all.len();
        all.push(console::device(console, Arc::clone(&handover))?);
        all.push(rng::device()?);
        all.push(balloon::device()?);
        if all.len() > MAX_DEVICES {
            return Err(io::Error::other(format!(
                "there is room for {MAX_DEVICES} devices, and there are {}",
                all.len()
            )));
        }
        let devices = place(wiring, memory, all)?;
        Ok(Self {
            console: Arc::clone(&devices[console_at].1),
            devices,
            handover,
        })
    }

    /// The devices' registers, and where they are.
    pub fn placed(&self) -> impl Iterator<Item = (Placement, Arc<dyn MmioDevice>)> {
        self.devices
            .iter()
            .map(|(place, device)| (*place, Arc::clone(device) as Arc<dyn MmioDevice>))
    }

    /// All devices as they were before a driver found them: what a reset of the machine does to them.
    pub fn reset(&self) {
        let status = u64::from(virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS);
        for (_, transport) in &self.devices {
            transport.write(status, &0u32.to_le_bytes());
        }
    }

    /// Who gets what is typed: the serial port or hvc0.
    pub fn handover(&self) -> &Arc<Handover> {
        &self.handover
    }

    /// The terminal has another size, in characters.
    pub fn resize(&self, columns: u16, rows: u16) {
        let shared = self.console.shared();
        let size = console::size(columns, rows);
        shared.description.config.change(0, &size);
        shared.interrupt.changed();
    }
}

fn place(
    wiring: &dyn Wiring,
    memory: &GuestMemoryMmap,
    devices: Vec<Device>,
) -> io::Result<Vec<(Placement, Arc<Transport>)>> {
    let places = (VIRTIO_START..).step_by(VIRTIO_SIZE as usize);
    let places = places.zip(INTERRUPTS).map(|(address, gsi)| Placement {
        address,
        size: VIRTIO_SIZE,
        gsi,
    });
    devices
        .into_iter()
        .zip(places)
        .map(|(device, place)| {
            let transport = Transport::new(device, memory, place, wiring)?;
            Ok((place, Arc::new(transport)))
        })
        .collect()
}

impl Drop for Parts {
    fn drop(&mut self) {
        // The registers may be on a bus still; the devices behind them are not to be.
        for (_, transport) in &self.devices {
            transport.end();
        }
    }
}
