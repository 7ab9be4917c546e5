//! Peers that move, and peers that can only call.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::world::{Link, World, addr, id};

const SECOND: Duration = Duration::from_secs(1);
const KEEP: Option<Duration> = Some(Duration::from_secs(25));

fn elsewhere(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 40_000 + u16::from(n)))
}

/// A peer gets another address while data flows: the other follows with the next datagram.
#[test]
fn a_peer_that_moves_is_followed() {
    for link in [Link::GOOD, Link::BAD] {
        let mut world = World::mesh(2, link, 1);
        assert!(
            world
                .until(20 * SECOND, |world| world.joined(0, 1))
                .is_some()
        );
        for place in 1..20 {
            world.hosts[1].addr = elsewhere(place);
            let took = world.resume(0, 1, 5 * SECOND).unwrap();
            assert!(took < SECOND, "{took:?}");
            let status = world.hosts[0].node.status(id(1)).unwrap();
            assert_eq!(status.endpoint, Some(elsewhere(place)));
        }
        assert!(world.sent(1) < 20, "without new handshakes");
    }
}

/// A datagram that was held back on the old way does not call the others back to it.
#[test]
fn an_old_datagram_does_not_move_a_peer_back() {
    let mut world = World::mesh(2, Link::GOOD, 2);
    world.run(SECOND);
    world.tape.clear();
    world.holes.insert(addr(0));
    assert!(world.data(1, 0, b"held back"));
    world.run(SECOND);
    world.holes.clear();
    let held = world
        .tape
        .iter()
        .find(|flight| flight.3[0] == 4)
        .unwrap()
        .3
        .clone();
    world.hosts[1].addr = elsewhere(1);
    assert!(world.resume(0, 1, SECOND).is_some());
    world.inject(addr(1), addr(0), held);
    world.run(SECOND);
    assert_eq!(
        world.hosts[0].got.last().unwrap().1,
        b"held back",
        "it is genuine"
    );
    assert_eq!(world.hosts[0].send[&id(1)].1, elsewhere(1));
}

/// One host is behind a NAT that forgets after 30 s: it calls, keeps the way open, and can be reached at any time.
#[test]
fn a_host_behind_a_nat_can_be_reached() {
    let mut world = World::new(2, Link::GOOD, 3);
    world.hosts[1].nat = Some(BTreeMap::new());
    world.introduce(0, 1, None, None);
    world.introduce(1, 0, Some(addr(0)), KEEP);
    world.run(SECOND);
    for _ in 0..40 {
        world.run(29 * SECOND);
        assert!(world.data(0, 1, b"inwards"));
        world.run(SECOND);
        assert_eq!(world.hosts[1].got.pop().unwrap().1, b"inwards");
    }
    // The NAT gives it another port, and forgets whom it has called.
    world.hosts[1].addr = elsewhere(9);
    world.hosts[1].nat = Some(BTreeMap::new());
    let took = world.resume(0, 1, 20 * SECOND).unwrap();
    assert!(took < SECOND, "{took:?}");
}

/// The host behind the NAT is silent when its way is forgotten: its keep-alive opens it again.
#[test]
fn a_nat_that_forgets_is_reminded() {
    let mut world = World::new(2, Link::GOOD, 4);
    world.hosts[1].nat = Some(BTreeMap::new());
    world.introduce(0, 1, None, None);
    world.introduce(1, 0, Some(addr(0)), KEEP);
    world.run(60 * SECOND);
    world.hosts[1].addr = elsewhere(3);
    world.hosts[1].nat = Some(BTreeMap::new());
    world.run(27 * SECOND);
    assert_eq!(world.hosts[0].send[&id(1)].1, elsewhere(3));
    assert!(world.resume(0, 1, SECOND).is_some());
}

/// A peer that was configured with one address and then moved: after a silence both places are tried.
#[test]
fn a_peer_that_went_home_is_found_there() {
    let mut world = World::mesh(2, Link::GOOD, 5);
    world.run(SECOND);
    world.hosts[1].addr = elsewhere(1);
    assert!(world.resume(0, 1, SECOND).is_some());
    world.hosts[1].asleep = true;
    world.run(400 * SECOND);
    world.hosts[1].addr = addr(1);
    // It cannot call; only the other can.
    world.restart(1, super::world::WALL * 2);
    world.introduce(1, 0, None, None);
    let joined = world.until(60 * SECOND, |world| world.joined(0, 1));
    assert!(joined.is_some());
}

/// The configured address is corrected while nobody answers at the old one.
#[test]
fn a_corrected_address_is_tried_at_once() {
    let mut world = World::new(2, Link::GOOD, 6);
    world.introduce(1, 0, None, KEEP);
    world.introduce(0, 1, Some(elsewhere(1)), KEEP);
    world.run(200 * SECOND);
    assert_eq!(world.hosts[0].unreachable, [id(1)]);
    let now = world.now;
    assert!(world.hosts[0].node.set_endpoint(now, id(1), Some(addr(1))));
    world.settle(0);
    world.run(Duration::from_millis(100));
    assert!(world.joined(0, 1));
}
