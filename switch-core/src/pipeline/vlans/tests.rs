//! VLANs against a list of who should hear what, and what of a frame changes on its way.

mod hostile;

use core::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Untagged, Vlan, Vlans};
use crate::addr::{Mac, NetworkId, PortId};
use crate::l2::table::Keeping;
use crate::pipeline::{Port, Switch};
use crate::policy::compile::{Action, Direction, Remote, Rule, Rules, Transport};
use crate::policy::guard::{Guard, Trust};
use crate::respond::Guest;
use crate::testing::net::{GATEWAY, Setup, SimNet};
use crate::testing::packets::{EXPERIMENT, Link, Segment};
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum::check_offload;
use crate::wire::packet::Packet;
use crate::wire::vnet_hdr::VnetHdr;

/// The network's own segment, in the lists of the model.
const OWN: u16 = 1;
const PORTS: u8 = 7;

/// VLAN of untagged frames, and those of tagged ones, of each port.
const WHERE: [(Option<u16>, &[u16]); PORTS as usize] = [
    (Some(OWN), &[]),
    (Some(10), &[]),
    (Some(10), &[]),
    (Some(20), &[]),
    (None, &[10, 20]),
    (Some(OWN), &[10, 20, 30]),
    (Some(10), &[20]),
];

fn vlan(id: u16) -> Vlan {
    let segment = NetworkId(100 + u32::from(id));
    Vlan { id, segment }
}

fn vlans(port: u8, guard: Option<Guard>) -> Option<Vlans> {
    let (untagged, tagged) = WHERE[usize::from(port)];
    let native = match untagged {
        Some(OWN) => Untagged::Own,
        Some(id) => Untagged::Vlan(vlan(id)),
        None => Untagged::Nowhere,
    };
    match (native, tagged) {
        (Untagged::Own, []) => None,
        (Untagged::Vlan(vlan), []) => Some(Vlans::access(vlan)),
        (native, tagged) => Some(Vlans::trunk(
            tagged.iter().map(|&id| vlan(id)),
            native,
            guard,
        )),
    }
}

/// A network of those ports. `trusted` ones may send from any MAC and address.
fn network(trusted: bool) -> SimNet {
    let setup = Setup {
        guests: PORTS,
        ..Setup::default()
    };
    let mut net = setup.build();
    for n in 0..PORTS {
        let addresses = Setup::addresses(n);
        net.switch.remove_port(&mut net.host, PortId(n.into()));
        let trust = Trust {
            mac: trusted,
            address: trusted,
            ..Trust::default()
        };
        let own = [addresses.v4.into(), addresses.v6.into()];
        let tagged = Trust {
            address: true,
            ..trust
        };
        let mac = addresses.mac;
        let port = Port {
            guard: Some(Guard::new(mac, own, None, trust)),
            vlans: vlans(n, Some(Guard::new(mac, [], None, tagged))).map(Into::into),
            ..Port::new(PortId(n.into()), mac, 1500, true)
        };
        let guest = Guest {
            mac,
            name: format!("guest{n}"),
            v4: Some(addresses.v4),
            v6: Some(addresses.v6),
        };
        net.switch.add_port(port, guest);
        let keeping = Keeping {
            limit: 100,
            ageing: 300,
            hold: 0,
        };
        net.switch.macs.keep(PortId(n.into()), keeping);
    }
    net
}

fn mac(n: u8) -> Mac {
    Setup::addresses(n).mac
}

fn tagged(frame: &[u8], tci: Option<u16>) -> Vec<u8> {
    let mut out = frame.to_vec();
    if let Some(tci) = tci {
        let [a, b] = tci.to_be_bytes();
        out.splice(12..12, [0x81, 0, a, b]);
    }
    out
}

/// Where a port's frame with this number in its tag belongs, by the list.
fn segment(port: u8, id: Option<u16>) -> Option<u16> {
    let (untagged, tagged) = WHERE[usize::from(port)];
    // A trunk may tag what it need not.
    let is_native = |id: u16| id == 0 || (Some(id) == untagged && !tagged.is_empty());
    match id.filter(|&id| !is_native(id)) {
        None => untagged,
        Some(id) => tagged.contains(&id).then_some(id),
    }
}

/// Whether frames of a segment leave with a tag at a port; none if they do not leave there.
fn leaves(port: u8, segment: u16) -> Option<bool> {
    let (untagged, tagged) = WHERE[usize::from(port)];
    if untagged == Some(segment) {
        return Some(false);
    }
    tagged.contains(&segment).then_some(true)
}

#[derive(Debug, Clone)]
struct Send {
    port: u8,
    src: Mac,
    dst: Mac,
    tci: Option<u16>,
    /// Seconds that pass before it.
    after: u64,
}

fn station() -> impl Strategy<Value = Mac> {
    prop_oneof![
        3 => (0..PORTS).prop_map(mac),
        3 => (0..3u8).prop_map(|n| Mac([2, 1, 1, 1, 1, n])),
    ]
}

fn send() -> impl Strategy<Value = Send> {
    let group = prop_oneof![Just(Mac::BROADCAST), Just(Mac([1, 0, 0x5e, 0, 0, 9]))];
    let dst = prop_oneof![3 => station(), 1 => group];
    let id = prop_oneof![
        Just(0),
        Just(OWN),
        Just(10),
        Just(20),
        Just(30),
        Just(40),
        Just(4095)
    ];
    let tci = (id, 0..8u16).prop_map(|(id, priority)| (priority << 13) | id);
    let behind = (0..3u8).prop_map(|n| Mac([2, 1, 1, 1, 1, n]));
    (
        0..PORTS,
        prop::option::of(behind),
        dst,
        prop::option::of(tci),
        0..40u64,
    )
        .prop_map(|(port, behind, dst, tci, after)| Send {
            port,
            src: behind.unwrap_or_else(|| mac(port)),
            dst,
            tci,
            after,
        })
}

proptest! {
    #[test]
    fn agrees_with_the_list(ops in vec(send(), 1..60)) {
        let mut net = network(true);
        let mut stations: Vec<(u16, Mac, u8, u64)> = Vec::new();
        for Send { port, src, dst, tci, after } in ops {
            net.run_for(Duration::from_secs(after));
            let now = net.now().as_nanos() / 1_000_000_000;
            let bare = Link { src, dst }.frame(EXPERIMENT, &[7; 60]);
            net.host.frames.clear();
            let verdict = net.hand_in(PortId(port.into()), &(VnetHdr::default(), tagged(&bare, tci)));
            let mut reached: Vec<(PortId, Vec<u8>)> =
                net.host.frames.drain(..).map(|(to, _, frame)| (to, frame)).collect();
            reached.sort_unstable();
            let id = tci.map(|tci| tci & 0xfff);
            let Some(segment) = segment(port, id) else {
                prop_assert_eq!(verdict, Verdict::Drop(DropReason::Vlan));
                continue;
            };
            if src != mac(port) {
                stations.retain(|s| (s.0, s.1) != (segment, src));
                stations.push((segment, src, port, now));
            }
            let fixed = (0..PORTS).find(|&n| mac(n) == dst && leaves(n, segment).is_some());
            let mut learned = stations.iter().filter(|s| (s.0, s.1) == (segment, dst) && now - s.3 < 300);
            let to = fixed.or_else(|| learned.next().map(|s| s.2));
            if to == Some(port) {
                prop_assert_eq!(verdict, Verdict::Drop(DropReason::Hairpin));
                continue;
            }
            let mut expected = Vec::new();
            for n in (0..PORTS).filter(|&n| n != port && to.is_none_or(|to| to == n)) {
                let frame = match leaves(n, segment) {
                    None => continue,
                    Some(false) => bare.clone(),
                    Some(true) => tagged(&bare, Some((tci.unwrap_or(0) & 0xe000) | segment)),
                };
                expected.push((PortId(n.into()), frame));
            }
            prop_assert_eq!(reached, expected, "segment {}", segment);
        }
    }
}

proptest! {
    /// Whatever a port sends, only those of the same segment get it, with their tag and offloads that are sound.
    #[test]
    fn whatever_comes_leaves_where_it_may(
        port in 0..PORTS,
        to in 0..PORTS,
        id in prop_oneof![Just(0u16), Just(OWN), Just(10), Just(20), Just(30), Just(40)],
        cut in 0usize..40,
        spoilt in vec((0usize..80, any::<u8>()), 0..4),
        header in any::<[u8; 12]>(),
        plain in any::<bool>(),
    ) {
        let mut net = network(true);
        let link = Link { src: mac(port), dst: if to == port { Mac::BROADCAST } else { mac(to) } };
        let [src, dst] = [port, to].map(|n| (Setup::addresses(n).v4, 7).into());
        let (mut vnet, frame) = link.udp_run(src, dst, 100, &[9; 400]);
        let mut frame = tagged(&frame, (id != 0).then_some(id));
        if id != 0 {
            vnet.csum_start += 4;
            vnet.hdr_len += 4;
        }
        for (at, byte) in spoilt {
            frame[at] = byte;
        }
        frame.truncate(frame.len() - cut);
        let vnet = if plain { vnet } else { VnetHdr::parse(&header) };
        let parsed = Packet::parse(&frame).ok();
        net.hand_in(PortId(port.into()), &(vnet, frame));
        for (at, vnet, sent) in net.host.frames.drain(..) {
            let packet = Packet::parse(&sent).unwrap();
            if packet.src == GATEWAY {
                continue;
            }
            let id = parsed.and_then(|p| p.vlan).map(|tci| tci & 0xfff);
            let segment = segment(port, id).unwrap();
            let tag = leaves(u8::try_from(at.0).unwrap(), segment).unwrap();
            prop_assert_eq!(packet.vlan.is_some(), tag);
            prop_assert!(!tag || packet.vlan.is_some_and(|tci| tci & 0xfff == segment));
            prop_assert!(check_offload(sent.len(), &packet, &vnet).is_ok());
        }
    }
}

/// Sends a run of TCP from a port; what leaves, and where.
fn run(net: &mut SimNet, from: u8, to: u8, tci: Option<u16>) -> Vec<(u32, VnetHdr, Vec<u8>)> {
    let link = Link {
        src: mac(from),
        dst: mac(to),
    };
    let payload = vec![5; 9000];
    let [src, dst] = [from, to].map(|n| (Setup::addresses(n).v4, 7).into());
    let segment = Segment {
        payload: &payload,
        ..Segment::default()
    };
    let (mut vnet, frame) = link.tcp_run(src, dst, 1400, &segment);
    if tci.is_some() {
        vnet.csum_start += 4;
        vnet.hdr_len += 4;
    }
    net.host.frames.clear();
    net.hand_in(PortId(from.into()), &(vnet, tagged(&frame, tci)));
    let sent = net.host.frames.drain(..);
    sent.map(|(to, vnet, frame)| (to.0, vnet, frame)).collect()
}

#[test]
fn a_super_frame_stays_one_whatever_its_tag() {
    let mut net = network(false);
    for (from, to, had, has) in [
        (1, 2, None, None),
        (1, 4, None, Some(10)),
        (4, 1, Some(10), None),
        (4, 5, Some(20), Some(20)),
        (6, 4, None, Some(10)),
        (4, 6, Some(10), None),
        (0, 5, Some(0), None),
        (1, 4, Some(0), Some(10)),
        (6, 2, Some(10), None),
        (5, 0, Some(OWN), None),
    ] {
        let sent = run(&mut net, from, to, had);
        let [(at, vnet, frame)] = &sent[..] else {
            panic!("{from} to {to}: {} frames", sent.len());
        };
        let packet = Packet::parse(frame).unwrap();
        assert_eq!((*at, packet.vlan), (to.into(), has));
        assert!(vnet.is_gso() && vnet.needs_csum());
        assert_eq!(usize::from(vnet.csum_start), packet.l3 + 20);
    }
    let strayed = run(&mut net, 1, 3, None);
    assert!(strayed.iter().all(|s| s.0 != 3), "it is on another VLAN");
}

#[test]
fn datagrams_that_wait_leave_as_one_with_a_tag() {
    let mut net = network(false);
    let link = Link {
        src: mac(1),
        dst: mac(5),
    };
    let ends = [1, 5].map(|n| (Setup::addresses(n).v4, 7).into());
    let now = net.now();
    for n in 0..4 {
        let frame = link.udp(ends[0], ends[1], &[n; 100]);
        let vnet = VnetHdr {
            flags: crate::wire::vnet_hdr::DATA_VALID,
            ..VnetHdr::default()
        };
        let SimNet { switch, host, .. } = &mut net;
        switch.handle_next(host, now, PortId(1), &vnet, &frame);
    }
    net.switch.end_run(&mut net.host);
    let [(to, vnet, frame)] = &net.host.frames[..] else {
        panic!("{} frames", net.host.frames.len());
    };
    let packet = Packet::parse(frame).unwrap();
    assert_eq!((to.0, packet.vlan), (5, Some(10)));
    assert_eq!(
        (vnet.gso_size, usize::from(vnet.csum_start)),
        (100, packet.l3 + 20)
    );
}

#[test]
fn the_gateway_answers_on_its_own_segment_alone() {
    let mut net = network(false);
    let ask = |from: u8| {
        let me = Setup::addresses(from);
        let target = crate::testing::net::GATEWAY_V4;
        let link = Link {
            src: me.mac,
            dst: Mac::BROADCAST,
        };
        link.arp(me.v4, target)
    };
    for (from, verdict) in [
        (0, Verdict::Answer),
        (1, Verdict::Flood),
        (3, Verdict::Flood),
        (4, Verdict::Drop(DropReason::Vlan)),
        (5, Verdict::Answer),
        (6, Verdict::Flood),
    ] {
        let frame = (VnetHdr::default(), ask(from));
        assert_eq!(
            net.hand_in(PortId(from.into()), &frame),
            verdict,
            "port {from}"
        );
    }
    let link = Link {
        src: mac(5),
        dst: GATEWAY,
    };
    let lost = (
        VnetHdr::default(),
        tagged(&link.frame(EXPERIMENT, &[0; 50]), Some(10)),
    );
    net.host.frames.clear();
    assert_eq!(
        net.hand_in(PortId(5), &lost),
        Verdict::Flood,
        "a stranger's MAC there"
    );
    net.host.frames.clear();
    net.switch.advertise(&mut net.host);
    let told: Vec<u32> = net.host.frames.drain(..).map(|f| f.0.0).collect();
    assert_eq!(told, [0, 5]);
}

/// What a rule lets pass on one VLAN it has not let pass on another, whatever the addresses.
#[test]
fn conversations_of_vlans_are_apart() {
    let mut net = network(true);
    let rules = Rules {
        rules: vec![Rule {
            direction: Direction::Egress,
            action: Action::Allow,
            remote: Remote::Any,
            transport: Transport::Any,
            ports: None,
        }],
        ingress: Action::Reject,
        egress: Action::Allow,
    };
    let policy = |switch: &Switch, n: u32| Port {
        policy: rules.compile().map(Into::into),
        ..switch.port(PortId(n)).unwrap().clone()
    };
    let port = policy(&net.switch, 4);
    net.switch.change_port(port);
    let ends = ["10.9.0.4:5", "10.9.0.5:6"].map(|a| a.parse().unwrap());
    let mut send = |from: u8, to: u8, tci: u16, [src, dst]: [core::net::SocketAddr; 2]| {
        let link = Link {
            src: mac(from),
            dst: mac(to),
        };
        let frame = tagged(&link.udp(src, dst, b"x"), Some(tci));
        net.hand_in(PortId(from.into()), &(VnetHdr::default(), frame))
    };
    let answer = [ends[1], ends[0]];
    assert_eq!(send(4, 5, 10, ends), Verdict::Forward(PortId(5)));
    assert_eq!(send(5, 4, 10, answer), Verdict::Forward(PortId(4)));
    assert_eq!(send(5, 4, 20, answer), Verdict::Drop(DropReason::Denied));
}
