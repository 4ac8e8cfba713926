//! Times the pure parts with criterion: `make bench-pure`, or `cargo bench -p liutong-bench -- FILTER`.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

criterion_group! {
    name = benches;
    // Short: many cases, none of which has anything to warm up but caches.
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50);
    targets = all
}
criterion_main!(benches);

fn all(criterion: &mut Criterion) {
    for case in pure::cases() {
        let mut group = criterion.benchmark_group(case.group);
        let mut ready = case.ready();
        group.throughput(Throughput::Bytes(ready.bytes as u64));
        group.bench_function(&case.name, |bencher| bencher.iter(|| ready.run()));
        group.finish();
    }
}
