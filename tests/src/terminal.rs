//! A guest on a terminal, as a person starts it: to see what the launcher makes of the terminal
//! and in what state it leaves it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;

use anyhow::{Context, Result};
use nix::pty::openpty;
use nix::sys::termios::{self, LocalFlags, Termios};

use crate::console::Console;
use crate::guest::{Guest, GuestBuilder};

/// The program's side of a pseudo-terminal, kept open so that its settings can be looked at
/// after the program is gone.
pub struct Terminal {
    side: OwnedFd,
    before: Termios,
}

impl Terminal {
    /// Starts a guest with a new terminal as stdin, stdout and controlling terminal. What is
    /// typed on the guest's console is typed on that terminal.
    ///
    /// # Errors
    /// If there is no terminal to be had, or the launcher cannot be run.
    pub fn start(guest: &GuestBuilder<'_>, name: &str) -> Result<(Guest, Terminal)> {
        let pty = openpty(None, None).context("Opening a pseudo-terminal")?;
        let before =
            termios::tcgetattr(pty.slave.as_fd()).context("Reading the terminal's settings")?;
        let terminal = Terminal {
            side: pty.slave,
            before,
        };
        // setsid(1) makes its stdin the controlling terminal and becomes the launcher.
        let mut command = guest.command_after(&["setsid", "--ctty"])?;
        command
            .stdin(terminal.handle()?)
            .stdout(terminal.handle()?)
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .context("Running the launcher on a terminal")?;
        let errors = child.stderr.take().context("The launcher has no stderr")?;
        let master = File::from(pty.master);
        let console = Console::new(
            master
                .try_clone()
                .context("Copying a terminal's descriptor")?,
            master,
        );
        Ok((Guest::new(name, child, console, errors), terminal))
    }

    fn handle(&self) -> Result<Stdio> {
        Ok(self
            .side
            .try_clone()
            .context("Copying a terminal's descriptor")?
            .into())
    }

    /// Whether the terminal hands every key to the program at once and unchanged.
    ///
    /// # Errors
    /// If its settings cannot be read.
    pub fn is_raw(&self) -> Result<bool> {
        let now =
            termios::tcgetattr(self.side.as_fd()).context("Reading the terminal's settings")?;
        Ok(!now
            .local_flags
            .intersects(LocalFlags::ICANON | LocalFlags::ISIG | LocalFlags::ECHO))
    }

    /// Whether the terminal is in all as it was before the launcher came.
    ///
    /// # Errors
    /// If its settings cannot be read.
    pub fn is_as_before(&self) -> Result<bool> {
        Ok(
            termios::tcgetattr(self.side.as_fd()).context("Reading the terminal's settings")?
                == self.before,
        )
    }
}
