//! From a request to a plan.

use std::net::SocketAddr;

use super::ids::{EndpointId, NetworkId, PeerId, PublishId, ServiceId};
use super::model::{Model, Origin};
use super::plan::{self, Change, Facts, Identify};
use super::policy::PolicyScope;
use super::proto::{Request, Scope};
use super::spec::{Carrier, Driver, HostPort};
use crate::config::invite::Invite;
use crate::config::wish::{NetworkWish, PeerWish};
use crate::config::{Code, Problem};

/// Peers whose way is looked at: a look is two calls of the kernel.
const WAYS: usize = 64;

/// What the answer will tell once the change is made.
#[derive(Debug)]
pub(super) enum Told {
    Network(NetworkId, Vec<String>),
    Pruned(Vec<String>),
    Endpoint(EndpointId),
    Publishes(Vec<PublishId>),
    Service(ServiceId),
    Policy(PolicyScope),
    Peer(PeerId),
    Invited(PeerId, String),
    Accepted(PeerId, Vec<String>, Vec<String>),
    Applied(Vec<Change>, Vec<String>),
    /// The names of invites that are of no use any more.
    Key(Vec<String>),
    Done,
}

/// True for a request that changes nothing.
pub(super) fn asks(request: &Request) -> bool {
    match request {
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
        | Request::Apply(_, false) => false,
        Request::Info
        | Request::Networks
        | Request::Network(_)
        | Request::Endpoints(_)
        | Request::Endpoint(..)
        | Request::Publishes
        | Request::Services(_)
        | Request::Policy(_)
        | Request::Key
        | Request::Peers
        | Request::Peer(_)
        | Request::Ping(_)
        | Request::Apply(_, true)
        | Request::Show(_)
        | Request::Metrics
        | Request::Down => true,
    }
}

/// True for a request whose plan depends on where the host has routes: asking the kernel for them takes longer than most plans.
pub(super) fn chooses_subnets(request: &Request) -> bool {
    matches!(
        request,
        Request::CreateNetwork(_) | Request::Apply(..) | Request::Accept(_)
    )
}

/// True for a request that depends on the way to other hosts.
pub(super) fn meets_hosts(request: &Request) -> bool {
    chooses_subnets(request) || matches!(request, Request::Invite(_) | Request::AddPeer(_))
}

/// Where other hosts are that a network of this request must reach, as far as they are known by address.
pub(super) fn ways(model: &Model, request: &Request) -> Vec<SocketAddr> {
    if let Request::Accept(wish) = request {
        let invite = wish.invite.parse::<Invite>().ok();
        return invite.and_then(|i| i.endpoint.addr()).into_iter().collect();
    }
    // What an invite says is how others reach this host, not how it reaches them.
    if !chooses_subnets(request) {
        return Vec::new();
    }
    let known = model.peers.values().filter_map(|p| p.carrier.endpoint());
    known.filter_map(HostPort::addr).take(WAYS).collect()
}

/// True for a request that the host needs a key for.
pub(super) fn needs_key(request: &Request) -> bool {
    let sealed = |n: &NetworkWish| {
        let other = |o: &String| o.starts_with("carrier=") && o != "carrier=sealed";
        n.driver == Some(Driver::Overlay) && !n.opt.iter().any(other)
    };
    let met = |p: &PeerWish| p.carrier.unwrap_or_default() == Carrier::Sealed;
    match request {
        Request::Key | Request::RenewKey | Request::Invite(_) | Request::Accept(_) => true,
        Request::CreateNetwork(wish) => sealed(wish),
        Request::AddPeer(wish) => met(wish),
        Request::Apply(file, false) => file.network.iter().any(sealed) || file.peer.iter().any(met),
        Request::Info
        | Request::Networks
        | Request::Network(_)
        | Request::RemoveNetwork(_)
        | Request::Prune
        | Request::Endpoints(_)
        | Request::Endpoint(..)
        | Request::Connect(_)
        | Request::Disconnect(..)
        | Request::Publishes
        | Request::Publish(_)
        | Request::Unpublish(_)
        | Request::Services(_)
        | Request::CreateService(..)
        | Request::RemoveService(..)
        | Request::Policy(_)
        | Request::SetPolicy(..)
        | Request::Peers
        | Request::Peer(_)
        | Request::RemovePeer(_)
        | Request::Ping(_)
        | Request::Apply(_, true)
        | Request::Show(_)
        | Request::Metrics
        | Request::Down => false,
    }
}

/// Changes the model as asked. Errors: those of the plans.
pub(super) fn plan(
    model: &mut Model,
    facts: &Facts,
    request: &Request,
    identify: &mut Identify<'_>,
) -> Result<Told, Problem> {
    let by = Origin::Command;
    match request {
        Request::CreateNetwork(wish) => {
            let mut warnings = Vec::new();
            let id = plan::create(model, facts, wish, by, &mut warnings)?;
            Ok(Told::Network(id, warnings))
        }
        Request::RemoveNetwork(name) => plan::remove(model, name).map(|_| Told::Done),
        Request::Prune => Ok(Told::Pruned(plan::prune(model))),
        Request::Connect(wish) => {
            // An unknown network is told before an unknown sandbox.
            model.network(&wish.network)?;
            let sandbox = identify(model, wish)?;
            plan::connect(model, wish, &sandbox, by).map(Told::Endpoint)
        }
        Request::Disconnect(network, name) => {
            plan::disconnect(model, network, name).map(|_| Told::Done)
        }
        Request::Publish(wish) => plan::publish(model, facts, wish, by).map(Told::Publishes),
        Request::Unpublish(id) => plan::unpublish(model, *id).map(|()| Told::Done),
        Request::CreateService(wish, replace) => {
            if *replace {
                model.service(&wish.network, &wish.name)?;
            }
            plan::create_service(model, wish, *replace, by).map(Told::Service)
        }
        Request::RemoveService(network, name) => {
            plan::remove_service(model, network, name).map(|_| Told::Done)
        }
        Request::SetPolicy(scope, wish) => {
            let scope = scope_of(model, scope)?;
            plan::set_policy(model, scope, wish.as_ref(), by)?;
            Ok(wish.as_ref().map_or(Told::Done, |_| Told::Policy(scope)))
        }
        Request::AddPeer(wish) => plan::add_peer(model, facts, wish, by).map(Told::Peer),
        Request::RemovePeer(name) => plan::remove_peer(model, name).map(|_| Told::Done),
        Request::Invite(wish) => {
            plan::invite(model, facts, wish).map(|(id, text)| Told::Invited(id, text))
        }
        Request::Accept(wish) => {
            let mut warnings = Vec::new();
            let (id, made) = plan::accept(model, facts, wish, &mut warnings)?;
            Ok(Told::Accepted(id, made, warnings))
        }
        Request::RenewKey => Ok(Told::Key(plan::void_all(model))),
        Request::Apply(file, _) => {
            let mut warnings = Vec::new();
            let changes = plan::apply(model, facts, file, identify, &mut warnings)?;
            Ok(Told::Applied(changes, warnings))
        }
        Request::Info
        | Request::Networks
        | Request::Network(_)
        | Request::Endpoints(_)
        | Request::Endpoint(..)
        | Request::Publishes
        | Request::Services(_)
        | Request::Policy(_)
        | Request::Key
        | Request::Peers
        | Request::Peer(_)
        | Request::Ping(_)
        | Request::Show(_)
        | Request::Metrics
        | Request::Down => Err(Problem::new(Code::BadRequest, "nothing to change")),
    }
}

/// Whose policy is meant. Errors: `UnknownNetwork`, `UnknownEndpoint`.
pub(super) fn scope_of(model: &Model, scope: &Scope) -> Result<PolicyScope, Problem> {
    match scope {
        Scope::Network(name) => Ok(PolicyScope::Network(model.network(name)?.spec.id)),
        Scope::Endpoint(network, name) => Ok(PolicyScope::Endpoint(
            model.endpoint(network, name)?.spec.id,
        )),
    }
}
