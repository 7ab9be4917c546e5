//! Sealing and opening datagrams, by either suite, beside what the same costs with ring alone: one of a small packet, one
//! of a full one, and as many full ones as one call sends. Criterion's "B/s" are bytes of plaintext.
#![allow(missing_docs, reason = "a bench is a program")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ring::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use switch_core::tunnel::seal::{HEADER_LEN, KEY_LEN, OpenKey, SendKey, Suite, TAG_LEN};

const KEY: [u8; KEY_LEN] = [7; KEY_LEN];
const INDEX: u32 = 9;
/// What a datagram has beside its plaintext.
const AROUND: usize = HEADER_LEN + TAG_LEN;

/// A run of datagrams of one size.
#[derive(Clone, Copy)]
struct Run {
    name: &'static str,
    /// Bytes of plaintext of each.
    size: usize,
    count: u16,
}

const RUNS: [Run; 3] = [
    Run {
        name: "64 bytes",
        size: 64,
        count: 1,
    },
    Run {
        name: "1,450 bytes",
        size: 1_450,
        count: 1,
    },
    Run {
        name: "64 KB of 1,450",
        size: 1_450,
        count: 44,
    },
];

impl Run {
    fn each(self) -> usize {
        self.size + AROUND
    }

    fn bytes(self) -> Vec<u8> {
        vec![5; self.each() * usize::from(self.count)]
    }
}

fn algorithm(suite: Suite) -> &'static Algorithm {
    match suite {
        Suite::Aes256Gcm => &AES_256_GCM,
        Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
    }
}

/// A nonce as the protocol has it.
fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn bare(suite: Suite) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(algorithm(suite), &KEY).expect("a key of its length"))
}

fn seal_run(key: &SendKey, run: Run, bytes: &mut [u8]) {
    let mut numbers = key
        .reserve(run.count, run.each())
        .expect("numbers are left");
    for datagram in bytes.chunks_exact_mut(run.each()) {
        let sealed = numbers.seal(0, (0, 0), datagram);
        sealed.expect("there is room");
    }
}

fn seal_bare(key: &LessSafeKey, first: u64, run: Run, bytes: &mut [u8]) {
    for (number, datagram) in (first..).zip(bytes.chunks_exact_mut(run.each())) {
        let (header, rest) = datagram.split_at_mut(HEADER_LEN);
        let (plain, room) = rest.split_at_mut(run.size);
        let tag = key.seal_in_place_separate_tag(nonce(number), Aad::from(header), plain);
        room.copy_from_slice(tag.expect("of a good length").as_ref());
    }
}

fn seal(c: &mut Criterion, suite: Suite) {
    let mut group = c.benchmark_group(format!("seal/{}", suite.name()));
    for run in RUNS {
        let mut bytes = run.bytes();
        group.throughput(Throughput::Bytes(
            (run.size * usize::from(run.count)) as u64,
        ));
        let key = SendKey::new(suite, &KEY, INDEX).expect("a key");
        group.bench_function(BenchmarkId::new("weft", run.name), |b| {
            b.iter(|| seal_run(&key, run, black_box(&mut bytes)));
        });
        let (key, mut number) = (bare(suite), 0);
        group.bench_function(BenchmarkId::new("ring", run.name), |b| {
            b.iter(|| {
                seal_bare(&key, number, run, black_box(&mut bytes));
                number += u64::from(run.count);
            });
        });
    }
    group.finish();
}

fn open(c: &mut Criterion, suite: Suite) {
    let mut group = c.benchmark_group(format!("open/{}", suite.name()));
    for run in RUNS {
        group.throughput(Throughput::Bytes(
            (run.size * usize::from(run.count)) as u64,
        ));
        let send = SendKey::new(suite, &KEY, INDEX).expect("a key");
        let mut key = OpenKey::new(suite, &KEY, INDEX).expect("a key");
        let sealed = || {
            let mut bytes = run.bytes();
            seal_run(&send, run, &mut bytes);
            bytes
        };
        group.bench_function(BenchmarkId::new("weft", run.name), |b| {
            let each = |mut bytes: Vec<u8>| {
                for datagram in bytes.chunks_exact_mut(run.each()) {
                    key.open(datagram, 0).expect("it is genuine");
                }
                bytes
            };
            b.iter_batched(sealed, each, BatchSize::SmallInput);
        });
        let key = bare(suite);
        let sealed = || {
            let mut bytes = run.bytes();
            seal_bare(&key, 0, run, &mut bytes);
            bytes
        };
        group.bench_function(BenchmarkId::new("ring", run.name), |b| {
            let each = |mut bytes: Vec<u8>| {
                for (number, datagram) in (0..).zip(bytes.chunks_exact_mut(run.each())) {
                    let (header, sealed) = datagram.split_at_mut(HEADER_LEN);
                    let opened = key.open_in_place(nonce(number), Aad::from(header), sealed);
                    opened.expect("it is genuine");
                }
                bytes
            };
            b.iter_batched(sealed, each, BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn both(c: &mut Criterion) {
    for suite in Suite::ALL {
        seal(c, suite);
        open(c, suite);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = both
}
criterion_main!(benches);
