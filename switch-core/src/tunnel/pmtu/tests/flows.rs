//! Flows between two hosts whose path shrinks, in virtual time: what is sealed is looked at as the program does it.

use super::*;
use crate::tunnel::seal::{KEY_LEN, SendKey, Suite};

/// IP, UDP.
const AROUND: usize = 28;

/// One direction of the path.
#[derive(Debug, Clone, Copy)]
struct Way {
    mtu: u16,
    loss: u8,
    /// Units: milliseconds. Each packet takes a time of its own between these, so that they overtake each other.
    takes: (u64, u64),
}

enum Packet {
    Flow,
    Probe(Probe),
    Ack(Probe),
}

/// A host: who sends, and what it knows of the way to the other.
struct Host {
    pmtu: PathMtu,
    key: SendKey,
    way: Way,
    stirred: bool,
    look: Tick,
    /// The next packet of its flow, the time between two, and their sizes at most.
    next: Tick,
    every: Duration,
    size: u16,
    probes: usize,
    falls: usize,
    /// When the last packet of the other's flow came, and the longest time without any.
    heard: Tick,
    gap: Duration,
}

impl Host {
    fn new(way: Way, now: Tick) -> Self {
        Self {
            pmtu: PathMtu::new(now, 1500),
            key: SendKey::new(Suite::ChaCha20Poly1305, &[7; KEY_LEN], 1).unwrap(),
            way,
            stirred: false,
            look: Tick::NEVER,
            next: Tick::NEVER,
            every: SECOND,
            size: 1500,
            probes: 0,
            falls: 0,
            heard: now,
            gap: Duration::ZERO,
        }
    }

    /// As the thread for peers does.
    fn look(&mut self, now: Tick) {
        let long = self.key.take_long();
        if long {
            self.pmtu.sent_large(now);
        }
        if long || (self.look == Tick::NEVER && self.stirred) {
            self.look = now + LOOK;
        } else if self.look <= now {
            self.look = Tick::NEVER;
            self.stirred = false;
        }
    }
}

struct World {
    hosts: [Host; 2],
    /// When, to whom.
    under_way: Vec<(Tick, usize, Packet)>,
    random: Random,
    now: Tick,
}

impl World {
    fn new(seed: u64, way: Way) -> Self {
        let now = ms(1 + seed % 977);
        let mut world = Self {
            hosts: [Host::new(way, now), Host::new(way, now)],
            under_way: Vec::new(),
            random: Random(seed),
            now,
        };
        world.run(SECOND * 5);
        world
    }

    /// Has both send so many packets of at most this size a second.
    fn flow(&mut self, per_second: u32, size: u16) {
        for host in &mut self.hosts {
            host.every = SECOND / per_second;
            host.next = self.now + Duration::from_micros(self.random.below(100_000));
            host.size = size;
        }
    }

    fn shrink(&mut self, mtu: u16) {
        for host in &mut self.hosts {
            host.way.mtu = mtu;
        }
        self.forget();
    }

    /// Counts anew from now on.
    fn forget(&mut self) {
        for host in &mut self.hosts {
            (host.probes, host.falls, host.gap) = (0, 0, Duration::ZERO);
            host.heard = self.now;
        }
    }

    fn send(&mut self, from: usize, size: u16, packet: Packet) {
        let way = self.hosts[from].way;
        if size <= way.mtu && !self.random.chance(way.loss) {
            let (least, most) = way.takes;
            let takes = least * 1000 + self.random.below((most - least) * 1000 + 1);
            let at = self.now + Duration::from_micros(takes);
            self.under_way.push((at, 1 - from, packet));
        }
    }

    fn act(&mut self, at: usize) {
        let now = self.now;
        let host = &mut self.hosts[at];
        let flows = host.next <= now;
        let size = host.size.min(host.pmtu.mtu());
        if flows {
            host.next = host.next + host.every;
            let _number = host.key.reserve(1, usize::from(size) - AROUND).unwrap();
            if host.key.has_long() && !host.stirred {
                host.stirred = true;
                host.look(now);
            }
        }
        if host.look <= now {
            host.look(now);
        }
        host.pmtu.handle_timeout(now);
        let probes: Vec<_> = std::iter::from_fn(|| host.pmtu.poll_transmit()).collect();
        host.probes += probes.len();
        let events = std::iter::from_fn(|| host.pmtu.poll_event());
        host.falls += events
            .filter(|e| matches!(e, MtuEvent::BlackHole(_)))
            .count();
        if flows {
            self.send(at, size, Packet::Flow);
        }
        for probe in probes {
            self.send(at, probe.size, Packet::Probe(probe));
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            (0..2).for_each(|at| self.act(at));
            let hosts = self.hosts.iter();
            let dues = hosts.flat_map(|h| [h.next, h.look, h.pmtu.poll_timeout()]);
            let next = dues.chain(self.under_way.iter().map(|p| p.0)).min();
            let next = next.unwrap().max(self.now);
            if next > end {
                break;
            }
            self.now = next;
            let (due, later) = self.under_way.drain(..).partition(|p| p.0 <= next);
            self.under_way = later;
            for (_, to, packet) in due {
                let host = &mut self.hosts[to];
                match packet {
                    Packet::Flow => {
                        host.gap = host.gap.max(next.since(host.heard));
                        host.heard = next;
                    }
                    Packet::Probe(probe) => self.send(to, 100, Packet::Ack(probe)),
                    Packet::Ack(probe) => host.pmtu.handle_ack(next, probe),
                }
            }
        }
        self.now = end;
        for host in &mut self.hosts {
            host.gap = host.gap.max(end.since(host.heard));
        }
    }
}

const LAN: Way = Way {
    mtu: 1500,
    loss: 0,
    takes: (1, 2),
};
const LOSSY: Way = Way {
    mtu: 1500,
    loss: 30,
    takes: (5, 40),
};

#[test]
fn a_flow_of_any_rate_resumes_within_a_second_of_a_silent_shrink() {
    for rate in [2, 5, 20, 60, 1000] {
        for mtu in [1499, 1400, 1300, 1280] {
            for seed in 0..10 {
                let mut world = World::new(seed, LAN);
                world.flow(rate, 1500);
                world.run(Duration::from_millis(3000 + 37 * seed));
                world.shrink(mtu);
                world.run(SECOND * 3);
                for host in &world.hosts {
                    assert!(host.falls == 1 && host.pmtu.mtu() <= mtu);
                    assert!(host.pmtu.mtu() + 4 > mtu, "{mtu}: {}", host.pmtu.mtu());
                    // The last that came, the wait for the next that is sent, and what it takes to know.
                    let known = Duration::from_millis(500) + SECOND / rate;
                    assert!(host.gap <= known, "{rate}/s to {mtu}: {:?}", host.gap);
                }
            }
        }
    }
}

#[test]
fn a_far_peer_and_a_very_narrow_path_take_little_longer() {
    let far = Way {
        takes: (48, 52),
        ..LAN
    };
    for (way, mtu, within) in [(far, 1400, 1200), (LAN, 1000, 900), (LAN, 600, 900)] {
        for seed in 0..10 {
            let mut world = World::new(seed, way);
            world.flow(10, 1500);
            world.run(Duration::from_millis(5000 + 37 * seed));
            world.shrink(mtu);
            world.run(SECOND * 10);
            for host in &world.hosts {
                assert!(host.gap <= Duration::from_millis(within), "{:?}", host.gap);
                assert!((mtu - 3..=mtu).contains(&host.pmtu.mtu()));
            }
        }
    }
}

#[test]
fn one_direction_that_shrinks_is_known_to_who_sends_that_way() {
    let mut world = World::new(1, LAN);
    world.flow(5, 1500);
    world.run(SECOND * 3);
    world.forget();
    world.hosts[0].way.mtu = 1400;
    world.run(SECOND * 3);
    let [a, b] = &world.hosts;
    assert_eq!((a.falls, b.falls, b.pmtu.mtu()), (1, 0, 1500));
    assert!(b.gap < Duration::from_millis(700), "{:?}", b.gap);
}

#[test]
fn a_path_that_has_shrunk_while_nothing_was_sent_is_known_with_the_first_that_is() {
    let mut world = World::new(3, LAN);
    world.shrink(1400);
    world.run(SECOND * 2);
    assert!(world.hosts.iter().all(|h| h.pmtu.mtu() == 1500));
    world.flow(5, 1500);
    world.forget();
    world.run(SECOND * 3);
    for host in &world.hosts {
        assert!(host.gap < Duration::from_millis(600), "{:?}", host.gap);
    }
}

#[test]
fn who_sends_nothing_long_asks_nothing() {
    let mut world = World::new(2, LAN);
    world.flow(200, LEAST - 20);
    world.forget();
    world.run(SECOND * 600);
    for host in &world.hosts {
        assert!(host.probes <= 20, "{} probes", host.probes);
        assert!(!host.stirred);
    }
    // One that sends asks a few times a second, however much it is.
    for rate in [5, 2000] {
        world.flow(rate, 1500);
        world.forget();
        world.run(SECOND * 20);
        for host in &world.hosts {
            assert!(host.probes <= 20 * 4 + 1, "{} probes", host.probes);
        }
    }
    world.hosts.iter_mut().for_each(|h| h.next = Tick::NEVER);
    world.run(SECOND);
    world.forget();
    world.run(SECOND * 600);
    assert!(world.hosts.iter().all(|h| h.probes <= 20));
}

#[test]
fn thirty_percent_loss_with_reordering_is_no_shrinking() {
    let (mut falls, mut low) = (0, 0);
    for seed in 0..20 {
        let mut world = World::new(seed, Way { loss: 0, ..LOSSY });
        world.flow(20, 1500);
        world.run(SECOND * 2);
        world.hosts.iter_mut().for_each(|h| h.way.loss = LOSSY.loss);
        for _ in 0..3000 {
            world.run(Duration::from_millis(100));
            low += world.hosts.iter().filter(|h| h.pmtu.mtu() < 1500).count();
        }
        falls += world.hosts.iter().map(|h| h.falls).sum::<usize>();
        // And it finds back.
        world.run(SECOND * 10);
        assert!(world.hosts.iter().all(|h| h.pmtu.mtu() == 1500));
    }
    // In 40 times five minutes: at the start, when all that is known is that nothing is ever lost.
    assert!(falls <= 8, "{falls} falls");
    // Units: tenths of a second.
    assert!(low <= 20 * falls, "{falls} falls, {low} below");
}

#[test]
fn a_path_that_loses_much_and_shrinks_is_known_in_time() {
    for seed in 0..20 {
        let mut world = World::new(seed, LOSSY);
        world.flow(20, 1500);
        world.run(SECOND * 20);
        world.shrink(1400);
        world.run(SECOND * 20);
        for host in &world.hosts {
            assert!(host.falls >= 1 && host.pmtu.mtu() <= 1400);
            assert!(host.gap < SECOND * 5, "{:?}", host.gap);
        }
    }
}

#[test]
fn a_path_that_was_narrow_for_a_moment_is_wide_again_soon() {
    let mut world = World::new(4, LAN);
    world.flow(20, 1500);
    world.run(SECOND * 2);
    world.shrink(1400);
    world.run(SECOND * 5);
    world.shrink(1500);
    world.run(SECOND * 8);
    assert!(world.hosts.iter().all(|h| h.pmtu.mtu() == 1500));
    // And the longer it was narrow, the later: asking costs something too.
    world.shrink(1400);
    world.run(SECOND * 1300);
    world.shrink(1500);
    world.run(SECOND * 601);
    assert!(world.hosts.iter().all(|h| h.pmtu.mtu() == 1500));
    assert!(world.hosts.iter().all(|h| h.falls == 0));
}

#[test]
fn a_path_that_shrinks_while_more_is_looked_for_is_known_too() {
    for after in (9_500..12_000).step_by(100) {
        let mut world = World::new(5, LAN);
        world.flow(20, 1500);
        world.run(SECOND * 2);
        world.shrink(1450);
        world.run(Duration::from_millis(after));
        world.shrink(1300);
        world.run(SECOND * 3);
        for host in &world.hosts {
            assert!(host.pmtu.mtu() <= 1300);
            assert!(host.gap < Duration::from_millis(900), "{:?}", host.gap);
        }
    }
}
