//! The Internet checksum: over whole messages, beside a plain transcription of the RFC, and patched for a rewrite.
#![allow(missing_docs, reason = "a bench is a program")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use switch_core::wire::checksum::{fold, patch, sum};

/// Source: RFC 1071 section 4.1.
fn plain(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(pair[0]) << 8 | u32::from(low)
    });
    words.fold(0, |total, word| u32::from(fold(total + word)))
}

fn checksum(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for size in [20, 64, 1_500, 65_535] {
        let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        group.throughput(Throughput::Bytes(size));
        group.bench_with_input(BenchmarkId::new("sum", size), &bytes, |b, bytes| {
            b.iter(|| sum(black_box(bytes)));
        });
        group.bench_with_input(BenchmarkId::new("RFC 1071", size), &bytes, |b, bytes| {
            b.iter(|| plain(black_box(bytes)));
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("patch an address and a port", |b| {
        let (old, new) = ([10, 0, 0, 2, 0x9c, 0x40], [192, 0, 2, 1, 0x80, 0x01]);
        b.iter(|| patch(black_box(0x1234), black_box(&old), black_box(&new)));
    });
    group.finish();
}

criterion_group!(benches, checksum);
criterion_main!(benches);
