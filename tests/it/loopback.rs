//! The host's own services are closed to a sandbox, however it spells their address.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::netns::{self, HOST, HOST6, Namespace, OUTSIDE};
use crate::support::wait::{self, SOON};
use crate::support::weft::json;
use crate::support::{guest, servers};

/// Services of the host that nobody published, at one port of each address.
fn services(host: &Namespace) -> (u16, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    host.ip("addr add 169.254.169.254/32 dev lo");
    let tcp = servers::http(host, ([0_u16; 8], 0));
    let (_, heard) = servers::udp_echo(host, ([0_u16; 8], tcp.port()));
    (tcp.port(), heard)
}

/// Takes the sandbox's own loopback out of the way, so that its kernel sends to the gateway what
/// it would else keep: as root inside, an attacker can.
fn open_the_way_out(net: &Namespace, gateway: Ipv4Addr, gateway6: std::net::Ipv6Addr) {
    net.set("net/ipv4/conf/all/route_localnet", "1");
    net.set("net/ipv4/conf/eth0/route_localnet", "1");
    net.ip(&format!(
        "route flush table local 127.0.0.0/8\n\
         route flush table local 127.0.0.1/32\n\
         route add 127.0.0.0/8 via {gateway} dev eth0\n\
         route del local ::1 table local\n\
         route add ::1 via {gateway6} dev eth0\n\
         route replace 169.254.0.0/16 via {gateway} dev eth0\n"
    ));
}

#[test]
fn no_spelling_reaches_the_hosts_services() {
    netns::inside(|world| {
        let (port, heard) = services(&world.host);
        let sandbox = world.sandbox(&[]);
        open_the_way_out(&sandbox.net, sandbox.gateway, sandbox.gateway6);
        for ip in [
            "127.0.0.1",
            "127.0.0.53",
            "127.255.255.254",
            "0.0.0.0",
            "0.0.0.1",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:0.0.0.0",
            "::127.0.0.1",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "192.0.2.2",
            "::ffff:192.0.2.2",
            "2001:db8:1::2",
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            let to = SocketAddr::from((ip, port));
            let open = sandbox
                .net
                .enter(|| std::net::TcpStream::connect_timeout(&to, Duration::from_millis(700)));
            assert!(open.is_err(), "TCP to {to}");
            let socket = guest::udp(&sandbox.net, ip, Duration::from_millis(150));
            // Refused here, dropped there, answered nowhere.
            let _refused = socket.send_to(b"in", to);
            assert!(socket.recv_from(&mut [0; 8]).is_err(), "UDP to {to}");
        }
        for gateway in [IpAddr::from(sandbox.gateway), sandbox.gateway6.into()] {
            let to = SocketAddr::from((gateway, port));
            assert!(
                guest::connect(&sandbox.net, to).is_err(),
                "TCP to the gateway, {to}"
            );
        }
        assert_eq!(heard.load(Ordering::Relaxed), 0, "no datagram arrived");
    });
}

/// Sends a UDP datagram and a SYN to each address given, as raw frames to the gateway: what no kernel
/// would send by itself. Arguments: gateway's MAC, own addresses, port, destinations.
const RAW: &str = r#"
import socket, struct, sys
gateway = bytes.fromhex(sys.argv[1].replace(":", ""))
port = int(sys.argv[4])
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0))
own = raw.getsockname()[4]

def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(">%dH" % (len(data) // 2), data))
    while total > 0xffff:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff or 0xffff

for text in sys.argv[5:]:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    # What inet_pton reads of a mapped address are the sixteen bytes as they are.
    to = socket.inet_pton(family, text)
    me = socket.inet_pton(family, sys.argv[3] if family == socket.AF_INET6 else sys.argv[2])
    for proto, at in ((17, 6), (6, 16)):
        if proto == 17:
            data = struct.pack(">HHHH", 5555, port, 10, 0) + b"in"
        else:
            data = struct.pack(">HHIIBBHHH", 5555, port, 1, 0, 0x50, 2, 65535, 0, 0)
        pseudo = me + to + struct.pack(">II", len(data), proto)
        data = data[:at] + struct.pack(">H", checksum(pseudo + data)) + data[at + 2:]
        if family == socket.AF_INET:
            head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(data), 1, 0x4000, 64, proto, 0) + me + to
            head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
            kind = b"\x08\0"
        else:
            head = struct.pack(">IHBB", 6 << 28, len(data), proto, 64) + me + to
            kind = b"\x86\xdd"
        raw.send(gateway + own + kind + head + data)
"#;

#[test]
fn no_raw_frame_reaches_the_hosts_services() {
    netns::inside(|world| {
        if !netns::have("python3") {
            return;
        }
        let (port, heard) = services(&world.host);
        let sandbox = world.sandbox(&[]);
        // The neighbour entry appears with the first packet.
        sandbox
            .exec(&["ping", "-c1", "-W5", &sandbox.gateway.to_string()])
            .ok();
        let neighbours = json(
            &sandbox.net,
            &["neigh", "show", &sandbox.gateway.to_string()],
        );
        let mac = neighbours[0]["lladdr"].as_str().unwrap();
        let (v4, v6, at) = (
            sandbox.v4.to_string(),
            sandbox.v6.to_string(),
            port.to_string(),
        );
        let send = |destinations: &[&str]| {
            let fixed = ["python3", "-c", RAW, mac, &v4, &v6, &at];
            sandbox.exec(&[&fixed[..], destinations].concat()).ok();
        };
        send(&[
            "127.0.0.1",
            "127.1.2.3",
            "0.0.0.0",
            "0.0.0.1",
            "169.254.169.254",
            "192.0.2.2",
            "255.255.255.255",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:0.0.0.0",
            "::127.0.0.1",
            "::ffff:192.0.2.2",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "2001:db8:1::2",
            "fe80::1",
            "ff02::1",
        ]);
        // The frames are good ones: the outside hears its own, and so has passed what came before.
        let (_, outside) = servers::udp_echo(&world.outside, ([0_u16; 8], port));
        send(&["192.0.2.1", "2001:db8:1::1"]);
        wait::until("both datagrams outside", SOON, || {
            outside.load(Ordering::Relaxed) == 2
        });
        assert_eq!(heard.load(Ordering::Relaxed), 0, "no datagram arrived");
    });
}

#[test]
fn the_sandboxs_own_loopback_works() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        let page = servers::http(&sandbox.net, ([127, 0, 0, 1], 0));
        guest::fetch(&sandbox.net, page);
        let page = servers::http(&sandbox.net, ([0_u16, 0, 0, 0, 0, 0, 0, 1], 0));
        guest::fetch(&sandbox.net, page);
    });
}

#[test]
fn an_option_opens_the_hosts_loopback_at_one_address() {
    netns::inside(|world| {
        let page = servers::http(&world.host, ([127, 0, 0, 1], 0));
        let sandbox = world.sandbox(&["--host-loopback", "10.254.254.254"]);
        let to = SocketAddr::from(([10, 254, 254, 254], page.port()));
        assert_eq!(guest::fetch(&sandbox.net, to), "hello 127.0.0.1");
        assert!(guest::connect(&sandbox.net, (HOST, page.port()).into()).is_err());
    });
}

#[test]
fn an_option_opens_the_hosts_other_addresses() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&["--host-access"]);
        for ip in [IpAddr::from(HOST), HOST6.into()] {
            guest::fetch(&sandbox.net, servers::http(&world.host, (ip, 0)));
        }
        let only = servers::http(&world.host, ([127, 0, 0, 1], 0));
        assert!(guest::connect(&sandbox.net, (HOST, only.port()).into()).is_err());
    });
}

#[test]
fn its_own_published_port_is_reached_through_the_host() {
    netns::inside(|world| {
        let server = world.sandbox(&["-p", "8080:80"]);
        servers::http(&server.net, (server.v4, 80));
        guest::fetch(&server.net, (HOST, 8080).into());
    });
}

#[test]
fn a_mapping_is_no_way_in() {
    netns::inside(|world| {
        // The host itself talks to the sandbox's mapping: only those asked may answer.
        let who = servers::udp_whoami(&world.outside, (OUTSIDE, 0));
        let sandbox = world.sandbox(&[]);
        let socket = guest::udp(&sandbox.net, who.ip(), Duration::from_millis(500));
        let mapped: SocketAddr = String::from_utf8(guest::ask_once(&socket, who, b"?"))
            .unwrap()
            .parse()
            .unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let intruder = world.host.enter(|| UdpSocket::bind("127.0.0.1:0")).unwrap();
        intruder
            .send_to(b"in", ("127.0.0.1", mapped.port()))
            .unwrap();
        assert!(socket.recv_from(&mut [0; 8]).is_err());
    });
}

#[test]
fn addresses_of_the_host_that_change_are_followed() {
    netns::inside(|world| {
        let (port, _) = services(&world.host);
        let peer = servers::tcp(&world.outside, (OUTSIDE, 0), |mut stream, peer| {
            write!(stream, "{}", peer.ip())
        });
        let sandbox = world.sandbox(&[]);
        let seen_as = || {
            let mut seen = String::new();
            guest::connect(&sandbox.net, peer)
                .unwrap()
                .read_to_string(&mut seen)
                .unwrap();
            seen
        };
        assert_eq!(seen_as(), HOST.to_string());
        // An address that comes is the host's, and so are the services there.
        world
            .host
            .ip("addr add 192.0.2.77/24 dev eth0\naddr add 2001:db8:1::77/64 dev eth0 nodad");
        for ip in ["192.0.2.77", "2001:db8:1::77"] {
            let to = SocketAddr::from((ip.parse::<IpAddr>().unwrap(), port));
            let closed = || guest::connect(&sandbox.net, to).is_err();
            wait::until(&format!("{to} is closed"), SOON, closed);
        }
        // The kernel would drop the second address of a subnet with the first.
        world
            .host
            .set("net/ipv4/conf/eth0/promote_secondaries", "1");
        // What leaves takes its new flows along, and is no longer the host's.
        world.host.ip(&format!(
            "addr del {HOST}/24 dev eth0\nroute replace default via {OUTSIDE}"
        ));
        wait::until("the other address is used", SOON, || {
            seen_as() == "192.0.2.77"
        });
        world.outside.ip(&format!("addr add {HOST}/24 dev out0"));
        let moved = servers::http(&world.outside, (HOST, 0));
        let open = || guest::connect(&sandbox.net, moved).is_ok();
        wait::until("the address is another host's", SOON, open);
    });
}
