//! The figures of the engine `kvm`, side by side with QEMU's on the same host, kernel and guests.
//!
//! The program `kvm-figures` runs where hardware virtualisation is: on this machine if it has some,
//! else in the test host (`tests/kvm-figures` decides). Processor time of an emulated host is not
//! that of a real one, but both sides pay in the same coin, in turns, in one run.
//!
//! * [`vmm`]: a guest, by the launcher or by QEMU at its leanest.
//! * [`cost`]: what a running guest costs its host, as the host's kernel tells.
//! * [`boot`], [`receive`], [`round_trip`], [`crowd`]: one measurement each.
//! * [`table`]: what is printed, and whether a goal is reached.

pub mod boot;
pub mod cost;
pub mod crowd;
pub mod receive;
pub mod round_trip;
pub mod table;
pub mod vmm;

use anyhow::Result;

use crate::lab::Lab;
use crate::{archive, machine, vmlinux};
use table::Table;

/// The first line of user space in the small guests.
pub const FIRST_LINE: &str = "The first line of user space";

/// How often each measurement is taken.
#[derive(Clone, Copy, Debug)]
pub struct Rounds(pub usize);

/// A measurement.
pub type Measure = fn(&Lab, Rounds, &mut Table) -> Result<()>;

/// All measurements, by the names they are asked for with.
pub const ALL: [(&str, Measure); 4] = [
    ("boot", boot::measure),
    ("receive", receive::measure),
    ("round-trip", round_trip::measure),
    ("crowd", crowd::measure),
];

/// How often a measurement is tried: guests in an emulated host, QEMU's as the launcher's, crash or fall silent
/// now and then ([`crate::test_host`]).
const TRIES: usize = 3;

/// What is measured, at the first try that comes to its end.
///
/// # Errors
/// The last try's.
fn tried<T>(mut once: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 1..TRIES {
        match once() {
            Err(error) => eprintln!("Tried again, for: {error:#}"),
            measured => return measured,
        }
    }
    once()
}

/// Puts what the small guests start from into the lab: an `/init` that says [`FIRST_LINE`] and then
/// does nothing (`initrd`), and the linked kernel (`vmlinux`).
///
/// # Errors
/// A tool or the guests' image is missing.
pub fn prepare(lab: &Lab) -> Result<()> {
    let init = format!(
        "#!/bin/busybox sh\n/bin/busybox echo {FIRST_LINE}\nexec /bin/busybox sleep 100000\n"
    );
    archive::of_busybox(&init, &lab.path("initrd"))?;
    vmlinux::unpack(&machine::image()?.kernel, &lab.path("vmlinux"))
}
