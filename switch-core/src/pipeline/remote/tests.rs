//! Frames between two endpoints of this host and those of two others.

mod groups;
mod hosts;

use core::net::SocketAddr;
use std::sync::Arc;

use crate::addr::{Mac, PortId};
use crate::l2::table::MacTable;
use crate::pipeline::tests::{A, B, GATEWAY, World, frame, switch, way_to_host};
use crate::pipeline::{Port, Remote, Switch};
use crate::respond::Guest;
use crate::testing::packets::{Link, Segment};
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum::l4_valid;
use crate::wire::packet::{Kind, PROTO_TCP, PROTO_UDP, Packet};
use crate::wire::tcp::{SYN, TcpHeader, TcpOptions};
use crate::wire::vnet_hdr::VnetHdr;

const NEAR: PortId = PortId::remote(0);
const FAR: PortId = PortId::remote(1);
/// Endpoints of the first of the other hosts, and of the second.
const C: Mac = Mac([2, 0, 0, 0, 0, 12]);
const D: Mac = Mac([2, 0, 0, 0, 0, 13]);
/// One that nobody has announced.
const X: Mac = Mac([2, 0, 0, 0, 0, 99]);

fn guest(mac: Mac) -> Guest {
    let last = mac.0[5];
    Guest {
        mac,
        name: format!("far{last}"),
        v4: Some([10, 0, 0, last].into()),
        v6: format!("fd00::{last}").parse().ok(),
    }
}

fn leads(id: PortId, mtu: u16, learns: bool) -> Port {
    let remote = if learns {
        Remote::Learned
    } else {
        Remote::Announced
    };
    way_to_host(id, mtu, remote)
}

/// A and B here, C behind one port and D behind another; `learns` as a foreign node.
fn world(mtu: u16, learns: bool) -> (Switch, World) {
    let mut s = switch(1500);
    let ports = PortId::REMOTE_BASE as usize + 2;
    s.macs = Arc::new(MacTable::with_limit(64, ports, 8));
    s.add_remote_port(leads(NEAR, mtu, learns));
    s.add_remote_port(leads(FAR, mtu, learns));
    if !learns {
        s.set_remote(NEAR, guest(C));
        s.set_remote(FAR, guest(D));
    }
    (s, World::default())
}

fn send(s: &mut Switch, w: &mut World, from: PortId, vnet: &VnetHdr, bytes: &[u8]) -> Verdict {
    w.frames.clear();
    s.handle_frame(w, Tick::ZERO, from, vnet, bytes)
}

fn udp(from: Mac, to: Mac) -> Vec<u8> {
    let at = |m: Mac| SocketAddr::from(([10, 0, 0, m.0[5]], 4000));
    Link { src: from, dst: to }.udp(at(from), at(to), b"hello")
}

fn to_all(from: Mac) -> Vec<u8> {
    Link {
        src: from,
        dst: Mac::BROADCAST,
    }
    .frame(0x88b5, b"hello")
}

fn targets(w: &World) -> Vec<PortId> {
    w.frames.iter().map(|f| f.0).collect()
}

#[test]
fn what_is_announced_is_reached_at_its_host_and_nowhere_else() {
    let (mut s, mut w) = world(1450, false);
    let none = VnetHdr::default();
    assert_eq!(
        send(&mut s, &mut w, PortId(0), &none, &udp(A, C)),
        Verdict::Forward(NEAR)
    );
    assert_eq!(
        send(&mut s, &mut w, NEAR, &none, &udp(C, A)),
        Verdict::Forward(PortId(0))
    );
    assert_eq!(
        send(&mut s, &mut w, NEAR, &none, &udp(C, D)),
        Verdict::Drop(DropReason::Hairpin),
        "never to a third host"
    );
    s.remove_remote(FAR, C);
    assert_eq!(
        send(&mut s, &mut w, PortId(0), &none, &udp(A, C)),
        Verdict::Forward(NEAR),
        "taken back by one that has it not"
    );
    s.remove_remote_port(NEAR);
    assert_eq!(
        send(&mut s, &mut w, NEAR, &none, &udp(C, A)),
        Verdict::Drop(DropReason::NoFlow)
    );
    assert_eq!(
        send(&mut s, &mut w, PortId(0), &none, &udp(A, C)),
        Verdict::Flood
    );
    assert_eq!(targets(&w), [PortId(1), FAR]);
}

#[test]
fn a_flood_reaches_every_host_once_and_goes_no_further() {
    let (mut s, mut w) = world(1450, false);
    let none = VnetHdr::default();
    assert_eq!(
        send(&mut s, &mut w, PortId(0), &none, &to_all(A)),
        Verdict::Flood
    );
    assert_eq!(targets(&w), [PortId(1), NEAR, FAR]);
    assert_eq!(
        send(&mut s, &mut w, NEAR, &none, &to_all(C)),
        Verdict::Flood
    );
    assert_eq!(targets(&w), [PortId(0), PortId(1)]);
}

#[test]
fn the_gateway_answers_for_endpoints_elsewhere_and_nobody_from_there() {
    let (mut s, mut w) = world(1450, false);
    let none = VnetHdr::default();
    let ask = |from: Mac, target: u8| {
        Link {
            src: from,
            dst: Mac::BROADCAST,
        }
        .arp([10, 0, 0, from.0[5]].into(), [10, 0, 0, target].into())
    };
    assert_eq!(
        send(&mut s, &mut w, PortId(0), &none, &ask(A, 12)),
        Verdict::Answer
    );
    assert_eq!(targets(&w), [PortId(0)], "and it is not flooded");
    assert_eq!(w.frames[0].2[6..12], C.0);
    // From elsewhere it is a question for the endpoints here.
    assert_eq!(
        send(&mut s, &mut w, NEAR, &none, &ask(C, 1)),
        Verdict::Flood
    );
    assert_eq!(targets(&w), [PortId(0), PortId(1)]);
    assert_eq!(
        send(&mut s, &mut w, NEAR, &none, &udp(C, GATEWAY)),
        Verdict::Drop(DropReason::NotRouted)
    );
}

#[test]
fn nobody_elsewhere_speaks_for_another() {
    let (mut s, mut w) = world(1450, false);
    let none = VnetHdr::default();
    let at = |n: u8| SocketAddr::from(([10, 0, 0, n], 4000));
    let from = |src: Mac, n: u8| Link { src, dst: A }.udp(at(n), at(2), b"x");
    let arp = |src: Mac, n: u8| {
        Link {
            src,
            dst: Mac::BROADCAST,
        }
        .arp([10, 0, 0, n].into(), [10, 0, 0, 2].into())
    };
    for (bytes, reason) in [
        (from(B, 3), DropReason::Spoofed),
        (from(D, 13), DropReason::Spoofed),
        (from(X, 99), DropReason::SpoofedAddress),
        (from(C, 3), DropReason::SpoofedAddress),
        (from(C, 13), DropReason::SpoofedAddress),
        (from(C, 1), DropReason::SpoofedAddress),
        (from(C, 77), DropReason::SpoofedAddress),
        (arp(C, 3), DropReason::SpoofedArp),
        (arp(C, 1), DropReason::SpoofedArp),
        (to_all(GATEWAY), DropReason::Spoofed),
        (to_all(A), DropReason::Spoofed),
        (to_all(X), DropReason::Spoofed),
        (to_all(Mac::BROADCAST), DropReason::Spoofed),
    ] {
        let got = send(&mut s, &mut w, NEAR, &none, &bytes);
        assert_eq!(got, Verdict::Drop(reason), "{bytes:02x?}");
        assert!(w.frames.is_empty());
    }
    let served = Link { src: C, dst: A }.udp(
        SocketAddr::from(([10, 0, 0, 12], 67)),
        SocketAddr::from(([10, 0, 0, 2], 68)),
        &[2; 240],
    );
    assert_eq!(
        send(&mut s, &mut w, NEAR, &none, &served),
        Verdict::Drop(DropReason::RogueDhcp)
    );
}

#[test]
fn behind_a_node_that_announces_nothing_stations_are_learned() {
    let (mut s, mut w) = world(1450, true);
    let none = VnetHdr::default();
    assert_eq!(
        send(&mut s, &mut w, PortId(0), &none, &udp(A, C)),
        Verdict::Flood
    );
    assert_eq!(
        send(&mut s, &mut w, NEAR, &none, &udp(C, A)),
        Verdict::Forward(PortId(0))
    );
    assert_eq!(
        send(&mut s, &mut w, PortId(0), &none, &udp(A, C)),
        Verdict::Forward(NEAR)
    );
    for bytes in [udp(B, A), to_all(GATEWAY), to_all(B)] {
        let got = send(&mut s, &mut w, NEAR, &none, &bytes);
        assert!(matches!(got, Verdict::Drop(_)), "{got:?}");
    }
    // So many, and no more.
    let all = (0..20).map(|n| send(&mut s, &mut w, FAR, &none, &to_all(Mac([2, 0, 0, 0, 1, n]))));
    let limited = all.filter(|v| *v == Verdict::Drop(DropReason::MacLimit));
    assert_eq!(limited.count(), 12);
}

#[test]
fn too_big_is_said_by_the_gateway() {
    let (mut s, mut w) = world(1300, false);
    for (ends, router) in [
        (["10.0.0.2", "10.0.0.12"], "10.0.0.1"),
        (["fd00::2", "fd00::12"], "fd00::1"),
    ] {
        let (vnet, bytes) = frame(C, ends, PROTO_UDP, &[7; 1300]);
        let got = send(&mut s, &mut w, PortId(0), &vnet, &bytes);
        assert_eq!(got, Verdict::Drop(DropReason::TooBig));
        let [(to, _, said)] = &w.frames[..] else {
            panic!("{:?}", w.frames);
        };
        assert_eq!(*to, PortId(0));
        let Kind::Ip(ip) = Packet::parse(said).unwrap().kind else {
            panic!("no IP");
        };
        assert_eq!(ip.src.to_string(), router);
        let mtu = u16::from_be_bytes([said[ip.l4 + 6], said[ip.l4 + 7]]);
        assert_eq!(mtu, 1300);
    }
}

#[test]
fn a_connection_is_opened_with_segments_that_fit() {
    let (mut s, mut w) = world(1300, false);
    let none = VnetHdr::default();
    for (src, dst, fits) in [
        ("10.0.0.2:1", "10.0.0.12:2", 1260),
        ("[fd00::2]:1", "[fd00::12]:2", 1240),
    ] {
        let (src, dst): (SocketAddr, SocketAddr) = (src.parse().unwrap(), dst.parse().unwrap());
        for options in [
            &[2, 4, 5, 180][..],
            &[1, 2, 4, 5, 180, 1, 1, 1],
            &[1, 1, 2, 4, 5, 180, 0, 0],
        ] {
            let open = Segment {
                flags: SYN,
                options,
                payload: b"",
                ..Segment::default()
            };
            for (link, from, to) in [
                (Link { src: A, dst: C }, PortId(0), NEAR),
                (Link { src: C, dst: A }, NEAR, PortId(0)),
            ] {
                let ends = if from == NEAR { (dst, src) } else { (src, dst) };
                let bytes = link.tcp(ends.0, ends.1, &open);
                assert_eq!(
                    send(&mut s, &mut w, from, &none, &bytes),
                    Verdict::Forward(to)
                );
                let sent = &w.frames[0].2;
                let Kind::Ip(ip) = Packet::parse(sent).unwrap().kind else {
                    panic!("no IP");
                };
                let message = &sent[ip.l4..ip.end];
                assert!(l4_valid(ip.src, ip.dst, PROTO_TCP, message));
                let header = TcpHeader::parse(message).unwrap();
                let options = TcpOptions::parse(&message[20..header.len]);
                assert_eq!(options.mss, Some(fits));
                assert_eq!(sent.len(), bytes.len());
            }
        }
    }
}

#[test]
fn a_group_is_sent_to_every_host_and_to_members_here() {
    use crate::l2::snoop::groups::Groups;
    use crate::pipeline::Snooping;
    let (mut s, mut w) = world(1450, false);
    s.set_snooping(Some(Snooping {
        groups: Arc::new(Groups::new(64, [1, 2, 3, 4])),
        querier: Some(core::time::Duration::from_secs(125)),
    }));
    // Who was asked and did not answer wants nothing.
    s.handle_timeout(&mut w, Tick::ZERO);
    let later = Tick::ZERO + core::time::Duration::from_secs(60);
    let to = Mac([1, 0, 0x5e, 1, 2, 3]);
    let bytes = |from: Mac| {
        let src = SocketAddr::from(([10, 0, 0, from.0[5]], 5000));
        let dst = SocketAddr::from(([239, 1, 2, 3], 5000));
        Link { src: from, dst: to }.udp(src, dst, b"x")
    };
    w.frames.clear();
    let none = VnetHdr::default();
    s.handle_frame(&mut w, later, PortId(0), &none, &bytes(A));
    assert_eq!(targets(&w), [NEAR, FAR]);
    w.frames.clear();
    let got = s.handle_frame(&mut w, later, NEAR, &none, &bytes(C));
    assert_eq!(
        (got, targets(&w)),
        (Verdict::Drop(DropReason::NoMember), vec![])
    );
}

#[test]
fn the_gateway_is_the_router_of_this_host_alone() {
    let (mut s, mut w) = world(1450, false);
    s.advertise(&mut w);
    assert_eq!(targets(&w), [PortId(0), PortId(1)]);
}
