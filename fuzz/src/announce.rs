//! Announcements: whatever peers say, and in whatever order, what the events have told is what the table says, limits
//! hold, and what is sent can be read.
//! Shape: operations of a byte each and what they need, until the bytes end.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use switch_core::addr::{Mac, PeerId, Vni};
use switch_core::l2::snoop::{Group, Wants};
use switch_core::time::Tick;
use switch_core::tunnel::announce::{Allowed, Announcer, Event, Holder, Limits, Rules};
use switch_core::tunnel::control::groups::groups;
use switch_core::tunnel::control::prefix::{Prefix, Range};
use switch_core::tunnel::control::record::{Announced, Network, gone, host, network_gone};
use switch_core::tunnel::control::{Ack, AnnounceWriter, MAX_ANNOUNCE, Message, Stream};
use switch_core::tunnel::pmtu::PathMtu;

use super::bytes::Bytes;

/// Operations of one run at most: a longer one finds nothing that two short ones do not.
const MAX_OPERATIONS: usize = 128;
const PEERS: u32 = 3;
/// Endpoints of all hosts, and of one peer.
const MOST: usize = 24;
const MOST_OF_PEER: usize = 10;
/// Messages after which a host that has nothing new to say must have said all.
const MOST_SENT: usize = 1_000;

/// One host, and what its events have told.
struct Net {
    announcer: Announcer,
    now: Tick,
    up: BTreeMap<(Vni, Mac), (PeerId, Announced)>,
    /// What peers want, where that is not all.
    wants: BTreeMap<(PeerId, Vni), Arc<Wants>>,
    mtu: PathMtu,
}

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let limits = Limits {
        endpoints: MOST,
        early: 8,
        ..Limits::default()
    };
    let Ok(announcer) = Announcer::new("here", 7, limits) else {
        return;
    };
    let now = Tick::from_millis(1);
    let mut net = Net {
        announcer,
        now,
        up: BTreeMap::new(),
        wants: BTreeMap::new(),
        mtu: PathMtu::new(now, 1500),
    };
    for peer in 0..PEERS {
        net.announcer.set_peer(now, PeerId(peer), rules(3));
    }
    for _ in 0..MAX_OPERATIONS {
        if bytes.is_empty() {
            break;
        }
        net.step(&mut bytes);
        net.settle();
    }
    net.check();
}

impl Net {
    fn step(&mut self, bytes: &mut Bytes<'_>) {
        let op = bytes.u8();
        let peer = PeerId(u32::from(op >> 4) % PEERS);
        match op % 12 {
            0 => {
                let message = bytes.piece();
                self.hear(peer, message);
            }
            1..=3 => {
                let stream = stream(bytes);
                let mut message = Vec::new();
                let mut writer =
                    AnnounceWriter::new(&mut message, stream, u32::from(bytes.u8() % 40));
                let many = bytes.u8();
                for _ in 0..many % 6 {
                    writer.push(&record(bytes));
                }
                if many & 0x80 != 0 {
                    writer.complete();
                }
                self.hear(peer, &message);
            }
            4 => {
                let one = endpoint(bytes);
                // It may be another's here, or the table may be full.
                let _ = self.announcer.join(self.now, &one);
            }
            5 => self.announcer.leave(self.now, vni(bytes), mac(bytes)),
            6 => {
                self.now = self.now + Duration::from_millis(u64::from(bytes.u16()));
                self.announcer.handle_timeout(self.now);
            }
            7 => self.announcer.connected(self.now, peer),
            8 => self.announcer.lost(self.now, peer),
            9 => self.announcer.set_peer(self.now, peer, rules(bytes.u8())),
            10 => {
                let flags = bytes.u8();
                let mut message = Vec::new();
                // Streams of this host are counted from 1.
                let count = u32::from(bytes.u8() % 8);
                let ack = Ack {
                    stream: Stream { start: 7, count },
                    next: u32::from(bytes.u8() % 40),
                    mask: bytes.u32(),
                    unknown: flags & 1 != 0,
                    again: flags & 2 != 0,
                };
                ack.write(&mut message);
                self.hear(peer, &message);
            }
            _ => {
                let network = network(bytes);
                let _ = self.announcer.set_network(&network);
                let then = bytes.u8();
                if then & 2 != 0 {
                    self.announcer.set_wants(network.vni, &wants(bytes));
                }
                if then & 1 != 0 {
                    self.announcer.remove_network(self.now, network.vni);
                }
            }
        }
    }

    fn hear(&mut self, peer: PeerId, bytes: &[u8]) {
        match Message::parse(bytes) {
            Ok(Message::ProbeAck(probe)) => self.mtu.handle_ack(self.now, probe),
            Ok(message) => {
                self.announcer.handle_message(self.now, peer, &message);
                if let Message::Announce(announce) = message {
                    let mut again = Vec::new();
                    announce.write(&mut again);
                    assert!(
                        Message::parse(&again).is_ok(),
                        "what was read can be written"
                    );
                }
            }
            Err(_) => {}
        }
    }

    /// Takes what the host has to say and to tell.
    fn settle(&mut self) {
        let mut out = Vec::new();
        let mut sent = 0;
        while self.announcer.poll_transmit(self.now, &mut out).is_some() {
            assert!(
                out.len() <= MAX_ANNOUNCE,
                "a message of {} bytes",
                out.len()
            );
            assert!(Message::parse(&out).is_ok(), "what is sent can be read");
            sent += 1;
            assert!(sent < MOST_SENT, "it never ends");
        }
        while let Some(event) = self.announcer.poll_event() {
            if let Event::Up { peer, endpoint } = event {
                let key = (endpoint.vni, endpoint.mac);
                let old = self.up.insert(key, (peer, endpoint));
                assert!(old.is_none(), "it was there already");
            } else if let Event::Changed { peer, endpoint } = event {
                let key = (endpoint.vni, endpoint.mac);
                let old = self.up.insert(key, (peer, endpoint));
                assert_eq!(old.map(|o| o.0), Some(peer), "it was the same peer's");
            } else if let Event::Down { peer, vni, mac } = event {
                let old = self.up.remove(&(vni, mac));
                assert_eq!(old.map(|o| o.0), Some(peer), "it was there");
            } else if let Event::Wants { peer, vni, wants } = event {
                let old = self.wants.insert((peer, vni), Arc::clone(&wants));
                assert_ne!(old.unwrap_or_default(), wants, "it is news");
            }
        }
        self.mtu.handle_timeout(self.now);
        while self.mtu.poll_transmit().is_some() {}
        assert!((576..=1500).contains(&self.mtu.mtu()));
    }

    fn check(&self) {
        let (all, waiting) = self.announcer.count();
        assert!(all <= MOST && waiting <= all);
        let mut there = self.announcer.endpoints(Holder::Local).count();
        for peer in 0..PEERS {
            let theirs = self
                .announcer
                .stats(PeerId(peer))
                .map_or(0, |s| s.endpoints);
            assert!(theirs <= MOST_OF_PEER);
            there += self.announcer.endpoints(Holder::Peer(PeerId(peer))).count();
        }
        assert_eq!(there, all - waiting);
        for (&(peer, vni), wants) in &self.wants {
            assert_eq!(self.announcer.wants(peer, vni), *wants);
        }
        for ((vni, mac), (peer, endpoint)) in &self.up {
            let found = Some((Holder::Peer(*peer), endpoint.clone()));
            assert_eq!(self.announcer.by_mac(*vni, *mac), found);
            for &addr in &endpoint.addrs {
                assert_eq!(self.announcer.by_addr(*vni, addr), found);
            }
        }
    }
}

/// Some of two networks.
fn rules(which: u8) -> Rules {
    let networks = (0..2).filter(|n| which & 1 << n != 0).map(|n| Allowed {
        vni: Vni::from_be_bytes([0, 0, 1 + n]),
        prefixes: Prefix::new(IpAddr::from([10, 0, 0, 0]), 8)
            .into_iter()
            .collect(),
        except: Vec::new(),
    });
    Rules {
        networks: networks.collect(),
        endpoints: MOST_OF_PEER,
    }
}

fn vni(bytes: &mut Bytes<'_>) -> Vni {
    Vni::from_be_bytes([0, 0, 1 + bytes.u8() % 3])
}

fn mac(bytes: &mut Bytes<'_>) -> Mac {
    Mac([2, 0, 0, 0, 0, bytes.u8() % 16])
}

fn stream(bytes: &mut Bytes<'_>) -> Stream {
    let which = bytes.u8();
    Stream {
        start: u64::from(which & 3),
        count: u32::from(which >> 4),
    }
}

fn endpoint(bytes: &mut Bytes<'_>) -> Announced {
    let (vni, mac, what) = (vni(bytes), mac(bytes), bytes.u8());
    let addrs = (0..what % 3).map(|_| IpAddr::from([10 + what / 250, 0, 0, 1 + bytes.u8() % 8]));
    let mut addrs: Vec<IpAddr> = addrs.collect();
    addrs.sort();
    addrs.dedup();
    Announced {
        vni,
        mac,
        addrs: addrs.into_iter().collect(),
        names: (0..what >> 4 & 1).map(|_| "a".into()).collect(),
    }
}

fn network(bytes: &mut Bytes<'_>) -> Network {
    let (vni, what) = (vni(bytes), bytes.u8());
    let first = IpAddr::from([10, 0, 0, what]);
    let last = IpAddr::from([10, 0, what % 2, 255]);
    Network {
        vni,
        name: if what & 1 == 0 { "blue" } else { "red" }.into(),
        ranges: Range::new(first, last).into_iter().collect(),
    }
}

/// Up to 255 groups, which are more than a message holds.
fn wants(bytes: &mut Bytes<'_>) -> Wants {
    let (what, first, count) = (bytes.u8(), bytes.u8(), bytes.u8());
    let group = |n: u8| {
        let v4 = IpAddr::from([239, 0, first % 4, n]);
        let v6 = IpAddr::from([0xff15, 0, 0, 0, 0, 0, u16::from(first % 4), n.into()]);
        Group::of(if n & what & 1 == 0 { v4 } else { v6 })
    };
    let groups = (0..count)
        .filter_map(group)
        .map(|g| (u16::from(what >> 4), g));
    Wants::new([what & 4 != 0, what & 8 != 0], groups)
}

fn record(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let kind = bytes.u8();
    if kind >= 0xc0 {
        return groups(vni(bytes), &wants(bytes)).into();
    }
    match kind % 8 {
        0..=3 => endpoint(bytes).record().map(Vec::from).unwrap_or_default(),
        4 => gone(vni(bytes), mac(bytes)).to_vec(),
        5 => network(bytes).record().map(Vec::from).unwrap_or_default(),
        6 => network_gone(vni(bytes)).to_vec(),
        _ => host("there").map(Vec::from).unwrap_or_default(),
    }
}
