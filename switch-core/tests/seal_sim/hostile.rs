//! Who sends what was never asked for: nothing enters, nothing grows, and what it costs is bounded.

use std::net::SocketAddr;
use std::time::Duration;

use switch_core::testing::Random;
use switch_core::tunnel::seal::{
    self, AddError, COOKIE_LEN, HostSecret, INITIATION_LEN, NetworkSecret, Node, NodeConfig,
    PeerConfig, PublicKey, RESPONSE_LEN, Refusal, SendError, Suite,
};

use super::world::{Bytes, Link, WALL, World, addr, id, secret};

const SECOND: Duration = Duration::from_secs(1);
const KEEP: Option<Duration> = Some(Duration::from_secs(25));

fn stranger() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 66], 666))
}

/// An initiation to host 0 by who has this secret of the network, and a key that nobody knows.
fn forge(world: &World, network: &NetworkSecret, seed: u64) -> Vec<u8> {
    let mut bytes = Bytes(Random(seed));
    let config = NodeConfig {
        secret: HostSecret::generate(&mut bytes),
        suite: Suite::Aes256Gcm,
        wall: WALL,
    };
    let mut node = Node::new(world.now, &config, Box::new(bytes)).unwrap();
    let peer = PeerConfig {
        key: world.hosts[0].node.public(),
        secrets: vec![network.clone()],
        endpoint: Some(addr(0)),
        keepalive: KEEP,
    };
    node.add_peer(world.now, id(0), &peer).unwrap();
    let mut out = Vec::new();
    node.poll_transmit(&mut out).unwrap();
    out
}

fn refused(world: &World, host: usize, reason: Refusal) -> u64 {
    world.hosts[host].node.refusals().get(reason)
}

/// What host 0 has sent since the tape was cleared.
fn answers(world: &World) -> usize {
    world
        .tape
        .iter()
        .filter(|flight| flight.1 == addr(0))
        .count()
}

#[test]
fn every_message_again_changes_nothing() {
    let mut world = World::mesh(2, Link::GOOD, 1);
    world.run(SECOND);
    assert!(world.resume(0, 1, SECOND).is_some());
    let tape = world.tape.clone();
    world.run(5 * SECOND);
    let sessions: Vec<usize> = world.hosts.iter().map(|host| host.sessions).collect();
    let got: Vec<usize> = world.hosts.iter().map(|host| host.got.len()).collect();
    let computed = world.hosts[1].node.computed();
    for round in 0..3 {
        for (_, from, to, bytes) in &tape {
            // From where they came, and from elsewhere.
            let from = if round == 0 { *from } else { stranger() };
            world.inject(from, *to, bytes.clone());
        }
        world.run(SECOND);
    }
    for (n, host) in world.hosts.iter().enumerate() {
        assert_eq!(host.got.len(), got[n]);
        // A peer whose stamps do not grow may have lost its clock: each side asks once, at the address it knows.
        assert!(host.sessions <= sessions[n] + 2);
        assert!(
            host.send.values().all(|&(_, to)| to != stranger()),
            "nobody is led astray"
        );
    }
    assert!(refused(&world, 0, Refusal::StaleStamp) + refused(&world, 1, Refusal::StaleStamp) >= 3);
    assert!(world.hosts[1].node.computed() - computed < 20);
    assert!(world.resume(0, 1, SECOND).is_some());
}

/// Both hosts restart, both with clocks that went back, and someone sends them what their first lives sent: it locks
/// nobody out. Found by the fuzz target.
#[test]
fn what_was_kept_from_a_former_life_locks_nobody_out() {
    let mut world = World::mesh(2, Link::GOOD, 13);
    world.run(600 * SECOND);
    let last = |n: usize| {
        let mut calls = world.tape.iter().rev().filter(|flight| flight.3[0] == 1);
        calls.find(|flight| flight.1 == addr(n)).unwrap().clone()
    };
    let kept = [last(0), last(1)];
    for n in [0, 1] {
        world.restart(n, WALL - 1_000_000_000_000);
    }
    world.introduce(0, 1, None, None);
    world.introduce(1, 0, None, None);
    for (_, from, to, bytes) in kept {
        world.inject(from, to, bytes);
    }
    world.run(Duration::from_millis(30));
    let now = world.now;
    for (n, other) in [(0, 1), (1, 0)] {
        world.hosts[n]
            .node
            .set_endpoint(now, id(other), Some(addr(other)));
        world.hosts[n].node.demand(now, id(other));
        world.settle(n);
    }
    assert!(world.resume(0, 1, 20 * SECOND).is_some());
}

#[test]
fn no_changed_message_is_taken() {
    let mut world = World::new(2, Link::GOOD, 2);
    world.introduce(1, 0, None, KEEP);
    world.introduce(0, 1, Some(addr(1)), KEEP);
    let first = world.tape[0].3.clone();
    let mut node = World::new(2, Link::GOOD, 2);
    node.introduce(1, 0, None, KEEP);
    assert_eq!(first.len(), INITIATION_LEN);
    // The second MAC, the last 16 bytes, is no part of what a host without load looks at.
    for bit in 0..(INITIATION_LEN - 16) * 8 {
        let mut bad = first.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        node.inject(addr(0), addr(1), bad);
    }
    for len in 0..INITIATION_LEN {
        node.inject(addr(0), addr(1), first[..len].to_vec());
    }
    for longer in [149, 1_500, 65_507] {
        let mut bytes = first.clone();
        bytes.resize(longer, 0);
        node.inject(addr(0), addr(1), bytes);
    }
    node.run(SECOND);
    assert_eq!(node.hosts[1].sessions, 0);
    assert_eq!(node.sent(2) + node.sent(3), 0, "and none is answered");
    let dh = node.hosts[1].node.computed();
    assert_eq!(
        dh, 1,
        "beyond the one for knowing its peer, none was computed"
    );
    node.inject(addr(0), addr(1), first);
    node.run(Duration::from_millis(50));
    assert_eq!(node.hosts[1].sessions, 1, "the genuine one is");
}

#[test]
fn no_changed_answer_is_taken() {
    let mut world = World::new(2, Link::GOOD, 3);
    world.introduce(1, 0, None, KEEP);
    world.introduce(0, 1, Some(addr(1)), KEEP);
    world.run(Duration::from_millis(15));
    let answer = world
        .tape
        .iter()
        .find(|flight| flight.3[0] == 2)
        .unwrap()
        .3
        .clone();
    assert_eq!(answer.len(), RESPONSE_LEN);
    let now = world.now;
    for bit in 0..RESPONSE_LEN * 8 {
        let mut bad = answer.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        world.hosts[0].node.handle_datagram(now, addr(1), &bad);
    }
    for len in 0..RESPONSE_LEN {
        world.hosts[0]
            .node
            .handle_datagram(now, addr(1), &answer[..len]);
    }
    world.settle(0);
    assert_eq!(world.hosts[0].sessions, 0);
    world.run(SECOND);
    assert!(world.joined(0, 1), "the genuine one is");
}

/// A flood without the network's secret costs one MAC each: no key is computed, nothing is answered or kept.
#[test]
fn a_flood_of_those_outside_costs_no_computation() {
    let mut world = World::mesh(2, Link::GOOD, 4);
    world.run(SECOND);
    world.tape.clear();
    let computed = world.hosts[0].node.computed();
    let other = NetworkSecret::new([1; 32]);
    let unknown = forge(&world, &other, 99);
    let mut wrong = forge(&world, &secret(), 99);
    wrong[130] ^= 1;
    for n in 0..20_000u32 {
        let from = SocketAddr::from((n.to_be_bytes(), 7348));
        let now = world.now;
        for bytes in [&unknown, &wrong] {
            world.hosts[0].node.handle_datagram(now, from, bytes);
        }
    }
    world.settle(0);
    assert_eq!(world.hosts[0].node.computed(), computed);
    assert_eq!(answers(&world), 0);
    assert_eq!(refused(&world, 0, Refusal::UnknownNetwork), 20_000);
    assert_eq!(refused(&world, 0, Refusal::BadMac), 20_000);
}

/// A flood by one who knows the secret, from forged addresses: a few are computed, the others are asked for a cookie.
#[test]
fn a_flood_of_those_inside_is_asked_for_cookies() {
    let mut world = World::mesh(2, Link::GOOD, 5);
    world.run(5 * SECOND);
    world.tape.clear();
    let computed = world.hosts[0].node.computed();
    let flood: Vec<Vec<u8>> = (0..20).map(|n| forge(&world, &secret(), 100 + n)).collect();
    for n in 0..20_000u32 {
        let from = SocketAddr::from((n.to_be_bytes(), 7348));
        let now = world.now;
        let bytes = &flood[n as usize % flood.len()];
        world.hosts[0].node.handle_datagram(now, from, bytes);
        if n % 100 == 0 {
            world.settle(0);
        }
    }
    world.settle(0);
    let cost = world.hosts[0].node.computed() - computed;
    assert!(cost <= 50, "{cost} DH for a flood of 20,000");
    assert_eq!(refused(&world, 0, Refusal::Stranger), cost, "one each");
    let asked = refused(&world, 0, Refusal::CookieAsked);
    assert_eq!(asked + cost, 20_000);
    // Nothing is amplified: fewer bytes leave than came, to each address.
    assert!(world.tape.iter().all(|flight| flight.3.len() <= COOKIE_LEN));
}

/// While such a flood lasts, a genuine peer still gets through, with a cookie.
#[test]
fn a_peer_gets_through_a_flood() {
    let mut world = World::new(2, Link::GOOD, 6);
    world.introduce(0, 1, None, KEEP);
    let flood = forge(&world, &secret(), 100);
    let mut n = 0u32;
    let mut step = |world: &mut World| {
        for _ in 0..20 {
            n += 1;
            world.inject(
                SocketAddr::from((n.to_be_bytes(), 1)),
                addr(0),
                flood.clone(),
            );
        }
        world.run(Duration::from_millis(1));
    };
    for _ in 0..1_007 {
        step(&mut world);
    }
    world.introduce(1, 0, Some(addr(0)), KEEP);
    let mut took = 0;
    while !world.joined(0, 1) {
        step(&mut world);
        took += 1;
        assert!(took < 1_000, "not within a second");
    }
    let to_peer = |flight: &&(_, _, SocketAddr, Vec<u8>)| flight.2 == addr(1) && flight.3[0] == 3;
    assert_eq!(
        world.tape.iter().filter(to_peer).count(),
        1,
        "one cookie was enough"
    );
}

/// Cookies that were made for another, changed or invented are not taken.
#[test]
fn a_false_cookie_is_not_taken() {
    let mut world = World::new(2, Link::GOOD, 7);
    world.introduce(0, 1, Some(addr(1)), KEEP);
    let index = &world.tape[0].3[4..8].to_vec();
    for n in 0..1_000u32 {
        let mut reply = vec![3, 0, 0, 0];
        reply.extend(index);
        reply.extend(n.to_le_bytes());
        reply.resize(COOKIE_LEN, 7);
        world.inject(addr(1), addr(0), reply);
    }
    world.run(Duration::from_millis(50));
    assert_eq!(refused(&world, 0, Refusal::BadCookie), 1_000);
    assert_eq!(world.sent(1), 1, "and hurries nobody");
}

/// One who knows the secret and floods from addresses of its own, with cookies: what is computed has a bound.
#[test]
fn who_has_many_addresses_is_bounded_too() {
    let mut world = World::new(2, Link::GOOD, 8);
    world.introduce(0, 1, None, KEEP);
    let mut flood = Vec::new();
    for n in 0..300u64 {
        let mut bytes = Bytes(Random(n));
        let config = NodeConfig {
            secret: HostSecret::generate(&mut bytes),
            suite: Suite::Aes256Gcm,
            wall: WALL,
        };
        let node = Node::new(world.now, &config, Box::new(bytes)).unwrap();
        flood.push((
            SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 1)),
            node,
        ));
    }
    let peer = PeerConfig {
        key: world.hosts[0].node.public(),
        secrets: vec![secret()],
        endpoint: Some(addr(0)),
        keepalive: KEEP,
    };
    let begin = world.now;
    for (_, node) in &mut flood {
        node.add_peer(begin, id(0), &peer).unwrap();
    }
    let computed = world.hosts[0].node.computed();
    let (seconds, mut out) = (4, Vec::new());
    for n in 0..seconds * 10u32 {
        let now = begin + n * Duration::from_millis(100);
        for (from, node) in &mut flood {
            node.handle_timeout(now);
            while node.poll_transmit(&mut out).is_some() {
                world.hosts[0].node.handle_datagram(now, *from, &out);
                while let Some(to) = world.hosts[0].node.poll_transmit(&mut out) {
                    assert_eq!(to, *from);
                    node.handle_datagram(now, addr(0), &out);
                }
            }
        }
    }
    let cost = world.hosts[0].node.computed() - computed;
    assert!(cost > 300, "cookies were taken: {cost}");
    assert!(
        cost <= 500 + 500 * u64::from(seconds),
        "{cost} in {seconds} s"
    );
}

/// Hosts of another network, hosts that left, and hosts with an invitation.
#[test]
fn only_peers_are_answered_and_the_invited_are_heard() {
    let mut world = World::new(3, Link::GOOD, 9);
    world.introduce(0, 1, None, KEEP);
    world.introduce(2, 0, Some(addr(0)), KEEP);
    world.run(5 * SECOND);
    assert!(refused(&world, 0, Refusal::Stranger) > 0);
    assert_eq!(world.sent(2), 0, "a stranger is not answered");
    assert!(world.hosts[0].introduced.is_empty());

    let invitation = secret();
    world.hosts[0].node.add_invite(5, &invitation).unwrap();
    assert_eq!(
        world.hosts[0].node.add_invite(5, &invitation),
        Err(AddError::Exists)
    );
    world.run(6 * SECOND);
    let (invite, key, from) = world.hosts[0].introduced[0];
    assert_eq!((invite, from), (5, addr(2)));
    assert_eq!(key, world.hosts[2].node.public());
    assert_eq!(world.sent(2), 0, "it is told of, not answered");
    world.introduce(0, 2, Some(from), KEEP);
    world.run(SECOND);
    assert!(world.joined(0, 2));
    world.hosts[0].node.remove_invite(5);
    world.run(10 * SECOND);
    assert!(world.joined(0, 2), "who came by it stays");
}

/// A peer may use only the secrets of networks that it is in.
#[test]
fn the_secret_of_another_network_does_not_serve() {
    let mut world = World::new(2, Link::GOOD, 10);
    let (ours, theirs) = (NetworkSecret::new([1; 32]), NetworkSecret::new([2; 32]));
    let add = |world: &mut World, host: usize, peer: usize, secrets: Vec<NetworkSecret>| {
        let config = PeerConfig {
            key: world.hosts[peer].node.public(),
            secrets,
            endpoint: Some(addr(peer)),
            keepalive: KEEP,
        };
        let now = world.now;
        world.hosts[host]
            .node
            .add_peer(now, id(peer), &config)
            .unwrap();
        world.settle(host);
    };
    add(&mut world, 0, 1, vec![ours.clone()]);
    let mut other = PeerConfig {
        key: PublicKey([9; 32]),
        secrets: vec![theirs.clone()],
        endpoint: None,
        keepalive: None,
    };
    let now = world.now;
    world.hosts[0].node.add_peer(now, id(7), &other).unwrap();
    add(&mut world, 1, 0, vec![theirs.clone()]);
    world.run(5 * SECOND);
    assert!(refused(&world, 0, Refusal::WrongNetwork) > 0);
    assert!(refused(&world, 1, Refusal::UnknownNetwork) > 0);
    assert!(!world.joined(0, 1));
    world.hosts[1].node.remove_peer(id(0));
    add(&mut world, 1, 0, vec![theirs, ours]);
    assert!(
        world
            .until(20 * SECOND, |world| world.joined(0, 1))
            .is_some(),
        "each secret has its turn"
    );

    other.secrets.clear();
    let node = &mut world.hosts[0].node;
    other.key = PublicKey([8; 32]);
    assert_eq!(node.add_peer(now, id(8), &other), Err(AddError::Secret));
    other.secrets.push(secret());
    assert_eq!(node.add_peer(now, id(7), &other), Err(AddError::Exists));
    other.key = PublicKey([0; 32]);
    assert_eq!(
        node.add_peer(now, id(8), &other),
        Err(AddError::Key),
        "a point of low order"
    );
    other.key = node.public();
    assert_eq!(node.add_peer(now, id(8), &other), Err(AddError::Own));
}

/// Any bytes at any time, in any number.
#[test]
fn noise_does_nothing() {
    let mut world = World::mesh(2, Link::GOOD, 11);
    world.run(5 * SECOND);
    let mut random = Random(1);
    for n in 0..20_000usize {
        let mut bytes = vec![0; [16, 32, 64, 76, 148, 200][n % 6]];
        seal::Random::fill(&mut Bytes(random.clone()), &mut bytes);
        random.draw();
        bytes[0] = (n / 6 % 6) as u8;
        if n % 2 == 0 {
            bytes[1..4].fill(0);
            bytes[1] = u8::from(bytes[0] < 3);
        }
        let from = if n % 3 == 0 { addr(1) } else { stranger() };
        world.inject(from, addr(0), bytes);
    }
    world.tape.clear();
    let count = |world: &World| {
        let refusals = world.hosts[0].node.refusals().iter();
        refusals.map(|(_, count)| count).sum::<u64>()
    };
    let before = count(&world);
    world.run(SECOND);
    assert!(
        answers(&world) <= 10,
        "{} datagrams for noise",
        answers(&world)
    );
    assert!(world.resume(0, 1, SECOND).is_some());
    assert_eq!(count(&world) - before, 20_000, "each is counted once");
}

/// Control messages: as long as a datagram can be, and not before there is a session.
#[test]
fn control_messages_go_by_the_session() {
    let mut world = World::new(2, Link::GOOD, 12);
    world.introduce(1, 0, None, None);
    world.introduce(0, 1, Some(addr(1)), None);
    let now = world.now;
    let node = &mut world.hosts[0].node;
    assert_eq!(node.send(now, id(1), b"x"), Err(SendError::NoSession));
    world.settle(0);
    world.run(SECOND);
    let now = world.now;
    let node = &mut world.hosts[0].node;
    assert_eq!(
        node.send(now, id(1), &[1; seal::MAX_CONTROL + 1]),
        Err(SendError::Length)
    );
    assert_eq!(node.send(now, id(1), &[1; seal::MAX_CONTROL]), Ok(()));
    for _ in 0..seal::MAX_QUEUED {
        let _ = node.send(now, id(1), &[]);
    }
    assert_eq!(node.send(now, id(1), &[]), Err(SendError::QueueFull));
    world.settle(0);
    assert_eq!(
        world.tape.iter().map(|flight| flight.3.len()).max(),
        Some(65_507)
    );
}
