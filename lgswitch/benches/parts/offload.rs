//! What a sender does for a receiver that takes nothing unfinished.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use lgswitch::VnetHeader;
use lgswitch::offload::{Finished, checksum, finish};

/// Bytes of an Ethernet, an IPv4 and a TCP header.
const HEADERS: usize = 14 + 20 + 20;

/// A TCP segment of 64 KiB, as a guest hands it to its card.
fn segment() -> (VnetHeader, Vec<u8>) {
    let header = VnetHeader {
        flags: VnetHeader::NEEDS_CHECKSUM,
        gso_type: VnetHeader::GSO_TCPV4,
        header_len: HEADERS as u16,
        gso_size: 1460,
        checksum_start: 34,
        checksum_offset: 16,
    };
    let mut frame = vec![0x5a; 65_000];
    frame[12..14].copy_from_slice(&[8, 0]);
    // IPv4, five words of header, TCP.
    frame[14] = 0x45;
    let total = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[20..22].copy_from_slice(&[0, 0]);
    frame[23] = 6;
    // Five words of header, ACK.
    frame[46] = 0x50;
    frame[47] = 0x10;
    (header, frame)
}

pub fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("offload");
    let (header, frame) = segment();
    group.throughput(Throughput::Bytes(frame.len() as u64));
    group.bench_function("checksum of 64 KiB", |bencher| {
        bencher.iter(|| checksum::fold(checksum::add(0, black_box(&frame))));
    });
    let mut finished = Finished::default();
    group.bench_function("cut 64 KiB of TCP", |bencher| {
        bencher.iter(|| finish(&header, black_box(&frame), &mut finished).expect("it is TCP"));
    });
    assert_eq!(finished.frames().count(), (65_000 - HEADERS).div_ceil(1460));
    group.finish();
}
