//! Rules of endpoints, on frames through a whole switch.

use core::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};

use super::tests::{A, B, GATEWAY, World, switch};
use super::{Port, Switch};
use crate::addr::{Mac, PortId};
use crate::conntrack::switched::Switched;
use crate::frag;
use crate::policy::compile::{Action, Direction, Remote, Rule, Rules, Transport};
use crate::policy::limit::{Limits, Rate, Rates};
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};
use crate::wire::emit::HeaderBuf;
use crate::wire::packet::{Kind, PROTO_ICMP, PROTO_TCP, PROTO_UDP, Packet};
use crate::wire::tcp::{ACK, RST, SYN};
use crate::wire::vnet_hdr::{DATA_VALID, VnetHdr};

pub(super) const DENIED: Verdict = Verdict::Drop(DropReason::Denied);
pub(super) const TO_A: Verdict = Verdict::Forward(PortId(0));
pub(super) const TO_B: Verdict = Verdict::Forward(PortId(1));
pub(super) const FOUR: [&str; 3] = ["10.0.0.2", "10.0.0.3", "192.0.2.9"];
pub(super) const SIX: [&str; 3] = ["fd00::2", "fd00::3", "2001:db8::9"];
pub(super) const TRUSTED: VnetHdr = VnetHdr {
    flags: DATA_VALID,
    gso_type: 0,
    hdr_len: 0,
    gso_size: 0,
    csum_start: 0,
    csum_offset: 0,
};

pub(super) fn ip(
    [from, to]: [Mac; 2],
    [src, dst]: [&str; 2],
    proto: u8,
    message: &[u8],
) -> Vec<u8> {
    let [src, dst] = [src, dst].map(|a| a.parse::<IpAddr>().unwrap());
    let mut h = HeaderBuf::new();
    h.eth(to, from, if src.is_ipv4() { 0x0800 } else { 0x86dd });
    h.ip(src, dst, proto, 64, 0, message.len());
    [h.as_slice(), message].concat()
}

pub(super) fn tcp(macs: [Mac; 2], ends: [&str; 2], (from, to): (u16, u16), flags: u8) -> Vec<u8> {
    let mut h = HeaderBuf::new();
    h.tcp(from, to, 1, 1, flags, 100, &[]);
    ip(macs, ends, PROTO_TCP, h.as_slice())
}

pub(super) fn udp(
    macs: [Mac; 2],
    ends: [&str; 2],
    (from, to): (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    let mut h = HeaderBuf::new();
    h.udp(from, to, payload.len());
    ip(macs, ends, PROTO_UDP, &[h.as_slice(), payload].concat())
}

fn allow(direction: Direction, remote: Remote, ports: (u16, u16)) -> Rule {
    Rule {
        direction,
        action: Action::Allow,
        remote,
        transport: Transport::Tcp,
        ports: Some(ports),
    }
}

pub(super) fn rules(rules: Vec<Rule>, ingress: Action, egress: Action) -> Rules {
    Rules {
        rules,
        ingress,
        egress,
    }
}

pub(super) fn rule(s: &mut Switch, (id, mac): (u32, Mac), rules: &Rules) {
    let policy = Some(Arc::new(rules.compile().unwrap()));
    let port = Port::new(PortId(id), mac, 1500, false);
    assert!(s.change_port(Port { policy, ..port }));
}

pub(super) fn take(s: &mut Switch, world: &mut World, from: u32, frame: &[u8]) -> Verdict {
    s.handle_frame(world, Tick::ZERO, PortId(from), &TRUSTED, frame)
}

#[test]
fn who_is_asked_in_lets_answers_out_and_nobody_else_in() {
    for [a, b, _] in [FOUR, SIX] {
        let (mut s, mut world) = (switch(1500), World::default());
        let from_a = Remote::Prefixes(vec![(
            a.parse().unwrap(),
            if a == FOUR[0] { 32 } else { 128 },
        )]);
        let closed = rules(
            vec![allow(Direction::Ingress, from_a, (80, 80))],
            Action::Drop,
            Action::Drop,
        );
        rule(&mut s, (1, B), &closed);
        let mut take = |from, frame: &[u8]| take(&mut s, &mut world, from, frame);
        let there = |ports, flags| tcp([A, B], [a, b], ports, flags);
        let back = |ports, flags| tcp([B, A], [b, a], ports, flags);
        // Nothing out of itself.
        assert_eq!(take(1, &back((80, 4000), SYN)), DENIED);
        assert_eq!(take(1, &back((81, 4000), SYN | ACK)), DENIED);
        assert_eq!(take(0, &there((4000, 81), SYN)), DENIED);
        assert_eq!(take(0, &udp([A, B], [a, b], (4000, 80), b"no")), DENIED);
        // The one that is allowed, both ways.
        assert_eq!(take(0, &there((4000, 80), SYN)), TO_B);
        assert_eq!(take(1, &back((80, 4000), SYN | ACK)), TO_A);
        assert_eq!(take(0, &there((4000, 80), ACK)), TO_B);
        assert_eq!(take(1, &back((80, 4001), SYN)), DENIED);
        assert_eq!(take(1, &back((80, 4000), RST)), TO_A);
        // One from before the switch knew of it.
        assert_eq!(take(1, &back((80, 5000), ACK)), TO_A);
        assert_eq!(take(0, &there((5000, 80), ACK)), TO_B);
    }
}

#[test]
fn an_open_conversation_outlives_a_change_of_rules() {
    let (mut s, mut world) = (switch(1500), World::default());
    let [a, b, _] = FOUR;
    let one = vec![allow(Direction::Ingress, Remote::Any, (80, 80))];
    rule(&mut s, (1, B), &rules(one, Action::Drop, Action::Allow));
    let frame = |port| tcp([A, B], [a, b], (port, 80), SYN);
    assert_eq!(take(&mut s, &mut world, 0, &frame(4000)), TO_B);
    rule(
        &mut s,
        (1, B),
        &rules(Vec::new(), Action::Drop, Action::Allow),
    );
    assert_eq!(take(&mut s, &mut world, 0, &frame(4000)), TO_B);
    assert_eq!(take(&mut s, &mut world, 0, &frame(4001)), DENIED);
}

#[test]
fn what_is_rejected_is_told() {
    for ([a, b, far], icmp) in [(FOUR, [3, 13]), (SIX, [1, 1])] {
        for (to, dst) in [(B, b), (GATEWAY, far)] {
            let (mut s, mut world) = (switch(1500), World::default());
            rule(
                &mut s,
                (0, A),
                &rules(Vec::new(), Action::Allow, Action::Reject),
            );
            let frames = [
                tcp([A, to], [a, dst], (4000, 80), SYN),
                udp([A, to], [a, dst], (4000, 80), b"hello"),
            ];
            for frame in &frames {
                assert_eq!(take(&mut s, &mut world, 0, frame), DENIED);
            }
            let told: Vec<_> = world.frames.iter().map(|f| (f.0, parts(&f.2))).collect();
            let [(PortId(0), (tcp, reset)), (PortId(0), (_, error))] = &told[..] else {
                panic!("{told:?}");
            };
            assert_eq!((*tcp, reset[13] & RST), (PROTO_TCP, RST));
            assert_eq!(error[..2], icmp);
        }
    }
}

/// The protocol of a frame and what follows the IP header.
pub(super) fn parts(frame: &[u8]) -> (u8, Vec<u8>) {
    let Kind::Ip(ip) = Packet::parse(frame).unwrap().kind else {
        panic!("no IP packet");
    };
    (ip.proto, frame[ip.l4..ip.end].to_vec())
}

#[test]
fn flows_to_the_world_are_asked_about_once() {
    let (mut s, mut world) = (switch(1500), World::default());
    let [a, _, far] = FOUR;
    let udp_to = |remote: &str| Rule {
        transport: Transport::Udp,
        ..allow(
            Direction::Egress,
            Remote::Prefixes(vec![(remote.parse().unwrap(), 32)]),
            (7, 9),
        )
    };
    let some = rules(vec![udp_to(far)], Action::Allow, Action::Drop);
    rule(&mut s, (0, A), &some);
    let frame = |dst, port| udp([A, GATEWAY], [a, dst], (4000, port), b"hello");
    let mut take = |s: &mut Switch, dst, port| take(s, &mut world, 0, &frame(dst, port));
    assert_eq!(take(&mut s, far, 10), DENIED);
    assert_eq!(take(&mut s, "192.0.2.10", 7), DENIED);
    assert_eq!(take(&mut s, far, 7), Verdict::Translate);
    rule(
        &mut s,
        (0, A),
        &rules(Vec::new(), Action::Allow, Action::Drop),
    );
    assert_eq!(take(&mut s, far, 7), Verdict::Translate);
    assert_eq!(take(&mut s, far, 8), DENIED);
}

#[test]
fn a_name_stands_for_what_the_gateway_answered() {
    let (mut s, mut world) = (switch(1500), World::default());
    let [a, b, _] = FOUR;
    let to_g3 = allow(Direction::Egress, Remote::Name("g3".to_owned()), (80, 80));
    rule(
        &mut s,
        (0, A),
        &rules(vec![to_g3], Action::Drop, Action::Drop),
    );
    let syn = |port| tcp([A, B], [a, b], (port, 80), SYN);
    assert_eq!(take(&mut s, &mut world, 0, &syn(4000)), DENIED);
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(
        Name::from_ascii("g3.").unwrap(),
        RecordType::A,
    ));
    let query = query.to_vec().unwrap();
    let ask = udp([A, GATEWAY], [a, "10.0.0.1"], (4000, 53), &query);
    assert_eq!(take(&mut s, &mut world, 0, &ask), Verdict::Answer);
    assert_eq!(take(&mut s, &mut world, 0, &syn(4000)), TO_B);
}

#[test]
fn what_is_for_everybody_reaches_who_takes_it() {
    let (mut s, mut world) = (switch(1500), World::default());
    let [a, b, _] = FOUR;
    rule(
        &mut s,
        (1, B),
        &rules(Vec::new(), Action::Drop, Action::Drop),
    );
    let all = Mac::BROADCAST;
    let shout = |macs, src| udp(macs, [src, "10.0.0.255"], (4000, 9), b"hey");
    assert_eq!(
        take(&mut s, &mut world, 0, &shout([A, all], a)),
        Verdict::Flood
    );
    assert_eq!(take(&mut s, &mut world, 1, &shout([B, all], b)), DENIED);
    assert!(world.frames.is_empty());
    assert_eq!(s.drops().get(DropReason::Denied), 2);
    // Neighbours are found all the same.
    let request = [0, 1, 8, 0, 6, 4, 0, 1];
    let probe = [
        &all.0[..],
        &A.0,
        &[8, 6],
        &request,
        &A.0,
        &[10, 0, 0, 2],
        &[0; 6],
        &[10, 0, 0, 77],
    ];
    let probe = probe.concat();
    assert_eq!(take(&mut s, &mut world, 0, &probe), Verdict::Flood);
    assert_eq!(world.frames.len(), 1);
}

#[test]
fn pieces_go_where_their_first_may() {
    let [a, b, _] = FOUR;
    for (port, expected) in [(80, TO_B), (81, DENIED)] {
        let (mut s, mut world) = (switch(1500), World::default());
        let one = Rule {
            transport: Transport::Udp,
            ..allow(Direction::Ingress, Remote::Any, (80, 80))
        };
        rule(
            &mut s,
            (1, B),
            &rules(vec![one], Action::Drop, Action::Drop),
        );
        let mut whole = udp([A, B], [a, b], (4000, port), &[7; 3000]);
        // It may be cut.
        whole[20] = 0;
        whole[24..26].fill(0);
        let csum = !crate::wire::checksum::fold(crate::wire::checksum::sum(&whole[14..34]));
        whole[24..26].copy_from_slice(&csum.to_be_bytes());
        let mut pieces = Vec::new();
        frag::fragment(&whole, 1500, 77, &mut |piece| {
            pieces.push(piece.iter().flat_map(|p| p.to_vec()).collect::<Vec<u8>>());
        })
        .unwrap();
        assert_eq!(take(&mut s, &mut world, 0, &pieces[1]), DENIED, "alone");
        for piece in &pieces {
            assert_eq!(take(&mut s, &mut world, 0, piece), expected);
        }
    }
}

#[test]
fn errors_pass_about_what_was_let_through() {
    let (mut s, mut world) = (switch(1500), World::default());
    let [a, b, _] = FOUR;
    rule(
        &mut s,
        (0, A),
        &rules(Vec::new(), Action::Drop, Action::Allow),
    );
    let asked = udp([A, B], [a, b], (4000, 9), b"hello");
    let error = |quoted: &[u8]| {
        let message = [&[3, 3, 0, 0, 0, 0, 0, 0], &quoted[14..]].concat();
        ip([B, A], [b, a], PROTO_ICMP, &message)
    };
    assert_eq!(take(&mut s, &mut world, 1, &error(&asked)), DENIED);
    assert_eq!(take(&mut s, &mut world, 0, &asked), TO_B);
    assert_eq!(take(&mut s, &mut world, 1, &error(&asked)), TO_A);
    let other = udp([A, B], [a, b], (4001, 9), b"hello");
    assert_eq!(take(&mut s, &mut world, 1, &error(&other)), DENIED);
}

#[test]
fn conversations_that_are_entered_count_as_new() {
    let (mut s, mut world) = (switch(1500), World::default());
    let [a, b, _] = FOUR;
    let policy = rules(Vec::new(), Action::Drop, Action::Allow).compile();
    let rates = Rates {
        new_flows: Some(Rate::new(1, 5)),
        ..Rates::default()
    };
    let port = Port {
        policy: policy.map(Arc::new),
        limits: Some(Arc::new(Limits::new(rates))),
        ..Port::new(PortId(0), A, 1500, false)
    };
    assert!(s.change_port(port));
    let open = |port| udp([A, B], [a, b], (port, 9), b"hello");
    let passed = (0..50).filter(|&p| take(&mut s, &mut world, 0, &open(p)) == TO_B);
    assert_eq!(passed.count(), 5);
    assert_eq!(s.drops().get(DropReason::NewFlowLimit), 45);
    assert_eq!(take(&mut s, &mut world, 0, &open(3)), TO_B);
}

#[test]
fn conversations_with_neighbours_and_flows_to_the_world_have_one_limit() {
    let (mut s, mut world) = (switch(1500), World::default());
    let [a, b, far] = FOUR;
    let table = Arc::new(Switched::new(1_000, [1, 2, 3, 4]));
    s.share(Arc::clone(&table));
    let shut = Rule {
        action: Action::Drop,
        ..allow(Direction::Ingress, Remote::Any, (1, 2))
    };
    let policy = rules(vec![shut], Action::Allow, Action::Allow).compile();
    let policy = policy.map(Arc::new);
    let rates = Rates {
        flows: Some(5),
        ..Rates::default()
    };
    let [of_a, of_b] =
        [0, 1].map(|id| Arc::new(Limits::counted(rates, table.tallies(), PortId(id))));
    for (id, mac, limits) in [(0, A, &of_a), (1, B, &of_b)] {
        let port = Port {
            policy: policy.clone(),
            limits: Some(Arc::clone(limits)),
            ..Port::new(PortId(id), mac, 1500, false)
        };
        assert!(s.change_port(port));
    }
    let near = |port| udp([A, B], [a, b], (port, 9), b"hello");
    let away = |port| udp([A, GATEWAY], [a, far], (port, 9), b"hello");
    let full = Verdict::Drop(DropReason::FlowLimit);
    let mut at = |ms, from, frame: &[u8]| {
        let verdict = s.handle_frame(
            &mut world,
            Tick::from_millis(ms),
            PortId(from),
            &TRUSTED,
            frame,
        );
        s.flush(&mut world, Tick::from_millis(ms));
        verdict
    };
    for port in 0..3 {
        assert_eq!(at(0, 0, &near(port)), TO_B);
    }
    for port in 3..5 {
        assert_eq!(at(0, 0, &away(port)), Verdict::Translate);
    }
    assert_eq!((of_a.flows(), of_b.flows()), (5, 0));
    assert_eq!(at(0, 0, &near(5)), full);
    assert_eq!(at(0, 0, &away(5)), full);
    // What is open goes on, the neighbour's is its own, and so are its answers.
    assert_eq!(at(0, 0, &near(0)), TO_B);
    assert_eq!(at(0, 1, &udp([B, A], [b, a], (9, 1), b"hello")), TO_A);
    assert_eq!(at(0, 1, &udp([B, A], [b, a], (9, 7), b"hello")), TO_A);
    assert_eq!((of_a.flows(), of_b.flows()), (5, 1));
    // What nobody has answered makes room after a minute, for either kind.
    assert_eq!(at(61_000, 0, &near(0)), TO_B);
    assert_eq!(at(61_000, 0, &away(5)), Verdict::Translate);
    assert_eq!(at(61_000, 0, &near(6)), full);
}
