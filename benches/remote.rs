//! What a packet costs among few other hosts and among many: two with two endpoints each, and 1,000 with 100,000 in all.
//! Criterion's "elem/s" are frames a second. What each endpoint of another host takes is counted beside it.
#![allow(missing_docs, reason = "a bench is a program")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use switch_core::addr::{Mac, PortId};
use switch_core::l2::table::MacTable;
use switch_core::pipeline::{Port, Remote, Switch};
use switch_core::respond::Guest;
use switch_core::respond::names::{NameTable, Owner};
use switch_core::testing::packets::Link;
use switch_core::testing::quiet::QuietHost;
use switch_core::testing::setup::Setup;
use switch_core::time::Tick;
use switch_core::wire::vnet_hdr::VnetHdr;

/// What a worker flushes at once.
const BATCH: u64 = 64;

/// Counts what is held.
struct Held(AtomicUsize);

// SAFETY: every call is the system allocator's own, with what it was given.
#[allow(unsafe_code, reason = "an allocator that counts is one")]
unsafe impl GlobalAlloc for Held {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the allocator's own rules.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        self.0.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the allocator's own rules.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static HELD: Held = Held(AtomicUsize::new(0));

/// Endpoint number `n` of all other hosts.
fn guest(n: u32) -> Guest {
    let [_, a, b, c] = n.to_be_bytes();
    Guest {
        mac: Mac([2, 0xff, 0, a, b, c]),
        name: String::new(),
        v4: Some([10, 100 + a, b, c].into()),
        v6: Some([0xfd09, 0, 0, 0, 0, 0, a.into(), u16::from_be_bytes([b, c])].into()),
    }
}

/// A switch with one endpoint of its own, and others behind so many peers, by their names too.
fn among(peers: u32, endpoints: u32) -> Switch {
    let mut config = Setup {
        guests: 1,
        ..Setup::default()
    }
    .config();
    // Wide enough for all of them.
    if let Some((_, len)) = &mut config.gateway.v4 {
        *len = 8;
    }
    let mut switch = Switch::new(Tick::ZERO, config, Arc::new(MacTable::new(4_096)));
    let mut names = NameTable::default();
    let before = HELD.0.load(Ordering::Relaxed);
    for n in 0..peers {
        switch.add_remote_port(Port {
            remote: Some(Remote::Announced),
            ..Port::new(PortId::remote(n), Mac::default(), 1450, true)
        });
    }
    for n in 0..endpoints {
        let guest = guest(n);
        let (owner, name) = (Owner::of_mac(guest.mac), format!("app-{n}"));
        let addrs = guest.v4.map(IpAddr::V4).into_iter();
        let addrs: Vec<IpAddr> = addrs.chain(guest.v6.map(IpAddr::V6)).collect();
        names.set(0, owner, &[name], &addrs);
        switch.set_remote(PortId::remote(n % peers), guest);
    }
    let each = (HELD.0.load(Ordering::Relaxed) - before) / endpoints as usize;
    #[allow(clippy::print_stdout, reason = "a bench tells")]
    {
        println!("{peers} peers, {endpoints} endpoints: {each} bytes each, their peers included");
    }
    switch
}

fn both_ways(c: &mut Criterion) {
    let mut group = c.benchmark_group("to other hosts and back");
    group.throughput(Throughput::Elements(BATCH));
    let own = Setup::addresses(0);
    let at = |ip: std::net::Ipv4Addr| SocketAddr::from((ip, 4_000));
    for (peers, endpoints) in [(2, 4), (1_000, 100_000)] {
        let (mut switch, mut host) = (among(peers, endpoints), QuietHost::default());
        let far = endpoints - 1;
        let other = guest(far);
        let ip = other.v4.unwrap_or(own.v4);
        let there = Link {
            src: own.mac,
            dst: other.mac,
        }
        .udp(at(own.v4), at(ip), &[7; 64]);
        let back = Link {
            src: other.mac,
            dst: own.mac,
        }
        .udp(at(ip), at(own.v4), &[7; 64]);
        let port = PortId::remote(far % peers);
        let id = BenchmarkId::from_parameter(format!("{peers} peers, {endpoints} endpoints"));
        group.bench_function(id, |b| {
            b.iter(|| {
                for _ in 0..BATCH / 2 {
                    for (from, frame) in [(PortId(0), &there), (port, &back)] {
                        let none = VnetHdr::default();
                        switch.handle_frame(&mut host, Tick::ZERO, from, &none, frame);
                    }
                }
                switch.flush(&mut host, Tick::ZERO);
            });
        });
        assert!(host.frames > 0, "nothing was forwarded");
    }
    group.finish();
}

criterion_group!(benches, both_ways);
criterion_main!(benches);
