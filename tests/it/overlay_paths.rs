//! What goes between two hosts, and by which way: multicast where it is wanted, answers from the address that was asked,
//! a NAT that forgets, several workers, and a plain way that shrinks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::daemon::{Daemon, Place, Who};
use crate::support::hosts::{HOSTS, Pair, SEALED, Wire, answers, peer, peer_drops, reach};
use crate::support::netns::{self, FAR, HOST, Namespace, OUTSIDE, World};
use crate::support::wait::{self, SOON};
use crate::support::{guest, servers};

/// The router's address on the other host's side.
const BETWEEN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Bytes of a datagram to a group, and of what it is in on the underlay: inner headers, VXLAN, the seal.
const STREAM: usize = 700;
const SEALED_STREAM: usize = STREAM + 8 + 20 + 14 + 8 + 32;

/// Sends to a group and counts how much of it goes to the other host.
fn crossing(wire: &Wire, web: &Place, group: Ipv4Addr) -> usize {
    let own = Ipv4Addr::new(10, 9, 0, 2);
    let count = |len: usize| {
        let all = wire.datagrams(HOSTS[0], HOSTS[1], SEALED);
        // What leaves together is one large packet here.
        let whole = all.iter().filter(|d| d.len() % len == 0);
        whole.map(|d| d.len() / len).sum::<usize>()
    };
    let socket = web.net.enter(|| UdpSocket::bind((own, 0))).unwrap();
    let option = socket2::SockRef::from(&socket);
    option.set_multicast_if_v4(&own).unwrap();
    // What was sent before has passed when this has.
    let last = || {
        let before = count(SEALED_STREAM + 1);
        socket.send_to(&[9; STREAM + 1], ("10.9.1.2", 9)).unwrap();
        wait::until("the last passes", SOON, || {
            count(SEALED_STREAM + 1) > before
        });
    };
    last();
    let before = count(SEALED_STREAM);
    for _ in 0..5 {
        socket.send_to(&[9; STREAM], (group, 5000)).unwrap();
    }
    last();
    count(SEALED_STREAM) - before
}

#[test]
fn multicast_goes_to_the_host_where_somebody_has_joined() {
    netns::inside(|world| {
        let wire = Wire::tap(&world.outside);
        let pair = Pair::met(world, &["--workers", "2"]);
        let [web, db] = pair.furnish();
        let group = Ipv4Addr::new(239, 1, 2, 3);
        let goes = |what: &str, wanted: usize| {
            wait::settled(what, &wanted, SOON, || crossing(&wire, &web, group));
        };
        let told = |what: &str, groups: &[&str]| {
            let wanted: Vec<String> = groups.iter().map(|&g| g.to_owned()).collect();
            wait::settled(what, &wanted, SOON, || wanted_by_b(&pair.a));
        };
        goes("nobody has joined", 0);
        told("nothing is wanted", &[]);
        let joined = db.net.enter(|| {
            let socket = UdpSocket::bind((group, 5000)).unwrap();
            let own = Ipv4Addr::new(10, 9, 1, 2);
            socket.join_multicast_v4(&group, &own).unwrap();
            socket
        });
        goes("one has joined", 5);
        told("the group is wanted", &["239.1.2.3"]);
        let table = pair.a.ok("show groups --network mesh");
        assert!(table.contains("peer     igmp      239.1.2.3"), "{table}");
        joined.set_read_timeout(Some(SOON)).unwrap();
        assert_eq!(joined.recv(&mut [0; 2048]).unwrap(), STREAM);
        let other = Ipv4Addr::new(239, 1, 2, 4);
        assert_eq!(crossing(&wire, &web, other), 0, "another group");
        let link = Ipv4Addr::new(224, 0, 0, 251);
        assert_eq!(crossing(&wire, &web, link), 5, "for everybody");
        drop(joined);
        goes("it has left", 0);
        told("it is not wanted any more", &[]);
    });
}

/// What the second host wants of IPv4's groups, as the first one shows it.
fn wanted_by_b(a: &Daemon<'_>) -> Vec<String> {
    let shown = a.json("show groups --network mesh")["peers"].take();
    let rows = shown.as_array().unwrap().iter();
    let rows = rows.filter(|row| row["protocol"] == "igmp");
    let group = |row: &Value| {
        assert_eq!(
            (&row["peer_name"], &row["network_name"]),
            (&"b".into(), &"mesh".into())
        );
        row["group"].as_str().unwrap_or("all").to_owned()
    };
    rows.map(group).collect()
}

/// Has the second host ask the first one at this address of its own, by which it is answered.
#[track_caller]
fn answered_from(world: &World, asked: IpAddr) {
    let pair = Pair::strangers(world, &[]);
    pair.a
        .ok("network create mesh --driver overlay --subnet 10.9.0.0/21 --subnet6 fd09::/64");
    pair.meet(asked);
    let at = SocketAddr::new(asked, SEALED).to_string();
    let [web, db] = pair.furnish();
    for _ in 0..3 {
        assert!(web.pings("10.9.1.2") && db.pings("10.9.0.2"));
        answers(&pair.a, "b");
        assert_eq!(
            peer(&pair.b)["endpoint"],
            at,
            "who answers is who was asked"
        );
    }
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    netns::inside(|world| {
        world.host.ip("addr add 192.0.2.9/24 dev eth0");
        answered_from(world, [192, 0, 2, 9].into());
    });
}

#[test]
fn an_answer_leaves_from_the_ipv6_address_that_was_asked() {
    netns::inside(|world| {
        // The kernel chooses no address that is about to go.
        world
            .host
            .ip("addr add 2001:db8:1::9/64 dev eth0 nodad preferred_lft 0");
        answered_from(world, "2001:db8:1::9".parse().unwrap());
    });
}

/// A NAT before the second host: the first one sees a port of the router.
struct Nat {
    inside: UdpSocket,
    outside: Mutex<UdpSocket>,
}

impl Nat {
    /// One that has begun.
    fn begin(router: &'static Namespace) -> Arc<Self> {
        let nat = router.enter(|| Self {
            inside: UdpSocket::bind((BETWEEN, SEALED)).unwrap(),
            outside: Mutex::new(Self::mapping()),
        });
        let nat = Arc::new(nat);
        let (out, back) = (Arc::clone(&nat), Arc::clone(&nat));
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok(len) = out.inside.recv(&mut buffer) {
                let mapping = out.outside.lock().unwrap().try_clone().unwrap();
                // What does not go is lost, as on any way.
                let _ = mapping.send_to(&buffer[..len], (HOST, SEALED));
            }
        });
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            loop {
                let mapping = back.outside.lock().unwrap().try_clone().unwrap();
                if let Ok(len) = mapping.recv(&mut buffer) {
                    let _ = back.inside.send_to(&buffer[..len], (FAR, SEALED));
                }
            }
        });
        nat
    }

    fn mapping() -> UdpSocket {
        let socket = UdpSocket::bind((OUTSIDE, 0)).unwrap();
        let patience = Duration::from_millis(20);
        socket.set_read_timeout(Some(patience)).unwrap();
        socket
    }

    /// Where the second host is seen.
    fn seen(&self) -> String {
        let at = self.outside.lock().unwrap().local_addr();
        at.unwrap().to_string()
    }

    /// Forgets the port, and takes another.
    fn forget(&self, router: &Namespace) {
        *self.outside.lock().unwrap() = router.enter(Self::mapping);
    }
}

#[test]
fn a_nat_that_forgets_stops_no_transfer() {
    const BYTES: usize = 4 << 20;
    netns::inside(|world| {
        let router: &'static Namespace = Box::leak(Box::new(Namespace::current()));
        let nat = Nat::begin(router);
        let pair = Pair::strangers(world, &[]);
        pair.a
            .ok("network create mesh --driver overlay --subnet 10.9.0.0/21");
        pair.meet(BETWEEN.into());
        let [web, db] = pair.furnish();
        assert_eq!(peer(&pair.a)["endpoint"], nat.seen());
        let at = servers::tcp(&web.net, ([10, 9, 0, 2], 0), |mut stream, _| {
            let (mut up, mut down) = (guest::Pattern::new(1), guest::Pattern::new(2));
            loop {
                up.expect(&mut stream, BYTES)?;
                down.send(&mut stream, BYTES)?;
            }
        });
        let mut stream = guest::connect(&db.net, at).unwrap();
        let (mut up, mut down) = (guest::Pattern::new(1), guest::Pattern::new(2));
        for _ in 0..3 {
            up.send(&mut stream, BYTES).unwrap();
            // In the middle of what comes.
            down.expect(&mut stream, BYTES / 2).unwrap();
            nat.forget(router);
            down.expect(&mut stream, BYTES / 2).unwrap();
            wait::settled("it is followed", &nat.seen(), SOON, || {
                peer(&pair.a)["endpoint"].as_str().unwrap().to_owned()
            });
        }
        assert_eq!(peer(&pair.a)["state"], "up");
    });
}

#[test]
fn several_workers_seal_for_one_peer_and_nothing_counts_as_replayed() {
    // So few that all datagrams of a way are in the receiver's window, however late a worker sends what it has sealed.
    const BYTES: usize = 3 << 19;
    netns::inside(|world| {
        let pair = Pair::met(world, &["--workers", "2"]);
        let [web, db] = pair.furnish();
        // More sandboxes, for each has a worker of its own.
        let more = ["one", "two"].map(|name| pair.a.connected(name, &["mesh"]));
        for place in &more {
            reach(place, "10.9.1.2");
        }
        // Hosts that call each other at once end one of two sessions, with what was on its way.
        let dropped = |daemon: &Daemon<'_>| {
            ["replayed", "forged", "no-key"].map(|r| peer_drops(daemon, r) + daemon.drops(r))
        };
        let before = [dropped(&pair.a), dropped(&pair.b)];
        let to = servers::tcp(&db.net, ([10, 9, 1, 2], 0), |mut stream, _| {
            guest::Pattern::new(1).expect(&mut stream, BYTES)?;
            guest::Pattern::new(2).send(&mut stream, BYTES)
        });
        let (echo, _) = servers::udp_echo(&db.net, ([10, 9, 1, 2], 0));
        thread::scope(|scope| {
            for place in [&web, &web, &more[0], &more[1]] {
                scope.spawn(move || {
                    let mut stream = guest::connect(&place.net, to).unwrap();
                    guest::Pattern::new(1).send(&mut stream, BYTES).unwrap();
                    guest::Pattern::new(2).expect(&mut stream, BYTES).unwrap();
                });
            }
            for place in [&web, &more[0], &more[1]] {
                scope.spawn(move || {
                    let socket = guest::udp(&place.net, echo.ip(), SOON);
                    for n in 0..200_u8 {
                        let data = vec![n; 1 + 6 * usize::from(n)];
                        assert_eq!(guest::ask(&socket, echo, &data), data);
                    }
                });
            }
        });
        assert_eq!([dropped(&pair.a), dropped(&pair.b)], before);
    });
}

/// The hardware address that a sandbox knows for an address, if it knows one.
fn neighbour(place: &Place, to: &str) -> Option<String> {
    place.pings_at_once(to);
    let known = place.sh(&format!("ip neigh show {to}")).stdout;
    let mut words = known.split_whitespace();
    words.find(|&word| word == "lladdr")?;
    words.next().map(str::to_owned)
}

#[test]
fn a_vlan_of_two_hosts_is_its_own() {
    netns::inside(|world| {
        let pair = Pair::met(world, &[]);
        let [web, db] = pair.furnish();
        let on = |daemon: &Daemon<'_>, name: &str, options: &str| {
            let place = daemon.sandbox();
            let pid = place.pid;
            daemon.ok(&format!(
                "endpoint connect mesh {pid} --name {name} {options}"
            ));
            place
        };
        let here = on(&pair.a, "here", "--vlan 10 --ip 10.9.0.10");
        let there = on(&pair.b, "there", "--vlan 10 --ip 10.9.1.10");
        reach(&here, "10.9.1.10");
        reach(&there, "10.9.0.10");
        // Nobody answers for them to those who could not reach them.
        for (place, to) in [(&web, "10.9.1.10"), (&db, "10.9.0.10"), (&here, "10.9.1.2")] {
            assert_eq!(neighbour(place, to), None, "{to}");
        }
        assert!(neighbour(&web, "10.9.1.2").is_some());
    });
}

/// A sandbox on a network in plain VXLAN, at this address.
#[track_caller]
fn plain(daemon: &Daemon<'_>, other: Ipv4Addr, ip: &str) -> Place {
    daemon.ok(
        "network create plain --driver overlay --opt carrier=vxlan --vni 7 --subnet 10.9.0.0/24",
    );
    daemon.ok(&format!("peer add node --carrier vxlan --endpoint {other}"));
    let place = daemon.sandbox();
    let pid = place.pid;
    daemon.ok(&format!("endpoint connect plain {pid} --ip {ip}"));
    place
}

#[test]
fn a_plain_way_that_shrinks_stops_no_transfer() {
    const BYTES: usize = 8 << 20;
    netns::inside(|world| {
        let daemons = [
            (&world.host, FAR, "10.9.0.2"),
            (&world.far, HOST, "10.9.0.3"),
        ];
        let daemons = daemons.map(|(on, other, ip)| {
            let mut daemon = Daemon::on(on, Who::Root);
            daemon.start(&[]);
            let place = plain(&daemon, other, ip);
            (daemon, place)
        });
        let [(_a, web), (_b, db)] = &daemons;
        reach(web, "10.9.0.3");
        let to = servers::tcp(&db.net, ([10, 9, 0, 3], 0), |mut stream, _| {
            let (mut up, mut down) = (guest::Pattern::new(1), guest::Pattern::new(2));
            loop {
                up.expect(&mut stream, BYTES)?;
                down.send(&mut stream, BYTES)?;
            }
        });
        let mut stream = guest::connect(&web.net, to).unwrap();
        let (mut up, mut down) = (guest::Pattern::new(1), guest::Pattern::new(2));
        up.send(&mut stream, BYTES).unwrap();
        down.expect(&mut stream, BYTES).unwrap();
        // The one sees its own link, the other hears of it from the router.
        world.host.ip("link set eth0 mtu 1300");
        world.outside.ip("link set out0 mtu 1300");
        up.send(&mut stream, BYTES).unwrap();
        down.expect(&mut stream, BYTES).unwrap();
        for (place, to) in [(web, "10.9.0.3"), (db, "10.9.0.2")] {
            let said = place.sh(&format!("ping -n -c 2 -W 2 -M do -s 1372 {to}"));
            let text = said.stdout + &said.stderr;
            assert!(
                text.contains("mtu") || text.contains("Frag needed"),
                "{text}"
            );
            let fits = place.sh(&format!("ping -n -c 2 -W 2 -M do -s 1200 {to}"));
            assert_eq!(fits.status, 0, "{}", fits.stdout);
        }
        // What is wider again is found out while something is sent.
        world.outside.ip("link set out0 mtu 1500");
        world.host.ip("link set eth0 mtu 1500");
        // What a router has said holds for ten minutes.
        world.far.ip("route flush cache");
        wait::until("it is wider", 2 * SOON, || {
            for place in [web, db] {
                place.net.ip("route flush cache");
            }
            web.sh("ping -n -c 1 -W 1 -M do -s 1372 10.9.0.3").status == 0
        });
    });
}
