//! VXLAN as it is: the kernel's own device on the other host cannot tell the difference.

use std::net::{IpAddr, SocketAddr};

use crate::daemon_vlan::interfaces;
use crate::support::daemon::{Daemon, Place, Who};
use crate::support::hosts::{Wire, peer, reach, send_as, transfer};
use crate::support::netns::{self, FAR, FAR6, HOST, HOST6, World};
use crate::support::wait::{self, SOON};
use crate::support::{guest, servers};

/// The network's number.
const VNI: u32 = 0x00a1_b2c3;
const PORT: u16 = 4789;
/// Of a transfer, each way.
const BYTES: usize = 16 << 20;

/// A daemon with a network `plain` and its peer, the other host, where the kernel has a device `vx0` without address.
/// `None` where this kernel has no such device.
#[track_caller]
pub(crate) fn network<'w>(world: &'w World, [here, there]: [IpAddr; 2]) -> Option<Daemon<'w>> {
    let made = world.far.enter(|| {
        let args =
            format!("link add vx0 type vxlan id {VNI} dstport {PORT} local {there} remote {here}");
        std::process::Command::new("ip")
            .args(args.split(' '))
            .output()
    });
    if !made.unwrap().status.success() {
        netns::without("vxlan");
        return None;
    }
    world.far.ip("link set vx0 mtu 1400 up");
    let daemon = Daemon::root(world);
    daemon.ok(&format!(
        "network create plain --driver overlay --opt carrier=vxlan --vni {VNI} --subnet 10.9.0.0/24 \
         --subnet6 fd09::/64 --mtu 1400"
    ));
    daemon.ok(&format!("peer add node --carrier vxlan --endpoint {there}"));
    Some(daemon)
}

/// A kernel that is the other end itself.
#[track_caller]
fn with_the_kernel(world: &World, hosts: [IpAddr; 2]) {
    let Some(daemon) = network(world, hosts) else {
        return;
    };
    world
        .far
        .ip("addr add 10.9.0.200/24 dev vx0\naddr add fd09::c8/64 dev vx0 nodad");
    let place = daemon.connected("one", &["plain"]);
    reach(&place, "10.9.0.200");
    reach(&place, "fd09::c8");
    let v4 = ["10.9.0.2", "10.9.0.200"].map(|a| a.parse().unwrap());
    let v6 = ["fd09::2", "fd09::c8"].map(|a| a.parse().unwrap());
    transfer(BYTES, &place.net, &world.far, v4);
    transfer(BYTES, &place.net, &world.far, v6);
    let row = peer(&daemon);
    assert_eq!(row["state"], "open");
    assert!(row["rx_bytes"].as_u64() > Some(16 << 20), "{row}");
    assert!(row["tx_bytes"].as_u64() > Some(16 << 20), "{row}");
    assert_eq!(row["drops"].to_string(), "[]");
}

#[test]
fn the_kernel_is_the_other_end_over_ipv4() {
    netns::inside(|world| with_the_kernel(world, [HOST.into(), FAR.into()]));
}

#[test]
fn the_kernel_is_the_other_end_over_ipv6() {
    netns::inside(|world| with_the_kernel(world, [HOST6.into(), FAR6.into()]));
}

/// Two stations behind a bridge of the kernel's, which the device is a port of.
#[track_caller]
fn bridge(world: &World) -> (Daemon<'_>, [Place; 2]) {
    let behind = Daemon::on(&world.far, Who::Root);
    world
        .far
        .ip("link add br0 type bridge\nlink set vx0 master br0\nlink set br0 up");
    let places = [1, 2].map(|n| {
        let place = behind.sandbox();
        world.far.ip(&format!(
            "link add port{n} type veth peer name eth0 netns {}\n\
             link set port{n} master br0 up\n",
            place.pid
        ));
        place.net.ip(&format!(
            "link set eth0 mtu 1400 address 02:00:00:00:02:0{n} up\naddr add 10.9.0.20{n}/24 dev eth0"
        ));
        place
    });
    (behind, places)
}

#[test]
fn stations_behind_a_bridge_of_the_kernel_are_found_and_kept_apart_by_vlans() {
    netns::inside(|world| {
        if !netns::have("python3") {
            return;
        }
        let Some(daemon) = network(world, [HOST.into(), FAR.into()]) else {
            return;
        };
        let (_behind, [first, second]) = bridge(world);
        let place = daemon.connected("one", &["plain"]);
        for (n, station) in [(1, &first), (2, &second)] {
            let to = format!("10.9.0.20{n}");
            reach(&place, &to);
            reach(station, "10.9.0.2");
            transfer(
                BYTES,
                &place.net,
                &station.net,
                ["10.9.0.2".parse().unwrap(), to.parse().unwrap()],
            );
        }
        // Where they are is shown.
        let rows = daemon.json("show macs");
        let rows: Vec<_> = rows.as_array().unwrap().iter().collect();
        for mac in ["02:00:00:00:02:01", "02:00:00:00:02:02"] {
            let row = rows.iter().find(|row| row["mac"] == mac).unwrap();
            assert_eq!(
                (&row["peer_name"], &row["fixed"]),
                (&"node".into(), &false.into())
            );
        }
        // Tagged frames pass as they are, to those on their VLAN.
        let tagged = daemon.sandbox();
        let pid = tagged.pid;
        daemon.ok(&format!(
            "endpoint connect plain {pid} --name tagged --ip 10.9.0.9 --vlan 10"
        ));
        let _ten = interfaces(&first, &[(10, "10.9.0.211", &["10.9.0.9"])]);
        let _eleven = interfaces(&second, &[(11, "10.9.0.212", &["10.9.0.9"])]);
        reach(&first, "10.9.0.9");
        reach(&tagged, "10.9.0.211");
        assert!(!tagged.pings_at_once("10.9.0.212"), "that is another VLAN");
        transfer(
            BYTES,
            &tagged.net,
            &first.net,
            ["10.9.0.9".parse().unwrap(), "10.9.0.211".parse().unwrap()],
        );
    });
}

/// A datagram of VXLAN with a datagram for the sandbox in it, from a station that nobody has heard of.
fn datagram(flags: [u8; 4], last: u8, to: &[u8; 6], port: u16, text: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = VNI.to_be_bytes();
    let inner = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 3, 1], *to)
        .ipv4([10, 9, 0, 222], [10, 9, 0, 2], 64)
        .udp(5, port);
    let mut out = [&flags[..], &[a, b, c, last]].concat();
    inner.write(&mut out, text).unwrap();
    out
}

#[test]
fn what_is_reserved_is_sent_as_zero_and_not_looked_at() {
    netns::inside(|world| {
        let wire = Wire::tap(&world.outside);
        let Some(daemon) = network(world, [HOST.into(), FAR.into()]) else {
            return;
        };
        let place = daemon.sandbox();
        let pid = place.pid;
        daemon.ok(&format!(
            "endpoint connect plain {pid} --name one --ip 10.9.0.2 --mac 02:00:00:00:00:09"
        ));
        let mac = [2, 0, 0, 0, 0, 9];
        let socket = guest::udp(&place.net, [10, 9, 0, 2].into(), SOON);
        let port = socket.local_addr().unwrap().port();
        let mut got = [0; 64];
        for (n, flags) in [[8, 0, 0, 0], [0xff; 4], [0x48, 1, 2, 3]]
            .into_iter()
            .enumerate()
        {
            let text = format!("datagram {n}");
            let bytes = datagram(flags, 0xee, &mac, port, text.as_bytes());
            send_as(&world.outside, (FAR, 5000), (HOST, PORT), &bytes);
            let len = socket.recv(&mut got).unwrap();
            assert_eq!(got.get(..len), Some(text.as_bytes()));
        }
        // Without the flag of the number there is none.
        let before = daemon.drops("malformed");
        let bytes = datagram([0xf7, 0, 0, 0], 0, &mac, port, b"no number");
        send_as(&world.outside, (FAR, 5000), (HOST, PORT), &bytes);
        wait::until("it is dropped", SOON, || {
            daemon.drops("malformed") == before + 1
        });
        // Of another network, or from a host that is no peer.
        let before = daemon.drops("unknown-vni");
        let mut bytes = datagram([8, 0, 0, 0], 0, &mac, port, b"elsewhere");
        send_as(&world.outside, (netns::OUTSIDE, 5000), (HOST, PORT), &bytes);
        if let Some(byte) = bytes.get_mut(5) {
            *byte ^= 1;
        }
        send_as(&world.outside, (FAR, 5000), (HOST, PORT), &bytes);
        wait::until("both are dropped", SOON, || {
            daemon.drops("unknown-vni") == before + 2
        });
        socket.set_nonblocking(true).unwrap();
        assert!(socket.recv(&mut got).is_err(), "something came through");

        // What leaves is as the kernel demands it, by ports that tell flows apart.
        world.far.ip("addr add 10.9.0.200/24 dev vx0");
        reach(&place, "10.9.0.200");
        let sent = wire.datagrams(HOST, FAR, PORT);
        assert!(!sent.is_empty());
        for bytes in sent {
            let [_, a, b, c] = VNI.to_be_bytes();
            assert_eq!(bytes.get(..8), Some(&[8, 0, 0, 0, a, b, c, 0][..]));
        }
    });
}

#[test]
fn nobody_speaks_for_an_endpoint_that_is_here() {
    netns::inside(|world| {
        if !netns::have("python3") {
            return;
        }
        let Some(daemon) = network(world, [HOST.into(), FAR.into()]) else {
            return;
        };
        let (_behind, [liar, honest]) = bridge(world);
        let [one, two] = ["one", "two"].map(|name| daemon.connected(name, &["plain"]));
        reach(&one, "10.9.0.202");
        let shown = daemon.json("endpoint inspect plain two");
        let mac = shown["mac"].as_str().unwrap().to_owned();
        // By its MAC, and by its address.
        liar.net.ip(&format!("link set eth0 address {mac}"));
        liar.sh("ping -n -c 2 -W 1 10.9.0.2");
        wait::until("the MAC is refused", SOON, || {
            crate::support::hosts::peer_drops(&daemon, "spoofed") > 0
        });
        liar.net.ip("link set eth0 address 02:00:00:00:02:01");
        liar.net
            .ip("addr flush dev eth0\naddr add 10.9.0.3/24 dev eth0");
        liar.sh("ping -n -c 2 -W 1 10.9.0.2");
        wait::until("the address is refused", SOON, || {
            crate::support::hosts::peer_drops(&daemon, "spoofed-arp") > 0
        });
        assert!(one.pings("10.9.0.3") && two.pings("10.9.0.2"));
        reach(&honest, "10.9.0.3");
        let at = SocketAddr::from(([10, 9, 0, 3], 0));
        let at = servers::http(&two.net, at);
        assert!(guest::fetch(&one.net, at).contains("10.9.0.2"));
    });
}
