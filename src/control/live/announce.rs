//! What this host tells its peers of networks and endpoints, by way of the thread that keeps sessions; and its news.

use std::net::{IpAddr, Ipv4Addr};

use arrayvec::ArrayVec;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use switch_core::addr::{PeerId as PeerNumber, Vni};
use switch_core::nat::service::station;
use switch_core::tunnel::announce::Allowed;
use switch_core::tunnel::control::prefix::{self, Range};
use switch_core::tunnel::control::record::{Announced, Network};

use super::LivePlane;
use super::peer::overlay;
use crate::cluster::{Cluster, Command, News, Overlay, Start};
use crate::config::way;
use crate::control::ids::{EndpointId, PeerId};
use crate::control::key::PublicKey;
use crate::control::plane::{PlaneError, PlaneEvent};
use crate::control::spec::{
    Carrier, EndpointSpec, NameOwner, NameRecord, NetworkSpec, OverlaySpec, Prefix,
};

impl LivePlane {
    /// The thread that keeps sessions, started where it is not there yet.
    /// Errors: `Refused` without a key, or without descriptors.
    pub(super) fn cluster(&mut self) -> Result<&Cluster, PlaneError> {
        if self.cluster.is_none() {
            let refused = |message: String| PlaneError::Refused {
                message,
                errno: None,
            };
            let secret = self.secret;
            let secret = secret.ok_or_else(|| refused("the host has no key".to_owned()))?;
            let host = nix::unistd::gethostname().unwrap_or_default();
            let cluster = Cluster::start(Start {
                begun: self.start,
                workers: self.hands.iter().map(|h| h.signals.clone()).collect(),
                slow: self.slow.clone(),
                secret,
                host: host.to_string_lossy().into_owned(),
                link_mtu: way::underlay(&[]).mtu,
            });
            let cluster = cluster.map_err(|e| refused(format!("the thread for peers: {e}")))?;
            let readable = EpollEvent::new(EpollFlags::EPOLLIN, 0);
            let polled = self.sources.add(cluster.fd(), readable);
            polled.map_err(|e| refused(format!("watching the thread for peers: {e}")))?;
            self.cluster = Some(cluster);
        }
        let gone = || PlaneError::Ended("the thread for peers".to_owned());
        self.cluster.as_ref().ok_or_else(gone)
    }

    /// Tells of a network that is sealed.
    pub(super) fn announce_network(&self, spec: &NetworkSpec) {
        let (Some(cluster), Some((overlay, vni))) = (&self.cluster, sealed(spec)) else {
            return;
        };
        let Some(net) = self.nets.get(&spec.id) else {
            return;
        };
        let network = Network {
            vni,
            name: spec.name.to_ascii_lowercase().into(),
            ranges: own_ranges(overlay),
        };
        cluster.tell(Command::SetNetwork(Overlay {
            slot: net.slot,
            mtu: spec.mtu,
            network,
        }));
    }

    pub(super) fn retract_network(&self, overlay: Option<OverlaySpec>) {
        let vni = overlay.filter(|o| o.carrier == Carrier::Sealed);
        if let (Some(cluster), Some(vni)) = (&self.cluster, vni.and_then(|o| Vni::new(o.vni))) {
            cluster.tell(Command::RemoveNetwork(vni));
        }
    }

    /// Tells of an endpoint that is on a sealed network, as it is now. One that is on other VLANs only is told of without
    /// addresses, for nobody answers for those elsewhere; so that what it sends is taken, its MAC must be known.
    pub(super) fn tell_peers(&self, id: EndpointId) {
        let (Some(cluster), Some(end)) = (&self.cluster, self.ends.get(&id)) else {
            return;
        };
        let meets = end.spec.vlan.meets_gateway();
        let Some(net) = self.nets.get(&end.spec.network) else {
            return;
        };
        let Some((_, vni)) = sealed(&net.spec) else {
            return;
        };
        let record = self.names.get(&end.spec.network);
        let record = record.and_then(|names| names.get(&NameOwner::Endpoint(id)));
        let names = record.map_or(&[][..], |r| r.names.as_slice());
        let addrs = end.spec.v4.map(IpAddr::V4).into_iter();
        let addrs = addrs.chain(end.spec.v6.map(IpAddr::V6));
        cluster.tell(Command::Join(Announced {
            vni,
            mac: end.spec.mac,
            addrs: addrs.filter(|_| meets).collect(),
            names: lower(names),
        }));
    }

    /// Tells of the names and addresses of a service that is on a sealed network, as they were and as they are now.
    pub(super) fn tell_of_service(&self, was: Option<&NameRecord>, is: Option<&NameRecord>) {
        let network = was.or(is).and_then(|record| self.nets.get(&record.network));
        let vni = network.and_then(|net| sealed(&net.spec));
        let (Some(cluster), Some((_, vni))) = (&self.cluster, vni) else {
            return;
        };
        let mac = |record: Option<&NameRecord>| station(&record?.addrs);
        let (before, now) = (mac(was), mac(is));
        if let Some(mac) = before.filter(|_| before != now) {
            cluster.tell(Command::Leave(vni, mac));
        }
        if let (Some(record), Some(mac)) = (is, now) {
            cluster.tell(Command::Join(Announced {
                vni,
                mac,
                addrs: record.addrs.iter().copied().collect(),
                names: lower(&record.names),
            }));
        }
    }

    /// Takes an endpoint back.
    pub(super) fn retract(&self, spec: &EndpointSpec) {
        let net = self.nets.get(&spec.network);
        let vni = net.and_then(|net| sealed(&net.spec));
        if let (Some(cluster), Some((_, vni))) = (&self.cluster, vni) {
            cluster.tell(Command::Leave(vni, spec.mac));
        }
    }

    /// Takes what the thread tells.
    pub(super) fn hear_cluster(&mut self) {
        let mut told = Vec::new();
        while let Some(news) = self.cluster.as_ref().and_then(Cluster::next) {
            match news {
                News::Joined(number, key) => {
                    if let (Some(peer), Some(key)) = (self.peer_of(number), PublicKey::new(key)) {
                        told.push(PlaneEvent::PeerJoined { peer, key });
                    }
                }
                News::Seen(number, at) => {
                    if let Some(peer) = self.peer_of(number) {
                        told.push(PlaneEvent::PeerSeen { peer, at });
                    }
                }
                News::Found(vni, found) => self.take_backends(vni, found),
                News::Problem(number, problem) => {
                    if let Some(peer) = self.peer_of(number) {
                        told.push(PlaneEvent::PeerProblem { peer, problem });
                    }
                }
            }
        }
        self.told.extend(told);
    }

    fn peer_of(&self, number: PeerNumber) -> Option<PeerId> {
        let mut peers = self.peers.iter();
        peers.find(|(_, p)| p.number == number).map(|(&id, _)| id)
    }
}

/// Names as they are announced.
fn lower(names: &[String]) -> Box<[Box<str>]> {
    let lower = names.iter().map(|name| name.to_ascii_lowercase().into());
    lower.collect()
}

/// A network's number, where its frames are sealed.
pub(super) fn sealed(spec: &NetworkSpec) -> Option<(&OverlaySpec, Vni)> {
    let overlay = overlay(spec).filter(|o| o.carrier == Carrier::Sealed)?;
    Some((overlay, Vni::new(overlay.vni)?))
}

/// What this host hands out on a network. What of IPv6 it does follows from that: both addresses end in the same number.
pub(super) fn own_ranges<const N: usize>(overlay: &OverlaySpec) -> ArrayVec<Range, N> {
    let mut ranges = ArrayVec::new();
    let (first, last) = (overlay.range.first, overlay.range.last);
    if let Some(range) = Range::new(first.into(), last.into()) {
        let _ = ranges.try_push(range);
    }
    ranges
}

/// What a peer may announce on a network: addresses that it was given, or all that this host does not hand out, and
/// never the gateway's.
pub(super) fn allowed(spec: &NetworkSpec, vni: Vni, prefixes: &[Prefix]) -> Allowed {
    let whole = [
        spec.v4.map(|s| (IpAddr::V4(s.network), s.prefix)),
        spec.v6.map(|s| (IpAddr::V6(s.network), s.prefix)),
    ];
    // One division of the subnet divides both families.
    let twin = |p: &Prefix| p.twin(&spec.v4?, &spec.v6?);
    let twins = prefixes.iter().filter_map(twin);
    let given = prefixes.iter().copied().chain(twins);
    let given: Vec<(IpAddr, u8)> = given.map(|p| (p.addr, p.len)).collect();
    let chosen = if given.is_empty() {
        whole.into_iter().flatten().collect()
    } else {
        given
    };
    let gateways = [
        spec.v4.map(|s| IpAddr::V4(s.gateway)),
        spec.v6.map(|s| IpAddr::V6(s.gateway)),
    ];
    let gateways = gateways.into_iter().flatten();
    let own = overlay(spec).map(own_ranges::<1>);
    let one = |addr: Ipv4Addr| {
        let (addr, len) = (addr.into(), 32);
        twin(&Prefix { addr, len }).map(|p| p.addr)
    };
    let own6 = overlay(spec).and_then(|o| Range::new(one(o.range.first)?, one(o.range.last)?));
    Allowed {
        vni,
        prefixes: chosen
            .into_iter()
            .filter_map(|(addr, len)| prefix::Prefix::new(addr, len))
            .collect(),
        except: gateways
            .filter_map(|a| Range::new(a, a))
            .chain(own.into_iter().flatten())
            .chain(own6)
            .collect(),
    }
}
