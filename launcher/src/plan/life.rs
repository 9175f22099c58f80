//! How the launcher attends to a guest's life.

use std::fmt;

use super::reset::OnReset;
use crate::stop::Grace;

/// What is done about a guest's ends.
#[derive(Debug, Clone, Default)]
pub struct LifePlan {
    /// What becomes of it when it resets itself.
    pub on_reset: OnReset,
    /// How long it may take to power off when a signal asks for that.
    pub grace: Grace,
}

impl fmt::Display for LifePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "reset     {}", self.on_reset)?;
        writeln!(f, "grace     {}", self.grace)
    }
}
