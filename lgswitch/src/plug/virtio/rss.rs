//! Which of a card's receive queues a frame goes to.
//!
//! As a network card with receive-side scaling does it: by the addresses and ports of its flow, so
//! that a flow stays on one queue and in its order, and the guest's processors share the flows.

use crate::frame::{ETHERNET_HEADER, Frame};

/// Ethernet, two tags, and an IPv6 header with ports after it.
const HEADERS: usize = ETHERNET_HEADER + 8 + 40 + 4;

const TAGS: [u16; 2] = [0x8100, 0x88a8];
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The queue for a frame, of `count`.
#[inline]
pub fn queue(frame: &Frame<'_>, count: usize) -> usize {
    if count < 2 {
        return 0;
    }
    let mut bytes = [0; HEADERS];
    let len = frame.bytes.copy_to(&mut bytes);
    // A share of all numbers each, without a division.
    ((u64::from(hash(&bytes[..len])) * count as u64) >> 32) as usize
}

/// A number for the flow of the frame that starts with `bytes`.
fn hash(bytes: &[u8]) -> u32 {
    let flow = flow(bytes).unwrap_or([bytes.get(..12).unwrap_or_default(), &[]]);
    // FNV-1a, then mixed, for its high bits are the ones that count.
    let hash = flow
        .into_iter()
        .flatten()
        .fold(0x811c_9dc5_u32, |hash, &byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
    (hash ^ hash >> 15).wrapping_mul(0x2c1b_3c6d)
}

/// The addresses of a packet, and its ports if they stand in every packet of the flow: those of a
/// fragmented datagram stand in its first alone.
fn flow(bytes: &[u8]) -> Option<[&[u8]; 2]> {
    let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let mut at = 12;
    while TAGS.contains(&word(at)?) {
        at += 4;
    }
    let packet = at + 2;
    let (addresses, protocol, ports) = match word(at)? {
        IPV4 => {
            let header = usize::from(bytes.get(packet)? & 0xf) * 4;
            // More fragments to come, or not the first.
            let is_fragment = word(packet + 6)? & 0x3fff != 0;
            let addresses = bytes.get(packet + 12..packet + 20)?;
            let ports = (!is_fragment).then_some(packet + header);
            (addresses, *bytes.get(packet + 9)?, ports)
        }
        IPV6 => {
            let addresses = bytes.get(packet + 8..packet + 40)?;
            (addresses, *bytes.get(packet + 6)?, Some(packet + 40))
        }
        _ => return None,
    };
    let ports = ports
        .filter(|_| matches!(protocol, TCP | UDP))
        .and_then(|at| bytes.get(at..at + 4))
        .unwrap_or_default();
    Some([addresses, ports])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 packet of UDP between these ports, behind `tags` tags.
    fn packet(from: u16, to: u16, fragment: u16, tags: usize) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        bytes.extend([0x81, 0, 0, 1].repeat(tags));
        bytes.extend([8, 0, 0x45, 0, 0, 40, 0, 0]);
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([64, UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend(from.to_be_bytes());
        bytes.extend(to.to_be_bytes());
        bytes.extend([0; 8]);
        bytes
    }

    #[test]
    fn flows_spread_and_each_stays_together() {
        let hash = |from, fragment| hash(&packet(from, 53, fragment, 0));
        let mut count = [0; 4];
        for from in 0..4000 {
            count[((u64::from(hash(from, 0)) * 4) >> 32) as usize] += 1;
            assert_eq!(hash(from, 0), hash(from, 0x4000), "don't fragment");
        }
        assert!(count.iter().all(|&n| (800..1200).contains(&n)), "{count:?}");
        // Of a fragmented datagram all parts go one way, whatever stands where the ports would.
        assert_eq!(hash(1, 0x2000), hash(2, 7));
    }

    #[test]
    fn tags_don_t_hide_a_flow() {
        for tags in 0..3 {
            let [a, b] = [1, 2].map(|from| hash(&packet(from, 53, 0, tags)));
            assert_ne!(a, b, "{tags} tags");
        }
    }

    #[test]
    fn what_is_cut_short_or_no_packet_has_a_queue_too() {
        let whole = packet(1, 2, 0, 1);
        for len in 0..whole.len() {
            hash(&whole[..len]);
        }
        hash(&[0xff; HEADERS]);
        hash(&[0x81; HEADERS]);
    }
}
