//! How a program that was given something bad must end: with a status that says so and one
//! sentence that names the thing.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};

/// Runs `command` to its end, with nothing on its stdin.
///
/// # Errors
/// If it cannot be run.
pub fn of(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("Running {command:?}"))
}

/// That `output` is a refusal: this exit status, nothing on stdout, and on stderr one line with
/// each of `named` in it. (Whether it is a good sentence, only a reader can tell.)
///
/// # Errors
/// Says what it is instead.
pub fn refuses(output: &Output, status: i32, named: &[&str]) -> Result<()> {
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(status),
        "It ended with {}, not with {status}, and said: {errors}",
        output.status
    );
    ensure!(
        output.stdout.is_empty(),
        "It printed on stdout: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    ensure!(
        errors.trim().lines().count() == 1,
        "It gave its reason in more or less than one line: {errors}"
    );
    for part in named {
        ensure!(
            errors.contains(part),
            "Its reason does not name `{part}`: {errors}"
        );
    }
    Ok(())
}
