//! The daemon: VLANs of a network, kept apart, by access endpoints and trunks.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use crate::support::daemon::{Daemon, Place};
use crate::support::guest::{self, Pattern};
use crate::support::netns;
use crate::support::servers;
use crate::support::wait::{self, SOON};
use crate::support::weft::{Running, json};

const FRONT: &str = "network create front --subnet 10.7.0.0/24 --subnet6 fd07::/64";

/// One whose gateway says nothing by itself.
const QUIET: &str = "network create front --subnet 10.7.0.0/24 --ipv6=false --opt querier=false";

/// Interfaces of VLANs over `eth0` for kernels that have none: a TAP each, with checksums and TCP segments left to
/// the other side as the kernel's own would, and this program between them.
const INTERFACES: &str = r#"
import fcntl, os, select, socket, struct, sys
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
raw.bind(("eth0", 3))
raw.setsockopt(263, 15, 1)
raw.setsockopt(263, 8, 1)
raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
def tap(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", name.encode(), 0x5002))
    fcntl.ioctl(fd, 0x400454d0, 15)
    return fd
taps = {int(vid): tap("vlan" + vid) for vid in sys.argv[1:]}
ids = {fd: vid for vid, fd in taps.items()}
buf = bytearray(70000)
while True:
    for fd in select.select([raw, *ids], [], [])[0]:
        try:
            if fd is raw:
                n, more, _, at = raw.recvmsg_into([buf], 100)
                aux = next((d for _, kind, d in more if kind == 8), bytes(20))
                status, tci = struct.unpack_from("=I12xH", aux)
                if at[2] != 4 and status & 16 and tci & 0xfff in taps:
                    os.write(taps[tci & 0xfff], memoryview(buf)[:n])
                continue
            data = os.read(fd, 70000)
            flags, kind, head, size, start, place = struct.unpack_from("=BBHHHH", data)
            if flags & 1:
                head, start = head + 4, start + 4
            tag = struct.pack(">HH", 0x8100, ids[fd])
            raw.send(struct.pack("=BBHHHH", flags, kind, head, size, start, place) + data[10:22] + tag + data[22:])
        except (BlockingIOError, OSError):
            pass
"#;

/// Whoever keeps the interfaces up.
pub(crate) struct Interfaces {
    _running: Option<Running>,
    _script: tempfile::NamedTempFile,
}

/// Gives a sandbox an interface `vlanN` for each VLAN, with `eth0` below, which has this address and reaches these.
#[track_caller]
pub(crate) fn interfaces(place: &Place, vlans: &[(u16, &str, &[&str])]) -> Interfaces {
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script.path(), INTERFACES).unwrap();
    let of_kernel = vlans.iter().all(|(id, ..)| {
        let line = format!("ip link add link eth0 name vlan{id} type vlan id {id}");
        place.sh(&line).status == 0
    });
    let running = (!of_kernel).then(|| {
        let mut command = Command::new("python3");
        command.arg(script.path());
        command.args(vlans.iter().map(|(id, ..)| id.to_string()));
        Running::start(&place.net, &mut command)
    });
    let below = &json(&place.net, &["link", "show", "eth0"])[0];
    let (mac, mtu) = (below["address"].as_str().unwrap(), &below["mtu"]);
    for (id, address, reached) in vlans {
        let name = format!("vlan{id}");
        wait::until("the interface is there", SOON, || {
            place.interfaces().contains(&name)
        });
        let link = format!("link set {name} address {mac} mtu {mtu} up");
        place.net.ip(&link);
        place.net.ip(&format!("addr add {address}/32 dev {name}"));
        for to in *reached {
            let route = format!("route add {to} dev {name} src {address}");
            place.net.ip(&route);
        }
    }
    Interfaces {
        _running: running,
        _script: script,
    }
}

/// A sandbox on `front` with these options.
#[track_caller]
fn on(daemon: &Daemon<'_>, name: &str, options: &str) -> Place {
    joined(daemon, daemon.sandbox(), name, options)
}

/// As `on`, one whose kernel does not look for IPv6.
#[track_caller]
fn quiet_on(daemon: &Daemon<'_>, name: &str, options: &str) -> Place {
    let place = daemon.sandbox();
    for which in ["all", "default"] {
        let key = format!("net/ipv6/conf/{which}/disable_ipv6");
        place.net.set(&key, "1");
    }
    joined(daemon, place, name, options)
}

#[track_caller]
fn joined(daemon: &Daemon<'_>, place: Place, name: &str, options: &str) -> Place {
    let pid = place.pid;
    daemon.ok(&format!(
        "endpoint connect front {pid} --name {name} {options}"
    ));
    place
}

/// Sends so many bytes from one to the other, and as many back.
#[track_caller]
fn stream(from: &Place, to: &Place, at: SocketAddr, bytes: usize) {
    let listener = to.net.enter(|| std::net::TcpListener::bind(at)).unwrap();
    std::thread::scope(|threads| {
        threads.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            Pattern::new(1).expect(&mut stream, bytes).unwrap();
            Pattern::new(2).send(&mut stream, bytes).unwrap();
        });
        let mut stream = guest::connect(&from.net, at).unwrap();
        Pattern::new(1).send(&mut stream, bytes).unwrap();
        Pattern::new(2).expect(&mut stream, bytes).unwrap();
    });
}

/// Frames and bytes that were sent to a sandbox.
fn received(daemon: &Daemon<'_>, name: &str) -> (u64, u64) {
    let rows = daemon.json("show stats");
    let mut rows = rows.as_array().unwrap().iter();
    let row = rows.find(|r| r["sandbox_name"] == name).unwrap();
    let number = |key: &str| row[key].as_u64().unwrap();
    (number("tx_frames"), number("tx_bytes"))
}

#[test]
fn a_trunk_meets_those_who_do_not_meet_each_other() {
    netns::inside(|world| trunk_of_kind(world, "tap"));
}

/// The kernel takes tags off what a packet socket gets.
#[test]
fn a_trunk_that_is_no_tap_meets_them_too() {
    netns::inside(|world| trunk_of_kind(world, "packet"));
}

#[track_caller]
fn trunk_of_kind(world: &netns::World, kind: &str) {
    if !netns::have("python3") {
        return;
    }
    let mut daemon = Daemon::root(world);
    daemon.ok(FRONT);
    let kind = |options: &str| format!("--kind {kind} {options}");
    let a = on(&daemon, "a", &kind("--vlan 10 --ip 10.7.0.10"));
    let b = on(&daemon, "b", "--vlan 20 --ip 10.7.0.20");
    let c = on(&daemon, "c", "--ip 10.7.0.30");
    let trunk = on(&daemon, "trunk", &kind("--trunk 10,20-25"));
    let vlans: [(u16, &str, &[&str]); 2] = [
        (10, "10.7.0.100", &["10.7.0.10"]),
        (20, "10.7.0.200", &["10.7.0.20"]),
    ];
    let _up = interfaces(&trunk, &vlans);
    let meet = || {
        assert!(trunk.pings("10.7.0.10") && a.pings("10.7.0.100"));
        assert!(trunk.pings("10.7.0.20") && b.pings("10.7.0.200"));
    };
    wait::until("the trunk meets both", SOON, || {
        trunk.pings_at_once("10.7.0.10") && trunk.pings_at_once("10.7.0.20")
    });
    meet();
    assert!(!a.pings_at_once("10.7.0.20") && !b.pings_at_once("10.7.0.10"));
    assert!(!a.pings_at_once("10.7.0.30") && !c.pings_at_once("10.7.0.10"));
    assert!(
        !a.pings_at_once("10.7.0.1"),
        "the gateway is not on its VLAN"
    );
    assert!(c.pings("10.7.0.1"));
    let shown = daemon.json("endpoint ls");
    let vlan = |name: &str| {
        let mut all = shown.as_array().unwrap().iter();
        all.find(|e| e["name"] == name).unwrap()["vlan"].clone()
    };
    assert_eq!(vlan("a")["access"], 10);
    assert!(json(&trunk.net, &["-4", "addr", "show", "eth0"])[0]["addr_info"].is_null());
    assert_eq!(vlan("trunk")["trunk"]["tagged"][6], 25);
    assert!(daemon.ok("endpoint ls").contains(" 10,20-25 "));

    let before = ["a", "trunk"].map(|name| received(&daemon, name));
    let bytes = 16 << 20;
    let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 99);
    stream(&trunk, &a, at("10.7.0.10"), bytes);
    stream(&b, &trunk, at("10.7.0.200"), bytes / 4);
    let after = ["a", "trunk"].map(|name| received(&daemon, name));
    for (before, after) in before.iter().zip(after) {
        let (frames, sent) = (after.0 - before.0, after.1 - before.1);
        // Acknowledgements included, frames are longer than any that is no super-frame.
        assert!(sent > 1600 * frames, "{frames} frames of {sent} bytes");
    }

    daemon.kill();
    daemon.start(&[]);
    wait::until("they meet again", SOON, || {
        trunk.pings_at_once("10.7.0.10") && trunk.pings_at_once("10.7.0.20")
    });
    meet();
    assert!(!a.pings_at_once("10.7.0.20") && !c.pings_at_once("10.7.0.10"));
}

#[test]
fn the_native_vlan_of_a_trunk() {
    netns::inside(|world| {
        if !netns::have("python3") {
            return;
        }
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        let own = on(&daemon, "own", "--vlan 1");
        let ten = on(&daemon, "ten", "--vlan 10 --ip 10.7.0.10");
        let trunk = on(&daemon, "trunk", "--trunk 10 --native 1");
        let other = on(&daemon, "other", "--trunk 30 --native 10 --ip 10.7.0.50");
        assert!(trunk.pings("10.7.0.1") && trunk.pings("fd07::1") && trunk.pings("10.7.0.2"));
        assert!(own.pings("10.7.0.1"));
        assert!(other.pings("10.7.0.10") && ten.pings("10.7.0.50"));
        assert!(!other.pings_at_once("10.7.0.1") && !other.pings_at_once("10.7.0.2"));
        let _up = interfaces(&trunk, &[(10, "10.7.0.100", &["10.7.0.10", "10.7.0.50"])]);
        wait::until("the trunk's other VLAN", SOON, || {
            trunk.pings_at_once("10.7.0.10")
        });
        assert!(trunk.pings("10.7.0.50"), "where it is native");
        // Who has the gateway has the way out, a name, and ports; others have none of them.
        let routes = |p: &Place| json(&p.net, &["-4", "route", "show", "default"]);
        assert_eq!(routes(&trunk).as_array().unwrap().len(), 1);
        assert_eq!(routes(&ten).as_array().unwrap().len(), 0);
        for line in [
            "publish add ten 8080:80",
            "service create web --network front --port 80 --backend ten",
        ] {
            let refused = daemon.weft(line);
            assert!(
                refused.status == 125 && refused.stderr.contains("VLAN 10"),
                "{refused:?}"
            );
        }
        servers::http(&trunk.net, (IpAddr::from([0, 0, 0, 0]), 80));
        daemon.ok("publish add trunk 8080:80");
        guest::fetch(&world.host, (IpAddr::from([127, 0, 0, 1]), 8080).into());
    });
}

/// A sandbox that puts tags of its own on frames reaches no VLAN that it was not given.
#[test]
fn tags_lead_nowhere_for_who_was_given_none() {
    netns::inside(|world| {
        if !netns::have("python3") {
            return;
        }
        let daemon = Daemon::root(world);
        daemon.ok(QUIET);
        let _a = quiet_on(&daemon, "a", "--vlan 10");
        let b = quiet_on(&daemon, "b", "--vlan 20");
        let own = quiet_on(&daemon, "own", "");
        let trunk = quiet_on(&daemon, "trunk", "--trunk 30");
        let hostile = r#"python3 -c '
import socket
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0))
me = raw.getsockname()[4]
for tags in ("8100000a", "8100a00a", "8100001e8100000a", "88a8000a", "810000148100000a"):
    raw.send(b"\xff" * 6 + me + bytes.fromhex(tags) + b"\x88\xb5" + b"out" * 20)
'"#;
        let before = received(&daemon, "a").0;
        for place in [&b, &own, &trunk] {
            place.sh(hostile).ok();
        }
        wait::until("all are dropped", SOON, || daemon.drops("vlan") >= 15);
        assert_eq!(received(&daemon, "a").0, before);
    });
}

/// Neither the gateway nor anybody else answers for who is on another VLAN.
#[test]
fn neighbours_are_found_on_their_vlan_alone() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        let all = [
            ("own", 1, "", 30),
            ("ten", 10, "--vlan 10", 10),
            ("also", 10, "--trunk 20 --native 10", 11),
        ]
        .map(|(name, vlan, options, n)| {
            let addresses = format!("--ip 10.7.0.{n} --ip6 fd07::{n}");
            (
                on(&daemon, name, &format!("{options} {addresses}")),
                vlan,
                n,
            )
        });
        for (from, vlan, n) in &all {
            let others = all.iter().filter(|(_, _, other)| other != n);
            let others = others.map(|(_, there, other)| (there, *other));
            for (there, other) in others.chain([(&1, 1)]) {
                for address in [format!("10.7.0.{other}"), format!("fd07::{other}")] {
                    let met = if vlan == there {
                        from.pings(&address)
                    } else {
                        from.pings_at_once(&address)
                    };
                    assert_eq!(met, vlan == there, "{n} to {address}");
                    let known = json(&from.net, &["neigh", "show", &address]);
                    let mut rows = known.as_array().into_iter().flatten();
                    let has_mac = rows.any(|row| row["lladdr"].is_string());
                    assert_eq!(has_mac, met, "{n} of {address}: {known}");
                }
            }
        }
    });
}

/// A trunk may tag what it need not, and anybody may give a priority: it leaves without a tag, and under the guard that
/// frames without one are under.
#[test]
fn a_tag_that_says_nothing_new() {
    netns::inside(|world| {
        if !netns::have("python3") {
            return;
        }
        let daemon = Daemon::root(world);
        daemon.ok(QUIET);
        let _ten = quiet_on(&daemon, "ten", "--vlan 10");
        let twenty = quiet_on(&daemon, "twenty", "--vlan 20");
        let _also = quiet_on(&daemon, "also", "--vlan 20");
        let trunk = quiet_on(&daemon, "trunk", "--trunk 20 --native 10");
        let send = |place: &Place, tags: &str, rest: &str| {
            let line = format!(
                r#"python3 -c '
import socket
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0))
me = raw.getsockname()[4]
raw.send(b"\xff" * 6 + me + bytes.fromhex("{tags}" + "{rest}") + b"out" * 20)
'"#
            );
            place.sh(&line).ok();
        };
        let plain = "88b5";
        let at = |name: &str| received(&daemon, name).1;
        let (ten, also) = (at("ten"), at("also"));
        send(&trunk, "8100000a", plain);
        wait::until("its native VLAN", SOON, || at("ten") > ten);
        assert!(at("also") == also, "and no other");
        send(&trunk, "8100e000", plain);
        wait::until("a priority alone", SOON, || at("ten") >= ten + 2 * 74);
        assert_eq!(at("ten"), ten + 2 * 74, "both without their tags");
        send(&twenty, "8100e000", plain);
        wait::until("from an access endpoint", SOON, || at("also") > also);
        let spoofed = daemon.drops("spoofed-arp");
        let arp = "08060001080006040002";
        for tags in ["8100000a", "8100e00a", "81000000"] {
            send(&trunk, tags, &format!("{arp}020000000099"));
        }
        wait::until("the guard holds", SOON, || {
            daemon.drops("spoofed-arp") >= spoofed + 3
        });
        let strayed = daemon.drops("vlan");
        for (place, tag) in [
            (&twenty, "81000014"),
            (&trunk, "81000fff"),
            (&twenty, "8100ffff"),
        ] {
            send(place, tag, plain);
        }
        wait::until("they lead nowhere", SOON, || {
            daemon.drops("vlan") >= strayed + 3
        });
    });
}

#[test]
fn a_file_says_the_same() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        let places = ["a", "b", "t"].map(|_| daemon.sandbox());
        let [a, b, t] = places.each_ref().map(|p| p.pid);
        let file = daemon.dir().join("weft.toml");
        let name = file.display();
        let text = |vlan: u16| {
            format!(
                r#"
                network = [{{ name = "front", subnet = "10.7.0.0/24" }}]
                [[endpoint]]
                network = "front"
                sandbox = "{a}"
                name = "a"
                vlan = {vlan}
                [[endpoint]]
                network = "front"
                sandbox = "{b}"
                name = "b"
                vlan = 10
                [[endpoint]]
                network = "front"
                sandbox = "{t}"
                name = "t"
                trunk = "10,20"
                native = 1
                "#
            )
        };
        std::fs::write(&file, text(10)).unwrap();
        daemon.ok(&format!("apply {name}"));
        assert!(places[0].pings("10.7.0.3"));
        assert!(places[2].pings("10.7.0.1"));
        std::fs::write(&file, text(20)).unwrap();
        daemon.ok(&format!("apply {name}"));
        assert!(!places[0].pings_at_once("10.7.0.3"));
        std::fs::write(&file, text(4095)).unwrap();
        let refused = daemon.weft(&format!("apply {name}"));
        assert!(
            refused.status == 125 && refused.stderr.contains("4095"),
            "{refused:?}"
        );
    });
}
