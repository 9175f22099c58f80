//! The sockets of QEMU's `-netdev dgram` and `-netdev stream`, used as QEMU uses them.
//!
//! A datagram is a frame. In a stream each frame follows its length, four bytes, big endian
//! (QEMU, `docs/interop` and `net/stream.c`). QEMU makes one system call for each frame it sends,
//! and so do these; it reads a stream in pieces of up to 68 KiB.

use std::io::{IoSlice, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

use crate::end::{PATIENCE, Receiver, Sender};

/// What QEMU reads of a stream at once.
const PIECE: usize = 68 * 1024;

/// One end of a pair of datagram sockets.
pub struct Datagrams {
    socket: UnixDatagram,
    buffer: Vec<u8>,
}

impl Datagrams {
    /// Binds one, for frames of that size; connects it, if it is to send.
    pub fn open(ours: &str, others: Option<&str>, size: usize) -> Result<Self> {
        let socket = UnixDatagram::bind(ours).with_context(|| format!("Can't bind {ours}"))?;
        if let Some(others) = others {
            socket
                .connect(others)
                .with_context(|| format!("Can't send to {others}"))?;
        }
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            buffer: vec![0x5a; size],
        })
    }
}

impl Sender for Datagrams {
    fn send(&mut self) -> Result<()> {
        self.socket
            .send(&self.buffer)
            .context("Can't send a datagram")?;
        Ok(())
    }
}

impl Receiver for Datagrams {
    fn receive(&mut self) -> Result<u64> {
        let length = self
            .socket
            .recv(&mut self.buffer)
            .context("No datagram arrives")?;
        Ok(u64::from(length == self.buffer.len()))
    }
}

/// The end of a stream that connects and sends.
pub struct StreamSender {
    stream: UnixStream,
    length: [u8; 4],
    frame: Vec<u8>,
}

impl StreamSender {
    /// Connects to the end that listens.
    pub fn connect(socket: &str, size: usize) -> Result<Self> {
        Ok(Self {
            stream: UnixStream::connect(socket)
                .with_context(|| format!("Can't connect to {socket}"))?,
            length: u32::try_from(size)?.to_be_bytes(),
            frame: vec![0x5a; size],
        })
    }
}

impl Sender for StreamSender {
    fn send(&mut self) -> Result<()> {
        let whole = self.length.len() + self.frame.len();
        let parts = [IoSlice::new(&self.length), IoSlice::new(&self.frame)];
        let mut sent = self
            .stream
            .write_vectored(&parts)
            .context("Can't write to the stream")?;
        // What did not fit at once.
        if sent < self.length.len() {
            self.stream.write_all(&self.length[sent..])?;
            sent = self.length.len();
        }
        if sent < whole {
            self.stream
                .write_all(&self.frame[sent - self.length.len()..])?;
        }
        Ok(())
    }
}

/// The end of a stream that listens and receives.
pub struct StreamReceiver {
    stream: UnixStream,
    piece: Vec<u8>,
    frame: Vec<u8>,
    /// Bytes of the current frame, with its length, that are there already.
    have: usize,
    length: [u8; 4],
}

impl StreamReceiver {
    /// Listens, and waits for the other end.
    pub fn accept(socket: &str, size: usize) -> Result<Self> {
        let listener =
            UnixListener::bind(socket).with_context(|| format!("Can't listen on {socket}"))?;
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::try_from(PATIENCE)?)? == 0 {
            bail!("Nobody connects to {socket}");
        }
        let (stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            piece: vec![0; PIECE],
            frame: vec![0; size],
            have: 0,
            length: [0; 4],
        })
    }

    /// Takes `bytes` of the stream apart; how many frames end in them.
    fn take(&mut self, mut bytes: &[u8]) -> Result<u64> {
        let mut frames = 0;
        while !bytes.is_empty() {
            let target = if self.have < 4 {
                &mut self.length[self.have..]
            } else {
                &mut self.frame[self.have - 4..]
            };
            let taken = target.len().min(bytes.len());
            target[..taken].copy_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            self.have += taken;
            if self.have >= 4 && u32::from_be_bytes(self.length) as usize != self.frame.len() {
                bail!("The stream is out of step");
            }
            if self.have == 4 + self.frame.len() {
                frames += 1;
                self.have = 0;
            }
        }
        Ok(frames)
    }
}

impl Receiver for StreamReceiver {
    fn receive(&mut self) -> Result<u64> {
        let mut piece = std::mem::take(&mut self.piece);
        let length = self
            .stream
            .read(&mut piece)
            .context("Nothing arrives on the stream")?;
        if length == 0 {
            bail!("The sender has left");
        }
        let frames = self.take(&piece[..length]);
        self.piece = piece;
        frames
    }
}
