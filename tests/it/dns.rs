//! Names inside: forwarding, the host's changes followed, own names, TCP.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::support::netns::{self, BOTH, OUTSIDE, OUTSIDE_TWO, OUTSIDE6};
use crate::support::wait::{self, SOON};
use crate::support::weft::Sandbox;
use crate::support::{dns, guest};

/// Asks the gateway; returns the answer's code and whether it ends with the address wanted.
fn ask(sandbox: &Sandbox, server: IpAddr, name: &str, wanted: IpAddr) -> (u8, bool) {
    let socket = guest::udp(&sandbox.net, server, Duration::from_secs(1));
    let query = dns::query(0x1234, name, wanted.is_ipv6());
    let reply =
        guest::try_ask(&socket, SocketAddr::from((server, 53)), &query, 20).unwrap_or_default();
    let code = reply.get(3).map_or(0xff, |flags| flags & 0x0f);
    let data = match wanted {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    (code, reply.windows(data.len()).any(|part| part == data))
}

#[test]
fn questions_are_forwarded() {
    netns::inside(|world| {
        let resolver = dns::serve(&world.outside, OUTSIDE, &[("a.test", &BOTH)]);
        let sandbox = world.sandbox(&[]);
        for server in BOTH.map(|ip| sandbox.gateway_like(ip)) {
            for ip in BOTH {
                assert_eq!(
                    ask(&sandbox, server, "a.test", ip),
                    (0, true),
                    "{ip} from {server}"
                );
            }
            assert_eq!(
                ask(&sandbox, server, "none.test", BOTH[0]),
                (3, false),
                "NXDOMAIN is passed on"
            );
        }
        assert!(
            resolver
                .asked
                .lock()
                .unwrap()
                .iter()
                .any(|name| name == "none.test")
        );
    });
}

#[test]
fn programs_inside_resolve() {
    netns::inside(|world| {
        dns::serve(&world.outside, OUTSIDE, &[("a.test", &BOTH)]);
        let said = world.run(&[], &["getent", "ahostsv4", "a.test"]).ok();
        assert!(said.contains(&OUTSIDE.to_string()), "{said}");
        let said = world.run(&[], &["getent", "ahostsv6", "a.test"]).ok();
        assert!(said.contains(&OUTSIDE6.to_string()), "{said}");
    });
}

#[test]
fn long_answers_come_over_tcp() {
    netns::inside(|world| {
        let many: Vec<IpAddr> = (0..80)
            .map(|n| IpAddr::from(Ipv4Addr::new(10, 9, 8, n)))
            .collect();
        let resolver = dns::serve(&world.outside, OUTSIDE, &[("many.test", &many)]);
        let sandbox = world.sandbox(&[]);
        // Over UDP the answer is marked as truncated, or made to fit by EDNS; never cut in silence.
        let socket = guest::udp(&sandbox.net, OUTSIDE.into(), Duration::from_secs(1));
        let query = dns::query(1, "many.test", false);
        let reply = guest::ask(&socket, (sandbox.gateway, 53).into(), &query);
        assert!(
            reply.get(2).is_some_and(|flags| flags & 0x02 != 0),
            "truncated: {reply:?}"
        );
        for server in BOTH.map(|ip| sandbox.gateway_like(ip)) {
            let mut stream = guest::connect(&sandbox.net, (server, 53).into()).unwrap();
            let length = u16::try_from(query.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length, &*query].concat()).unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut reply = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut reply).unwrap();
            assert_eq!(reply.get(6..8), Some(&[0, 80][..]), "all eighty over TCP");
        }
        assert!(resolver.over_tcp.load(std::sync::atomic::Ordering::Relaxed) > 0);
        if netns::have("dig") {
            let said = sandbox
                .exec(&[
                    "dig",
                    "+short",
                    &format!("@{}", sandbox.gateway),
                    "many.test",
                ])
                .ok();
            assert_eq!(said.lines().count(), 80, "{said}");
        }
    });
}

#[test]
fn a_renamed_resolv_conf_is_followed() {
    netns::inside(|world| {
        let (old, new) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        dns::serve(&world.outside, OUTSIDE, &[("a.test", &[old])]);
        dns::serve(&world.outside, OUTSIDE_TWO, &[("a.test", &[new])]);
        let sandbox = world.sandbox(&[]);
        let gateway = sandbox.gateway.into();
        assert_eq!(ask(&sandbox, gateway, "a.test", old), (0, true));
        world.resolvers(&[OUTSIDE_TWO.into()]);
        wait::until("the new resolver is asked", SOON, || {
            ask(&sandbox, gateway, "a.test", new) == (0, true)
        });
        // Inside, the file still names the gateway.
        let inside =
            fs::read_to_string(format!("/proc/{}/root/etc/resolv.conf", sandbox.pid)).unwrap();
        assert!(inside.contains(&sandbox.gateway.to_string()), "{inside}");
        assert!(!inside.contains(&OUTSIDE_TWO.to_string()), "{inside}");
        // Back again: the watch outlives the first rename.
        world.resolvers(&[OUTSIDE.into()]);
        wait::until("the old resolver is asked again", SOON, || {
            ask(&sandbox, gateway, "a.test", old) == (0, true)
        });
    });
}

#[test]
fn a_resolver_on_the_hosts_loopback_is_reached() {
    netns::inside(|world| {
        let wanted = IpAddr::from([10, 0, 0, 3]);
        let stub = Ipv4Addr::new(127, 0, 0, 53);
        dns::serve(&world.host, stub, &[("a.test", &[wanted])]);
        world.resolvers(&[stub.into()]);
        let sandbox = world.sandbox(&[]);
        assert_eq!(
            ask(&sandbox, sandbox.gateway.into(), "a.test", wanted),
            (0, true)
        );
    });
}

#[test]
fn own_names_are_answered_without_a_resolver() {
    netns::inside(|world| {
        world.resolvers(&[]);
        let sandbox = world.sandbox(&["--name", "shuttle"]);
        let server = sandbox.gateway.into();
        for (name, ip) in [
            ("gateway", sandbox.gateway.into()),
            ("gateway", sandbox.gateway6.into()),
            ("shuttle", IpAddr::from(sandbox.v4)),
            ("shuttle", sandbox.v6.into()),
        ] {
            assert_eq!(ask(&sandbox, server, name, ip), (0, true), "{name} {ip}");
        }
    });
}

#[test]
fn the_second_resolver_answers_for_a_dead_first() {
    netns::inside(|world| {
        let wanted = IpAddr::from([10, 0, 0, 4]);
        dns::serve(&world.outside, OUTSIDE_TWO, &[("a.test", &[wanted])]);
        // Nobody is at the first.
        world.resolvers(&[IpAddr::from([192, 0, 2, 99]), OUTSIDE_TWO.into()]);
        let sandbox = world.sandbox(&[]);
        assert_eq!(
            ask(&sandbox, sandbox.gateway.into(), "a.test", wanted),
            (0, true)
        );
    });
}

#[test]
fn dead_resolvers_are_an_honest_failure() {
    netns::inside(|world| {
        world.resolvers(&[IpAddr::from([192, 0, 2, 99])]);
        let sandbox = world.sandbox(&[]);
        // SERVFAIL, RFC 1035 section 4.1.1.
        assert_eq!(
            ask(&sandbox, sandbox.gateway.into(), "a.test", BOTH[0]).0,
            2
        );
    });
}

#[test]
fn the_option_replaces_the_hosts_resolvers() {
    netns::inside(|world| {
        let wanted = IpAddr::from([10, 0, 0, 5]);
        dns::serve(&world.outside, OUTSIDE_TWO, &[("a.test", &[wanted])]);
        let sandbox = world.sandbox(&["--dns", &OUTSIDE_TWO.to_string()]);
        assert_eq!(
            ask(&sandbox, sandbox.gateway.into(), "a.test", wanted),
            (0, true)
        );
    });
}
