//! The daemon: a virtual address in front of several sandboxes.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::support::daemon::Daemon;
use crate::support::netns::{self, Namespace};
use crate::support::wait::SOON;
use crate::support::{guest, servers};

const FRONT: &str = "network create front --subnet 10.7.0.0/24 --subnet6 fd07::/64";
const WEB: &str = "service create web --network front --port 80:8080 --port 53:5353/udp --ip 10.7.0.200 --ip6 fd07::200";

/// Tells everyone its name and who they are, over TCP and UDP, at both families of its sandbox.
pub(crate) fn serve(at: &Namespace, name: &'static str) {
    // One socket of IPv6 is for both.
    let any = IpAddr::from([0_u16; 8]);
    servers::tcp(at, (any, 8080), move |mut stream, peer| {
        let mut hello = [0; 5];
        stream.read_exact(&mut hello)?;
        write!(stream, "{name} {}", peer.ip().to_canonical())
    });
    servers::udp(at, (any, 5353), move |_, peer| {
        format!("{name} {}", peer.ip().to_canonical()).into_bytes()
    });
}

/// What a server says to a client.
pub(crate) fn greet(from: &Namespace, to: SocketAddr) -> Result<String, ErrorKind> {
    let stream = from.enter(|| TcpStream::connect_timeout(&to, SOON));
    let mut stream = stream.map_err(|e| e.kind())?;
    let mut answer = String::new();
    let told = stream
        .set_read_timeout(Some(SOON))
        .and_then(|()| stream.write_all(b"hello"))
        .and_then(|()| stream.read_to_string(&mut answer));
    told.map(|_| answer).map_err(|e| e.kind())
}

/// Connections of before are answered, some of them by the backend `a`.
#[track_caller]
pub(crate) fn assert_some_led_to_a(open: Vec<TcpStream>) {
    let said = open.into_iter().map(|mut stream| {
        let mut answer = String::new();
        stream.write_all(b"hello").unwrap();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let said: Vec<String> = said.collect();
    assert!(said.iter().any(|s| s.starts_with("a ")), "{said:?}");
}

#[test]
fn connections_and_datagrams_are_spread_and_failing_backends_passed_over() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        let [a, b, c] = ["a", "b", "c"].map(|name| daemon.connected(name, &["front"]));
        daemon.ok(&format!("{WEB} --backend a b"));
        serve(&a.net, "a");
        serve(&b.net, "b");
        for (vip, own) in [("10.7.0.200", "10.7.0.4"), ("fd07::200", "fd07::4")] {
            let vip: IpAddr = vip.parse().unwrap();
            let said: Vec<_> = (0..40)
                .map(|_| greet(&c.net, (vip, 80).into()).unwrap())
                .collect();
            for name in ["a", "b"] {
                let count = said
                    .iter()
                    .filter(|s| **s == format!("{name} {own}"))
                    .count();
                assert!(count > 5, "{name}: {said:?}");
            }
            let socket = guest::udp(&c.net, vip, Duration::from_secs(1));
            let first = guest::ask(&socket, (vip, 53).into(), b"who");
            for _ in 0..20 {
                assert_eq!(
                    guest::ask(&socket, (vip, 53).into(), b"who"),
                    first,
                    "one conversation"
                );
            }
            assert!(c.pings(&vip.to_string()));
            assert_eq!(
                greet(&c.net, (vip, 81).into()),
                Err(ErrorKind::ConnectionRefused)
            );
        }
        // A backend is a client, too, and is led to the other rather than to itself.
        let vip = SocketAddr::from(([10, 7, 0, 200], 80));
        assert_eq!(greet(&a.net, vip).unwrap(), "b 10.7.0.2");
        // What is open stays with a backend that is taken out.
        let open: Vec<_> = (0..10)
            .map(|_| guest::connect(&c.net, vip).unwrap())
            .collect();
        daemon.ok("service rm front web");
        daemon.ok(&format!("{WEB} --backend b"));
        assert_some_led_to_a(open);
        assert!((0..20).all(|_| greet(&c.net, vip).unwrap().starts_with("b ")));
        // One where nobody listens refuses one client, and then no other for a while.
        daemon.ok("service rm front web");
        daemon
            .ok("service create web --network front --port 80:9090 --ip 10.7.0.200 --backend a b");
        let listener = b.net.enter(|| TcpListener::bind("0.0.0.0:9090")).unwrap();
        let met: Vec<_> = (0..40)
            .map(|_| guest::connect(&c.net, vip).map(drop).map_err(|e| e.kind()))
            .collect();
        let refused = met
            .iter()
            .filter(|m| **m == Err(ErrorKind::ConnectionRefused));
        assert_eq!(refused.count(), 1, "{met:?}");
        drop(listener);
    });
}

#[test]
fn who_asks_where_nobody_listens_is_told_so() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        let [_backend, client] = ["a", "b"].map(|name| daemon.connected(name, &["front"]));
        daemon.ok(&format!("{WEB} --backend a"));
        for vip in ["10.7.0.200", "fd07::200"] {
            let vip: IpAddr = vip.parse().unwrap();
            let socket = guest::udp(&client.net, vip, SOON);
            socket.connect((vip, 53)).unwrap();
            socket.send(b"who").unwrap();
            // It comes from the service, about what was sent to the service.
            let told = socket.recv(&mut [0; 64]).map_err(|e| e.kind());
            assert_eq!(told, Err(ErrorKind::ConnectionRefused), "{vip}");
        }
    });
}
