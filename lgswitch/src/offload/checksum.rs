//! The Internet checksum (RFC 1071).

use super::Malformed;

/// Where UDP has its checksum.
const UDP_CHECKSUM: u16 = 6;

/// The ones' complement sum of `bytes` as big-endian words, added to `sum`; an odd last byte is
/// padded with zero.
pub fn add(sum: u64, bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(4);
    // Two words at a time: ones' complement sums fold from any width. 2^32 such steps fit.
    let sum = chunks.by_ref().fold(sum, |sum, c| {
        sum + u64::from(u32::from_be_bytes([c[0], c[1], c[2], c[3]]))
    });
    let rest = chunks.remainder();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum + u64::from(u32::from_be_bytes(last))
}

/// The checksum of a sum: folded to 16 bits and inverted.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Completes a checksum as virtio-net asks for it (Virtual I/O Device 1.2, 5.1.6.2): the bytes from
/// `start` on are summed, with what stands in the field (the sum of the pseudo-header), and the
/// result goes to `start + offset`.
pub fn complete(frame: &mut [u8], start: u16, offset: u16) -> Result<(), Malformed> {
    let summed = frame.get_mut(usize::from(start)..).ok_or(Malformed)?;
    let sum = match fold(add(0, summed)) {
        // UDP's 0 means "no checksum" (RFC 768). 0xffff is the same number to who adds it up, but to who
        // computes it anew, as Wireshark does, it is wrong in TCP (RFC 1624).
        0 if offset == UDP_CHECKSUM => 0xffff,
        sum => sum,
    };
    let at = usize::from(offset);
    let field = summed.get_mut(at..at + 2).ok_or(Malformed)?;
    field.copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pnet_packet::udp::{MutableUdpPacket, ipv4_checksum};
    use std::net::Ipv4Addr;

    #[test]
    fn a_completed_checksum_is_what_pnet_computes() {
        let (from, to) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        for len in [8usize, 9, 100, 1473] {
            let mut frame = vec![0xa5; 34 + len];
            let mut udp = MutableUdpPacket::new(&mut frame[34..]).unwrap();
            udp.set_length(len as u16);
            let expected = ipv4_checksum(&udp.to_immutable(), &from, &to);
            let pseudo = add(17 + len as u64, &[from.octets(), to.octets()].concat());
            udp.set_checksum(!fold(pseudo));
            complete(&mut frame, 34, 6).unwrap();
            assert_eq!(frame[40..42], expected.to_be_bytes());
        }
    }

    #[test]
    fn a_sum_of_nothing_is_0_but_in_udp() {
        for (offset, expected) in [(UDP_CHECKSUM, 0xffff_u16), (16, 0)] {
            let mut frame = [0; 20];
            frame[..2].copy_from_slice(&[0xff, 0xff]);
            complete(&mut frame, 0, offset).unwrap();
            let at = usize::from(offset);
            assert_eq!(frame[at..at + 2], expected.to_be_bytes());
        }
    }

    #[test]
    fn a_place_outside_the_frame_is_refused() {
        assert_eq!(complete(&mut [0; 20], 21, 0), Err(Malformed));
        assert_eq!(complete(&mut [0; 20], 14, 5), Err(Malformed));
        assert_eq!(complete(&mut [0; 20], 65535, 65535), Err(Malformed));
    }
}
