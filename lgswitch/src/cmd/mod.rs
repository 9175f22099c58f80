//! The commands, a file each. Each parses its own arguments into what can be relied on, does one
//! thing, and prints a table for people or, with `--json`, a value for programs.

mod account;
mod bench;
mod bridge;
mod capture;
mod create;
mod inspect;
mod link;
mod lock;
mod ls;
mod plug;
mod rm;
mod table;
mod tap;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a sharenet
    Create(create::CreateCommand),
    /// Remove sharenets nobody is on
    Rm(rm::RmCommand),
    /// List the sharenets of this user
    Ls(ls::LsCommand),
    /// Show who is on a sharenet, and what passed
    Inspect(inspect::InspectCommand),
    /// Hold slots of a sharenet while a command runs
    Lock(lock::LockCommand),
    /// Show or keep what passes on a sharenet
    Capture(capture::CaptureCommand),
    /// Put a VMM's network card or a tap of the host on a sharenet
    Plug(plug::PlugCommand),
    /// Measure a fresh segment between processes
    Bench(bench::BenchCommand),
    #[command(hide = true)]
    BenchChild(bench::ChildCommand),
    /// Make, delete and list persistent taps
    Tap(tap::TapCommand),
    /// Make, delete and list bridges, attach links to them
    Bridge(bridge::BridgeCommand),
}

impl Command {
    /// Does it. What a command ran for the user may end with any status.
    pub fn run(self, json: bool) -> Result<ExitCode> {
        match self {
            Command::Create(command) => command.run(json)?,
            Command::Rm(command) => command.run(json)?,
            Command::Ls(command) => command.run(json)?,
            Command::Inspect(command) => command.run(json)?,
            Command::Lock(command) => return command.run(),
            Command::Capture(command) => command.run(json)?,
            Command::Plug(command) => command.run()?,
            Command::Bench(command) => command.run(json)?,
            Command::BenchChild(command) => command.run()?,
            Command::Tap(command) => command.run(json)?,
            Command::Bridge(command) => command.run(json)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
