//! Announcements through a whole switch.

use core::net::IpAddr;
use std::sync::Arc;

use crate::addr::{Mac, NetworkId, PortId};
use crate::pipeline::tests::{A, B, World, switch};
use crate::pipeline::{Port, Switch, Vlan, Vlans};
use crate::respond::{Guest, icmp};
use crate::time::Tick;
use crate::wire::packet::{Kind, Packet};

const NOW: Tick = Tick::from_millis(1);

fn addrs() -> [IpAddr; 2] {
    ["10.0.0.3", "fd00::3"].map(|a| a.parse().unwrap())
}

fn join(s: &mut Switch, port: Port) {
    let guest = Guest {
        mac: port.mac,
        name: String::new(),
        v4: None,
        v6: None,
    };
    s.add_port(port, guest);
}

/// Who hears what B announces, in turns.
fn heard(s: &mut Switch) -> Vec<(u32, Vec<u8>)> {
    let mut world = World::default();
    s.announce(&mut world, NOW, PortId(1), &addrs());
    s.flush(&mut world, NOW);
    while s.run_ready(&mut world, NOW) {}
    let frames = world.frames.into_iter();
    frames.map(|(to, _, frame)| (to.0, frame)).collect()
}

#[test]
fn neighbours_hear_of_both_addresses_once() {
    let mut s = switch(1500);
    let heard = heard(&mut s);
    let [(0, four), (0, six)] = &heard[..] else {
        panic!("{heard:?}");
    };
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    let wanted = [
        &Mac::BROADCAST.0[..],
        &B.0,
        &[8, 6],
        &head,
        &B.0,
        &[10, 0, 0, 3],
    ]
    .concat();
    assert_eq!(four[..32], wanted);
    assert_eq!(four[32..], [0, 0, 0, 0, 0, 0, 10, 0, 0, 3]);
    let packet = Packet::parse(six).unwrap();
    let Kind::Ip(ip) = packet.kind else {
        panic!("no IP packet");
    };
    assert_eq!((packet.src, ip.src, ip.ttl), (B, addrs()[1], 255));
    assert_eq!(ip.dst, "ff02::1".parse::<IpAddr>().unwrap());
    let message = &six[ip.l4..ip.end];
    assert!(icmp::valid(&ip, message));
    // It overrides, and answers nobody.
    assert_eq!((message[0], message[4]), (136, 0x20));
    let target = "fd00::3".parse::<core::net::Ipv6Addr>().unwrap().octets();
    assert_eq!(message[8..], [&target[..], &[2, 1], &B.0].concat());
}

#[test]
fn only_those_who_may_hear_it_do() {
    let vlan = |id| Vlan {
        id,
        segment: NetworkId(1_000 + u32::from(id)),
    };
    let on = |id: u8, vlan| Port {
        vlans: Some(Arc::new(Vlans::access(vlan))),
        ..Port::new(PortId(id.into()), Mac([2, 0, 0, 0, 1, id]), 1500, true)
    };
    let mut s = switch(1500);
    join(&mut s, on(2, vlan(10)));
    join(&mut s, on(3, vlan(20)));
    let to = |s: &mut Switch| heard(s).iter().map(|h| h.0).collect::<Vec<_>>();
    assert_eq!(to(&mut s), [0, 0]);
    let b = Port {
        mac: B,
        ..on(1, vlan(10))
    };
    assert!(s.change_port(b));
    assert_eq!(to(&mut s), [2, 2]);
    for (id, mac) in [(0, A), (1, B)] {
        let isolated = true;
        let port = Port::new(PortId(id), mac, 1500, true);
        assert!(s.change_port(Port { isolated, ..port }));
    }
    assert_eq!(to(&mut s), [0; 0]);
}

#[test]
fn a_large_network_hears_it_in_turns() {
    let mut s = switch(1500);
    for id in 2..200_u8 {
        join(
            &mut s,
            Port::new(PortId(id.into()), Mac([2, 0, 0, 0, 1, id]), 1500, true),
        );
    }
    let mut world = World::default();
    s.announce(&mut world, NOW, PortId(1), &addrs());
    assert_eq!(world.frames.len(), crate::l2::flood::TURN);
    s.flush(&mut world, NOW);
    while s.run_ready(&mut world, NOW) {}
    assert_eq!(world.frames.len(), 2 * 199);
}
