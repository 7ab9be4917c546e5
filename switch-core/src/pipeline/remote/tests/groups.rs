//! Three hosts that tell each other what they want of multicast, in virtual time: a stream goes where it is wanted.

use core::time::Duration;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::leads;
use crate::addr::{Mac, PeerId, PortId, Vni};
use crate::l2::snoop::groups::Groups;
use crate::l2::snoop::{INTERVAL, Wants};
use crate::l2::table::MacTable;
use crate::pipeline::multicast::tests::asking::foreign;
use crate::pipeline::multicast::tests::{G4, G6, data, guest, mac, report};
use crate::pipeline::tests::{World, switch};
use crate::pipeline::{Port, Snooping, Switch};
use crate::time::Tick;
use crate::tunnel::announce::{Allowed, Announcer, Event, Limits, Rules};
use crate::tunnel::control::Message;
use crate::wire::vnet_hdr::VnetHdr;

const HOSTS: usize = 3;
/// Endpoints of each host: 0 and 1 are on the first, 2 and 3 on the second, 4 and 5 on the third.
const ENDS: u32 = 2;

struct Host {
    switch: Switch,
    world: World,
    announcer: Announcer,
    told: Wants,
}

struct Net {
    hosts: Vec<Host>,
    now: Tick,
    /// Frames that went from a host to another.
    crossed: Vec<(usize, usize, Vec<u8>)>,
}

fn vni() -> Vni {
    Vni::new(7).unwrap()
}

fn way(to: usize) -> PortId {
    PortId::remote(u32::try_from(to).unwrap())
}

fn peer(host: usize) -> PeerId {
    PeerId(u32::try_from(host).unwrap())
}

fn others(at: usize) -> impl Iterator<Item = usize> {
    (0..HOSTS).filter(move |&other| other != at)
}

/// The host of an endpoint; one that comes later is on the second.
fn home(end: u32) -> usize {
    if end == 9 { 1 } else { (end / ENDS) as usize }
}

fn ends(host: usize) -> core::ops::Range<u32> {
    let first = u32::try_from(host).unwrap() * ENDS;
    first..first + ENDS
}

impl Host {
    fn new(at: usize, learns: bool) -> Self {
        let mut switch = switch(1500);
        for port in [PortId(0), PortId(1)] {
            switch.remove_port(&mut World::default(), port);
        }
        let ports = PortId::REMOTE_BASE as usize + HOSTS;
        switch.macs = Arc::new(MacTable::with_limit(64, ports, 8));
        switch.config.gateway.mac = Mac([2, 0, 0, 0, 2, u8::try_from(at).unwrap()]);
        for end in ends(at) {
            switch.add_port(Port::new(PortId(end), mac(end), 1500, true), guest(end));
        }
        for to in others(at) {
            switch.add_remote_port(leads(way(to), 1500, learns));
            if !learns {
                ends(to).for_each(|end| switch.set_remote(way(to), guest(end)));
            }
        }
        switch.set_snooping(Some(Snooping {
            groups: Arc::new(Groups::new(1024, [1, 2, 3, 4])),
            querier: Some(INTERVAL),
        }));
        let name = format!("host{at}");
        let mut announcer = Announcer::new(&name, 1 + at as u64, Limits::default()).unwrap();
        for to in others(at) {
            let rules = Rules {
                networks: vec![Allowed {
                    vni: vni(),
                    prefixes: Vec::new(),
                    except: Vec::new(),
                }],
                endpoints: 10,
            };
            announcer.set_peer(Tick::ZERO, peer(to), rules);
            announcer.connected(Tick::ZERO, peer(to));
        }
        Self {
            switch,
            world: World::default(),
            announcer,
            told: Wants::default(),
        }
    }
}

impl Net {
    fn new(learns: bool) -> Self {
        Self {
            hosts: (0..HOSTS).map(|at| Host::new(at, learns)).collect(),
            now: Tick::from_millis(1),
            crossed: Vec::new(),
        }
    }

    /// One where everybody has had the time to answer, and has told.
    fn settled(learns: bool) -> Self {
        let mut net = Self::new(learns);
        net.pass(Duration::from_secs(3));
        net
    }

    /// Each tells the others what it wants.
    fn tell(&mut self) {
        for at in 0..HOSTS {
            let host = &mut self.hosts[at];
            host.told = host.switch.wants(self.now, &host.told).0;
            host.announcer.set_wants(vni(), &host.told);
        }
        for _ in 0..HOSTS {
            for at in 0..HOSTS {
                let mut out = Vec::new();
                while let Some(to) = self.hosts[at].announcer.poll_transmit(self.now, &mut out) {
                    let message = Message::parse(&out).unwrap();
                    let host = &mut self.hosts[to.0 as usize];
                    host.announcer.handle_message(self.now, peer(at), &message);
                }
            }
        }
        for host in &mut self.hosts {
            while let Some(event) = host.announcer.poll_event() {
                if let Event::Wants { peer, wants, .. } = event {
                    host.switch.set_wants(way(peer.0 as usize), Some(wants));
                }
            }
        }
    }

    /// Lets time pass, doing what is due in between.
    fn pass(&mut self, by: Duration) {
        let end = self.now + by;
        loop {
            let due = self.hosts.iter().flat_map(|host| {
                let own = host.switch.wants(self.now, &host.told).1;
                [
                    host.switch.poll_timeout(),
                    host.announcer.poll_timeout(),
                    Some(own),
                ]
            });
            let Some(due) = due.flatten().min().filter(|&due| due <= end) else {
                break;
            };
            self.now = self.now.max(due);
            for host in &mut self.hosts {
                host.switch.handle_timeout(&mut host.world, self.now);
                host.announcer.handle_timeout(self.now);
            }
            self.carry(&[]);
            self.tell();
        }
        self.now = end;
    }

    /// Carries what the switches have sent. Returns who got this frame.
    fn carry(&mut self, frame: &[u8]) -> Vec<u32> {
        let mut got = Vec::new();
        loop {
            let mut under_way = Vec::new();
            for (at, Host { switch, world, .. }) in self.hosts.iter_mut().enumerate() {
                switch.flush(world, self.now);
                while switch.run_ready(world, self.now) {}
                for (port, _, sent) in world.frames.drain(..) {
                    match port.remote_index() {
                        Some(to) => under_way.push((at, to as usize, sent)),
                        None if sent == frame => got.push(port.0),
                        None => {}
                    }
                }
            }
            if under_way.is_empty() {
                got.sort_unstable();
                return got;
            }
            for (from, to, sent) in under_way {
                let Host { switch, world, .. } = &mut self.hosts[to];
                let none = VnetHdr::default();
                switch.handle_frame(world, self.now, way(from), &none, &sent);
                self.crossed.push((from, to, sent));
            }
        }
    }

    /// Sends a frame of an endpoint. Returns who got it, and which hosts it was sent to.
    fn send(&mut self, end: u32, frame: &[u8]) -> (Vec<u32>, BTreeSet<usize>) {
        self.carry(&[]);
        self.crossed.clear();
        let Host { switch, world, .. } = &mut self.hosts[home(end)];
        switch.handle_frame(world, self.now, PortId(end), &VnetHdr::default(), frame);
        let got = self.carry(frame);
        let crossed = self.crossed.drain(..).filter(|c| c.2 == frame);
        (got, crossed.map(|c| c.1).collect())
    }

    /// Sends to a group.
    fn stream(&mut self, end: u32, group: &str) -> (Vec<u32>, BTreeSet<usize>) {
        self.send(end, &data(end, group))
    }

    fn says(&mut self, end: u32, kind: u8, group: &str) {
        self.send(end, &report(end, &[(kind, group.parse().unwrap())]));
        self.tell();
    }

    fn joins(&mut self, end: u32, group: &str) {
        self.says(end, 4, group);
    }

    fn leaves(&mut self, end: u32, group: &str) {
        self.says(end, 3, group);
    }
}

fn reached(ends: &[u32], hosts: &[usize]) -> (Vec<u32>, BTreeSet<usize>) {
    (ends.to_vec(), hosts.iter().copied().collect())
}

#[test]
fn a_stream_goes_to_hosts_with_a_member() {
    for group in [G4, G6] {
        let mut net = Net::settled(false);
        assert_eq!(net.stream(0, group), reached(&[], &[]), "nobody has joined");
        net.joins(2, group);
        assert_eq!(net.stream(0, group), reached(&[2], &[1]));
        assert_eq!(net.stream(3, group), reached(&[2], &[]), "its own host's");
        net.joins(5, group);
        net.joins(1, group);
        assert_eq!(net.stream(0, group), reached(&[1, 2, 5], &[1, 2]));
        net.leaves(2, group);
        net.pass(Duration::from_secs(3));
        assert_eq!(net.stream(0, group), reached(&[1, 5], &[2]), "it has left");
        net.pass(Duration::from_secs(100));
        net.joins(1, group);
        net.pass(Duration::from_secs(161));
        assert_eq!(
            net.stream(0, group),
            reached(&[1], &[]),
            "it is not heard of"
        );
        let other = if group == G4 {
            "239.1.2.4"
        } else {
            "ff15::1235"
        };
        assert_eq!(net.stream(0, other), reached(&[], &[]));
    }
}

#[test]
fn what_stays_on_the_link_goes_to_every_host() {
    let mut net = Net::settled(false);
    for group in ["224.0.0.251", "224.0.0.1", "ff02::1", "ff02::fb"] {
        let all = reached(&[1, 2, 3, 4, 5], &[1, 2]);
        assert_eq!(net.stream(0, group), all, "{group}");
    }
}

#[test]
fn who_has_not_said_what_it_wants_gets_all() {
    let mut net = Net::new(false);
    assert_eq!(
        net.stream(0, G4).1,
        reached(&[], &[1, 2]).1,
        "nobody was asked"
    );
    net.pass(Duration::from_secs(3));
    assert_eq!(net.stream(0, G4), reached(&[], &[]));
    // One that knows no groups.
    net.hosts[2].switch.set_snooping(None);
    net.tell();
    assert_eq!(net.stream(0, G4), reached(&[4, 5], &[2]));
    // One that is forgotten.
    let host = &mut net.hosts[0];
    host.announcer.lost(net.now, peer(1));
    net.pass(Duration::from_secs(20));
    assert_eq!(net.stream(0, G4), reached(&[4, 5], &[1, 2]));
    net.hosts[0].announcer.connected(net.now, peer(1));
    net.hosts[1].announcer.connected(net.now, peer(0));
    net.tell();
    assert_eq!(net.stream(0, G4), reached(&[4, 5], &[2]));
}

#[test]
fn who_comes_to_a_host_changes_nothing_for_the_others() {
    let mut net = Net::settled(false);
    let host = &mut net.hosts[1].switch;
    host.add_port(Port::new(PortId(9), mac(9), 1500, true), guest(9));
    net.tell();
    assert_eq!(net.stream(0, G4), reached(&[], &[]));
    net.pass(Duration::from_secs(1));
    assert_eq!(net.stream(0, G4), reached(&[], &[]));
    net.joins(9, G4);
    assert_eq!(net.stream(0, G4), reached(&[9], &[1]));
}

#[test]
fn a_host_with_a_router_gets_all_and_hears_who_joins() {
    let mut net = Net::settled(false);
    let query = foreign(4, [10, 0, 0, 6].into(), None);
    net.send(4, &query);
    net.tell();
    assert_eq!(
        net.stream(0, G4),
        reached(&[4], &[2]),
        "for the router alone"
    );
    assert_eq!(net.stream(0, G6), reached(&[], &[]), "which asks for IPv4");
    let says = report(2, &[(4, G4.parse().unwrap())]);
    assert_eq!(net.send(2, &says), reached(&[4], &[2]));
    net.tell();
    assert_eq!(net.stream(0, G4), reached(&[2, 4], &[1, 2]));
    assert_eq!(net.stream(5, G4), reached(&[2, 4], &[1]));
}

#[test]
fn a_node_that_says_nothing_gets_all_unless_everybody_is_asked() {
    let mut net = Net::settled(true);
    net.joins(2, G4);
    assert_eq!(net.stream(0, G4).1, reached(&[], &[1, 2]).1);
    // A router asks, and what answers is heard here.
    let query = foreign(1, [10, 0, 0, 1].into(), None);
    net.hosts[0].switch.config.gateway.v4 = Some(([10, 0, 0, 254].into(), 24));
    let asked = net.send(1, &query);
    assert_eq!(asked.1, reached(&[], &[1, 2]).1);
    let says = report(2, &[(4, G4.parse().unwrap())]);
    let none = VnetHdr::default();
    let Host { switch, world, .. } = &mut net.hosts[0];
    switch.handle_frame(world, net.now, way(1), &none, &says);
    assert_eq!(
        net.stream(0, G4).1,
        reached(&[], &[1]).1,
        "where it was heard"
    );
    // One that has more stations than are kept gets all.
    for n in 0..=255 {
        let group = [239, 9, 9, n].into();
        let Host { switch, world, .. } = &mut net.hosts[0];
        let says = report(4, &[(4, group)]);
        switch.handle_frame(world, net.now, way(2), &none, &says);
    }
    assert_eq!(net.stream(0, G4).1, reached(&[], &[1, 2]).1);
}
