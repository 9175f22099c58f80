//! A network interface's end: packet sockets (packet(7)), in bursts of `sendmmsg` and `recvmmsg`.
//!
//! Frames go from [`SENDER`] to [`RECEIVER`], so that a switch can learn, and have an EtherType
//! for local experiments, so that no protocol of the kernel takes them further. A sender waits when
//! its socket's buffer is full: nothing is lost on its side.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType, bind,
    recvmmsg, sendmmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::end::{BURST, PATIENCE, Receiver, Sender};

/// The address of the interface frames are sent from; the scripts give it to it.
const SENDER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// The address of the interface they arrive at.
const RECEIVER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];
/// IEEE 802 "Local Experimental EtherType 1".
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];
/// Room for what arrives while the receiver is not looking, in bytes.
const RECEIVE_BUFFER: usize = 4 << 20;

/// A frame from [`SENDER`] to [`RECEIVER`].
pub fn test_frame(size: usize) -> Vec<u8> {
    let mut frame = vec![0x5a; size];
    frame[..6].copy_from_slice(&RECEIVER);
    frame[6..12].copy_from_slice(&SENDER);
    frame[12..14].copy_from_slice(&ETHER_TYPE);
    frame
}

/// A packet socket on an interface.
pub struct Packets {
    socket: OwnedFd,
    frames: Vec<Vec<u8>>,
    headers: MultiHeaders<LinkAddr>,
}

impl Packets {
    /// Opens one for frames of that size.
    pub fn open(interface: &str, size: usize) -> Result<Self> {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .context("Can't open a packet socket (that needs root)")?;
        let address = getifaddrs()?
            .filter(|address| address.interface_name == interface)
            .find_map(|address| address.address?.as_link_addr().copied())
            .with_context(|| format!("There is no interface {interface} here"))?;
        bind(socket.as_raw_fd(), &address).with_context(|| format!("Can't bind to {interface}"))?;
        // Beyond the system's limit, for root; within it, for others.
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
        let patience = TimeVal::seconds(i64::try_from(PATIENCE.as_secs())?);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;

        Ok(Self {
            socket,
            frames: vec![test_frame(size); BURST],
            headers: MultiHeaders::preallocate(BURST, None),
        })
    }
}

impl Sender for Packets {
    fn send(&mut self) -> Result<()> {
        let slices: Vec<[IoSlice; 1]> = self.frames.iter().map(|f| [IoSlice::new(f)]).collect();
        let addresses = [None; BURST];
        sendmmsg(
            self.socket.as_raw_fd(),
            &mut self.headers,
            &slices,
            addresses,
            [],
            MsgFlags::empty(),
        )
        .context("Can't send frames")?;
        Ok(())
    }
}

impl Receiver for Packets {
    fn receive(&mut self) -> Result<u64> {
        let size = self.frames[0].len();
        let mut slices: Vec<[IoSliceMut; 1]> = self
            .frames
            .iter_mut()
            .map(|f| [IoSliceMut::new(f)])
            .collect();
        let received = recvmmsg(
            self.socket.as_raw_fd(),
            &mut self.headers,
            slices.iter_mut(),
            MsgFlags::MSG_WAITFORONE,
            None,
        )
        .context("No frame arrives")?;
        // Others than ours (an IPv6 neighbour looking round) are of other sizes.
        Ok(received.filter(|message| message.bytes == size).count() as u64)
    }
}
