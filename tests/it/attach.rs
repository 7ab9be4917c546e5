//! `weft attach`: the same for a namespace that exists.

use std::process::Command;

use crate::support::netns::{self, Namespace, OUTSIDE};
use crate::support::wait::{self, SOON};
use crate::support::weft::{Running, Sandbox, find, json};
use crate::support::{guest, servers};

/// A process with namespaces of its own, that weft did not make.
fn stranger(at: &Namespace) -> (Running, u32) {
    let mut command = Command::new("unshare");
    command.args([
        "--user",
        "--map-root-user",
        "--net",
        "--",
        "sleep",
        "2000001",
    ]);
    let running = Running::start(at, &mut command);
    let pid = wait::value("the stranger runs", SOON, || find("sleep\x002000001\0"));
    (running, pid)
}

#[test]
fn a_namespace_that_exists_is_joined_and_left() {
    netns::inside(|world| {
        let page = servers::http(&world.outside, (OUTSIDE, 0));
        let (mut stranger, pid) = stranger(&world.host);
        let net = Namespace::of(pid);
        let weft = world.start(&["attach", "-p", "8080:80", &pid.to_string()]);
        wait::until("an address inside", SOON, || {
            let info = json(&net, &["-4", "addr", "show", "dev", "eth0", "up"]);
            info[0]["addr_info"]
                .as_array()
                .is_some_and(|infos| !infos.is_empty())
        });
        let sandbox = Sandbox::at(weft, net, pid);
        guest::fetch(&sandbox.net, page);
        servers::http(&sandbox.net, (sandbox.v4, 80));
        let seen = guest::fetch(&world.outside, (netns::HOST, 8080).into());
        assert_eq!(seen, format!("hello {OUTSIDE}"));

        // Leaving takes the interface along, and nothing else.
        let Sandbox { weft, net, .. } = sandbox;
        weft.stop();
        wait::until("the interface is gone", SOON, || {
            json(&net, &["link"])
                .as_array()
                .is_some_and(|links| links.len() == 1)
        });
        assert!(!stranger.has_ended());
    });
}

#[test]
fn it_ends_with_the_namespaces_process() {
    netns::inside(|world| {
        let (stranger, pid) = stranger(&world.host);
        let net = Namespace::of(pid);
        let mut weft = world.start(&["attach", &pid.to_string()]);
        wait::until("an interface inside", SOON, || {
            json(&net, &["link"])
                .as_array()
                .is_some_and(|links| links.len() == 2)
        });
        drop(net);
        drop(stranger);
        assert_eq!(weft.end(SOON).status, 0);
        assert_eq!(world.processes(), Vec::<String>::new());
    });
}

#[test]
fn what_is_not_there_is_refused() {
    netns::inside(|world| {
        world.weft(&["attach", "999999"]).refused(&["999999"]);
        world
            .weft(&["attach", "/no/such/netns"])
            .refused(&["/no/such/netns"]);
        world
            .weft(&["attach", "/etc/resolv.conf"])
            .refused(&["/etc/resolv.conf"]);
    });
}

#[test]
fn a_taken_interface_name_is_refused() {
    netns::inside(|world| {
        let (_stranger, pid) = stranger(&world.host);
        Namespace::of(pid).ip("link add eth0 type veth peer name other");
        world.weft(&["attach", &pid.to_string()]).refused(&["eth0"]);
    });
}
