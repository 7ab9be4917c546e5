use std::path::PathBuf;

use super::*;
use crate::config::wish::{EndpointWish, NetworkWish, PublishWish, ServiceWish};
use crate::control::ids::EndpointId;
use crate::control::model::{Model, Origin};
use crate::control::spec::{Sandbox, SandboxRef};

pub(super) fn facts() -> Facts {
    Facts {
        routes: vec![([10, 91, 0, 0].into(), 24)],
        descriptors: 20_000,
        ..Facts::default()
    }
}

pub(super) fn make(model: &mut Model, name: &str, subnet: &str) {
    let wish = NetworkWish {
        name: name.to_owned(),
        subnet: (!subnet.is_empty()).then(|| subnet.to_owned()),
        ..NetworkWish::default()
    };
    create(model, &facts(), &wish, Origin::Command, &mut Vec::new()).unwrap();
}

pub(super) fn sandbox(pid: i32) -> Sandbox {
    Sandbox {
        at: SandboxRef::Pid(pid),
        start_time: Some(1),
        netns: (4, u64::try_from(pid).unwrap()),
    }
}

fn wish(network: &str, name: &str) -> EndpointWish {
    EndpointWish {
        network: network.to_owned(),
        sandbox: "1".to_owned(),
        name: Some(name.to_owned()),
        ..EndpointWish::default()
    }
}

fn join(model: &mut Model, pid: i32, wish: &EndpointWish) -> Result<EndpointId, Code> {
    let before = model.clone();
    connect(model, wish, &sandbox(pid), Origin::Command).map_err(|p| {
        *model = before;
        p.code
    })
}

#[test]
fn networks_have_what_nobody_else_has() {
    let mut model = Model::default();
    make(&mut model, "a", "");
    make(&mut model, "b", "");
    let a = &model.network("a").unwrap().spec;
    let b = &model.network("b").unwrap().spec;
    assert_eq!(a.v4.unwrap().network.to_string(), "10.91.1.0");
    assert_eq!(b.v4.unwrap().network.to_string(), "10.91.2.0");
    assert_ne!(a.v6, b.v6);
    assert_ne!(a.gateway_mac, b.gateway_mac);
    assert_ne!(a.id, b.id);
}

#[test]
fn networks_that_are_refused() {
    let mut model = Model::default();
    make(&mut model, "web", "172.18.0.0/16");
    let base = || NetworkWish {
        name: "new".to_owned(),
        ..NetworkWish::default()
    };
    let some = |s: &str| Some(s.to_owned());
    let many = |s: &str| vec![s.to_owned()];
    #[rustfmt::skip]
    let cases = [
        (NetworkWish { name: "web".into(), ..base() }, Code::NameTaken, "name"),
        (NetworkWish { name: "".into(), ..base() }, Code::BadName, "name"),
        (NetworkWish { name: "host".into(), ..base() }, Code::BadName, "name"),
        (NetworkWish { name: "a b".into(), ..base() }, Code::BadName, "name"),
        (NetworkWish { name: "17".into(), ..base() }, Code::BadName, "name"),
        (NetworkWish { name: "x".repeat(64), ..base() }, Code::BadName, "name"),
        (NetworkWish { subnet: some("172.18.4.0/24"), ..base() }, Code::SubnetOverlap, "subnet"),
        (NetworkWish { gateway: some("10.0.0.1"), ..base() }, Code::BadOption, "gateway"),
        (NetworkWish { ip_range: some("10.0.0.0/24"), ..base() }, Code::BadOption, "ip-range"),
        (NetworkWish { mtu: Some(67), ..base() }, Code::BadOption, "mtu"),
        (NetworkWish { mtu: Some(1000), ipv6: Some(true), ..base() }, Code::BadOption, "mtu"),
        (NetworkWish { subnet6: some("fd00::/64"), ipv6: Some(false), ..base() }, Code::BadOption, "subnet6"),
        (NetworkWish { uplink: some("packet:"), ..base() }, Code::BadOption, "uplink"),
        (NetworkWish { uplink: some("wifi"), ..base() }, Code::BadOption, "uplink"),
        (NetworkWish { uplink: some("sockets"), internal: true, ..base() }, Code::BadOption, "uplink"),
        (NetworkWish { driver: Some(crate::control::spec::Driver::Macvlan), ..base() }, Code::BadOption, "uplink"),
        (NetworkWish { opt: many("colour=blue"), ..base() }, Code::BadOption, "opt"),
        (NetworkWish { opt: many("ageing=1"), ..base() }, Code::BadOption, "opt"),
        (NetworkWish { opt: many("snooping=perhaps"), ..base() }, Code::BadOption, "opt"),
        (NetworkWish { opt: many("querier=1"), ..base() }, Code::BadOption, "opt"),
        (NetworkWish { opt: many("icc"), ..base() }, Code::BadOption, "opt"),
        (NetworkWish { dns: many("dns.example"), ..base() }, Code::BadAddress, "dns"),
        (NetworkWish { dns_search: many("a..b"), ..base() }, Code::BadName, "dns-search"),
        (NetworkWish { host_loopback: many("127.0.0.1"), ..base() }, Code::BadAddress, "host-loopback"),
        (NetworkWish { host_loopback: vec!["10.0.0.1".into(), "10.0.0.2".into()], ..base() }, Code::BadAddress, "host-loopback"),
    ];
    for (wish, code, field) in cases {
        let mut copy = model.clone();
        let asked = create(&mut copy, &facts(), &wish, Origin::Command, &mut Vec::new());
        let problem = asked.unwrap_err();
        assert_eq!(
            (problem.code, problem.field.as_deref()),
            (code, Some(field)),
            "{wish:?}"
        );
        assert!(!problem.message.contains('\n'));
    }
}

#[test]
fn a_network_in_use_stays() {
    let mut model = Model::default();
    make(&mut model, "web", "172.18.0.0/16");
    make(&mut model, "idle", "");
    join(&mut model, 1, &wish("web", "db")).unwrap();
    let problem = remove(&mut model, "web").unwrap_err();
    assert_eq!(problem.code, Code::NetworkInUse);
    assert!(problem.message.contains("db"), "{problem}");
    assert_eq!(prune(&mut model), ["idle"]);
    disconnect(&mut model, "web", "db").unwrap();
    remove(&mut model, "web").unwrap();
    assert_eq!(
        remove(&mut model, "web").unwrap_err().code,
        Code::UnknownNetwork
    );
}

#[test]
fn endpoints_that_are_refused() {
    let mut model = Model::default();
    make(&mut model, "web", "172.18.0.0/16");
    make(&mut model, "back", "172.19.0.0/16");
    let first = EndpointWish {
        ip: Some("172.18.0.10".into()),
        mac: Some("02:00:00:00:00:01".into()),
        aliases: vec!["sql".into()],
        ..wish("web", "db")
    };
    join(&mut model, 1, &first).unwrap();
    let service = ServiceWish {
        name: "www".into(),
        network: "web".into(),
        ports: vec!["80".into()],
        ..ServiceWish::default()
    };
    create_service(&mut model, &service, false, Origin::Command).unwrap();
    let two = || wish("web", "two");
    let some = |s: &str| Some(s.to_owned());
    #[rustfmt::skip]
    let cases = [
        (2, wish("nowhere", "x"), Code::UnknownNetwork),
        (2, wish("web", "db"), Code::NameTaken),
        (2, wish("back", "db"), Code::NameTaken),
        (2, wish("back", "DB"), Code::NameTaken),
        (2, wish("web", "WWW"), Code::NameTaken),
        (1, wish("back", "other"), Code::NameTaken),
        (1, wish("web", "db"), Code::Connected),
        (2, wish("web", "www"), Code::NameTaken),
        (2, wish("web", "a.b"), Code::BadName),
        (2, wish("web", "Gateway"), Code::BadName),
        (2, EndpointWish { hostname: some("localhost"), ..two() }, Code::BadName),
        (2, EndpointWish { aliases: vec!["x.localhost".into()], ..two() }, Code::BadName),
        (2, EndpointWish { ip: some("172.18.0.10"), ..two() }, Code::AddressTaken),
        (2, EndpointWish { ip: some("172.18.0.1"), ..two() }, Code::AddressTaken),
        (2, EndpointWish { ip: some("172.19.0.9"), ..two() }, Code::AddressOutside),
        (2, EndpointWish { ip: some("172.18.0.0"), ..two() }, Code::BadAddress),
        (2, EndpointWish { ip: some("ten"), ..two() }, Code::BadAddress),
        (2, EndpointWish { ip6: some("fd00::9"), ..two() }, Code::AddressOutside),
        (2, EndpointWish { mac: some("02:00:00:00:00:01"), ..two() }, Code::MacTaken),
        (2, EndpointWish { mac: some("ff:ff:ff:ff:ff:ff"), ..two() }, Code::BadMac),
        (2, EndpointWish { mac: some("02"), ..two() }, Code::BadMac),
        (2, EndpointWish { mtu: Some(9000), ..two() }, Code::BadOption),
        (2, EndpointWish { hostname: some("-"), ..two() }, Code::BadName),
        (2, EndpointWish { aliases: vec!["x".into(); 33], ..two() }, Code::BadOption),
        (2, EndpointWish { ifname: some("a/b"), ..two() }, Code::BadName),
        (1, EndpointWish { ifname: some("eth0"), ..wish("back", "db") }, Code::InterfaceExists),
        (2, EndpointWish { sysctls: vec!["ipv4/x=1".into()], ..two() }, Code::BadOption),
        (2, EndpointWish { vlan: Some(4095), ..two() }, Code::BadOption),
        (2, EndpointWish { native: Some(7), ..two() }, Code::BadOption),
        (2, EndpointWish { trunk: some("5-2"), ..two() }, Code::BadOption),
    ];
    for (pid, wish, code) in cases {
        let before = model.clone();
        assert_eq!(join(&mut model, pid, &wish), Err(code), "{wish:?}");
        assert_eq!(model, before);
    }
    let texts = [
        "",
        "pid:0",
        "99999999999",
        "netns:a/b",
        "netns:..",
        "netns:a\0",
        "ghost",
    ]
    .map(|t| parse_sandbox(&model, t).unwrap_err().code);
    assert_eq!(
        texts,
        [
            Code::BadSandbox,
            Code::BadSandbox,
            Code::BadSandbox,
            Code::BadSandbox,
            Code::BadSandbox,
            Code::BadSandbox,
            Code::UnknownSandbox
        ]
    );
    let at = |t: &str| parse_sandbox(&model, t).unwrap().0;
    assert_eq!(
        at("netns:blue"),
        SandboxRef::Netns(PathBuf::from("/run/netns/blue"))
    );
    assert_eq!(at("container:db"), SandboxRef::Pid(1));
    assert_eq!(at("77"), SandboxRef::Pid(77));
}

#[test]
fn a_pool_runs_full_and_no_address_is_given_twice() {
    let mut model = Model::default();
    make(&mut model, "tiny", "10.0.0.0/29");
    for pid in 1..=5 {
        join(&mut model, pid, &wish("tiny", &format!("s{pid}"))).unwrap();
    }
    assert_eq!(
        join(&mut model, 6, &wish("tiny", "s6")),
        Err(Code::PoolFull)
    );
    disconnect(&mut model, "tiny", "s2").unwrap();
    join(&mut model, 6, &wish("tiny", "s6")).unwrap();
    let mut all: Vec<_> = model
        .endpoints
        .values()
        .map(|e| (e.spec.v4, e.spec.v6))
        .collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 5);
}

#[test]
fn the_default_route_follows_priority() {
    let mut model = Model::default();
    make(&mut model, "web", "172.18.0.0/16");
    make(&mut model, "back", "172.19.0.0/16");
    let has =
        |model: &Model, network: &str| model.endpoint(network, "db").unwrap().spec.default_route;
    join(&mut model, 1, &wish("web", "db")).unwrap();
    join(
        &mut model,
        1,
        &EndpointWish {
            priority: Some(5),
            ..wish("back", "db")
        },
    )
    .unwrap();
    assert_eq!((has(&model, "web"), has(&model, "back")), (false, true));
    assert_eq!(model.endpoint("back", "db").unwrap().spec.ifname, "eth1");
    disconnect(&mut model, "back", "db").unwrap();
    assert!(has(&model, "web"));
}

#[test]
fn a_network_that_leads_nowhere_gives_no_default_route() {
    let mut model = Model::default();
    let quiet = NetworkWish {
        name: "quiet".to_owned(),
        subnet: Some("172.18.0.0/16".to_owned()),
        internal: true,
        ..NetworkWish::default()
    };
    create(
        &mut model,
        &facts(),
        &quiet,
        Origin::Command,
        &mut Vec::new(),
    )
    .unwrap();
    make(&mut model, "web", "172.19.0.0/16");
    let has =
        |model: &Model, network: &str| model.endpoint(network, "db").unwrap().spec.default_route;
    join(&mut model, 1, &wish("quiet", "db")).unwrap();
    assert!(!has(&model, "quiet"));
    join(&mut model, 1, &wish("web", "db")).unwrap();
    assert_eq!((has(&model, "quiet"), has(&model, "web")), (false, true));
}

#[test]
fn ports_lead_to_one_place() {
    let mut model = Model::default();
    make(&mut model, "web", "172.18.0.0/16");
    join(&mut model, 1, &wish("web", "db")).unwrap();
    let ports = |ports: &[&str], sandbox: &str| PublishWish {
        sandbox: sandbox.to_owned(),
        ports: ports.iter().map(|p| (*p).to_owned()).collect(),
        network: None,
    };
    let mut add = |wish: &PublishWish| {
        let mut copy = model.clone();
        let result = publish(&mut copy, &facts(), wish, Origin::Command);
        if result.is_ok() {
            model = copy;
        }
        result
            .map(|ids| ids.len())
            .map_err(|p| (p.code, p.field.unwrap_or_default()))
    };
    assert_eq!(
        add(&ports(&["8080:80", "20000-39999:10000-29999/udp"], "db")),
        Err((Code::Full, "ports".into()))
    );
    assert_eq!(
        add(&ports(&["8080:80", "20000-24999:10000-14999/udp"], "db")),
        Ok(2)
    );
    assert_eq!(add(&ports(&["*:90-92"], "db")), Ok(3));
    assert_eq!(
        add(&ports(&["81", "8000-9000"], "db")),
        Err((Code::PortTaken, "ports.1".into()))
    );
    assert_eq!(
        add(&ports(&["80:x"], "db")),
        Err((Code::BadPorts, "ports.0".into()))
    );
    assert_eq!(
        add(&ports(&[], "db")),
        Err((Code::BadPorts, "ports".into()))
    );
    assert_eq!(
        add(&ports(&["1"], "ghost")),
        Err((Code::UnknownSandbox, "sandbox".into()))
    );
    assert_eq!(
        unpublish(&mut model, crate::control::ids::PublishId(99))
            .unwrap_err()
            .code,
        Code::UnknownPublish
    );
    disconnect(&mut model, "web", "db").unwrap();
    assert!(model.publishes.is_empty());
}

#[test]
fn services_know_their_backends() {
    let mut model = Model::default();
    make(&mut model, "web", "172.18.0.0/16");
    join(&mut model, 1, &wish("web", "a")).unwrap();
    join(&mut model, 2, &wish("web", "b")).unwrap();
    let wish = |ports: &[&str], backends: &[&str]| ServiceWish {
        name: "www".into(),
        network: "web".into(),
        ports: ports.iter().map(|p| (*p).to_owned()).collect(),
        backends: backends.iter().map(|p| (*p).to_owned()).collect(),
        ..ServiceWish::default()
    };
    let id = create_service(
        &mut model,
        &wish(&["80:8080", "53/udp"], &["a", "b"]),
        false,
        Origin::Command,
    )
    .unwrap();
    let spec = |model: &Model| model.service_spec(&model.services[&id]);
    let first = spec(&model);
    assert_eq!(first.backends.len(), 2);
    assert_eq!((first.ports[0].port, first.ports[0].target), (80, 8080));
    disconnect(&mut model, "web", "a").unwrap();
    assert_eq!(spec(&model).backends.len(), 1);
    let again = create_service(&mut model, &wish(&["81"], &["b"]), true, Origin::Command).unwrap();
    assert_eq!((again, spec(&model).v4), (id, first.v4));
    for (wish, code) in [
        (wish(&["81"], &["b"]), Code::NameTaken),
        (
            ServiceWish {
                name: wish(&[], &[]).name.to_ascii_uppercase(),
                ..wish(&["81"], &[])
            },
            Code::NameTaken,
        ),
        (
            ServiceWish {
                name: "B".into(),
                ..wish(&["81"], &[])
            },
            Code::NameTaken,
        ),
        (
            ServiceWish {
                name: "x".into(),
                ..wish(&["81", "81:1"], &[])
            },
            Code::BadPorts,
        ),
        (
            ServiceWish {
                name: "x".into(),
                ..wish(&["1-2"], &[])
            },
            Code::BadPorts,
        ),
        (
            ServiceWish {
                name: "x".into(),
                ..wish(&[], &[])
            },
            Code::BadPorts,
        ),
        (
            ServiceWish {
                name: "x".into(),
                ..wish(&["1"], &["ghost"])
            },
            Code::UnknownEndpoint,
        ),
    ] {
        let mut copy = model.clone();
        let refused = create_service(&mut copy, &wish, false, Origin::Command);
        assert_eq!(refused.unwrap_err().code, code, "{wish:?}");
    }
}

#[test]
fn nobody_has_the_mac_by_which_other_hosts_know_a_service() {
    let mut model = Model::default();
    make(&mut model, "web", "172.18.0.0/16");
    let wished = |name: &str, ip: &str| ServiceWish {
        name: name.into(),
        network: "web".into(),
        ip: Some(ip.into()),
        ports: vec!["80".into()],
        ..ServiceWish::default()
    };
    let create = |model: &mut Model, wish: &ServiceWish| {
        let made = create_service(model, wish, false, Origin::Command);
        made.map_err(|p| (p.code, p.field.unwrap_or_default()))
    };
    create(&mut model, &wished("www", "172.18.0.200")).unwrap();
    let with_mac = |mac: &str| EndpointWish {
        mac: Some(mac.into()),
        ..wish("web", "a")
    };
    let refused = join(&mut model.clone(), 1, &with_mac("0a:53:ac:12:00:c8"));
    assert_eq!(refused.unwrap_err(), Code::MacTaken);
    join(&mut model, 1, &with_mac("0a:53:ac:12:00:d2")).unwrap();
    let taken = Err((Code::MacTaken, "ip".into()));
    assert_eq!(create(&mut model, &wished("other", "172.18.0.210")), taken);
}
