//! Limits of endpoints, on frames through a whole switch.

use core::net::SocketAddr;
use std::sync::Arc;

use super::rule_tests::ip;
use super::tests::{A, B, ENDS4, GATEWAY, World, frame, switch};
use super::{Port, Switch};
use crate::addr::{Mac, PortId};
use crate::flow::event::HostEvent;
use crate::policy::limit::{Limits, Rate, Rates};
use crate::respond::Guest;
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};
use crate::wire::packet::{PROTO_ICMP, PROTO_TCP, PROTO_UDP};
use crate::wire::vnet_hdr::{GSO_TCPV4, VnetHdr};

const SECOND: Tick = Tick::from_millis(1_000);

fn limited(s: &mut Switch, (id, mac): (u32, Mac), rates: Rates) {
    let limits = Some(Arc::new(Limits::new(rates)));
    let port = Port::new(PortId(id), mac, 1500, true);
    assert!(s.change_port(Port { limits, ..port }));
}

/// How many of the frames are delivered, to one endpoint or to the world, and how many are dropped for `reason`.
fn pass(
    s: &mut Switch,
    now: Tick,
    frames: impl Iterator<Item = (VnetHdr, Vec<u8>)>,
    reason: DropReason,
) -> (usize, u64) {
    let mut world = World::default();
    let before = s.drops().get(reason);
    for (vnet, frame) in frames {
        s.handle_frame(&mut world, now, PortId(0), &vnet, &frame);
        // A batch of its own: what all may flood in one is another limit.
        s.flush(&mut world, now);
    }
    s.flush(&mut world, now);
    let dropped = s.drops().get(reason) - before;
    (world.frames.len() + world.datagrams.len(), dropped)
}

fn same(of: (VnetHdr, Vec<u8>), times: usize) -> impl Iterator<Item = (VnetHdr, Vec<u8>)> {
    std::iter::repeat_n(of, times)
}

#[test]
fn bytes_are_counted_both_ways() {
    let rate = Some(Rate::new(100_000, 20_000));
    let from = Rates {
        egress: rate,
        ..Rates::default()
    };
    let to = Rates {
        ingress: rate,
        ..Rates::default()
    };
    for (end, rates) in [((0, A), from), ((1, B), to)] {
        let mut s = switch(1500);
        limited(&mut s, end, rates);
        let (vnet, small) = frame(B, ENDS4, PROTO_UDP, &[7; 958]);
        assert_eq!(small.len(), 1_000);
        let mut pass = |now| {
            pass(
                &mut s,
                now,
                same((vnet, small.clone()), 300),
                DropReason::RateLimited,
            )
        };
        assert_eq!(pass(Tick::ZERO), (20, 280), "a burst");
        assert_eq!(
            pass(Tick::from_millis(100)),
            (10, 290),
            "a tenth of a second"
        );
    }
}

#[test]
fn a_super_frame_pays_for_its_segments() {
    let mut s = switch(1500);
    let rates = Rates {
        egress: Some(Rate::new(100_000, 1)),
        ..Rates::default()
    };
    limited(&mut s, (0, A), rates);
    let (mut vnet, large) = frame(B, ENDS4, PROTO_TCP, &[7; 50_000]);
    (vnet.gso_type, vnet.gso_size) = (GSO_TCPV4, 1_000);
    // 50 segments with 54 bytes of headers each are 52,700 bytes: 527 ms.
    let mut pass = |ms| {
        let one = same((vnet, large.clone()), 1);
        pass(&mut s, Tick::from_millis(ms), one, DropReason::RateLimited)
    };
    assert_eq!(pass(0), (1, 0));
    assert_eq!(pass(526), (0, 1));
    assert_eq!(pass(528), (1, 0));
}

#[test]
fn what_goes_to_everybody_has_a_limit_and_the_rest_has_not() {
    for to in [Mac::BROADCAST, Mac([2, 0, 0, 0, 0, 99])] {
        let mut s = switch(1500);
        limited(&mut s, (0, A), Rates::DEFAULT);
        let (vnet, bytes) = frame(to, ENDS4, PROTO_UDP, b"to all");
        let storm = || same((vnet, bytes.clone()), 5_000);
        let mut count = |now| pass(&mut s, now, storm(), DropReason::Storm);
        assert_eq!(count(Tick::ZERO), (2_000, 3_000), "{to:?}");
        assert_eq!(count(SECOND), (1_000, 4_000), "{to:?}");
        let one = same(frame(B, ENDS4, PROTO_UDP, b"to one"), 5_000);
        assert_eq!(pass(&mut s, SECOND, one, DropReason::Storm), (5_000, 0));
    }
}

#[test]
fn a_storm_on_a_large_network_is_paid_for_by_its_copies() {
    let mut s = switch(1500);
    limited(&mut s, (0, A), Rates::DEFAULT);
    for n in 2..1_000_u16 {
        let [high, low] = n.to_be_bytes();
        let mac = Mac([2, 0, 0, 1, high, low]);
        let guest = Guest {
            mac,
            name: format!("n{n}"),
            v4: Some([10, 0, 1 + high, low].into()),
            v6: None,
        };
        s.add_port(Port::new(PortId(n.into()), mac, 1500, true), guest);
    }
    let mut world = World::default();
    let mut now = Tick::from_millis(1);
    // It may look for all of them at once: the gateway answers.
    for n in 2..1_000_u16 {
        let [high, low] = n.to_be_bytes();
        let mut arp = [&Mac::BROADCAST.0[..], &A.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
        arp.extend([&A.0[..], &[10, 0, 0, 2], &[0; 6], &[10, 0, 1 + high, low]].concat());
        let got = s.handle_frame(&mut world, now, PortId(0), &VnetHdr::default(), &arp);
        assert_eq!(got, Verdict::Answer, "{n}");
    }
    // Rested, it has 2,000 frames, of ten each.
    now = Tick::from_millis(10_000);
    let (vnet, bytes) = frame(Mac::BROADCAST, ENDS4, PROTO_UDP, b"to all");
    let mut flooded = |now| {
        let mut count = 0;
        for _ in 0..1_000 {
            let got = s.handle_frame(&mut world, now, PortId(0), &vnet, &bytes);
            count += usize::from(got == Verdict::Flood);
            while s.run_ready(&mut world, now) {}
            world.frames.clear();
        }
        count
    };
    assert_eq!(flooded(now), 200);
    let later = Tick::from_millis(11_000);
    assert!((1..=100).contains(&flooded(later)));
}

#[test]
fn new_flows_have_a_limit_and_open_ones_go_on() {
    let mut s = switch(1500);
    let rates = Rates {
        new_flows: Some(Rate::new(10, 20)),
        ..Rates::default()
    };
    limited(&mut s, (0, A), rates);
    let (_, bytes) = frame(GATEWAY, ENDS4, PROTO_UDP, b"hello");
    let trusted = VnetHdr {
        flags: crate::wire::vnet_hdr::DATA_VALID,
        ..VnetHdr::default()
    };
    let from = |ports: core::ops::Range<u16>| {
        let bytes = bytes.clone();
        ports.map(move |port| {
            let mut frame = bytes.clone();
            frame[34..36].copy_from_slice(&port.to_be_bytes());
            (trusted, frame)
        })
    };
    let reason = DropReason::NewFlowLimit;
    assert_eq!(
        pass(&mut s, Tick::ZERO, from(2_000..2_100), reason),
        (20, 80)
    );
    assert_eq!(
        pass(&mut s, Tick::ZERO, from(2_000..2_020), reason),
        (20, 0),
        "open ones"
    );
    assert_eq!(pass(&mut s, SECOND, from(3_000..3_100), reason), (10, 90));
    // Another remote is another flow.
    let other = ["10.0.0.2", "192.0.2.10"];
    let (vnet, bytes) = frame(GATEWAY, other, PROTO_UDP, b"hello");
    assert_eq!(pass(&mut s, SECOND, same((vnet, bytes), 1), reason), (0, 1));
    // Connections count as well.
    let (_, mut syn) = frame(GATEWAY, ENDS4, PROTO_TCP, b"");
    syn[47] = crate::wire::tcp::SYN;
    let (_, dropped) = pass(&mut s, SECOND, same((trusted, syn), 1), reason);
    assert_eq!(dropped, 1);
}

#[test]
fn what_the_world_sends_beyond_the_limit_is_told_to_its_endpoint() {
    let (mut s, mut world) = (switch(1500), World::default());
    let now = Tick::from_millis(1);
    let (vnet, datagram) = frame(GATEWAY, ENDS4, PROTO_UDP, b"ping");
    // Its checksum is that of its first two bytes.
    let echo = ip(
        [A, GATEWAY],
        ENDS4,
        PROTO_ICMP,
        &[8, 0, 0xf7, 0xff, 0, 0, 0, 0],
    );
    let trusted = VnetHdr::default();
    for (vnet, frame) in [(vnet, datagram), (trusted, echo)] {
        let got = s.handle_frame(&mut world, now, PortId(0), &vnet, &frame);
        assert_eq!(got, Verdict::Translate);
    }
    s.flush(&mut world, now);
    let rates = Rates {
        ingress: Some(Rate::new(1, 1)),
        ..Rates::default()
    };
    limited(&mut s, (0, A), rates);
    let far = "192.0.2.9".parse().unwrap();
    let mut hear = |s: &mut Switch| {
        let datagrams = HostEvent::UdpReceived {
            mapping: 0,
            from: SocketAddr::new(far, 53_000),
            local: None,
            tos: 0,
            pieces: &[&[7; 100][..]; 3],
        };
        let reply = HostEvent::EchoReply {
            mapping: 0,
            from: far,
            seq: 1,
            payload: &[],
        };
        for event in [datagrams, reply] {
            s.handle_event(&mut world, now, event);
        }
        core::mem::take(&mut world.lost)
    };
    let lost = |count| (PortId(0), DropReason::RateLimited, count);
    assert_eq!(hear(&mut s), [lost(2), lost(1)], "one was within it");
    assert_eq!(hear(&mut s), [lost(3), lost(1)]);
    assert_eq!(s.drops().get(DropReason::RateLimited), 7);
}
