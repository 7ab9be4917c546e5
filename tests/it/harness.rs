//! The harness itself, with no `weft` in between: what fails here is not weft's fault.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::support::netns::{self, BOTH, FAR, FAR6, HOST};
use crate::support::{dns, guest, servers};

#[test]
fn the_host_reaches_the_outside() {
    netns::inside(|world| {
        for ip in BOTH {
            let page = guest::fetch(&world.host, servers::http(&world.outside, (ip, 0)));
            assert!(page.starts_with("hello "), "{page}");
        }
        for ip in [IpAddr::from(FAR), IpAddr::from(FAR6)] {
            guest::fetch(&world.host, servers::http(&world.far, (ip, 0)));
        }
        let (echo, count) = servers::udp_echo(&world.outside, (BOTH[0], 0));
        let socket = guest::udp(&world.host, BOTH[0], Duration::from_secs(1));
        assert_eq!(guest::ask_once(&socket, echo, b"ping"), b"ping");
        assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 1);
        let who = servers::udp_whoami(&world.outside, (BOTH[0], 0));
        let me = String::from_utf8(guest::ask(&socket, who, b"?")).unwrap();
        assert_eq!(me.parse::<SocketAddr>().unwrap().ip(), HOST);
        assert_eq!(world.processes(), Vec::<String>::new());
    });
}

#[test]
fn the_resolver_answers() {
    netns::inside(|world| {
        let resolver = dns::serve(&world.outside, BOTH[0], &[("a.test", &BOTH)]);
        let socket = guest::udp(&world.host, BOTH[0], Duration::from_secs(1));
        let query = dns::query(7, "a.test", true);
        let reply = guest::ask_once(&socket, (BOTH[0], 53).into(), &query);
        assert!(reply.ends_with(&[0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]));
        assert_eq!(*resolver.asked.lock().unwrap(), ["a.test"]);
    });
}
