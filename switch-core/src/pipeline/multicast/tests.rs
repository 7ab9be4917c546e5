//! Multicast through a whole switch: who joins gets it, who leaves does not any more, and who asks is heeded.

pub(in crate::pipeline) mod asking;
mod paying;
mod vlans;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;
use std::sync::Arc;

use crate::addr::{Mac, PortId};
use crate::l2::snoop::INTERVAL;
use crate::l2::snoop::groups::Groups;
use crate::l2::snoop::message::{self, Message};
use crate::pipeline::tests::{World, switch};
use crate::pipeline::{Port, Snooping, Switch};
use crate::respond::Guest;
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};
use crate::wire::emit::HeaderBuf;
use crate::wire::packet::{PROTO_UDP, Packet};
use crate::wire::vnet_hdr::VnetHdr;

pub(in crate::pipeline) const G4: &str = "239.1.2.3";
pub(in crate::pipeline) const G6: &str = "ff15::1234";
/// Endpoints of a test: the two of the ordinary test switch, and two more.
const PORTS: u32 = 4;

struct Net {
    switch: Switch,
    world: World,
    groups: Arc<Groups>,
    now: Tick,
}

pub(in crate::pipeline) const fn mac(port: u32) -> Mac {
    Mac([2, 0, 0, 0, 0, port.to_be_bytes()[3] + 2])
}

pub(in crate::pipeline) fn v4(port: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0002 + port)
}

fn to_mac(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(a) => {
            let [_, b, c, d] = a.octets();
            Mac([1, 0, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(a) => {
            let [.., b, c, d, e] = a.octets();
            Mac([0x33, 0x33, b, c, d, e])
        }
    }
}

/// A report with these records: what a station of IGMPv3 or MLDv2 sends.
pub(in crate::pipeline) fn report(port: u32, records: &[(u8, IpAddr)]) -> Vec<u8> {
    let v6 = records.iter().any(|r| r.1.is_ipv6());
    let count = u16::try_from(records.len()).unwrap().to_be_bytes();
    let kind = if v6 { 143 } else { 0x22 };
    let mut body = vec![kind, 0, 0, 0, 0, 0, count[0], count[1]];
    for (kind, group) in records {
        body.extend_from_slice(&[*kind, 0, 0, 0]);
        match group {
            IpAddr::V4(a) => body.extend_from_slice(&a.octets()),
            IpAddr::V6(a) => body.extend_from_slice(&a.octets()),
        }
    }
    let (src, dst): (IpAddr, IpAddr) = if v6 {
        let all: Ipv6Addr = "ff02::16".parse().unwrap();
        (mac(port).link_local().into(), all.into())
    } else {
        (v4(port).into(), [224, 0, 0, 22].into())
    };
    message(port, (src, dst), body)
}

/// A message of IGMP or MLD with its checksum.
fn message(port: u32, (src, dst): (IpAddr, IpAddr), mut body: Vec<u8>) -> Vec<u8> {
    use crate::wire::checksum::{finish, fold, pseudo, sum};
    let proto = if src.is_ipv6() { 58 } else { 2 };
    let length = u32::try_from(body.len()).unwrap();
    let begun = if src.is_ipv6() {
        u32::from(pseudo(src, dst, proto, length))
    } else {
        0
    };
    let csum = finish(fold(begun + sum(&body)));
    body[2..4].copy_from_slice(&csum.to_be_bytes());
    let mut head = HeaderBuf::new();
    let ethertype = if src.is_ipv6() { 0x86dd } else { 0x0800 };
    head.eth(to_mac(dst), mac(port), ethertype);
    head.ip(src, dst, proto, 1, 0, body.len());
    [head.as_slice(), &body].concat()
}

pub(in crate::pipeline) fn data(port: u32, group: &str) -> Vec<u8> {
    let dst: IpAddr = group.parse().unwrap();
    let src: IpAddr = match dst {
        IpAddr::V4(_) => v4(port).into(),
        IpAddr::V6(_) => mac(port).link_local().into(),
    };
    let mut head = HeaderBuf::new();
    let (ethertype, l4) = if src.is_ipv6() {
        (0x86dd, 54)
    } else {
        (0x0800, 34)
    };
    head.eth(to_mac(dst), mac(port), ethertype);
    head.ip(src, dst, PROTO_UDP, 8, 0, 12);
    head.udp(5000, 5000, 4);
    head.set_full(l4, src, dst, PROTO_UDP, &[b"data"]);
    [head.as_slice(), b"data"].concat()
}

impl Net {
    fn new(querier: Option<Duration>) -> Self {
        let mut net = Self {
            switch: switch(1500),
            world: World::default(),
            groups: Arc::new(Groups::new(1024, [1, 2, 3, 4])),
            now: Tick::from_millis(1),
        };
        net.switch.set_snooping(Some(Snooping {
            groups: Arc::clone(&net.groups),
            querier,
        }));
        for id in 2..PORTS {
            let port = Port::new(PortId(id), mac(id), 1500, true);
            net.switch.add_port(port, guest(id));
        }
        net
    }

    /// One where every endpoint has had the time to answer.
    fn settled() -> Self {
        let mut net = Self::new(Some(INTERVAL));
        net.pass(Duration::from_secs(3));
        net.world.frames.clear();
        net
    }

    /// Lets time pass, doing what is due in between.
    fn pass(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(due) = self.switch.poll_timeout().filter(|&due| due <= end) {
            self.now = self.now.max(due);
            self.switch.handle_timeout(&mut self.world, self.now);
            self.switch.flush(&mut self.world, self.now);
        }
        self.now = end;
    }

    fn send(&mut self, port: u32, frame: &[u8]) -> Verdict {
        let vnet = VnetHdr::default();
        let (world, now) = (&mut self.world, self.now);
        let verdict = self
            .switch
            .handle_frame(world, now, PortId(port), &vnet, frame);
        self.switch.flush(&mut self.world, self.now);
        verdict
    }

    /// Who gets a datagram of the first endpoint.
    fn reached(&mut self, group: &str) -> Vec<u32> {
        self.world.frames.clear();
        let frame = data(0, group);
        self.send(0, &frame);
        let sent = self.world.frames.iter().filter(|f| f.2 == frame);
        let ports = sent.map(|f| f.0.0).collect();
        self.world.frames.clear();
        ports
    }

    fn join(&mut self, port: u32, group: &str) -> Verdict {
        self.send(port, &report(port, &[(4, group.parse().unwrap())]))
    }

    fn leave(&mut self, port: u32, group: &str) -> Verdict {
        self.send(port, &report(port, &[(3, group.parse().unwrap())]))
    }

    /// Queries that were sent, and to whom.
    fn queries(&mut self) -> Vec<(u32, IpAddr)> {
        let frames = core::mem::take(&mut self.world.frames);
        let asked = |(port, _, frame): (PortId, VnetHdr, Vec<u8>)| {
            let packet = Packet::parse(&frame).unwrap();
            match message::parse(&packet, &frame) {
                Ok(Some(Message::Query(query))) => Some((port.0, query.group)),
                _ => None,
            }
        };
        frames.into_iter().filter_map(asked).collect()
    }
}

pub(in crate::pipeline) fn guest(id: u32) -> Guest {
    Guest {
        mac: mac(id),
        name: format!("g{id}"),
        v4: Some(v4(id)),
        v6: None,
    }
}

#[test]
fn members_get_it_and_nobody_else() {
    for group in [G4, G6] {
        let mut net = Net::settled();
        assert_eq!(net.reached(group), [0; 0], "nobody has joined");
        assert_eq!(net.switch.drops().get(DropReason::NoMember), 1);
        assert_eq!(net.join(2, group), Verdict::Answer);
        assert!(net.world.frames.is_empty(), "a report is for routers only");
        assert_eq!(net.reached(group), [2]);
        net.join(3, group);
        net.join(0, group);
        assert_eq!(net.reached(group), [2, 3], "not back to where it is from");
        let other = if group == G4 {
            "239.1.2.4"
        } else {
            "ff15::1235"
        };
        assert_eq!(net.reached(other), [0; 0]);
    }
}

#[test]
fn what_stays_on_the_link_is_for_everybody() {
    let mut net = Net::settled();
    for group in [
        "224.0.0.251",
        "224.0.0.1",
        "ff02::1",
        "ff02::fb",
        "ff02::1:ff00:9",
    ] {
        assert_eq!(net.reached(group), [1, 2, 3], "{group}");
    }
}

#[test]
fn a_membership_ends_unless_it_is_told_again() {
    let mut net = Net::settled();
    net.join(2, G4);
    net.join(3, G6);
    net.pass(Duration::from_secs(200));
    net.join(2, G4);
    net.pass(Duration::from_secs(61));
    assert_eq!(net.reached(G4), [2], "told again");
    assert_eq!(net.reached(G6), [0; 0], "260 s have passed");
    net.pass(Duration::from_secs(199));
    assert_eq!(net.reached(G4), [0; 0]);
}

#[test]
fn who_leaves_is_asked_twice_and_then_believed() {
    for group in [G4, G6] {
        let mut net = Net::settled();
        let address: IpAddr = group.parse().unwrap();
        net.join(2, group);
        net.join(3, group);
        net.leave(2, group);
        assert_eq!(net.queries(), [(2, address)], "at once, and nobody else");
        assert_eq!(net.reached(group), [2, 3], "another station may remain");
        net.pass(Duration::from_millis(1500));
        assert_eq!(net.queries(), [(2, address)]);
        net.pass(Duration::from_millis(500));
        assert_eq!(net.reached(group), [3]);
    }
}

#[test]
fn a_second_station_behind_the_port_stays_a_member() {
    let mut net = Net::settled();
    net.join(2, G4);
    net.leave(2, G4);
    net.pass(Duration::from_millis(700));
    net.join(2, G4);
    net.pass(Duration::from_secs(100));
    assert_eq!(net.reached(G4), [2]);
}

#[test]
fn leaving_what_one_is_not_in_asks_nobody() {
    let mut net = Net::settled();
    net.join(3, G4);
    for _ in 0..100 {
        net.leave(2, G4);
    }
    assert_eq!(net.queries(), []);
    net.pass(Duration::from_secs(5));
    assert_eq!(net.reached(G4), [3], "the other one stays");
    net.leave(3, G4);
    net.leave(3, G4);
    assert_eq!(net.queries().len(), 1, "asked already");
}

#[test]
fn the_earlier_versions_count_too() {
    let mut net = Net::settled();
    let group: Ipv4Addr = G4.parse().unwrap();
    let igmp = |kind: u8, port: u32, dst: [u8; 4]| {
        let body = [&[kind, 0, 0, 0][..], &group.octets()].concat();
        message(port, (v4(port).into(), dst.into()), body)
    };
    net.send(1, &igmp(0x12, 1, group.octets()));
    net.send(2, &igmp(0x16, 2, group.octets()));
    assert_eq!(net.reached(G4), [1, 2]);
    net.send(2, &igmp(0x17, 2, [224, 0, 0, 2]));
    net.pass(Duration::from_secs(2));
    assert_eq!(net.reached(G4), [1]);
    let group: Ipv6Addr = G6.parse().unwrap();
    let mld = |kind: u8, dst: Ipv6Addr| {
        let body = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &group.octets()].concat();
        message(3, (mac(3).link_local().into(), dst.into()), body)
    };
    net.send(3, &mld(131, group));
    assert_eq!(net.reached(G6), [3]);
    net.send(3, &mld(132, "ff02::2".parse().unwrap()));
    net.pass(Duration::from_secs(2));
    assert_eq!(net.reached(G6), [0; 0]);
}

#[test]
fn a_flood_of_joins_fills_what_is_ones_own() {
    let mut net = Net::settled();
    for n in 0..=255 {
        let groups: Vec<_> = (0..=255)
            .map(|m| (4, IpAddr::from([239, 7, n, m])))
            .collect();
        let half = [&groups[..128], &groups[128..]];
        for records in half {
            net.send(2, &report(2, records));
        }
    }
    assert_eq!(net.groups.iter(net.now).count(), super::joined::GROUPS);
    assert!(net.switch.drops().get(DropReason::GroupLimit) > 500);
    assert_eq!(net.join(2, G4), Verdict::Drop(DropReason::GroupLimit));
    net.join(3, G4);
    assert_eq!(net.reached(G4), [3], "the neighbour has its own");
    assert_eq!(net.reached("239.7.0.63"), [2]);
    assert_eq!(net.reached("239.7.0.64"), [0; 0]);
    net.pass(Duration::from_secs(261));
    assert_eq!(net.join(2, G4), Verdict::Answer, "old ones make room");
}

#[test]
fn where_the_table_is_full_nobody_goes_without() {
    let mut net = Net::settled();
    net.groups = Arc::new(Groups::new(16, [1, 2, 3, 4]));
    net.switch.set_snooping(Some(Snooping {
        groups: Arc::clone(&net.groups),
        querier: Some(INTERVAL),
    }));
    net.pass(Duration::from_secs(3));
    for n in 0..16 {
        net.join(2, &format!("239.7.7.{n}"));
    }
    assert_eq!(net.reached("239.7.7.9"), [2]);
    assert_eq!(net.join(3, G4), Verdict::Answer);
    assert_eq!(net.reached(G4), [1, 2, 3], "everything is flooded");
    net.pass(Duration::from_secs(261));
    assert_eq!(net.reached(G4), [0; 0]);
}

#[test]
fn what_one_worker_learns_holds_for_the_others() {
    let mut one = Net::settled();
    let mut two = Net::settled();
    two.switch.macs = Arc::clone(&one.switch.macs);
    two.switch.set_snooping(Some(Snooping {
        groups: Arc::clone(&one.groups),
        querier: Some(INTERVAL),
    }));
    two.pass(Duration::from_secs(3));
    one.now = two.now;
    one.join(2, G4);
    assert_eq!(two.reached(G4), [2]);
    one.queries();
    two.queries();
    let mut asked = 0;
    for _ in 0..126 {
        one.pass(Duration::from_secs(1));
        two.pass(Duration::from_secs(1));
        asked += one.queries().len() + two.queries().len();
    }
    assert_eq!(asked % 8, 0);
    assert!(asked > 0, "one of them asks each time");
    let gone = PortId(2);
    one.switch.remove_port(&mut one.world, gone);
    two.switch.remove_port(&mut two.world, gone);
    one.switch.macs.forget(gone);
    let port = Port::new(gone, mac(9), 1500, true);
    two.switch.add_port(port, guest(9));
    two.pass(Duration::from_secs(3));
    assert_eq!(two.reached(G4), [0; 0], "its number is another's now");
}
