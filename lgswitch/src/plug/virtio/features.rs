//! Feature bits of the card (Virtual I/O Device 1.2, 5.1.3), and what follows from those that the
//! guest acknowledged.

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net as net;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::pump::Format;
use crate::frame::Offloads;

/// USO (Virtual I/O Device 1.3, 5.1.3), which the bindings do not name yet.
const GUEST_USO4: u32 = 54;
const GUEST_USO6: u32 = 55;
const HOST_USO: u32 = 56;

const FEATURES: &[u32] = &[
    VIRTIO_F_VERSION_1,
    VIRTIO_RING_F_INDIRECT_DESC,
    VIRTIO_RING_F_EVENT_IDX,
    net::VIRTIO_NET_F_MRG_RXBUF,
    net::VIRTIO_NET_F_MTU,
    net::VIRTIO_NET_F_CSUM,
    net::VIRTIO_NET_F_HOST_TSO4,
    net::VIRTIO_NET_F_HOST_TSO6,
    net::VIRTIO_NET_F_HOST_ECN,
    net::VIRTIO_NET_F_GUEST_CSUM,
    net::VIRTIO_NET_F_GUEST_TSO4,
    net::VIRTIO_NET_F_GUEST_TSO6,
    net::VIRTIO_NET_F_GUEST_ECN,
    GUEST_USO4,
    GUEST_USO6,
    HOST_USO,
];

/// Of a card with several pairs. The control queue, by which the guest says how many of them it
/// uses, is the VMM's own, but a VMM offers what we do not say we are fit for to no guest.
const MULTI_QUEUE: &[u32] = &[net::VIRTIO_NET_F_MQ, net::VIRTIO_NET_F_CTRL_VQ];

/// What a card with `pairs` pairs of queues offers.
pub fn offered(pairs: usize) -> u64 {
    let several = if pairs > 1 { MULTI_QUEUE } else { &[] };
    let all = FEATURES.iter().chain(several);
    all.fold(0, |all, bit| all | 1 << bit)
}

/// What the guest takes unfinished.
pub fn offloads(acknowledged: u64) -> Offloads {
    let has = |bit: u32| acknowledged & 1 << bit != 0;
    [
        (has(net::VIRTIO_NET_F_GUEST_CSUM), Offloads::CHECKSUM),
        (has(net::VIRTIO_NET_F_GUEST_TSO4), Offloads::TSO4),
        (has(net::VIRTIO_NET_F_GUEST_TSO6), Offloads::TSO6),
        (has(net::VIRTIO_NET_F_GUEST_ECN), Offloads::ECN),
        (has(GUEST_USO4) && has(GUEST_USO6), Offloads::USO),
    ]
    .into_iter()
    .filter(|(acknowledged, _)| *acknowledged)
    .fold(Offloads::NONE, |all, (_, one)| all.with(one))
}

/// How frames stand in the guest's buffers.
pub fn format(acknowledged: u64) -> Format {
    let mergeable = acknowledged & 1 << net::VIRTIO_NET_F_MRG_RXBUF != 0;
    let modern = acknowledged & 1 << VIRTIO_F_VERSION_1 != 0;
    Format {
        header_len: if mergeable || modern { 12 } else { 10 },
        mergeable,
    }
}
