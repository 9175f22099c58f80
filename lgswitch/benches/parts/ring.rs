//! A burst through a ring: written, published, read, released.

use criterion::{BenchmarkId, Criterion, Throughput};
use lgswitch::record::Found;
use lgswitch::ring::{RingReader, RingWriter};
use lgswitch::{Gather, VnetHeader};

use super::{BURST, Lan, slot};

pub fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring");
    for size in [64, 1500, 65_000] {
        let lan = Lan::new();
        let segment = &lan.segment;
        let mut reader = RingReader::open(segment, slot(0), slot(1));
        let mut writer = RingWriter::open(segment, slot(0), slot(1)).expect("a ring opens");
        let frame = vec![0x5a; size];
        let mut out = vec![0; size];
        // A ring holds fifteen of the largest.
        let burst = if size > 9000 { 8 } else { BURST };
        let mut sequence = 0;
        group.throughput(Throughput::Elements(burst as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                let parts = [frame.as_slice().into()];
                let gather = Gather::new(&parts);
                for _ in 0..burst {
                    sequence += 1;
                    let written = writer.write(segment, sequence, &VnetHeader::default(), &gather);
                    written.expect("there is room");
                }
                writer.publish(segment);
                reader.refresh(segment);
                for _ in 0..burst {
                    let Found::Frame(record) = reader.peek(segment) else {
                        panic!("what was written is not there");
                    };
                    record.frame.copy_to(&mut out);
                    let end = record.end;
                    reader.take(end);
                }
                reader.release(segment);
            });
        });
    }
    group.finish();
}
