//! What workers share, used by real threads at once: each thread checks what it sees against an oracle of its own.
//! A reader never sees half of an entry, nor one that belongs elsewhere, and what one thread alone writes it finds
//! again. The models of loom and shuttle try orders; here is the machine's own, and tests/drd looks on.
//!
//! `WEFT_STRESS_ROUNDS` says how many rounds each thread makes.

use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use switch_core::addr::{Mac, NetworkId, PortId};
use switch_core::conntrack::switched::{Stage, Switched, Target};
use switch_core::conntrack::tuple::{Role, Tuple};
use switch_core::l2::learn::Learned;
use switch_core::l2::snoop::Group;
use switch_core::l2::snoop::groups::{Entered, Groups, Seat, Want};
use switch_core::l2::table::{Keeping, MacTable, Station};
use switch_core::sync::counter::Counters;
use switch_core::sync::retire::epochs;
use switch_core::sync::slots::Slots;
use switch_core::time::Tick;
use switch_core::wire::packet::PROTO_TCP;

const THREADS: u8 = 4;
/// Things that each thread has of its own.
const OWN: u8 = 8;
const NET: NetworkId = NetworkId(3);
/// In seconds, where seconds count.
const NOW: u32 = 100;
const SEEDS: [u64; 4] = [1, 2, 3, 4];

fn rounds() -> u64 {
    let asked = std::env::var("WEFT_STRESS_ROUNDS");
    asked.map_or(5_000, |n| n.parse().expect("a number of rounds"))
}

/// Runs so many threads, each with its number, and waits for all.
fn together(each: impl Fn(u8) + Sync) {
    thread::scope(|scope| {
        let each = &each;
        let threads: Vec<_> = (0..THREADS).map(|t| scope.spawn(move || each(t))).collect();
        threads
            .into_iter()
            .for_each(|t| t.join().expect("a thread's oracle"));
    });
}

/// Tries again what another thread may have been in the way of, but not forever: that thread may wait for a core.
#[allow(
    clippy::disallowed_methods,
    reason = "it is the machine that is waited for"
)]
fn at_last<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        if let Some(done) = attempt() {
            return done;
        }
        thread::yield_now();
    }
    panic!("never: {what}");
}

/// What a thread does next: numbers in no visible order, the same in every run.
fn choice(thread: u8, round: u64, below: u8) -> u8 {
    let mixed = (round ^ u64::from(thread) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    u8::try_from((mixed >> 40) % u64::from(below)).expect("below")
}

/// Station `n` of a thread; the one that all threads have is that of no thread.
fn mac(owner: u8, n: u8) -> Mac {
    Mac([2, 0, 0, 0, owner, n])
}

/// One of a thread's two ports.
fn port(owner: u8, second: bool) -> PortId {
    PortId(u32::from(owner) * 2 + u32::from(second))
}

fn check_station(Mac([.., owner, _]): Mac, at: PortId) {
    let owns = at.0 / 2 == owner.into() || owner == THREADS;
    assert!(
        owns && at.0 < u32::from(THREADS) * 2,
        "station of {owner} at {at:?}"
    );
}

/// Stations come, move and go in a table of this size, which may be too small for all.
fn learn(capacity: usize, has_room: bool) {
    let ports = usize::from(THREADS) * 2;
    let table = MacTable::with_limit(capacity, ports, usize::MAX);
    let keeping = Keeping {
        limit: 1_000,
        ageing: 300,
        hold: 0,
    };
    let all_ports = || (0..THREADS).flat_map(|t| [port(t, false), port(t, true)]);
    all_ports().for_each(|p| table.keep(p, keeping));
    together(|me| {
        for round in 0..rounds() {
            let n = choice(me, round, OWN);
            let (own, at) = (mac(me, n), port(me, round & 2 == 2));
            let learned = at_last("learned", || {
                Some(table.learn(NET, own, at, NOW)).filter(|l| *l != Learned::Busy)
            });
            if let Learned::Moved(was) = learned {
                check_station(own, was);
            }
            let is_in = matches!(learned, Learned::Moved(_) | Learned::Same | Learned::New);
            assert!(
                is_in || learned == Learned::Full && !has_room,
                "{own}: {learned:?}"
            );
            if is_in {
                let found = at_last("found", || table.lookup(NET, own, NOW));
                assert_eq!(found, at, "{own}");
            }
            table.learn(NET, mac(THREADS, 0), at, NOW);
            let theirs = mac(choice(me, !round, THREADS + 1), n);
            if let Some(found) = table.lookup(NET, theirs, NOW) {
                check_station(theirs, found);
            }
            // One looks most of the time, while the others write.
            for _ in 0..if me == 0 { 16 } else { 1 } {
                for known in table.iter(NOW).take(32) {
                    assert_eq!((known.net, known.held), (NET, false), "{known:?}");
                    check_station(known.mac, known.port);
                }
            }
            if round & 1 == 1 {
                table.forget(at);
                let gone = table.find(NET, own, NOW);
                assert_eq!(gone, None, "{own} after its port");
            }
        }
    });
    all_ports().for_each(|p| table.forget(p));
    for p in all_ports() {
        assert_eq!(table.held(p), 0, "counted for {p:?} without a station");
    }
    assert_eq!(table.iter(NOW).count(), 0);
}

#[test]
fn stations() {
    learn(128, true);
}

#[test]
fn more_stations_than_there_is_room_for() {
    learn(16, false);
}

fn tuple(owner: u8, n: u8) -> Tuple {
    Tuple {
        net: NET,
        proto: PROTO_TCP,
        piece: false,
        src: Ipv4Addr::new(10, 0, owner, n).into(),
        dst: Ipv4Addr::new(10, 1, owner, n).into(),
        ports: (1_000 + u16::from(n), 80),
    }
}

/// Where the packets of a conversation go, there and back. Odd ones are those of a service.
fn targets(owner: u8, n: u8) -> Option<(Target, Target)> {
    let tuple = tuple(owner, n);
    let to = |src, dst| Target {
        src,
        dst,
        mac: mac(owner, n),
        port: port(owner, false),
    };
    let backend = (
        Ipv4Addr::new(10, 2, owner, n).into(),
        8_000 + u16::from(owner),
    );
    let (client, service) = ((tuple.src, tuple.ports.0), (tuple.dst, tuple.ports.1));
    (n % 2 == 1).then(|| (to(client, backend), to(service, client)))
}

/// Whatever is found of a conversation is its own. True if both directions are there.
fn check_conversation(table: &Switched, owner: u8, n: u8, role: Option<Role>) -> bool {
    let (tuple, targets) = (tuple(owner, n), targets(owner, n));
    let back = match targets {
        Some((there, _)) => Tuple {
            src: there.dst.0,
            dst: there.src.0,
            ports: (there.dst.1, there.src.1),
            ..tuple
        },
        None => tuple.reversed(),
    };
    let see = |tuple| match role {
        Some(role) => table.pass(tuple, role, NOW),
        None => table.peek(tuple, NOW),
    };
    let (there, answer) = (see(&tuple), see(&back));
    if let Some(found) = there {
        let seen = (found.reply, found.silent, found.target);
        assert_eq!(seen, (false, 0, targets.map(|t| t.0)), "{tuple:?}");
    }
    if let Some(found) = answer {
        let seen = (found.reply, found.silent, found.target);
        assert_eq!(seen, (true, 0, targets.map(|t| t.1)), "{back:?}");
    }
    there.is_some() && answer.is_some()
}

/// Conversations come and go in a table of this size; true room lets each thread find its own.
fn converse(capacity: usize, has_room: bool) {
    let table = Switched::new(capacity, SEEDS);
    let open = |owner, n| {
        let began = (port(owner, false), Stage::New);
        table.open(&tuple(owner, n), began, targets(owner, n), NOW);
    };
    together(|me| {
        for round in 0..rounds() {
            let (n, other) = (choice(me, round, OWN), choice(me, !round, THREADS));
            if has_room {
                // Where two threads wanted one slot, the next packet enters it again.
                at_last("entered", || {
                    open(me, n);
                    check_conversation(&table, me, n, None).then_some(())
                });
            } else {
                open(me, n);
            }
            check_conversation(&table, other, n, None);
            let role = match round % 4 {
                0 => Role::Opens,
                1 => Role::Finishes,
                2 => Role::Resets,
                _ => Role::Continues,
            };
            check_conversation(&table, other, n, Some(role));
        }
    });
    for owner in 0..THREADS {
        for n in 0..OWN {
            open(owner, n);
            let is_there = check_conversation(&table, owner, n, None);
            assert!(is_there || !has_room, "{owner} {n}");
        }
    }
}

#[test]
fn conversations() {
    converse(512, true);
}

#[test]
fn conversations_that_crowd_each_other_out() {
    converse(8, false);
}

fn group(owner: u8, n: u8) -> Group {
    Group::of(Ipv4Addr::new(239, 0, owner, n).into()).expect("a group that goes further")
}

/// Says in the time itself whose it is.
fn until(owner: u8, n: u8, again: u64) -> Tick {
    let whose = u64::from(owner) << 8 | u64::from(n);
    Tick::from_nanos(u64::from(NOW) + (whose + 1) * 16 + again % 16)
}

#[test]
fn memberships() {
    let groups = Groups::new(256, SEEDS);
    let now = Tick::from_nanos(NOW.into());
    let of = |owner: u8| Seat {
        of: Station {
            port: port(owner, false),
            generation: owner.into(),
        },
        vlan: owner.into(),
    };
    let is_its = |owner, n, found: Tick| (0..16).any(|again| until(owner, n, again) == found);
    together(|me| {
        for round in 0..rounds() {
            let n = choice(me, round, OWN);
            let (want, holds) = (Want::Group(group(me, n)), until(me, n, round));
            let before = groups.version(group(me, n));
            let entered = at_last("entered", || {
                Some(groups.enter(want, of(me), now, holds)).filter(|e| *e != Entered::Full)
            });
            let changed = groups.version(group(me, n)) != before;
            assert!(changed || entered == Entered::Known, "a member unseen");
            let found = at_last("found", || groups.until(want, of(me), now));
            assert_eq!(found, holds, "what was entered last");
            let other = choice(me, !round, THREADS);
            if let Some(found) = groups.until(Want::Group(group(other, n)), of(other), now) {
                assert!(is_its(other, n, found), "{other} {n}: {found:?}");
            }
            if round % 16 == 0 {
                for (found, seat, holds) in groups.iter(now) {
                    let owner = u8::try_from(seat.of.generation).unwrap();
                    let n = (0..OWN).find(|&n| group(owner, n) == found);
                    assert!(
                        seat == of(owner) && n.is_some_and(|n| is_its(owner, n, holds)),
                        "{found:?} {seat:?} {holds:?}"
                    );
                }
            }
            if round % 3 == 0 {
                // It leaves, and others may take its place.
                at_last("left", || {
                    groups.lower(want, of(me), now, now);
                    groups.until(want, of(me), now).is_none().then_some(())
                });
            }
        }
    });
}

#[test]
fn counts() {
    let (counters, writers) = Counters::<2>::new(THREADS.into());
    thread::scope(|scope| {
        let counters = &counters;
        let count = |(me, mut writer): (usize, switch_core::sync::counter::Writer<2>)| {
            scope.spawn(move || {
                let mut sum = 0;
                for round in 1..=rounds() {
                    writer.add(0, 1);
                    writer.add(1, 3);
                    assert_eq!((counters.of(me, 0), counters.of(me, 1)), (round, 3 * round));
                    let now = counters.sum(0);
                    assert!(now > sum, "{sum}, then {now}");
                    sum = now;
                }
            })
        };
        let threads: Vec<_> = writers.into_iter().enumerate().map(count).collect();
        threads
            .into_iter()
            .for_each(|t| t.join().expect("a thread's oracle"));
    });
    let all = u64::from(THREADS) * rounds();
    assert_eq!((counters.sum(0), counters.sum(1)), (all, 3 * all));
}

#[test]
fn words_of_one_moment() {
    let slots = Slots::<4>::new(2);
    let written = AtomicU64::new(0);
    together(|me| {
        for round in 1..=rounds() {
            let slot = slots.at(usize::from(choice(me, round, 2))).expect("two");
            let n = round << 8 | u64::from(me);
            if let Some(claim) = slot.claim() {
                let [a, b, c, d] = claim.get();
                assert_eq!([b, c, d], [2 * a, 3 * a, 5 * a], "of a writer");
                claim.set([n, 2 * n, 3 * n, 5 * n]);
                written.fetch_add(1, Ordering::Relaxed);
            }
            for [a, b, c, d] in slots
                .iter()
                .cycle()
                .take(8)
                .filter_map(|s| s.look(|w| w.all()))
            {
                assert_eq!([b, c, d], [2 * a, 3 * a, 5 * a], "of a reader");
            }
        }
    });
    let claimed = |slot: &switch_core::sync::slots::Slot<4>| {
        slot.claim().expect("nobody writes").generation() - 1
    };
    let claims: u64 = slots.iter().map(claimed).sum();
    assert_eq!(
        claims,
        written.into_inner(),
        "a claim that was two threads'"
    );
}

/// What a worker uses between two passes has not been ended: the published number is the index of a cell that
/// becomes zero at its end.
#[test]
fn nothing_is_used_after_its_end() {
    let (mut retired, workers) = epochs::<usize>(THREADS.into());
    let things = usize::try_from(rounds()).unwrap();
    let alive: Vec<_> = (0..=things).map(|_| AtomicU64::new(1)).collect();
    let published = AtomicU64::new(0);
    thread::scope(|scope| {
        let (alive, published) = (&alive, &published);
        let work = |mut worker: switch_core::sync::retire::Passing| {
            scope.spawn(move || {
                for round in 0..rounds() {
                    worker.pass();
                    let thing = usize::try_from(published.load(Ordering::Relaxed)).unwrap();
                    for _ in 0..4 {
                        let used = alive[thing].load(Ordering::Relaxed);
                        assert_eq!(used, 1, "{thing} used at its end");
                    }
                    if round % 8 == 0 {
                        worker.sleep();
                    }
                }
            })
        };
        let threads: Vec<_> = workers.into_iter().map(work).collect();
        for thing in 0..things {
            published.store(u64::try_from(thing).unwrap() + 1, Ordering::Relaxed);
            retired.retire(thing);
            while let Some(ended) = retired.ended() {
                alive[ended].store(0, Ordering::Relaxed);
            }
        }
        threads
            .into_iter()
            .for_each(|t| t.join().expect("a thread's oracle"));
    });
    let rest = core::iter::from_fn(|| retired.ended()).count();
    assert_eq!(retired.waiting(), 0, "{rest} ended with the workers");
}
