//! Services on an overlay: sandboxes of other hosts reach them as those of their own do.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use crate::daemon_service::{assert_some_led_to_a, greet, serve};
use crate::overlay_names::{becomes, dig, join, known, unknown};
use crate::overlay_vxlan::network;
use crate::support::daemon::Place;
use crate::support::hosts::{Pair, reach};
use crate::support::netns::{self, FAR, HOST, OUTSIDE};
use crate::support::wait::{self, SOON};
use crate::support::{dns, guest, servers};

const WEB: &str = "service create web --network mesh --port 80:8080 --port 53:5353/udp --port 55:5555/udp --port 90:9090 --ip 10.9.0.200 --ip6 fd09::c8";

/// Of a transfer, each way.
const BYTES: usize = 4 << 20;

/// Who answers a client of the service on these ports, and as whom it sees that client.
#[track_caller]
fn served(client: &Place, vip: &str, own: &str) {
    let vip: IpAddr = vip.parse().unwrap();
    let said: Vec<_> = (0..40)
        .map(|_| greet(&client.net, (vip, 80).into()).unwrap())
        .collect();
    for name in ["a", "b"] {
        let count = said.iter().filter(|s| **s == format!("{name} {own}"));
        assert!(count.count() > 5, "{name}: {said:?}");
    }
    let socket = guest::udp(&client.net, vip, SOON);
    let first = guest::ask(&socket, (vip, 53).into(), b"who");
    assert!(first.ends_with(own.as_bytes()), "{first:?}");
    for _ in 0..20 {
        assert_eq!(guest::ask(&socket, (vip, 53).into(), b"who"), first);
    }
    assert!(client.pings(&vip.to_string()));
}

/// A client is told where nobody listens: on a port of the service, and behind one.
#[track_caller]
fn refused(client: &Place, vip: &str) {
    let vip: IpAddr = vip.parse().unwrap();
    let closed = Err(ErrorKind::ConnectionRefused);
    assert_eq!(greet(&client.net, (vip, 81).into()), closed);
    for port in [54, 55] {
        let socket = guest::udp(&client.net, vip, SOON);
        socket.connect((vip, port)).unwrap();
        socket.send(b"who").unwrap();
        let told = socket.recv(&mut [0; 64]).map_err(|e| e.kind());
        assert_eq!(told, Err(ErrorKind::ConnectionRefused), "{vip} {port}");
    }
}

#[test]
fn a_sandbox_of_another_host_reaches_a_service_by_name_and_address() {
    netns::inside(|world| {
        if !netns::have("dig") {
            return;
        }
        let _resolver = dns::serve(&world.outside, OUTSIDE, &[]);
        let mut pair = Pair::met(world, &[]);
        let (a, b) = (&pair.a, &pair.b);
        let [first, second] = ["a", "b"].map(|name| a.connected(name, &["mesh"]));
        serve(&first.net, "a");
        serve(&second.net, "b");
        a.ok(&format!("{WEB} --backend a b"));
        b.ok("network create own --subnet 10.7.0.0/24");
        let client = b.sandbox();
        join(b, &client, "own", "--name client --ip 10.7.0.2");
        join(b, &client, "mesh", "--ip 10.9.1.2 --ip6 fd09::102");
        let only = b.connected("only", &["own"]);
        for gateway in ["@10.9.0.1", "@10.7.0.1"] {
            becomes(&client, &format!("{gateway} web"), &["10.9.0.200"]);
            known(&client, &format!("{gateway} web AAAA"), "fd09::c8");
            known(&client, &format!("{gateway} -x 10.9.0.200"), "web.");
        }
        unknown(&only, "@10.7.0.1 web");
        for (vip, own) in [("10.9.0.200", "10.9.1.2"), ("fd09::c8", "fd09::102")] {
            reach(&client, vip);
            served(&client, vip, own);
        }
        // Who asks again whether it is there is answered.
        let probed =
            "ip neigh change 10.9.0.200 dev eth1 nud probe; ping -n -c 3 -i 0.4 -W 15 10.9.0.200";
        assert!(client.sh(probed).ok().contains("3 received"));
        assert!(
            !client
                .sh("ip neigh show 10.9.0.200")
                .ok()
                .contains("FAILED")
        );

        // Large packets pass both ways; a backend is the sandboxes' own all the while.
        for place in [&first, &second] {
            let any = IpAddr::from([0_u16; 8]);
            servers::tcp(&place.net, (any, 9090), |mut stream, _| {
                guest::Pattern::new(1).expect(&mut stream, BYTES)?;
                guest::Pattern::new(2).send(&mut stream, BYTES)
            });
        }
        for vip in ["10.9.0.200", "fd09::c8"] {
            let at = SocketAddr::new(vip.parse().unwrap(), 90);
            let mut stream = guest::connect(&client.net, at).unwrap();
            guest::Pattern::new(1).send(&mut stream, BYTES).unwrap();
            guest::Pattern::new(2).expect(&mut stream, BYTES).unwrap();
        }

        // What is open stays with a backend that is taken out; what comes then goes to the other.
        let vip = SocketAddr::from(([10, 9, 0, 200], 80));
        let open: Vec<_> = (0..10)
            .map(|_| guest::connect(&client.net, vip).unwrap())
            .collect();
        a.ok("service rm mesh web");
        becomes(&client, "@10.9.0.1 web", &[]);
        unknown(&client, "@10.7.0.1 web");
        a.ok(&format!("{WEB} --backend b"));
        becomes(&client, "@10.7.0.1 web", &["10.9.0.200"]);
        assert_some_led_to_a(open);
        assert!((0..20).all(|_| greet(&client.net, vip).unwrap().starts_with("b ")));

        for vip in ["10.9.0.200", "fd09::c8"] {
            refused(&client, vip);
        }

        // One of that name on this host is another, and both are told of.
        b.ok("service create web --network mesh --port 80 --ip 10.9.1.200");
        assert_eq!(
            dig(&client, "@10.7.0.1 web").1,
            ["10.9.0.200", "10.9.1.200"]
        );
        b.ok("service rm mesh web");
        known(&client, "@10.7.0.1 web", "10.9.0.200");

        // It is there after a crash, and goes with the peer.
        pair.a.kill();
        pair.a.start(&[]);
        wait::until("it serves again", 3 * SOON, || {
            greet(&client.net, vip).is_ok_and(|said| said == "b 10.9.1.2")
        });
        known(&client, "@10.7.0.1 web", "10.9.0.200");
        pair.b.ok("peer rm a");
        unknown(&client, "@10.7.0.1 web");
        assert!(!client.pings_at_once("10.9.0.200"));
    });
}

#[test]
fn a_node_that_is_told_nothing_reaches_a_service_by_its_address() {
    netns::inside(|world| {
        let Some(daemon) = network(world, [HOST.into(), FAR.into()]) else {
            return;
        };
        let [first, second] = ["a", "b"].map(|name| daemon.connected(name, &["plain"]));
        serve(&first.net, "a");
        serve(&second.net, "b");
        daemon.ok("service create web --network plain --port 80:8080 --ip 10.9.0.250 --ip6 fd09::fa --backend a b");
        world
            .far
            .ip("addr add 10.9.0.200/24 dev vx0\naddr add fd09::c8/64 dev vx0 nodad");
        for (vip, own) in [("10.9.0.250", "10.9.0.200"), ("fd09::fa", "fd09::c8")] {
            let vip = SocketAddr::new(vip.parse().unwrap(), 80);
            let said = greet(&world.far, vip).unwrap();
            assert!(
                [format!("a {own}"), format!("b {own}")].contains(&said),
                "{said}"
            );
        }
    });
}
