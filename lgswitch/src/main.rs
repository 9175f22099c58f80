//! `lgswitch`: makes, shows and reserves sharenets, and sets up the taps and bridges beside them.
//!
//! This file reads the command line and tells how it ended; each command is a file in [`cmd`].

mod cmd;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Ethernet segments in shared-memory files, and the taps and bridges beside them
#[derive(Debug, Parser)]
#[command(name = "lgswitch", version, max_term_width = 100)]
struct CommandLine {
    /// Print results as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: cmd::Command,
}

fn main() -> ExitCode {
    // A reader that has seen enough (`lgswitch ls | head -1`) ends us quietly.
    // SAFETY: setting a signal's default action; no other thread runs yet.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    lgswitch::sigbus::install(None);
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    // clap ends with status 2 on a usage error, having said what is wrong.
    let line = CommandLine::parse();
    match line.command.run(line.json) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("lgswitch: {error:#}");
            ExitCode::FAILURE
        }
    }
}
