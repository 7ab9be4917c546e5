//! Bare packets in UDP, as flannel's udp backend sends them: between two daemons, and with a node of another make.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;

use crate::support::daemon::{Daemon, Place, Who};
use crate::support::hosts::{peer, peer_drops, reach, transfer};
use crate::support::netns::{self, FAR, HOST, Namespace, World};
use crate::support::wait::{self, SOON};
use crate::support::weft::{Running, json};

/// Of a transfer, each way.
const BYTES: usize = 8 << 20;

/// A daemon with a network `flat` of which it hands out 10.244.N.0/24, and the other host as its peer.
#[track_caller]
fn node<'w>(at: &'w Namespace, n: u8, other: (Ipv4Addr, u8)) -> Daemon<'w> {
    let mut daemon = Daemon::on(at, Who::Root);
    daemon.start(&[]);
    daemon.ok(&format!(
        "network create flat --driver overlay --opt carrier=flannel-udp --subnet 10.244.0.0/16 \
         --ip-range 10.244.{n}.0/24"
    ));
    let (to, theirs) = other;
    daemon.ok(&format!(
        "peer add other --carrier flannel-udp --endpoint {to} --prefix 10.244.{theirs}.0/24"
    ));
    daemon
}

/// What `ping` says of an address with this time to live.
#[track_caller]
fn ping(from: &Place, to: &str, ttl: u8) -> String {
    from.sh(&format!("ping -n -c 1 -W 15 -t {ttl} {to}")).stdout
}

#[test]
fn two_hosts_route_to_each_other() {
    netns::inside(|world| {
        let a = node(&world.host, 1, (FAR, 2));
        let b = node(&world.far, 2, (HOST, 1));
        let (web, db) = (a.connected("web", &["flat"]), b.connected("db", &["flat"]));
        reach(&web, "10.244.2.2");
        reach(&db, "10.244.1.2");
        // One router on the way, which the packet tells of.
        assert!(ping(&web, "10.244.2.2", 64).contains("ttl=63"));
        let told = ping(&web, "10.244.2.2", 1);
        assert!(told.contains("From 10.244.1.1"), "{told}");
        assert!(told.contains("Time to live exceeded"), "{told}");
        // Nobody's: the gateway does not answer for it, and nothing leaves.
        assert!(!web.pings_at_once("10.244.9.9"));
        transfer(
            BYTES,
            &web.net,
            &db.net,
            [[10, 244, 1, 2].into(), [10, 244, 2, 2].into()],
        );
        for daemon in [&a, &b] {
            let row = peer(daemon);
            assert_eq!(row["state"], "open");
            assert!(row["rx_bytes"].as_u64() > Some(16 << 20), "{row}");
            assert!(row["tx_bytes"].as_u64() > Some(16 << 20), "{row}");
            assert_eq!(row["drops"].to_string(), "[]");
        }
        // The way ends with the peer, and the port is free with the network.
        a.ok("peer rm other");
        assert!(!web.pings_at_once("10.244.2.2"));
        a.ok("endpoint disconnect flat web");
        a.ok("network rm flat");
        let bound = world.host.enter(|| std::net::UdpSocket::bind((HOST, 8285)));
        bound.unwrap();
    });
}

#[test]
fn routes_are_there_again_after_a_kill() {
    netns::inside(|world| {
        let mut a = node(&world.host, 1, (FAR, 2));
        let b = node(&world.far, 2, (HOST, 1));
        let (web, db) = (a.connected("web", &["flat"]), b.connected("db", &["flat"]));
        reach(&web, "10.244.2.2");
        a.kill();
        a.start(&[]);
        reach(&web, "10.244.2.2");
        reach(&db, "10.244.1.2");
    });
}

/// A node of another make: packets that its kernel routes to a TUN leave in datagrams by a table, as with flannel's proxy,
/// and what comes in datagrams goes there, each with one hop less.
const PROXY: &str = r#"
import fcntl, ipaddress, os, select, socket, struct, sys
own, table = sys.argv[1], [r.split("=") for r in sys.argv[2:]]
routes = [(ipaddress.ip_network(net), (to, 8285)) for net, to in table]
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454ca, struct.pack("16sH", b"flannel0", 0x1001))
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((own, 8285))
def one_hop(packet):
    if packet[8] <= 1:
        return None
    csum = struct.unpack(">H", packet[10:12])[0] + 0x100
    csum = (csum & 0xffff) + (csum >> 16)
    return packet[:8] + bytes([packet[8] - 1, packet[9]]) + struct.pack(">H", csum) + packet[12:]
print("there", flush=True)
while True:
    for ready in select.select([tun, sock], [], [])[0]:
        if ready is sock:
            packet = one_hop(sock.recv(65536))
            if packet:
                os.write(tun, packet)
            continue
        packet = os.read(tun, 65536)
        packet = one_hop(packet) if packet[0] >> 4 == 4 else None
        to = packet and [to for net, to in routes if ipaddress.ip_address(packet[16:20]) in net]
        if to:
            sock.sendto(packet, to[0])
"#;

/// Starts the other node on the far host: it has 10.244.2.0/24, and 10.244.2.5 is an address of its own.
#[track_caller]
fn foreign(world: &World, daemon: &Daemon<'_>) -> Running {
    let script = daemon.dir().join("proxy.py");
    fs::write(&script, PROXY).unwrap();
    let mut command = Command::new("python3");
    command.arg(script);
    command.args([&FAR.to_string(), &format!("10.244.1.0/24={HOST}")]);
    let running = Running::start(&world.far, &mut command);
    wait::until("the other node has its TUN", SOON, || {
        let links = json(&world.far, &["link"]);
        let mut links = links.as_array().unwrap().iter();
        links.any(|l| l["ifname"] == "flannel0")
    });
    world.far.ip(
        "addr add 10.244.2.0/32 dev flannel0\nlink set flannel0 mtu 1472 up\n\
         route add 10.244.0.0/16 dev flannel0\naddr add 10.244.2.5/32 dev lo",
    );
    running
}

#[test]
fn a_node_of_another_make_is_the_other_end() {
    netns::inside(|world| {
        if !netns::have("python3") {
            return;
        }
        let daemon = node(&world.host, 1, (FAR, 2));
        let _proxy = foreign(world, &daemon);
        let web = daemon.connected("web", &["flat"]);
        reach(&web, "10.244.2.5");
        // By its address as a router, too: that is the first of its part.
        assert!(web.pings("10.244.2.0"));
        transfer(
            BYTES,
            &web.net,
            &world.far,
            [[10, 244, 1, 2].into(), [10, 244, 2, 5].into()],
        );
        let row = peer(&daemon);
        assert!(row["rx_bytes"].as_u64() > Some(16 << 20), "{row}");
        assert_eq!(row["drops"].to_string(), "[]");
    });
}

/// Sends a bare packet from this address, with this source.
const LIAR: &str = r#"
import socket, struct, sys
src, dst = (socket.inet_aton(a) for a in sys.argv[2:4])
body = struct.pack(">HHHH", 9, 9, 8 + 5, 0) + b"hello"
head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0) + src + dst
total = sum(struct.unpack(">10H", head))
total = (total & 0xffff) + (total >> 16)
head = head[:10] + struct.pack(">H", ~total & 0xffff) + head[12:]
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.sendto(head + body, (sys.argv[1], 8285))
"#;

#[test]
fn only_the_owner_of_a_prefix_is_heard() {
    netns::inside(|world| {
        if !netns::have("python3") {
            return;
        }
        let daemon = node(&world.host, 1, (FAR, 2));
        let web = daemon.connected("web", &["flat"]);
        let script = daemon.dir().join("liar.py");
        fs::write(&script, LIAR).unwrap();
        let say = |from: &Namespace, src: &str, dst: &str| {
            let mut command = Command::new("python3");
            command.arg(&script);
            command.args([&HOST.to_string(), src, dst]);
            assert_eq!(Running::start(from, &mut command).end(SOON).status, 0);
        };
        let heard = || peer(&daemon)["rx_frames"].as_u64();
        for (src, dst, reason, count) in [
            ("10.244.3.9", "10.244.1.2", "spoofed-address", 1),
            ("10.244.1.3", "10.244.1.2", "spoofed-address", 2),
            ("192.0.2.1", "10.244.1.2", "spoofed-address", 3),
            ("10.244.2.9", "10.244.1.77", "not-routed", 1),
            ("10.244.2.9", "198.51.100.1", "not-routed", 2),
        ] {
            say(&world.far, src, dst);
            wait::until(&format!("{src} to {dst} is refused"), SOON, || {
                peer_drops(&daemon, reason) == count
            });
        }
        // Who is no peer is not heard at all.
        let before = heard();
        say(&Namespace::current(), "10.244.2.9", "10.244.1.2");
        say(&world.far, "10.244.2.9", "10.244.1.2");
        wait::until("the peer is heard", SOON, || heard() > before);
        assert_eq!(heard(), before.map(|frames| frames + 1));
        wait::settled("one that nobody listens for", &"1".to_owned(), SOON, || {
            let left = web.sh("cat /proc/net/snmp | grep ^Udp: | tail -1").stdout;
            left.split_whitespace().nth(2).unwrap().to_owned()
        });
    });
}
