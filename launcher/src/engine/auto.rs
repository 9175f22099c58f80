//! Choosing an engine: by wish, or (`auto`) by what the image is and what the host has.
//!
//! | image, host | engine |
//! |---|---|
//! | an lguest guest that has no other start, or no other devices (Linux 2.6.23) | `lguest` |
//! | /dev/kvm opens, and the processor has vmx or svm | `kvm` |
//! | `qemu-system-x86_64` is installed | `qemu` |
//!
//! A launcher of 32 bits has the first alone.

#[cfg_attr(target_pointer_width = "32", path = "auto/none.rs")]
mod others;

use super::lguest::{Lguest, LguestError, boot};
use super::{Engine, EngineChoice, EngineError, EngineName};
use crate::error::Error;
use crate::image::{Format, Image};

/// The boot protocol of Linux 2.6.23. Later kernels have virtio drivers, whatever else they can be.
const LGUEST_BOOT_PROTOCOL: u16 = 0x0206;

/// Takes the engine for this image, and tells why, as the end of "because …".
///
/// # Errors
/// What keeps the engine wished for, or all there are, from running here.
pub fn choose(
    choice: EngineChoice,
    image: &Image,
) -> Result<(Box<dyn Engine>, &'static str), Error> {
    const WISH: &str = "the command line says so";
    match choice {
        EngineChoice::Only(EngineName::Qemu) => Ok((others::qemu()?, WISH)),
        // Whether the processor has virtualisation is then not asked: some hosts emulate it.
        EngineChoice::Only(EngineName::Kvm) => Ok((others::kvm()?, WISH)),
        EngineChoice::Only(EngineName::Lguest) => Ok((Box::new(Lguest::default()), WISH)),
        EngineChoice::Auto if is_only_lguest(image) => {
            let why = "the kernel is an lguest guest of the first kind, which no other engine has devices for";
            Ok((Box::new(Lguest::default()), why))
        }
        EngineChoice::Auto => others::best(),
    }
}

/// An lguest guest that starts in no other way we know, or would find no devices if it did.
fn is_only_lguest(image: &Image) -> bool {
    match &image.format {
        Format::Elf(elf) => elf.is_lguest && elf.pvh_entry.is_none(),
        Format::BzImage(kernel) => {
            kernel.version <= LGUEST_BOOT_PROTOCOL && boot::bzimage::has_tag(&image.kernel)
        }
    }
}

impl From<LguestError> for Error {
    fn from(error: LguestError) -> Self {
        EngineError::from(error).into()
    }
}
