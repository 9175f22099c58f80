//! On a host of 32 bits there are no other engines.

use crate::engine::{Engine, EngineError, EngineName};
use crate::error::Error;

pub(super) fn kvm() -> Result<Box<dyn Engine>, Error> {
    Err(EngineError::Wide(EngineName::Kvm).into())
}

pub(super) fn qemu() -> Result<Box<dyn Engine>, Error> {
    Err(EngineError::Wide(EngineName::Qemu).into())
}

pub(super) fn best() -> Result<(Box<dyn Engine>, &'static str), Error> {
    Err(EngineError::OnlyLguest.into())
}
