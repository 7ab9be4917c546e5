use std::cell::RefCell;
use std::rc::Rc;

use tokio::sync::oneshot;

use super::engine::{Engine, Job};
use super::identity::Identity;
use super::ids::EndpointId;
use super::model::Model;
use super::plan::Facts;
use super::plane::PlaneEvent;
use super::plane_fake::{FakePlane, World};
use super::proto::{Reply, Request, Scope, Show};
use super::spec::{Carrier, Driver};
use super::store::faulty::Disk;
use super::store::{Store, open_backend};
use crate::config::topology::TopologyFile;
use crate::config::wish::{
    EndpointWish, InviteWish, NetworkWish, PeerWish, PolicyWish, PublishWish, ServiceWish,
};
use crate::config::{Code, Problem};

pub(super) fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

/// A daemon that comes up in a world, on a disk. `None` when the disk fails.
pub(super) fn up(world: &Rc<RefCell<World>>, disk: &Disk) -> Option<Engine<FakePlane>> {
    let (database, model) = open_backend(disk.clone()).ok()?;
    let again = disk.clone();
    let store = Store::start(database, move || Ok(open_backend(again.clone())?.0)).unwrap();
    let facts = Facts {
        descriptors: 20_000,
        host: "here".to_owned(),
        ..Facts::default()
    };
    let plane = FakePlane::new(world);
    block(Engine::restore(
        plane,
        store,
        model,
        facts,
        Identity::default(),
    ))
    .ok()
}

/// Asks several things at once.
pub(super) fn ask_all(
    engine: &mut Engine<FakePlane>,
    requests: Vec<Request>,
) -> Vec<Result<Reply, Problem>> {
    let (jobs, answers): (Vec<_>, Vec<_>) = requests
        .into_iter()
        .map(|request| {
            let (answer, wait) = oneshot::channel();
            (Job { request, answer }, wait)
        })
        .unzip();
    block(engine.handle(jobs));
    answers
        .into_iter()
        .map(|wait| block(wait).unwrap())
        .collect()
}

pub(super) fn ask(engine: &mut Engine<FakePlane>, request: Request) -> Result<Reply, Problem> {
    ask_all(engine, vec![request]).pop().unwrap()
}

pub(super) fn network(name: &str) -> Request {
    Request::CreateNetwork(NetworkWish {
        name: name.to_owned(),
        ..NetworkWish::default()
    })
}

pub(super) fn connect(network: &str, pid: i32, name: &str) -> Request {
    Request::Connect(Box::new(EndpointWish {
        network: network.to_owned(),
        sandbox: pid.to_string(),
        name: Some(name.to_owned()),
        ..EndpointWish::default()
    }))
}

pub(super) fn publish(sandbox: &str, port: &str) -> Request {
    Request::Publish(PublishWish {
        sandbox: sandbox.to_owned(),
        network: None,
        ports: vec![port.to_owned()],
    })
}

pub(super) fn service(name: &str, backend: &str) -> Request {
    Request::CreateService(
        ServiceWish {
            name: name.to_owned(),
            network: "web".to_owned(),
            ports: vec!["80".to_owned()],
            backends: vec![backend.to_owned()],
            ..ServiceWish::default()
        },
        false,
    )
}

pub(super) fn overlay(name: &str, opt: &[&str]) -> Request {
    Request::CreateNetwork(NetworkWish {
        name: name.to_owned(),
        driver: Some(Driver::Overlay),
        opt: opt.iter().map(|o| (*o).to_owned()).collect(),
        ..NetworkWish::default()
    })
}

pub(super) fn invite(name: &str) -> Request {
    Request::Invite(InviteWish {
        name: Some(name.to_owned()),
        ..InviteWish::default()
    })
}

/// A VXLAN node that is on every such network.
pub(super) fn node(name: &str, endpoint: &str) -> Request {
    Request::AddPeer(PeerWish {
        name: name.to_owned(),
        carrier: Some(Carrier::Vxlan),
        endpoint: Some(endpoint.to_owned()),
        ..PeerWish::default()
    })
}

pub(super) fn setting(pid: i32) -> (Rc<RefCell<World>>, Disk, Engine<FakePlane>) {
    let world = World::new();
    for p in 1..=pid {
        world.borrow_mut().start(p, 100, u64::try_from(p).unwrap());
    }
    let disk = Disk::default();
    let engine = up(&world, &disk).unwrap();
    (world, disk, engine)
}

/// Everything that the data plane holds.
fn state(plane: &FakePlane) -> String {
    let (networks, endpoints) = (&plane.networks, &plane.endpoints);
    let rest = (
        &plane.publishes,
        &plane.services,
        &plane.names,
        &plane.policies,
        &plane.peers,
    );
    format!("{networks:?} {endpoints:?} {rest:?}")
}

fn code(result: Result<Reply, Problem>) -> Code {
    result.unwrap_err().code
}

/// What the disk holds is what is in force, whenever an answer is out.
pub(super) fn kept(engine: &Engine<FakePlane>, disk: &Disk) {
    let (_, stored) = open_backend(disk.reborn()).unwrap();
    assert_eq!(&stored, engine.model());
}

#[test]
fn a_network_with_everything_on_it() {
    let (_, disk, mut engine) = setting(2);
    let policy = PolicyWish {
        isolated: true,
        ..PolicyWish::default()
    };
    let scope = Scope::Endpoint("web".into(), "db".into());
    for request in [
        network("web"),
        connect("web", 1, "db"),
        connect("web", 2, "app"),
        publish("db", "8080:80"),
        service("www", "db"),
        Request::SetPolicy(scope.clone(), Some(policy)),
    ] {
        ask(&mut engine, request).unwrap();
        kept(&engine, &disk);
    }
    let plane = &engine.plane;
    assert_eq!(
        (
            plane.networks.len(),
            plane.endpoints.len(),
            plane.names.len()
        ),
        (1, 2, 3)
    );
    assert_eq!(plane.services.values().next().unwrap().backends.len(), 1);
    assert!(plane.policies.values().next().unwrap().isolated);
    let Ok(Reply::Macs(rows)) = ask(&mut engine, Request::Show(Show::Macs(None))) else {
        panic!("no MACs");
    };
    assert_eq!(
        (rows[0].network_name.as_str(), rows[0].sandbox_name.as_str()),
        ("web", "db")
    );
    assert_eq!(
        code(ask(&mut engine, Request::RemoveNetwork("web".into()))),
        Code::NetworkInUse
    );
    for request in [
        Request::SetPolicy(scope, None),
        Request::Disconnect("web".into(), "db".into()),
        Request::RemoveService("web".into(), "www".into()),
        Request::Disconnect("web".into(), "app".into()),
        Request::RemoveNetwork("web".into()),
    ] {
        ask(&mut engine, request).unwrap();
        kept(&engine, &disk);
    }
    let plane = &engine.plane;
    assert!(plane.networks.is_empty() && plane.services.is_empty() && plane.publishes.is_empty());
    assert!(plane.names.is_empty() && plane.policies.is_empty());
}

#[test]
fn what_the_data_plane_refuses_leaves_no_trace() {
    let (world, disk, mut engine) = setting(2);
    ask(&mut engine, network("web")).unwrap();
    ask(&mut engine, connect("web", 1, "db")).unwrap();
    world.borrow_mut().taken.insert(8081);
    let wish = EndpointWish {
        network: "web".into(),
        sandbox: "2".into(),
        name: Some("app".into()),
        policy: Some(PolicyWish::default()),
        ..EndpointWish::default()
    };
    let text = "[[network]]\nname = 'plain'\ndriver = 'overlay'\nopt = ['carrier=vxlan']\n\
        [[peer]]\nname = 'c'\ncarrier = 'vxlan'\nendpoint = '192.0.2.3'\n";
    let file = TopologyFile::parse(text.to_owned(), "f".to_owned()).unwrap();
    let file = file.topology;
    for (refuse, request) in [
        ("add-network", network("back")),
        ("attach", connect("web", 2, "app")),
        ("names", connect("web", 2, "app")),
        ("policy", Request::Connect(Box::new(wish))),
        ("publish", publish("db", "80")),
        ("service", service("www", "db")),
        ("names", service("www", "db")),
        ("-", publish("db", "8080-8082")),
        ("key", overlay("over", &[])),
        ("add-network", overlay("over", &["carrier=vxlan"])),
        ("peer", node("c", "192.0.2.3")),
        ("peer", Request::Apply(Box::new(file), false)),
    ] {
        let before = engine.model().clone();
        let planes = state(&engine.plane);
        let interfaces = world.borrow().interfaces.clone();
        engine.plane.refuse = Some(refuse.to_owned());
        let wanted = if refuse == "-" {
            Code::PortTaken
        } else {
            Code::Refused
        };
        assert_eq!(code(ask(&mut engine, request)), wanted, "{refuse}");
        engine.plane.refuse = None;
        let after = Model {
            counters: before.counters.clone(),
            ..engine.model().clone()
        };
        assert_eq!(after, before, "{refuse}");
        let now = state(&engine.plane);
        assert_eq!(now, planes, "{refuse}");
        assert_eq!(world.borrow().interfaces, interfaces);
        kept(&engine, &disk);
    }
}

#[test]
fn many_requests_are_one_transaction() {
    let (_, disk, mut engine) = setting(50);
    ask(&mut engine, network("web")).unwrap();
    let before = disk.count();
    let all = (1..=50).map(|pid| connect("web", pid, &format!("s{pid}")));
    let answers = ask_all(&mut engine, all.collect());
    assert!(answers.iter().all(Result::is_ok));
    let together = disk.count() - before;
    kept(&engine, &disk);
    let before = disk.count();
    ask(&mut engine, Request::Disconnect("web".into(), "s1".into())).unwrap();
    let one = disk.count() - before;
    assert!(
        together < 20 * one,
        "{together} writes for 50, {one} for one"
    );
}

#[test]
fn a_refusal_spares_those_beside_it() {
    let (world, disk, mut engine) = setting(4);
    world.borrow_mut().taken.insert(81);
    let answers = ask_all(
        &mut engine,
        vec![
            network("web"),
            connect("web", 1, "a"),
            publish("a", "81"),
            connect("web", 2, "b"),
            connect("web", 9, "ghost"),
            publish("b", "82"),
            Request::Networks,
            network("web"),
        ],
    );
    let codes: Vec<_> = answers
        .iter()
        .map(|a| a.as_ref().err().map(|p| p.code))
        .collect();
    assert_eq!(
        codes,
        [
            None,
            None,
            Some(Code::PortTaken),
            None,
            Some(Code::SandboxGone),
            None,
            None,
            Some(Code::NameTaken)
        ]
    );
    let Ok(Reply::Networks(list)) = &answers[6] else {
        panic!("no networks");
    };
    assert_eq!(list[0].endpoints, ["a", "b"]);
    kept(&engine, &disk);
}

#[test]
fn a_dead_disk_changes_nothing() {
    let (world, disk, mut engine) = setting(1);
    ask(&mut engine, network("web")).unwrap();
    disk.fail_at(1, false);
    let before = engine.model().clone();
    assert_eq!(code(ask(&mut engine, connect("web", 1, "db"))), Code::Store);
    assert_eq!(engine.model(), &before);
    assert!(world.borrow().interfaces.is_empty());
}

#[test]
fn the_end_of_a_sandbox_is_written_down() {
    let (world, disk, mut engine) = setting(2);
    ask(&mut engine, network("web")).unwrap();
    ask(&mut engine, connect("web", 1, "db")).unwrap();
    ask(&mut engine, connect("web", 2, "app")).unwrap();
    ask(&mut engine, publish("db", "80")).unwrap();
    ask(&mut engine, service("www", "db")).unwrap();
    world.borrow_mut().end(1);
    engine.plane.tell(PlaneEvent::SandboxGone(EndpointId(1)));
    engine.plane.tell(PlaneEvent::LinkLost(EndpointId(2)));
    block(engine.events()).unwrap();
    assert!(engine.plane.publishes.is_empty());
    assert!(
        engine
            .plane
            .services
            .values()
            .all(|s| s.backends.is_empty())
    );
    kept(&engine, &disk);
    let Ok(Reply::Services(services)) = ask(&mut engine, Request::Services(None)) else {
        panic!("no services");
    };
    assert_eq!(services[0].absent, ["db"]);
    let Ok(Reply::Endpoint(app)) = ask(&mut engine, Request::Endpoint("web".into(), "app".into()))
    else {
        panic!("no endpoint");
    };
    assert!(app.down.is_some());
    // Who comes back under the name serves again.
    world.borrow_mut().start(3, 7, 3);
    ask(&mut engine, connect("web", 3, "db")).unwrap();
    assert!(
        engine
            .plane
            .services
            .values()
            .all(|s| s.backends.len() == 1)
    );
    engine.plane.tell(PlaneEvent::Ended("so".into()));
    assert_eq!(block(engine.events()).unwrap_err().code, Code::Ending);
}

#[test]
fn a_port_that_the_host_chose_is_written_down() {
    let (_, disk, mut engine) = setting(1);
    ask(&mut engine, network("web")).unwrap();
    ask(&mut engine, connect("web", 1, "db")).unwrap();
    let Ok(Reply::Publishes(rules)) = ask(&mut engine, publish("db", "*:80")) else {
        panic!("no rules");
    };
    assert_eq!(rules[0].rule, "40000:80/tcp");
    kept(&engine, &disk);
}

#[test]
fn a_file_is_all_or_nothing() {
    let (_, disk, mut engine) = setting(2);
    let file = |text: &str| {
        let file = TopologyFile::parse(text.to_owned(), "f".to_owned()).unwrap();
        Box::new(file.topology)
    };
    let first = "[[network]]\nname = 'web'\n[[endpoint]]\nnetwork = 'web'\nsandbox = '1'\nname = 'db'\n[[publish]]\nsandbox = 'db'\nports = ['80']\n";
    let Ok(Reply::Applied(told)) = ask(&mut engine, Request::Apply(file(first), true)) else {
        panic!("no difference");
    };
    assert_eq!(told.changes.len(), 3);
    assert!(engine.model().networks.is_empty());
    ask(&mut engine, Request::Apply(file(first), false)).unwrap();
    kept(&engine, &disk);
    let second = first.replace("['80']", "['81']")
        + "[[endpoint]]\nnetwork = 'web'\nsandbox = '2'\nname = 'app'\n[[service]]\nname = 'www'\nnetwork = 'web'\nports = ['80']\nbackends = ['app']\n";
    let before = engine.model().clone();
    engine.plane.refuse = Some("service".into());
    assert_eq!(
        code(ask(&mut engine, Request::Apply(file(&second), false))),
        Code::Refused
    );
    engine.plane.refuse = None;
    let after = Model {
        counters: before.counters.clone(),
        ..engine.model().clone()
    };
    assert_eq!(after, before);
    assert_eq!(engine.plane.endpoints.len(), 1);
    assert_eq!(
        engine
            .plane
            .publishes
            .values()
            .next()
            .unwrap()
            .rule
            .to_string(),
        "80:80/tcp"
    );
    kept(&engine, &disk);
    ask(&mut engine, Request::Apply(file(&second), false)).unwrap();
    let Ok(Reply::Applied(told)) = ask(&mut engine, Request::Apply(file(&second), false)) else {
        panic!("no difference");
    };
    assert!(told.changes.is_empty());
}
