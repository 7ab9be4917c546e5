//! The daemon: who may talk to whom, and how much.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::support::daemon::{Daemon, Place};
use crate::support::guest::{self, Pattern};
use crate::support::netns::{self, OUTSIDE};
use crate::support::servers;
use crate::support::wait::{self, SOON};

const FRONT: &str = "network create front --subnet 10.7.0.0/24 --subnet6 fd07::/64";

/// Sets a policy with these rules.
#[track_caller]
fn set(daemon: &Daemon<'_>, scope: &str, rules: &[&str]) {
    let mut words: Vec<_> = ["policy", "set"].into();
    words.extend(scope.split_whitespace());
    for rule in rules {
        words.extend(["--rule", rule]);
    }
    let ended = daemon.words(&words);
    assert_eq!(ended.status, 0, "{ended:?}");
}

/// What becomes of a connection.
fn met(from: &Place, to: SocketAddr) -> Result<(), ErrorKind> {
    met_within(SOON, from, to)
}

/// As `met`, of one that is not to be answered.
fn met_within(patience: Duration, from: &Place, to: SocketAddr) -> Result<(), ErrorKind> {
    let stream = from
        .net
        .enter(|| std::net::TcpStream::connect_timeout(&to, patience));
    stream.map(drop).map_err(|e| e.kind())
}

#[test]
fn rules_of_an_endpoint_and_of_its_network() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        let (a, b) = (
            daemon.connected("a", &["front"]),
            daemon.connected("b", &["front"]),
        );
        let outside = servers::http(&world.outside, (IpAddr::from(OUTSIDE), 0));
        for (ip, prefix) in [("10.7.0.3", "10.7.0.0/24"), ("fd07::3", "fd07::/64")] {
            let ip: IpAddr = ip.parse().unwrap();
            let open = servers::http(&b.net, (ip, 80));
            let shut = servers::http(&b.net, (ip, 81));
            let rule = format!("ingress allow tcp {prefix} 80");
            set(&daemon, "front --sandbox b --ingress drop", &[&rule]);
            guest::fetch(&a.net, open);
            let silent = met_within(Duration::from_secs(1), &a, shut);
            assert_eq!(silent, Err(ErrorKind::TimedOut));
            assert!(!a.pings_at_once(&ip.to_string()), "{ip}");
            let back = if ip.is_ipv4() { "10.7.0.2" } else { "fd07::2" };
            assert!(b.pings(back), "answers come in");
            set(&daemon, "front --sandbox b --ingress reject", &[&rule]);
            assert_eq!(met(&a, shut), Err(ErrorKind::ConnectionRefused));
            daemon.ok("policy rm front --sandbox b");
            assert_eq!(met(&a, shut), Ok(()));
        }
        // The network's rules are everybody's, behind their own.
        let some = format!("egress allow tcp {}", outside.ip());
        set(&daemon, "front --sandbox a", &[&some]);
        set(&daemon, "front --egress reject", &[]);
        guest::fetch(&a.net, outside);
        assert_eq!(met(&b, outside), Err(ErrorKind::ConnectionRefused));
        assert!(!b.pings_at_once("10.7.0.2") && b.pings("10.7.0.1"));
        assert!(daemon.drops("denied") > 0);
    });
}

#[test]
fn limits_of_an_endpoint_are_kept() {
    const SIZE: usize = 1_000_000;
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        let (a, b) = (
            daemon.connected("a", &["front"]),
            daemon.connected("b", &["front"]),
        );
        let sink = servers::tcp(&b.net, (IpAddr::from([10, 7, 0, 3]), 0), |mut stream, _| {
            Pattern::new(7).expect(&mut stream, SIZE)
        });
        let lasts = || {
            let begun = Instant::now();
            let mut stream = guest::connect(&a.net, sink).unwrap();
            Pattern::new(7).send(&mut stream, SIZE).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            guest::expect_end(&mut stream);
            begun.elapsed()
        };
        for (who, limit) in [("a", "egress"), ("b", "ingress")] {
            daemon.ok(&format!(
                "policy set front --sandbox {who} --limit {limit}=1M:100K"
            ));
            let took = lasts();
            // A second for what is behind the burst, less the overshoot of one frame.
            assert!(took > Duration::from_millis(800), "{limit}: {took:?}");
            assert!(daemon.drops("rate-limited") > 0, "{limit}");
            daemon.ok(&format!("policy rm front --sandbox {who}"));
        }
        // To everybody there is a limit by itself.
        daemon.ok("policy set front --sandbox a --limit broadcast=1:10");
        a.sh("ping -n -b -c 100 -i 0.002 -W 1 10.7.0.255");
        wait::until("it is a storm", SOON, || daemon.drops("storm") >= 50);
    });
}
