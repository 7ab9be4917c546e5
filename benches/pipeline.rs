//! What the switch itself costs for a frame: everything from parse to verdict, with a host that takes and gives at once.
//! Criterion's "elem/s" are frames a second, super-frames counted as one.
#![allow(missing_docs, reason = "a bench is a program")]

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use switch_core::addr::PortId;
use switch_core::flow::event::HostEvent;
use switch_core::l2::table::MacTable;
use switch_core::pipeline::Switch;
use switch_core::testing::quiet::{QuietHost, Talker, datagrams, switched};
use switch_core::testing::setup::Setup;
use switch_core::time::Tick;
use switch_core::wire::vnet_hdr::VnetHdr;

/// What a worker flushes at once.
const BATCH: u64 = 64;

fn parts(guests: u8) -> (Switch, QuietHost) {
    let setup = Setup {
        guests,
        ..Setup::default()
    };
    let switch = Switch::new(Tick::ZERO, setup.config(), Arc::new(MacTable::new(4_096)));
    (switch, QuietHost::default())
}

/// Frames from one guest to another, among two and among as many as a network may well have.
fn between_guests(c: &mut Criterion) {
    let mut group = c.benchmark_group("switched");
    group.throughput(Throughput::Elements(BATCH));
    for (guests, payload) in [(2, 64), (2, 1_400), (200, 64)] {
        let (mut switch, mut host) = parts(guests);
        let there = switched(0, guests - 1, payload);
        let back = switched(guests - 1, 0, payload);
        let last = PortId(u32::from(guests) - 1);
        let id = BenchmarkId::from_parameter(format!("{payload} bytes, {guests} guests"));
        group.bench_function(id, |b| {
            b.iter(|| {
                for _ in 0..BATCH / 2 {
                    for (from, frame) in [(PortId(0), &there), (last, &back)] {
                        switch.handle_frame(
                            &mut host,
                            Tick::ZERO,
                            from,
                            &VnetHdr::default(),
                            frame,
                        );
                    }
                }
                switch.flush(&mut host, Tick::ZERO);
            });
        });
    }
    group.finish();
}

fn tcp(c: &mut Criterion) {
    let mut group = c.benchmark_group("tcp");
    group.throughput(Throughput::Elements(BATCH));
    for payload in [100, 1_448, 57_920] {
        let (mut switch, mut host) = parts(1);
        let mut talker = Talker::open(&mut switch, &mut host, Tick::ZERO, payload);
        group.bench_function(BenchmarkId::new("up", payload), |b| {
            b.iter(|| {
                for _ in 0..BATCH {
                    talker.send(&mut switch, &mut host, Tick::ZERO);
                }
                switch.flush(&mut host, Tick::ZERO);
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    for bytes in [100, 1_448, 57_920] {
        let (mut switch, mut host) = parts(1);
        let mut talker = Talker::open(&mut switch, &mut host, Tick::ZERO, 100);
        group.bench_function(
            BenchmarkId::new("down and its acknowledgement", bytes),
            |b| {
                b.iter(|| talker.receive(&mut switch, &mut host, Tick::ZERO, bytes));
            },
        );
    }
    group.finish();
}

fn udp(c: &mut Criterion) {
    let mut group = c.benchmark_group("udp");
    group.throughput(Throughput::Elements(BATCH));
    for (payload, count) in [(64, 1), (1_400, 1), (1_400, 40)] {
        let (mut switch, mut host) = parts(1);
        let (vnet, frame) = datagrams(payload, count);
        group.bench_function(
            BenchmarkId::new("up", format!("{count} of {payload}")),
            |b| {
                b.iter(|| {
                    for _ in 0..BATCH {
                        switch.handle_frame(&mut host, Tick::ZERO, PortId(0), &vnet, &frame);
                    }
                    switch.flush(&mut host, Tick::ZERO);
                });
            },
        );
        let (from, bytes) = (([192, 0, 2, 1], 53_000).into(), vec![3; payload]);
        let pieces = vec![&bytes[..]; count];
        group.bench_function(
            BenchmarkId::new("down", format!("{count} of {payload}")),
            |b| {
                b.iter(|| {
                    for _ in 0..BATCH {
                        let event = HostEvent::UdpReceived {
                            mapping: 0,
                            from,
                            local: None,
                            tos: 0,
                            pieces: &pieces,
                        };
                        switch.handle_event(&mut host, Tick::ZERO, event);
                    }
                    switch.flush(&mut host, Tick::ZERO);
                });
            },
        );
    }
    group.finish();
}

criterion_group!(benches, between_guests, tcp, udp);
criterion_main!(benches);
