//! The host's side of a guest's devices. A backend knows a file, a tap, a port, a terminal; it
//! knows no guest interface. An [`Engine`](crate::engine::Engine) wires it to one: to virtio rings
//! of its own, to QEMU, to DMA keys.
//!
//! Devices are opened in an order that keeps a failure cheap: disks first (nothing is made), then
//! taps (gone with us), then ports on sharenets that are there, and last those on sharenets that
//! are not: they are *made*, and stay. Devices are handed on in the order of the command line.

pub mod block;
pub mod console;
pub mod net;

use block::Disk;
use net::{Interfaces, NetDevice};

use crate::error::Error;
use crate::plan::GuestPlan;
use crate::plan::device::{DevicePlan, Wire};

/// A device, opened.
#[derive(Debug)]
pub enum Device {
    /// A network interface on its wire.
    Net(NetDevice),
    /// A disk.
    Block(Disk),
}

/// Opens all devices of a plan, for an engine whose guests have such network interfaces. What was opened before one that fails is closed again, which is
/// all it takes to undo it.
///
/// # Errors
/// The first device that can't be had.
pub fn open(plan: &GuestPlan, interfaces: Interfaces) -> Result<Vec<Device>, Error> {
    let mut order: Vec<(usize, &DevicePlan)> = plan.devices.iter().enumerate().collect();
    order.sort_by_key(|(_, device)| match device {
        DevicePlan::Block(_) => 0,
        DevicePlan::Net(net) => match &net.wire {
            Wire::Sharenet { segment, .. } if segment.path().exists() => 2,
            Wire::Sharenet { .. } => 3,
            Wire::Host(_) | Wire::Bridge(_) | Wire::Macvtap(_) => 1,
        },
    });
    let mut opened = Vec::with_capacity(order.len());
    for (place, device) in order {
        let device = match device {
            DevicePlan::Block(disk) => Device::Block(Disk::open(disk)?),
            DevicePlan::Net(net) => {
                let number = interface_number(plan, place);
                Device::Net(NetDevice::open(net, number, interfaces)?)
            }
        };
        opened.push((place, device));
    }
    opened.sort_by_key(|(place, _)| *place);
    Ok(opened.into_iter().map(|(_, device)| device).collect())
}

/// Checks what can be checked about a plan's devices without making anything: that its disks are
/// disks and its bridges bridges. For `--dry-run`.
///
/// # Errors
/// The first device that could not be had.
pub fn check(plan: &GuestPlan) -> Result<(), Error> {
    for device in &plan.devices {
        match device {
            DevicePlan::Block(disk) => drop(Disk::open(disk)?),
            DevicePlan::Net(net) => net::check(net)?,
        }
    }
    Ok(())
}

/// Which of the guest's network interfaces the device at `place` is: the N of its ethN.
fn interface_number(plan: &GuestPlan, place: usize) -> usize {
    plan.devices
        .iter()
        .take(place)
        .filter(|device| matches!(device, DevicePlan::Net(_)))
        .count()
}
