//! Who has that address? Looked up for each frame; the peers page is compared once a burst.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use lgswitch::PortOptions;
use lgswitch::peers::{Peers, number};

use super::{Lan, mac, slot};

pub fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("peers");
    for ports in [2, 64] {
        let lan = Lan::new();
        let port = |n| {
            let options = PortOptions {
                mac: Some(mac(n)),
                ..PortOptions::default()
            };
            lan.segment.port(options).expect("a slot is free")
        };
        let _ports: Vec<_> = (0..ports).map(port).collect();
        let mut peers = Peers::new(slot(0));
        peers.refresh(&lan.segment);
        let address = number(&mac(ports - 1));
        group.bench_function(BenchmarkId::new("lookup of", ports), |bencher| {
            bencher.iter(|| peers.owner(black_box(address)));
        });
        group.bench_function(BenchmarkId::new("refresh of", ports), |bencher| {
            bencher.iter(|| peers.refresh(&lan.segment));
        });
    }
    group.finish();
}
