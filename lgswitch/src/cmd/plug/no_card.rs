//! Where there is none: the crates that know a guest's memory are of 64 bits.

use std::path::Path;

use anyhow::{Result, bail};
use lgswitch::Port;

use super::Signals;

/// Pairs of queues it would have.
pub const MAX_PAIRS: i64 = 1;

/// Says so.
pub fn serve(_: Port, _: &Path, label: String, _: u8, _: &Signals) -> Result<()> {
    bail!(
        "Can't serve {label}: vhost-user takes an lgswitch of 64 bits; use a tap, or build it for one"
    )
}
