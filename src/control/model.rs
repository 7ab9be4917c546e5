//! What users have made: the records that the store keeps, and the questions that are asked of them.
//!
//! A model is a value. A request makes another one out of it; what the store must write and the data plane must do is the
//! difference of the two (`diff`), and undoing is forgetting the new one. Records are shared, and so a copy is cheap ([`Shelf`]).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::{EndpointId, NetworkId, PeerId, PublishId, ServiceId};
use super::policy::{PolicyScope, PolicySpec};
use super::shelf::Shelf;
use super::spec::{
    Backend, EndpointSpec, NameOwner, NameRecord, NetworkSpec, PeerCarrier, PeerSpec, Prefix,
    PublishSpec, Sandbox, ServicePort, ServiceSpec,
};
use crate::config::ipam::Range4;
use crate::config::wish::{
    EndpointWish, NetworkWish, PeerWish, PolicyWish, PublishWish, ServiceWish,
};
use crate::config::{Code, Problem};

/// Who made a thing, and so who may take it away: `apply` leaves alone what commands have made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// A command, or a message of the API.
    #[default]
    Command,
    /// A file that was applied.
    File,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRecord {
    /// As asked for.
    pub wish: NetworkWish,
    /// As it is.
    pub spec: NetworkSpec,
    /// Where IPv4 addresses are chosen from.
    pub range: Option<Range4>,
    /// The IPv4 address that was given last.
    pub last4: Option<Ipv4Addr>,
    /// The IPv6 address that was given last.
    pub last6: Option<Ipv6Addr>,
    /// Who made it.
    pub origin: Origin,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointRecord {
    /// As asked for.
    pub wish: EndpointWish,
    /// As it is.
    pub spec: EndpointSpec,
    /// The sandbox's name.
    pub name: String,
    /// Its names on the network: the sandbox's, the host name, aliases.
    pub names: Vec<String>,
    /// Of a sandbox's networks the highest has the default route.
    pub priority: i32,
    /// Who made it.
    pub origin: Origin,
}

/// A publish rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishRecord {
    /// As asked for, one text of it.
    pub wish: PublishWish,
    /// As it is; ports that the host has chosen are in it.
    pub spec: PublishSpec,
    /// Who made it.
    pub origin: Origin,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRecord {
    /// As asked for, with the backends' names.
    pub wish: ServiceWish,
    /// Its number.
    pub id: ServiceId,
    /// The network it is on.
    pub network: NetworkId,
    /// Its virtual IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its virtual IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Who made it.
    pub origin: Origin,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRecord {
    /// As asked for.
    pub wish: PolicyWish,
    /// As it is.
    pub spec: PolicySpec,
    /// Who made it.
    pub origin: Origin,
}

/// A peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerRecord {
    /// As asked for.
    pub wish: PeerWish,
    /// Its number.
    pub id: PeerId,
    /// How it is reached; the key of one that has taken an invite is in it.
    pub carrier: PeerCarrier,
    /// The networks that it is on; `None` for every one of its carrier.
    pub networks: Option<Vec<NetworkId>>,
    /// What it may announce, as asked for.
    pub prefixes: Vec<Prefix>,
    /// Where it was heard last, where nobody has said where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<SocketAddr>,
    /// Who made it.
    pub origin: Origin,
}

/// An endpoint on its way out. It is written with the record's removal and goes when the interface is gone, so that a
/// daemon that dies between the two leaves no interface that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeavingRecord {
    /// The network it was on, which may go with it.
    pub network: NetworkSpec,
    /// The endpoint.
    pub endpoint: EndpointSpec,
}

/// The next numbers, which only ever grow, and the boot that process ids belong to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// The next number of each kind: networks, endpoints, publishes, services.
    pub next: [u32; 4],
    /// The next number of peers.
    #[serde(default)]
    pub peer: u32,
    /// The machine's boot.
    pub boot: String,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Model {
    /// Networks.
    pub networks: Shelf<NetworkId, NetworkRecord>,
    /// Endpoints.
    pub endpoints: Shelf<EndpointId, EndpointRecord>,
    /// Publish rules.
    pub publishes: Shelf<PublishId, PublishRecord>,
    /// Services.
    pub services: Shelf<ServiceId, ServiceRecord>,
    /// Policies.
    pub policies: Shelf<PolicyScope, PolicyRecord>,
    /// Peers.
    pub peers: Shelf<PeerId, PeerRecord>,
    /// Endpoints on their way out.
    pub leaving: Shelf<EndpointId, LeavingRecord>,
    /// Numbers.
    pub counters: Counters,
}

impl Model {
    /// Takes the next number of a kind, 0 to 3 as in [`Counters::next`].
    fn take(&mut self, kind: usize) -> u32 {
        let next = self.counters.next.get_mut(kind);
        next.map_or(0, |n| {
            *n += 1;
            *n
        })
    }

    /// A number for a network.
    pub fn next_network(&mut self) -> NetworkId {
        NetworkId(self.take(0))
    }

    /// A number for an endpoint.
    pub fn next_endpoint(&mut self) -> EndpointId {
        EndpointId(self.take(1))
    }

    /// A number for a publish rule.
    pub fn next_publish(&mut self) -> PublishId {
        PublishId(self.take(2))
    }

    /// A number for a service.
    pub fn next_service(&mut self) -> ServiceId {
        ServiceId(self.take(3))
    }

    /// A number for a peer.
    pub fn next_peer(&mut self) -> PeerId {
        self.counters.peer += 1;
        PeerId(self.counters.peer)
    }

    /// A peer by its name. Errors: `UnknownPeer`.
    pub fn peer(&self, name: &str) -> Result<&Arc<PeerRecord>, Problem> {
        let mut all = self.peers.values();
        all.find(|p| p.wish.name == name).ok_or_else(|| {
            let message =
                format!("there is no peer '{name}'; 'weft peer ls' lists those there are");
            Problem::new(Code::UnknownPeer, message).at("peer")
        })
    }

    /// Networks that a peer is on: those named, or all, as far as they are overlays of its carrier.
    pub fn networks_of<'a>(
        &'a self,
        peer: &'a PeerRecord,
    ) -> impl Iterator<Item = &'a Arc<NetworkRecord>> {
        let kind = peer.carrier.kind();
        self.networks.values().filter(move |n| {
            let named = peer.networks.as_ref();
            named.is_none_or(|list| list.contains(&n.spec.id))
                && n.spec.overlay.is_some_and(|o| o.carrier == kind)
        })
    }

    /// A peer as the data plane knows it: on those networks that are there, with the prefixes of both families.
    #[must_use]
    pub fn peer_spec(&self, peer: &PeerRecord) -> PeerSpec {
        let mut prefixes = peer.prefixes.clone();
        for network in self.networks_of(peer) {
            if let (Some(v4), Some(v6)) = (&network.spec.v4, &network.spec.v6) {
                let twins = peer.prefixes.iter().filter_map(|p| p.twin(v4, v6));
                prefixes.extend(twins);
            }
        }
        prefixes.sort_unstable();
        prefixes.dedup();
        PeerSpec {
            id: peer.id,
            name: peer.wish.name.clone(),
            carrier: peer.carrier.clone(),
            networks: self.networks_of(peer).map(|n| n.spec.id).collect(),
            prefixes,
            seen: peer.seen,
        }
    }

    /// A network by its name. Errors: `UnknownNetwork`.
    pub fn network(&self, name: &str) -> Result<&Arc<NetworkRecord>, Problem> {
        let mut all = self.networks.values();
        all.find(|n| n.spec.name == name).ok_or_else(|| {
            let message =
                format!("there is no network '{name}'; 'weft network ls' lists those there are");
            Problem::new(Code::UnknownNetwork, message).at("network")
        })
    }

    /// A network's name; its number if it is gone.
    #[must_use]
    pub fn network_name(&self, id: NetworkId) -> String {
        self.networks
            .get(&id)
            .map_or_else(|| id.to_string(), |n| n.spec.name.clone())
    }

    /// Endpoints on a network.
    pub fn on_network(&self, id: NetworkId) -> impl Iterator<Item = &Arc<EndpointRecord>> {
        self.endpoints
            .values()
            .filter(move |e| e.spec.network == id)
    }

    /// Services on a network.
    pub fn services_on(&self, id: NetworkId) -> impl Iterator<Item = &Arc<ServiceRecord>> {
        self.services.values().filter(move |s| s.network == id)
    }

    /// Endpoints of a sandbox, by its name.
    pub fn of_sandbox<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = &'a Arc<EndpointRecord>> {
        self.endpoints.values().filter(move |e| e.name == name)
    }

    /// Endpoints in a namespace.
    pub fn inside<'a>(
        &'a self,
        sandbox: &'a Sandbox,
    ) -> impl Iterator<Item = &'a Arc<EndpointRecord>> {
        let same = move |e: &&Arc<EndpointRecord>| e.spec.sandbox.netns == sandbox.netns;
        self.endpoints.values().filter(same)
    }

    /// The endpoint of a sandbox on a network. Errors: `UnknownNetwork`, `UnknownEndpoint`.
    pub fn endpoint(&self, network: &str, name: &str) -> Result<&Arc<EndpointRecord>, Problem> {
        let id = self.network(network)?.spec.id;
        self.on_network(id).find(|e| e.name == name).ok_or_else(|| {
            let message = format!("sandbox '{name}' is not on network '{network}'");
            Problem::new(Code::UnknownEndpoint, message).at("sandbox")
        })
    }

    /// The endpoint by which a sandbox is meant: that on the network, or else the one with the default route.
    /// Errors: `UnknownNetwork`, `UnknownEndpoint`, `UnknownSandbox`.
    pub fn endpoint_of(
        &self,
        name: &str,
        network: Option<&str>,
    ) -> Result<&Arc<EndpointRecord>, Problem> {
        if let Some(network) = network {
            return self.endpoint(network, name);
        }
        let best = self
            .endpoints
            .values()
            .filter(|e| e.name == name)
            .max_by_key(|e| {
                (
                    e.spec.default_route,
                    e.priority,
                    std::cmp::Reverse(e.spec.id),
                )
            });
        best.ok_or_else(|| {
            let message =
                format!("there is no sandbox '{name}'; 'weft endpoint ls' lists those there are");
            Problem::new(Code::UnknownSandbox, message).at("sandbox")
        })
    }

    /// A service by its name. Errors: `UnknownNetwork`, `UnknownService`.
    pub fn service(&self, network: &str, name: &str) -> Result<&Arc<ServiceRecord>, Problem> {
        let id = self.network(network)?.spec.id;
        let found = self.services_on(id).find(|s| s.wish.name == name);
        found.ok_or_else(|| {
            let message = format!("there is no service '{name}' on network '{network}'");
            Problem::new(Code::UnknownService, message).at("name")
        })
    }

    /// Addresses on a network that something has: the gateway, endpoints, services, addresses of the host's loopback.
    #[must_use]
    pub fn addresses(&self, network: &NetworkSpec) -> BTreeSet<IpAddr> {
        let both = |v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>| {
            let v4 = v4.map(IpAddr::V4).into_iter();
            v4.chain(v6.map(IpAddr::V6))
        };
        let gateway = both(network.v4.map(|s| s.gateway), network.v6.map(|s| s.gateway));
        let endpoints = self.on_network(network.id);
        let services = self.services_on(network.id);
        gateway
            .chain(network.host_loopback.iter().copied())
            .chain(endpoints.flat_map(|e| both(e.spec.v4, e.spec.v6)))
            .chain(services.flat_map(|s| both(s.v4, s.v6)))
            .collect()
    }

    /// Who has an address on a network, in words; `None` when it is free.
    #[must_use]
    pub fn holder(&self, network: &NetworkSpec, addr: IpAddr) -> Option<String> {
        let is = |v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>| match addr {
            IpAddr::V4(addr) => v4 == Some(addr),
            IpAddr::V6(addr) => v6 == Some(addr),
        };
        let (v4, v6) = (network.v4.map(|s| s.gateway), network.v6.map(|s| s.gateway));
        if is(v4, v6) || network.host_loopback.contains(&addr) {
            return Some("the gateway".to_owned());
        }
        let mut endpoints = self.on_network(network.id);
        if let Some(e) = endpoints.find(|e| is(e.spec.v4, e.spec.v6)) {
            return Some(format!("sandbox '{}'", e.name));
        }
        let mut services = self.services_on(network.id);
        let found = services.find(|s| is(s.v4, s.v6));
        found.map(|s| format!("service '{}'", s.wish.name))
    }

    /// A service as the data plane knows it: with those backends that are there.
    #[must_use]
    pub fn service_spec(&self, service: &ServiceRecord) -> ServiceSpec {
        let named = |name: &String| service.wish.backends.contains(name);
        let here: Vec<_> = self.on_network(service.network).collect();
        let backends = here.iter().filter(|e| named(&e.name)).map(|e| Backend {
            endpoint: e.spec.id,
            v4: e.spec.v4,
            v6: e.spec.v6,
        });
        let network = self.networks.get(&service.network);
        let reaches = network.is_some_and(|n| n.spec.has_names_elsewhere());
        let strange = |name: &&String| reaches && !here.iter().any(|e| e.name == **name);
        let elsewhere = service.wish.backends.iter().filter(strange);
        ServiceSpec {
            id: service.id,
            network: service.network,
            v4: service.v4,
            v6: service.v6,
            ports: service.ports.clone(),
            backends: backends.collect(),
            elsewhere: elsewhere.map(|name| name.to_ascii_lowercase()).collect(),
        }
    }
}

impl EndpointRecord {
    /// The names that others on the network know it by.
    #[must_use]
    pub fn record(&self) -> NameRecord {
        NameRecord {
            network: self.spec.network,
            owner: NameOwner::Endpoint(self.spec.id),
            names: self.names.clone(),
            addrs: addrs(self.spec.v4, self.spec.v6),
        }
    }
}

impl ServiceRecord {
    /// The names that endpoints on the network know it by.
    #[must_use]
    pub fn record(&self) -> NameRecord {
        NameRecord {
            network: self.network,
            owner: NameOwner::Service(self.id),
            names: vec![self.wish.name.clone()],
            addrs: addrs(self.v4, self.v6),
        }
    }
}

fn addrs(v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Vec<IpAddr> {
    let v4 = v4.map(IpAddr::V4).into_iter();
    v4.chain(v6.map(IpAddr::V6)).collect()
}
