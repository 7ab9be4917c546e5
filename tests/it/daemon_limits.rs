//! The daemon: limits hold for what sandboxes exchange with the world, and for how many flows they have with it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::support::daemon::{Daemon, Place};
use crate::support::guest::{self, Pattern};
use crate::support::netns::{self, OUTSIDE};
use crate::support::servers;
use crate::support::wait::{self, SOON};

const SIZE: usize = 1_000_000;

/// A daemon with two sandboxes on one network.
fn two<'w>(world: &'w netns::World) -> (Daemon<'w>, [Place; 2]) {
    let daemon = Daemon::root(world);
    daemon.ok("network create front --subnet 10.7.0.0/24 --subnet6 fd07::/64");
    let places = ["a", "b"].map(|name| daemon.connected(name, &["front"]));
    (daemon, places)
}

#[test]
fn connections_to_the_world_are_slowed() {
    netns::inside(|world| {
        let (daemon, [a, _]) = two(world);
        let source = servers::tcp(&world.outside, (IpAddr::from(OUTSIDE), 0), |mut s, _| {
            Pattern::new(3).send(&mut s, SIZE)
        });
        let sink = servers::tcp(&world.outside, (IpAddr::from(OUTSIDE), 0), |mut s, _| {
            Pattern::new(3).expect(&mut s, SIZE)
        });
        let down = || {
            let begun = Instant::now();
            let mut stream = guest::connect(&a.net, source).unwrap();
            Pattern::new(3).expect(&mut stream, SIZE).unwrap();
            guest::expect_end(&mut stream);
            begun.elapsed()
        };
        let up = || {
            let begun = Instant::now();
            let mut stream = guest::connect(&a.net, sink).unwrap();
            Pattern::new(3).send(&mut stream, SIZE).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            guest::expect_end(&mut stream);
            begun.elapsed()
        };
        // A second for what is behind the burst, less the overshoot of one frame.
        let least = Duration::from_millis(800);
        daemon.ok("policy set front --sandbox a --limit ingress=1M:100K");
        let took = down();
        assert!(took > least, "{took:?}");
        // What it brings is left with the host, and so is what comes by a published port.
        assert_eq!(daemon.drops("rate-limited"), 0);
        daemon.ok("policy set front --sandbox a --limit egress=1M:100K");
        let took = up();
        assert!(took > least, "{took:?}");
        assert!(daemon.drops("rate-limited") > 0);
        // Two connections have one rate.
        daemon.ok("policy set front --sandbox a --limit ingress=2M:100K");
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let both = [scope.spawn(down), scope.spawn(down)];
            for one in both {
                one.join().unwrap();
            }
        });
        assert!(begun.elapsed() > least, "{:?}", begun.elapsed());
    });
}

#[test]
fn datagrams_of_the_world_are_dropped_beyond_the_limit() {
    // As many as the host's socket holds.
    const COUNT: u64 = 80;
    netns::inside(|world| {
        let (daemon, [a, _neighbour]) = two(world);
        let outside: IpAddr = OUTSIDE.into();
        let flooder = world
            .outside
            .enter(|| UdpSocket::bind((outside, 0)))
            .unwrap();
        let to = flooder.local_addr().unwrap();
        // One datagram a second or so, and ten at once.
        daemon.ok("policy set front --sandbox a --limit ingress=1K:10K");
        let socket = guest::udp(&a.net, outside, SOON);
        socket.send_to(b"here", to).unwrap();
        let (_, from) = flooder.recv_from(&mut [0; 9]).unwrap();
        for _ in 0..COUNT {
            flooder.send_to(&[7; 1000], from).unwrap();
        }
        socket.set_nonblocking(true).unwrap();
        let (mut got, mut dropped) = (0, 0);
        wait::until("each comes or is dropped", SOON, || {
            while socket.recv_from(&mut [0; 2000]).is_ok() {
                got += 1;
            }
            dropped = daemon.drops("rate-limited");
            got + dropped == COUNT
        });
        socket.set_nonblocking(false).unwrap();
        assert!((5..30).contains(&got), "{got} of {COUNT}");
        // They are shown as those of who should have had them, and so is what answers a ping.
        assert_eq!(shown(&daemon, "a", "dropped"), dropped);
        daemon.ok("policy set front --sandbox a --limit ingress=1:1");
        a.sh(&format!("ping -n -c 3 -i 0.2 -W 1 {outside}"));
        wait::until("the answers count", SOON, || {
            shown(&daemon, "a", "dropped") >= dropped + 2
        });
        assert_eq!(shown(&daemon, "b", "dropped"), 0);
        // Without a limit all come that the sandbox's own queue holds.
        daemon.ok("policy rm front --sandbox a");
        for _ in 0..50 {
            flooder.send_to(&[7; 1000], from).unwrap();
        }
        let more = (0..50).filter(|_| socket.recv_from(&mut [0; 2000]).is_ok());
        assert_eq!(more.count(), 50);
    });
}

/// One of the numbers that are shown of a sandbox.
fn shown(daemon: &Daemon<'_>, name: &str, what: &str) -> u64 {
    let rows = daemon.json("show stats");
    let mut rows = rows.as_array().unwrap().iter();
    let row = rows.find(|r| r["sandbox_name"] == name).unwrap();
    row[what].as_u64().unwrap()
}

/// How many flows a sandbox has.
fn flows(daemon: &Daemon<'_>, name: &str) -> u64 {
    shown(daemon, name, "flows")
}

/// Asks from a port of its own; true if there was an answer.
fn asks(place: &Place, to: SocketAddr) -> (UdpSocket, bool) {
    let socket = guest::udp(&place.net, to.ip(), SOON);
    let answer = guest::try_ask(&socket, to, b"x", 10);
    (socket, answer.is_ok())
}

/// Asks once from a port of its own; true if there was no answer.
fn is_refused(place: &Place, to: SocketAddr) -> bool {
    let socket = guest::udp(&place.net, to.ip(), SOON);
    guest::try_ask(&socket, to, b"x", 1).is_err()
}

#[test]
fn flows_at_once_are_counted_and_limited() {
    netns::inside(|world| {
        let (daemon, [a, b]) = two(world);
        let outside: IpAddr = OUTSIDE.into();
        let (echo, _) = servers::udp_echo(&world.outside, (outside, 0));
        let page = servers::http(&world.outside, (outside, 0));
        let counted = |name: &str| flows(&daemon, name);
        daemon.ok("policy set front --limit flows=5");
        // The standard ones are told, too.
        let told = daemon.json("policy show front --sandbox a");
        assert_eq!(told["policy"]["limits"]["flows"], 5);
        assert_eq!(told["policy"]["limits"]["broadcast"]["per_second"], 1000);
        let first: Vec<_> = (0..5).map(|_| asks(&a, echo)).collect();
        assert!(first.iter().all(|(_, answered)| *answered));
        assert_eq!((counted("a"), counted("b")), (5, 0));
        assert!(is_refused(&a, echo));
        assert!(daemon.drops("flow-limit") > 0);
        // Its neighbour has its own, and what is open goes on.
        assert!(asks(&b, echo).1);
        guest::fetch(&b.net, page);
        let (socket, _) = &first[0];
        guest::ask(socket, echo, b"again");
        // A limit of its own goes before the network's; none is none.
        daemon.ok("policy set front --sandbox a --limit flows=0");
        assert!(asks(&a, echo).1);
        guest::fetch(&a.net, page);
        assert!(counted("a") >= 6);
        assert!(
            !daemon
                .weft("policy set front --limit flows=x")
                .stderr
                .is_empty()
        );
    });
}

#[test]
fn conversations_with_neighbours_count_to_who_opens_them() {
    netns::inside(|world| {
        let (daemon, [a, b]) = two(world);
        let c = daemon.connected("c", &["front"]);
        let outside: IpAddr = OUTSIDE.into();
        let (far, _) = servers::udp_echo(&world.outside, (outside, 0));
        let any = IpAddr::from([0; 4]);
        servers::udp_echo(&b.net, (any, 7));
        servers::udp_echo(&c.net, (any, 7));
        daemon.ok("service create echo --network front --port 7/udp --ip 10.7.0.200 --backend b");
        daemon.ok("policy set front --limit flows=6");
        let [near, service] = [3, 200].map(|n| SocketAddr::from(([10, 7, 0, n], 7)));
        // Without rules nothing is known of what neighbours say to each other, and nothing is counted.
        assert!(asks(&a, near).1);
        assert_eq!(flows(&daemon, "a"), 0);
        let set = [
            "policy",
            "set",
            "front",
            "--limit",
            "flows=6",
            "--ingress",
            "drop",
            "--rule",
        ];
        let done = daemon.words(&[&set[..], &["ingress allow udp any 7"]].concat());
        assert_eq!(done.status, 0, "{done:?}");
        let first: Vec<_> = [near, near, service, service, far, far]
            .map(|to| asks(&a, to))
            .into();
        assert!(first.iter().all(|(_, answered)| *answered));
        assert_eq!((flows(&daemon, "a"), flows(&daemon, "b")), (6, 0));
        for to in [near, service, far] {
            let before = daemon.drops("flow-limit");
            assert!(is_refused(&a, to), "{to}");
            assert!(daemon.drops("flow-limit") > before, "{to}");
        }
        // Its neighbours have their own, one of them those who speak with it all the time.
        assert!(asks(&b, ([10, 7, 0, 4], 7).into()).1 && asks(&b, far).1);
        assert!(asks(&c, near).1 && asks(&c, service).1);
        // What is open goes on, and who is gone leaves nothing behind.
        let (socket, _) = &first[0];
        guest::ask(socket, near, b"again");
        daemon.ok("endpoint disconnect front a");
        let pid = a.pid;
        daemon.ok(&format!("endpoint connect front {pid} --name a"));
        assert_eq!(flows(&daemon, "a"), 0);
        assert!(asks(&a, near).1);
    });
}
