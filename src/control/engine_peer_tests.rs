use std::time::Duration;

use tokio::sync::oneshot;

use super::engine::{Engine, Job};
use super::engine_tests::{ask, block, invite, kept, node, overlay, setting, up};
use super::identity;
use super::key::{PublicKey, StaticKey};
use super::plane::PlaneEvent;
use super::plane_fake::FakePlane;
use super::proto::{Reply, Request};
use crate::config::wish::{InviteWish, PeerWish};

fn key(n: u8) -> PublicKey {
    *StaticKey::new([n; 32]).unwrap().public()
}

/// A weft that is known by its key.
fn known(name: &str, n: u8) -> Request {
    Request::AddPeer(PeerWish {
        name: name.to_owned(),
        key: Some(key(n).to_string()),
        ..PeerWish::default()
    })
}

/// Peers of the data plane, and those that the model asks for.
fn peers_agree(engine: &Engine<FakePlane>) -> bool {
    let model = engine.model();
    let asked = model.peers.values().map(|p| model.peer_spec(p));
    asked.eq(engine.plane.peers.values().cloned())
}

#[test]
fn peers_follow_their_networks() {
    let (_, disk, mut engine) = setting(0);
    assert_eq!(engine.plane.key, None);
    for (request, networks) in [
        (overlay("web", &[]), vec![]),
        (invite("b"), vec![1]),
        (node("c", "192.0.2.3"), vec![1, 0]),
        (overlay("plain", &["carrier=vxlan"]), vec![1, 1]),
        (overlay("more", &["carrier=vxlan"]), vec![1, 2]),
        (Request::RemoveNetwork("plain".into()), vec![1, 1]),
        (Request::RemovePeer("b".into()), vec![1]),
        (Request::RemoveNetwork("web".into()), vec![1]),
    ] {
        ask(&mut engine, request).unwrap();
        kept(&engine, &disk);
        assert!(peers_agree(&engine));
        let on: Vec<_> = engine
            .plane
            .peers
            .values()
            .map(|p| p.networks.len())
            .collect();
        assert_eq!(on, networks);
    }
    assert!(engine.plane.key.is_some());
}

#[test]
fn who_takes_an_invite_is_kept_and_no_other_can() {
    let (world, disk, mut engine) = setting(0);
    ask(&mut engine, overlay("web", &[])).unwrap();
    ask(&mut engine, invite("b")).unwrap();
    let peer = engine.model().peer("b").unwrap().id;
    for n in [2, 3] {
        engine
            .plane
            .tell(PlaneEvent::PeerJoined { peer, key: key(n) });
        block(engine.events()).unwrap();
        kept(&engine, &disk);
        assert_eq!(engine.model().peers[&peer].carrier.key(), Some(&key(2)));
        assert!(peers_agree(&engine));
    }
    let at = "198.51.100.7:7348".parse().unwrap();
    engine.plane.tell(PlaneEvent::PeerSeen { peer, at });
    block(engine.events()).unwrap();
    kept(&engine, &disk);
    let problem = "its range overlaps".to_owned();
    engine.plane.tell(PlaneEvent::PeerProblem { peer, problem });
    block(engine.events()).unwrap();
    let notes: Vec<_> = engine.runtime.notes.iter().cloned().collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(
        notes[0].starts_with("peer 'b' has taken its invite"),
        "{notes:?}"
    );
    assert_eq!(notes[1], "peer 'b': its range overlaps");
    drop(engine);
    let engine = up(&world, &disk.reborn()).unwrap();
    let record = &engine.model().peers[&peer];
    assert_eq!(
        (record.carrier.key(), record.seen),
        (Some(&key(2)), Some(at))
    );
    assert!(peers_agree(&engine) && engine.plane.key.is_some());
}

#[test]
fn others_are_served_while_a_peer_is_asked() {
    let (_, _, mut engine) = setting(0);
    for request in [overlay("web", &[]), known("b", 2), known("c", 3)] {
        ask(&mut engine, request).unwrap();
    }
    let job = |request| {
        let (answer, wait) = oneshot::channel();
        (Job { request, answer }, wait)
    };
    block(async {
        let (far, mut pong) = job(Request::Ping("b".into()));
        let (silent, none) = job(Request::Ping("c".into()));
        let (near, info) = job(Request::Info);
        engine.handle([far, silent, near]).await;
        assert!(matches!(info.await, Ok(Ok(Reply::Info(_)))));
        tokio::task::yield_now().await;
        assert!(pong.try_recv().is_err());
        let mut asked = std::mem::take(&mut engine.plane.pings).into_iter();
        let took = Duration::from_micros(250);
        asked.next().unwrap().send(took).unwrap();
        drop(asked);
        for (wait, rtt) in [(pong, Some(250)), (none, None)] {
            let Ok(Ok(Reply::Pinged(pinged))) = wait.await else {
                panic!("no answer");
            };
            assert_eq!(pinged.rtt, rtt);
        }
    });
}

#[test]
fn invites_that_nobody_takes_go_after_their_time() {
    const DAY: u64 = 86_400;
    let (world, disk, mut engine) = setting(0);
    world.borrow_mut().now = 1000;
    ask(&mut engine, overlay("web", &[])).unwrap();
    assert_eq!(engine.expires(), None);
    let told = |name: &str, ttl| {
        let name = Some(name.to_owned());
        Request::Invite(InviteWish {
            name,
            ttl,
            ..InviteWish::default()
        })
    };
    for (name, ttl) in [
        ("day", None),
        ("hour", Some(3600)),
        ("taken", Some(3600)),
        ("week", Some(7 * DAY)),
        ("ever", Some(0)),
    ] {
        ask(&mut engine, told(name, ttl)).unwrap();
    }
    let peer = engine.model().peer("taken").unwrap().id;
    engine
        .plane
        .tell(PlaneEvent::PeerJoined { peer, key: key(2) });
    block(engine.events()).unwrap();
    let left = |engine: &mut Engine<FakePlane>| {
        let Ok(Reply::Peers(peers)) = ask(engine, Request::Peers) else {
            panic!("peers are told");
        };
        let told = peers.into_iter().map(|p| (p.name, p.expires));
        told.collect::<Vec<_>>()
    };
    let rows = |rows: &[(&str, Option<u64>)]| {
        let rows = rows.iter().map(|(name, left)| ((*name).to_owned(), *left));
        rows.collect::<Vec<_>>()
    };
    let all = [
        ("day", Some(DAY)),
        ("hour", Some(3600)),
        ("taken", None),
        ("week", Some(7 * DAY)),
        ("ever", None),
    ];
    assert_eq!(left(&mut engine), rows(&all));
    assert_eq!(engine.expires(), Some(3600));
    world.borrow_mut().now = 1000 + 3600;
    block(engine.expire()).unwrap();
    kept(&engine, &disk);
    assert!(peers_agree(&engine));
    let later = [
        ("day", Some(DAY - 3600)),
        ("taken", None),
        ("week", Some(7 * DAY - 3600)),
        ("ever", None),
    ];
    assert_eq!(left(&mut engine), rows(&later));
    let notes: Vec<_> = engine.runtime.notes.iter().cloned().collect();
    assert!(
        notes.last().unwrap().contains("'hour' has expired"),
        "{notes:?}"
    );
    // Time goes on while no daemon runs.
    drop(engine);
    world.borrow_mut().now = 1000 + 7 * DAY - 1;
    let mut engine = up(&world, &disk.reborn()).unwrap();
    assert_eq!(
        left(&mut engine),
        rows(&[("taken", None), ("week", Some(1)), ("ever", None)])
    );
    assert!(peers_agree(&engine));
    ask(&mut engine, Request::RemovePeer("week".into())).unwrap();
    assert_eq!(engine.expires(), None);
}

#[test]
fn a_new_key_is_taken_at_once_and_ends_open_invites() {
    let (_, disk, mut engine) = setting(0);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.key");
    engine.identity = identity::Identity::at(path.clone());
    for request in [overlay("web", &[]), known("b", 2), invite("c")] {
        ask(&mut engine, request).unwrap();
    }
    let first = engine.plane.key.unwrap();
    let taken = |engine: &mut Engine<FakePlane>| {
        let Ok(Reply::Key(told)) = ask(engine, Request::RenewKey) else {
            panic!("the key is told");
        };
        assert_eq!(engine.plane.key, Some(told.key));
        (told.key, told.voided)
    };
    assert_eq!(taken(&mut engine), (first, vec![]));
    assert!(engine.model().peer("c").is_ok());
    let second = *identity::make(&path, true).unwrap().public();
    assert_eq!(taken(&mut engine), (second, vec!["c".to_owned()]));
    assert!(engine.model().peer("c").is_err() && engine.model().peer("b").is_ok());
    assert!(peers_agree(&engine));
    kept(&engine, &disk);
    // What cannot be read changes nothing.
    std::fs::write(&path, "nonsense").unwrap();
    ask(&mut engine, Request::RenewKey).unwrap_err();
    assert_eq!(engine.plane.key, Some(second));
}
