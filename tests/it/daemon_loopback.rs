//! Clients on the host's own loopback, at ports that are published while the daemon runs.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::support::daemon::{Daemon, EVERYBODY, Place};
use crate::support::netns::{self, World};
use crate::support::wait::{self, SOON};
use crate::support::{guest, servers};

const FRONT: &str = "network create front --subnet 10.7.0.0/24 --subnet6 fd07::/64";
/// The loopback, what of the sandbox a server sees there, and the gateway of the family.
const WAYS: [(&str, &str, &str); 2] = [
    ("127.0.0.1", "10.7.0.2", "10.7.0.1"),
    ("::1", "fd07::2", "fd07::1"),
];

/// A sandbox with a server at the port that is published.
fn published(daemon: &Daemon<'_>) -> Place {
    daemon.ok(FRONT);
    let place = daemon.connected("a", &["front"]);
    servers::http(&place.net, (Ipv6Addr::UNSPECIFIED, 80));
    daemon.ok("publish add a 8080:80");
    place
}

/// Whom the server sees when a client of the loopback comes, `spliced` past the switch or not.
#[track_caller]
fn sees(world: &World, spliced: bool) {
    for (host, own, gateway) in WAYS {
        let page = guest::fetch(&world.host, (host.parse::<IpAddr>().unwrap(), 8080).into());
        let seen = if spliced { own } else { gateway };
        assert!(page.ends_with(seen), "{host}: {page}");
    }
}

#[test]
fn the_hosts_own_loopback_goes_past_the_switch() {
    netns::inside(|world| {
        for who in EVERYBODY {
            let mut daemon = Daemon::up(world, who);
            let _place = published(&daemon);
            sees(world, true);
            daemon.kill();
            daemon.start(&[]);
            sees(world, true);
        }
    });
}

#[test]
fn a_burst_is_served_whole_and_more_sockets_come() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        let _place = published(&daemon);
        let to = SocketAddr::from(([127, 0, 0, 1], 8080));
        for _ in 0..3 {
            let streams: Vec<_> = (0..100)
                .map(|_| guest::connect(&world.host, to).unwrap())
                .collect();
            for mut stream in streams {
                stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                assert!(answer.contains("hello "), "{answer}");
            }
        }
        // Many times as many as there are at once: others come while they are taken.
        for _ in 0..100 {
            wait::until("the stock is full again", SOON, || {
                guest::fetch(&world.host, to).ends_with("10.7.0.2")
            });
        }
    });
}

#[test]
fn rules_and_limits_are_not_gone_past() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        let _place = published(&daemon);
        for policy in ["--limit ingress=1G:1M", "--limit egress=1G:1M"] {
            sees(world, true);
            daemon.ok(&format!("policy set front --sandbox a {policy}"));
            sees(world, false);
            daemon.ok("policy rm front --sandbox a");
        }
        sees(world, true);
    });
}

#[test]
fn what_is_spliced_ends_with_its_endpoint() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        let place = published(&daemon);
        let at = servers::tcp(&place.net, (Ipv6Addr::UNSPECIFIED, 90), |mut stream, _| {
            std::io::copy(&mut stream.try_clone()?, &mut stream).map(drop)
        });
        let rule = daemon.json(&format!("publish add a 9090:{}", at.port()));
        let mut client = guest::connect(&world.host, ([127, 0, 0, 1], 9090).into()).unwrap();
        let mut echo = |byte: u8| {
            client.write_all(&[byte])?;
            let mut got = [0];
            client
                .read_exact(&mut got)
                .map(|()| assert_eq!(got, [byte]))
        };
        echo(1).unwrap();
        daemon.ok(&format!("publish rm {}", rule[0]["id"]));
        echo(2).unwrap();
        daemon.ok("endpoint disconnect front a");
        let ended = echo(3).unwrap_err().kind();
        let lost = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
        assert!(lost.contains(&ended), "{ended:?}");
    });
}
