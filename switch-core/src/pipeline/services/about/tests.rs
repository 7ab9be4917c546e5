//! Errors about conversations of services, on frames through a whole switch.

use core::net::IpAddr;
use std::sync::Arc;

use crate::addr::{Mac, PortId};
use crate::nat::service::{Face, Server, ServiceConfig, Services};
use crate::pipeline::rule_tests::{FOUR, SIX, TRUSTED, ip, udp};
use crate::pipeline::tests::{A, B, GATEWAY, World, switch};
use crate::pipeline::{Port, Switch};
use crate::policy::compile::Action;
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum::{finish, fold, pseudo, sum};
use crate::wire::packet::{Kind, PROTO_ICMP, PROTO_ICMPV6, PROTO_UDP, Packet};

const VIPS: [&str; 2] = ["10.0.0.200", "fd00::200"];

/// A switch where B serves datagrams.
fn serving(b: [&str; 2], vips: [&str; 2]) -> Switch {
    let mut s = switch(1500);
    let config = ServiceConfig {
        addrs: vips.map(|a| a.parse().unwrap()).into(),
        faces: vec![Face {
            proto: PROTO_UDP,
            port: 80,
            target: 8080,
        }],
        servers: vec![Server {
            port: PortId(1),
            mac: B,
            addrs: b.map(|a| a.parse().unwrap()).into(),
        }],
    };
    s.set_services(Arc::new(Services::new(&[config], None)));
    s
}

/// Sends a frame; returns what became of it and the frames that came of it.
fn send(s: &mut Switch, from: u32, frame: &[u8]) -> (Verdict, Vec<(PortId, Vec<u8>)>) {
    let (mut world, now) = (World::default(), Tick::from_millis(1));
    let verdict = s.handle_frame(&mut world, now, PortId(from), &TRUSTED, frame);
    s.flush(&mut world, now);
    let frames = world.frames.into_iter();
    (verdict, frames.map(|(to, _, frame)| (to, frame)).collect())
}

/// An error about a frame.
fn error(macs: [Mac; 2], ends: [&str; 2], kind: [u8; 2], info: u32, about: &[u8]) -> Vec<u8> {
    let v4 = ends[0].contains('.');
    let proto = if v4 { PROTO_ICMP } else { PROTO_ICMPV6 };
    let mut message = [&kind[..], &[0, 0], &info.to_be_bytes(), &about[14..]].concat();
    let mut total = sum(&message);
    if !v4 {
        let [src, dst] = ends.map(|a| a.parse::<IpAddr>().unwrap());
        let length = u32::try_from(message.len()).unwrap();
        total = u32::from(fold(total)) + u32::from(pseudo(src, dst, proto, length));
    }
    message[2..4].copy_from_slice(&finish(fold(total)).to_be_bytes());
    ip(macs, ends, proto, &message)
}

/// Codes and next word of an error, and what it quotes.
fn said(frame: &[u8]) -> ([IpAddr; 2], [u8; 2], u32, Vec<u8>) {
    let Kind::Ip(ip) = Packet::parse(frame).unwrap().kind else {
        panic!("no IP packet");
    };
    let message = &frame[ip.l4..ip.end];
    assert!(crate::respond::icmp::valid(&ip, message));
    let info = u32::from_be_bytes(message[4..8].try_into().unwrap());
    let codes = [message[0], message[1]];
    ([ip.src, ip.dst], codes, info, unsummed(&message[8..]))
}

/// A datagram, from its IP header on, without its checksum, which those of these tests do not have.
fn unsummed(datagram: &[u8]) -> Vec<u8> {
    let mut datagram = datagram.to_vec();
    let at = if datagram[0] >> 4 == 4 { 26 } else { 46 };
    datagram[at..at + 2].fill(0);
    datagram
}

/// Port unreachable and too big, as the family says it.
fn kinds(v4: bool) -> [([u8; 2], u32); 2] {
    if v4 {
        [([3, 3], 0), ([3, 4], 1300)]
    } else {
        [([1, 4], 0), ([2, 0], 1300)]
    }
}

#[test]
fn an_error_of_a_backend_is_about_the_service() {
    for ([a, b, _], vip) in [(FOUR, VIPS[0]), (SIX, VIPS[1])] {
        for (kind, info) in kinds(a == FOUR[0]) {
            let mut s = serving([FOUR[1], SIX[1]], VIPS);
            let sent = udp([A, GATEWAY], [a, vip], (4000, 80), b"hello");
            let (_, out) = send(&mut s, 0, &sent);
            let (at, got) = &out[0];
            assert_eq!(*at, PortId(1));
            let complaint = error([B, A], [b, a], kind, info, got);
            let (verdict, out) = send(&mut s, 1, &complaint);
            assert_eq!(verdict, Verdict::Forward(PortId(0)));
            let (at, told) = &out[0];
            assert_eq!(*at, PortId(0));
            let ends = [vip, a].map(|a| a.parse().unwrap());
            assert_eq!(said(told), (ends, kind, info, unsummed(&sent[14..])));
            assert_eq!(told[..12], [A.0, GATEWAY.0].concat());
            // An MTU is nobody's failure; a port where nobody listens is.
            let again = udp([A, GATEWAY], [a, vip], (4001, 80), b"hello");
            let (verdict, _) = send(&mut s, 0, &again);
            assert_eq!(verdict, Verdict::Forward(PortId(1)), "there is no other");
        }
    }
}

#[test]
fn an_error_of_a_client_reaches_the_backend() {
    for ([a, b, _], vip) in [(FOUR, VIPS[0]), (SIX, VIPS[1])] {
        for (kind, info) in kinds(a == FOUR[0]) {
            let mut s = serving([FOUR[1], SIX[1]], VIPS);
            send(
                &mut s,
                0,
                &udp([A, GATEWAY], [a, vip], (4000, 80), b"hello"),
            );
            let sent = udp([B, A], [b, a], (8080, 4000), b"answer");
            let (_, out) = send(&mut s, 1, &sent);
            let complaint = error([A, GATEWAY], [a, vip], kind, info, &out[0].1);
            let (verdict, out) = send(&mut s, 0, &complaint);
            assert_eq!(verdict, Verdict::Forward(PortId(1)));
            let ends = [a, b].map(|a| a.parse().unwrap());
            assert_eq!(said(&out[0].1), (ends, kind, info, unsummed(&sent[14..])));
        }
    }
}

#[test]
fn an_error_needs_a_conversation_and_its_side() {
    for ([a, b, far], vip) in [(FOUR, VIPS[0]), (SIX, VIPS[1])] {
        let (kind, _) = kinds(a == FOUR[0])[0];
        let mut s = serving([FOUR[1], SIX[1]], VIPS);
        let (_, out) = send(
            &mut s,
            0,
            &udp([A, GATEWAY], [a, vip], (4000, 80), b"hello"),
        );
        let got = out[0].1.clone();
        // About what was never sent, it is an error like any other, and nothing for the service's address.
        let other = udp([GATEWAY, B], [a, b], (4001, 8080), b"hello");
        let stray = error([B, A], [b, a], kind, 0, &other);
        assert_eq!(send(&mut s, 1, &stray).1, [(PortId(0), stray.clone())]);
        let refused = Verdict::Drop(DropReason::Refused);
        let stray = error([A, GATEWAY], [a, vip], kind, 0, &other);
        assert_eq!(send(&mut s, 0, &stray).0, refused);
        // Nobody else speaks for a side of it.
        let forged = error([B, A], [far, a], kind, 0, &got);
        assert_eq!(send(&mut s, 1, &forged).1, [(PortId(0), forged.clone())]);
        let mut broken = error([B, A], [b, a], kind, 0, &got);
        *broken.last_mut().unwrap() ^= 1;
        let bad = Verdict::Drop(DropReason::BadChecksum);
        assert_eq!(send(&mut s, 1, &broken).0, bad);
    }
}

#[test]
fn an_error_passes_where_rules_have_let_its_conversation_through() {
    let ([a, b, _], vip) = (FOUR, VIPS[0]);
    let mut s = serving([b, SIX[1]], VIPS);
    let closed = crate::pipeline::rule_tests::rules(Vec::new(), Action::Allow, Action::Drop);
    crate::pipeline::rule_tests::rule(&mut s, (1, B), &closed);
    let (_, out) = send(
        &mut s,
        0,
        &udp([A, GATEWAY], [a, vip], (4000, 80), b"hello"),
    );
    let complaint = error([B, A], [b, a], [3, 3], 0, &out[0].1);
    assert_eq!(send(&mut s, 1, &complaint).0, Verdict::Forward(PortId(0)));
}

#[test]
fn what_is_too_big_for_a_side_is_told() {
    for ([a, b, _], vip) in [(FOUR, VIPS[0]), (SIX, VIPS[1])] {
        let mut s = serving([FOUR[1], SIX[1]], VIPS);
        assert!(s.change_port(Port::new(PortId(1), B, 1400, true)));
        let large = udp([A, GATEWAY], [a, vip], (4000, 80), &[7; 1430]);
        let (verdict, out) = send(&mut s, 0, &large);
        assert_eq!(verdict, Verdict::Drop(DropReason::TooBig));
        let (at, told) = &out[0];
        let (ends, codes, info, quote) = said(told);
        assert_eq!((*at, ends[1]), (PortId(0), a.parse().unwrap()));
        let v4 = a == FOUR[0];
        assert_eq!((codes, info), (kinds(v4)[1].0, 1400));
        assert_eq!(quote, large[14..14 + quote.len()], "its own packet");
        // And the other way.
        assert!(s.change_port(Port::new(PortId(1), B, 1500, true)));
        assert!(s.change_port(Port::new(PortId(0), A, 1400, true)));
        let large = udp([B, A], [b, a], (8080, 4000), &[7; 1430]);
        let (_, out) = send(&mut s, 0, &udp([A, GATEWAY], [a, vip], (4000, 80), b"x"));
        assert_eq!(out[0].0, PortId(1));
        let (verdict, out) = send(&mut s, 1, &large);
        assert_eq!(verdict, Verdict::Drop(DropReason::TooBig));
        assert_eq!(said(&out[0].1).2, 1400);
    }
}
