use std::collections::BTreeSet;

use super::engine_tests::{ask, connect, invite, network, node, overlay, publish, service, up};
use super::plane_fake::World;
use super::proto::{Reply, Request};
use super::store::faulty::Disk;
use crate::config::Code;

/// A user's hour.
fn script() -> Vec<Request> {
    vec![
        network("web"),
        connect("web", 1, "db"),
        network("back"),
        connect("back", 1, "db"),
        connect("web", 2, "app"),
        publish("db", "*:80"),
        service("www", "app"),
        Request::Disconnect("web".into(), "app".into()),
        connect("web", 3, "late"),
        Request::Disconnect("back".into(), "db".into()),
        Request::RemoveNetwork("back".into()),
        overlay("over", &[]),
        overlay("plain", &["carrier=vxlan"]),
        invite("b"),
        node("c", "192.0.2.3"),
        Request::RemoveNetwork("plain".into()),
        Request::RemovePeer("b".into()),
    ]
}

#[test]
fn everything_is_as_it_was_after_a_death_at_every_write() {
    let world = || {
        let world = World::new();
        for pid in 1..=3 {
            world
                .borrow_mut()
                .start(pid, 100, u64::try_from(pid).unwrap());
        }
        world
    };
    let disk = Disk::default();
    let mut engine = up(&world(), &disk).unwrap();
    let begin = disk.count();
    for request in script() {
        ask(&mut engine, request).unwrap();
    }
    let end = disk.count();
    for at in 1..=end {
        let world = world();
        let disk = Disk::default();
        disk.fail_at(at, at % 2 == 0);
        let mut answered = None;
        if let Some(mut engine) = up(&world, &disk) {
            let mut last = engine.model().clone();
            for request in script() {
                if ask(&mut engine, request).is_err() {
                    break;
                }
                last = engine.model().clone();
            }
            answered = Some(last);
            // The plane goes as a killed process goes: without a word to the sandboxes.
        }
        let Some(engine) = up(&world, &disk.reborn()) else {
            assert!(
                at <= begin,
                "a store that was in use cannot be opened after write {at}"
            );
            continue;
        };
        let model = engine.model();
        if let Some(before) = answered {
            // Everything answered is there, as it was; the request under way may be there or not.
            let gone = before
                .endpoints
                .keys()
                .filter(|id| !model.endpoints.contains_key(id))
                .count();
            let more = model
                .endpoints
                .keys()
                .filter(|id| !before.endpoints.contains_key(id))
                .count();
            assert!(gone + more <= 1, "write {at}");
            for (id, record) in before.endpoints.iter() {
                let now = model.endpoints.get(id);
                assert!(now.is_none_or(|n| n.spec.v4 == record.spec.v4
                    && n.spec.mac == record.spec.mac
                    && n.spec.ifname == record.spec.ifname));
            }
            assert!(
                model
                    .counters
                    .next
                    .iter()
                    .zip(before.counters.next)
                    .all(|(now, then)| *now >= then)
            );
        }
        // No address twice, no interface that nobody knows, none missing.
        let addresses: BTreeSet<_> = model
            .endpoints
            .values()
            .map(|e| (e.spec.network, e.spec.v4))
            .collect();
        assert_eq!(addresses.len(), model.endpoints.len());
        let known: BTreeSet<_> = model
            .endpoints
            .values()
            .map(|e| (e.spec.sandbox.netns.1, e.spec.ifname.clone()))
            .collect();
        let there: BTreeSet<_> = world.borrow().interfaces.keys().cloned().collect();
        assert_eq!(there, known, "write {at}");
        assert_eq!(engine.plane.endpoints.len(), model.endpoints.len());
        assert_eq!(engine.plane.networks.len(), model.networks.len());
        assert_eq!(engine.plane.publishes.len(), model.publishes.len());
        assert_eq!(engine.plane.services.len(), model.services.len());
        let peers = model.peers.values().map(|p| model.peer_spec(p));
        assert!(peers.eq(engine.plane.peers.values().cloned()), "write {at}");
    }
}

#[test]
fn interfaces_are_taken_over_and_the_dead_forgotten() {
    let world = World::new();
    for pid in 1..=3 {
        world
            .borrow_mut()
            .start(pid, 100, u64::try_from(pid).unwrap());
    }
    let disk = Disk::default();
    let mut engine = up(&world, &disk).unwrap();
    for request in script() {
        ask(&mut engine, request).unwrap();
    }
    ask(&mut engine, publish("late", "9000-9002")).unwrap();
    let before = engine.model().clone();
    drop(engine);
    world.borrow_mut().taken.insert(9001);
    let mut engine = up(&world, &disk.reborn()).unwrap();
    assert_eq!(engine.model(), &before);
    assert!(engine.plane.log.iter().any(|l| l == "adopt 1"));
    assert!(!engine.plane.log.iter().any(|l| l.starts_with("attach")));
    let Ok(Reply::Publishes(rules)) = ask(&mut engine, Request::Publishes) else {
        panic!("no rules");
    };
    assert_eq!(rules[0].rule, "40000:80/tcp");
    assert_eq!(rules[1].failed.len(), 1);
    let Ok(Reply::Info(info)) = ask(&mut engine, Request::Info) else {
        panic!("no info");
    };
    assert_eq!(info.notes.len(), 1, "{:?}", info.notes);
    drop(engine);
    // Another process has the number now.
    world.borrow_mut().end(1);
    world.borrow_mut().start(1, 200, 77);
    // This one lost its interface only.
    world
        .borrow_mut()
        .interfaces
        .retain(|(inode, _), _| *inode != 3);
    let disk = disk.reborn();
    let mut engine = up(&world, &disk).unwrap();
    let names: Vec<_> = engine
        .model()
        .endpoints
        .values()
        .map(|e| e.name.clone())
        .collect();
    assert_eq!(names, ["late"]);
    assert!(engine.plane.log.iter().any(|l| l.starts_with("attach")));
    assert!(
        world
            .borrow()
            .interfaces
            .keys()
            .all(|(inode, _)| *inode == 3)
    );
    let refused = ask(&mut engine, Request::Endpoint("web".into(), "db".into()));
    assert_eq!(refused.unwrap_err().code, Code::UnknownEndpoint);
    // And the number may be connected as what it is now.
    ask(&mut engine, connect("web", 1, "db")).unwrap();
}

#[test]
fn what_cannot_come_back_is_down_and_not_lost() {
    let world = World::new();
    world.borrow_mut().start(1, 100, 1);
    let disk = Disk::default();
    let mut engine = up(&world, &disk).unwrap();
    for request in [network("web"), connect("web", 1, "db"), publish("db", "80")] {
        ask(&mut engine, request).unwrap();
    }
    let before = engine.model().clone();
    engine.shut_down().unwrap();
    assert!(
        world.borrow().interfaces.is_empty(),
        "a clean stop leaves nothing behind"
    );
    drop(engine);
    // Someone else has put an interface of that name there meanwhile.
    world
        .borrow_mut()
        .interfaces
        .insert((1, "eth0".into()), super::ids::EndpointId(99));
    let mut engine = up(&world, &disk.reborn()).unwrap();
    assert_eq!(engine.model(), &before);
    let Ok(Reply::Endpoint(db)) = ask(&mut engine, Request::Endpoint("web".into(), "db".into()))
    else {
        panic!("no endpoint");
    };
    assert!(db.down.unwrap().contains("eth0"));
    ask(&mut engine, Request::Disconnect("web".into(), "db".into())).unwrap();
    assert!(engine.model().publishes.is_empty());
}

#[test]
fn after_a_boot_processes_are_gone_and_files_are_looked_up() {
    let world = World::new();
    world.borrow_mut().start(1, 100, 1);
    let disk = Disk::default();
    let mut engine = up(&world, &disk).unwrap();
    ask(&mut engine, network("web")).unwrap();
    ask(&mut engine, connect("web", 1, "db")).unwrap();
    drop(engine);
    let rebooted = World::new();
    rebooted.borrow_mut().boot = "boot-2".into();
    rebooted.borrow_mut().start(1, 100, 2);
    let engine = up(&rebooted, &disk.reborn()).unwrap();
    assert!(engine.model().endpoints.is_empty());
    assert_eq!(engine.model().counters.boot, "boot-2");
    assert_eq!(engine.model().networks.len(), 1);
}
