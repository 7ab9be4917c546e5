//! Sandboxes that lie, shout and flood: they hurt themselves, and their neighbours go on.

use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use crate::support::daemon::{Daemon, Place};
use crate::support::netns;
use crate::support::wait::{self, SOON};
use crate::support::weft::json;
use crate::support::{guest, servers};

/// What all programs below begin with: `send` puts a frame on the wire of `eth0`, `me` is the sender's MAC.
const PRELUDE: &str = r#"
import socket, struct, sys, time
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0))
me = raw.getsockname()[4]
other = bytes.fromhex("020000000099")
ALL = b"\xff" * 6
def send(frame):
    for _ in range(1000):
        try:
            return raw.send(frame)
        except OSError:
            time.sleep(0.001)
def ones(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(">%dH" % (len(data) // 2), data))
    while total > 0xffff:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def ip4(src, dst, proto, data):
    src, dst = socket.inet_aton(src), socket.inet_aton(dst)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(data), 1, 0, 64, proto, 0) + src + dst
    return b"\x08\0" + head[:10] + struct.pack(">H", ones(head)) + head[12:] + data
def udp4(src, dst, sport, dport, data):
    return ip4(src, dst, 17, struct.pack(">HHHH", sport, dport, 8 + len(data), 0) + data)
def syn4(src, dst, sport, dport):
    tcp = struct.pack(">HHIIBBHHH", sport, dport, 1, 0, 0x50, 2, 65535, 0, 0)
    total = ones(socket.inet_aton(src) + socket.inet_aton(dst) + struct.pack(">HH", 6, len(tcp)) + tcp)
    return ip4(src, dst, 6, tcp[:16] + struct.pack(">H", total) + tcp[18:])
def ip6(src, dst, proto, body, at, hops=255):
    src, dst = socket.inet_pton(socket.AF_INET6, src), socket.inet_pton(socket.AF_INET6, dst)
    total = ones(src + dst + struct.pack(">II", len(body), proto) + body)
    body = body[:at] + struct.pack(">H", total) + body[at + 2:]
    return b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, len(body), proto, hops) + src + dst + body
def icmp6(src, dst, kind, data):
    return ip6(src, dst, 58, struct.pack(">BBH", kind, 0, 0) + data, 2)
def udp6(src, dst, sport, dport, data):
    return ip6(src, dst, 17, struct.pack(">HHHH", sport, dport, 8 + len(data), 0) + data, 6)
NODES = bytes.fromhex("333300000001")
ll = socket.inet_ntop(socket.AF_INET6, b"\xfe\x80" + b"\0" * 6 + bytes([me[0] ^ 2]) + me[1:3] + b"\xff\xfe" + me[3:])
def arp(op, mac, ip, target):
    return b"\x08\x06" + struct.pack(">HHBBH", 1, 0x800, 6, 4, op) + mac + socket.inet_aton(ip) + b"\0" * 6 + socket.inet_aton(target)
"#;

/// Runs a program of python inside, to its end.
#[track_caller]
fn python(place: &Place, program: &str) {
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script.path(), format!("{PRELUDE}{program}")).unwrap();
    place
        .sh(&format!("python3 {}", script.path().display()))
        .ok();
}

/// A daemon with a network, a bad sandbox and two good ones, who know each other.
fn three<'w>(world: &'w netns::World) -> (Daemon<'w>, [Place; 3]) {
    let daemon = Daemon::root(world);
    daemon.ok("network create front --subnet 10.7.0.0/24 --subnet6 fd07::/64");
    let places = ["bad", "b", "c"].map(|name| daemon.connected(name, &["front"]));
    servers::http(&places[2].net, (IpAddr::from([10, 7, 0, 4]), 80));
    meet(&places);
    (daemon, places)
}

/// The good ones reach each other, and their way out.
#[track_caller]
fn meet([_, b, c]: &[Place; 3]) {
    guest::fetch(&b.net, (IpAddr::from([10, 7, 0, 4]), 80).into());
    assert!(b.pings("10.7.0.4") && c.pings("fd07::3"));
    assert!(b.pings("10.7.0.1") && c.pings("fd07::1"));
}

#[test]
fn who_lies_is_not_heard() {
    netns::inside(|world| {
        if !netns::have("python3") {
            return;
        }
        let (daemon, places) = three(world);
        let [bad, b, c] = &places;
        let mac = json(&bad.net, &["link", "show", "eth0"])[0]["address"].clone();
        // Whom a neighbour takes the bad one for.
        let taken = |place: &Place| {
            let all = json(&place.net, &["neigh"]);
            let mut found = Vec::new();
            for entry in all
                .as_array()
                .unwrap()
                .iter()
                .filter(|e| e["lladdr"] == mac)
            {
                let at = entry["dst"].as_str().unwrap();
                if !["10.7.0.2", "fd07::2"].contains(&at) && !at.starts_with("fe80::") {
                    found.push(at.to_owned());
                }
            }
            found
        };
        let routes = |place: &Place| json(&place.net, &["-6", "route"]);
        let mut wrong = Vec::new();
        let before = [b, c].map(routes);
        for (reason, program) in [
            // Frames of others: made up, of a neighbour, of the gateway.
            (
                "spoofed",
                r#"send(ALL + other + udp4("10.7.0.2", "10.7.0.255", 9, 9, b"x"))"#,
            ),
            (
                "spoofed-address",
                r#"send(ALL + me + udp4("10.7.0.3", "10.7.0.255", 9, 9, b"x"))"#,
            ),
            (
                "spoofed-address",
                r#"send(ALL + me + udp4("192.0.2.1", "10.7.0.255", 9, 9, b"x"))"#,
            ),
            (
                "spoofed-address",
                r#"send(NODES + me + udp6("fd07::3", "ff02::1", 9, 9, b"x"))"#,
            ),
            (
                "spoofed-address",
                r#"send(NODES + me + udp6("2001:db8::9", "ff02::1", 9, 9, b"x"))"#,
            ),
            (
                "spoofed-arp",
                r#"send(ALL + me + arp(2, me, "10.7.0.4", "10.7.0.3")); send(ALL + me + arp(1, me, "10.7.0.1", "10.7.0.1"))"#,
            ),
            (
                "spoofed-arp",
                r#"send(ALL + me + arp(2, other, "10.7.0.2", "10.7.0.3"))"#,
            ),
            // Who has fd07::4 is me, says the bad one from its own address.
            (
                "spoofed-nd",
                r#"send(bytes.fromhex("333300000001") + me + icmp6("fd07::2", "ff02::1", 136, struct.pack(">I", 0x20000000) + socket.inet_pton(socket.AF_INET6, "fd07::4") + b"\x02\x01" + me))"#,
            ),
            (
                "spoofed-nd",
                r#"send(bytes.fromhex("333300000001") + me + icmp6("fd07::2", "ff02::1", 136, struct.pack(">I", 0x20000000) + socket.inet_pton(socket.AF_INET6, "fd07::1") + b"\x02\x01" + me))"#,
            ),
            // A question for its neighbour, as if it came from the other one.
            (
                "spoofed-nd",
                r#"send(NODES + me + icmp6("fd07::2", "ff02::1", 135, b"\0" * 4 + socket.inet_pton(socket.AF_INET6, "fd07::4") + b"\x01\x01" + other))"#,
            ),
            (
                "rogue-dhcp",
                r#"send(NODES + me + udp6(ll, "ff02::1", 547, 546, b"\x07\0\0\0"))"#,
            ),
            (
                "rogue-router",
                r#"send(NODES + me + icmp6(ll, "ff02::1", 137, b"\0" * 4 + socket.inet_pton(socket.AF_INET6, ll) + socket.inet_pton(socket.AF_INET6, "2001:db8::9")))"#,
            ),
            (
                "rogue-dhcp",
                r#"send(ALL + me + udp4("10.7.0.2", "255.255.255.255", 67, 68, b"\x02\x01\x06\0" + b"\0" * 236))"#,
            ),
            (
                "rogue-router",
                r#"
send(bytes.fromhex("333300000001") + me + icmp6(ll, "ff02::1", 134, struct.pack(">BBHII", 64, 0, 1800, 0, 0) + b"\x01\x01" + me + b"\x03\x04\x40\xc0" + struct.pack(">III", 9000, 9000, 0) + socket.inet_pton(socket.AF_INET6, "fd66::")))
"#,
            ),
        ] {
            let count = |daemon: &Daemon<'_>| daemon.drops(reason);
            let was = count(&daemon);
            python(bad, program);
            bad.flushed("10.7.0.1");
            if count(&daemon) <= was {
                wrong.push(format!(
                    "{reason} of {program}: {}",
                    daemon.ok("show drops")
                ));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        for place in [b, c] {
            assert_eq!(taken(place), Vec::<String>::new());
        }
        assert_eq!([b, c].map(routes), before);
        meet(&places);
        // It has not cut itself off either.
        assert!(bad.pings("10.7.0.4") && bad.pings("fd07::3"));
    });
}

#[test]
fn a_hundred_thousand_macs_fill_nobodys_table() {
    netns::inside(|world| {
        if !netns::have("python3") {
            return;
        }
        let (daemon, places) = three(world);
        let shout = r#"
for n in range(100000):
    send(ALL + b"\x02\x66" + struct.pack(">I", n) + b"\x88\xb5" + b"\0" * 46)
"#;
        let learned = || {
            let rows = daemon.json("show macs");
            let rows = rows.as_array().unwrap().iter();
            rows.filter(|r| r["fixed"] == false).count()
        };
        let of = |name: &str, what: &str| {
            let rows = daemon.json("show stats");
            let mut rows = rows.as_array().unwrap().iter();
            let row = rows.find(|r| r["sandbox_name"] == name).unwrap();
            row[what].as_u64().unwrap()
        };
        // What its kernel has not dropped itself, which is most of it where the switch waits for a core; a few each time are
        // no shouts, or are let through.
        let shouts = || {
            let (before, mut few) = (of("bad", "rx_frames"), 0);
            wait::value("enough are heard", 2 * SOON, || {
                python(&places[0], shout);
                places[0].flushed("10.7.0.1");
                few += 100;
                let heard = of("bad", "rx_frames") - before;
                (heard > 10_000).then(|| heard - few..=heard)
            })
        };
        let heard = shouts();
        assert_eq!(learned(), 0, "{}", daemon.ok("show drops"));
        // Each of them is dropped for what it is, and told of its sender alone.
        let (spoofed, drops) = (daemon.drops("spoofed"), daemon.ok("show drops"));
        assert!(heard.contains(&spoofed), "{drops}");
        assert!(of("bad", "dropped") >= spoofed, "{drops}");
        assert!(
            of("b", "dropped") < 100 && of("c", "dropped") < 100,
            "{drops}"
        );
        meet(&places);
        // Those who may speak for others are given a share of the table each.
        daemon.ok("policy set front --no-spoof-guard");
        let before = daemon.drops("storm");
        let heard = shouts();
        assert_eq!(learned(), 64);
        // What is to everybody is a storm first; of the rest, those who are too many go no further.
        let (limit, storm) = (daemon.drops("mac-limit"), daemon.drops("storm") - before);
        let drops = daemon.ok("show drops");
        assert!(heard.contains(&(limit + storm)), "{drops}");
        assert!(limit > 1_000, "{drops}");
        assert_eq!(daemon.drops("spoofed"), spoofed, "{drops}");
        meet(&places);
        let station =
            "send(ALL + bytes.fromhex(\"020000000077\") + b\"\\x88\\xb5\" + b\"\\0\" * 46)";
        python(&places[1], station);
        wait::settled("a neighbour has room", &65, SOON, learned);
        let fresh = daemon.connected("fresh", &["front"]);
        assert!(fresh.pings("10.7.0.4"));
    });
}

#[test]
fn a_flood_slows_nobody() {
    netns::inside(|world| {
        if !netns::have("python3") {
            return;
        }
        let (daemon, places) = three(world);
        let [bad, b, c] = &places;
        let known = stations(&daemon);
        let echo = servers::tcp(&c.net, (IpAddr::from([10, 7, 0, 4]), 7), |stream, _| {
            std::io::copy(&mut &stream, &mut &stream).map(|_| ())
        });
        let mut stream = guest::connect(&b.net, echo).unwrap();
        stream.set_nodelay(true).unwrap();
        let done = daemon.dir().join("done");
        let mut turns = 0;
        let flood = r#"
import os
begun = time.monotonic()
rest = udp4("10.7.0.2", "10.7.0.255", 9, 9, b"x" * 1000)
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
# A while at least, and until the neighbours have had their turns.
while time.monotonic() < begun + 3 or not os.path.exists("DONE") and time.monotonic() < begun + 60:
    send(ALL + me + rest)
    send(NODES + me + udp6("fd07::2", "ff02::1", 9, 9, b"x"))
    send(other + me + rest)
    send(ALL + other + rest)
    one.sendto(b"x" * 1000, ("10.7.0.4", 9))
"#;
        beside(bad, &flood.replace("DONE", done.to_str().unwrap()), || {
            stream.write_all(b"ping").unwrap();
            stream.read_exact(&mut [0; 4]).unwrap();
            turns += 1;
            if turns == 21 {
                std::fs::write(&done, "").unwrap();
            }
        });
        assert!(turns > 20, "{turns} turns");
        for reason in ["storm", "spoofed"] {
            assert!(daemon.drops(reason) > 0, "{}", daemon.ok("show drops"));
        }
        assert_eq!(stations(&daemon), known);
        meet(&places);
    });
}

#[test]
fn who_opens_flows_at_line_rate_is_alone_with_it() {
    netns::inside(|world| {
        if !netns::have("python3") {
            return;
        }
        let (daemon, places) = three(world);
        let [bad, b, _] = &places;
        let outside = IpAddr::from(netns::OUTSIDE);
        let (echo, _) = servers::udp_echo(&world.outside, (outside, 0));
        let page = servers::http(&world.outside, (outside, 0));
        daemon.ok("policy set front --sandbox bad --limit flows=200 --limit new-flows=1K:1K");
        let turns = beside(
            bad,
            r#"
import subprocess
subprocess.run(["ping", "-c1", "-W15", "10.7.0.1"], stdout=subprocess.DEVNULL, check=True)
line = next(l.split() for l in open("/proc/self/net/arp") if l.startswith("10.7.0.1 "))
gateway = bytes.fromhex(line[3].replace(":", ""))
for n in range(15000):
    port = 1024 + n
    send(gateway + me + udp4("10.7.0.2", "192.0.2.1", port, 9, b"x"))
    send(gateway + me + syn4("10.7.0.2", "192.0.2.1", port, 9))
"#,
            || {
                let socket = guest::udp(&b.net, outside, Duration::from_secs(1));
                guest::ask(&socket, echo, b"x");
                guest::fetch(&b.net, page);
            },
        );
        assert!(turns > 0);
        for reason in ["new-flow-limit", "flow-limit"] {
            assert!(daemon.drops(reason) > 0, "{}", daemon.ok("show drops"));
        }
        // It has what it may have, and so have the others.
        let rows = daemon.json("show stats");
        let bad = rows.as_array().unwrap().iter();
        let bad = bad.clone().find(|r| r["sandbox_name"] == "bad").unwrap();
        assert!(bad["flows"].as_u64().unwrap() <= 200, "{bad}");
        guest::fetch(&b.net, page);
        meet(&places);
    });
}

#[test]
fn who_takes_all_ports_of_the_host_leaves_some() {
    netns::inside(|world| {
        if !netns::have("python3") {
            return;
        }
        // Forty of these are for all sandboxes together.
        let range = "net/ipv4/ip_local_port_range";
        world.host.set(range, "40000 40079");
        let (daemon, [bad, b, worse]) = three(world);
        let outside = IpAddr::from(netns::OUTSIDE);
        let (echo, _) = servers::udp_echo(&world.outside, (outside, 0));
        let greed = r#"
all = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for n in range(200)]
for one in all:
    one.sendto(b"x", ("192.0.2.1", 9))
"#;
        let flows = |name: &str| {
            let rows = daemon.json("show stats");
            let mut rows = rows.as_array().unwrap().iter();
            let row = rows.find(|r| r["sandbox_name"] == name).unwrap();
            row["flows"].as_u64().unwrap()
        };
        python(&bad, greed);
        wait::until("it has half", SOON, || flows("bad") == 20);
        python(&worse, greed);
        wait::until("it has half of the rest", SOON, || flows("c") == 10);
        wait::until("the rest is refused", SOON, || {
            daemon.drops("table-full") > 100
        });
        // Who comes last has some, too, and what it has stays its own.
        let mine: Vec<_> = (0..5)
            .map(|_| {
                let socket = guest::udp(&b.net, outside, Duration::from_secs(1));
                guest::ask(&socket, echo, b"x");
                socket
            })
            .collect();
        python(&bad, greed);
        python(&worse, greed);
        for socket in &mine {
            guest::ask(socket, echo, b"again");
        }
        meet(&[bad, b, worse]);
    });
}

/// Who is where, as the daemon tells it, without ages.
fn stations(daemon: &Daemon<'_>) -> Vec<(Value, Value)> {
    let rows = daemon.json("show macs");
    let rows = rows.as_array().unwrap().iter();
    rows.map(|r| (r["mac"].clone(), r["sandbox_name"].clone()))
        .collect()
}

/// Does something again and again while a program runs inside, and tells how often.
#[track_caller]
fn beside(place: &Place, program: &str, mut work: impl FnMut()) -> u32 {
    std::thread::scope(|scope| {
        let running = scope.spawn(|| python(place, program));
        let mut turns = 0;
        while !running.is_finished() {
            work();
            turns += 1;
        }
        running.join().unwrap();
        turns
    })
}
