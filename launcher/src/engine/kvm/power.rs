//! How a machine goes off: by the guest's wish, by its crash, by our doing.
//!
//! [`Power`] is what all threads of a machine look at. Whoever brings about its end says how, once;
//! the bell wakes the thread that waits for it, and that one stops the processors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::KvmError;
use super::acpi::S5;
use super::bus::MmioDevice;

/// The first port of the power registers: [`SLEEP_CONTROL`].
pub const PORT: u16 = 0x600;

/// How many there are.
pub const PORTS: u64 = 3;

/// ACPI's sleep control register (specification 6.5, 4.8.3.7): a sleep's type in bits 2 to 4, and
/// bit 5 to begin it.
pub const SLEEP_CONTROL: u16 = PORT;

/// ACPI's sleep status register: nothing ever wakes this machine, so it reads as 0.
pub const SLEEP_STATUS: u16 = PORT + 1;

/// ACPI's reset register, and what resets the machine when it is written there.
pub const RESET: u16 = PORT + 2;
/// See [`RESET`].
pub const RESET_VALUE: u8 = 1;

/// The power button's interrupt.
pub const BUTTON_GSI: u32 = 9;

/// The 8042 keyboard controller's command port, and its command that pulls the reset line: how
/// kernels reset a PC without ACPI.
pub const KEYBOARD: u16 = 0x64;
/// See [`KEYBOARD`].
const PULSE_RESET: u8 = 0xfe;

/// Where a processor begins after a reset, as far as real mode reaches: a kernel that knows no other
/// way to reset jumps there. Linux does so on a hardware-reduced machine without EFI.
pub const RESET_VECTOR: u64 = 0xf_fff0;

/// What stands there, where a PC has its BIOS: [`PULSE_RESET`] to the [`KEYBOARD`].
pub const RESET_CODE: [u8; 7] = [
    0xb0,
    PULSE_RESET, // mov al, PULSE_RESET
    0xe6,
    KEYBOARD as u8, // out KEYBOARD, al
    0xf4,           // hlt
    0xeb,
    0xfd, // jmp to the hlt
];

/// How a machine's run ended.
#[derive(Debug)]
pub enum Ending {
    /// The guest switched it off.
    PoweredOff,
    /// The guest reset it.
    Reset,
    /// A processor met a fault in the handling of a fault in the handling of a fault.
    TripleFault,
    /// KVM failed, or did what it was never told to.
    Failed(KvmError),
}

/// Whether a machine runs.
#[derive(Debug)]
pub struct Power {
    ended: AtomicBool,
    ending: Mutex<Option<Ending>>,
    bell: EventFd,
}

impl Power {
    /// On.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            ended: AtomicBool::new(false),
            ending: Mutex::new(None),
            bell: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        })
    }

    /// Ends the run. The first to say how is heard.
    pub fn end(&self, how: Ending) {
        self.ending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(how);
        self.stop();
    }

    /// Switches it on again, after all who looked at it are gone.
    pub fn restart(&self) {
        self.take_ending();
        self.ended.store(false, Ordering::Release);
        // Silent already, if nobody rang.
        let _ = self.bell.read();
    }

    /// Ends the run without a word.
    pub fn stop(&self) {
        self.ended.store(true, Ordering::Release);
        // A bell that rings too often to ring once more is heard.
        let _ = self.bell.write(1);
    }

    /// Whether the run has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether it ended in a way that nobody wished for.
    pub fn has_failed(&self) -> bool {
        let ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*ending, Some(Ending::TripleFault | Ending::Failed(_)))
    }

    /// How it ended, if it did by itself. To be asked once.
    pub fn take_ending(&self) -> Option<Ending> {
        self.ending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl AsFd for Power {
    /// Readable when the run has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// ACPI's registers.
#[derive(Debug)]
pub struct PowerRegisters(pub Arc<Power>);

impl MmioDevice for PowerRegisters {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        const SLEEP: u8 = 1 << 5;
        const RESET_OFFSET: u64 = (RESET - PORT) as u64;
        match offset {
            0 if value & SLEEP != 0 && value >> 2 & 7 == S5 => self.0.end(Ending::PoweredOff),
            RESET_OFFSET if value == RESET_VALUE => self.0.end(Ending::Reset),
            _ => {}
        }
    }
}

/// The one thing left of the keyboard controller.
#[derive(Debug)]
pub struct KeyboardReset(pub Arc<Power>);

impl MmioDevice for KeyboardReset {
    /// Its status: ready for a command.
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _: u64, data: &[u8]) {
        if data.first() == Some(&PULSE_RESET) {
            self.0.end(Ending::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(write: impl Fn(&PowerRegisters, &KeyboardReset)) -> Option<Ending> {
        let power = Arc::new(Power::new().unwrap());
        write(
            &PowerRegisters(Arc::clone(&power)),
            &KeyboardReset(Arc::clone(&power)),
        );
        assert_eq!(power.has_ended(), power.ending.lock().unwrap().is_some());
        power.take_ending()
    }

    #[test]
    fn the_guest_switches_itself_off_and_on() {
        // SLP_TYP 5, SLP_EN.
        assert!(matches!(
            after(|acpi, _| acpi.write(0, &[0x34])),
            Some(Ending::PoweredOff)
        ));
        assert!(matches!(
            after(|acpi, _| acpi.write(2, &[1])),
            Some(Ending::Reset)
        ));
        assert!(matches!(
            after(|_, keyboard| keyboard.write(0, &[0xfe])),
            Some(Ending::Reset)
        ));
    }

    #[test]
    fn other_writes_change_nothing() {
        let ending = after(|acpi, keyboard| {
            for value in (0..=255).filter(|value| value & 0x3c != 0x34) {
                acpi.write(0, &[value]);
            }
            acpi.write(0, &[]);
            acpi.write(1, &[0x34]);
            acpi.write(2, &[0]);
            keyboard.write(0, &[0xaa]);
        });
        assert!(ending.is_none());
    }

    #[test]
    fn the_first_ending_is_the_one() {
        let ending = after(|acpi, keyboard| {
            keyboard.write(0, &[0xfe]);
            acpi.write(0, &[0x34]);
        });
        assert!(matches!(ending, Some(Ending::Reset)));
    }
}
