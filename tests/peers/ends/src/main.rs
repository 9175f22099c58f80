//! `peer-ends`: what `tests/peers/run` needs and no Debian package has.
//!
//! The script starts the peers and takes turns; this program is the ends of those wires that bring
//! none of their own (`send` and `receive`), tells how far the two processors are from each other
//! at the moment, and turns the samples into one table ([`table`]).
//!
//! An end is an [`end::Sender`] or an [`end::Receiver`]: [`packet`] for network interfaces,
//! [`tap`] for taps on a bridge, [`vde`] for plugs in a `vde_switch`, [`qemu`] for the sockets QEMU's
//! `dgram` and `stream` back ends speak.

mod end;
mod packet;
mod qemu;
mod samples;
mod table;
mod tap;
mod vde;

use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use lgswitch::bench::{distance, pin};

use end::{Endpoint, Job};

/// Ends of a wire that is measured, and the table of the measurements
#[derive(Debug, Parser)]
#[command(name = "peer-ends")]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the round trip of a cache line between two processors, in nanoseconds
    Near {
        #[arg(value_delimiter = ',', num_args = 1, default_values_t = [0, 1])]
        processors: Vec<usize>,
    },
    /// Send frames for a while
    Send {
        /// packet:INTERFACE, tap:BRIDGE, vde:SWITCH:LOCAL, dgram:LOCAL:REMOTE or stream:SOCKET
        endpoint: Endpoint,
        #[command(flatten)]
        job: Job,
    },
    /// Print how many frames arrive, as `mpps gbps`
    Receive {
        /// packet:INTERFACE, tap:BRIDGE, vde:SWITCH:LOCAL, dgram:LOCAL:REMOTE or stream:SOCKET
        endpoint: Endpoint,
        #[command(flatten)]
        job: Job,
    },
    /// Make a table of the lines `peer size mpps gbps near-before near-after` on stdin
    Table {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// How the peers were set up: lines `peer<tab>pinned<tab>about`
        #[arg(long)]
        notes: std::path::PathBuf,
        /// What was run: lines `peer<tab>command`
        #[arg(long)]
        commands: std::path::PathBuf,
        /// What to say above the table
        #[arg(long, default_value = "")]
        title: String,
    },
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Near { processors } => {
            let &[here, there] = processors.as_slice() else {
                bail!("A round trip is between two processors");
            };
            println!("{:.0}", distance::between(here, there)?);
            Ok(())
        }
        Command::Send { endpoint, job } => {
            pin(job.processor)?;
            end::send(&mut *endpoint.sender(&job)?, &job)
        }
        Command::Receive { endpoint, job } => {
            pin(job.processor)?;
            let received = end::receive(&mut *endpoint.receiver(&job)?, &job)?;
            println!("{:.4} {:.3}", received.mpps(), received.gbps());
            Ok(())
        }
        Command::Table {
            json,
            notes,
            commands,
            title,
        } => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("Can't read the samples")?;
            let read = |path: &std::path::Path| {
                std::fs::read_to_string(path)
                    .with_context(|| format!("Can't read {}", path.display()))
            };
            let samples = samples::parse(&text, &read(&notes)?, &read(&commands)?)?;
            print!(
                "{}",
                if json {
                    table::json(&samples, &title)?
                } else {
                    table::text(&samples, &title)
                }
            );
            Ok(())
        }
    }
}

fn main() -> ExitCode {
    match run(CommandLine::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peer-ends: {error:#}");
            ExitCode::FAILURE
        }
    }
}
