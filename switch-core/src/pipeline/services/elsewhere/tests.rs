//! A service of one host and a client of another, each with a switch of its own, and what passes between them.

mod backends;

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::addr::{Mac, PortId};
use crate::l2::table::MacTable;
use crate::nat::service::{Face, Server, ServiceConfig, Services, station};
use crate::pipeline::rule_tests::{parts, rule, rules, tcp, udp};
use crate::pipeline::tests::{A, B, GATEWAY, World, switch, way_to_host};
use crate::pipeline::{Port, Remote, Settings, Switch};
use crate::policy::compile::Action;
use crate::policy::guard::{Guard, Trust};
use crate::policy::host_rule::HostRule;
use crate::policy::limit::{Limits, Rate, Rates};
use crate::respond::Guest;
use crate::testing::packets::{Link, Segment};
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};
use crate::wire::packet::{Kind, PROTO_TCP, PROTO_UDP, Packet};
use crate::wire::tcp::{ACK, RST, SYN, TcpHeader, TcpOptions};
use crate::wire::vnet_hdr::VnetHdr;

/// The port of each host that leads to the other.
const WAY: PortId = PortId::remote(0);
/// The client, and the gateway of its host.
const C: Mac = Mac([2, 0, 0, 0, 0, 12]);
const ELSEWHERE: Mac = Mac([2, 0, 0, 0, 9, 9]);
/// One beside the client, and its addresses.
const D: Mac = Mac([2, 0, 0, 0, 0, 13]);
const DS: [&str; 2] = ["10.0.0.13", "fd00::13"];
/// Of the client, the service, and the backend.
const ENDS: [[&str; 3]; 2] = [
    ["10.0.0.12", "10.0.0.200", "10.0.0.2"],
    ["fd00::12", "fd00::200", "fd00::2"],
];

fn addrs(nth: usize) -> Vec<IpAddr> {
    ENDS.map(|ends| ends[nth].parse().unwrap()).into()
}

/// The service's MAC for others.
fn vip() -> Mac {
    station(&addrs(1)).unwrap()
}

fn guest(mac: Mac, nth: usize) -> Guest {
    Guest {
        mac,
        name: String::new(),
        v4: ENDS[0][nth].parse().ok(),
        v6: ENDS[1][nth].parse().ok(),
    }
}

/// The endpoint beside the client.
fn neighbour() -> Guest {
    Guest {
        mac: D,
        name: String::new(),
        v4: DS[0].parse().ok(),
        v6: DS[1].parse().ok(),
    }
}

/// A as one that serves.
fn here() -> Server {
    Server {
        port: PortId(0),
        mac: A,
        addrs: addrs(2),
    }
}

/// C as one that serves.
fn there() -> Server {
    Server {
        port: WAY,
        mac: C,
        addrs: addrs(0),
    }
}

fn leads(mtu: u16, remote: Remote) -> Port {
    way_to_host(WAY, mtu, remote)
}

/// A frame, and where it went.
type Sent = Vec<(PortId, Vec<u8>)>;

struct Two {
    /// With the service, and A that serves it.
    own: Switch,
    /// With the client, as its first port.
    far: Switch,
}

impl Two {
    fn new(remote: Remote) -> Self {
        let [mut own, mut far] = [(); 2].map(|()| {
            let mut s = switch(1500);
            s.macs = Arc::new(MacTable::with_limit(
                64,
                PortId::REMOTE_BASE as usize + 1,
                8,
            ));
            s
        });
        (0..2).for_each(|n| far.remove_port(&mut World::default(), PortId(n)));
        far.config.gateway.mac = ELSEWHERE;
        far.add_port(Port::new(PortId(0), C, 1500, true), guest(C, 0));
        far.add_port(Port::new(PortId(1), D, 1500, true), neighbour());
        own.add_remote_port(leads(1300, remote));
        far.add_remote_port(leads(1400, remote));
        if remote == Remote::Announced {
            own.set_remote(WAY, guest(C, 0));
            own.set_remote(WAY, neighbour());
            far.set_remote(WAY, guest(A, 2));
            far.set_remote(WAY, guest(vip(), 1));
        }
        let mut two = Self { own, far };
        two.serve(vec![here()]);
        two
    }

    fn serve(&mut self, servers: Vec<Server>) {
        let face = |proto| Face {
            proto,
            port: 80,
            target: 8080,
        };
        let config = ServiceConfig {
            addrs: addrs(1),
            faces: vec![face(PROTO_TCP), face(PROTO_UDP)],
            servers,
        };
        let services = Services::new(&[config], self.own.services.as_deref());
        self.own.set_services(Arc::new(services));
    }

    /// Sends from the client, or who is beside it, to where the service is. Gives the verdict there, and what came of it.
    #[track_caller]
    fn asks(&mut self, frame: &[u8]) -> (Verdict, Sent) {
        let from = PortId(u32::from(frame[6..12] == D.0));
        let (verdict, sent) = send(&mut self.far, from, frame);
        let Some((_, passed)) = sent.iter().find(|(to, _)| *to == WAY) else {
            panic!("{verdict:?}: {sent:?}");
        };
        send(&mut self.own, WAY, passed)
    }

    /// The frame that the client gets of what the service's host sends on the way to it.
    #[track_caller]
    fn hears(&mut self, (to, frame): &(PortId, Vec<u8>)) -> Vec<u8> {
        assert_eq!(*to, WAY);
        let (verdict, sent) = send(&mut self.far, WAY, frame);
        assert_eq!(verdict, Verdict::Forward(PortId(0)));
        sent.into_iter().next().unwrap().1
    }
}

fn send(s: &mut Switch, from: PortId, frame: &[u8]) -> (Verdict, Sent) {
    let mut world = World::default();
    let verdict = s.handle_frame(&mut world, Tick::ZERO, from, &VnetHdr::default(), frame);
    s.flush(&mut world, Tick::ZERO);
    let frames = world.frames.into_iter();
    (verdict, frames.map(|(to, _, frame)| (to, frame)).collect())
}

/// MACs, addresses and ports of a frame.
fn ends(frame: &[u8]) -> ([Mac; 2], [IpAddr; 2], [u16; 2]) {
    let packet = Packet::parse(frame).unwrap();
    let Kind::Ip(ip) = packet.kind else {
        panic!("no IP packet");
    };
    let port = |at| u16::from_be_bytes([frame[ip.l4 + at], frame[ip.l4 + at + 1]]);
    (
        [packet.src, packet.dst],
        [ip.src, ip.dst],
        [port(0), port(2)],
    )
}

fn both(a: &str, b: &str) -> [IpAddr; 2] {
    [a, b].map(|a| a.parse().unwrap())
}

#[test]
fn a_client_elsewhere_is_served_and_hears_the_service_alone() {
    for [c, v, a] in ENDS {
        let mut two = Two::new(Remote::Announced);
        for flags in [SYN, ACK] {
            let (verdict, sent) = two.asks(&tcp([C, vip()], [c, v], (4000, 80), flags));
            assert_eq!(verdict, Verdict::Forward(PortId(0)));
            assert_eq!(ends(&sent[0].1), ([GATEWAY, A], both(c, a), [4000, 8080]));
            // The backend finds the client where it is, and answers it there.
            let back = tcp([A, C], [a, c], (8080, 4000), flags | ACK);
            let (verdict, sent) = send(&mut two.own, PortId(0), &back);
            assert_eq!(verdict, Verdict::Forward(WAY));
            let heard = two.hears(&sent[0]);
            assert_eq!(ends(&heard), ([vip(), C], both(v, c), [80, 4000]));
        }
        let (verdict, sent) = two.asks(&udp([C, vip()], [c, v], (4001, 80), b"who"));
        assert_eq!(verdict, Verdict::Forward(PortId(0)));
        assert_eq!(ends(&sent[0].1).2, [4001, 8080]);
        // What is no conversation's passes as it did.
        let (verdict, _) = two.asks(&tcp([C, A], [c, a], (4002, 22), SYN));
        assert_eq!(verdict, Verdict::Forward(PortId(0)));
    }
}

#[test]
fn a_client_elsewhere_is_told_what_one_here_is() {
    for [c, v, a] in ENDS {
        let mut two = Two::new(Remote::Announced);
        let (verdict, told) = two.asks(&tcp([C, vip()], [c, v], (4000, 81), SYN));
        assert_eq!(verdict, Verdict::Drop(DropReason::Refused));
        let heard = two.hears(&told[0]);
        assert_eq!(parts(&heard).1[13] & RST, RST);
        assert_eq!(ends(&heard).0, [vip(), C]);
        let (verdict, told) = two.asks(&udp([C, vip()], [c, v], (4000, 81), b"who"));
        assert_eq!(verdict, Verdict::Drop(DropReason::Refused));
        let heard = two.hears(&told[0]);
        assert!(matches!(parts(&heard).1[..2], [3, 3] | [1, 4]));
        assert_eq!(ends(&heard).1, both(v, c));
        let link = Link { src: C, dst: vip() };
        let (verdict, told) =
            two.asks(&link.echo(c.parse().unwrap(), v.parse().unwrap(), 7, 1, b"there"));
        assert_eq!(verdict, Verdict::Answer);
        assert_eq!(ends(&two.hears(&told[0])).0, [vip(), C]);
        // What a backend says of a datagram comes from the service.
        two.asks(&udp([C, vip()], [c, v], (4001, 80), b"who"));
        let quoted = udp([GATEWAY, A], [c, a], (4001, 8080), b"who");
        let error = unreachable([A, C], [a, c], &quoted);
        let (verdict, sent) = send(&mut two.own, PortId(0), &error);
        assert_eq!(verdict, Verdict::Forward(WAY));
        let heard = two.hears(&sent[0]);
        assert_eq!((ends(&heard).0, ends(&heard).1), ([vip(), C], both(v, c)));
    }
}

/// An error that nobody listens on a port.
fn unreachable(macs: [Mac; 2], [src, dst]: [&str; 2], about: &[u8]) -> Vec<u8> {
    let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
    let codes = if src.is_ipv4() { [3, 3] } else { [1, 4] };
    let message = [&codes[..], &[0; 6], &about[14..]].concat();
    let [src_mac, dst_mac] = macs;
    let link = Link {
        src: src_mac,
        dst: dst_mac,
    };
    link.icmp(src, dst, &message)
}

#[test]
fn connections_are_opened_with_segments_that_fit_both_ways() {
    let mut two = Two::new(Remote::Announced);
    let [c, v, a] = ENDS[0];
    let syn = |link: Link, src: (&str, u16), dst: (&str, u16), flags| {
        let at = |(ip, port): (&str, u16)| SocketAddr::new(ip.parse().unwrap(), port);
        let segment = Segment {
            options: &[2, 4, 5, 180],
            seq: 1,
            ack: 0,
            flags,
            window: 1000,
            payload: &[],
        };
        link.tcp(at(src), at(dst), &segment)
    };
    let mss = |frame: &[u8]| {
        let Kind::Ip(ip) = Packet::parse(frame).unwrap().kind else {
            panic!("no IP packet");
        };
        let hdr = TcpHeader::parse(&frame[ip.l4..ip.end]).unwrap();
        TcpOptions::parse(&frame[ip.l4 + 20..ip.l4 + hdr.len]).mss
    };
    let there = syn(Link { src: C, dst: vip() }, (c, 4000), (v, 80), SYN);
    let (_, sent) = two.asks(&there);
    // The narrower of what both know of the way.
    assert_eq!(mss(&sent[0].1), Some(1260));
    let back = syn(Link { src: A, dst: C }, (a, 8080), (c, 4000), SYN | ACK);
    let (_, sent) = send(&mut two.own, PortId(0), &back);
    assert_eq!(mss(&sent[0].1), Some(1260));
}

#[test]
fn where_endpoints_may_not_speak_to_each_other_the_service_stands_for_its_client() {
    for [c, v, a] in ENDS {
        let mut two = Two::new(Remote::Announced);
        two.own.configure(Settings {
            icc: false,
            uplink: true,
            search: Vec::new(),
            rule: HostRule::default(),
        });
        let (verdict, sent) = two.asks(&tcp([C, vip()], [c, v], (4000, 80), SYN));
        assert_eq!(verdict, Verdict::Forward(PortId(0)));
        assert_eq!(ends(&sent[0].1), ([GATEWAY, A], both(v, a), [4000, 8080]));
        let back = tcp([A, GATEWAY], [a, v], (8080, 4000), SYN | ACK);
        let (_, sent) = send(&mut two.own, PortId(0), &back);
        assert_eq!(
            ends(&two.hears(&sent[0])),
            ([vip(), C], both(v, c), [80, 4000])
        );
        let (verdict, _) = two.asks(&tcp([C, A], [c, a], (4000, 80), SYN));
        assert_eq!(verdict, Verdict::Drop(DropReason::Isolated));
    }
}

#[test]
fn a_host_opens_no_more_than_one_may_and_rules_of_backends_hold_for_clients_elsewhere() {
    let [c, v, _] = ENDS[0];
    let mut two = Two::new(Remote::Announced);
    let port = two.own.port(WAY).unwrap().clone();
    let few = Rates {
        new_flows: Some(Rate {
            per_second: 10,
            burst: 10,
        }),
        ..Rates::DEFAULT
    };
    let limits = Some(Arc::new(Limits::new(few)));
    two.own.add_remote_port(Port { limits, ..port });
    let opened = (0..100).filter(|&n| {
        let (verdict, _) = two.asks(&tcp([C, vip()], [c, v], (4000 + n, 80), SYN));
        let limited = verdict == Verdict::Drop(DropReason::NewFlowLimit);
        assert!(limited || verdict == Verdict::Forward(PortId(0)));
        !limited
    });
    assert_eq!(opened.count(), 10);
    // What is open goes on.
    let (verdict, _) = two.asks(&tcp([C, vip()], [c, v], (4000, 80), ACK));
    assert_eq!(verdict, Verdict::Forward(PortId(0)));
    let mut two = Two::new(Remote::Announced);
    let closed = rules(Vec::new(), Action::Drop, Action::Allow);
    rule(&mut two.own, (0, A), &closed);
    let (verdict, _) = two.asks(&tcp([C, vip()], [c, v], (4000, 80), SYN));
    assert_eq!(verdict, Verdict::Drop(DropReason::Denied));
}

#[test]
fn nobody_elsewhere_is_served_in_anothers_name() {
    let [c, v, a] = ENDS[0];
    let mut two = Two::new(Remote::Announced);
    let unknown = Mac([2, 0, 0, 0, 0, 99]);
    let to = |macs, ends| tcp(macs, ends, (4000, 80), SYN);
    for (frame, reason) in [
        (to([unknown, vip()], [c, v]), DropReason::SpoofedAddress),
        (to([unknown, vip()], ["192.0.2.9", v]), DropReason::Spoofed),
        (to([C, vip()], [a, v]), DropReason::SpoofedAddress),
        (to([C, vip()], ["10.0.0.77", v]), DropReason::SpoofedAddress),
        (to([C, vip()], ["192.0.2.9", v]), DropReason::Spoofed),
        (to([C, vip()], [v, v]), DropReason::SpoofedAddress),
        (to([B, vip()], [c, v]), DropReason::SpoofedAddress),
        (to([vip(), A], [v, a]), DropReason::SpoofedAddress),
        // It is no router, nor another's address.
        (to([C, vip()], [c, "192.0.2.9"]), DropReason::NotRouted),
        (to([C, vip()], [c, a]), DropReason::NotRouted),
        (to([C, GATEWAY], [c, v]), DropReason::NotRouted),
    ] {
        let (verdict, sent) = send(&mut two.own, WAY, &frame);
        assert_eq!((verdict, sent), (Verdict::Drop(reason), Vec::new()));
    }
    // And on its own host nobody speaks for it either.
    let guard = |s: &Switch| Port {
        guard: Some(Guard::new(C, addrs(0), None, Trust::default())),
        ..s.port(PortId(0)).unwrap().clone()
    };
    let guarded = guard(&two.far);
    two.far.change_port(guarded);
    let (verdict, _) = send(&mut two.far, PortId(0), &to([C, A], [v, a]));
    assert_eq!(verdict, Verdict::Drop(DropReason::SpoofedAddress));
}

fn arp(from: (Mac, &str), to: Mac, target: &str) -> Vec<u8> {
    let [sender, target]: [Ipv4Addr; 2] = [from.1, target].map(|a| a.parse().unwrap());
    Link {
        src: from.0,
        dst: to,
    }
    .arp(sender, target)
}

#[test]
fn its_address_is_told_by_the_gateway_of_who_asks_and_by_itself() {
    let mut two = Two::new(Remote::Announced);
    let [c, v, a] = ENDS[0];
    // The client's gateway knows it as any endpoint elsewhere.
    let (verdict, told) = send(&mut two.far, PortId(0), &arp((C, c), Mac::BROADCAST, v));
    assert_eq!((verdict, told[0].0), (Verdict::Answer, PortId(0)));
    assert_eq!(told[0].1[22..28], vip().0);
    // Who knows it asks it alone whether it is still there.
    let (verdict, told) = two.asks(&arp((C, c), vip(), v));
    assert_eq!(verdict, Verdict::Answer);
    let heard = two.hears(&told[0]);
    assert_eq!(
        (&heard[6..12], &heard[22..28]),
        (&vip().0[..], &vip().0[..])
    );
    for other in [a, "10.0.0.1"] {
        let (verdict, _) = two.asks(&arp((C, c), vip(), other));
        assert_eq!(verdict, Verdict::Drop(DropReason::NotRouted));
    }
    let [c, v, a] = ENDS[1];
    let solicit = |to: Mac, dst: &str, target: &str| {
        let target: core::net::Ipv6Addr = target.parse().unwrap();
        let own = [&[1, 1][..], &C.0].concat();
        let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &own].concat();
        let link = Link { src: C, dst: to };
        let mut frame = link.icmp(c.parse().unwrap(), dst.parse().unwrap(), &message);
        frame[14 + 7] = 255;
        frame
    };
    let (verdict, told) = two.asks(&solicit(vip(), v, v));
    assert_eq!(verdict, Verdict::Answer);
    let heard = two.hears(&told[0]);
    assert_eq!((heard[54], &heard[80..86]), (136, &vip().0[..]));
    let (verdict, _) = two.asks(&solicit(vip(), v, a));
    assert_eq!(verdict, Verdict::Drop(DropReason::NotRouted));
}

#[test]
fn nodes_that_are_told_nothing_ask_everybody() {
    let mut two = Two::new(Remote::Learned);
    let [c, v, a] = ENDS[0];
    let (verdict, told) = two.asks(&arp((C, c), Mac::BROADCAST, v));
    assert_eq!(verdict, Verdict::Answer);
    let heard = two.hears(&told[0]);
    assert_eq!(heard[22..28], vip().0);
    let (verdict, sent) = two.asks(&tcp([C, vip()], [c, v], (4000, 80), SYN));
    assert_eq!(verdict, Verdict::Forward(PortId(0)));
    assert_eq!(ends(&sent[0].1), ([GATEWAY, A], both(c, a), [4000, 8080]));
    let back = tcp([A, C], [a, c], (8080, 4000), SYN | ACK);
    let (verdict, sent) = send(&mut two.own, PortId(0), &back);
    assert_eq!(verdict, Verdict::Forward(WAY));
    assert_eq!(ends(&two.hears(&sent[0])).0, [vip(), C]);
    // What is no service's goes on to everybody here, and nobody answers for the gateway.
    let ask = arp((C, c), Mac::BROADCAST, "10.0.0.1");
    let (verdict, _) = send(&mut two.own, WAY, &ask);
    assert_eq!(verdict, Verdict::Flood);
    let (verdict, _) = two.asks(&tcp([C, vip()], ["192.0.2.9", v], (4000, 80), SYN));
    assert_eq!(verdict, Verdict::Drop(DropReason::Spoofed));
}
