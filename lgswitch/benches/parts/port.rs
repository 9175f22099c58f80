//! A burst from port to port, with few others and with many.

use criterion::{BenchmarkId, Criterion, Throughput};
use lgswitch::port::{Sent, Verdict};
use lgswitch::{Gather, PortOptions, VnetHeader};

use super::{BURST, Lan, mac};

pub fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("port");
    group.throughput(Throughput::Elements(BURST as u64));
    for ports in [2, 64] {
        let lan = Lan::new();
        let port = |n| {
            let options = PortOptions {
                mac: Some(mac(n)),
                ..PortOptions::default()
            };
            lan.segment.port(options).expect("a slot is free").split()
        };
        let (mut tx, _rx) = port(0);
        let (_tx, mut rx) = port(1);
        let _others: Vec<_> = (2..ports).map(port).collect();
        let mut frame = [0x5a; 64];
        frame[..6].copy_from_slice(&mac(1).octets());
        frame[6..12].copy_from_slice(&mac(0).octets());
        let mut out = [0; 64];
        group.bench_function(BenchmarkId::new("ports", ports), |bencher| {
            bencher.iter(|| {
                let parts = [frame.as_slice().into()];
                let gather = Gather::new(&parts);
                for _ in 0..BURST {
                    assert_eq!(tx.send(&VnetHeader::default(), &gather), Sent::Done);
                }
                tx.flush();
                let taken = rx.recv(BURST, |frame| {
                    frame.bytes.copy_to(&mut out);
                    Verdict::Taken
                });
                assert_eq!(taken, BURST);
            });
        });
    }
    group.finish();
}
