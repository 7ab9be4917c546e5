//! Name service over TCP, by a real client, and resolvers of which not all are well.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::support::netns::{self, BOTH, OUTSIDE, OUTSIDE_TWO, have};
use crate::support::weft::Sandbox;
use crate::support::{dns, guest};

/// What `dig` says in short when it asks the gateway once, a line an answer.
#[track_caller]
fn dig(sandbox: &Sandbox, server: IpAddr, args: &[&str]) -> Vec<String> {
    let server = format!("@{server}");
    let fixed = ["dig", &server, "+short", "+tries=1", "+time=9"];
    let said = sandbox.exec(&[&fixed, args].concat()).ok();
    said.lines().map(str::to_owned).collect()
}

/// Both ways to ask.
const WAYS: [&str; 2] = ["+notcp", "+tcp"];

#[test]
fn a_real_client_asks_over_tcp() {
    netns::inside(|world| {
        if !have("dig") {
            return;
        }
        let resolver = dns::serve(&world.outside, OUTSIDE, &[("a.test", &BOTH)]);
        let sandbox = world.sandbox(&["--name", "shuttle"]);
        for server in BOTH.map(|ip| sandbox.gateway_like(ip)) {
            let said = dig(&sandbox, server, &["+tcp", "a.test", "A"]);
            assert_eq!(said, [BOTH[0].to_string()], "from {server}");
            let said = dig(&sandbox, server, &["+tcp", "a.test", "AAAA"]);
            assert_eq!(said, [BOTH[1].to_string()], "from {server}");
            // Own names do not leave, and are known backwards.
            let own = sandbox.v4.to_string();
            assert_eq!(dig(&sandbox, server, &["+tcp", "shuttle"]), [&*own]);
            assert_eq!(dig(&sandbox, server, &["+tcp", "-x", &own]), ["shuttle."]);
            let many = ["+tcp", "+keepopen", "gateway", "a.test", "shuttle"];
            let gateway = sandbox.gateway.to_string();
            let want = [gateway, BOTH[0].to_string(), own];
            assert_eq!(dig(&sandbox, server, &many), want, "on one connection");
        }
        assert_eq!(resolver.over_tcp.load(Ordering::Relaxed), 6);
        let asked = resolver.asked.lock().unwrap().clone();
        assert!(asked.iter().all(|name| name == "a.test"), "{asked:?}");
        // State 06 is TIME_WAIT: a port of the host for a minute.
        let table = world
            .host
            .enter(|| fs::read_to_string("/proc/thread-self/net/tcp"))
            .unwrap();
        assert!(!table.contains(":0035 06 "), "{table}");
    });
}

#[test]
fn the_longest_answers_pass() {
    netns::inside(|world| {
        if !have("dig") {
            return;
        }
        // 16 bytes each, behind header and question.
        let many: Vec<IpAddr> = (0..4_000u16)
            .map(|n| Ipv4Addr::from_bits(0x0a00_0000 + u32::from(n)).into())
            .collect();
        dns::serve(&world.outside, OUTSIDE, &[("huge.test", &many)]);
        let sandbox = world.sandbox(&[]);
        for server in BOTH.map(|ip| sandbox.gateway_like(ip)) {
            // It asks by UDP, is told that the answer is truncated, and comes again.
            for args in [&["huge.test"][..], &["+tcp", "huge.test"]] {
                let said = dig(&sandbox, server, args);
                assert_eq!(said.len(), many.len(), "{args:?} from {server}");
            }
        }
    });
}

#[test]
fn a_bad_link_loses_nothing_of_an_answer() {
    netns::inside(|world| {
        if !have("dig") {
            return;
        }
        let many: Vec<IpAddr> = (0..2_000u16)
            .map(|n| Ipv4Addr::from_bits(0x0a00_0000 + u32::from(n)).into())
            .collect();
        dns::serve(&world.outside, OUTSIDE, &[("huge.test", &many)]);
        let bad = "loss=3%,reorder=5%,duplicate=2%,corrupt=1%,per=segment,seed=3";
        let sandbox = world.sandbox(&["--impair", bad]);
        for server in BOTH.map(|ip| sandbox.gateway_like(ip)) {
            for _ in 0..5 {
                let said = dig(&sandbox, server, &["+tcp", "+tries=3", "huge.test"]);
                let said: BTreeSet<_> = said.iter().collect();
                assert_eq!(said.len(), many.len(), "from {server}");
            }
        }
    });
}

#[test]
fn a_first_resolver_that_is_dead_is_passed() {
    netns::inside(|world| {
        if !have("dig") {
            return;
        }
        let wanted = [IpAddr::from([10, 0, 0, 4])];
        dns::serve(&world.outside, OUTSIDE_TWO, &[("a.test", &wanted)]);
        let silent = Ipv4Addr::new(192, 0, 2, 77);
        world.outside.ip(&format!("addr add {silent}/24 dev out0"));
        let asked = dns::silent(&world.outside, silent);
        let nobody = Ipv4Addr::new(192, 0, 2, 99);
        // Silent, refusing, not there, and on a loopback where nobody listens.
        for dead in [silent, OUTSIDE, nobody, Ipv4Addr::LOCALHOST] {
            world.resolvers(&[dead.into(), OUTSIDE_TWO.into()]);
            let sandbox = world.sandbox(&[]);
            for way in WAYS {
                let said = dig(&sandbox, sandbox.gateway.into(), &[way, "a.test"]);
                assert_eq!(said, ["10.0.0.4"], "{way} behind {dead}");
                let before = asked.load(Ordering::Relaxed);
                let said = dig(&sandbox, sandbox.gateway.into(), &[way, "a.test"]);
                assert_eq!(said, ["10.0.0.4"], "{way} behind {dead}");
                let more = asked.load(Ordering::Relaxed) - before;
                assert_eq!(more, 0, "{way}: a silent one is not waited for every time");
            }
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2, "once each way");
    });
}

#[test]
fn a_resolver_without_tcp_is_asked_over_udp() {
    netns::inside(|world| {
        if !have("dig") {
            return;
        }
        let wanted = [IpAddr::from([10, 0, 0, 5])];
        dns::serve_udp(&world.outside, OUTSIDE, &[("a.test", &wanted)]);
        let sandbox = world.sandbox(&[]);
        let said = dig(&sandbox, sandbox.gateway.into(), &["+tcp", "a.test"]);
        assert_eq!(said, ["10.0.0.5"]);
    });
}

#[test]
fn resolvers_on_the_hosts_loopback_are_reached_both_ways() {
    netns::inside(|world| {
        if !have("dig") {
            return;
        }
        let wanted = [IpAddr::from([10, 0, 0, 6])];
        let stubs: [IpAddr; 2] = [
            Ipv4Addr::new(127, 0, 0, 53).into(),
            Ipv6Addr::LOCALHOST.into(),
        ];
        for stub in stubs {
            dns::serve(&world.host, stub, &[("a.test", &wanted)]);
            world.resolvers(&[stub]);
            let sandbox = world.sandbox(&[]);
            for way in WAYS {
                let said = dig(&sandbox, sandbox.gateway.into(), &[way, "a.test"]);
                assert_eq!(said, ["10.0.0.6"], "{way} from {stub}");
            }
            // It is the gateway's to ask there, not the sandbox's.
            let direct = format!("@{stub}");
            let said = sandbox.exec(&["dig", &direct, "+time=1", "+tries=1", "a.test"]);
            assert_ne!(said.status, 0, "{said:?}");
        }
    });
}

#[test]
fn names_given_by_option_are_answered() {
    netns::inside(|world| {
        if !have("dig") {
            return;
        }
        world.resolvers(&[]);
        let sandbox = world.sandbox(&[
            "--add-host",
            "printer:10.1.2.3",
            "--add-host",
            "printer:fd99::7",
            "--add-host",
            "way.out:host-gateway",
        ]);
        for server in BOTH.map(|ip| sandbox.gateway_like(ip)) {
            for way in WAYS {
                let ask = |args: &[&str]| dig(&sandbox, server, &[&[way], args].concat());
                assert_eq!(ask(&["printer", "A"]), ["10.1.2.3"]);
                assert_eq!(ask(&["Printer", "AAAA"]), ["fd99::7"]);
                assert_eq!(ask(&["-x", "10.1.2.3"]), ["printer."]);
                assert_eq!(ask(&["-x", "fd99::7"]), ["printer."]);
                assert_eq!(ask(&["way.out", "A"]), [sandbox.gateway.to_string()]);
            }
        }
    });
}

#[test]
fn many_questions_go_down_one_connection_in_pieces() {
    netns::inside(|world| {
        let resolver = dns::serve(&world.outside, OUTSIDE, &[("a.test", &BOTH)]);
        many_questions(world);
        assert_eq!(resolver.over_tcp.load(Ordering::Relaxed), 80);
        // Four at a time for a network, which rested once at most.
        let connections = resolver.connections.load(Ordering::Relaxed);
        assert!(connections <= 8, "{connections} connections");
    });
}

#[test]
fn a_resolver_may_close_after_each_answer() {
    netns::inside(|world| {
        let resolver = dns::serve_one_by_one(&world.outside, OUTSIDE, &[("a.test", &BOTH)]);
        many_questions(world);
        assert_eq!(resolver.over_tcp.load(Ordering::Relaxed), 80);
    });
}

/// Asks sixty questions at once over TCP, of which two thirds are for the resolver, in each family.
fn many_questions(world: &netns::World) {
    let sandbox = world.sandbox(&[]);
    for server in BOTH.map(|ip| sandbox.gateway_like(ip)) {
        let mut stream = guest::connect(&sandbox.net, (server, 53).into()).unwrap();
        stream.set_nodelay(true).unwrap();
        let names = ["a.test", "gateway", "none.test"];
        let all: Vec<u8> = (0..60u16)
            .flat_map(|id| {
                let name = names[usize::from(id) % names.len()];
                let query = dns::query(id, name, id % 2 == 0);
                let len = u16::try_from(query.len()).unwrap().to_be_bytes();
                [&len, &*query].concat()
            })
            .collect();
        // Pieces that part lengths and messages at every place in turn.
        for piece in all.chunks(17) {
            stream.write_all(piece).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        let (mut rest, mut ids) = (&got[..], BTreeSet::new());
        while let Some((len, tail)) = rest.split_first_chunk::<2>() {
            let (message, tail) = tail.split_at(u16::from_be_bytes(*len).into());
            let id = u16::from_be_bytes([message[0], message[1]]);
            let code = if id % 3 == 2 { 3 } else { 0 };
            assert_eq!(message[3] & 0xf, code, "query {id}");
            assert!(ids.insert(id), "{id} once");
            rest = tail;
        }
        assert_eq!(ids.len(), 60, "from {server}");
    }
}

#[test]
fn connections_beyond_the_limit_take_the_place_of_idle_ones() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        let connect = |_| guest::connect(&sandbox.net, (sandbox.gateway, 53).into()).unwrap();
        let mut all: Vec<_> = (0..300).map(connect).collect();
        let query = dns::query(7, "gateway", false);
        let len = u16::try_from(query.len()).unwrap().to_be_bytes();
        let query = [&len, &*query].concat();
        let mut answered = |n: usize| {
            let mut length = [0; 2];
            let stream = &mut all[n];
            stream.write_all(&query).is_ok() && stream.read_exact(&mut length).is_ok()
        };
        assert!(!answered(0), "the first has made room");
        assert!(answered(299) && answered(100));
    });
}
