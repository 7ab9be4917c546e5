//! Answers: the model, and what the data plane tells, in the words of the API.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::engine::{Engine, Runtime, problem};
use super::ids::{EndpointId, NetworkId, PeerId, PublishId};
use super::model::{EndpointRecord, Model, NetworkRecord, ServiceRecord};
use super::plan;
use super::plane::Plane;
use super::policy::{PolicyLimits, PolicyScope};
use super::proto::{
    Accepted, Applied, Endpoint, GroupTable, Info, Invited, Key, Named, Network, Numbers,
    PeerGroup, Policy, Pruned, Publish, Reply, Request, Service, Show, Station,
};
use super::request::{Told, scope_of};
use super::show::{FlowRow, GroupRow, MacRow, PeerGroupRow, QuerierRow, RouterRow, StatRow};
use super::spec::Published;
use crate::config::wish::EndpointWish;
use crate::config::{Code, PortRange, Problem, PublishRule};

mod peer;

pub(super) use peer::{ping, pong};

/// Rows of `show flows` at most.
const FLOWS: usize = 100_000;

/// Answers a question. Errors: of names that are unknown, and the data plane's.
pub(super) fn ask<P: Plane>(engine: &mut Engine<P>, request: &Request) -> Result<Reply, Problem> {
    let (model, runtime, now) = (&engine.model, &engine.runtime, engine.facts.now);
    Ok(match request {
        Request::Info => Reply::Info(Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            notes: runtime.notes.iter().cloned().collect(),
        }),
        Request::Networks => {
            let all = model.networks.values();
            Reply::Networks(all.map(|n| network(model, runtime, n)).collect())
        }
        Request::Network(name) => {
            Reply::Network(Box::new(network(model, runtime, model.network(name)?)))
        }
        Request::Endpoints(of) => {
            let of = of.as_deref().map(|n| model.network(n)).transpose()?;
            let of = of.map(|n| n.spec.id);
            let all = model.endpoints.values();
            let all = all.filter(|e| of.is_none_or(|n| e.spec.network == n));
            Reply::Endpoints(all.map(|e| endpoint(model, runtime, e)).collect())
        }
        Request::Endpoint(network, name) => {
            let found = model.endpoint(network, name)?;
            Reply::Endpoint(Box::new(endpoint(model, runtime, found)))
        }
        Request::Publishes => Reply::Publishes(publishes(model, runtime, |_| true)),
        Request::Services(of) => {
            let of = of.as_deref().map(|n| model.network(n)).transpose()?;
            let of = of.map(|n| n.spec.id);
            let all = model.services.values();
            let all = all.filter(|s| of.is_none_or(|n| s.network == n));
            Reply::Services(all.map(|s| service(model, s)).collect())
        }
        Request::Policy(scope) => {
            let scope = scope_of(model, scope)?;
            Reply::Policy(Box::new(policy(model, scope)))
        }
        Request::Key => Reply::Key(Key {
            key: engine.identity.need()?,
            voided: Vec::new(),
        }),
        Request::Peers => {
            let all = model.peers.values();
            Reply::Peers(all.map(|p| peer::peer(model, runtime, now, p)).collect())
        }
        Request::Peer(name) => {
            let found = model.peer(name)?;
            Reply::Peer(Box::new(peer::peer(model, runtime, now, found)))
        }
        Request::Apply(file, _) => {
            let mut copy = model.clone();
            let mut warnings = Vec::new();
            let plane = &mut engine.plane;
            let mut identify =
                |model: &Model, wish: &EndpointWish| super::engine::identify(plane, model, wish);
            let facts = &engine.facts;
            let changes = plan::apply(&mut copy, facts, file, &mut identify, &mut warnings)?;
            Reply::Applied(Applied { changes, warnings })
        }
        Request::Show(table) => show(engine, table)?,
        Request::Metrics => Reply::Metrics(Box::new(numbers(engine)?)),
        Request::Down => {
            engine.ending = true;
            Reply::Done
        }
        Request::CreateNetwork(_)
        | Request::RemoveNetwork(_)
        | Request::Prune
        | Request::Connect(_)
        | Request::Disconnect(..)
        | Request::Publish(_)
        | Request::Unpublish(_)
        | Request::CreateService(..)
        | Request::RemoveService(..)
        | Request::SetPolicy(..)
        | Request::AddPeer(_)
        | Request::RemovePeer(_)
        | Request::Invite(_)
        | Request::Accept(_)
        | Request::RenewKey
        | Request::Ping(_) => {
            return Err(Problem::new(Code::BadRequest, "that is no question"));
        }
    })
}

/// Tells of a change that is made. What another change of the same batch has taken away again is told as done.
pub(super) fn tell<P: Plane>(engine: &Engine<P>, told: Told) -> Reply {
    let (model, runtime, now) = (&engine.model, &engine.runtime, engine.facts.now);
    match told {
        Told::Done => Reply::Done,
        Told::Pruned(removed) => Reply::Pruned(Pruned { removed }),
        Told::Key(voided) => engine
            .identity
            .known()
            .map_or(Reply::Done, |key| Reply::Key(Key { key, voided })),
        Told::Applied(changes, warnings) => Reply::Applied(Applied { changes, warnings }),
        Told::Network(id, warnings) => model.networks.get(&id).map_or(Reply::Done, |n| {
            let told = network(model, runtime, n);
            Reply::Network(Box::new(Network { warnings, ..told }))
        }),
        Told::Endpoint(id) => model.endpoints.get(&id).map_or(Reply::Done, |e| {
            Reply::Endpoint(Box::new(endpoint(model, runtime, e)))
        }),
        Told::Publishes(ids) => Reply::Publishes(publishes(model, runtime, |id| ids.contains(&id))),
        Told::Service(id) => model
            .services
            .get(&id)
            .map_or(Reply::Done, |s| Reply::Service(Box::new(service(model, s)))),
        Told::Peer(id) => model.peers.get(&id).map_or(Reply::Done, |p| {
            Reply::Peer(Box::new(peer::peer(model, runtime, now, p)))
        }),
        Told::Invited(id, invite) => model.peers.get(&id).map_or(Reply::Done, |p| {
            let peer = peer::peer(model, runtime, now, p);
            Reply::Invited(Box::new(Invited { peer, invite }))
        }),
        Told::Accepted(id, made, warnings) => model.peers.get(&id).map_or(Reply::Done, |p| {
            let peer = peer::peer(model, runtime, now, p);
            Reply::Accepted(Box::new(Accepted {
                peer,
                made,
                warnings,
            }))
        }),
        Told::Policy(scope) => Reply::Policy(Box::new(policy(model, scope))),
    }
}

/// Notes what came of publishing: ports that the host has chosen go into the record, so that they are the same next time.
pub(super) fn publish_outcome(
    runtime: &mut Runtime,
    model: &mut Model,
    id: PublishId,
    published: Published,
) {
    if let (Some(&(_, host)), Some(record)) =
        (published.chosen.first(), model.publishes.get_mut(&id))
        && record.spec.rule.host.is_none()
    {
        let host = PortRange::new(host, host);
        let record = Arc::make_mut(record);
        record.spec.rule = PublishRule {
            host,
            ..record.spec.rule.clone()
        };
    }
    if published.failed.is_empty() {
        runtime.failed.remove(&id);
    } else {
        runtime.failed.insert(id, published.failed);
    }
}

fn network(model: &Model, runtime: &Runtime, n: &NetworkRecord) -> Network {
    let spec = &n.spec;
    Network {
        id: spec.id,
        name: spec.name.clone(),
        driver: spec.driver,
        v4: spec.v4,
        v6: spec.v6,
        uplink: spec.uplink.clone(),
        mtu: spec.mtu,
        icc: spec.icc,
        ageing: spec.ageing,
        loop_hold: spec.loop_hold,
        snooping: spec.snooping,
        querier: spec.querier,
        query_interval: spec.query_interval,
        overlay: spec.overlay,
        endpoints: model.on_network(spec.id).map(|e| e.name.clone()).collect(),
        services: model
            .services_on(spec.id)
            .map(|s| s.wish.name.clone())
            .collect(),
        down: runtime.networks_down.get(&spec.id).cloned(),
        warnings: Vec::new(),
    }
}

fn endpoint(model: &Model, runtime: &Runtime, e: &EndpointRecord) -> Endpoint {
    let spec = &e.spec;
    let interface = runtime.interfaces.get(&spec.id);
    Endpoint {
        id: spec.id,
        network: model.network_name(spec.network),
        name: e.name.clone(),
        sandbox: spec.sandbox.clone(),
        ifname: spec.ifname.clone(),
        mac: spec.mac.to_string(),
        v4: spec.v4,
        v6: spec.v6,
        mtu: spec.mtu,
        kind: spec.kind,
        vlan: spec.vlan.clone(),
        names: e.names.clone(),
        default_route: spec.default_route,
        priority: e.priority,
        down: runtime.endpoints_down.get(&spec.id).cloned(),
        warnings: interface.map(|i| i.warnings.clone()).unwrap_or_default(),
    }
}

fn publishes(model: &Model, runtime: &Runtime, of: impl Fn(PublishId) -> bool) -> Vec<Publish> {
    let all = model.publishes.values().filter(|p| of(p.spec.id));
    all.map(|p| {
        let endpoint = model.endpoints.get(&p.spec.endpoint);
        Publish {
            id: p.spec.id,
            sandbox: p.wish.sandbox.clone(),
            network: endpoint.map_or_else(String::new, |e| model.network_name(e.spec.network)),
            rule: p.spec.rule.to_string(),
            failed: runtime.failed.get(&p.spec.id).cloned().unwrap_or_default(),
        }
    })
    .collect()
}

fn service(model: &Model, s: &ServiceRecord) -> Service {
    let on = |name: &&String| model.on_network(s.network).any(|e| e.name == **name);
    let (backends, absent) = s.wish.backends.iter().partition::<Vec<&String>, _>(on);
    let owned = |list: Vec<&String>| list.into_iter().cloned().collect();
    Service {
        id: s.id,
        name: s.wish.name.clone(),
        network: model.network_name(s.network),
        addresses: s.record().addrs,
        ports: s.ports.clone(),
        backends: owned(backends),
        absent: owned(absent),
    }
}

/// A policy with the limits that hold: its own, those of the endpoint's network, the standard ones.
fn policy(model: &Model, scope: PolicyScope) -> Policy {
    let network = match scope {
        PolicyScope::Network(_) => None,
        PolicyScope::Endpoint(id) => model.endpoints.get(&id).map(|e| e.spec.network),
    };
    let behind = network.and_then(|id| model.policies.get(&PolicyScope::Network(id)));
    let own = model.policies.get(&scope);
    let (wish, mut policy) = own
        .map(|p| (p.wish.clone(), p.spec.clone()))
        .unwrap_or_default();
    policy.limits = PolicyLimits::in_force(Some(&policy.limits), behind.map(|p| &p.spec.limits));
    Policy { wish, policy }
}

/// Names in place of numbers.
struct Names<'a> {
    networks: BTreeMap<NetworkId, &'a str>,
    endpoints: BTreeMap<EndpointId, (&'a str, NetworkId)>,
}

impl<'a> Names<'a> {
    fn of(model: &'a Model) -> Self {
        let networks = model.networks.iter();
        let endpoints = model.endpoints.iter();
        Self {
            networks: networks
                .map(|(&id, n)| (id, n.spec.name.as_str()))
                .collect(),
            endpoints: endpoints
                .map(|(&id, e)| (id, (e.name.as_str(), e.spec.network)))
                .collect(),
        }
    }

    fn network(&self, id: NetworkId) -> String {
        let name = self.networks.get(&id).copied();
        name.unwrap_or_default().to_owned()
    }

    fn name<T>(&self, endpoint: EndpointId, network: Option<NetworkId>, row: T) -> Named<T> {
        self.name_any(Some(endpoint), network, row)
    }

    fn name_any<T>(
        &self,
        endpoint: Option<EndpointId>,
        network: Option<NetworkId>,
        row: T,
    ) -> Named<T> {
        let found = endpoint.and_then(|id| self.endpoints.get(&id));
        let network = network.or_else(|| found.map(|(_, n)| *n));
        Named {
            network_name: network.map_or_else(String::new, |n| self.network(n)),
            sandbox_name: found.map_or("", |(name, _)| name).to_owned(),
            row,
        }
    }
}

fn show<P: Plane>(engine: &mut Engine<P>, table: &Show) -> Result<Reply, Problem> {
    let (plane, model) = (&mut engine.plane, &engine.model);
    let names = Names::of(model);
    let refused = |e| problem(&e);
    Ok(match table {
        Show::Macs(of) => {
            let of = of.as_deref().map(|n| model.network(n)).transpose()?;
            let rows = plane.macs(of.map(|n| n.spec.id)).map_err(refused)?;
            let name = |r: MacRow| station(model, &names, r);
            Reply::Macs(rows.into_iter().map(name).collect())
        }
        Show::Groups(of) => {
            let of = of.as_deref().map(|n| model.network(n)).transpose()?;
            let rows = plane.groups(of.map(|n| n.spec.id)).map_err(refused)?;
            let member = |r: GroupRow| names.name(r.endpoint, Some(r.network), r);
            let router = |r: RouterRow| names.name(r.endpoint, Some(r.network), r);
            let querier = |r: QuerierRow| names.name_any(r.endpoint, Some(r.network), r);
            let peer = |row: PeerGroupRow| PeerGroup {
                network_name: names.network(row.network),
                peer_name: peer_name(model, row.peer),
                row,
            };
            Reply::Groups(GroupTable {
                members: rows.members.into_iter().map(member).collect(),
                routers: rows.routers.into_iter().map(router).collect(),
                queriers: rows.queriers.into_iter().map(querier).collect(),
                peers: rows.peers.into_iter().map(peer).collect(),
            })
        }
        Show::Flows(limit) => {
            let rows = plane.flows(None, (*limit).min(FLOWS)).map_err(refused)?;
            let name = |r: FlowRow| names.name(r.endpoint, Some(r.network), r);
            Reply::Flows(rows.into_iter().map(name).collect())
        }
        Show::Drops => Reply::Drops(plane.drops(None).map_err(refused)?),
        Show::Stats => Reply::Stats(stats(engine)?),
        Show::Peers => Reply::PeerStatuses(peer::statuses(engine)?),
        Show::Workers => Reply::Workers(plane.workers().map_err(refused)?),
    })
}

fn peer_name(model: &Model, id: PeerId) -> String {
    let peer = model.peers.get(&id);
    peer.map_or_else(String::new, |p| p.wish.name.clone())
}

fn station(model: &Model, names: &Names<'_>, mut row: MacRow) -> Named<Station> {
    let peer_name = row.peer.map_or_else(String::new, |id| peer_name(model, id));
    let (endpoint, network, announced) = (row.endpoint, row.network, row.announced.take());
    let station = Station { peer_name, row };
    let mut named = names.name_any(endpoint, Some(network), station);
    if let Some(name) = announced {
        named.sandbox_name = name;
    }
    named
}

fn stats<P: Plane>(engine: &mut Engine<P>) -> Result<Vec<Named<StatRow>>, Problem> {
    let rows = engine.plane.stats().map_err(|e| problem(&e))?;
    let names = Names::of(&engine.model);
    let name = |r: StatRow| names.name(r.endpoint, None, r);
    Ok(rows.into_iter().map(name).collect())
}

fn numbers<P: Plane>(engine: &mut Engine<P>) -> Result<Numbers, Problem> {
    let stats = stats(engine)?;
    let peers = peer::statuses(engine)?;
    let refused = |e| problem(&e);
    let members = engine.plane.groups(None).map_err(refused)?.members;
    let macs = engine.plane.macs(None).map_err(refused)?;
    let model = &engine.model;
    let on = |id: NetworkId| members.iter().filter(|r| r.network == id).count();
    let networks = model.networks.iter();
    let groups = networks.map(|(&id, n)| (n.spec.name.clone(), on(id)));
    Ok(Numbers {
        counts: [
            model.networks.len(),
            model.endpoints.len(),
            model.publishes.len(),
            model.services.len(),
        ],
        macs: (macs.len(), macs.iter().filter(|m| m.held).count()),
        down: engine.runtime.endpoints_down.len(),
        groups: groups.collect(),
        drops: engine.plane.drops(None).map_err(refused)?,
        stats,
        workers: engine.plane.workers().map_err(refused)?,
        peers,
    })
}
