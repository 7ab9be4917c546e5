//! Three hosts with two endpoints each and a part of 10.0.0.0/16 and fd00::/64 each, joined by bare packets.

use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::addr::{Mac, PortId};
use crate::gso::split::split;
use crate::pipeline::rule_tests::{TRUSTED, rules};
use crate::pipeline::tests::{World, switch, way_to_host};
use crate::pipeline::{Port, Remote, Switch};
use crate::policy::compile::Action;
use crate::respond::Guest;
use crate::testing::packets::{Link, Segment};
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum::{fold, l4_valid, sum};
use crate::wire::packet::{Ip, Kind, Packet};
use crate::wire::tcp::{ACK, TcpHeader};
use crate::wire::vnet_hdr::VnetHdr;

/// What fits into a datagram of 1500 bytes.
const MTU: u16 = 1472;
const NONE: VnetHdr = VnetHdr {
    flags: 0,
    gso_type: 0,
    hdr_len: 0,
    gso_size: 0,
    csum_start: 0,
    csum_offset: 0,
};

fn mac(host: u8, end: u8) -> Mac {
    Mac([2, 0, 0, 0, host, end])
}

fn v4(host: u8, end: u8) -> IpAddr {
    [10, 0, host, end].into()
}

fn v6(host: u8, end: u8) -> IpAddr {
    [0xfd00, 0, 0, 0, 0, 0, host.into(), end.into()].into()
}

fn way(to: u8) -> PortId {
    PortId::remote(to.into())
}

fn leads(to: u8) -> Port {
    way_to_host(way(to), MTU, Remote::Routed)
}

/// Host `n`, whose gateway is the first of its part, with endpoints 2 and 3.
fn host(n: u8) -> Switch {
    let mut s = switch(1500);
    for port in [0, 1] {
        s.remove_port(&mut World::default(), PortId(port));
    }
    let gw = &mut s.config.gateway;
    gw.mac = mac(n, 1);
    gw.v4 = Some(([10, 0, n, 1].into(), 16));
    gw.v6 = Some((format!("fd00::{n}:1").parse().unwrap(), 64));
    for (at, end) in [(0, 2), (1, 3)] {
        let guest = Guest {
            mac: mac(n, end),
            name: String::new(),
            v4: Some([10, 0, n, end].into()),
            v6: format!("fd00::{n}:{end}").parse().ok(),
        };
        s.add_port(Port::new(PortId(at), mac(n, end), 1500, true), guest);
    }
    for to in (1..=3).filter(|&to| to != n) {
        s.add_remote_port(leads(to));
        s.set_routes(way(to), &[(v4(to, 0), 24), (v6(to, 0), 112)]);
    }
    s
}

struct Hosts(Vec<(Switch, World)>);

impl Hosts {
    fn new() -> Self {
        Self((1..=3).map(|n| (host(n), World::default())).collect())
    }

    fn at(&mut self, host: u8) -> &mut (Switch, World) {
        &mut self.0[usize::from(host) - 1]
    }

    /// Sends a frame of a host's first endpoint, and carries what leaves as bare packets. Returns the verdict on it, and
    /// what comes to endpoints, with the host.
    fn send(&mut self, from: u8, vnet: &VnetHdr, bytes: &[u8]) -> (Verdict, Got) {
        let (s, w) = self.at(from);
        let verdict = s.handle_frame(w, Tick::ZERO, PortId(0), vnet, bytes);
        let sent = core::mem::take(&mut w.frames);
        let mut got = Vec::new();
        for (port, vnet, frame) in sent {
            let Some(to) = port.remote_index() else {
                got.push((from, port, frame));
                continue;
            };
            let to = u8::try_from(to).unwrap();
            let mut packets = Vec::new();
            split(&frame, &vnet, &mut Vec::new(), &mut |f| {
                packets.push(f[14..].to_vec());
            })
            .unwrap();
            for packet in &packets {
                assert!(packet.len() <= MTU.into());
                self.take(to, from, packet);
            }
            let (s, w) = self.at(to);
            s.end_run(w);
            let came = core::mem::take(&mut w.frames);
            got.extend(came.into_iter().map(|(port, _, frame)| (to, port, frame)));
        }
        (verdict, got)
    }

    /// Has a packet come to one host from another.
    fn take(&mut self, host: u8, from: u8, packet: &[u8]) -> Verdict {
        let (s, w) = self.at(host);
        let ethertype = if packet[0] >> 4 == 4 {
            [8, 0]
        } else {
            [0x86, 0xdd]
        };
        let frame = [&[0; 12][..], &ethertype, packet].concat();
        // Its checksum is verified where it is received.
        s.handle_next(w, Tick::ZERO, way(from), &TRUSTED, &frame)
    }
}

/// Frames, with the host and the endpoint that they came to.
type Got = Vec<(u8, PortId, Vec<u8>)>;

/// From the first endpoint of host 1 to its gateway.
const LINK: Link = Link {
    src: Mac([2, 0, 0, 0, 1, 2]),
    dst: Mac([2, 0, 0, 0, 1, 1]),
};

fn at(addr: IpAddr) -> SocketAddr {
    SocketAddr::new(addr, 4000)
}

fn ip(frame: &[u8]) -> Ip {
    match Packet::parse(frame).unwrap().kind {
        Kind::Ip(ip) => ip,
        Kind::Arp | Kind::Other(_) => panic!("no IP"),
    }
}

fn set_ttl(frame: &mut [u8], ttl: u8) {
    match frame[14] >> 4 {
        4 => {
            frame[22] = ttl;
            frame[24..26].fill(0);
            let csum = !fold(sum(&frame[14..34]));
            frame[24..26].copy_from_slice(&csum.to_be_bytes());
        }
        _ => frame[21] = ttl,
    }
}

/// Has a packet stay in one piece.
fn whole(frame: &mut [u8]) {
    if frame[14] >> 4 == 4 {
        frame[20] |= 0x40;
        set_ttl(frame, 64);
    }
}

/// A packet that host 1 would send to the first endpoint of host 2.
fn bare(src: IpAddr, dst: IpAddr) -> Vec<u8> {
    LINK.udp(at(src), at(dst), b"hello")[14..].to_vec()
}

#[test]
fn packets_go_to_the_host_whose_prefix_it_is_and_to_no_other() {
    let ends = [(v4(1, 2), v4(2, 2)), (v6(1, 2), v6(2, 2))];
    for (src, dst) in ends {
        let mut hosts = Hosts::new();
        let bytes = LINK.udp(at(src), at(dst), b"hello");
        let (verdict, got) = hosts.send(1, &NONE, &bytes);
        assert_eq!(verdict, Verdict::Forward(way(2)));
        let [(2, PortId(0), frame)] = &got[..] else {
            panic!("{got:?}");
        };
        assert_eq!(frame[..6], mac(2, 2).0);
        assert_eq!(frame[6..12], mac(2, 1).0, "from the router there");
        let there = ip(frame);
        assert_eq!((there.src, there.dst, there.ttl), (src, dst, 63));
        assert_eq!(frame[there.l4..], bytes[there.l4..]);
        assert!(src.is_ipv6() || fold(sum(&frame[14..34])) == 0xffff);
    }
}

#[test]
fn super_frames_are_cut_and_made_one_again() {
    let payload: Vec<u8> = (0..40_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    for (src, dst) in [(v4(1, 2), v4(3, 3)), (v6(1, 2), v6(3, 3))] {
        let segment = Segment {
            payload: &payload,
            flags: ACK,
            window: 9,
            ..Segment::default()
        };
        let (vnet, mut bytes) = LINK.tcp_run(at(src), at(dst), 1400, &segment);
        whole(&mut bytes);
        let (verdict, got) = Hosts::new().send(1, &vnet, &bytes);
        assert_eq!(verdict, Verdict::Forward(way(3)));
        assert!(
            got.iter()
                .all(|(host, port, _)| (*host, *port) == (3, PortId(1)))
        );
        assert_eq!(got.len(), 1, "as few as they were");
        let mut came = Vec::new();
        for (_, _, frame) in &got {
            let there = ip(frame);
            let message = &frame[there.l4..there.end];
            let header = TcpHeader::parse(message).unwrap();
            came.extend_from_slice(&message[header.len..]);
            assert_eq!(there.ttl, 63);
        }
        assert!(came == payload);
    }
}

#[test]
fn the_gateway_answers_for_what_is_routed_and_nothing_is_sent_to_all() {
    let mut hosts = Hosts::new();
    let ask = |target: [u8; 4]| {
        let link = Link {
            dst: Mac::BROADCAST,
            ..LINK
        };
        link.arp([10, 0, 1, 2].into(), target.into())
    };
    let (verdict, got) = hosts.send(1, &NONE, &ask([10, 0, 2, 77]));
    assert_eq!((verdict, got.len()), (Verdict::Answer, 1));
    assert_eq!(got[0].2[22..28], mac(1, 1).0);
    // Nobody's: the endpoints here are asked, and no other host is.
    let (verdict, got) = hosts.send(1, &NONE, &ask([10, 0, 9, 9]));
    assert_eq!(verdict, Verdict::Flood);
    assert!(matches!(&got[..], [(1, PortId(1), _)]), "{got:?}");
    let lost = LINK.udp(at(v4(1, 2)), at(v4(2, 2)), b"x");
    let stray = [&[2, 9, 9, 9, 9, 9], &lost[6..]].concat();
    let (verdict, got) = hosts.send(1, &NONE, &stray);
    assert_eq!(verdict, Verdict::Flood);
    assert!(got.iter().all(|g| g.0 == 1), "{got:?}");
}

#[test]
fn a_neighbour_of_ipv6_is_the_gateway_too() {
    let mut hosts = Hosts::new();
    let IpAddr::V6(target) = v6(2, 77) else {
        unreachable!()
    };
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&target.octets());
    message.extend_from_slice(&[1, 1]);
    message.extend_from_slice(&LINK.src.0);
    let link = Link {
        dst: Mac([0x33, 0x33, 0xff, 0, 0, 77]),
        ..LINK
    };
    let group = "ff02::1:ff00:77".parse().unwrap();
    let mut bytes = link.icmp(v6(1, 2), group, &message);
    set_ttl(&mut bytes, 255);
    let (verdict, got) = hosts.send(1, &NONE, &bytes);
    assert_eq!((verdict, got.len()), (Verdict::Answer, 1));
    let (frame, len) = (&got[0].2, got[0].2.len());
    assert_eq!((frame[54], &frame[len - 6..]), (136, &mac(1, 1).0[..]));
}

#[test]
fn a_packet_that_has_been_round_too_long_is_told_of() {
    for (src, dst, said) in [(v4(1, 2), v4(2, 2), 11), (v6(1, 2), v6(2, 2), 3)] {
        let mut hosts = Hosts::new();
        let mut bytes = LINK.udp(at(src), at(dst), b"hello");
        set_ttl(&mut bytes, 1);
        let (verdict, got) = hosts.send(1, &NONE, &bytes);
        assert_eq!(verdict, Verdict::Drop(DropReason::TtlExpired));
        let [(1, PortId(0), error)] = &got[..] else {
            panic!("{got:?}");
        };
        let error_ip = ip(error);
        let router = if src.is_ipv4() { v4(1, 1) } else { v6(1, 1) };
        assert_eq!((error_ip.src, error[error_ip.l4]), (router, said));
        set_ttl(&mut bytes, 2);
        let (_, got) = hosts.send(1, &NONE, &bytes);
        assert_eq!((got[0].0, ip(&got[0].2).ttl), (2, 1));
    }
}

#[test]
fn what_does_not_fit_the_way_is_told_of() {
    for (src, dst) in [(v4(1, 2), v4(2, 2)), (v6(1, 2), v6(2, 2))] {
        let mut hosts = Hosts::new();
        let headers = if src.is_ipv4() { 28 } else { 48 };
        for (len, fits) in [(1472 - headers, true), (1473 - headers, false)] {
            let mut bytes = LINK.udp(at(src), at(dst), &vec![7; len]);
            whole(&mut bytes);
            let (verdict, got) = hosts.send(1, &NONE, &bytes);
            let [(host, PortId(0), frame)] = &got[..] else {
                panic!("{got:?}");
            };
            if fits {
                assert_eq!((verdict, *host), (Verdict::Forward(way(2)), 2));
                continue;
            }
            assert_eq!((verdict, *host), (Verdict::Drop(DropReason::TooBig), 1));
            let l4 = ip(frame).l4;
            assert_eq!(frame[l4 + 6..l4 + 8], MTU.to_be_bytes());
        }
    }
}

#[test]
fn what_is_for_nobody_stays_here() {
    let mut hosts = Hosts::new();
    let nowhere = LINK.udp(at(v4(1, 2)), at(v4(9, 9)), b"x");
    let (verdict, got) = hosts.send(1, &NONE, &nowhere);
    assert_eq!(verdict, Verdict::Drop(DropReason::NotRouted));
    let l4 = ip(&got[0].2).l4;
    assert_eq!((got[0].0, &got[0].2[l4..l4 + 2]), (1, &[3, 0][..]));
    // A host that is gone has no prefix.
    let there = LINK.udp(at(v4(1, 2)), at(v4(2, 2)), b"x");
    hosts.at(1).0.remove_remote_port(way(2));
    let (verdict, _) = hosts.send(1, &NONE, &there);
    assert_eq!(verdict, Verdict::Drop(DropReason::NotRouted));
    assert!(hosts.at(1).1.datagrams.is_empty(), "nor to the world");
    // As somebody else it is not sent, either.
    let other = LINK.udp(at(v4(1, 3)), at(v4(3, 2)), b"x");
    let (verdict, _) = hosts.send(1, &NONE, &other);
    assert_eq!(verdict, Verdict::Drop(DropReason::Spoofed));
}

#[test]
fn only_the_owner_of_a_prefix_speaks_for_it_and_to_endpoints_here() {
    let mut hosts = Hosts::new();
    #[rustfmt::skip]
    let cases = [
        (v4(1, 2), v4(2, 2), None),
        (v4(1, 0), v4(2, 3), None),
        (v6(1, 2), v6(2, 2), None),
        (v4(3, 2), v4(2, 2), Some(DropReason::SpoofedAddress)),
        (v6(3, 2), v6(2, 2), Some(DropReason::SpoofedAddress)),
        (v4(2, 3), v4(2, 2), Some(DropReason::SpoofedAddress)),
        (v4(2, 1), v4(2, 2), Some(DropReason::SpoofedAddress)),
        (v4(9, 9), v4(2, 2), Some(DropReason::SpoofedAddress)),
        ([192, 0, 2, 1].into(), v4(2, 2), Some(DropReason::SpoofedAddress)),
        (v4(1, 2), v4(2, 9), Some(DropReason::NotRouted)),
        (v4(1, 2), v4(2, 1), Some(DropReason::NotRouted)),
        (v4(1, 2), v4(3, 2), Some(DropReason::NotRouted)),
        (v4(1, 2), [192, 0, 2, 1].into(), Some(DropReason::NotRouted)),
        (v4(1, 2), [224, 0, 0, 251].into(), Some(DropReason::NotRouted)),
        (v4(1, 2), [255, 255, 255, 255].into(), Some(DropReason::NotRouted)),
    ];
    for (src, dst, dropped) in cases {
        let verdict = hosts.take(2, 1, &bare(src, dst));
        let (s, w) = hosts.at(2);
        s.end_run(w);
        let sent = core::mem::take(&mut w.frames);
        match dropped {
            None => assert!(matches!(verdict, Verdict::Forward(_)) && sent.len() == 1),
            Some(reason) => {
                assert_eq!(verdict, Verdict::Drop(reason), "{src} {dst}");
                assert!(sent.is_empty());
            }
        }
    }
    let drops = &hosts.at(2).0.drops;
    assert_eq!(drops.get(DropReason::SpoofedAddress), 6);
    // One that plays the server of addresses.
    let (server, client) = (SocketAddr::new(v4(1, 2), 67), SocketAddr::new(v4(2, 2), 68));
    let served = LINK.udp(server, client, &[2; 240]);
    let verdict = hosts.take(2, 1, &served[14..]);
    assert_eq!(verdict, Verdict::Drop(DropReason::RogueDhcp));
}

#[test]
fn an_endpoint_is_under_its_rules() {
    let mut hosts = Hosts::new();
    let shut = rules(Vec::new(), Action::Drop, Action::Drop);
    let policy = Some(Arc::new(shut.compile().unwrap()));
    let port = Port {
        policy,
        ..Port::new(PortId(0), mac(2, 2), 1500, true)
    };
    assert!(hosts.at(2).0.change_port(port));
    let denied = Verdict::Drop(DropReason::Denied);
    assert_eq!(hosts.take(2, 1, &bare(v4(1, 2), v4(2, 2))), denied);
    let link = Link {
        src: mac(2, 2),
        dst: mac(2, 1),
    };
    let out = link.udp(at(v4(2, 2)), at(v4(1, 2)), b"x");
    assert_eq!(hosts.send(2, &NONE, &out).0, denied);
    hosts.at(2).0.config.icc = false;
    let isolated = Verdict::Drop(DropReason::Isolated);
    assert_eq!(hosts.take(2, 1, &bare(v4(1, 2), v4(2, 3))), isolated);
    assert_eq!(hosts.send(2, &NONE, &out).0, isolated);
}

#[test]
fn checksums_are_those_of_the_sender() {
    let mut hosts = Hosts::new();
    let bytes = LINK.udp(at(v4(1, 2)), at(v4(2, 2)), &[3; 999]);
    let (_, got) = hosts.send(1, &NONE, &bytes);
    let there = ip(&got[0].2);
    let message = &got[0].2[there.l4..there.end];
    assert!(l4_valid(there.src, there.dst, there.proto, message));
}
