//! Two threads that carry packets: everything between endpoints of one and of the other.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::daemon::{Daemon, EVERYBODY, Place, Who};
use crate::support::guest::Pattern;
use crate::support::netns::{self, HOST, HOST6, OUTSIDE, OUTSIDE6, World};
use crate::support::wait::{self, SOON};
use crate::support::{guest, servers};

const FRONT: &str = "network create front --subnet 10.7.0.0/24 --subnet6 fd07::/64";
const ANY: IpAddr = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);
/// A port where what comes is sent back.
const ECHO: u16 = 7;

/// A daemon with two workers, and four sandboxes, which belong to them in turn; each sends back what it is sent.
fn four(world: &World, who: Who) -> (Daemon<'_>, [Place; 4]) {
    let mut daemon = Daemon::new(world, who);
    daemon.start(&["--workers", "2"]);
    daemon.ok(FRONT);
    let places = ["a", "b", "c", "d"].map(|name| {
        let place = daemon.connected(name, &["front"]);
        servers::tcp(&place.net, (ANY, ECHO), |mut stream, _| {
            std::io::copy(&mut stream.try_clone()?, &mut stream).map(drop)
        });
        servers::http(&place.net, (ANY, 80));
        place
    });
    for (nth, place) in (2_u8..).zip(&places) {
        for ip in [
            IpAddr::from([10, 7, 0, nth]),
            format!("fd07::{nth}").parse().unwrap(),
        ] {
            servers::udp_whoami(&place.net, (ip, 53));
        }
    }
    (daemon, places)
}

fn address(nth: usize) -> IpAddr {
    IpAddr::from([10, 7, 0, u8::try_from(nth + 2).unwrap()])
}

/// Sends bytes to a sandbox and back, and compares them all.
fn round_trip(mut stream: TcpStream, seed: u64, len: usize) {
    let mut back = stream.try_clone().unwrap();
    let reader = std::thread::spawn(move || Pattern::new(seed).expect(&mut back, len));
    Pattern::new(seed).send(&mut stream, len).unwrap();
    reader.join().unwrap().unwrap();
}

#[test]
fn everybody_meets_everybody() {
    const LEN: usize = 8 << 20;
    netns::inside(|world| {
        for who in EVERYBODY {
            let (daemon, places) = four(world, who);
            let workers = daemon.json("show workers");
            let each = workers.as_array().unwrap().iter();
            let each: Vec<_> = each.map(|w| w["endpoints"].as_u64().unwrap()).collect();
            assert_eq!(each, [2, 2], "{workers}");
            // All at once, so that both workers send to each endpoint at the same time.
            std::thread::scope(|scope| {
                for (from, place) in places.iter().enumerate() {
                    for to in (0..4).filter(|to| *to != from) {
                        let stream =
                            guest::connect(&place.net, (address(to), ECHO).into()).unwrap();
                        let seed = (from * 4 + to) as u64;
                        scope.spawn(move || round_trip(stream, seed, LEN));
                    }
                }
            });
            for (from, place) in places.iter().enumerate() {
                for to in (0..4).filter(|to| *to != from) {
                    assert!(place.pings(&address(to).to_string()), "{from} {to}");
                    let socket = guest::udp(&place.net, address(to), Duration::from_secs(1));
                    let seen = guest::ask(&socket, (address(to), 53).into(), b"?");
                    let port = socket.local_addr().unwrap().port();
                    let own = SocketAddr::from((address(from), port));
                    assert_eq!(String::from_utf8(seen).unwrap(), own.to_string());
                }
            }
        }
    });
}

#[test]
fn the_gateway_serves_those_of_both() {
    netns::inside(|world| {
        for who in EVERYBODY {
            let (daemon, places) = four(world, who);
            let page = servers::http(&world.outside, (IpAddr::from(OUTSIDE), 0));
            for (nth, place) in places.iter().enumerate() {
                guest::fetch(&place.net, page);
                if netns::have("dig") {
                    for (other, name) in ["a", "b", "c", "d"].iter().enumerate() {
                        let said = place.sh(&format!("dig +short @10.7.0.1 -q {name}")).ok();
                        assert_eq!(said.trim(), address(other).to_string(), "{nth} {name}");
                    }
                }
            }
            daemon.ok("publish add a 8080:80 5300:53/udp");
            daemon.ok("publish add b 8081:80 5301:53/udp");
            let ways = [
                (IpAddr::from(HOST), IpAddr::from(OUTSIDE)),
                (HOST6.into(), OUTSIDE6.into()),
            ];
            for (host, client) in ways {
                for nth in 0..2 {
                    let seen = guest::fetch(&world.outside, (host, 8080 + nth).into());
                    assert!(seen.ends_with(&client.to_string()), "{seen}");
                    let socket = guest::udp(&world.outside, host, Duration::from_secs(1));
                    let seen = guest::ask(&socket, (host, 5300 + nth).into(), b"?");
                    let port = socket.local_addr().unwrap().port();
                    let own = SocketAddr::from((client, port));
                    assert_eq!(String::from_utf8(seen).unwrap(), own.to_string());
                }
            }
            // A virtual address in front of one of each worker, for clients of each.
            daemon.ok("service create web --network front --port 80 --ip 10.7.0.200 --backend a b");
            for client in &places[2..] {
                for _ in 0..20 {
                    guest::fetch(&client.net, ([10, 7, 0, 200], 80).into());
                }
            }
        }
    });
}

#[test]
fn a_death_is_survived_by_the_streams_between_them() {
    netns::inside(|world| {
        let (mut daemon, places) = four(world, Who::Root);
        let mut streams: Vec<_> = (0..4)
            .map(|from| {
                guest::connect(&places[from].net, (address((from + 1) % 4), ECHO).into()).unwrap()
            })
            .collect();
        let mut tell = |text: &[u8]| {
            for stream in &mut streams {
                stream.write_all(text).unwrap();
            }
            for stream in &mut streams {
                let mut got = vec![0; text.len()];
                stream.read_exact(&mut got).unwrap();
                assert_eq!(got, text);
            }
        };
        tell(b"before");
        let state = daemon.state();
        daemon.kill();
        daemon.start(&["--workers", "2"]);
        tell(b"after");
        assert_eq!(daemon.state(), state);
    });
}

#[test]
fn endpoints_come_and_go_beside_busy_ones() {
    const LEN: usize = 64 << 20;
    netns::inside(|world| {
        let (daemon, places) = four(world, Who::Root);
        let come: Vec<_> = (0..4).map(|_| daemon.sandbox()).collect();
        std::thread::scope(|scope| {
            // From one worker to the other, both ways.
            let busy: Vec<_> = [(0, 1), (1, 2), (3, 0)]
                .map(|(from, to): (usize, usize)| {
                    let stream = guest::connect(&places[from].net, (address(to), ECHO).into());
                    let stream = stream.unwrap();
                    scope.spawn(move || round_trip(stream, from as u64, LEN))
                })
                .into();
            let mut rounds = 0;
            while rounds < 3 || busy.iter().any(|b| !b.is_finished()) {
                for (nth, place) in come.iter().enumerate() {
                    let pid = place.pid;
                    daemon.ok(&format!("endpoint connect front {pid} --name x{nth}"));
                    assert!(place.pings("10.7.0.2") && place.pings("10.7.0.3"));
                }
                for nth in 0..come.len() {
                    daemon.ok(&format!("endpoint disconnect front x{nth}"));
                }
                rounds += 1;
            }
        });
        // Nobody is left, nor counted.
        wait::until("four endpoints are left", SOON, || {
            let rows = daemon.json("show workers");
            let rows = rows.as_array().unwrap().iter();
            let each: BTreeMap<_, _> = rows
                .map(|w| (w["worker"].as_u64(), w["endpoints"].as_u64().unwrap()))
                .collect();
            each.values().sum::<u64>() == 4
        });
        assert!(come.iter().all(|place| place.interfaces().is_empty()));
        assert!(places[0].pings("10.7.0.5"));
    });
}
