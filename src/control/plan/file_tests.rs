//! Files: what they change, and where they are refused.

use super::tests::{facts, make, sandbox};
use super::*;
use crate::config::topology::{Topology, TopologyFile};
use crate::config::wish::EndpointWish;
use crate::control::model::Model;

const FILE: &str = "\
[[network]]
name = 'web'
[[endpoint]]
network = 'web'
sandbox = '1'
name = 'db'
[[publish]]
sandbox = 'db'
ports = ['5432', '5433:5433']
[[service]]
name = 'www'
network = 'web'
ports = ['80']
backends = ['db']
";

fn read(text: &str) -> Topology {
    TopologyFile::parse(text.to_owned(), "f".to_owned())
        .unwrap()
        .topology
}

fn apply_text(model: &mut Model, text: &str) -> Result<Vec<String>, Problem> {
    let mut identify = |_: &Model, wish: &EndpointWish| Ok(sandbox(wish.sandbox.parse().unwrap()));
    let changes = apply(model, &facts(), &read(text), &mut identify, &mut Vec::new())?;
    Ok(changes
        .iter()
        .map(|c| format!("{} {} {}", c.action, c.kind, c.name))
        .collect())
}

#[test]
fn a_file_changes_only_the_difference() {
    let mut model = Model::default();
    make(&mut model, "hand", "");
    let all = apply_text(&mut model, FILE).unwrap();
    assert_eq!(
        all,
        [
            "add network web",
            "add endpoint db on web",
            "add publish 5432:5432/tcp to db",
            "add publish 5433:5433/tcp to db",
            "add service www"
        ]
    );
    let before = model.clone();
    assert!(apply_text(&mut model, FILE).unwrap().is_empty());
    assert_eq!(model, before);
    let less = FILE
        .replace(", '5433:5433'", "")
        .replace("name = 'web'\n", "name = 'web'\nmtu = 1400\n");
    assert_eq!(
        apply_text(&mut model, &less).unwrap(),
        ["change network web", "remove publish 5433:5433/tcp to db"]
    );
    assert_eq!(
        model.network("web").unwrap().spec.v4,
        before.network("web").unwrap().spec.v4
    );
    let moved = less.replace("mtu", "subnet = '10.7.0.0/16'\nmtu");
    assert_eq!(
        apply_text(&mut model.clone(), &moved).unwrap_err().code,
        Code::NetworkInUse
    );
    let gone = apply_text(&mut model, "").unwrap();
    assert_eq!(gone.len(), 4, "{gone:?}");
    assert!(model.network("hand").is_ok());
}

#[test]
fn a_file_is_refused_at_its_place() {
    let mut model = Model::default();
    for (text, field) in [
        (FILE.replace("'5433:5433'", "'5432:1'"), "publish.0.ports.1"),
        (FILE.replace("['db']", "['dbb']"), "service.0.backends.0"),
        (
            FILE.replace("name = 'db'", "name = 'db'\nip = '1.2.3.4'"),
            "endpoint.0.ip",
        ),
        (
            FILE.replace("name = 'web'\n", "name = 'web'\nsubnet = '127.0.0.0/8'\n"),
            "network.0.subnet",
        ),
    ] {
        let problem = apply_text(&mut model.clone(), &text).unwrap_err();
        assert_eq!(problem.field.as_deref(), Some(field), "{problem}");
    }
    model = Model::default();
    let mut many = read(FILE);
    many.daemon.workers = Some(9);
    let refused = apply(
        &mut model.clone(),
        &facts(),
        &many,
        &mut |_, _| Ok(sandbox(1)),
        &mut Vec::new(),
    );
    assert_eq!(
        refused.unwrap_err().field.as_deref(),
        Some("daemon.workers")
    );
    assert!(apply_text(&mut model, FILE).is_ok());
}

#[test]
fn what_is_twice_in_a_file_is_refused() {
    let network = "[[network]]\nname = 'web'\n";
    let endpoint = "[[endpoint]]\nnetwork = 'web'\nsandbox = '2'\n";
    let publish = "[[publish]]\nsandbox = 'db'\nports = ['1:2', '5432']\n";
    let service = "[[service]]\nname = 'www'\nnetwork = 'web'\nports = ['81']\nbackends = []\n";
    for (again, code, field) in [
        (network.to_owned(), Code::NameTaken, "network.1.name"),
        (
            format!("{network}mtu = 1400\n"),
            Code::NameTaken,
            "network.1.name",
        ),
        (
            endpoint.replace('2', "1"),
            Code::Connected,
            "endpoint.1.network",
        ),
        (
            format!("{endpoint}{endpoint}"),
            Code::Connected,
            "endpoint.2.network",
        ),
        (
            format!("{endpoint}{endpoint}ip = '10.0.0.9'\n"),
            Code::Connected,
            "endpoint.2.network",
        ),
        (publish.to_owned(), Code::PortTaken, "publish.1.ports.1"),
        (service.to_owned(), Code::NameTaken, "service.1.name"),
    ] {
        let text = format!("{FILE}{again}");
        // In a model that is empty, and in one that an earlier file has made.
        let mut made = Model::default();
        apply_text(&mut made, FILE).unwrap();
        for mut model in [Model::default(), made] {
            let problem = apply_text(&mut model, &text).unwrap_err();
            assert_eq!(
                (problem.code, problem.field.as_deref()),
                (code, Some(field)),
                "{again}"
            );
        }
    }
}
