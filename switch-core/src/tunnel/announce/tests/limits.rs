//! What a peer may cost.

use core::time::Duration;

use super::super::*;
use super::world::{World, endpoint, id, mac, network, rules, vni};
use crate::tunnel::control::AnnounceWriter;

#[test]
fn more_endpoints_than_allowed_are_left_out_until_there_is_room() {
    let mut few = rules(&[1]);
    few.endpoints = 20;
    let mut w = World::with(2, 1, 0, Limits::default(), &few);
    for n in 0..30 {
        w.join(0, &endpoint(1, n));
    }
    w.seconds(1);
    assert_eq!(w.hosts[1].view.len(), 20);
    let refused: Vec<_> = w.hosts[1]
        .announcer
        .stats(id(0))
        .unwrap()
        .refused()
        .collect();
    assert_eq!(refused, [(Refusal::TooMany, 10)]);
    // What is there may change all the same.
    w.join(
        0,
        &Announced {
            names: ["new".into()].into(),
            ..endpoint(1, 0)
        },
    );
    for n in 0..15 {
        w.leave(0, vni(1), mac(n));
    }
    w.seconds(5);
    w.agree();
}

#[test]
fn the_table_has_room_for_so_many_in_all() {
    let limits = Limits {
        endpoints: 30,
        ..Limits::default()
    };
    let mut w = World::with(3, 1, 0, limits, &rules(&[1]));
    for n in 0..20 {
        w.join(0, &endpoint(1, n));
        w.join(1, &endpoint(1, 100 + n));
    }
    w.seconds(1);
    assert_eq!(w.hosts[2].view.len(), 30);
    assert_eq!(
        w.hosts[2].announcer.join(w.now, &endpoint(1, 500)),
        Err(JoinError::Full)
    );
    for n in 0..15 {
        w.leave(0, vni(1), mac(n));
    }
    w.seconds(5);
    assert_eq!(w.hosts[2].view.len(), 25);
    for at in 0..3 {
        w.hosts[at].agrees_with_itself();
    }
}

#[test]
fn a_flood_costs_the_flooder() {
    let limits = Limits {
        records_per_second: 100,
        ..Limits::default()
    };
    let mut w = World::with(3, 1, 0, limits, &rules(&[1]));
    for n in 0..1_000 {
        let host = &mut w.hosts[0];
        host.announcer.join(w.now, &endpoint(1, n)).unwrap();
        host.own.insert((vni(1), mac(n)), endpoint(1, n));
    }
    w.seconds(1);
    let seen = w.hosts[1].view.len();
    assert!((40..=300).contains(&seen), "{seen} in the first second");
    // Another is heard meanwhile.
    w.join(2, &endpoint(1, 5_000));
    w.run(Duration::from_millis(100));
    assert_eq!(w.hosts[1].has(vni(1), mac(5_000)), Some(id(2)));
    // And in the end all is there.
    w.seconds(120);
    w.agree();
    let stats = w.hosts[1].announcer.stats(id(0)).unwrap();
    assert!(
        stats
            .refused()
            .any(|(why, n)| why == Refusal::Flood && n > 0)
    );
    let named = |e: &&Event| {
        matches!(
            e,
            Event::Refused {
                why: Refusal::Flood,
                ..
            }
        )
    };
    assert_eq!(w.hosts[1].told.iter().filter(named).count(), 1);
}

#[test]
fn a_peer_that_never_answers_costs_little() {
    let mut w = World::new(2, 1, 0);
    w.seconds(1);
    w.silence(0, 1);
    for n in 0..20_000 {
        w.join(0, &endpoint(1, n % 100));
        w.leave(0, vni(1), mac(n % 100));
    }
    w.join(0, &endpoint(1, 7));
    let (sent, _) = (w.sent, w.bytes);
    w.seconds(600);
    let (told, graves) = w.hosts[0].announcer.log.len();
    assert!(told <= 2 && graves <= 1024 + 1, "{told} {graves}");
    // Doubling up to ten seconds, two messages at a time.
    assert!(w.sent - sent < 200, "{}", w.sent - sent);
    w.connect(0, 1);
    w.seconds(15);
    w.agree();
}

#[test]
fn who_is_too_far_behind_begins_anew() {
    let mut w = World::new(3, 1, 0);
    w.seconds(1);
    w.silence(0, 1);
    for n in 0..5_000 {
        w.join(0, &endpoint(1, n));
        w.leave(0, vni(1), mac(n));
        if n % 50 == 0 {
            w.run(Duration::from_millis(100));
        }
    }
    let (_, graves) = w.hosts[0].announcer.log.len();
    assert!(graves <= 1025, "{graves}");
    w.join(0, &endpoint(1, 1));
    w.connect(0, 1);
    w.seconds(30);
    w.agree();
}

#[test]
fn messages_that_came_early_are_kept_within_a_limit() {
    let limits = Limits {
        early: 10,
        ..Limits::default()
    };
    let mut w = World::with(2, 1, 0, limits, &rules(&[1]));
    w.seconds(1);
    let stream = Stream { start: 9, count: 1 };
    let message = |number: u32| {
        let mut bytes = Vec::new();
        let mut writer = AnnounceWriter::new(&mut bytes, stream, number);
        writer.push(&endpoint(1, number).record().unwrap());
        bytes
    };
    w.deliver(1, 0, &message(0));
    for number in 2..100 {
        w.deliver(1, 0, &message(number));
    }
    assert_eq!(w.hosts[1].announcer.early, 10);
    w.deliver(1, 0, &message(1));
    assert_eq!((w.hosts[1].announcer.early, w.hosts[1].view.len()), (0, 12));
    // And they are forgotten with the peer.
    w.deliver(1, 0, &message(20));
    assert_eq!(w.hosts[1].announcer.early, 1);
    w.hosts[1].announcer.remove_peer(w.now, id(0));
    w.settle(1);
    assert_eq!((w.hosts[1].announcer.early, w.hosts[1].view.len()), (0, 0));
    assert_eq!(w.hosts[1].announcer.poll_timeout(), None);
}

#[test]
fn so_many_conflicts_are_named_and_all_are_counted() {
    let mut w = World::new(3, 1, 0);
    for n in 0..100 {
        w.join(0, &endpoint(1, n));
    }
    w.seconds(1);
    for n in 0..100 {
        w.join(1, &endpoint(1, n));
    }
    w.seconds(1);
    assert_eq!(w.hosts[2].announcer.stats(id(1)).unwrap().conflicts, 100);
    let named = |e: &&Event| matches!(e, Event::Conflict { .. });
    assert_eq!(w.hosts[2].told.iter().filter(named).count(), 16);
    // Many that wait for one thing: not more than are kept.
    for n in 0..100 {
        let mut same = endpoint(1, 1_000 + n);
        same.addrs[0] = "10.1.0.5".parse().unwrap();
        let mut bytes = Vec::new();
        let stream = Stream { start: 9, count: 1 };
        AnnounceWriter::new(&mut bytes, stream, n).push(&same.record().unwrap());
        w.deliver(2, 1, &bytes);
    }
    let stats = w.hosts[2].announcer.stats(id(1)).unwrap();
    assert!(
        stats
            .refused()
            .any(|(why, n)| why == Refusal::Crowded && n == 36),
        "{stats:?}"
    );
    w.hosts[2].agrees_with_itself();
    w.hosts[2].announcer.remove_peer(w.now, id(0));
    w.settle(2);
    w.hosts[2].agrees_with_itself();
}

#[test]
fn a_network_costs_more_than_an_endpoint() {
    let limits = Limits {
        records_per_second: 100,
        ..Limits::default()
    };
    let mut w = World::with(2, 1, 0, limits, &rules(&[1]));
    let stream = Stream { start: 9, count: 1 };
    for n in 0..10 {
        let mut bytes = Vec::new();
        let name = format!("net{n}");
        AnnounceWriter::new(&mut bytes, stream, n).push(&network(1, &name, &[]).record().unwrap());
        w.deliver(1, 0, &bytes);
    }
    let ups = |e: &&Event| matches!(e, Event::NetworkUp { .. });
    assert_eq!(w.hosts[1].told.iter().filter(ups).count(), 3);
}

#[test]
fn who_is_not_concerned_is_left_alone() {
    let mut w = World::new(3, 1, 0);
    w.hosts[0].announcer.set_peer(w.now, id(1), rules(&[2]));
    w.join(0, &endpoint(2, 1));
    w.seconds(2);
    let before = w.hosts[0].announcer.stats(id(1)).unwrap().sent;
    for n in 0..3_000 {
        w.join(0, &endpoint(1, n));
        w.leave(0, vni(1), mac(n));
        if n % 50 == 0 {
            w.run(Duration::from_millis(100));
        }
    }
    let stats = w.hosts[0].announcer.stats(id(1)).unwrap();
    assert_eq!((stats.sent, stats.up_to_date), (before, true));
    assert!(w.hosts[0].announcer.log.len().1 <= 1025);
}
