//! What QEMU said, and what it makes of its end.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::sys::signal::Signal;

use super::QemuError;
use super::qmp::Reason;
use crate::end::GuestEnd;

/// How many complaints are kept. The last ones tell the end.
const KEPT: usize = 16;

/// All that was heard.
#[derive(Debug, Default)]
pub struct Account {
    shutdown: Option<Reason>,
    reset: Reset,
    complaints: Vec<String>,
}

/// What its log says of a reset: who did it, the kernel or the firmware?
///
/// SeaBIOS, when the machine is reset under it, resets it once more by itself, to get its ROM mapped
/// again (its `tryReboot`): by the keyboard controller, by PCI, and then by a triple fault, which
/// comes first where QEMU's emulated processor outruns its devices.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    /// A processor met a triple fault, and not in the firmware.
    pub triple_fault: bool,
    /// The first processor was in the firmware. (The others are reset there whenever the firmware
    /// starts them.)
    pub in_firmware: bool,
    /// A triple fault was told, and not yet where.
    faulted: bool,
    /// The registers to come are the first processor's.
    is_first: bool,
}

/// Where a PC's firmware runs: the last 128 KiB below 1 MiB.
const FIRMWARE: std::ops::Range<u64> = 0xe0000..0x10_0000;

impl Account {
    /// It said why it is ending.
    pub fn shutdown(&mut self, reason: Reason) {
        self.shutdown = Some(reason);
    }

    /// A line of its log (`-d cpu_reset`): a processor's registers, and before them "Triple fault" if
    /// that is why it is reset.
    pub fn log(&mut self, line: &str) {
        self.reset.faulted |= line.starts_with("Triple fault");
        if let Some(number) = line.strip_prefix("CPU Reset (CPU ") {
            self.reset.is_first = number.starts_with("0)");
        }
        let counter = line
            .strip_prefix("EIP=")
            .or_else(|| line.strip_prefix("RIP="));
        if let Some(rest) = counter {
            let digits = rest.split(' ').next().unwrap_or_default();
            let is_firmware =
                u64::from_str_radix(digits, 16).is_ok_and(|at| FIRMWARE.contains(&at));
            self.reset.in_firmware |= is_firmware && self.reset.is_first;
            self.reset.triple_fault |= std::mem::take(&mut self.reset.faulted) && !is_firmware;
        }
    }

    /// What the log has said of resets since this was last asked.
    pub fn take_reset(&mut self) -> Reset {
        std::mem::take(&mut self.reset)
    }

    /// A line on its stderr, or a refusal.
    pub fn complaint(&mut self, line: String) {
        if self.complaints.len() == KEPT {
            self.complaints.remove(0);
        }
        self.complaints.push(line);
    }

    /// How the guest ended. `greeted`: QEMU got as far as talking to us.
    ///
    /// # Errors
    /// It was not the guest that ended.
    pub fn verdict(
        &self,
        greeted: bool,
        status: Option<ExitStatus>,
    ) -> Result<GuestEnd, QemuError> {
        let failed = |why| Err(QemuError::Failed(why));
        let killed = status.and_then(|status| status.signal());
        match (&self.shutdown, killed) {
            (Some(Reason::GuestShutdown), None) => Ok(GuestEnd::PoweredOff),
            (Some(Reason::GuestReset), None) => Ok(GuestEnd::Reset {
                triple_fault: self.reset.triple_fault,
            }),
            (_, Some(signal)) => {
                let name =
                    Signal::try_from(signal).map_or_else(|_| signal.to_string(), |s| s.to_string());
                failed(format!("it was killed by signal {signal} ({name})"))
            }
            (Some(Reason::HostSignal), None) => failed("somebody ended it by a signal".into()),
            (Some(Reason::Other(reason)), None) if !reason.is_empty() => {
                failed(format!("it ended by itself ({reason})"))
            }
            _ => match (
                disk_in_use(&self.complaints),
                last_complaint(&self.complaints),
            ) {
                (Some(disk), _) => Err(QemuError::DiskInUse(disk)),
                (None, Some(why)) if !greeted => Err(QemuError::Start(why)),
                (None, Some(why)) => failed(why),
                (None, None) => {
                    let status = status
                        .map_or_else(|| "an unknown status".into(), |status| status.to_string());
                    let why = format!("it ended without a word ({status})");
                    if greeted {
                        failed(why)
                    } else {
                        Err(QemuError::Start(why))
                    }
                }
            },
        }
    }
}

/// The last error QEMU told, without its own name and without the option it repeats.
fn last_complaint(complaints: &[String]) -> Option<String> {
    let mut told = complaints.iter().filter_map(|line| {
        line.split_once("qemu-system-x86_64: ")
            .map(|(_, told)| told)
    });
    let error = told.rfind(|told| !told.starts_with("warning: ") && !told.starts_with("info: "));
    let line = error.or_else(|| {
        complaints
            .iter()
            .rev()
            .map(String::as_str)
            .find(|line| !line.is_empty())
    })?;
    // "-device {…json…}: what is wrong".
    Some(match (line.starts_with('-'), line.rfind("}: ")) {
        (true, Some(end)) => line[end + 3..].to_owned(),
        _ => line.to_owned(),
    })
}

/// QEMU locks images; the one it could not lock is in the hint it prints behind the error:
/// `Is another process using the image [disk.img]?`.
fn disk_in_use(complaints: &[String]) -> Option<String> {
    let hint = complaints
        .iter()
        .find_map(|line| line.strip_prefix("Is another process using the image ["))?;
    Some(hint.trim_end_matches("]?").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(complaints: &[&str], shutdown: Option<Reason>) -> Account {
        let mut account = Account::default();
        complaints
            .iter()
            .for_each(|line| account.complaint((*line).into()));
        shutdown
            .into_iter()
            .for_each(|reason| account.shutdown(reason));
        account
    }

    fn exit(code: i32) -> Option<ExitStatus> {
        Some(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn the_guests_own_ends_are_told_apart() {
        let off = account(
            &["qemu-system-x86_64: warning: something"],
            Some(Reason::GuestShutdown),
        );
        assert_eq!(off.verdict(true, exit(0)).unwrap(), GuestEnd::PoweredOff);
        let mut reset = account(&[], Some(Reason::GuestReset));
        assert_eq!(
            reset.verdict(true, exit(0)).unwrap(),
            GuestEnd::Reset {
                triple_fault: false
            }
        );
        reset.log("Triple fault");
        reset.log("RIP=ffffffff810676a8 RFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0");
        assert_eq!(
            reset.verdict(true, exit(0)).unwrap(),
            GuestEnd::Reset { triple_fault: true }
        );
    }

    #[test]
    fn the_firmwares_own_reset_is_told_from_the_kernels() {
        let heard = |lines: &[&str]| {
            let mut account = Account::default();
            lines.iter().for_each(|line| account.log(line));
            let reset = account.take_reset();
            assert_eq!(account.take_reset(), Reset::default());
            (reset.triple_fault, reset.in_firmware)
        };
        let fault = "Triple fault";
        let kernel = "RIP=ffffffff810676a8 RFL=00000046";
        let firmware = "EIP=000efaad EFL=00000046";
        let (first, second) = ("CPU Reset (CPU 0)", "CPU Reset (CPU 1)");
        assert_eq!(heard(&[first, kernel]), (false, false));
        assert_eq!(heard(&[fault, second, kernel]), (true, false));
        assert_eq!(heard(&[fault, first, firmware]), (false, true));
        assert_eq!(heard(&[second, firmware]), (false, false));
        assert_eq!(
            heard(&[fault, first, kernel, fault, first, firmware]),
            (true, true)
        );
        assert_eq!(
            heard(&[first, "EIP=", "EIP=0000fff0 EFL=2"]),
            (false, false)
        );
    }

    #[test]
    fn a_killed_qemu_is_told_by_its_signal() {
        let error = account(&[], None)
            .verdict(true, Some(ExitStatus::from_raw(11)))
            .unwrap_err()
            .to_string();
        assert!(error.contains("SIGSEGV"), "{error}");
    }

    #[test]
    fn its_error_comes_out_without_the_noise() {
        for (lines, sentence) in [
            (
                &["qemu-system-x86_64: cannot set up guest memory 'ram': Cannot allocate memory"][..],
                "QEMU cannot run this guest: cannot set up guest memory 'ram': Cannot allocate memory",
            ),
            (
                &[
                    "qemu-system-x86_64: -device {\"driver\":\"x\"}: 'x' is not a valid device model name",
                    "a hint",
                ],
                "QEMU cannot run this guest: 'x' is not a valid device model name",
            ),
            (
                &["Could not access something"],
                "QEMU cannot run this guest: Could not access something",
            ),
            (
                &[],
                "QEMU cannot run this guest: it ended without a word (exit status: 1)",
            ),
        ] {
            assert_eq!(
                account(lines, None)
                    .verdict(false, exit(1))
                    .unwrap_err()
                    .to_string(),
                sentence
            );
        }
    }

    #[test]
    fn a_disk_in_use_is_named() {
        let lines = [
            "qemu-system-x86_64: -blockdev {\"driver\":\"raw\"}: Failed to get \"write\" lock",
            "Is another process using the image [/tmp/a [b].img]?",
        ];
        let error = account(&lines, None)
            .verdict(false, exit(1))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("The disk /tmp/a [b].img is in use"),
            "{error}"
        );
    }
}
