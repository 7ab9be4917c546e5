//! Frames through a whole switch of two endpoints, over a host that keeps what it is given.

mod world;

use core::net::IpAddr;
use core::time::Duration;
use std::sync::Arc;

pub(super) use self::world::World;
use super::{Config, Port, Remote, Switch};
use crate::addr::{Mac, NetworkId, PortId};
use crate::flow::event::HostEvent;
use crate::flow::tcp::Limits;
use crate::flow::udp::Filter;
use crate::frag;
use crate::gso::split;
use crate::l2::table::MacTable;
use crate::policy::guard::{Guard, Trust};
use crate::policy::host_rule::HostRule;
use crate::respond::{Gateway, Guest};
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum::{complete_partial, fold, l4_valid, sum};
use crate::wire::emit::HeaderBuf;
use crate::wire::packet::{Kind, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, Packet};
use crate::wire::vnet_hdr::{GSO_TCPV4, GSO_UDP_L4, VnetHdr};

pub(super) const GATEWAY: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub(super) const A: Mac = Mac([2, 0, 0, 0, 0, 2]);
pub(super) const B: Mac = Mac([2, 0, 0, 0, 0, 3]);
pub(super) const ENDS4: [&str; 2] = ["10.0.0.2", "192.0.2.9"];
const ENDS6: [&str; 2] = ["fd00::2", "2001:db8::9"];

/// A port to another host, whose sources are looked at as those of endpoints are.
pub(super) fn way_to_host(id: PortId, mtu: u16, remote: Remote) -> Port {
    let trust = Trust {
        mac: true,
        address: true,
        ..Trust::default()
    };
    Port {
        guard: Some(Guard::new(Mac::default(), [], None, trust)),
        remote: Some(remote),
        ..Port::new(id, Mac::default(), mtu, true)
    }
}

/// A switch of two endpoints, the second with an MTU of its own.
pub(super) fn switch(mtu_of_b: u16) -> Switch {
    let port = |id, mac, mtu| Port::new(PortId(id), mac, mtu, true);
    let guest = |mac, last: u8| Guest {
        mac,
        name: format!("g{last}"),
        v4: Some([10, 0, 0, last].into()),
        v6: format!("fd00::{last}").parse().ok(),
    };
    let config = Config {
        network: NetworkId(0),
        gateway: Gateway {
            mac: GATEWAY,
            v4: Some(([10, 0, 0, 1].into(), 24)),
            v6: Some(("fd00::1".parse().unwrap(), 64)),
            mtu: 1500,
            uplink: true,
            v6_default_route: true,
            search: Vec::new(),
            guests: vec![guest(A, 2), guest(B, 3)].into(),
            hosts: Vec::new(),
        },
        ports: vec![port(0, A, 1500), port(1, B, mtu_of_b)],
        icc: true,
        rule: HostRule::default(),
        filter: Filter::default(),
        ephemeral: (32_768, 60_999),
        limits: Limits::default(),
        seeds: [1, 2, 3, 4],
    };
    Switch::new(Tick::ZERO, config, Arc::new(MacTable::new(16)))
}

/// A frame from A, its checksum partial, and what its virtio header says of it.
pub(super) fn frame(to: Mac, ends: [&str; 2], proto: u8, payload: &[u8]) -> (VnetHdr, Vec<u8>) {
    let [src, dst] = ends.map(|a| a.parse::<IpAddr>().unwrap());
    let mut h = HeaderBuf::new();
    let (l4, ethertype) = if src.is_ipv4() {
        (34, 0x0800)
    } else {
        (54, 0x86dd)
    };
    h.eth(to, A, ethertype);
    let head = if proto == PROTO_TCP { 20 } else { 8 };
    h.ip(src, dst, proto, 64, 0xb8, head + payload.len());
    if proto == PROTO_TCP {
        h.tcp(4000, 80, 1, 1, 0x10, 100, &[]);
    } else {
        h.udp(4000, 53_000, payload.len());
    }
    let vnet = h.set_partial(l4, src, dst, proto, head + payload.len());
    (vnet, [h.as_slice(), payload].concat())
}

/// Puts an 802.1Q tag into a frame.
fn tagged(frame: &[u8], tci: u16) -> Vec<u8> {
    let tag = [&[0x81, 0x00][..], &tci.to_be_bytes()].concat();
    [&frame[..12], &tag, &frame[12..]].concat()
}

#[test]
fn a_vlan_of_its_own_is_not_let_in() {
    for to in [GATEWAY, B, Mac([0xff; 6])] {
        let (mut s, mut world) = (switch(1500), World::default());
        let (vnet, mut plain) = frame(to, ENDS4, PROTO_UDP, b"hello");
        complete_partial(&mut plain, &vnet).unwrap();
        let mut take = |frame: &[u8]| {
            s.handle_frame(
                &mut world,
                Tick::ZERO,
                PortId(0),
                &VnetHdr::default(),
                frame,
            )
        };
        for tci in [1, 7, 0x0fff, 0xe064] {
            let verdict = take(&tagged(&plain, tci));
            assert_eq!(verdict, Verdict::Drop(DropReason::Vlan), "{to:?} {tci}");
        }
        // A priority in front hides nothing, nor does the tag of a provider.
        let hidden = tagged(&tagged(&plain, 7), 0xe000);
        assert_eq!(take(&hidden), Verdict::Drop(DropReason::Vlan));
        let mut provider = tagged(&plain, 7);
        provider[12..14].copy_from_slice(&[0x88, 0xa8]);
        assert_eq!(take(&provider), Verdict::Drop(DropReason::Vlan));
        // VLAN 0 is no VLAN.
        let verdict = take(&tagged(&plain, 0xe000));
        assert!(!matches!(verdict, Verdict::Drop(_)), "{to:?} {verdict:?}");
        s.flush(&mut world, Tick::ZERO);
        let count = world.frames.len() + world.datagrams.len();
        assert_eq!(count, 1, "{to:?}: {world:?}");
    }
}

/// A UDP datagram that carries a packet whose own checksum is partial, as a tunnel's end in a sandbox sends it, and
/// the same with that checksum computed.
fn tunnel(to: Mac, spoil: bool) -> (VnetHdr, Vec<u8>, Vec<u8>) {
    let (inner, packet) = frame(B, ENDS4, PROTO_TCP, b"inside");
    let payload = [&[0; 8][..], &packet].concat();
    let mut done = payload.clone();
    complete_partial(&mut done[8..], &inner).unwrap();
    let (outer, mut whole) = frame(to, ENDS4, PROTO_UDP, &done);
    complete_partial(&mut whole, &outer).unwrap();
    if spoil {
        whole[41] ^= 1;
    }
    let mut partial = whole.clone();
    partial[42..].copy_from_slice(&payload);
    let vnet = VnetHdr {
        csum_start: 42 + 8 + inner.csum_start,
        ..inner
    };
    (vnet, partial, whole)
}

#[test]
fn a_checksum_inside_is_computed_where_the_frame_is_translated() {
    let (mut s, mut world) = (switch(1500), World::default());
    let (vnet, partial, whole) = tunnel(GATEWAY, false);
    let verdict = s.handle_frame(&mut world, Tick::ZERO, PortId(0), &vnet, &partial);
    assert_eq!(verdict, Verdict::Translate);
    s.flush(&mut world, Tick::ZERO);
    assert_eq!(world.datagrams[0].2, &whole[42..]);
    // The outer checksum is not trusted for the sake of the inner one.
    let (vnet, partial, _) = tunnel(GATEWAY, true);
    let verdict = s.handle_frame(&mut world, Tick::ZERO, PortId(0), &vnet, &partial);
    assert_eq!(verdict, Verdict::Drop(DropReason::BadChecksum));
}

#[test]
fn a_checksum_inside_passes_a_switch_as_it_is() {
    let (mut s, mut world) = (switch(1500), World::default());
    let (vnet, partial, _) = tunnel(B, false);
    let verdict = s.handle_frame(&mut world, Tick::ZERO, PortId(0), &vnet, &partial);
    assert_eq!(verdict, Verdict::Forward(PortId(1)));
    assert_eq!(world.frames, [(PortId(1), vnet, partial)]);
}

#[test]
fn switched_frames_fit_the_mtu_of_the_way_out() {
    for (ends, headers, kind) in [(ENDS4, 20, GSO_TCPV4), (ENDS6, 40, 4)] {
        for (proto, l4, kind) in [(PROTO_TCP, 20, kind), (PROTO_UDP, 8, GSO_UDP_L4)] {
            let (mut s, mut world) = (switch(1280), World::default());
            let largest = 1280 - headers - l4;
            let mut pass = |size: Option<usize>, len: usize| {
                let (mut vnet, frame) = frame(B, ends, proto, &vec![1; len]);
                if let Some(size) = size {
                    vnet.gso_type = kind;
                    vnet.gso_size = u16::try_from(size).unwrap();
                }
                let before = s.drops().get(DropReason::TooBig);
                s.handle_frame(&mut world, Tick::ZERO, PortId(0), &vnet, &frame);
                let dropped = s.drops().get(DropReason::TooBig) > before;
                assert_eq!(std::mem::take(&mut world.frames).is_empty(), dropped);
                !dropped
            };
            assert!(pass(None, largest), "a frame");
            assert!(!pass(None, largest + 1), "a frame, too long");
            assert!(pass(Some(largest), 5 * largest), "a super-frame");
            assert!(!pass(Some(largest + 1), 5 * largest), "segments too long");
            assert!(pass(Some(1400), largest), "one short segment");
        }
    }
}

#[test]
fn absurd_segments_are_dropped_by_name() {
    for (ends, kind) in [(ENDS4, GSO_TCPV4), (ENDS6, 4)] {
        for (proto, kind) in [(PROTO_TCP, kind), (PROTO_UDP, GSO_UDP_L4)] {
            for to in [GATEWAY, B] {
                let (mut s, mut world) = (switch(1500), World::default());
                let (mut vnet, frame) = frame(to, ends, proto, &[7; 60_000]);
                (vnet.gso_type, vnet.gso_size) = (kind, 1);
                let verdict = s.handle_frame(&mut world, Tick::ZERO, PortId(0), &vnet, &frame);
                assert_eq!(verdict, Verdict::Drop(DropReason::BadOffload));
                assert_eq!(s.drops().get(DropReason::BadOffload), 1);
                assert!(world.frames.is_empty() && world.datagrams.is_empty());
            }
        }
    }
}

#[test]
fn what_never_becomes_whole_is_reported() {
    for (ends, l3, expected) in [(ENDS4, 14, [11, 1]), (ENDS6, 14, [3, 1])] {
        for first in [true, false] {
            let (mut s, mut world) = (switch(1500), World::default());
            let (vnet, mut whole) = frame(GATEWAY, ends, PROTO_UDP, &[7; 3000]);
            complete_partial(&mut whole, &vnet).unwrap();
            if ends == ENDS4 {
                // The datagram may be cut.
                whole[20] = 0;
                whole[24..26].fill(0);
                let csum = !fold(sum(&whole[14..34]));
                whole[24..26].copy_from_slice(&csum.to_be_bytes());
            }
            let mut pieces = Vec::new();
            frag::fragment(&whole, 1500, 77, &mut |piece| {
                pieces.push(piece.iter().flat_map(|p| p.to_vec()).collect::<Vec<u8>>());
            })
            .unwrap();
            let piece = &pieces[usize::from(!first)];
            let none = VnetHdr::default();
            s.handle_frame(&mut world, Tick::ZERO, PortId(0), &none, piece);
            let due = s.poll_timeout().unwrap();
            assert!(due <= Tick::ZERO + Duration::from_secs(60));
            s.handle_timeout(&mut world, due);
            assert_eq!(s.drops().get(DropReason::Fragment), 1);
            if !first {
                assert_eq!(world.frames, [], "the first piece is not known");
                continue;
            }
            let (port, _, told) = &world.frames[0];
            let Kind::Ip(ip) = Packet::parse(told).unwrap().kind else {
                panic!("no IP packet");
            };
            assert_eq!((*port, ip.dst.to_string().as_str()), (PortId(0), ends[0]));
            assert_eq!(told[ip.l4..ip.l4 + 2], expected);
            let quote = &told[ip.l4 + 8..ip.end];
            assert_eq!(quote, &piece[l3..l3 + quote.len()]);
            assert!(quote.len() > 500);
        }
    }
}

#[test]
fn dscp_is_kept_both_ways() {
    for ends in [ENDS4, ENDS6] {
        let (mut s, mut world) = (switch(1500), World::default());
        let (vnet, out) = frame(GATEWAY, ends, PROTO_UDP, b"ping");
        s.handle_frame(&mut world, Tick::ZERO, PortId(0), &vnet, &out);
        s.flush(&mut world, Tick::ZERO);
        let (to, meta, _) = world.datagrams[0];
        assert_eq!((meta.tos, meta.dont_fragment), (0xb8, true));
        let event = HostEvent::UdpReceived {
            mapping: 0,
            from: to,
            local: None,
            tos: 0x2a,
            pieces: &[&b"pong"[..]],
        };
        s.handle_event(&mut world, Tick::ZERO, event);
        let (_, vnet, back) = &world.frames[0];
        let mut back = back.clone();
        complete_partial(&mut back, vnet).unwrap();
        let Kind::Ip(ip) = Packet::parse(&back).unwrap().kind else {
            panic!("no IP packet");
        };
        assert_eq!(ip.tos, 0x2a);
        assert!(l4_valid(ip.src, ip.dst, PROTO_UDP, &back[ip.l4..ip.end]));
    }
}

/// Datagrams of one flow that wait already leave as one, which comes apart into what they were; nothing else joins
/// them, nor does the last of one flow go behind the first of another.
#[test]
fn neighbours_of_one_flow_leave_together() {
    for ends in [ENDS4, ENDS6] {
        let (mut s, mut world) = (switch(1500), World::default());
        let mut sent = Vec::new();
        let mut pass = |s: &mut Switch, world: &mut World, to: Mac, payload: &[u8]| {
            let (vnet, mut frame) = frame(to, ends, PROTO_UDP, payload);
            let verdict = s.handle_next(world, Tick::ZERO, PortId(0), &vnet, &frame);
            assert_eq!(verdict, Verdict::Forward(PortId(1)));
            complete_partial(&mut frame, &vnet).unwrap();
            sent.push(frame);
        };
        for n in 0..5 {
            pass(&mut s, &mut world, B, &[n; 64]);
        }
        assert!(world.frames.is_empty(), "more may follow");
        // A longer one begins a new run; a shorter one ends its own.
        for len in [65, 65, 3, 65] {
            pass(&mut s, &mut world, B, &vec![len; len.into()]);
        }
        s.end_run(&mut world);
        s.end_run(&mut world);
        let sizes: Vec<_> = world
            .frames
            .iter()
            .map(|(_, vnet, _)| vnet.gso_size)
            .collect();
        assert_eq!(sizes, [64, 65, 0], "the last is alone");
        let mut arrived = Vec::new();
        for (_, vnet, mut frame) in world.frames {
            if vnet.is_gso() {
                let keep = &mut |segment: &[u8]| arrived.push(segment.to_vec());
                split::split(&frame, &vnet, &mut Vec::new(), keep).unwrap();
            } else {
                complete_partial(&mut frame, &vnet).unwrap();
                arrived.push(frame);
            }
        }
        assert_eq!(arrived.len(), sent.len());
        for (arrived, sent) in arrived.iter().zip(&sent) {
            let payload = |frame: &[u8]| match Packet::parse(frame).unwrap().kind {
                Kind::Ip(ip) => frame[ip.l4..ip.end].to_vec(),
                Kind::Arp | Kind::Other(_) => panic!("no IP packet"),
            };
            assert_eq!(payload(arrived), payload(sent), "checksum and all");
        }
    }
}

#[test]
fn a_frame_that_fails_to_leave_is_counted_for_each_of_its_datagrams() {
    let (mut s, mut world) = (switch(1500), World::default());
    world.refuses = true;
    for _ in 0..3 {
        let (vnet, frame) = frame(B, ENDS4, PROTO_UDP, &[1; 64]);
        s.handle_next(&mut world, Tick::ZERO, PortId(0), &vnet, &frame);
    }
    s.end_run(&mut world);
    assert_eq!(s.drops().get(DropReason::TxFailed), 3);
}

/// A sandbox that floods at line rate has a turn's worth of copies in a batch; the rest waits, and what cannot is a storm.
#[test]
fn a_flood_has_its_share_of_a_batch() {
    const FLOODS: usize = 1_000;
    let (mut s, mut world) = (switch(1500), World::default());
    let (vnet, frame) = frame(Mac::BROADCAST, ENDS4, PROTO_UDP, b"to all");
    for _ in 0..FLOODS {
        s.handle_next(&mut world, Tick::ZERO, PortId(0), &vnet, &frame);
    }
    let first = world.frames.len();
    assert_eq!(first, crate::l2::flood::TURN);
    let storm = s.drops().get(DropReason::Storm);
    let mut turns = 0;
    while s.run_ready(&mut world, Tick::ZERO) {
        turns += 1;
    }
    assert!(turns > 1, "not all at once");
    let sent = u64::try_from(world.frames.len()).unwrap();
    assert!(
        storm > 0 && sent + storm == FLOODS as u64,
        "{sent} and {storm}"
    );
}

#[test]
fn what_only_a_router_wants_goes_to_nobody_else() {
    let (mut s, mut world) = (switch(1500), World::default());
    let mut pass = |kind: u8, target: core::net::Ipv6Addr| {
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(&target.octets());
        let (src, dst) = (IpAddr::from([0u16; 8]), "ff02::16".parse().unwrap());
        let mut h = HeaderBuf::new();
        h.eth(Mac([0x33, 0x33, 0, 0, 0, 0x16]), A, 0x86dd);
        h.ip(src, dst, PROTO_ICMPV6, 255, 0, message.len());
        let sum = crate::wire::checksum::finish(fold(
            u32::from(fold(sum(&message)))
                + u32::from(crate::wire::checksum::pseudo(src, dst, PROTO_ICMPV6, 24)),
        ));
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let whole = [h.as_slice(), &message].concat();
        s.handle_frame(
            &mut world,
            Tick::ZERO,
            PortId(0),
            &VnetHdr::default(),
            &whole,
        )
    };
    let other = "fe80::77".parse().unwrap();
    assert_eq!(pass(143, other), Verdict::Answer, "a report of membership");
    assert_eq!(
        pass(135, A.link_local()),
        Verdict::Answer,
        "a probe of its own address"
    );
    assert_eq!(pass(135, other), Verdict::Flood, "anyone may have this one");
}
