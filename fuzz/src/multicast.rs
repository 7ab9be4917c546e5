//! Multicast: whatever is said about groups, a switch keeps within its limits, and who gets what is what a slow,
//! obvious table of reports says.
//! Shape: operations of a byte each and what they need, until the bytes end.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use switch_core::addr::{Mac, NetworkId, PortId};
use switch_core::flow::tcp::Limits;
use switch_core::flow::udp::Filter;
use switch_core::l2::snoop::groups::Groups;
use switch_core::l2::snoop::message::{self, Message};
use switch_core::l2::table::MacTable;
use switch_core::pipeline::{Config, Port, Snooping, Switch};
use switch_core::policy::host_rule::HostRule;
use switch_core::time::Tick;
use switch_core::wire::checksum::{finish, fold, pseudo, sum};
use switch_core::wire::emit::HeaderBuf;
use switch_core::wire::packet::{PROTO_UDP, Packet};
use switch_core::wire::vnet_hdr::VnetHdr;

use super::bytes::Bytes;
use super::host::{World, gateway};

/// Operations of one run at most: a longer one finds nothing that two short ones do not.
const MAX_OPERATIONS: usize = 128;
/// Endpoints; the first one sends what the others may have joined.
const PORTS: u32 = 4;
/// Between general queries, and how long a report holds with them, and a leave.
const INTERVAL: Duration = Duration::from_secs(125);
const HOLDS: Duration = Duration::from_secs(260);
const LEAVES: Duration = Duration::from_secs(2);
/// Groups that one endpoint may join, as the switch has it.
const MOST: usize = 64;

/// One switch, and what it was told.
struct Net {
    switch: Switch,
    world: World,
    groups: Arc<Groups>,
    now: Tick,
}

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    // One hears anything; the other what is well-formed, and the model with it.
    let (mut any, mut known) = (Net::new(), Net::new());
    let mut model = BTreeMap::new();
    for _ in 0..MAX_OPERATIONS {
        if bytes.is_empty() {
            break;
        }
        match bytes.u8() % 8 {
            0 => {
                let (port, frame) = (u32::from(bytes.u8()) % PORTS, bytes.piece());
                read(frame);
                any.send(port, frame);
                let members = any.groups.iter(any.now).count();
                assert!(members <= PORTS as usize * MOST, "within their limits");
            }
            1..=3 => report(&mut known, &mut model, &mut bytes),
            4 => {
                let by = Duration::from_millis(50 * u64::from(bytes.u16()));
                any.pass(by);
                known.pass(by);
            }
            _ => sent(&mut known, &model, group(bytes.u8())),
        }
    }
}

/// Reads a message of any bytes to its end.
fn read(frame: &[u8]) {
    let said = Packet::parse(frame).and_then(|packet| message::parse(&packet, frame));
    if let Ok(Some(Message::Report(report))) = said {
        assert!(report.count() <= 256);
    }
}

type Model = BTreeMap<(u32, IpAddr), Tick>;

/// An endpoint reports some records, which the model hears too.
fn report(net: &mut Net, model: &mut Model, bytes: &mut Bytes<'_>) {
    let choice = bytes.u8();
    let port = u32::from(choice >> 1) % PORTS;
    let records: Vec<(u8, IpAddr, u8)> = (0..1 + bytes.u8() % 4)
        .map(|_| {
            let (kind, group) = (bytes.u8(), group(bytes.u8() & !1 | choice & 1));
            (kind % 8, group, bytes.u8() % 3)
        })
        .collect();
    net.send(port, &written(port, choice & 1 != 0, &records));
    for (kind, group, sources) in records {
        let until = model.entry((port, group)).or_insert(Tick::ZERO);
        match (kind, sources) {
            (2 | 4, _) | (1 | 3 | 5, 1..) => *until = net.now + HOLDS,
            (1 | 3, 0) | (6, 1..) if *until > net.now => {
                *until = (*until).min(net.now + LEAVES);
            }
            _ => {}
        }
    }
}

/// The first endpoint sends to a group, and the others get it whom the model names.
fn sent(net: &mut Net, model: &Model, group: IpAddr) {
    let frame = datagram(group);
    net.world.to.clear();
    net.send(0, &frame);
    let wanted = |port: &u32| model.get(&(*port, group)).is_some_and(|&u| u > net.now);
    let members: Vec<u32> = (1..PORTS).filter(wanted).collect();
    assert_eq!(net.world.to, members, "{group}");
}

/// One of a few groups, of either protocol, so that reports meet again.
fn group(choice: u8) -> IpAddr {
    let last = choice >> 1 & 7;
    if choice & 1 == 0 {
        Ipv4Addr::new(239, 1, 0, last).into()
    } else {
        Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, last.into()).into()
    }
}

fn mac(port: u32) -> Mac {
    let [_, _, _, last] = port.to_be_bytes();
    Mac([2, 0, 0, 0, 0, last + 2])
}

/// A report of IGMPv3 or MLDv2.
fn written(port: u32, v6: bool, records: &[(u8, IpAddr, u8)]) -> Vec<u8> {
    let (src, dst): (IpAddr, IpAddr) = if v6 {
        let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
        (mac(port).link_local().into(), all.into())
    } else {
        (
            Ipv4Addr::new(10, 0, 0, 2).into(),
            Ipv4Addr::new(224, 0, 0, 22).into(),
        )
    };
    let count = u8::try_from(records.len()).unwrap_or(0);
    let mut body = vec![if v6 { 143 } else { 0x22 }, 0, 0, 0, 0, 0, 0, count];
    for &(kind, group, sources) in records {
        body.extend_from_slice(&[kind, 0, 0, sources]);
        for _ in 0..=sources {
            match group {
                IpAddr::V4(a) => body.extend_from_slice(&a.octets()),
                IpAddr::V6(a) => body.extend_from_slice(&a.octets()),
            }
        }
    }
    let proto = if v6 { 58 } else { 2 };
    let length = u32::try_from(body.len()).unwrap_or(0);
    let begun = if v6 {
        pseudo(src, dst, proto, length)
    } else {
        0
    };
    let csum = finish(fold(u32::from(begun) + sum(&body)));
    if let Some(field) = body.get_mut(2..4) {
        field.copy_from_slice(&csum.to_be_bytes());
    }
    let mut head = HeaderBuf::new();
    let to = if v6 {
        Mac([0x33, 0x33, 0, 0, 0, 0x16])
    } else {
        Mac([1, 0, 0x5e, 0, 0, 22])
    };
    head.eth(to, mac(port), if v6 { 0x86dd } else { 0x0800 });
    head.ip(src, dst, proto, 1, 0, body.len());
    [head.as_slice(), &body].concat()
}

fn datagram(group: IpAddr) -> Vec<u8> {
    let v6 = group.is_ipv6();
    let src: IpAddr = if v6 {
        mac(0).link_local().into()
    } else {
        Ipv4Addr::new(10, 0, 0, 2).into()
    };
    let mut head = HeaderBuf::new();
    head.eth(
        Mac([1, 0, 0x5e, 1, 0, 1]),
        mac(0),
        if v6 { 0x86dd } else { 0x0800 },
    );
    head.ip(src, group, PROTO_UDP, 8, 0, 8);
    head.udp(5000, 5000, 0);
    head.set_full(if v6 { 54 } else { 34 }, src, group, PROTO_UDP, &[]);
    head.as_slice().to_vec()
}

impl Net {
    /// One where every endpoint has had the time to answer.
    fn new() -> Self {
        let now = Tick::from_millis(1);
        let port = |n| Port::new(PortId(n), mac(n), 1500, true);
        let config = Config {
            network: NetworkId(1),
            gateway: gateway(),
            ports: (0..PORTS).map(port).collect(),
            icc: true,
            rule: HostRule::default(),
            filter: Filter::default(),
            ephemeral: (32_768, 60_999),
            limits: Limits {
                flows: 64,
                window_budget: 4 << 20,
            },
            seeds: [1, 2, 3, 4],
        };
        let mut net = Self {
            switch: Switch::new(now, config, Arc::new(MacTable::new(64))),
            world: World::default(),
            groups: Arc::new(Groups::new(1024, [1, 2, 3, 4])),
            now,
        };
        net.switch.set_snooping(Some(Snooping {
            groups: Arc::clone(&net.groups),
            querier: Some(INTERVAL),
        }));
        net.pass(Duration::from_secs(3));
        net
    }

    fn send(&mut self, port: u32, frame: &[u8]) {
        let vnet = VnetHdr::default();
        self.switch
            .handle_frame(&mut self.world, self.now, PortId(port), &vnet, frame);
        self.switch.flush(&mut self.world, self.now);
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
}
