use super::engine::Engine;
use super::engine_tests::{ask, block, invite, kept, node, overlay, setting, up};
use super::key::StaticKey;
use super::plane::PlaneEvent;
use super::plane_fake::FakePlane;
use super::proto::Request;

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
    let key = |n| *StaticKey::new([n; 32]).unwrap().public();
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
