//! Two to ten hosts, each with a switch of its own, joined each with each: what one sends reaches whom it is for, once,
//! whatever was announced to whom.

use core::net::SocketAddr;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use proptest::prelude::*;

use super::{guest, leads};
use crate::addr::{Mac, PortId};
use crate::l2::table::MacTable;
use crate::pipeline::tests::{World, switch};
use crate::pipeline::{Port, Switch};
use crate::testing::packets::Link;
use crate::time::Tick;
use crate::wire::vnet_hdr::VnetHdr;

/// Endpoints of each host.
const ENDS: u8 = 3;

struct Hosts(Vec<(Switch, World)>);

/// Endpoint `end` of host `host`.
fn mac(host: usize, end: u8) -> Mac {
    Mac([2, 0, 0, 0, 1, u8::try_from(host).unwrap() * ENDS + end + 10])
}

/// The port of host `at` that leads to host `to`.
fn way(to: usize) -> PortId {
    PortId::remote(u32::try_from(to).unwrap())
}

impl Hosts {
    /// `learns` for each host: it finds out by itself where stations are.
    fn new(learns: &[bool]) -> Self {
        let hosts = learns.iter().enumerate().map(|(at, _)| {
            let mut s = switch(1500);
            s.macs = Arc::new(MacTable::with_limit(
                256,
                PortId::REMOTE_BASE as usize + 10,
                100,
            ));
            s.remove_port(&mut World::default(), PortId(0));
            s.remove_port(&mut World::default(), PortId(1));
            s.config.gateway.mac = Mac([2, 0, 0, 0, 2, u8::try_from(at).unwrap()]);
            for end in 0..ENDS {
                let port = Port::new(PortId(end.into()), mac(at, end), 1500, true);
                s.add_port(port, guest(mac(at, end)));
            }
            (s, World::default())
        });
        let mut hosts: Vec<_> = hosts.collect();
        let count = hosts.len();
        for (at, (s, _)) in hosts.iter_mut().enumerate() {
            for to in (0..count).filter(|&to| to != at) {
                s.add_remote_port(leads(way(to), 1500, learns[at]));
                if !learns[at] {
                    (0..ENDS).for_each(|end| s.set_remote(way(to), guest(mac(to, end))));
                }
            }
        }
        Self(hosts)
    }

    /// Sends a frame, and carries all that comes of it. Returns who got how many copies of it.
    fn send(&mut self, host: usize, end: u8, bytes: &[u8]) -> BTreeMap<(usize, u8), usize> {
        let mut got = BTreeMap::new();
        let mut under_way = VecDeque::from([(host, PortId(end.into()), bytes.to_vec())]);
        let mut hops = 0;
        while let Some((at, from, frame)) = under_way.pop_front() {
            hops += 1;
            assert!(hops <= 100, "a loop");
            let (s, w) = &mut self.0[at];
            s.handle_frame(w, Tick::ZERO, from, &VnetHdr::default(), &frame);
            s.flush(w, Tick::ZERO);
            while s.run_ready(w, Tick::ZERO) {}
            for (port, _, sent) in w.frames.drain(..) {
                match port.remote_index() {
                    None => *got.entry((at, u8::try_from(port.0).unwrap())).or_insert(0) += 1,
                    Some(to) => under_way.push_back((to as usize, way(at), sent)),
                }
            }
        }
        got
    }
}

fn datagram(from: (usize, u8), to: (usize, u8)) -> Vec<u8> {
    let (src, dst) = (mac(from.0, from.1), mac(to.0, to.1));
    let at = |m: Mac| SocketAddr::from(([10, 0, 0, m.0[5]], 4000));
    Link { src, dst }.udp(at(src), at(dst), b"hello")
}

fn broadcast(from: (usize, u8)) -> Vec<u8> {
    Link {
        src: mac(from.0, from.1),
        dst: Mac::BROADCAST,
    }
    .frame(0x88b5, b"hello")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn each_gets_what_is_for_it_and_once(
        learns in prop::collection::vec(any::<bool>(), 2..=10),
        sends in prop::collection::vec((any::<prop::sample::Index>(), 0..ENDS, any::<Option<prop::sample::Index>>(), 0..ENDS), 1..30),
    ) {
        let count = learns.len();
        let mut hosts = Hosts::new(&learns);
        let all: Vec<(usize, u8)> = (0..count).flat_map(|h| (0..ENDS).map(move |e| (h, e))).collect();
        for (host, end, to, to_end) in sends {
            let from = (host.index(count), end);
            let to = to.map(|to| (to.index(count), to_end)).filter(|to| *to != from);
            match to {
                Some(to) => {
                    let got = hosts.send(from.0, from.1, &datagram(from, to));
                    prop_assert_eq!(got.get(&to), Some(&1), "{:?} to {:?}: {:?}", from, to, got);
                    prop_assert!(got.values().all(|&copies| copies == 1));
                    // One whose place is known disturbs nobody.
                    let known = from.0 == to.0 || !learns[from.0];
                    prop_assert!(!known || got.len() == 1, "{:?} to {:?}: {:?}", from, to, got);
                }
                None => {
                    let got = hosts.send(from.0, from.1, &broadcast(from));
                    let others = all.iter().filter(|other| **other != from);
                    let wanted: BTreeMap<_, _> = others.map(|other| (*other, 1)).collect();
                    prop_assert_eq!(got, wanted);
                }
            }
        }
    }
}
