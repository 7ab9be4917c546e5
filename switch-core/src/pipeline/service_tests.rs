//! Services, on frames through a whole switch of three endpoints.

use core::net::IpAddr;
use std::sync::Arc;

use super::Switch;
use super::rule_tests::{FOUR, SIX, TRUSTED, parts, rule, rules, tcp, udp};
use super::tests::{A, B, GATEWAY, World, switch};
use super::{Port, Settings};
use crate::addr::{Mac, PortId};
use crate::nat::service::{Face, Server, ServiceConfig, Services};
use crate::policy::compile::Action;
use crate::policy::host_rule::HostRule;
use crate::respond::Guest;
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum::{complete_partial, l4_valid};
use crate::wire::emit::HeaderBuf;
use crate::wire::packet::{Ip, Kind, PROTO_TCP, PROTO_UDP, Packet};
use crate::wire::tcp::{ACK, RST, SYN};
use crate::wire::vnet_hdr::{GSO_TCPV4, VnetHdr};

const C: Mac = Mac([2, 0, 0, 0, 0, 4]);
/// Of C and of the service.
const MORE: [[&str; 2]; 2] = [["10.0.0.4", "10.0.0.200"], ["fd00::4", "fd00::200"]];

fn server(id: u32, mac: Mac) -> Server {
    let addr = |six| format!("{}{}", if six { "fd00::" } else { "10.0.0." }, mac.0[5]);
    Server {
        port: PortId(id),
        mac,
        addrs: [false, true].map(|six| addr(six).parse().unwrap()).into(),
    }
}

fn serve(s: &mut Switch, servers: Vec<Server>) {
    let face = |proto| Face {
        proto,
        port: 80,
        target: 8080,
    };
    let config = ServiceConfig {
        addrs: MORE.map(|[_, vip]| vip.parse().unwrap()).into(),
        faces: vec![face(PROTO_TCP), face(PROTO_UDP)],
        servers,
    };
    let services = Services::new(&[config], s.services.as_deref());
    s.set_services(Arc::new(services));
}

fn three() -> Switch {
    let mut s = switch(1500);
    let guest = Guest {
        mac: C,
        name: String::new(),
        v4: Some([10, 0, 0, 4].into()),
        v6: "fd00::4".parse().ok(),
    };
    s.add_port(Port::new(PortId(2), C, 1500, false), guest);
    s
}

/// Sends a frame; returns where it went and what it became.
#[track_caller]
fn send(s: &mut Switch, ms: u64, from: u32, frame: &[u8]) -> (Verdict, Option<(PortId, Vec<u8>)>) {
    let mut world = World::default();
    let verdict = s.handle_frame(
        &mut world,
        Tick::from_millis(ms),
        PortId(from),
        &TRUSTED,
        frame,
    );
    s.flush(&mut world, Tick::from_millis(ms));
    let mut frames = world.frames.into_iter();
    (verdict, frames.next().map(|(to, _, frame)| (to, frame)))
}

fn ip(frame: &[u8]) -> (Packet, Ip) {
    let packet = Packet::parse(frame).unwrap();
    match packet.kind {
        Kind::Ip(ip) => (packet, ip),
        Kind::Arp | Kind::Other(_) => panic!("no IP packet"),
    }
}

/// Who a frame is from and to: MACs, addresses, ports.
fn ends(frame: &[u8]) -> ([Mac; 2], [IpAddr; 2], [u16; 2]) {
    let (packet, ip) = ip(frame);
    let port = |at| u16::from_be_bytes([frame[ip.l4 + at], frame[ip.l4 + at + 1]]);
    (
        [packet.src, packet.dst],
        [ip.src, ip.dst],
        [port(0), port(2)],
    )
}

fn whole(vnet: &VnetHdr, mut frame: Vec<u8>) -> Vec<u8> {
    complete_partial(&mut frame, vnet).unwrap();
    frame
}

fn addrs(of: [&str; 2]) -> [IpAddr; 2] {
    of.map(|a| a.parse().unwrap())
}

#[test]
fn a_conversation_goes_to_one_backend_and_back() {
    for ([a, b, _], [c, vip]) in [(FOUR, MORE[0]), (SIX, MORE[1])] {
        let mut s = three();
        serve(&mut s, vec![server(1, B), server(2, C)]);
        let mut seen = [0; 3];
        for port in 4000..4050 {
            let there = |flags| tcp([A, GATEWAY], [a, vip], (port, 80), flags);
            let (verdict, out) = send(&mut s, 0, 0, &there(SYN));
            let (to, frame) = out.unwrap();
            assert_eq!(verdict, Verdict::Forward(to));
            seen[to.0 as usize] += 1;
            let (mac, addr) = if to == PortId(1) { (B, b) } else { (C, c) };
            assert_eq!(
                ends(&frame),
                ([GATEWAY, mac], addrs([a, addr]), [port, 8080])
            );
            let (_, back) = send(
                &mut s,
                0,
                to.0,
                &tcp([mac, A], [addr, a], (8080, port), SYN | ACK),
            );
            let (at, frame) = back.unwrap();
            assert_eq!(at, PortId(0));
            assert_eq!(ends(&frame), ([GATEWAY, A], addrs([vip, a]), [80, port]));
            // It stays there when the backend is no more of the service, and others go elsewhere.
            let left = if to == PortId(1) {
                server(2, C)
            } else {
                server(1, B)
            };
            serve(&mut s, vec![left.clone()]);
            let (_, out) = send(&mut s, 0, 0, &there(ACK));
            assert_eq!(out.unwrap().0, to);
            let (_, out) = send(
                &mut s,
                0,
                0,
                &tcp([A, GATEWAY], [a, vip], (port + 1000, 80), SYN),
            );
            assert_eq!(out.unwrap().0, left.port);
            serve(&mut s, vec![server(1, B), server(2, C)]);
        }
        assert!(seen[1] > 5 && seen[2] > 5, "{seen:?}");
        // What is between them directly stays as it is.
        let direct = tcp([A, B], [a, b], (9, 8080), SYN);
        let (_, out) = send(&mut s, 0, 0, &direct);
        assert_eq!(out.unwrap(), (PortId(1), direct));
    }
}

#[test]
fn checksums_are_right_whole_and_partial() {
    for ([a, b, _], [_, vip]) in [(FOUR, MORE[0]), (SIX, MORE[1])] {
        for (proto, len) in [(PROTO_TCP, 100), (PROTO_UDP, 101), (PROTO_TCP, 50_000)] {
            let mut s = three();
            serve(&mut s, vec![server(1, B)]);
            let mut pass = |from: u32,
                            macs: [Mac; 2],
                            [src, dst]: [&str; 2],
                            ports: (u16, u16),
                            partial: bool| {
                let [src, dst] = addrs([src, dst]);
                let mut h = HeaderBuf::new();
                h.eth(
                    macs[1],
                    macs[0],
                    if src.is_ipv4() { 0x0800 } else { 0x86dd },
                );
                let head = if proto == PROTO_TCP { 20 } else { 8 };
                h.ip(src, dst, proto, 64, 0, head + len);
                if proto == PROTO_TCP {
                    h.tcp(ports.0, ports.1, 1, 1, ACK, 100, &[]);
                } else {
                    h.udp(ports.0, ports.1, len);
                }
                let l4 = if src.is_ipv4() { 34 } else { 54 };
                let mut vnet = h.set_partial(l4, src, dst, proto, head + len);
                if len > 1500 {
                    vnet.gso_type = if src.is_ipv4() { GSO_TCPV4 } else { 4 };
                    vnet.gso_size = 1400;
                }
                let mut frame = [h.as_slice(), &vec![7; len]].concat();
                if !partial {
                    frame = whole(&vnet, frame);
                    vnet = VnetHdr::default();
                }
                let mut world = World::default();
                s.handle_frame(&mut world, Tick::ZERO, PortId(from), &vnet, &frame);
                let (to, kept, out) = world.frames.remove(0);
                assert_eq!(kept, vnet, "what is left to be done stays");
                let out = whole(&vnet, out);
                let (_, ip) = ip(&out);
                assert!(l4_valid(ip.src, ip.dst, proto, &out[ip.l4..ip.end]));
                to
            };
            for partial in [true, false] {
                if len > 1500 && !partial {
                    continue;
                }
                assert_eq!(
                    pass(0, [A, GATEWAY], [a, vip], (4000, 80), partial),
                    PortId(1)
                );
                assert_eq!(pass(1, [B, A], [b, a], (8080, 4000), partial), PortId(0));
            }
        }
    }
}

#[test]
fn who_refuses_or_is_silent_is_passed_over() {
    let ([a, b, _], [_, vip]) = (FOUR, MORE[0]);
    let mut s = three();
    serve(&mut s, vec![server(1, B), server(2, C)]);
    let there = |port| tcp([A, GATEWAY], [a, vip], (port, 80), SYN);
    let to_b = |s: &mut Switch, ms, ports: core::ops::Range<u16>| -> Vec<u16> {
        let goes = |port: &u16| send(s, ms, 0, &there(*port)).1.unwrap().0 == PortId(1);
        ports.filter(goes).collect()
    };
    let first = to_b(&mut s, 0, 1000..1100);
    assert!(first.len() > 20);
    let reset = tcp([B, A], [b, a], (8080, first[0]), RST | ACK);
    let (_, told) = send(&mut s, 0, 1, &reset);
    assert_eq!(ends(&told.unwrap().1).2, [80, first[0]], "the client knows");
    assert_eq!(to_b(&mut s, 9_000, 2000..2100), [0; 0]);
    let later = to_b(&mut s, 11_000, 3000..3100);
    assert!(later.len() > 20);
    // Openings that come again without an answer go to the other one at last.
    for port in &later[..4] {
        send(&mut s, 13_000, 0, &there(*port));
    }
    assert_eq!(to_b(&mut s, 13_000, 4000..4100), [0; 0]);
    assert_eq!(
        send(&mut s, 14_000, 0, &there(later[9])).1.unwrap().0,
        PortId(2)
    );
}

#[test]
fn a_client_that_serves_itself_and_those_kept_apart_are_answered() {
    for ([a, b, _], [_, vip]) in [(FOUR, MORE[0]), (SIX, MORE[1])] {
        for (port, mac, addr, icc) in [(0, A, a, true), (1, B, b, false)] {
            let mut s = three();
            s.configure(Settings {
                icc,
                uplink: true,
                search: Vec::new(),
                rule: HostRule::default(),
            });
            serve(&mut s, vec![server(port, mac)]);
            let (_, out) = send(&mut s, 0, 0, &tcp([A, GATEWAY], [a, vip], (4000, 80), SYN));
            let (to, frame) = out.unwrap();
            assert_eq!(to, PortId(port));
            assert_eq!(
                ends(&frame),
                ([GATEWAY, mac], addrs([vip, addr]), [4000, 8080])
            );
            let back = tcp([mac, GATEWAY], [addr, vip], (8080, 4000), SYN | ACK);
            let (_, out) = send(&mut s, 0, port, &back);
            let (to, frame) = out.unwrap();
            assert_eq!(to, PortId(0));
            assert_eq!(ends(&frame), ([GATEWAY, A], addrs([vip, a]), [80, 4000]));
        }
    }
}

#[test]
fn what_nobody_serves_is_told() {
    for ([a, _, _], [_, vip]) in [(FOUR, MORE[0]), (SIX, MORE[1])] {
        let mut s = three();
        serve(&mut s, vec![server(1, B)]);
        let reset = |s: &mut Switch, port, reason| {
            let (verdict, told) = send(s, 0, 0, &tcp([A, GATEWAY], [a, vip], (4000, port), SYN));
            assert_eq!(verdict, Verdict::Drop(reason));
            assert_eq!(parts(&told.unwrap().1).1[13] & RST, RST);
        };
        reset(&mut s, 81, DropReason::Refused);
        let (verdict, told) = send(
            &mut s,
            0,
            0,
            &udp([A, GATEWAY], [a, vip], (4000, 81), b"hey"),
        );
        assert_eq!(verdict, Verdict::Drop(DropReason::Refused));
        assert!(matches!(parts(&told.unwrap().1).1[..2], [3, 3] | [1, 4]));
        serve(&mut s, Vec::new());
        reset(&mut s, 80, DropReason::NoBackend);
        // A backend's rules are asked about the client itself.
        serve(&mut s, vec![server(1, B)]);
        rule(
            &mut s,
            (1, B),
            &rules(Vec::new(), Action::Drop, Action::Allow),
        );
        let (verdict, _) = send(&mut s, 0, 0, &tcp([A, GATEWAY], [a, vip], (4000, 80), SYN));
        assert_eq!(verdict, Verdict::Drop(DropReason::Denied));
    }
}

#[test]
fn the_gateway_answers_for_the_address() {
    let mut s = three();
    serve(&mut s, vec![server(1, B)]);
    let arp = |sender: [u8; 4], target: [u8; 4]| {
        let head = [0, 1, 8, 0, 6, 4, 0, 1];
        [
            &[0xff; 6][..],
            &A.0,
            &[8, 6],
            &head,
            &A.0,
            &sender,
            &[0; 6],
            &target,
        ]
        .concat()
    };
    let (verdict, told) = send(&mut s, 0, 0, &arp([10, 0, 0, 2], [10, 0, 0, 200]));
    assert_eq!(verdict, Verdict::Answer);
    assert_eq!(told.unwrap().1[22..28], GATEWAY.0);
    let (verdict, _) = send(&mut s, 0, 0, &arp([10, 0, 0, 200], [10, 0, 0, 3]));
    assert_eq!(verdict, Verdict::Drop(DropReason::Spoofed));
    let (verdict, _) = send(&mut s, 0, 0, &arp([10, 0, 0, 2], [10, 0, 0, 201]));
    assert_eq!(verdict, Verdict::Flood);
}
