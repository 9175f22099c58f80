//! What a sender that has no words for it left to be done to a frame.
//!
//! A guest of 2007 on a wire that "needs no checksums" sends TCP and UDP whose checksum is still to be
//! computed, beside ICMP, fragments and forwarded packets whose checksum is finished, and has no
//! virtio-net header to say which is which. The frame itself tells: in an unfinished one the field
//! holds the sum of the pseudo-header, for the card to go on from.
//!
//! A finished checksum may be that number by chance. Then finishing it again makes the same of it, for that is
//! what it is the sum of, so nothing is ever taken for what it is not.

use super::checksum::{add, fold};
use super::segment::{PROTOCOL_TCP, PROTOCOL_UDP, TAGS, TYPE_IPV4, TYPE_IPV6};
use crate::frame::{ETHERNET_HEADER, VnetHeader};

/// More fragments follow, or this is not the first (RFC 791: flag MF and the offset).
const FRAGMENT: u16 = 0x3fff;

/// Bytes of an IPv6 header (RFC 8200).
const IPV6_HEADER: usize = 40;

/// The header that `frame` should have come with.
pub fn header_of(frame: &[u8]) -> VnetHeader {
    unfinished(frame).unwrap_or_default()
}

/// TCP and UDP straight behind IP, in one piece: what a card was ever asked to finish.
fn unfinished(frame: &[u8]) -> Option<VnetHeader> {
    let mut type_at = ETHERNET_HEADER - 2;
    for _ in 0..2 {
        if TAGS.contains(&be16(frame, type_at)?) {
            type_at += 4;
        }
    }
    let ip = type_at + 2;
    // Where IP's header ends, what comes next, and where its packet's addresses and end are.
    let (start, protocol, addresses, end) = match be16(frame, type_at)? {
        TYPE_IPV4 if be16(frame, ip + 6)? & FRAGMENT == 0 => {
            let start = ip + usize::from(frame.get(ip)? & 0xf) * 4;
            let end = ip + usize::from(be16(frame, ip + 2)?);
            (start, *frame.get(ip + 9)?, ip + 12..ip + 20, end)
        }
        TYPE_IPV6 => {
            let start = ip + IPV6_HEADER;
            let end = start + usize::from(be16(frame, ip + 4)?);
            (start, *frame.get(ip + 6)?, ip + 8..ip + 40, end)
        }
        _ => return None,
    };
    let offset = match protocol {
        PROTOCOL_TCP => 16,
        PROTOCOL_UDP => 6,
        _ => return None,
    };
    let length = frame.get(start..end)?.len();
    let pseudo = add(u64::from(protocol) + length as u64, frame.get(addresses)?);
    let field = be16(frame.get(..end)?, start + offset)?;
    (field == !fold(pseudo)).then_some(VnetHeader {
        flags: VnetHeader::NEEDS_CHECKSUM,
        checksum_start: start as u16,
        checksum_offset: offset as u16,
        ..VnetHeader::default()
    })
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::{Finished, finish};
    use proptest::prelude::*;

    /// UDP over IPv4 whose checksum is still to be computed.
    fn udp(payload: &[u8], tags: usize) -> Vec<u8> {
        let mut frame = vec![2; 12];
        for _ in 0..tags {
            frame.extend([0x81, 0, 0, 7]);
        }
        frame.extend([8, 0]);
        let length = (28 + payload.len()) as u16;
        frame.extend([0x45, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let pseudo = add(17 + u64::from(length - 20), &[10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0, 7, 0, 7]);
        frame.extend((length - 20).to_be_bytes());
        frame.extend((!fold(pseudo)).to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn finished(frame: &[u8]) -> Vec<u8> {
        let mut out = Finished::default();
        finish(&header_of(frame), frame, &mut out).unwrap();
        out.frames().next().unwrap().to_vec()
    }

    #[test]
    fn an_unfinished_checksum_is_told_by_what_stands_in_its_place() {
        for tags in 0..=2 {
            let frame = udp(b"anything", tags);
            let header = header_of(&frame);
            assert_eq!(header.flags, VnetHeader::NEEDS_CHECKSUM);
            assert_eq!(usize::from(header.checksum_start), 34 + 4 * tags);
            assert_eq!(header.checksum_offset, 6);
            // And once finished it is no more.
            let frame = finished(&frame);
            assert_eq!(header_of(&frame), VnetHeader::default());
        }
    }

    #[test]
    fn a_fragment_is_never_unfinished() {
        for bits in [0x20, 0x01] {
            let mut frame = udp(b"part", 0);
            frame[20] = bits;
            assert_eq!(header_of(&frame), VnetHeader::default());
        }
    }

    proptest! {
        #[test]
        fn finishing_twice_is_finishing_once(payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            let once = finished(&udp(&payload, 0));
            prop_assert_eq!(finished(&once), once);
        }

        #[test]
        fn any_bytes_give_a_header_that_fits_them(frame in proptest::collection::vec(any::<u8>(), 0..80)) {
            let header = header_of(&frame);
            prop_assert!(finish(&header, &frame, &mut Finished::default()).is_ok());
        }

        #[test]
        fn cut_short_anywhere_it_is_finished(cut in 0usize..60) {
            let frame = udp(&[7; 20], 0);
            let cut = cut.min(frame.len() - 1);
            prop_assert_eq!(header_of(&frame[..cut]), VnetHeader::default());
        }
    }
}
