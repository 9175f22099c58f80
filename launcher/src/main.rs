//! The `launcher` binary. Everything is in the library; begin reading at its front page.

use std::process::ExitCode;

fn main() -> ExitCode {
    launcher::main(std::env::args_os())
}
