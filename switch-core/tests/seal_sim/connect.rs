//! Handshakes: over good and bad links, one-sided and crossing, and what they cost.

use std::time::Duration;

use super::world::{Link, World, addr, id};

const SECOND: Duration = Duration::from_secs(1);
const KEEP: Option<Duration> = Some(Duration::from_secs(25));

#[test]
fn two_hosts_join_in_one_round_trip_and_talk() {
    for seed in 0..4 {
        let mut world = World::new(2, Link::GOOD, seed);
        world.introduce(1, 0, None, KEEP);
        world.introduce(0, 1, Some(addr(1)), KEEP);
        world.run(Duration::from_millis(20));
        assert!(
            world.hosts[0].send.contains_key(&id(1)),
            "the initiator sends"
        );
        assert!(
            !world.hosts[1].send.contains_key(&id(0)),
            "the other is not sure yet"
        );
        world.run(Duration::from_millis(10));
        assert!(world.joined(0, 1));
        assert!(world.data(0, 1, b"there") && world.data(1, 0, b"and back"));
        world.run(SECOND);
        assert_eq!(world.hosts[1].got, [(id(0), b"there".to_vec())]);
        assert_eq!(world.hosts[0].got, [(id(1), b"and back".to_vec())]);
        assert_eq!((world.sent(1), world.sent(2), world.sent(3)), (1, 1, 0));
    }
}

/// Both begin at once: one session comes of it, not a storm.
#[test]
fn who_begins_at_once_ends_with_one_session() {
    for seed in 0..10 {
        let mut world = World::mesh(2, Link::GOOD, seed);
        world.run(60 * SECOND);
        assert!(world.joined(0, 1));
        assert_eq!(world.sent(1), 2, "each once");
        let held = |n: usize| world.hosts[n].open.len();
        assert!(held(0) <= 2 && held(1) <= 2);
        assert_eq!(
            world.hosts[0].send[&id(1)].0.receiver(),
            *world.hosts[1]
                .open
                .iter()
                .find(|(_, (_, key))| key.stats().opened() > 0)
                .unwrap()
                .0,
            "both use the same"
        );
    }
}

#[test]
fn ten_hosts_join_each_with_each_on_a_bad_network() {
    let mut world = World::mesh(10, Link::BAD, 3);
    let all = |world: &World| {
        let mut pairs = (0..10).flat_map(|a| (0..a).map(move |b| (a, b)));
        pairs.all(|(a, b)| world.joined(a, b))
    };
    let took = world.until(20 * SECOND, all);
    assert!(took.is_some(), "not joined");
    world.tape.clear();
    world.run(60 * SECOND);
    assert!(all(&world), "and stay joined");
    assert!(
        world.sent(1) < 45,
        "{} handshakes in a quiet minute",
        world.sent(1)
    );
}
