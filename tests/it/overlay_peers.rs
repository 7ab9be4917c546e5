//! What is told of peers, and what is done with them while all runs: figures, invites, keys, the size of packets.

use std::net::UdpSocket;
use std::process::Command;

use serde_json::Value;

use crate::support::daemon::Daemon;
use crate::support::hosts::{HOSTS, Pair, SEALED, Wire, peer, peer_drops, reach};
use crate::support::netns::{self, FAR, HOST};
use crate::support::wait::{self, SOON};
use crate::support::weft::Running;
use crate::support::{guest, servers};

/// The metrics of a daemon.
#[track_caller]
fn metrics(daemon: &Daemon<'_>, at: &netns::Namespace) -> String {
    let mut curl = Command::new("curl");
    curl.arg("-s").arg("--unix-socket").arg(daemon.socket());
    Running::start(at, curl.arg("http://weft/metrics"))
        .end(SOON)
        .ok()
}

/// The value of a line of metrics that begins so.
fn value(metrics: &str, line: &str) -> Option<f64> {
    let mut lines = metrics.lines().filter_map(|l| l.strip_prefix(line));
    lines.next()?.trim().parse().ok()
}

/// Runs `weft key` beside a daemon, and gives what it says on either output.
#[track_caller]
fn key(daemon: &Daemon<'_>, at: &netns::Namespace, words: &str) -> [String; 2] {
    let mut weft = Command::new(env!("CARGO_BIN_EXE_weft"));
    weft.arg("key").args(words.split_whitespace());
    let ended = Running::start(at, weft.arg("--store").arg(daemon.store())).end(SOON);
    assert_eq!(ended.status, 0, "{ended:?}");
    [ended.stdout.trim().to_owned(), ended.stderr]
}

#[test]
fn what_is_told_of_a_peer_on_a_bad_way_is_measured() {
    netns::inside(|world| {
        if !netns::have("nft") || !netns::have("curl") {
            return;
        }
        let wire = Wire::tap(&world.outside);
        let pair = Pair::met(world, &[]);
        let [web, db] = pair.furnish();
        let at = servers::tcp(&db.net, ([10, 9, 1, 2], 0), |mut stream, _| {
            guest::Pattern::new(1).expect(&mut stream, 1 << 20)
        });
        let mut stream = guest::connect(&web.net, at).unwrap();
        guest::Pattern::new(1).send(&mut stream, 1 << 20).unwrap();
        // What was heard on the way is said again: it is dropped for that.
        let [a, b] = HOSTS;
        let heard = wire.datagrams(a, b, SEALED);
        // Runs of datagrams that are cut later are left out.
        let single = |d: &&Vec<u8>| d.first() == Some(&4) && d.len() < 1400;
        let data = heard.iter().filter(single).take(20);
        let socket = world.host.enter(|| UdpSocket::bind((HOST, 0))).unwrap();
        for datagram in data {
            socket.send_to(datagram, (FAR, SEALED)).unwrap();
        }
        wait::until("replays are dropped", SOON, || {
            peer_drops(&pair.b, "replayed") > 0
        });
        // For a while nothing passes, and questions are lost.
        let nft = |line: &str| {
            let mut nft = Command::new("nft");
            Running::start(&world.outside, nft.arg(line)).end(SOON).ok();
        };
        nft("add table ip bad");
        nft("add chain ip bad way { type filter hook forward priority 0; }");
        nft("add rule ip bad way udp dport 7348 drop");
        for daemon in [&pair.a, &pair.b] {
            wait::until("loss is seen", SOON * 2, || {
                peer(daemon)["loss"].as_u64() > Some(0)
            });
        }
        nft("delete table ip bad");
        for (daemon, net, name, other) in [
            (&pair.a, &world.host, "b", &pair.b),
            (&pair.b, &world.far, "a", &pair.a),
        ] {
            wait::until("it is heard again", SOON * 2, || {
                let row = peer(daemon);
                let numbers = ["loss", "handshake", "rtt"].map(|n| row[n].as_u64() > Some(0));
                numbers == [true; 3] && row["state"] == "up" && row["mtu"] == 1418
            });
            let row = peer(daemon);
            assert_eq!(row["key"], daemon_key(other));
            assert!(
                row["endpoint"].as_str().unwrap().ends_with(":7348"),
                "{row}"
            );
            let text = metrics(daemon, net);
            let of = |name: &str, more: &str| {
                value(
                    &text,
                    &format!(
                        "weft_peer_{name}{{peer=\"{}\"{more}}}",
                        row["name"].as_str().unwrap()
                    ),
                )
            };
            assert_eq!(row["name"], name);
            for (way, frames, bytes) in [
                ("rx", "rx_frames", "rx_bytes"),
                ("tx", "tx_frames", "tx_bytes"),
            ] {
                assert!(
                    row[frames].as_u64() > Some(0) && row[bytes].as_u64() > Some(1000),
                    "{row}"
                );
                let way = format!(",direction=\"{way}\"");
                assert!(of("frames_total", &way) > Some(0.0), "{text}");
                assert!(of("bytes_total", &way) > Some(1000.0), "{text}");
            }
            assert_eq!((of("up", ""), of("mtu", "")), (Some(1.0), Some(1418.0)));
            for name in ["rtt_microseconds", "loss_permille", "handshake_age_seconds"] {
                assert!(of(name, "") > Some(0.0), "{name}: {text}");
            }
            let table = daemon.ok("show peers");
            let shown = [
                row["key"].as_str().unwrap(),
                row["endpoint"].as_str().unwrap(),
                " up ",
                "1418",
                "%",
                " ms",
            ];
            for part in shown {
                assert!(table.contains(part), "{part}: {table}");
            }
        }
        let drops = peer_drops(&pair.b, "replayed");
        let line = "weft_peer_dropped_frames_total{peer=\"a\",reason=\"replayed\"}";
        let text = metrics(&pair.b, &world.far);
        assert!(
            drops > 0 && value(&text, line) == Some(f64::from(u32::try_from(drops).unwrap())),
            "{text}"
        );
    });
}

/// The key of a daemon, as it is known to others.
#[track_caller]
fn daemon_key(daemon: &Daemon<'_>) -> Value {
    let mut weft = daemon.shell(env!("CARGO_BIN_EXE_weft"));
    let said = weft
        .args(["key", "show", "--store"])
        .arg(daemon.store())
        .output();
    String::from_utf8(said.unwrap().stdout)
        .unwrap()
        .trim()
        .into()
}

#[test]
fn an_invite_ends_with_its_time_and_is_taken_back() {
    netns::inside(|world| {
        let mut pair = Pair::strangers(world, &[]);
        let a = &pair.a;
        a.ok("network create mesh --driver overlay --subnet 10.9.0.0/21");
        let invite = |more: &str| a.ok(&format!("peer invite --endpoint {HOST} {more}"));
        for (ttl, part) in [
            ("1w", "24h"),
            ("-1", "24h"),
            ("4000d", "3650d"),
            ("h", "24h"),
        ] {
            let refused = a.weft(&format!("peer invite x --endpoint {HOST} --ttl={ttl}"));
            refused.refused(&["--ttl", part]);
        }
        invite("day");
        invite("ever --ttl 0");
        let line = invite("soon --ttl 1s");
        let state = |name: &str| {
            let table = pair.a.ok("peer ls");
            let row = table
                .lines()
                .find(|l| l.starts_with(name))
                .map(str::to_owned);
            row.unwrap_or_default()
        };
        assert!(state("day").contains("invited for 2"), "{}", state("day"));
        assert!(
            state("ever").trim_end().ends_with("invited"),
            "{}",
            state("ever")
        );
        wait::until("it expires", SOON, || state("soon").is_empty());
        let notes = pair.a.json("show daemon")["notes"].to_string();
        assert!(notes.contains("'soon' has expired"), "{notes}");
        // Its part of the network is another's.
        let given =
            |name: &str| pair.a.json(&format!("peer inspect {name}"))["prefixes"][0].clone();
        invite("next");
        assert_eq!(given("next"), "10.9.3.0/24");
        pair.a.ok("peer rm day next");
        pair.a.kill();
        pair.a.start(&[]);
        let left = pair.a.json("peer ls");
        assert_eq!(
            (left.as_array().map(Vec::len), &left[0]["name"]),
            (Some(1), &"ever".into())
        );
        // Who comes too late is told, and finds nobody.
        let late = pair.b.weft(line.trim().strip_prefix("weft ").unwrap());
        assert!(
            late.status == 0 && late.stderr.contains("has expired"),
            "{late:?}"
        );
        assert_eq!(late.stderr.lines().count(), 1, "{late:?}");
        assert_ne!(pair.b.weft("peer ping a").status, 0);
    });
}

#[test]
fn a_new_key_is_that_of_the_daemon_at_once() {
    netns::inside(|world| {
        let pair = Pair::strangers(world, &[]);
        let network =
            "network create mesh --driver overlay --subnet 10.9.0.0/21 --subnet6 fd09::/64";
        pair.a.ok(network);
        pair.b.ok(&format!("{network} --ip-range 10.9.1.0/24"));
        for (daemon, other, at) in [(&pair.a, &pair.b, FAR), (&pair.b, &pair.a, HOST)] {
            let key = daemon_key(other);
            let key = key.as_str().unwrap();
            daemon.ok(&format!("peer add other --key {key} --endpoint {at}"));
        }
        pair.settle();
        let [web, _db] = pair.furnish();
        pair.b.ok("peer invite late --ttl 1h");
        let socket = pair.b.socket();
        let line = format!("new --replace --socket {}", socket.display());
        let [new, said] = key(&pair.b, &world.far, &line);
        assert!(
            said.contains("has the new key") && said.contains("(late)"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(pair.b.json("peer ls").as_array().map(Vec::len), Some(1));
        // The other one is told, and all is as before.
        pair.a.ok("peer rm other");
        pair.a
            .ok(&format!("peer add other --key {new} --endpoint {FAR}"));
        pair.settle();
        reach(&web, "10.9.1.2");
        assert_eq!(peer(&pair.a)["key"], new);
        // Nobody is asked where the file is no daemon's.
        let other = pair.a.dir().join("other.redb");
        let weft = || {
            let mut weft = pair.a.shell(env!("CARGO_BIN_EXE_weft"));
            weft.args(["key", "new", "--replace", "--store"])
                .arg(&other);
            let said = weft.arg("--socket").arg(pair.a.socket()).output().unwrap();
            assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
        };
        weft();
        weft();
        assert_eq!(peer(&pair.a)["state"], "up");
    });
}

#[test]
fn an_overlay_takes_what_the_way_to_its_peers_takes() {
    netns::inside(|world| {
        let pair = Pair::strangers(world, &[]);
        let mtu = |daemon: &Daemon<'_>, name: &str| {
            daemon.json(&format!("network inspect {name}"))["mtu"].clone()
        };
        let make = |name: &str| {
            pair.a
                .ok(&format!("network create {name} --driver overlay"));
            mtu(&pair.a, name)
        };
        assert_eq!(make("plain"), 1418);
        // An address that the host has itself says nothing of the way to others.
        world
            .host
            .ip("addr add 203.0.113.1/32 dev lo\nroute del default");
        world.host.set("net/ipv6/conf/eth0/disable_ipv6", "1");
        world.host.ip("addr del 192.0.2.2/24 dev eth0\naddr add 203.0.113.9/24 dev eth0\nlink set eth0 mtu 1400");
        assert_eq!(make("alone"), 1318);
        world
            .host
            .ip("addr add 192.0.2.1/32 dev lo\naddr add 198.51.100.1/32 dev lo");
        assert_eq!(make("odd"), 1318);
        // The inviting host is reached by a narrower way than the world.
        world
            .far
            .ip("route add 192.0.2.0/24 via 198.51.100.1 mtu lock 1450");
        let line = pair.a.ok(&format!(
            "peer invite b --as a --network plain --endpoint {HOST}"
        ));
        pair.b.ok(line.trim().strip_prefix("weft ").unwrap());
        assert_eq!(mtu(&pair.b, "plain"), 1368);
    });
}
