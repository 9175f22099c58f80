//! Messages of the vhost-user protocol, as they come over the socket.
//!
//! A message is a header of three words (request, flags, size), a body, and perhaps descriptors. The
//! layouts are QEMU's `docs/interop/vhost-user.rst`; request numbers and bodies are named by the
//! `vhost` crate. Its own message loop can't serve a network card of QEMU's: it takes the enabling
//! of a queue before the features are acknowledged, which QEMU does, for a breach of the protocol.

use std::io::{self, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use vhost::vhost_user::message::MAX_ATTACHED_FD_ENTRIES;
use vm_memory::ByteValued;

use crate::plug::virtio::card::Trouble;

const HEADER: usize = 12;
/// Flags: the version, which is 1, in the low two bits.
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;
/// No body we know is larger than a memory table of 8 regions.
const MAX_BODY: usize = 4096;
/// How long the rest of a message may take once its first byte is there, or a VMM to read a reply.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a VMM did that the protocol does not allow, or what became of the socket.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The socket failed.
    #[error("the socket failed: {0}")]
    Socket(#[from] io::Error),
    /// A message that is cut short, too long, or of another version.
    #[error("a malformed message: {0}")]
    Malformed(&'static str),
    /// The guest can't be served.
    #[error(transparent)]
    Guest(#[from] Trouble),
    /// A request that must not come, or not now, or not with this content.
    #[error("request {request} is not allowed: {reason}")]
    Refused {
        /// Its number in the protocol.
        request: u32,
        /// Why.
        reason: &'static str,
    },
}

/// A message from the VMM.
#[derive(Debug)]
pub struct Message {
    /// What it asks.
    pub request: u32,
    flags: u32,
    body: Vec<u8>,
    /// Descriptors that came with it.
    pub files: Vec<OwnedFd>,
}

impl Message {
    /// The next one; `None` when the VMM has hung up.
    pub fn receive(socket: &UnixStream) -> Result<Option<Self>, ProtocolError> {
        let mut header = [0; HEADER];
        let (count, files) = receive_with_files(socket, &mut header)?;
        if count == 0 {
            return Ok(None);
        }
        read_rest(socket, &mut header[count..])?;
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        let (flags, size) = (word(4), word(8) as usize);
        if flags & 3 != VERSION || flags & REPLY != 0 {
            return Err(ProtocolError::Malformed(
                "its flags are of another version, or of a reply",
            ));
        }
        if size > MAX_BODY {
            return Err(ProtocolError::Malformed(
                "its body is longer than any there is",
            ));
        }
        let mut body = vec![0; size];
        read_rest(socket, &mut body)?;
        Ok(Some(Self {
            request: word(0),
            flags,
            body,
            files,
        }))
    }

    /// Its body as a `T`.
    pub fn body<T: ByteValued + Default>(&self) -> Result<T, ProtocolError> {
        let (body, rest) = self.split_body()?;
        match rest {
            [] => Ok(body),
            _ => Err(ProtocolError::Malformed("its body is of the wrong size")),
        }
    }

    /// The `T` its body starts with, and what follows.
    pub fn split_body<T: ByteValued + Default>(&self) -> Result<(T, &[u8]), ProtocolError> {
        let short = ProtocolError::Malformed("its body is of the wrong size");
        let (start, rest) = self.body.split_at_checked(size_of::<T>()).ok_or(short)?;
        let mut body = T::default();
        body.as_mut_slice().copy_from_slice(start);
        Ok((body, rest))
    }

    /// Its only descriptor.
    pub fn file(&mut self) -> Result<OwnedFd, ProtocolError> {
        match (self.files.pop(), self.files.is_empty()) {
            (Some(file), true) => Ok(file),
            _ => Err(self.refused("it takes one descriptor")),
        }
    }

    /// An error about this message.
    pub fn refused(&self, reason: &'static str) -> ProtocolError {
        ProtocolError::Refused {
            request: self.request,
            reason,
        }
    }

    /// Whether the VMM waits for a word on how it went.
    pub fn wants_acknowledgement(&self) -> bool {
        self.flags & NEED_REPLY != 0
    }

    /// Answers it.
    pub fn reply(&self, mut socket: &UnixStream, body: &[u8]) -> Result<(), ProtocolError> {
        let words = [self.request, VERSION | REPLY, body.len() as u32];
        let mut message: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        message.extend_from_slice(body);
        Ok(socket.write_all(&message)?)
    }
}

/// Makes sure that a VMM which stops in the middle of a message holds nobody up for long.
pub fn limit_waits(socket: &UnixStream) -> io::Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))
}

/// Fills `out` with what follows of a message.
fn read_rest(mut socket: &UnixStream, out: &mut [u8]) -> Result<(), ProtocolError> {
    use io::ErrorKind::{ConnectionReset, TimedOut, UnexpectedEof, WouldBlock};
    socket.read_exact(out).map_err(|error| match error.kind() {
        UnexpectedEof | ConnectionReset | TimedOut | WouldBlock => {
            ProtocolError::Malformed("it is cut short")
        }
        _ => error.into(),
    })
}

/// Reads bytes and the descriptors that came with them. 0 bytes is the end.
fn receive_with_files(socket: &UnixStream, out: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; MAX_ATTACHED_FD_ENTRIES]);
    let mut parts = [IoSliceMut::new(out)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            // A VMM that was killed, with something of ours unread.
            Err(nix::errno::Errno::ECONNRESET) => return Ok((0, Vec::new())),
            result => break result?,
        }
    };
    let mut files = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just made these descriptors for us, and nobody else owns them.
            files.extend(
                fds.into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    Ok((message.bytes, files))
}
