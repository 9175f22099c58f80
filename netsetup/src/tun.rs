//! The one thing netlink cannot do: open a tap, by ioctl on `/dev/net/tun`
//! (`Documentation/networking/tuntap.rst`, numbers from `linux/if_tun.h`).
//!
//! All `unsafe` of this crate that talks to the tun driver is here, behind functions that take
//! and give whole descriptors.

use std::fs::OpenOptions;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::errno::Errno;
use pnet_base::MacAddr;

use crate::error::{Error, Result};
use crate::mac;
use crate::name::InterfaceName;

/// The device node every tap is opened through.
pub const TUN_DEVICE: &str = "/dev/net/tun";

/// Bytes of the virtio-net header that precedes each frame when `vnet_hdr` is on: the size with
/// `num_buffers` (virtio 1.2, section 5.1.6), which is what every modern guest uses.
pub const VNET_HEADER_LEN: usize = 12;

/// `IFF_TUN_EXCL`: make a new interface or fail. (libc has it as a signed word.)
const IFF_TUN_EXCL: libc::c_short = 0x8000_u16.cast_signed();

mod ioctl {
    use nix::libc::{c_int, c_uint, ifreq};

    nix::ioctl_readwrite_bad!(
        tunsetiff,
        nix::request_code_write!(b'T', 202, size_of::<c_int>()),
        ifreq
    );
    nix::ioctl_write_int!(tunsetpersist, b'T', 203);
    nix::ioctl_write_int!(tunsetowner, b'T', 204);
    nix::ioctl_write_int!(tunsetgroup, b'T', 206);
    nix::ioctl_write_int!(tunsetoffload, b'T', 208);
    nix::ioctl_readwrite_bad!(
        tungetiff,
        nix::request_code_read!(b'T', 210, size_of::<c_uint>()),
        ifreq
    );
    nix::ioctl_readwrite_bad!(siocgifhwaddr, nix::libc::SIOCGIFHWADDR, ifreq);
    nix::ioctl_write_ptr!(tunsetvnethdrsz, b'T', 216, c_int);
    nix::ioctl_write_ptr_bad!(
        tunsetqueue,
        nix::request_code_write!(b'T', 217, size_of::<c_int>()),
        ifreq
    );
}

/// What a tap's reader can cope with, told to the kernel (`TUNSETOFFLOAD`, `TUN_F_*`): the kernel
/// then hands over frames with checksums to finish and segments to cut, described in the
/// virtio-net header. Meaningful only with `vnet_hdr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapOffloads {
    /// Frames whose checksum is still to be finished. All others need it.
    pub csum: bool,
    /// TCP over IPv4 up to 64 KiB, to be segmented.
    pub tso4: bool,
    /// TCP over IPv6 up to 64 KiB, to be segmented.
    pub tso6: bool,
    /// TCP with congestion marks among those to be segmented.
    pub tso_ecn: bool,
    /// UDP over IPv4 and IPv6, to be segmented (since 6.2).
    pub uso: bool,
}

impl TapOffloads {
    /// None: every frame comes whole, cut and summed.
    pub const NONE: Self = Self {
        csum: false,
        tso4: false,
        tso6: false,
        tso_ecn: false,
        uso: false,
    };

    fn bits(self) -> u32 {
        let bit = |on, value| if on { value } else { 0 };
        // The kernel takes USO4 (0x20) and USO6 (0x40) only together.
        bit(self.csum, 0x01)
            | bit(self.tso4, 0x02)
            | bit(self.tso6, 0x04)
            | bit(self.tso_ecn, 0x08)
            | bit(self.uso, 0x60)
    }
}

/// How one queue of a tap is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    pub(crate) vnet_hdr: bool,
    pub(crate) multi_queue: bool,
    /// Fail rather than attach to what exists.
    pub(crate) exclusive: bool,
}

/// Opens `/dev/net/tun` in the calling thread's network namespace. This decides where a tap will
/// be, whatever happens to the thread later.
pub(crate) fn open_device(nonblocking: bool, operation: impl Fn() -> String) -> Result<OwnedFd> {
    open_node(TUN_DEVICE, nonblocking, operation)
}

/// Opens a tap's device node for reading and writing.
pub(crate) fn open_node(
    device: &str,
    nonblocking: bool,
    operation: impl Fn() -> String,
) -> Result<OwnedFd> {
    let flags = if nonblocking {
        libc::O_CLOEXEC | libc::O_NONBLOCK
    } else {
        libc::O_CLOEXEC
    };
    match OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(device)
    {
        Ok(file) => Ok(file.into()),
        Err(error) => {
            let errno = errno_of(&error);
            let reason = why_not_opened(device, errno);
            Err(Error::TunDevice {
                operation: operation(),
                device: device.into(),
                reason,
                errno,
            })
        }
    }
}

fn why_not_opened(device: &str, errno: Errno) -> String {
    match errno {
        Errno::ENOENT if device == TUN_DEVICE => {
            "it does not exist; load the tun module (`modprobe tun`), or in a container have the device passed in \
             (`mknod /dev/net/tun c 10 200`)"
                .into()
        }
        Errno::ENOENT => "it does not exist; where no udev or devtmpfs makes it, make it from the numbers in \
                          /sys/class/net/*/macvtap/*/dev"
            .into(),
        Errno::ENODEV | Errno::ENXIO => {
            "this kernel has no driver for it, or its module is not loaded (`modprobe tun`)".into()
        }
        Errno::EBUSY => "another process has it open".into(),
        Errno::EACCES | Errno::EPERM => match std::fs::metadata(device) {
            Ok(node) => format!(
                "{}; its mode is {:04o}, owner {}, group {}: be root, or have it opened to you{}",
                errno.desc(),
                node.mode() & 0o7777,
                node.uid(),
                node.gid(),
                if device == TUN_DEVICE {
                    " (mode 0666 is usual and safe: the driver asks for CAP_NET_ADMIN by itself)"
                } else {
                    ""
                }
            ),
            Err(_) => errno.desc().into(),
        },
        other => other.desc().into(),
    }
}

/// Makes `device` a queue of the tap `name` (or of a new one of that pattern). Gives the tap's
/// name; the kernel's bare reason if it refuses, because only the caller knows what exists.
pub(crate) fn attach(
    device: BorrowedFd<'_>,
    name: &str,
    opening: Opening,
) -> Result<InterfaceName, Errno> {
    // SAFETY: `ifreq` is plain data, for which all zeroes is a valid (empty) value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // A name that does not fit with its NUL is refused, never cut.
    if name.len() >= request.ifr_name.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let mut flags =
        libc::c_short::try_from(libc::IFF_TAP | libc::IFF_NO_PI).map_err(|_| Errno::EINVAL)?;
    for (on, flag) in [
        (opening.vnet_hdr, libc::IFF_VNET_HDR),
        (opening.multi_queue, libc::IFF_MULTI_QUEUE),
    ] {
        if on {
            flags |= libc::c_short::try_from(flag).map_err(|_| Errno::EINVAL)?;
        }
    }
    if opening.exclusive {
        flags |= IFF_TUN_EXCL;
    }
    request.ifr_ifru.ifru_flags = flags;

    // SAFETY: `device` is an open descriptor and `request` a whole `ifreq`, which is what
    // TUNSETIFF reads and writes (its number claims an `int`, by historical accident).
    unsafe { ioctl::tunsetiff(device.as_raw_fd(), &raw mut request) }?;

    let name = name_in(&request)?;

    if opening.vnet_hdr {
        let len = libc::c_int::try_from(VNET_HEADER_LEN).map_err(|_| Errno::EINVAL)?;
        // SAFETY: TUNSETVNETHDRSZ reads one `int` through the pointer, which outlives the call.
        unsafe { ioctl::tunsetvnethdrsz(device.as_raw_fd(), &raw const len) }?;
    }
    Ok(name)
}

/// The name and the MAC address of the interface a macvtap's descriptor belongs to.
pub(crate) fn identity(queue: BorrowedFd<'_>) -> Result<(InterfaceName, MacAddr), Errno> {
    // SAFETY: `ifreq` is plain data, for which all zeroes is a valid (empty) value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // SAFETY: `queue` is an open descriptor and `request` a whole `ifreq`, which TUNGETIFF fills.
    unsafe { ioctl::tungetiff(queue.as_raw_fd(), &raw mut request) }?;
    let name = name_in(&request)?;
    // SAFETY: as above, for SIOCGIFHWADDR.
    unsafe { ioctl::siocgifhwaddr(queue.as_raw_fd(), &raw mut request) }?;
    // SAFETY: SIOCGIFHWADDR has just made the address the union's live field; it is plain bytes.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    let octets: Vec<u8> = data.iter().take(6).map(|c| c.cast_unsigned()).collect();
    Ok((name, mac::from_bytes(&octets).ok_or(Errno::EILSEQ)?))
}

fn name_in(request: &libc::ifreq) -> Result<InterfaceName, Errno> {
    let bytes = request.ifr_name.iter().map(|c| c.cast_unsigned());
    let bytes: Vec<u8> = bytes.take_while(|b| *b != 0).collect();
    let name = str::from_utf8(&bytes).map_err(|_| Errno::EILSEQ)?;
    name.parse().map_err(|_| Errno::EILSEQ)
}

/// Lets the tap outlive its descriptors, or not.
pub(crate) fn set_persistent(queue: impl AsFd, on: bool) -> Result<(), Errno> {
    // SAFETY: TUNSETPERSIST takes its argument by value; the descriptor is open.
    unsafe { ioctl::tunsetpersist(queue.as_fd().as_raw_fd(), on.into()) }.map(drop)
}

/// Lets a user open the tap without `CAP_NET_ADMIN`.
pub(crate) fn set_owner(queue: impl AsFd, uid: u32) -> Result<(), Errno> {
    // SAFETY: TUNSETOWNER takes its argument by value; the descriptor is open.
    unsafe { ioctl::tunsetowner(queue.as_fd().as_raw_fd(), uid.into()) }.map(drop)
}

/// Lets a group open the tap without `CAP_NET_ADMIN`.
pub(crate) fn set_group(queue: impl AsFd, gid: u32) -> Result<(), Errno> {
    // SAFETY: TUNSETGROUP takes its argument by value; the descriptor is open.
    unsafe { ioctl::tunsetgroup(queue.as_fd().as_raw_fd(), gid.into()) }.map(drop)
}

/// Has frames come out of this queue of a tap with several, or none.
pub(crate) fn set_queue(queue: impl AsFd, attached: bool) -> Result<(), Errno> {
    // SAFETY: `ifreq` is plain data, for which all zeroes is a valid (empty) value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let flag = if attached {
        libc::IFF_ATTACH_QUEUE
    } else {
        libc::IFF_DETACH_QUEUE
    };
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flag).map_err(|_| Errno::EINVAL)?;
    // SAFETY: TUNSETQUEUE reads a whole `ifreq` through the pointer, which outlives the call (its
    // number claims an `int`, by historical accident).
    unsafe { ioctl::tunsetqueue(queue.as_fd().as_raw_fd(), &raw const request) }.map(drop)
}

/// Tells the kernel what the tap's reader copes with.
pub(crate) fn set_offloads(queue: impl AsFd, offloads: TapOffloads) -> Result<(), Errno> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value; the descriptor is open.
    unsafe { ioctl::tunsetoffload(queue.as_fd().as_raw_fd(), offloads.bits().into()) }.map(drop)
}

fn errno_of(error: &io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_says_how_to_get_it() {
        assert!(why_not_opened(TUN_DEVICE, Errno::ENOENT).contains("modprobe tun"));
        assert!(why_not_opened(TUN_DEVICE, Errno::ENODEV).contains("modprobe tun"));
    }

    #[test]
    fn offloads_are_the_kernels_bits() {
        let all = TapOffloads {
            csum: true,
            tso4: true,
            tso6: true,
            tso_ecn: true,
            uso: true,
        };
        assert_eq!((TapOffloads::NONE.bits(), all.bits()), (0, 0x6f));
    }

    #[test]
    fn a_name_too_long_is_refused_not_cut() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let opening = Opening {
            vnet_hdr: false,
            multi_queue: false,
            exclusive: true,
        };
        assert_eq!(
            attach(null.as_fd(), "sixteen-letters-", opening),
            Err(Errno::ENAMETOOLONG)
        );
    }
}
