//! Choosing an engine: by wish, or (`auto`) by what the image is and what the host has.
//!
//! | image, host | engine |
//! |---|---|
//! | an lguest guest that has no other start | `lguest` |
//! | /dev/kvm opens, and the processor has vmx or svm | `kvm` |
//! | `qemu-system-x86_64` is installed | `qemu` |
//!
//! Of these `kvm` is not built yet, and `qemu` takes its place.

use std::fs::{self, OpenOptions};

use super::lguest::{Lguest, LguestError};
use super::qemu::{Qemu, QemuError};
use super::{Engine, EngineChoice, EngineError, EngineName};
use crate::error::Error;
use crate::image::{Format, Image};

/// Takes the engine for this image, and tells why, as the end of "because …".
///
/// # Errors
/// The engine wished for is not built yet, or none there is can be had.
pub fn choose(
    choice: EngineChoice,
    image: &Image,
) -> Result<(Box<dyn Engine>, &'static str), Error> {
    let (qemu, why) = match choice {
        EngineChoice::Only(EngineName::Qemu) => (Qemu::find()?, "the command line says so"),
        EngineChoice::Only(name @ EngineName::Kvm) => {
            return Err(EngineError::NotBuilt {
                name,
                instead: "; take --engine=qemu, which needs no hardware",
            }
            .into());
        }
        EngineChoice::Only(EngineName::Lguest) => {
            return Ok((Box::new(Lguest::default()), "the command line says so"));
        }
        EngineChoice::Auto if is_only_lguest(image) => {
            let why = "the kernel is an lguest guest and starts in no other way";
            return Ok((Box::new(Lguest::default()), why));
        }
        EngineChoice::Auto => {
            let qemu = Qemu::find()?;
            let why = if !has_virtualisation() {
                "this host has no hardware virtualisation (no vmx or svm in /proc/cpuinfo)"
            } else if !kvm_opens() {
                "/dev/kvm can't be opened"
            } else {
                "the engine kvm, which could use this host's hardware virtualisation, is not built yet"
            };
            (qemu, why)
        }
    };
    Ok((Box::new(qemu), why))
}

/// An lguest guest that starts in no other way we know.
fn is_only_lguest(image: &Image) -> bool {
    matches!(&image.format, Format::Elf(elf) if elf.is_lguest && elf.pvh_entry.is_none())
}

/// Whether /dev/kvm is there and ours to use. That alone says little: on some hosts it opens and
/// emulates instructions.
fn kvm_opens() -> bool {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}

fn has_virtualisation() -> bool {
    fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| has_virtualisation_flag(&text))
}

/// Intel's or AMD's virtualisation among the processor's flags.
fn has_virtualisation_flag(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_whitespace)
        .any(|flag| flag == "vmx" || flag == "svm")
}

impl From<QemuError> for Error {
    fn from(error: QemuError) -> Self {
        EngineError::from(error).into()
    }
}

impl From<LguestError> for Error {
    fn from(error: LguestError) -> Self {
        EngineError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtualisation_is_a_flag_of_its_own() {
        assert!(has_virtualisation_flag(
            "processor: 0\nflags\t\t: fpu svm sse\n"
        ));
        assert!(has_virtualisation_flag("flags\t\t: vmx\n"));
        assert!(!has_virtualisation_flag(
            "flags\t\t: fpu svm_lock\nvmx flags\t: vnmi\n"
        ));
    }
}
