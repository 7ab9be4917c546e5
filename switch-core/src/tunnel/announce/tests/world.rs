//! Hosts that announce to each other over links that lose, delay and reorder, in virtual time. Beside each stands a
//! plain map of what its events have told.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::super::*;
use crate::testing::Random;
use crate::tunnel::control::prefix::{Prefix, Range};

pub(super) fn vni(n: u32) -> Vni {
    Vni::new(n).unwrap()
}

pub(super) fn mac(n: u32) -> Mac {
    let [a, b, c, d] = n.to_be_bytes();
    Mac([2, 0, a, b, c, d])
}

pub(super) fn prefix(text: &str) -> Prefix {
    let (addr, bits) = text.split_once('/').unwrap();
    Prefix::new(addr.parse().unwrap(), bits.parse().unwrap()).unwrap()
}

/// An endpoint with a MAC, an address and a name of its number.
pub(super) fn endpoint(net: u32, n: u32) -> Announced {
    let [_, _, c, d] = n.to_be_bytes();
    Announced {
        vni: vni(net),
        mac: mac(n),
        addrs: [IpAddr::from([10, 1, c, d])].into_iter().collect(),
        names: [format!("e{n}").into()].into(),
    }
}

/// Written `first-last`.
pub(super) fn range(text: &str) -> Range {
    let (first, last) = text.split_once('-').unwrap();
    Range::new(first.parse().unwrap(), last.parse().unwrap()).unwrap()
}

pub(super) fn network(net: u32, name: &str, ranges: &[&str]) -> Network {
    Network {
        vni: vni(net),
        name: name.into(),
        ranges: ranges.iter().map(|r| range(r)).collect(),
    }
}

/// Rules for these networks, with every address of 10.0.0.0/8 and fd00::/8.
pub(super) fn rules(nets: &[u32]) -> Rules {
    let allowed = |&n: &u32| Allowed {
        vni: vni(n),
        prefixes: vec![prefix("10.0.0.0/8"), prefix("fd00::/8")],
        except: Vec::new(),
    };
    Rules {
        networks: nets.iter().map(allowed).collect(),
        endpoints: 100_000,
    }
}

/// What a host's events have told of endpoints elsewhere.
pub(super) type View = BTreeMap<(Vni, Mac), (PeerId, Announced)>;

pub(super) struct Host {
    pub(super) announcer: Announcer,
    pub(super) view: View,
    pub(super) own: BTreeMap<(Vni, Mac), Announced>,
    /// Every event but those of endpoints.
    pub(super) told: Vec<Event>,
    /// How many endpoints came up and went down.
    pub(super) ups: usize,
    pub(super) downs: usize,
}

struct Packet {
    from: usize,
    to: usize,
    bytes: Vec<u8>,
}

pub(super) struct World {
    pub(super) hosts: Vec<Host>,
    pub(super) now: Tick,
    pub(super) random: Random,
    pub(super) loss: u8,
    /// A message takes up to this long.
    pub(super) delay: Duration,
    pub(super) sent: usize,
    pub(super) bytes: usize,
    limits: Limits,
    wire: BTreeMap<(Tick, u64), Packet>,
    number: u64,
    cut: BTreeSet<(usize, usize)>,
}

impl World {
    pub(super) fn new(hosts: usize, seed: u64, loss: u8) -> Self {
        Self::with(hosts, seed, loss, Limits::default(), &rules(&[1, 2]))
    }

    /// Every host knows every other with the same rules, and is connected.
    pub(super) fn with(hosts: usize, seed: u64, loss: u8, limits: Limits, rules: &Rules) -> Self {
        let mut world = Self {
            hosts: Vec::new(),
            now: Tick::from_millis(1),
            random: Random(seed),
            loss,
            delay: Duration::from_millis(20),
            sent: 0,
            bytes: 0,
            limits,
            wire: BTreeMap::new(),
            number: 0,
            cut: BTreeSet::new(),
        };
        for at in 0..hosts {
            let host = world.start(at);
            world.hosts.push(host);
        }
        for at in 0..hosts {
            for other in (0..hosts).filter(|&other| other != at) {
                let announcer = &mut world.hosts[at].announcer;
                announcer.set_peer(world.now, id(other), rules.clone());
                announcer.connected(world.now, id(other));
            }
        }
        world
    }

    fn start(&mut self, at: usize) -> Host {
        let start = self.random.draw();
        Host {
            announcer: Announcer::new(&format!("host{at}"), start, self.limits).unwrap(),
            view: View::new(),
            own: BTreeMap::new(),
            told: Vec::new(),
            ups: 0,
            downs: 0,
        }
    }

    pub(super) fn join(&mut self, at: usize, endpoint: &Announced) {
        let host = &mut self.hosts[at];
        host.announcer.join(self.now, endpoint).unwrap();
        host.own
            .insert((endpoint.vni, endpoint.mac), endpoint.clone());
        self.settle(at);
    }

    pub(super) fn leave(&mut self, at: usize, vni: Vni, mac: Mac) {
        let host = &mut self.hosts[at];
        host.announcer.leave(self.now, vni, mac);
        host.own.remove(&(vni, mac));
        self.settle(at);
    }

    /// The host dies and starts again, with no endpoint. Its peers see a new session.
    pub(super) fn restart(&mut self, at: usize, rules: &Rules) {
        self.hosts[at] = self.start(at);
        for other in (0..self.hosts.len()).filter(|&other| other != at) {
            self.hosts[at]
                .announcer
                .set_peer(self.now, id(other), rules.clone());
            if !self.cut.contains(&(at.min(other), at.max(other))) {
                self.connect(at, other);
            }
        }
    }

    /// The host dies and starts again, and its peers notice nothing of it.
    pub(super) fn restart_unseen(&mut self, at: usize, rules: &Rules) {
        self.hosts[at] = self.start(at);
        for other in (0..self.hosts.len()).filter(|&other| other != at) {
            let announcer = &mut self.hosts[at].announcer;
            announcer.set_peer(self.now, id(other), rules.clone());
            announcer.connected(self.now, id(other));
        }
        self.settle(at);
    }

    pub(super) fn connect(&mut self, a: usize, b: usize) {
        self.cut.remove(&(a.min(b), a.max(b)));
        self.hosts[a].announcer.connected(self.now, id(b));
        self.hosts[b].announcer.connected(self.now, id(a));
        self.settle(a);
        self.settle(b);
    }

    /// Nothing passes between two hosts, and both notice.
    pub(super) fn part(&mut self, a: usize, b: usize) {
        self.cut.insert((a.min(b), a.max(b)));
        self.hosts[a].announcer.lost(self.now, id(b));
        self.hosts[b].announcer.lost(self.now, id(a));
    }

    /// Nothing passes between two hosts, and nobody notices.
    pub(super) fn silence(&mut self, a: usize, b: usize) {
        self.cut.insert((a.min(b), a.max(b)));
    }

    /// Sends what a host has to say, and takes its events.
    pub(super) fn settle(&mut self, at: usize) {
        let mut out = Vec::new();
        while let Some(to) = self.hosts[at].announcer.poll_transmit(self.now, &mut out) {
            self.send(at, to.0 as usize, &out);
        }
        while let Some(event) = self.hosts[at].announcer.poll_event() {
            self.hosts[at].take(event);
        }
    }

    fn send(&mut self, from: usize, to: usize, bytes: &[u8]) {
        assert!(bytes.len() <= crate::tunnel::control::MAX_ANNOUNCE);
        self.sent += 1;
        self.bytes += bytes.len();
        let passes = !self.cut.contains(&(from.min(to), from.max(to)));
        if !passes || self.random.chance(self.loss) {
            return;
        }
        // Some come twice.
        for _ in 0..if self.random.chance(self.loss / 4) {
            2
        } else {
            1
        } {
            let most = u64::try_from(self.delay.as_nanos()).unwrap();
            let takes = Duration::from_nanos(most / 10 + self.random.below(most.max(1)));
            self.number += 1;
            let packet = Packet {
                from,
                to,
                bytes: bytes.to_vec(),
            };
            self.wire.insert((self.now + takes, self.number), packet);
        }
    }

    /// Gives a host a message as from another.
    pub(super) fn deliver(&mut self, to: usize, from: usize, bytes: &[u8]) {
        let message = Message::parse(bytes).unwrap();
        let host = &mut self.hosts[to].announcer;
        assert!(host.handle_message(self.now, id(from), &message));
        self.settle(to);
    }

    /// Lets so much time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for at in 0..self.hosts.len() {
            self.settle(at);
        }
        loop {
            let timers = self.hosts.iter().enumerate();
            let timer = timers
                .filter_map(|(at, h)| Some((h.announcer.poll_timeout()?, at)))
                .min();
            let wire = self.wire.first_key_value().map(|(&(at, _), _)| at);
            let next = [timer.map(|t| t.0), wire].into_iter().flatten().min();
            let Some(next) = next.filter(|&next| next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if wire == Some(next) {
                let (_, packet) = self.wire.pop_first().unwrap();
                let cut = (packet.from.min(packet.to), packet.from.max(packet.to));
                if !self.cut.contains(&cut) {
                    self.deliver(packet.to, packet.from, &packet.bytes);
                }
            } else if let Some((_, at)) = timer {
                self.hosts[at].announcer.handle_timeout(self.now);
                self.settle(at);
            }
        }
        self.now = end;
    }

    pub(super) fn seconds(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    /// Every host knows just the endpoints of all others.
    #[track_caller]
    pub(super) fn agree(&self) {
        for (at, host) in self.hosts.iter().enumerate() {
            let mut expected = View::new();
            for (other, theirs) in self.hosts.iter().enumerate().filter(|&(o, _)| o != at) {
                for (&key, endpoint) in &theirs.own {
                    expected.insert(key, (id(other), endpoint.clone()));
                }
            }
            assert_eq!(host.view, expected, "as host {at} sees it");
            host.agrees_with_itself();
        }
    }
}

pub(super) fn id(at: usize) -> PeerId {
    PeerId(u32::try_from(at).unwrap())
}

impl Host {
    fn take(&mut self, event: Event) {
        match event {
            Event::Up { peer, endpoint } => {
                self.ups += 1;
                let old = self
                    .view
                    .insert((endpoint.vni, endpoint.mac), (peer, endpoint));
                assert_eq!(old, None, "it was there already");
            }
            Event::Changed { peer, endpoint } => {
                let old = self
                    .view
                    .insert((endpoint.vni, endpoint.mac), (peer, endpoint));
                assert_eq!(
                    old.map(|o| o.0),
                    Some(peer),
                    "it was there, with the same peer"
                );
            }
            Event::Down { peer, vni, mac } => {
                self.downs += 1;
                let old = self.view.remove(&(vni, mac));
                assert_eq!(old.map(|o| o.0), Some(peer), "it was there");
            }
            Event::NetworkUp { .. }
            | Event::NetworkDown { .. }
            | Event::Host { .. }
            | Event::Wants { .. }
            | Event::Complete { .. }
            | Event::Conflict { .. }
            | Event::Refused { .. }
            | Event::Overlap { .. }
            | Event::OtherNetwork { .. }
            | Event::SameName { .. } => self.told.push(event),
        }
    }

    /// What the events have told is what the table says, and no address is twice.
    #[track_caller]
    pub(super) fn agrees_with_itself(&self) {
        let mut addrs = BTreeSet::new();
        let own = self.own.values().map(|e| (Holder::Local, e));
        let theirs = self.view.values().map(|(p, e)| (Holder::Peer(*p), e));
        for (holder, endpoint) in own.chain(theirs) {
            let found = Some((holder, endpoint.clone()));
            assert_eq!(self.announcer.by_mac(endpoint.vni, endpoint.mac), found);
            for &addr in &endpoint.addrs {
                assert!(addrs.insert((endpoint.vni, addr)), "{addr} is there twice");
                assert_eq!(self.announcer.by_addr(endpoint.vni, addr), found);
            }
        }
        let (all, waiting) = self.announcer.count();
        assert_eq!(all - waiting, self.own.len() + self.view.len());
    }

    pub(super) fn has(&self, vni: Vni, mac: Mac) -> Option<PeerId> {
        self.view.get(&(vni, mac)).map(|(peer, _)| *peer)
    }
}
