//! Engine `lguest`: the guests this all began with, on a processor in software.

pub mod cpu;
pub mod memory;
