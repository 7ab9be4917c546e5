//! A sealed overlay of two hosts that have met by an invite: what passes, what is told, and that nobody else reads it.

use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use crate::support::daemon::{Daemon, Place};
use crate::support::hosts::{HOSTS, Pair, SEALED, Wire, address, answers, peer, reach};
use crate::support::netns::{FAR, FAR6, HOST, HOST6};
use crate::support::wait::{self, SOON};
use crate::support::{guest, netns, servers};

/// What nobody outside may read.
const MARKER: &[u8] = b"nobody between the hosts is to read this line";

/// The addresses that a resolver gives, as `dig` shows them.
#[track_caller]
fn dig(place: &Place, words: &str) -> Vec<String> {
    let said = place
        .sh(&format!("dig +short +time=2 +tries=5 {words}"))
        .ok();
    let answer = said.lines().filter(|line| !line.starts_with(";;"));
    answer.map(str::to_owned).collect()
}

/// Sends the marker over TCP and has it come back, by either family.
#[track_caller]
fn echo(client: &Place, server: &Place, to: IpAddr) {
    let at = servers::tcp(&server.net, (to, 0), |mut stream, _| {
        let mut text = vec![0; MARKER.len()];
        stream.read_exact(&mut text)?;
        stream.write_all(&text)
    });
    let mut stream = guest::connect(&client.net, at).unwrap();
    stream.write_all(MARKER).unwrap();
    let mut back = vec![0; MARKER.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, MARKER);
}

/// The IPv6 address of an endpoint.
#[track_caller]
fn address6(daemon: &Daemon<'_>, name: &str) -> String {
    let shown = daemon.json(&format!("endpoint inspect mesh {name}"));
    shown["v6"].as_str().unwrap().to_owned()
}

#[test]
fn two_hosts_are_one_network_that_nobody_reads() {
    netns::inside(|world| {
        let wire = Wire::tap(&world.outside);
        let pair = Pair::met(world, &[]);
        let [web, db] = pair.furnish();
        assert!(web.pings("10.9.1.2") && db.pings("10.9.0.2"));
        let (web6, db6) = (address6(&pair.a, "web"), address6(&pair.b, "db"));
        assert!(web.pings(&db6) && db.pings(&web6));
        for (client, server, to) in [
            (&web, &db, "10.9.1.2"),
            (&db, &web, "10.9.0.2"),
            (&web, &db, &*db6),
            (&db, &web, &*web6),
        ] {
            echo(client, server, to.parse().unwrap());
        }
        // 44 segments of 1,366 bytes are a run of datagrams, and a longer super-frame would need a second send.
        let link = web.sh("ip -d link show eth0").ok();
        assert!(link.contains(" gso_max_size 60552 "), "{link}");
        // As large a transfer as one likes, both ways at a time.
        let sink = servers::tcp(&db.net, ([10, 9, 1, 2], 0), |mut stream, _| {
            guest::Pattern::new(1).expect(&mut stream, 32 << 20)?;
            guest::Pattern::new(2).send(&mut stream, 8 << 20)
        });
        let mut stream = guest::connect(&web.net, sink).unwrap();
        guest::Pattern::new(1).send(&mut stream, 32 << 20).unwrap();
        guest::Pattern::new(2).expect(&mut stream, 8 << 20).unwrap();
        // Datagrams too.
        let (at, _) = servers::udp_echo(&db.net, ([10, 9, 1, 2], 0));
        let socket = guest::udp(&web.net, at.ip(), SOON);
        assert_eq!(guest::ask(&socket, at, MARKER), MARKER);

        for daemon in [&pair.a, &pair.b] {
            wait::until("rtt and MTU are known", SOON, || {
                let row = peer(daemon);
                row["rtt"].is_u64() && row["mtu"] == 1418
            });
            let row = peer(daemon);
            assert!(row["handshake"].is_u64(), "{row}");
            assert_eq!(row["drops"].to_string(), "[]");
            assert_eq!(row["problems"].to_string(), "[]");
            assert!(row["tx_bytes"].as_u64() > Some(8 << 20), "{row}");
            assert!(row["rx_bytes"].as_u64() > Some(8 << 20), "{row}");
            let table = daemon.ok("show peers");
            assert!(table.contains(" up "), "{table}");
        }
        answers(&pair.a, "b");
        answers(&pair.b, "a");

        let [a, b] = HOSTS;
        let passed = wire.datagrams(a, b, 7348).len();
        assert!(passed > 20, "{passed} datagrams were heard");
        assert!(!wire.holds(MARKER), "the underlay shows what is inside");
        for inner in [[10, 9, 0, 2, 10, 9, 1, 2], [10, 9, 1, 2, 10, 9, 0, 2]] {
            assert!(!wire.holds(&inner), "the underlay shows who speaks");
        }
    });
}

#[test]
fn names_resolve_across_hosts_and_go_with_their_endpoints() {
    netns::inside(|world| {
        if !netns::have("dig") {
            return;
        }
        let pair = Pair::met(world, &[]);
        let [web, db] = pair.furnish();
        let known = |place: &Place, name: &str, wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|&w| w.to_owned()).collect();
            wait::settled(name, &wanted, SOON, || {
                dig(place, &format!("@10.9.0.1 {name}"))
            });
        };
        known(&web, "db", &["10.9.1.2"]);
        known(&db, "web", &["10.9.0.2"]);
        known(&web, "-x 10.9.1.2", &["db."]);
        // Nobody outside is asked who has an address inside.
        let said = web.sh("dig +time=2 +tries=5 @10.9.0.1 -x 10.9.1.99").ok();
        assert!(said.contains("NXDOMAIN") && said.contains(" aa "), "{said}");
        // Who is there is shown, behind the host that it is on.
        let rows = pair.a.json("show macs");
        let far = rows
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["sandbox_name"] == "db");
        let shown = pair.b.json("endpoint inspect mesh db");
        let far = far.unwrap_or_else(|| panic!("{rows}"));
        assert_eq!(
            (&far["mac"], &far["peer_name"]),
            (&shown["mac"], &"b".into())
        );
        let table = pair.a.ok("show macs");
        assert!(
            table
                .lines()
                .any(|l| l.contains(" db ") && l.contains(" announced ")),
            "{table}"
        );
        let other = pair.b.sandbox();
        let pid = other.pid;
        pair.b.ok(&format!(
            "endpoint connect mesh {pid} --name cache --alias redis --ip 10.9.1.3"
        ));
        known(&web, "redis", &["10.9.1.3"]);
        // What leaves is gone, its name and its address.
        pair.b.ok("endpoint disconnect mesh cache");
        known(&web, "redis", &[]);
        known(&web, "cache", &[]);
        web.sh("ip neigh flush dev eth0");
        assert!(!web.pings_at_once("10.9.1.3"));
        let neighbour = web.sh("ip neigh show 10.9.1.3").ok();
        assert!(!neighbour.contains("lladdr"), "{neighbour}");
        // A sandbox that dies leaves as well.
        db.end();
        known(&web, "db", &[]);
    });
}

#[test]
fn an_endpoint_that_moves_is_reached_at_its_new_host() {
    netns::inside(|world| {
        let pair = Pair::met(world, &[]);
        let [web, db] = pair.furnish();
        let take = |daemon: &Daemon<'_>, network: &str| {
            let place = daemon.sandbox();
            let pid = place.pid;
            daemon.ok(&format!(
                "endpoint connect {network} {pid} --name mover --mac 02:00:00:00:00:77"
            ));
            place
        };
        let first = take(&pair.b, "mesh");
        let before = address(&pair.b, "mesh", "mover");
        reach(&web, &before);
        pair.b.ok("endpoint disconnect mesh mover");
        drop(first);
        let second = take(&pair.a, "mesh");
        let after = address(&pair.a, "mesh", "mover");
        reach(&db, &after);
        reach(&web, &after);
        reach(&second, "10.9.1.2");
        assert!(!web.pings_at_once(&before), "nobody is there any more");
        // And back again.
        pair.a.ok("endpoint disconnect mesh mover");
        drop(second);
        let third = take(&pair.b, "mesh");
        let back = address(&pair.b, "mesh", "mover");
        reach(&web, &back);
        reach(&third, "10.9.0.2");
    });
}

#[test]
fn a_host_that_was_killed_comes_back_and_flows_go_on() {
    netns::inside(|world| {
        let mut pair = Pair::met(world, &[]);
        let [web, db] = pair.furnish();
        let at = servers::tcp(&db.net, ([10, 9, 1, 2], 0), |mut stream, _| {
            let mut word = [0; 4];
            while stream.read_exact(&mut word).is_ok() {
                stream.write_all(&word)?;
            }
            Ok(())
        });
        let mut stream = guest::connect(&web.net, at).unwrap();
        let mut says = |word: &[u8; 4]| {
            stream.write_all(word).unwrap();
            let mut back = [0; 4];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(&back, word);
        };
        says(b"one.");
        for invited in [true, false] {
            let daemon = if invited { &mut pair.b } else { &mut pair.a };
            daemon.kill();
            daemon.start(&[]);
            pair.settle();
            reach(&web, "10.9.1.2");
            reach(&db, "10.9.0.2");
            says(b"two.");
        }
        // What was made anew is known on both.
        let late = pair.b.connected("late", &["mesh"]);
        reach(&late, "10.9.0.2");
    });
}

#[test]
fn an_overlay_passes_over_ipv6() {
    netns::inside(|world| {
        let wire = Wire::tap(&world.outside);
        let pair = Pair::strangers(world, &[]);
        pair.a
            .ok("network create mesh --driver overlay --subnet 10.9.0.0/21");
        pair.meet(HOST6.into());
        let [web, db] = pair.furnish();
        let (web6, db6) = (address6(&pair.a, "web"), address6(&pair.b, "db"));
        for (client, server, to) in [
            (&web, &db, "10.9.1.2"),
            (&db, &web, "10.9.0.2"),
            (&web, &db, &*db6),
            (&db, &web, &*web6),
        ] {
            reach(client, to);
            echo(client, server, to.parse().unwrap());
        }
        let sink = servers::tcp(&db.net, ([10, 9, 1, 2], 0), |mut stream, _| {
            guest::Pattern::new(1).expect(&mut stream, 16 << 20)?;
            guest::Pattern::new(2).send(&mut stream, 16 << 20)
        });
        let mut stream = guest::connect(&web.net, sink).unwrap();
        guest::Pattern::new(1).send(&mut stream, 16 << 20).unwrap();
        guest::Pattern::new(2)
            .expect(&mut stream, 16 << 20)
            .unwrap();
        if netns::have("dig") {
            for (place, name, wanted) in [(&web, "db", "10.9.1.2"), (&db, "web", "10.9.0.2")] {
                assert_eq!(dig(place, &format!("@10.9.0.1 {name}")), [wanted]);
            }
            assert_eq!(dig(&web, "@10.9.0.1 db AAAA"), [&*db6]);
        }
        for (daemon, at) in [(&pair.a, FAR6), (&pair.b, HOST6)] {
            wait::until("the way is known", SOON, || peer(daemon)["mtu"] == 1398);
            let row = peer(daemon);
            assert_eq!(row["endpoint"], format!("[{at}]:{SEALED}"), "{row}");
            assert_eq!(row["problems"].to_string(), "[]");
        }
        assert!(!wire.holds(MARKER), "the underlay shows what is inside");
    });
}

/// A stream that never ends by itself: what has come through of it, and the way to end it.
struct Flow {
    come: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    sender: JoinHandle<()>,
}

impl Flow {
    const PIECE: usize = 64 << 10;

    #[track_caller]
    fn begin(from: &Place, to: &Place, at: [u8; 4]) -> Self {
        let (come, ends) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let count = Arc::clone(&come);
        let at = servers::tcp(&to.net, (at, 0), move |mut stream, _| {
            let mut pattern = guest::Pattern::new(3);
            loop {
                pattern.expect(&mut stream, Self::PIECE)?;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut stream = guest::connect(&from.net, at).unwrap();
        let end = Arc::clone(&ends);
        let sender = thread::spawn(move || {
            let mut pattern = guest::Pattern::new(3);
            while !end.load(Ordering::Relaxed) {
                pattern.send(&mut stream, Self::PIECE).unwrap();
            }
        });
        Self { come, ends, sender }
    }

    /// Waits until more comes through.
    #[track_caller]
    fn passes(&self) {
        let before = self.come.load(Ordering::Relaxed);
        wait::until("more comes through", SOON, || {
            self.come.load(Ordering::Relaxed) > before + 16
        });
    }

    fn end(self) {
        self.ends.store(true, Ordering::Relaxed);
        self.sender.join().unwrap();
    }
}

#[test]
fn a_transfer_outlives_the_death_of_either_switch() {
    netns::inside(|world| {
        let mut pair = Pair::met(world, &[]);
        let [web, db] = pair.furnish();
        let state = |daemon: &Daemon<'_>| {
            let mut state = vec![daemon.state(), daemon.json("peer ls")];
            let rows = daemon.json("show macs");
            let mut rows = rows.as_array().unwrap().clone();
            rows.sort_by_key(|row| row["mac"].to_string());
            state.push(rows.into());
            state
        };
        let known = [state(&pair.a), state(&pair.b)];
        let flows = [
            Flow::begin(&web, &db, [10, 9, 1, 2]),
            Flow::begin(&db, &web, [10, 9, 0, 2]),
        ];
        for invited in [true, false] {
            flows.iter().for_each(Flow::passes);
            let daemon = if invited { &mut pair.b } else { &mut pair.a };
            daemon.kill();
            daemon.start(&[]);
            // It knows where the other is without hearing from it.
            let at = if invited { HOST } else { FAR };
            assert_eq!(peer(daemon)["endpoint"], format!("{at}:{SEALED}"));
            flows.iter().for_each(Flow::passes);
            for (daemon, before) in [&pair.a, &pair.b].into_iter().zip(&known) {
                wait::settled("all is as it was", before, SOON, || state(daemon));
            }
            if netns::have("dig") {
                assert_eq!(dig(&web, "@10.9.0.1 db"), ["10.9.1.2"]);
                assert_eq!(dig(&db, "@10.9.0.1 web"), ["10.9.0.2"]);
            }
        }
        for flow in flows {
            flow.end();
        }
    });
}
