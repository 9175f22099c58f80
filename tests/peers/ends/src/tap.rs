//! A tap on a bridge, as a VMM or a launcher holds it: one system call a frame.
//!
//! Nothing holds a sender back here. What the bridge cannot put into the receiver's queue is lost,
//! as it would be for a guest; only what is read counts.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};
use netsetup::{NetSetup, TapOptions, TapPlan};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::end::{BURST, PATIENCE, Receiver, Sender};
use crate::packet::test_frame;

/// An open tap.
pub struct Tap {
    file: File,
    frame: Vec<u8>,
}

impl Tap {
    /// Makes a tap on `bridge`, for frames of that size.
    pub fn open(bridge: &str, size: usize) -> Result<Self> {
        let plan = TapPlan {
            tap: TapOptions {
                nonblocking: true,
                mtu: Some(u32::try_from(size)?.saturating_sub(14).max(1500)),
                ..TapOptions::default()
            },
            bridge: Some(bridge.parse()?),
            up: true,
            ..TapPlan::default()
        };
        let tap = NetSetup::new()?.setup_tap(&plan)?;
        let queue = tap.queues.into_iter().next().context("A tap has a queue")?;
        Ok(Self {
            file: File::from(queue),
            frame: test_frame(size),
        })
    }

    fn wait(&self, what: PollFlags) -> Result<()> {
        let mut fds = [PollFd::new(self.file.as_fd(), what)];
        if poll(&mut fds, PollTimeout::try_from(PATIENCE)?)? == 0 {
            bail!("Nothing moves on the tap");
        }
        Ok(())
    }
}

impl Sender for Tap {
    fn send(&mut self) -> Result<()> {
        for _ in 0..BURST {
            match self.file.write(&self.frame) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return self.wait(PollFlags::POLLOUT);
                }
                Err(error) => return Err(error).context("Can't write to the tap"),
            }
        }
        Ok(())
    }
}

impl Receiver for Tap {
    fn receive(&mut self) -> Result<u64> {
        let mut frames = 0;
        for _ in 0..BURST {
            match self.file.read(&mut self.frame) {
                Ok(length) => frames += u64::from(length == self.frame.len()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if frames == 0 {
                        self.wait(PollFlags::POLLIN)?;
                    }
                    break;
                }
                Err(error) => return Err(error).context("Can't read from the tap"),
            }
        }
        Ok(frames)
    }
}
