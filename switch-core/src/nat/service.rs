//! Stage 6: Services: virtual addresses, their ports, and the backends behind them with their health.
//!
//! A backend that resets what a client opens, or leaves several clients' openings without an answer, is passed over
//! for some seconds. Health is common to the workers and outlives changes; where none is healthy, all are tried.

use core::net::IpAddr;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::choice::{Choice, mix};
use crate::addr::{Mac, PortId};
use crate::conntrack::tuple::Tuple;
use crate::sync::facade::{AtomicU64, Ordering};

/// How long a backend that fails is passed over, in seconds.
const OUT: u32 = 10;
/// Openings in a row that stay without an answer until it counts as failing.
const MISSES: u64 = 3;
/// Hashes tried until every backend is looked at in turn.
const TRIES: u64 = 8;

/// How the MACs of services begin: administered locally, and as none that is drawn for an endpoint.
const STATION: [u8; 2] = [0x0a, 0x53];

/// The MAC at which other hosts reach a service with these virtual addresses: made of the first of them, which no other
/// has. Here it is the gateway's.
#[must_use]
pub fn station(addrs: &[IpAddr]) -> Option<Mac> {
    let [a, b] = STATION;
    let [c, d, e, f] = match addrs.first()? {
        IpAddr::V4(addr) => addr.octets(),
        IpAddr::V6(addr) => {
            let [.., c, d, e, f] = addr.octets();
            [c, d, e, f]
        }
    };
    Some(Mac([a, b, c, d, e, f]))
}

/// True for a MAC that only services have.
fn is_made_up(mac: Mac) -> bool {
    mac.0.starts_with(&STATION)
}

/// A port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Face {
    /// The protocol.
    pub proto: u8,
    /// At the virtual address.
    pub port: u16,
    /// At the backends.
    pub target: u16,
}

/// One that serves, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where it is.
    pub port: PortId,
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses.
    pub addrs: Vec<IpAddr>,
}

/// A service, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConfig {
    /// Its virtual addresses.
    pub addrs: Vec<IpAddr>,
    /// Its ports.
    pub faces: Vec<Face>,
    /// Who serves.
    pub servers: Vec<Server>,
}

/// Until when a backend is passed over, in seconds, and how many openings in a row it has missed.
#[derive(Debug, Default)]
struct Health(AtomicU64);

impl Health {
    fn is_good(&self, now: u32) -> bool {
        self.0.load(Ordering::Relaxed) >> 32 <= u64::from(now)
    }

    fn fails(&self, now: u32) {
        let until = u64::from(now.saturating_add(OUT));
        self.0.store(until << 32, Ordering::Relaxed);
    }

    fn misses(&self, now: u32) {
        // A count that another worker overwrites is one opening more until it shows.
        let word = self.0.load(Ordering::Relaxed);
        if word & 0xffff_ffff >= MISSES - 1 {
            self.fails(now);
        } else {
            self.0.store(word + 1, Ordering::Relaxed);
        }
    }

    fn answers(&self) {
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }
}

/// A backend of one family.
#[derive(Debug, Clone)]
struct Backend {
    addr: IpAddr,
    port: PortId,
    mac: Mac,
    health: Arc<Health>,
}

/// What a conversation is led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// The backend's address.
    pub addr: IpAddr,
    /// Its port.
    pub target: u16,
    /// Where it is.
    pub port: PortId,
    /// Its MAC.
    pub mac: Mac,
}

/// Where an endpoint is, and its MAC.
pub type Seat = (PortId, Mac);

impl Backend {
    /// True if who is there is this one, or beside it behind the same port of this host.
    fn is_at(&self, (port, mac): Seat) -> bool {
        self.port == port && (port.remote_index().is_none() || self.mac == mac)
    }
}

/// The backends behind one virtual address.
#[derive(Debug)]
struct Pool {
    station: Option<Mac>,
    backends: Vec<Backend>,
    choice: Choice,
}

/// The services of a network, ready to be asked.
#[derive(Debug, Default)]
pub struct Services {
    pools: HashMap<IpAddr, Pool>,
    faces: HashMap<(IpAddr, u8, u16), u16>,
    stations: HashSet<Mac>,
}

impl Services {
    /// Prepares services. What `before` knows of backends' health is kept.
    #[must_use]
    pub fn new(list: &[ServiceConfig], before: Option<&Self>) -> Self {
        let mut services = Self::default();
        for service in list {
            let station = station(&service.addrs);
            services.stations.extend(station);
            for &addr in &service.addrs {
                for face in &service.faces {
                    let key = (addr, face.proto, face.port);
                    services.faces.insert(key, face.target);
                }
                let old = before.and_then(|b| b.pools.get(&addr));
                let pool = Pool::new((addr, station), &service.servers, old);
                services.pools.insert(addr, pool);
            }
        }
        services
    }

    /// The virtual addresses.
    pub fn addrs(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.pools.keys().copied()
    }

    /// True for a virtual address.
    #[must_use]
    pub fn owns(&self, addr: IpAddr) -> bool {
        self.pools.contains_key(&addr)
    }

    /// The MAC at which other hosts reach a virtual address.
    #[must_use]
    pub fn station(&self, addr: IpAddr) -> Option<Mac> {
        self.pools.get(&addr)?.station
    }

    /// True for the MAC at which other hosts reach a service.
    #[must_use]
    pub fn is_station(&self, mac: Mac) -> bool {
        is_made_up(mac) && self.stations.contains(&mac)
    }

    /// The backends' port behind a port of a virtual address; `None` if the service has no such port.
    #[must_use]
    pub fn target(&self, addr: IpAddr, proto: u8, port: u16) -> Option<u16> {
        self.faces.get(&(addr, proto, port)).copied()
    }

    /// Chooses the backend of a conversation with a virtual address: by its tuple, among the healthy ones, and
    /// `not` one only where there is no other. Units: `now` in seconds. Cost: constant while most are healthy.
    #[must_use]
    pub fn choose(&self, tuple: &Tuple, not: Option<Seat>, now: u32) -> Option<Chosen> {
        let target = self.target(tuple.dst, tuple.proto, tuple.ports.1)?;
        let pool = self.pools.get(&tuple.dst)?;
        let hash = tuple
            .words()
            .into_iter()
            .fold(0, |hash, word| mix(hash ^ word));
        let at = |n: u64| {
            let place = pool
                .choice
                .pick(if n == 0 { hash } else { mix(hash ^ n) })?;
            pool.backends.get(usize::from(place))
        };
        let other = |b: &&Backend| not.is_none_or(|not| !b.is_at(not));
        let good = |b: &&Backend| other(b) && b.health.is_good(now);
        let tried = (0..TRIES).filter_map(at).find(good);
        let any = || pool.backends.iter().find(good);
        let another = || pool.backends.iter().find(other);
        let found = tried.or_else(any).or_else(|| at(0).filter(other));
        let found = found.or_else(another).or_else(|| at(0))?;
        Some(Chosen {
            addr: found.addr,
            target,
            port: found.port,
            mac: found.mac,
        })
    }

    fn health(&self, service: IpAddr, backend: Seat) -> Option<&Health> {
        let mut backends = self.pools.get(&service)?.backends.iter();
        backends.find(|b| b.is_at(backend)).map(|b| &*b.health)
    }

    /// A backend has refused a conversation. Units: `now` in seconds.
    pub fn fails(&self, service: IpAddr, backend: Seat, now: u32) {
        if let Some(health) = self.health(service, backend) {
            health.fails(now);
        }
    }

    /// A backend has left an opening without an answer. Units: `now` in seconds.
    pub fn misses(&self, service: IpAddr, backend: Seat, now: u32) {
        if let Some(health) = self.health(service, backend) {
            health.misses(now);
        }
    }

    /// A backend has answered.
    pub fn answers(&self, service: IpAddr, backend: Seat) {
        if let Some(health) = self.health(service, backend) {
            health.answers();
        }
    }
}

impl Pool {
    fn new(
        (service, station): (IpAddr, Option<Mac>),
        servers: &[Server],
        old: Option<&Self>,
    ) -> Self {
        let family = |a: &&IpAddr| a.is_ipv4() == service.is_ipv4();
        // No service serves another one: two that did so for each other would never have done with a packet.
        let servers = servers.iter().filter(|s| !is_made_up(s.mac));
        let with_address = servers.filter_map(|s| Some((s, *s.addrs.iter().find(family)?)));
        let backends: Vec<Backend> = with_address
            .take(usize::from(u16::MAX))
            .map(|(server, addr)| {
                let known = old.and_then(|o| {
                    let mut backends = o.backends.iter();
                    backends.find(|b| (b.port, b.mac) == (server.port, server.mac))
                });
                Backend {
                    addr,
                    port: server.port,
                    mac: server.mac,
                    health: known.map(|b| Arc::clone(&b.health)).unwrap_or_default(),
                }
            })
            .collect();
        let identities: Vec<_> = backends.iter().map(|b| b.mac.to_u64()).zip(0..).collect();
        Self {
            station,
            choice: Choice::new(&identities),
            backends,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::NetworkId;
    use crate::wire::packet::PROTO_TCP;

    fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    fn config(servers: core::ops::Range<u8>) -> ServiceConfig {
        let server = |n: u8| Server {
            port: PortId(n.into()),
            mac: mac(n),
            addrs: vec![IpAddr::from([10, 0, 0, n])],
        };
        ServiceConfig {
            addrs: vec![IpAddr::from([10, 0, 0, 200]), "fd00::200".parse().unwrap()],
            faces: vec![Face {
                proto: PROTO_TCP,
                port: 80,
                target: 8080,
            }],
            servers: servers.map(server).collect(),
        }
    }

    fn tuple(from: u16, to: u16) -> Tuple {
        Tuple {
            net: NetworkId(0),
            proto: PROTO_TCP,
            piece: false,
            src: IpAddr::from([10, 0, 0, 2]),
            dst: IpAddr::from([10, 0, 0, 200]),
            ports: (from, to),
        }
    }

    #[test]
    fn who_fails_is_passed_over_for_a_while() {
        let services = Services::new(&[config(3..6)], None);
        let at = |from, now| services.choose(&tuple(from, 80), None, now).unwrap();
        let home = at(4000, 100);
        assert_eq!((home.target, home), (8080, at(4000, 200)));
        let vip = IpAddr::from([10, 0, 0, 200]);
        let seat = (home.port, home.mac);
        services.fails(vip, seat, 100);
        assert!((0..500).all(|from| at(from, 109).port != home.port));
        assert_eq!(at(4000, 110), home);
        services.misses(vip, seat, 120);
        services.misses(vip, seat, 120);
        assert_eq!(at(4000, 120), home);
        services.answers(vip, seat);
        (0..3).for_each(|_| services.misses(vip, seat, 120));
        assert_ne!(at(4000, 120), home);
        // Health outlives a change, and all are tried where none is healthy.
        let changed = Services::new(&[config(3..7)], Some(&services));
        assert!(
            (0..500).all(|f| changed.choose(&tuple(f, 80), None, 121).unwrap().port != home.port)
        );
        (3..6).for_each(|n| services.fails(vip, (PortId(n.into()), mac(n)), 120));
        assert_eq!(at(4000, 121), home);
    }

    #[test]
    fn no_service_serves_another() {
        let mut service = config(3..4);
        let other = Server {
            port: PortId::remote(0),
            mac: station(&[IpAddr::from([10, 0, 1, 200])]).unwrap(),
            addrs: vec![IpAddr::from([10, 0, 1, 200])],
        };
        service.servers.push(other.clone());
        let services = Services::new(&[service.clone()], None);
        let all = (0..100).map(|from| services.choose(&tuple(from, 80), None, 0).unwrap());
        assert!(all.into_iter().all(|chosen| chosen.mac == mac(3)));
        service.servers = vec![other];
        let services = Services::new(&[service], None);
        assert_eq!(services.choose(&tuple(1, 80), None, 0), None);
    }

    #[test]
    fn what_is_not_served_has_no_backend() {
        let services = Services::new(&[config(3..4)], None);
        assert_eq!(services.choose(&tuple(1, 81), None, 0), None);
        let six = Tuple {
            src: "fd00::2".parse().unwrap(),
            dst: "fd00::200".parse().unwrap(),
            ..tuple(1, 80)
        };
        assert!(services.owns(six.dst));
        assert_eq!(
            services.choose(&six, None, 0),
            None,
            "none has such an address"
        );
        let only = services.choose(&tuple(1, 80), Some((PortId(3), mac(3))), 0);
        assert_eq!(only.unwrap().port, PortId(3), "better than nothing");
    }
}
