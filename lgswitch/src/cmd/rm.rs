//! `lgswitch rm`: a segment's file goes, unless somebody is on it.

use anyhow::Result;
use clap::Args;
use lgswitch::{Error, Segment, SegmentName};
use serde::Serialize;

use super::link::print_json;

/// Remove sharenets nobody is on.
#[derive(Debug, Args)]
pub struct RmCommand {
    /// Their names
    #[arg(required = true)]
    names: Vec<SegmentName>,
    /// Even if somebody is; those stay on it, and nobody else can join them
    #[arg(long)]
    force: bool,
    /// Succeed if there is none
    #[arg(long)]
    if_exists: bool,
}

#[derive(Serialize)]
struct Removed {
    name: String,
    changed: bool,
}

impl RmCommand {
    /// Removes them, in order, up to the first that can't be.
    pub fn run(self, json: bool) -> Result<()> {
        let mut removed = Vec::new();
        for name in &self.names {
            let changed = match Segment::remove(&name.path(), self.force) {
                Err(Error::Missing(_)) if self.if_exists => false,
                result => result.map(|()| true)?,
            };
            let name = name.to_string();
            removed.push(Removed { name, changed });
        }
        if json {
            print_json(&removed)?;
        }
        Ok(())
    }
}
