//! A burst through a log, heard by one and by many.

use criterion::{BenchmarkId, Criterion, Throughput};
use lgswitch::flood::{LogReader, LogWriter};
use lgswitch::{Gather, VnetHeader};

use super::{BURST, Lan, slot};

const FRAME: [u8; 64] = [0x5a; 64];

pub fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flood");
    group.throughput(Throughput::Elements(BURST as u64));
    for readers in [0, 1, 16] {
        let lan = Lan::new();
        let segment = &lan.segment;
        let mut writer = LogWriter::open(segment, slot(0));
        let mut readers: Vec<_> = (0..readers)
            .map(|_| LogReader::open(segment, slot(0)))
            .collect();
        let mut out = Vec::new();
        let mut sequence = 0;
        group.bench_function(BenchmarkId::new("readers", readers.len()), |bencher| {
            bencher.iter(|| {
                let parts = [FRAME.as_slice().into()];
                let gather = Gather::new(&parts);
                for _ in 0..BURST {
                    sequence += 1;
                    let written = writer.write(segment, sequence, &VnetHeader::default(), &gather);
                    written.expect("there is memory");
                }
                writer.publish(segment);
                for reader in &mut readers {
                    reader.refresh(segment);
                    while let Some(frame) = reader.peek(segment, &mut out) {
                        reader.take(&frame);
                    }
                    assert_eq!(reader.missed(), 0);
                }
            });
        });
    }
    group.finish();
}
