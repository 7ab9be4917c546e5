//! Hosts, and the network between them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use switch_core::addr::PeerId;
use switch_core::testing::Random;
use switch_core::time::Tick;
use switch_core::tunnel::seal::{
    self, CONTROL, Event, HEADER_LEN, HostSecret, NetworkSecret, Node, NodeConfig, OpenKey,
    PeerConfig, PublicKey, SendKey, Suite, TAG_LEN,
};

/// How long a NAT remembers whom a host behind it has called.
const NAT_MEMORY: Duration = Duration::from_secs(30);

/// Repeatable random bytes.
pub(crate) struct Bytes(pub(crate) Random);

impl seal::Random for Bytes {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.0.draw().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// What the network does to datagrams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    /// Percent that vanish.
    pub(crate) loss: u8,
    /// Percent that come twice.
    pub(crate) double: u8,
    /// The shortest way.
    pub(crate) delay: Duration,
    /// What may be added to it, so that later ones overtake.
    pub(crate) spread: Duration,
}

impl Link {
    pub(crate) const GOOD: Self = Self {
        loss: 0,
        double: 0,
        delay: Duration::from_millis(10),
        spread: Duration::ZERO,
    };
    pub(crate) const BAD: Self = Self {
        loss: 30,
        double: 10,
        delay: Duration::from_millis(10),
        spread: Duration::from_millis(40),
    };
}

/// One host: a node, and what its workers would hold.
pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) secret: HostSecret,
    pub(crate) addr: SocketAddr,
    pub(crate) nat: Option<BTreeMap<SocketAddr, Tick>>,
    pub(crate) open: BTreeMap<u32, (PeerId, Box<OpenKey>)>,
    pub(crate) send: BTreeMap<PeerId, (Arc<SendKey>, SocketAddr)>,
    /// Payloads that arrived, by who sent them.
    pub(crate) got: Vec<(PeerId, Vec<u8>)>,
    pub(crate) unreachable: Vec<PeerId>,
    pub(crate) introduced: Vec<(u32, PublicKey, SocketAddr)>,
    /// Sessions made, by either side's handshake.
    pub(crate) sessions: usize,
    /// Data that no key opened.
    pub(crate) unopened: usize,
    pub(crate) asleep: bool,
    /// What this host's clock differs from the world's.
    pub(crate) behind: Duration,
}

type Flight = Reverse<(Tick, u64, SocketAddr, SocketAddr, Vec<u8>)>;

pub(crate) struct World {
    pub(crate) now: Tick,
    pub(crate) hosts: Vec<Host>,
    pub(crate) link: Link,
    pub(crate) random: Random,
    flights: BinaryHeap<Flight>,
    count: u64,
    /// Every datagram that was sent: from, to, bytes.
    pub(crate) tape: Vec<(Tick, SocketAddr, SocketAddr, Vec<u8>)>,
    /// Addresses where datagrams vanish.
    pub(crate) holes: BTreeSet<SocketAddr>,
}

pub(crate) fn secret() -> NetworkSecret {
    NetworkSecret::new([42; 32])
}

pub(crate) fn addr(host: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, u8::try_from(host).unwrap() + 1], 7348))
}

/// The id under which every host knows host `n`.
pub(crate) fn id(n: usize) -> PeerId {
    PeerId(u32::try_from(n).unwrap())
}

pub(crate) const WALL: u64 = 1_700_000_000_000_000_000;

impl World {
    /// `hosts` hosts that know nobody.
    pub(crate) fn new(hosts: usize, link: Link, seed: u64) -> Self {
        let mut world = Self {
            now: Tick::from_millis(1_000),
            hosts: Vec::new(),
            link,
            random: Random(seed),
            flights: BinaryHeap::new(),
            count: 0,
            tape: Vec::new(),
            holes: BTreeSet::new(),
        };
        for n in 0..hosts {
            let mut bytes = Bytes(Random(seed ^ (n as u64 + 1) << 32));
            let secret = HostSecret::generate(&mut bytes);
            let host = world.boot(secret, addr(n), WALL, seed ^ n as u64);
            world.hosts.push(host);
        }
        world
    }

    /// Hosts that all know each other, with a keep-alive.
    pub(crate) fn mesh(hosts: usize, link: Link, seed: u64) -> Self {
        let mut world = Self::new(hosts, link, seed);
        for a in 0..hosts {
            for b in (0..hosts).filter(|&b| b != a) {
                world.introduce(a, b, Some(addr(b)), Some(Duration::from_secs(25)));
            }
        }
        world
    }

    fn boot(&self, secret: HostSecret, addr: SocketAddr, wall: u64, seed: u64) -> Host {
        let config = NodeConfig {
            secret: secret.clone(),
            suite: if seed.is_multiple_of(2) {
                Suite::Aes256Gcm
            } else {
                Suite::ChaCha20Poly1305
            },
            wall,
        };
        let node = Node::new(self.now, &config, Box::new(Bytes(Random(seed)))).unwrap();
        Host {
            node,
            secret,
            addr,
            nat: None,
            open: BTreeMap::new(),
            send: BTreeMap::new(),
            got: Vec::new(),
            unreachable: Vec::new(),
            introduced: Vec::new(),
            sessions: 0,
            unopened: 0,
            asleep: false,
            behind: Duration::ZERO,
        }
    }

    /// Ends the process of a host and starts it again, with its clock at `wall`. It knows nobody.
    pub(crate) fn restart(&mut self, n: usize, wall: u64) {
        let old = &self.hosts[n];
        let seed = self.now.as_nanos() ^ n as u64;
        let mut host = self.boot(old.secret.clone(), old.addr, wall, seed);
        host.nat = old.nat.clone();
        self.hosts[n] = host;
    }

    /// Tells `a` of `b`.
    pub(crate) fn introduce(
        &mut self,
        a: usize,
        b: usize,
        endpoint: Option<SocketAddr>,
        keepalive: Option<Duration>,
    ) {
        let config = PeerConfig {
            key: self.hosts[b].node.public(),
            secrets: vec![secret()],
            endpoint,
            keepalive,
        };
        let now = self.local(a);
        self.hosts[a].node.add_peer(now, id(b), &config).unwrap();
        self.settle(a);
    }

    /// The time by the clock of a host.
    pub(crate) fn local(&self, n: usize) -> Tick {
        let passed = self.now.since(Tick::ZERO + self.hosts[n].behind);
        Tick::ZERO + passed
    }

    /// Takes all that a node has to say.
    pub(crate) fn settle(&mut self, n: usize) {
        let host = &mut self.hosts[n];
        while let Some(event) = host.node.poll_event() {
            match event {
                Event::Receive { peer, key } => {
                    assert!(host.open.insert(key.index(), (peer, key)).is_none());
                    host.sessions += 1;
                }
                Event::Send { peer, key, to } => {
                    host.send.insert(peer, (key, to));
                }
                Event::Roamed { peer, to } => host.send.get_mut(&peer).unwrap().1 = to,
                Event::Closed { index, .. } => assert!(host.open.remove(&index).is_some()),
                Event::Mute { peer } => assert!(host.send.remove(&peer).is_some()),
                Event::Introduced { invite, key, from } => {
                    host.introduced.push((invite, key, from));
                }
                Event::Unreachable { peer } => host.unreachable.push(peer),
            }
        }
        let mut out = Vec::new();
        while let Some(to) = self.hosts[n].node.poll_transmit(&mut out) {
            self.send(n, to, out.clone());
        }
    }

    /// A host's datagram leaves.
    fn send(&mut self, n: usize, to: SocketAddr, bytes: Vec<u8>) {
        let now = self.now;
        let host = &mut self.hosts[n];
        if let Some(nat) = &mut host.nat {
            nat.insert(to, now);
        }
        let from = host.addr;
        self.tape.push((now, from, to, bytes.clone()));
        if self.random.chance(self.link.loss) {
            return;
        }
        self.inject(from, to, bytes.clone());
        if self.random.chance(self.link.double) {
            self.inject(from, to, bytes);
        }
    }

    /// A datagram is on its way, whoever sent it.
    pub(crate) fn inject(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let spread = u64::try_from(self.link.spread.as_nanos()).unwrap();
        let late = Duration::from_nanos(self.random.below(spread + 1));
        self.count += 1;
        let at = self.now + self.link.delay + late;
        self.flights
            .push(Reverse((at, self.count, from, to, bytes)));
    }

    /// Data from one host to another, as a worker sends it. False where there is no key.
    pub(crate) fn data(&mut self, from: usize, to: usize, payload: &[u8]) -> bool {
        let Some((key, at)) = self.hosts[from].send.get(&id(to)).cloned() else {
            return false;
        };
        let mut datagram = vec![0; HEADER_LEN];
        datagram.extend(payload);
        datagram.extend([0; TAG_LEN]);
        if key.seal(0, (0, 0), &mut datagram).is_err() {
            return false;
        }
        self.send(from, at, datagram);
        true
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, mut bytes: Vec<u8>) {
        let now = self.now;
        if self.holes.contains(&to) || self.holes.contains(&from) {
            return;
        }
        let Some(n) = self.hosts.iter().position(|host| host.addr == to) else {
            return;
        };
        let local = self.local(n);
        let host = &mut self.hosts[n];
        let passes = host.nat.as_ref().is_none_or(|nat| {
            nat.get(&from)
                .is_some_and(|&called| now.since(called) < NAT_MEMORY)
        });
        if host.asleep || !passes {
            return;
        }
        let key = seal::receiver(&bytes).and_then(|index| host.open.get_mut(&index));
        if let Some((peer, key)) = key {
            let peer = *peer;
            match key.open(&mut bytes, 0) {
                Ok(opened) => {
                    let index = key.index();
                    if opened.flags & CONTROL == 0 {
                        host.got.push((peer, bytes[..opened.len].to_vec()));
                    }
                    let known = host.send.get(&peer).map(|&(_, at)| at);
                    if opened.first || (opened.newest && known != Some(from)) {
                        host.node.heard(local, peer, index, from);
                    }
                }
                Err(_) => host.unopened += 1,
            }
        } else {
            host.node.handle_datagram(local, from, &bytes);
        }
        self.settle(n);
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let flight = self.flights.peek().map_or(Tick::NEVER, |f| f.0.0);
            let timer = self.next_timer();
            let next = flight.min(timer.map_or(Tick::NEVER, |(at, _)| at));
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            if flight <= next {
                if let Some(Reverse((_, _, from, to, bytes))) = self.flights.pop() {
                    self.deliver(from, to, bytes);
                }
            } else if let Some((_, n)) = timer {
                let local = self.local(n);
                self.hosts[n].node.handle_timeout(local);
                self.settle(n);
            }
        }
    }

    fn next_timer(&self) -> Option<(Tick, usize)> {
        let hosts = self
            .hosts
            .iter()
            .enumerate()
            .filter(|(_, host)| !host.asleep);
        hosts
            .filter_map(|(n, host)| Some((host.node.poll_timeout()? + host.behind, n)))
            .min()
    }

    /// Lets time pass until `done`, at most `time`; says how long it took.
    pub(crate) fn until(
        &mut self,
        time: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Option<Duration> {
        let begin = self.now;
        while self.now.since(begin) < time {
            if done(self) {
                return Some(self.now.since(begin));
            }
            self.run(Duration::from_millis(1));
        }
        done(self).then(|| self.now.since(begin))
    }

    /// Both send every 20 ms: how long until each has heard the other.
    pub(crate) fn resume(&mut self, a: usize, b: usize, limit: Duration) -> Option<Duration> {
        let begin = self.now;
        let (before_a, before_b) = (self.hosts[a].got.len(), self.hosts[b].got.len());
        while self.now.since(begin) < limit {
            self.data(a, b, b"to b");
            self.data(b, a, b"to a");
            self.run(Duration::from_millis(20));
            let heard = |n: usize, from: usize, before: usize| {
                let mut got = self.hosts[n].got[before..].iter();
                got.any(|(peer, _)| *peer == id(from))
            };
            if heard(a, b, before_a) && heard(b, a, before_b) {
                return Some(self.now.since(begin));
            }
        }
        None
    }

    /// Whether both can send to each other.
    pub(crate) fn joined(&self, a: usize, b: usize) -> bool {
        self.hosts[a].send.contains_key(&id(b)) && self.hosts[b].send.contains_key(&id(a))
    }

    /// How many datagrams of a type were sent.
    pub(crate) fn sent(&self, kind: u8) -> usize {
        let of_kind = |flight: &&(_, _, _, Vec<u8>)| flight.3.first() == Some(&kind);
        self.tape.iter().filter(of_kind).count()
    }
}
