mod faults;
mod limits;
mod table;
mod world;

use world::{World, endpoint, id, mac, network, rules, vni};

use super::*;

#[test]
fn endpoints_come_change_and_go() {
    let mut w = World::new(3, 1, 0);
    for n in 0..5 {
        w.join(0, &endpoint(1, n));
    }
    w.join(1, &endpoint(2, 0));
    w.seconds(1);
    w.agree();
    let mut other = endpoint(1, 3);
    other.addrs.push("fd00::3".parse().unwrap());
    other.names = ["db".into(), "db.shop".into()].into();
    w.join(0, &other);
    w.leave(0, vni(1), mac(4));
    w.seconds(1);
    w.agree();
    assert_eq!((w.hosts[2].ups, w.hosts[2].downs), (6, 1));
    let stats = w.hosts[0].announcer.stats(id(2)).unwrap();
    assert_eq!(stats.host.as_deref(), Some("host2"));
    assert!(stats.up_to_date && stats.rtt.is_some(), "{stats:?}");
    assert_eq!(
        w.hosts[2].announcer.endpoints(Holder::Peer(id(0))).count(),
        4
    );
}

#[test]
fn what_comes_together_goes_in_few_messages() {
    let mut w = World::new(2, 1, 0);
    w.seconds(1);
    let before = w.sent;
    for n in 0..200 {
        let host = &mut w.hosts[0];
        host.announcer.join(w.now, &endpoint(1, n)).unwrap();
        host.own.insert((vni(1), mac(n)), endpoint(1, n));
    }
    w.seconds(1);
    w.agree();
    // 22 bytes each, acks come back.
    assert!(w.sent - before <= 2 * 5, "{}", w.sent - before);
    // Nothing more is said when all is said.
    let before = w.sent;
    w.seconds(3600);
    assert_eq!(w.sent, before);
}

#[test]
fn a_peer_hears_of_its_networks_alone() {
    let mut w = World::new(2, 1, 0);
    w.hosts[0].announcer.set_peer(w.now, id(1), rules(&[2]));
    w.join(0, &endpoint(1, 1));
    w.join(0, &endpoint(2, 2));
    w.seconds(1);
    assert_eq!(w.hosts[1].has(vni(1), mac(1)), None);
    assert_eq!(w.hosts[1].has(vni(2), mac(2)), Some(id(0)));
    // Once it may be there, it hears all; once it may not, nothing of it stays.
    w.hosts[0].announcer.set_peer(w.now, id(1), rules(&[1]));
    w.seconds(2);
    assert_eq!(w.hosts[1].has(vni(1), mac(1)), Some(id(0)));
    assert_eq!(w.hosts[1].has(vni(2), mac(2)), None);
}

#[test]
fn what_is_not_allowed_is_refused_and_named_once() {
    let narrow = Rules {
        networks: vec![Allowed {
            vni: vni(1),
            prefixes: vec![world::prefix("10.1.0.0/24")],
            except: vec![world::range("10.1.0.50-10.1.0.60")],
        }],
        endpoints: 10,
    };
    let mut w = World::new(2, 1, 0);
    w.hosts[1].announcer.set_peer(w.now, id(0), narrow);
    for (net, n) in [(2, 1), (2, 2), (1, 3), (1, 0x0100), (1, 55)] {
        w.join(0, &endpoint(net, n));
    }
    for (net, range) in [(1, "10.0.0.1-10.2.0.1"), (2, "10.1.0.1-10.1.0.9")] {
        let network = network(net, &format!("net{net}"), &[range]);
        w.hosts[0].announcer.set_network(&network).unwrap();
    }
    w.seconds(1);
    assert_eq!(w.hosts[1].view.len(), 1);
    assert_eq!(w.hosts[1].has(vni(1), mac(3)), Some(id(0)));
    let refused = |w: &World| -> Vec<_> {
        let told = w.hosts[1].told.iter();
        told.filter_map(|e| {
            let Event::Refused {
                why, what, allowed, ..
            } = e
            else {
                return None;
            };
            Some((*why, *what, allowed.is_some()))
        })
        .collect()
    };
    let strange = "10.1.1.0".parse().unwrap();
    let range = world::range("10.0.0.1-10.2.0.1");
    let expected = [
        (Refusal::Network, Subject::Endpoint(vni(2), mac(1)), false),
        (
            Refusal::Address,
            Subject::Address(vni(1), mac(0x0100), strange),
            true,
        ),
        (Refusal::Range, Subject::Range(vni(1), range), true),
    ];
    assert_eq!(refused(&w), expected);
    let stats = w.hosts[1].announcer.stats(id(0)).unwrap();
    let counts: Vec<_> = stats.refused().collect();
    let expected = [
        (Refusal::Network, 3),
        (Refusal::Address, 2),
        (Refusal::Range, 1),
    ];
    assert_eq!(counts, expected);
    // An endpoint that asks for more than it may have is there without that; with nothing else it is not.
    let allowed = endpoint(1, 3);
    let mut moved = allowed.clone();
    moved.addrs.push("10.9.9.9".parse().unwrap());
    w.join(0, &moved);
    w.seconds(1);
    let seen = w.hosts[1].view.get(&(vni(1), mac(3)));
    assert_eq!(seen, Some(&(id(0), allowed)));
    moved.addrs.remove(0);
    w.join(0, &moved);
    w.seconds(1);
    assert!(w.hosts[1].view.is_empty());
    // With other rules it is all there, and is not asked for again by hand.
    w.hosts[1].announcer.set_peer(w.now, id(0), rules(&[1, 2]));
    w.seconds(5);
    w.agree();
    assert_eq!(w.hosts[1].announcer.peers_on(vni(2)).count(), 1);
    // And gone at once when they are taken back.
    w.hosts[1].announcer.set_peer(w.now, id(0), rules(&[2]));
    w.settle(1);
    assert_eq!(w.hosts[1].view.len(), 2);
    assert_eq!(w.hosts[1].announcer.peers_on(vni(1)).count(), 0);
}

#[test]
fn who_comes_later_waits() {
    let mut w = World::new(3, 1, 0);
    w.join(0, &endpoint(1, 1));
    w.seconds(1);
    // Another MAC with the same address.
    let thief = Announced {
        addrs: endpoint(1, 1).addrs,
        ..endpoint(1, 2)
    };
    w.join(1, &thief);
    w.seconds(1);
    assert_eq!(w.hosts[2].has(vni(1), mac(2)), None);
    assert_eq!(w.hosts[2].has(vni(1), mac(1)), Some(id(0)));
    let conflict = Event::Conflict {
        peer: id(1),
        vni: vni(1),
        mac: mac(2),
        over: Contested::Addr(thief.addrs[0]),
        holder: Holder::Peer(id(0)),
    };
    let named = w.hosts[2]
        .told
        .iter()
        .filter(|e| matches!(e, Event::Conflict { .. }));
    assert_eq!(named.collect::<Vec<_>>(), [&conflict]);
    // For host 0 it is its own; for host 1 that of host 0 waits.
    for (at, over) in [(0, 1), (1, 0)] {
        assert!(w.hosts[at].told.iter().any(|e| matches!(e, Event::Conflict { peer, holder: Holder::Local, .. } if *peer == id(over))));
        assert_eq!(w.hosts[at].announcer.count(), (2, 1));
    }
    // The same address on another network is another address.
    w.join(
        1,
        &Announced {
            vni: vni(2),
            ..endpoint(1, 1)
        },
    );
    w.leave(0, vni(1), mac(1));
    w.seconds(1);
    w.agree();
    assert_eq!(w.hosts[2].announcer.count(), (2, 0));
    assert_eq!(w.hosts[2].announcer.stats(id(1)).unwrap().conflicts, 1);
}

#[test]
fn an_endpoint_moves_whoever_speaks_first() {
    for first in [0, 1] {
        let mut w = World::new(4, 1, 0);
        w.join(0, &endpoint(1, 1));
        w.seconds(1);
        if first == 0 {
            w.leave(0, vni(1), mac(1));
            w.seconds(1);
            w.join(1, &endpoint(1, 1));
        } else {
            w.join(1, &endpoint(1, 1));
            w.seconds(1);
            assert_eq!(w.hosts[2].has(vni(1), mac(1)), Some(id(0)));
            w.leave(0, vni(1), mac(1));
        }
        w.seconds(1);
        w.agree();
        assert_eq!(w.hosts[3].has(vni(1), mac(1)), Some(id(1)));
    }
}

#[test]
fn ranges_that_overlap_and_other_names_are_named() {
    let mut w = World::new(3, 1, 0);
    for (at, name, range) in [
        (0, "blue", "10.1.0.1-10.1.0.254"),
        (1, "blue", "10.1.1.1-10.1.1.254"),
        (2, "red", "10.1.1.128-10.1.1.200"),
    ] {
        let network = network(1, name, &[range]);
        w.hosts[at].announcer.set_network(&network).unwrap();
    }
    w.seconds(1);
    let overlaps = |w: &World, at: usize| -> Vec<(PeerId, Holder)> {
        let told = w.hosts[at].told.iter();
        told.filter_map(|e| {
            let Event::Overlap { peer, with, .. } = e else {
                return None;
            };
            Some((*peer, *with))
        })
        .collect()
    };
    assert_eq!(overlaps(&w, 1), [(id(2), Holder::Local)]);
    assert_eq!(overlaps(&w, 2), [(id(1), Holder::Local)]);
    let [(peer, Holder::Peer(with))] = overlaps(&w, 0)[..] else {
        panic!("host 0 hears of both");
    };
    assert_eq!(peer.0.abs_diff(with.0), 1);
    let others = |at: usize| {
        let told = w.hosts[at].told.iter();
        told.filter(|e| matches!(e, Event::OtherNetwork { .. }))
            .count()
    };
    assert_eq!([others(0), others(1), others(2)], [1, 1, 2]);
    assert_eq!(w.hosts[0].announcer.peers_on(vni(1)).count(), 2);
    // Nothing is named again for that it is told again.
    for at in 0..3 {
        w.hosts[at].told.clear();
    }
    w.connect(0, 1);
    w.connect(1, 2);
    w.seconds(1);
    assert!((0..3).all(|at| overlaps(&w, at).is_empty()));
    w.hosts[2].announcer.remove_network(w.now, vni(1));
    w.seconds(1);
    assert_eq!(w.hosts[0].announcer.peers_on(vni(1)).count(), 1);
    let down = Event::NetworkDown {
        peer: id(2),
        vni: vni(1),
    };
    assert!(w.hosts[0].told.contains(&down));
}

#[test]
fn one_name_on_two_hosts_is_named() {
    let mut w = World::new(2, 1, 0);
    w.join(0, &endpoint(1, 1));
    w.seconds(1);
    w.join(
        1,
        &Announced {
            names: ["e1".into()].into(),
            ..endpoint(1, 2)
        },
    );
    // On one host it is its own matter, on another network another name.
    w.join(
        1,
        &Announced {
            names: ["e1".into()].into(),
            ..endpoint(2, 3)
        },
    );
    w.join(
        0,
        &Announced {
            names: ["e1".into()].into(),
            ..endpoint(1, 4)
        },
    );
    w.seconds(1);
    w.agree();
    let same = |at: usize| -> Vec<_> {
        let told = w.hosts[at].told.iter();
        told.filter(|e| matches!(e, Event::SameName { .. }))
            .cloned()
            .collect()
    };
    let expected = Event::SameName {
        holder: Holder::Peer(id(1)),
        vni: vni(1),
        mac: mac(2),
        name: "e1".into(),
        other: Holder::Local,
    };
    assert_eq!(same(0), [expected]);
    // It had the other's before its own came.
    assert!(matches!(
        &same(1)[..],
        [
            Event::SameName {
                holder: Holder::Local,
                ..
            },
            ..
        ]
    ));
}

#[test]
fn this_host_does_not_announce_what_contradicts_itself() {
    let mut w = World::new(1, 1, 0);
    w.join(0, &endpoint(1, 1));
    let host = &mut w.hosts[0].announcer;
    let same = Announced {
        addrs: endpoint(1, 1).addrs,
        ..endpoint(1, 2)
    };
    let taken = JoinError::Taken(Contested::Addr(same.addrs[0]));
    assert_eq!(host.join(w.now, &same), Err(taken));
    assert_eq!(host.count(), (1, 0));
    let bad = Announced {
        mac: Mac::BROADCAST,
        ..same
    };
    assert_eq!(
        host.join(w.now, &bad),
        Err(RecordError::Mac(Mac::BROADCAST).into())
    );
    assert!(Announcer::new("no name", 1, Limits::default()).is_err());
}

#[test]
fn endpoints_may_come_from_another_source() {
    let mut w = World::new(2, 1, 0);
    let now = w.now;
    let host = &mut w.hosts[0].announcer;
    assert_eq!(host.place(now, id(1), &endpoint(1, 1)), Ok(()));
    let refused = Err(PlaceError::Refused(Refusal::Network));
    assert_eq!(host.place(now, id(1), &endpoint(3, 1)), refused);
    assert_eq!(host.place(now, id(9), &endpoint(1, 1)), refused);
    w.settle(0);
    assert_eq!(w.hosts[0].has(vni(1), mac(1)), Some(id(1)));
    w.hosts[0].announcer.take_back(now, id(1), vni(1), mac(1));
    w.settle(0);
    assert!(w.hosts[0].view.is_empty());
}

#[test]
fn a_peer_that_was_taken_out_tells_all_when_it_is_there_again() {
    let mut w = World::new(2, 1, 0);
    w.join(0, &endpoint(1, 1));
    w.join(1, &endpoint(1, 2));
    w.seconds(1);
    w.agree();
    // The other one notices nothing of it.
    let (now, host) = (w.now, &mut w.hosts[1].announcer);
    host.remove_peer(now, id(0));
    host.set_peer(now, id(0), rules(&[1, 2]));
    host.connected(now, id(0));
    w.settle(1);
    assert!(w.hosts[1].view.is_empty());
    w.seconds(1);
    w.agree();
}
