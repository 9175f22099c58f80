//! MAC addresses for links we make.
//!
//! A link made without one gets a random address *after* the kernel has announced it, and
//! systemd-udevd may replace that one (`MACAddressPolicy=persistent`): a race in which whoever
//! read the first address keeps a stale one. An address given in the creating message, or set by
//! hand, is left alone; so we always give one.

use pnet_base::MacAddr;

use crate::error::{Error, Result};
use nix::errno::Errno;

/// A random, locally administered unicast address (IEEE 802, clause 8: bit 1 of the first octet
/// set, bit 0 clear).
///
/// # Errors
/// The kernel has no random numbers to give.
pub fn random_mac() -> Result<MacAddr> {
    let mut octets = [0; 6];
    fill(&mut octets)?;
    octets[0] = (octets[0] & 0xfc) | 0x02;
    Ok(MacAddr::from(octets))
}

/// A random address for a bridge port: locally administered and as high as they come (`fe:…`).
///
/// A bridge that was never given an address takes the lowest among its ports', so a port with a
/// low one would change the bridge's own address, and with it the host's, in the eyes of
/// everybody on that LAN.
///
/// # Errors
/// The kernel has no random numbers to give.
pub fn random_port_mac() -> Result<MacAddr> {
    let mut octets = [0; 6];
    fill(&mut octets)?;
    octets[0] = 0xfe;
    Ok(MacAddr::from(octets))
}

/// Refuses what no interface can have.
pub(crate) fn require_unicast(mac: MacAddr, operation: impl Fn() -> String) -> Result<()> {
    if mac.is_zero() || mac.octets()[0] & 1 != 0 {
        let reason = format!(
            "{mac} is no interface's address: it must be unicast (an even first byte) and not all zero"
        );
        return Err(Error::contradiction(operation(), reason));
    }
    Ok(())
}

/// Six octets out of a netlink attribute; anything else (InfiniBand has 20) is no MAC.
pub(crate) fn from_bytes(bytes: &[u8]) -> Option<MacAddr> {
    <[u8; 6]>::try_from(bytes).ok().map(MacAddr::from)
}

/// Random bytes.
pub(crate) fn fill(octets: &mut [u8]) -> Result<()> {
    getrandom::fill(octets).map_err(|e| {
        let errno = e
            .raw_os_error()
            .map_or(Errno::UnknownErrno, Errno::from_raw);
        Error::system("draw random numbers", errno)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_address_is_local_and_unicast() {
        for _ in 0..100 {
            for mac in [random_mac().unwrap(), random_port_mac().unwrap()] {
                assert_eq!(mac.octets()[0] & 0x03, 0x02, "{mac}");
            }
        }
        assert_ne!(random_mac().unwrap(), random_mac().unwrap());
    }

    #[test]
    fn group_and_zero_addresses_are_refused() {
        for bad in [
            "00:00:00:00:00:00",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
        ] {
            assert!(
                require_unicast(bad.parse().unwrap(), || "test".into()).is_err(),
                "{bad}"
            );
        }
        assert!(require_unicast("02:00:00:00:00:01".parse().unwrap(), || "test".into()).is_ok());
    }
}
