//! Ports published while the daemon runs.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::support::daemon::{Daemon, EVERYBODY};
use crate::support::netns::{self, HOST, HOST6, OUTSIDE, OUTSIDE6, World};
use crate::support::wait::SOON;
use crate::support::{guest, servers};

const FRONT: &str = "network create front --subnet 10.7.0.0/24 --subnet6 fd07::/64";
const ANY: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
];

fn refuses(world: &World, to: SocketAddr) -> bool {
    let met = world
        .outside
        .enter(|| TcpStream::connect_timeout(&to, SOON));
    met.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[test]
fn ports_come_and_go_and_show_the_client() {
    netns::inside(|world| {
        for who in EVERYBODY {
            let daemon = Daemon::up(world, who);
            daemon.ok(FRONT);
            let a = daemon.connected("a", &["front"]);
            servers::http(&a.net, ("::".parse::<IpAddr>().unwrap(), 80));
            let inside: [IpAddr; 2] = [[10, 7, 0, 2].into(), "fd07::2".parse().unwrap()];
            for ip in inside {
                servers::udp_whoami(&a.net, (ip, 53));
            }
            let added = daemon.json("publish add a 8080:80 5300:53/udp");
            let clients = [IpAddr::from(OUTSIDE), IpAddr::from(OUTSIDE6)];
            for (host, client) in [IpAddr::from(HOST), IpAddr::from(HOST6)]
                .into_iter()
                .zip(clients)
            {
                let seen = guest::fetch(&world.outside, (host, 8080).into());
                assert!(seen.ends_with(&client.to_string()), "{who:?} {seen}");
                let socket = guest::udp(&world.outside, host, Duration::from_secs(1));
                let seen = guest::ask(&socket, (host, 5300).into(), b"?");
                let seen: SocketAddr = String::from_utf8(seen).unwrap().parse().unwrap();
                let port = socket.local_addr().unwrap().port();
                assert_eq!(seen, SocketAddr::new(client, port), "{who:?}");
            }
            assert_eq!(daemon.json("publish ls").as_array().unwrap().len(), 2);
            for rule in added.as_array().unwrap() {
                daemon.ok(&format!("publish rm {}", rule["id"]));
            }
            for host in [IpAddr::from(HOST), IpAddr::from(HOST6)] {
                assert!(refuses(world, (host, 8080).into()), "{who:?} {host}");
                // The ports are the host's again.
                for port in [8080, 5300] {
                    drop(
                        world
                            .host
                            .enter(|| TcpListener::bind((host, port)))
                            .unwrap(),
                    );
                    drop(
                        world
                            .host
                            .enter(|| std::net::UdpSocket::bind((host, port)))
                            .unwrap(),
                    );
                }
            }
        }
    });
}

#[test]
fn many_ports_are_added_fast() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        let a = daemon.connected("a", &["front"]);
        let ports = [20_000, 24_999, 29_999];
        for port in ports {
            servers::http(&a.net, (ANY[1], port));
        }
        let before = daemon.descriptors();
        let begun = Instant::now();
        let added = daemon.json("publish add a 20000-29999:20000-29999");
        println!("10,000 ports: {:?}", begun.elapsed());
        let taken = daemon.descriptors() - before;
        // One each, for both families; and some sockets inside, for clients of the host's loopback.
        assert!((10_000..10_100).contains(&taken), "{taken} descriptors");
        let host = IpAddr::from(HOST);
        let ways = [
            (host, IpAddr::from(OUTSIDE)),
            (HOST6.into(), OUTSIDE6.into()),
        ];
        for port in ports {
            for (host, client) in ways {
                let seen = guest::fetch(&world.outside, (host, port).into());
                assert!(seen.ends_with(&client.to_string()), "{seen}");
            }
        }
        assert!(refuses(world, (host, 30_000).into()));
        let begun = Instant::now();
        daemon.ok(&format!("publish rm {}", added[0]["id"]));
        println!("10,000 ports less: {:?}", begun.elapsed());
        for port in ports {
            assert!(refuses(world, (host, port).into()));
        }
    });
}

#[test]
fn a_sandbox_reaches_published_ports_at_the_hosts_address() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        daemon.ok("network create back --subnet 10.8.0.0/24 --subnet6 fd08::/64");
        let a = daemon.connected("a", &["front"]);
        let b = daemon.connected("b", &["front"]);
        let c = daemon.connected("c", &["back"]);
        servers::http(&a.net, (ANY[1], 80));
        for ip in [IpAddr::from([10, 7, 0, 2]), "fd07::2".parse().unwrap()] {
            servers::udp_whoami(&a.net, (ip, 53));
        }
        // Something on the host that is not published stays out of reach.
        servers::http(&world.host, (ANY[1], 9090));
        daemon.ok("publish add a 8080:80 5300:53/udp");
        for (name, place) in [("itself", &a), ("a neighbour", &b), ("another network", &c)] {
            for host in [IpAddr::from(HOST), IpAddr::from(HOST6)] {
                let seen = guest::fetch(&place.net, (host, 8080).into());
                assert!(seen.starts_with("hello "), "{name}");
                let socket = guest::udp(&place.net, host, Duration::from_secs(1));
                let seen = guest::try_ask(&socket, (host, 5300).into(), b"?", 5);
                assert!(seen.is_ok(), "UDP from {name} at {host}: {seen:?}");
                let met = place.net.enter(|| {
                    TcpStream::connect_timeout(&(host, 9090).into(), Duration::from_secs(1))
                });
                assert!(met.is_err(), "{name}");
            }
        }
    });
}

#[test]
fn a_port_that_is_taken_is_told() {
    netns::inside(|world| {
        for who in EVERYBODY {
            let daemon = Daemon::up(world, who);
            daemon.ok(FRONT);
            let _a = daemon.connected("a", &["front"]);
            let holder = world
                .host
                .enter(|| TcpListener::bind((ANY[0], 9000)))
                .unwrap();
            for line in ["publish add a 9000:80", "publish add a 8995-9005"] {
                let before = daemon.state();
                daemon.weft(line).refused(&["9000"]);
                assert_eq!(daemon.state(), before);
            }
            // None of the range is held.
            drop(
                world
                    .host
                    .enter(|| TcpListener::bind((ANY[0], 8999)))
                    .unwrap(),
            );
            drop(holder);
            daemon.ok("publish add a 8995-9005");
            // Also when it is another rule that has it.
            daemon.weft("publish add a 9001:80").refused(&["9001"]);
            // The sandbox goes, and its ports with it.
            daemon.ok("endpoint disconnect front a");
            drop(
                world
                    .host
                    .enter(|| TcpListener::bind((ANY[0], 9001)))
                    .unwrap(),
            );
        }
    });
}
