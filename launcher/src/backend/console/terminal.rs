//! The terminal on stdin: raw while a guest has it, and as it was on every way out.
//!
//! What it was is kept in one static, so that any thread can put it back at any moment: the main
//! thread at the end, the signal thread when nothing else helps, a [`fault`](crate::fault) before it is told.
//! (`SIGKILL` is the one way out that nothing can follow; `stty sane` then helps.)

use std::io::{IsTerminal, stdin};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, PoisonError};

use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};

use super::size::WindowSize;

/// How the terminal was before we made it raw, while we have it so.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

fn before() -> std::sync::MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether stdin is a terminal at all.
pub fn is_one() -> bool {
    stdin().is_terminal()
}

/// Whether it is ours to read: we are its foreground job. A job started with `&` is not, and would
/// be stopped for touching it.
pub fn is_foreground() -> bool {
    tcgetpgrp(stdin()).is_ok_and(|group| group == getpgrp())
}

/// The size of the window of any terminal, if it has one and says so.
pub fn size_of(terminal: impl AsFd) -> Option<WindowSize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one `winsize` (ioctl_tty(2)), and `size` is one.
    let answer = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &mut size) };
    (answer == 0 && size.ws_row > 0 && size.ws_col > 0).then_some(WindowSize {
        columns: size.ws_col,
        rows: size.ws_row,
    })
}

/// Makes the terminal raw, if it is one and ours, so that every key goes to the guest. Does
/// nothing if it is raw already.
pub fn enter() {
    let mut before = before();
    if before.is_none() && is_one() && is_foreground() {
        // A terminal that will not say how it is set can't be put back, so it stays as it is.
        if let Ok(settings) = tcgetattr(stdin())
            && make_raw(&settings)
        {
            *before = Some(settings);
        }
    }
}

/// Makes it raw again after somebody else, a shell, had it: for `SIGCONT`.
pub fn resume() {
    if let Some(settings) = before().as_ref()
        && is_foreground()
    {
        make_raw(settings);
    }
}

/// Puts it back as it was. Does nothing if that has been done.
pub fn restore() {
    if let Some(settings) = before().take() {
        // Now, not when the output has drained: it may be stopped by ^S. If the terminal is gone,
        // there is nothing to put back.
        let _ = tcsetattr(stdin().as_fd(), SetArg::TCSANOW, &settings);
    }
}

fn make_raw(settings: &Termios) -> bool {
    let mut raw = settings.clone();
    cfmakeraw(&mut raw);
    // Output stays as it was: the guest's "\r\n" passes unharmed, and our own messages keep their
    // line breaks.
    raw.output_flags
        .insert(settings.output_flags & (OutputFlags::OPOST | OutputFlags::ONLCR));
    tcsetattr(stdin().as_fd(), SetArg::TCSANOW, &raw).is_ok()
}
