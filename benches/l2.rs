//! Where is this station? The MAC table beside papaya's map and a HashMap behind a mutex, looked up and taught by one
//! thread and by two at once. A figure is the time of one operation of one thread, while the others do as many.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a bench is a program, and what fails in it ends it"
)]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ahash::RandomState;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use switch_core::addr::{Mac, NetworkId, PortId};
use switch_core::l2::table::MacTable;

/// Stations, on as many ports.
const STATIONS: u32 = 1_024;
const NET: NetworkId = NetworkId(1);
const THREADS: [u32; 2] = [1, 2];

/// What all three can do. Each lets a station go that was not seen for 300 s.
trait Table: Sync {
    fn find(&self, mac: Mac, now: u32) -> Option<PortId>;
    fn learn(&self, mac: Mac, port: PortId, now: u32);
}

impl Table for MacTable {
    fn find(&self, mac: Mac, now: u32) -> Option<PortId> {
        self.lookup(NET, mac, now)
    }

    fn learn(&self, mac: Mac, port: PortId, now: u32) {
        black_box(self.learn(NET, mac, port, now));
    }
}

type Key = (NetworkId, Mac);
type Place = (PortId, u32);

impl Table for papaya::HashMap<Key, Place, RandomState> {
    fn find(&self, mac: Mac, now: u32) -> Option<PortId> {
        let pinned = self.pin();
        pinned
            .get(&(NET, mac))
            .filter(|(_, seen)| now - seen < 300)
            .map(|(port, _)| *port)
    }

    fn learn(&self, mac: Mac, port: PortId, now: u32) {
        // As the table does: nothing is written while nothing is new.
        let pinned = self.pin();
        if pinned.get(&(NET, mac)) != Some(&(port, now)) {
            pinned.insert((NET, mac), (port, now));
        }
    }
}

impl Table for Mutex<HashMap<Key, Place, RandomState>> {
    fn find(&self, mac: Mac, now: u32) -> Option<PortId> {
        let map = self.lock().unwrap();
        map.get(&(NET, mac))
            .filter(|(_, seen)| now - seen < 300)
            .map(|(port, _)| *port)
    }

    fn learn(&self, mac: Mac, port: PortId, now: u32) {
        self.lock().unwrap().insert((NET, mac), (port, now));
    }
}

fn station(n: u32) -> Mac {
    let [a, b, c, d] = (n % STATIONS).to_be_bytes();
    Mac([2, 0, a, b, c, d])
}

fn tables() -> [(&'static str, Box<dyn Table>); 3] {
    let ours = MacTable::new(4 * STATIONS as usize);
    let papaya = papaya::HashMap::with_hasher(RandomState::with_seeds(1, 2, 3, 4));
    let mutex = Mutex::new(HashMap::with_hasher(RandomState::with_seeds(1, 2, 3, 4)));
    let all: [(&'static str, Box<dyn Table>); 3] = [
        ("table", Box::new(ours)),
        ("papaya", Box::new(papaya)),
        ("mutex", Box::new(mutex)),
    ];
    for (_, table) in &all {
        for n in 0..STATIONS {
            table.learn(station(n), PortId(n), 0);
        }
    }
    all
}

/// Time of `turns` operations in each of so many threads.
fn timed(
    table: &dyn Table,
    threads: u32,
    turns: u64,
    one: impl Fn(&dyn Table, u32) + Sync,
) -> Duration {
    let start = Barrier::new(threads as usize);
    let work = |first: u32| {
        start.wait();
        let begin = Instant::now();
        let mut n = first;
        for _ in 0..turns {
            // Odd, and no divisor of the number of stations: each turn another one, and every one comes.
            n = n.wrapping_add(389);
            one(table, n);
        }
        begin.elapsed()
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads)
            .map(|n| scope.spawn(move || work(n * 517)))
            .collect();
        let mine = work(0);
        let theirs = others.into_iter().map(|t| t.join().unwrap());
        theirs.fold(mine, Duration::max)
    })
}

fn group(c: &mut Criterion, name: &str, one: impl Fn(&dyn Table, u32) + Sync + Copy) {
    let mut group = c.benchmark_group(name);
    for threads in THREADS {
        for (kind, table) in tables() {
            let id = BenchmarkId::new(kind, format!("{threads} threads"));
            group.bench_function(id, |b| {
                b.iter_custom(|turns| timed(&*table, threads, turns, one));
            });
        }
    }
    group.finish();
}

fn l2(c: &mut Criterion) {
    group(c, "look up", |table, n| {
        black_box(table.find(station(n), 1));
    });
    group(c, "learn what is known", |table, n| {
        table.learn(station(n), PortId(n % STATIONS), 0);
    });
    group(c, "learn a move", |table, n| {
        table.learn(station(n), PortId(n / 389 % STATIONS), 0);
    });
    group(c, "look up while one in 64 moves", |table, n| {
        if n % 64 == 0 {
            table.learn(station(n), PortId(n / 389 % STATIONS), 0);
        }
        black_box(table.find(station(n), 1));
    });
}

criterion_group!(benches, l2);
criterion_main!(benches);
