//! What becomes of sessions: new keys, restarts, sleep, clocks that leap, and their end.

use std::collections::BTreeSet;
use std::time::Duration;

use switch_core::tunnel::seal::{REJECT_AFTER, REKEY_AFTER, State};

use super::world::{Link, WALL, World, addr, id};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const KEEP: Option<Duration> = Some(Duration::from_secs(25));

/// Data flows all the time in both directions, for ten minutes and so through several keys: all of it arrives, once.
#[test]
fn a_new_key_costs_no_packet() {
    for (seed, spread) in [(1, 0), (2, 30)] {
        let link = Link {
            spread: Duration::from_millis(spread),
            ..Link::GOOD
        };
        let mut world = World::mesh(2, link, seed);
        world.run(5 * SECOND);
        let sessions = world.hosts[0].sessions;
        for n in 0..60_000u32 {
            assert!(world.data(0, 1, &n.to_le_bytes()) && world.data(1, 0, &n.to_le_bytes()));
            world.run(Duration::from_millis(10));
        }
        world.run(SECOND);
        for host in &world.hosts {
            let all: BTreeSet<_> = host.got.iter().map(|(_, payload)| payload).collect();
            assert_eq!((host.got.len(), all.len()), (60_000, 60_000));
            assert_eq!(host.unopened, 0);
        }
        let made = world.hosts[0].sessions - sessions;
        assert!((4..=6).contains(&made), "{made} new keys in ten minutes");
    }
}

/// The same at 30 % loss: what arrives is what the link let through, and never does a host go without a key.
#[test]
fn new_keys_are_agreed_on_over_a_bad_link() {
    let mut world = World::mesh(
        2,
        Link {
            double: 0,
            ..Link::BAD
        },
        5,
    );
    assert!(
        world
            .until(20 * SECOND, |world| world.joined(0, 1))
            .is_some()
    );
    for n in 0..30_000u32 {
        assert!(world.data(0, 1, &n.to_le_bytes()), "no key at {n}");
        assert!(world.data(1, 0, &n.to_le_bytes()), "no key at {n}");
        world.run(Duration::from_millis(20));
    }
    for host in &world.hosts {
        assert_eq!(host.unopened, 0, "a key was forgotten too soon");
        let share = host.got.len() as f64 / 30_000.0;
        assert!((0.68..0.72).contains(&share), "{share}");
    }
}

/// A host that is started again, with its clock right, an hour ahead or an hour behind, is back within a second.
#[test]
fn a_host_that_restarts_is_back_at_once() {
    const HOUR: u64 = 3_600_000_000_000;
    let clocks = [WALL + 60_000_000_000, WALL + HOUR, WALL - HOUR];
    for (case, wall) in clocks.into_iter().enumerate() {
        let mut world = World::mesh(2, Link::GOOD, case as u64);
        world.run(60 * SECOND);
        assert!(world.joined(0, 1));
        world.restart(1, wall);
        world.run(SECOND);
        world.introduce(1, 0, Some(addr(0)), KEEP);
        let took = world.resume(0, 1, 20 * SECOND).unwrap();
        assert!(took < SECOND, "{took:?} in case {case}");
    }
}

/// A restarted host that does not know where its peer is: data of the old session tells the peer, or silence does.
#[test]
fn a_restarted_host_that_cannot_call_is_called() {
    let mut world = World::mesh(2, Link::GOOD, 7);
    world.run(60 * SECOND);
    world.restart(1, WALL + 60_000_000_000);
    world.introduce(1, 0, None, None);
    let took = world.resume(0, 1, 20 * SECOND).unwrap();
    assert!(took < 5 * SECOND, "{took:?}");
}

/// A laptop's lid is closed for an hour; its monotonic clock went on, as the one that counts sleep does.
#[test]
fn a_host_that_sleeps_an_hour_is_back_within_a_second() {
    let mut world = World::mesh(2, Link::GOOD, 1);
    world.run(60 * SECOND);
    world.hosts[1].asleep = true;
    world.run(HOUR);
    assert!(
        !world.hosts[0].send.contains_key(&id(1)),
        "its keys are over"
    );
    assert_eq!(world.hosts[0].unreachable, [id(1)], "said once");
    let tries = world.sent(1);
    assert!(tries < 400, "{tries} handshakes tried in an hour");
    world.hosts[1].asleep = false;
    let took = world.resume(0, 1, 20 * SECOND).unwrap();
    assert!(took < SECOND, "{took:?}");
    assert_eq!(world.hosts[0].node.status(id(1)).unwrap().state, State::Up);
}

/// The same where the clock stood still: the sleeper thinks that its session lives, and its data says so.
#[test]
fn a_host_whose_clock_slept_too_is_back_within_a_second() {
    let mut world = World::mesh(2, Link::GOOD, 2);
    world.run(60 * SECOND);
    world.hosts[1].asleep = true;
    world.run(HOUR);
    world.hosts[1].asleep = false;
    world.hosts[1].behind = HOUR;
    assert!(world.hosts[1].send.contains_key(&id(0)));
    let took = world.resume(0, 1, 20 * SECOND).unwrap();
    assert!(took < SECOND, "{took:?}");
}

/// Time that a caller gives out of order, or that leaps ahead by days, upsets nothing.
#[test]
fn a_clock_that_leaps_only_ends_sessions() {
    let mut world = World::mesh(2, Link::GOOD, 3);
    world.run(60 * SECOND);
    let past = switch_core::time::Tick::from_millis(5);
    world.hosts[0].node.handle_timeout(past);
    world.hosts[0]
        .node
        .handle_datagram(past, addr(1), &[1; 148]);
    world.hosts[0].node.heard(past, id(1), 1, addr(1));
    world.settle(0);
    assert!(world.resume(0, 1, SECOND).is_some(), "the past is ignored");
    world.now = world.now + 1000 * HOUR;
    assert!(world.resume(0, 1, SECOND).is_some());
    assert!(world.hosts[0].open.len() <= 3, "old keys are gone");
}

/// The way between two hosts is gone for a while: they try, say so once, and go on with the keys that they had.
#[test]
fn an_outage_is_said_and_survived() {
    let mut world = World::mesh(2, Link::GOOD, 10);
    world.run(10 * SECOND);
    world.holes.insert(addr(1));
    for _ in 0..300 {
        assert!(world.data(0, 1, b"into the void"));
        world.run(Duration::from_millis(100));
    }
    assert_eq!(world.hosts[0].unreachable, [id(1)]);
    let state = |world: &World| world.hosts[0].node.status(id(1)).unwrap().state;
    assert_eq!(state(&world), State::Unreachable);
    world.holes.clear();
    let sent = world.sent(1);
    let took = world.resume(0, 1, SECOND).unwrap();
    assert!(
        took < Duration::from_millis(100),
        "{took:?}: with the old keys"
    );
    world.run(SECOND);
    assert_eq!(state(&world), State::Up);
    world.run(30 * SECOND);
    assert!(world.sent(1) <= sent + 1, "and without more handshakes");
}

/// Without a keep-alive a session ends when nobody needs it, and comes back with a demand.
#[test]
fn what_nobody_uses_ends() {
    let mut world = World::new(2, Link::GOOD, 4);
    world.introduce(0, 1, Some(addr(1)), None);
    world.introduce(1, 0, None, None);
    world.run(10 * SECOND);
    assert!(world.tape.is_empty(), "nothing is asked of it");
    let now = world.now;
    world.hosts[0].node.demand(now, id(1));
    world.settle(0);
    world.run(SECOND);
    assert!(world.resume(0, 1, SECOND).is_some());
    world.run(10 * 60 * SECOND);
    assert!(
        !world.joined(0, 1) && world.hosts[0].open.is_empty() && world.hosts[1].open.is_empty()
    );
    world.tape.clear();
    world.run(HOUR);
    assert!(world.tape.is_empty(), "and is quiet");
    assert_eq!(world.hosts[0].node.poll_timeout(), None);
}

/// No key is used longer than it may be, also when no new one can be agreed on.
#[test]
fn a_key_ends_though_there_is_no_other() {
    let mut world = World::mesh(2, Link::GOOD, 6);
    world.run(REKEY_AFTER - 2 * SECOND);
    let (key, _) = world.hosts[0].send[&id(1)].clone();
    world.holes.insert(addr(1));
    world.run(REJECT_AFTER - REKEY_AFTER + 3 * SECOND);
    assert!(world.hosts[0].send.is_empty() && world.hosts[0].open.is_empty());
    assert!(
        key.seal(0, (0, 0), &mut [0; 100]).is_err(),
        "a worker that kept it cannot use it"
    );
    assert_eq!(world.hosts[0].unreachable, [id(1)]);
    world.holes.clear();
    assert!(
        world
            .until(20 * SECOND, |world| world.joined(0, 1))
            .is_some()
    );
    world.run(SECOND);
    assert_eq!(world.hosts[0].node.status(id(1)).unwrap().state, State::Up);
}

/// A key that has sealed its volume is followed by another, long before its time.
#[test]
fn volume_makes_a_new_key_too() {
    let mut world = World::mesh(2, Link::GOOD, 8);
    world.run(5 * SECOND);
    let (key, _) = world.hosts[0].send[&id(1)].clone();
    // Numbers of datagrams that a worker would have sent.
    while !key.is_worn() {
        drop(key.reserve(u16::MAX, 65_000));
    }
    world.run(2 * SECOND);
    assert_ne!(world.hosts[0].send[&id(1)].0.receiver(), key.receiver());
    assert!(world.resume(0, 1, SECOND).is_some());
}

#[test]
fn a_peer_that_is_removed_is_gone() {
    let mut world = World::mesh(3, Link::GOOD, 9);
    world.run(5 * SECOND);
    assert!(world.hosts[0].node.remove_peer(id(1)));
    assert!(!world.hosts[0].node.remove_peer(id(1)));
    world.settle(0);
    assert!(!world.hosts[0].send.contains_key(&id(1)));
    world.run(300 * SECOND);
    assert!(!world.joined(0, 1) && world.joined(0, 2) && world.joined(1, 2));
    world.introduce(0, 1, Some(addr(1)), KEEP);
    assert!(
        world.resume(0, 1, 20 * SECOND).is_some(),
        "and can come back"
    );
}
