//! Each VLAN by itself: its members, its routers, and who asks there.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::asking::foreign;
use super::*;
use crate::addr::NetworkId;
use crate::pipeline::{Untagged, Vlan, Vlans};
use crate::policy::guard::{Guard, Trust};

/// Where each port is: its VLAN without tags, 0 for the own segment, and those with tags.
const WHERE: [(Option<u16>, &[u16]); 6] = [
    (Some(0), &[]),
    (Some(10), &[]),
    (Some(20), &[]),
    (None, &[10, 20]),
    (Some(10), &[20]),
    (Some(0), &[10]),
];

fn vlan(id: u16) -> Vlan {
    Vlan {
        id,
        segment: NetworkId(100 + u32::from(id)),
    }
}

fn placed(port: u32, untagged: Option<u16>, tagged: &[u16], guard: Option<Guard>) -> Port {
    let native = match untagged {
        None => Untagged::Nowhere,
        Some(0) => Untagged::Own,
        Some(id) => Untagged::Vlan(vlan(id)),
    };
    let vlans = Vlans::trunk(tagged.iter().map(|&id| vlan(id)), native, guard);
    Port {
        vlans: (untagged != Some(0) || !tagged.is_empty()).then(|| Arc::new(vlans)),
        ..Port::new(PortId(port), mac(port), 1500, true)
    }
}

/// One with those ports, all of which have had the time to answer.
fn net() -> Net {
    let mut net = Net::new(Some(INTERVAL));
    for id in 0..4 {
        net.switch.remove_port(&mut net.world, PortId(id));
    }
    for (id, (untagged, tagged)) in (0..).zip(WHERE) {
        let port = placed(id, untagged, tagged, None);
        net.switch.add_port(port, guest(id));
    }
    net.pass(Duration::from_secs(3));
    net.world.frames.clear();
    net
}

fn tag(frame: &[u8], port: u32, vlan: u16) -> Vec<u8> {
    let mut out = frame.to_vec();
    if WHERE[port as usize].0 != Some(vlan) {
        let [a, b] = vlan.to_be_bytes();
        out.splice(12..12, [0x81, 0, a, b]);
    }
    out
}

impl Net {
    fn says(&mut self, port: u32, vlan: u16, kind: u8, group: &str) -> Verdict {
        let report = report(port, &[(kind, group.parse().unwrap())]);
        self.send(port, &tag(&report, port, vlan))
    }

    /// Who gets a datagram of a port on a VLAN; each as it is to leave there.
    fn hear(&mut self, port: u32, vlan: u16, group: &str) -> Vec<u32> {
        self.world.frames.clear();
        let bare = data(port, group);
        self.send(port, &tag(&bare, port, vlan));
        let sent = core::mem::take(&mut self.world.frames);
        let each = sent.into_iter().map(|(to, _, frame)| {
            assert_eq!(frame, tag(&bare, to.0, vlan), "at {to:?}");
            to.0
        });
        each.collect()
    }

    /// Queries that were sent: to whom, on which VLAN by its tag, of which protocol.
    fn asked(&mut self) -> Vec<(u32, u16, bool)> {
        let frames = core::mem::take(&mut self.world.frames);
        let asked = frames.into_iter().filter_map(|(port, _, frame)| {
            let packet = Packet::parse(&frame).unwrap();
            let said = message::parse(&packet, &frame);
            let Ok(Some(Message::Query(query))) = said else {
                return None;
            };
            Some((port.0, packet.vlan.unwrap_or(0), query.group.is_ipv4()))
        });
        asked.collect()
    }
}

#[test]
fn members_of_a_vlan_get_what_is_sent_there() {
    for group in [G4, G6] {
        let mut net = net();
        assert_eq!(net.hear(1, 10, group), [0; 0], "nobody has joined");
        assert_eq!(net.says(3, 10, 4, group), Verdict::Answer);
        assert!(net.world.frames.is_empty(), "a report is for routers only");
        assert_eq!(net.hear(1, 10, group), [3]);
        assert_eq!(net.hear(4, 20, group), [0; 0], "it has joined on the other");
        assert_eq!(net.hear(0, 0, group), [0; 0]);
        net.says(5, 0, 4, group);
        net.says(4, 20, 4, group);
        assert_eq!(net.hear(1, 10, group), [3]);
        assert_eq!(net.hear(2, 20, group), [4]);
        assert_eq!(net.hear(0, 0, group), [5]);
    }
}

#[test]
fn who_leaves_is_asked_there() {
    let mut net = net();
    for vlan in [10, 20] {
        net.says(3, vlan, 4, G4);
    }
    net.says(3, 20, 3, G4);
    assert_eq!(net.asked(), [(3, 20, true)]);
    net.pass(Duration::from_secs(2));
    assert_eq!(net.asked(), [(3, 20, true)], "a second time");
    assert_eq!(net.hear(2, 20, G4), [0; 0]);
    assert_eq!(net.hear(1, 10, G4), [3], "it stays on the other");
}

#[test]
fn every_vlan_is_asked_in_its_turn() {
    let mut net = net();
    net.pass(Duration::from_secs(125));
    let mut expected = BTreeSet::new();
    for (port, (untagged, tagged)) in (0..).zip(WHERE) {
        for v4 in [true, false] {
            expected.extend(untagged.map(|_| (port, 0, v4)));
            expected.extend(tagged.iter().map(|&vlan| (port, vlan, v4)));
        }
    }
    // In their own tags, and no others.
    assert_eq!(net.asked().into_iter().collect::<BTreeSet<_>>(), expected);
    net.pass(Duration::from_secs(125));
    let sources: BTreeSet<String> = (net.world.frames.iter())
        .filter(|f| f.0.0 == 1)
        .map(|f| match Packet::parse(&f.2).unwrap().kind {
            crate::wire::packet::Kind::Ip(ip) => ip.src.to_string(),
            other @ (crate::wire::packet::Kind::Arp | crate::wire::packet::Kind::Other(_)) => {
                panic!("{other:?}")
            }
        })
        .collect();
    let link_local = net.switch.config.gateway.link_local().to_string();
    assert_eq!(sources, ["0.0.0.0".to_owned(), link_local].into());
}

#[test]
fn a_router_asks_on_its_vlan_alone() {
    let mut net = net();
    // Higher than the gateway's address, which the gateway does not have there.
    let query = foreign(3, [10, 0, 0, 200].into(), None);
    net.send(3, &tag(&query, 3, 20));
    let heard: Vec<_> = net.asked().into_iter().map(|q| (q.0, q.1)).collect();
    assert_eq!(heard, [(2, 0), (4, 20)], "those of its VLAN hear it");
    for group in [G4, G6] {
        let routers: &[u32] = if group == G4 { &[3] } else { &[] };
        assert_eq!(net.hear(2, 20, group), routers);
        assert_eq!(net.hear(1, 10, group), [0; 0]);
        assert_eq!(net.hear(0, 0, group), [0; 0]);
    }
    net.says(4, 20, 4, G4);
    assert_eq!(net.world.frames.len(), 1, "it hears the reports");
    net.world.frames.clear();
    net.says(4, 10, 4, G4);
    assert!(net.world.frames.is_empty(), "those of its VLAN");
    net.pass(Duration::from_secs(130));
    let asked: BTreeSet<_> = net.asked().into_iter().filter(|q| q.2).collect();
    assert!(!asked.iter().any(|q| q.1 == 20 || q.0 == 2), "{asked:?}");
    assert!(asked.iter().any(|q| q.1 == 10) && asked.iter().any(|q| q.0 == 0));
    net.pass(Duration::from_secs(260));
    assert!(net.asked().iter().any(|q| q.1 == 20 && q.2), "it has gone");
}

/// What a trunk may do with tags its own guard says, not that of its frames without.
#[test]
fn a_guest_asks_on_no_vlan() {
    let mut net = net();
    let guard = |router| {
        let trust = Trust {
            address: true,
            router,
            ..Trust::default()
        };
        Guard::new(mac(4), [], None, trust)
    };
    let query = foreign(4, [10, 0, 0, 1].into(), None);
    let query = tag(&query, 4, 20);
    for (tagged, verdict) in [
        (false, Verdict::Drop(DropReason::RogueRouter)),
        (true, Verdict::Flood),
    ] {
        let port = Port {
            guard: Some(guard(!tagged)),
            ..placed(4, Some(10), &[20], Some(guard(tagged)))
        };
        net.switch.change_port(port);
        net.pass(Duration::from_secs(3));
        assert_eq!(net.send(4, &query), verdict);
    }
    assert_eq!(net.hear(2, 20, G4), [4]);
}

#[test]
fn who_changes_its_vlan_is_asked_there() {
    let mut net = net();
    net.says(1, 10, 4, G4);
    assert_eq!(net.hear(3, 10, G4), [1]);
    net.switch.change_port(placed(1, Some(20), &[], None));
    net.pass(Duration::from_millis(1));
    assert_eq!(net.asked().iter().filter(|q| q.0 == 1).count(), 2);
    net.pass(Duration::from_secs(3));
    for (from, vlan) in [(3, 10), (3, 20)] {
        assert_eq!(net.hear(from, vlan, G4), [0; 0], "{vlan}");
    }
}

/// However many VLANs two trunks share, each is asked, and nobody waits for all of that.
#[test]
fn a_trunk_of_many_vlans_costs_a_little_at_a_time() {
    let mut net = net();
    let all: Vec<u16> = (3000..4095).collect();
    for port in [1, 2] {
        net.switch.change_port(placed(port, None, &all, None));
    }
    let mut asked: BTreeMap<(u32, u16), usize> = BTreeMap::new();
    let mut turns = 0;
    let end = net.now + Duration::from_secs(1);
    while let Some(due) = net.switch.poll_timeout().filter(|&due| due <= end) {
        net.now = net.now.max(due);
        net.switch.handle_timeout(&mut net.world, net.now);
        assert!(net.world.frames.len() < 200, "{}", net.world.frames.len());
        while net.switch.has_ready() {
            net.switch.run_ready(&mut net.world, net.now);
        }
        for (port, vlan, _) in net.asked() {
            *asked.entry((port, vlan)).or_default() += 1;
        }
        turns += 1;
    }
    assert!(turns > 120, "{turns}");
    for port in [1, 2] {
        // As one that has just come, and with everybody; in both protocols.
        assert!(all.iter().all(|&vlan| asked.get(&(port, vlan)) == Some(&4)));
    }
    assert_eq!(net.switch.drops().get(DropReason::Storm), 0);
    assert!(net.groups.iter(net.now).count() < 10);
}

#[test]
fn what_one_joins_on_many_vlans_is_bounded() {
    let mut net = net();
    net.groups = Arc::new(Groups::new(4096, [1, 2, 3, 4]));
    net.switch.set_snooping(Some(Snooping {
        groups: Arc::clone(&net.groups),
        querier: Some(INTERVAL),
    }));
    let all: Vec<u16> = (2..200).collect();
    net.switch.change_port(placed(3, None, &all, None));
    net.pass(Duration::from_secs(3));
    for vlan in all {
        let groups: Vec<_> = (0..70).map(|n| (4, IpAddr::from([239, 7, 0, n]))).collect();
        net.send(3, &tag(&report(3, &groups), 3, vlan));
    }
    assert_eq!(net.groups.iter(net.now).count(), super::super::joined::MOST);
    net.says(1, 10, 4, G4);
    assert_eq!(net.hear(4, 10, G4), [1], "the neighbour has its own");
}

#[derive(Debug, Clone)]
struct Op {
    port: u32,
    on: usize,
    join: bool,
    group: u8,
    millis: u64,
}

fn op() -> impl Strategy<Value = Op> {
    (0..6u32, 0..3usize, any::<bool>(), 0..4u8, 0..4000u64).prop_map(
        |(port, on, join, group, millis)| Op {
            port,
            on,
            join,
            group,
            millis,
        },
    )
}

proptest! {
    /// Whoever has joined on a VLAN gets what is sent to the group there, and nobody else does.
    #[test]
    fn agrees_with_a_list(ops in vec(op(), 1..60)) {
        let mut net = net();
        let mut model: BTreeMap<(u16, u8, u32), Tick> = BTreeMap::new();
        for Op { port, on, join, group, millis } in ops {
            let (untagged, tagged) = WHERE[port as usize];
            let vlans: Vec<u16> = untagged.into_iter().chain(tagged.iter().copied()).collect();
            let vlan = vlans[on % vlans.len()];
            let name = if group % 2 == 0 { format!("239.7.7.{group}") } else { format!("ff15::{group}") };
            net.says(port, vlan, if join { 4 } else { 3 }, &name);
            let until = model.entry((vlan, group, port)).or_insert(Tick::ZERO);
            if join {
                *until = net.now + Duration::from_secs(260);
            } else {
                *until = (*until).min(net.now + Duration::from_secs(2));
            }
            net.pass(Duration::from_millis(millis));
            let expected: Vec<u32> = (0..6)
                .filter(|&to| to != port && model.get(&(vlan, group, to)).is_some_and(|&u| u > net.now))
                .collect();
            prop_assert_eq!(net.hear(port, vlan, &name), expected);
        }
    }
}
