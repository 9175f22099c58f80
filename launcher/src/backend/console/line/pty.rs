//! A pseudo-terminal: the guest's console on its master's side, and for whoever opens the other
//! (`screen /dev/pts/7`) a serial line.

use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, open};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

/// A new pseudo-terminal, raw: the guest's own terminal does all there is to do.
#[derive(Debug)]
pub struct Pty {
    /// Our side, non-blocking.
    pub master: OwnedFd,
    /// The other, held open: it stays raw and quiet while nobody else has it open.
    pub side: OwnedFd,
    /// The other side's name.
    pub name: String,
}

impl Pty {
    /// Makes one.
    ///
    /// # Errors
    /// The host has no more of them, or no descriptor is left.
    pub fn open() -> io::Result<Self> {
        let own = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(own | OFlag::O_NONBLOCK)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname_r(&master)?;
        let side = open(name.as_str(), own, Mode::empty())?;
        let mut settings = tcgetattr(&side)?;
        cfmakeraw(&mut settings);
        tcsetattr(&side, SetArg::TCSANOW, &settings)?;
        Ok(Self {
            master: master.into(),
            side,
            name,
        })
    }
}
