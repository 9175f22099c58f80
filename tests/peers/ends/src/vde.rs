//! A plug in a `vde_switch`, without the library: what QEMU's `-netdev vde` amounts to.
//!
//! A plug binds a datagram socket for what it is to receive, tells its name to the switch's control
//! socket, and gets the name of the socket to send to (VDE 2's protocol, version 3: magic, version,
//! kind of request, address; the answer is an address). A datagram is a frame. The plug is in as
//! long as the control connection is open.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::end::{PATIENCE, Receiver, Sender};
use crate::packet::test_frame;

const MAGIC: u32 = 0xfeed_face;
const VERSION: u32 = 3;
/// "A new port", the only request a plug makes.
const NEW_CONTROL: u32 = 0;
/// `struct sockaddr_un`: family and path (unix(7)).
const ADDRESS: usize = 2 + 108;
const AF_UNIX: u16 = 1;

/// A port of a switch.
pub struct Plug {
    data: UnixDatagram,
    frame: Vec<u8>,
    /// The switch ends the port when this closes.
    _control: UnixStream,
}

impl Plug {
    /// Plugs into the switch whose folder of sockets that is, by a socket of ours beside it.
    pub fn open(switch: &str, ours: &str, size: usize) -> Result<Self> {
        let data = UnixDatagram::bind(ours).with_context(|| format!("Can't bind {ours}"))?;
        let control = Path::new(switch).join("ctl");
        let mut control = UnixStream::connect(&control)
            .with_context(|| format!("No switch listens on {}", control.display()))?;
        control.set_read_timeout(Some(PATIENCE))?;
        control.write_all(&request(ours)?)?;
        let mut answer = [0; ADDRESS];
        control
            .read_exact(&mut answer)
            .context("The switch gives no port")?;
        data.connect(path(&answer)?)
            .context("Can't connect to the switch's port")?;
        data.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            data,
            frame: test_frame(size),
            _control: control,
        })
    }

    /// Shows the switch where the receiver is: a frame from it, to nobody.
    pub fn announce(&self) -> Result<()> {
        let mut frame = self.frame.clone();
        let (destination, rest) = frame.split_at_mut(6);
        destination.swap_with_slice(&mut rest[..6]);
        self.data.send(&frame).context("Can't send to the switch")?;
        Ok(())
    }
}

fn request(ours: &str) -> Result<Vec<u8>> {
    let mut request = Vec::new();
    for word in [MAGIC, VERSION, NEW_CONTROL] {
        request.extend_from_slice(&word.to_ne_bytes());
    }
    request.extend_from_slice(&AF_UNIX.to_ne_bytes());
    request.extend_from_slice(ours.as_bytes());
    // A path ends with a zero.
    let whole = 3 * size_of::<u32>() + ADDRESS;
    if request.len() >= whole {
        bail!("{ours} is too long for the name of a socket");
    }
    request.resize(whole, 0);
    request.extend_from_slice(b"peer-ends\0");
    Ok(request)
}

/// The path in an address.
fn path(address: &[u8]) -> Result<&Path> {
    let path = address.get(2..).unwrap_or_default();
    match path.iter().position(|&byte| byte == 0) {
        Some(0) | None => bail!("The switch's answer is no address"),
        Some(end) => Ok(Path::new(OsStr::from_bytes(&path[..end]))),
    }
}

impl Sender for Plug {
    fn send(&mut self) -> Result<()> {
        self.data
            .send(&self.frame)
            .context("Can't send to the switch")?;
        Ok(())
    }
}

impl Receiver for Plug {
    fn receive(&mut self) -> Result<u64> {
        let length = self
            .data
            .recv(&mut self.frame)
            .context("No frame arrives")?;
        Ok(u64::from(length == self.frame.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_what_the_switch_expects() {
        let request = request("/run/left").unwrap();
        assert_eq!(request[..4], MAGIC.to_ne_bytes());
        assert_eq!(path(&request[12..]).unwrap(), Path::new("/run/left"));
        assert!(super::request(&"x".repeat(108)).is_err());
    }

    #[test]
    fn an_answer_without_a_path_is_an_error() {
        assert!(path(&[1, 0, 0, 0]).is_err());
        assert!(path(&[1]).is_err());
        assert!(path(&[1, 0, b'a']).is_err());
    }
}
