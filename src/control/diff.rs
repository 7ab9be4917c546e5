//! The difference of two models: what the store must write, and what the data plane must do, in an order in which nothing
//! refers to what is not there.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use super::ids::{EndpointId, NetworkId, PeerId, ServiceId};
use super::model::{EndpointRecord, Model};
use super::plane::{Plane, PlaneError};
use super::policy::{PolicyScope, PolicySpec};
use super::spec::{
    EndpointSpec, Interface, NameRecord, NetworkSpec, PeerSpec, PublishSpec, Published, ServiceSpec,
};
use super::store::{Key, Write};

/// One thing that the data plane does: from what is there to what shall be. Turned around it is its own undoing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A network is added, changed or removed.
    Network(Option<NetworkSpec>, Option<NetworkSpec>),
    /// An endpoint is attached or detached; or its default route comes or goes.
    Endpoint(Option<Box<EndpointSpec>>, Option<Box<EndpointSpec>>),
    /// A policy is set or taken away.
    Policy(PolicyScope, Option<PolicySpec>, Option<PolicySpec>),
    /// Names are set or taken away.
    Names(Option<NameRecord>, Option<NameRecord>),
    /// A service is set or taken away.
    Service(Option<ServiceSpec>, Option<ServiceSpec>),
    /// A rule is published or taken away.
    Publish(Option<PublishSpec>, Option<PublishSpec>),
    /// A peer is set or taken away.
    Peer(Option<Box<PeerSpec>>, Option<Box<PeerSpec>>),
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// It is done.
    Plain,
    /// An interface was made.
    Interface(EndpointId, Interface),
    /// Ports were bound, or some of them.
    Published(PublishSpec, Published),
}

impl Step {
    /// The undoing.
    #[must_use]
    pub fn inverse(self) -> Self {
        match self {
            Self::Network(a, b) => Self::Network(b, a),
            Self::Endpoint(a, b) => Self::Endpoint(b, a),
            Self::Policy(scope, a, b) => Self::Policy(scope, b, a),
            Self::Names(a, b) => Self::Names(b, a),
            Self::Service(a, b) => Self::Service(b, a),
            Self::Publish(a, b) => Self::Publish(b, a),
            Self::Peer(a, b) => Self::Peer(b, a),
        }
    }

    /// Does it. What shall go and is gone already is no error.
    /// Errors: the data plane's.
    pub fn run<P: Plane + ?Sized>(&self, plane: &mut P) -> Result<Done, PlaneError> {
        let plain = match self {
            Self::Network(None, Some(spec)) => plane.add_network(spec),
            Self::Network(Some(_), Some(spec)) => plane.change_network(spec),
            Self::Network(Some(spec), None) => gone(plane.remove_network(spec.id)),
            Self::Endpoint(None, Some(spec)) => {
                let interface = plane.attach_endpoint(spec)?;
                return Ok(Done::Interface(spec.id, interface));
            }
            Self::Endpoint(Some(_), Some(spec)) => {
                match plane.set_default_route(spec.id, spec.default_route) {
                    // The route stays where it is until the sandbox is connected again: less than asked, and no harm.
                    Err(PlaneError::Unsupported(_)) => Ok(()),
                    other => gone(other),
                }
            }
            Self::Endpoint(Some(spec), None) => gone(plane.detach_endpoint(spec.id, false)),
            Self::Policy(scope, _, None) => gone(plane.set_policy(*scope, None)),
            Self::Policy(scope, _, Some(policy)) => plane.set_policy(*scope, Some(policy)),
            Self::Names(_, Some(record)) => plane.set_names(record),
            Self::Names(Some(record), None) => {
                gone(plane.remove_names(record.network, record.owner))
            }
            Self::Service(_, Some(spec)) => plane.set_service(spec),
            Self::Service(Some(spec), None) => gone(plane.remove_service(spec.id)),
            Self::Publish(from, Some(spec)) => {
                if from.is_some() {
                    gone(plane.publish_remove(spec.id))?;
                }
                let published = plane.publish_add(spec)?;
                return Ok(Done::Published(spec.clone(), published));
            }
            Self::Publish(Some(spec), None) => gone(plane.publish_remove(spec.id)),
            Self::Peer(_, Some(spec)) => plane.set_peer(spec),
            Self::Peer(Some(spec), None) => gone(plane.remove_peer(spec.id)),
            Self::Network(None, None)
            | Self::Endpoint(None, None)
            | Self::Names(None, None)
            | Self::Service(None, None)
            | Self::Publish(None, None)
            | Self::Peer(None, None) => Ok(()),
        };
        plain.map(|()| Done::Plain)
    }
}

fn gone(result: Result<(), PlaneError>) -> Result<(), PlaneError> {
    match result {
        Err(
            PlaneError::NoNetwork(_)
            | PlaneError::NoEndpoint(_)
            | PlaneError::NoPublish(_)
            | PlaneError::NoService(_)
            | PlaneError::NoPeer(_),
        ) => Ok(()),
        other => other,
    }
}

/// What the store must write.
#[must_use]
pub fn writes(old: &Model, new: &Model) -> Vec<Write> {
    fn push<T: Serialize + PartialEq>(
        to: &mut Vec<Write>,
        key: Key,
        old: Option<&T>,
        new: Option<&T>,
    ) {
        if old != new {
            to.push(Write::new(key, new));
        }
    }
    let mut list = Vec::new();
    for (id, a, b) in old.networks.changed(&new.networks) {
        push(&mut list, Key::Network(id), a, b);
    }
    for (id, a, b) in old.endpoints.changed(&new.endpoints) {
        push(&mut list, Key::Endpoint(id), a, b);
    }
    for (id, a, b) in old.publishes.changed(&new.publishes) {
        push(&mut list, Key::Publish(id), a, b);
    }
    for (id, a, b) in old.services.changed(&new.services) {
        push(&mut list, Key::Service(id), a, b);
    }
    for (scope, a, b) in old.policies.changed(&new.policies) {
        push(&mut list, Key::Policy(scope), a, b);
    }
    for (id, a, b) in old.peers.changed(&new.peers) {
        push(&mut list, Key::Peer(id), a, b);
    }
    for (id, a, b) in old.leaving.changed(&new.leaving) {
        push(&mut list, Key::Leaving(id), a, b);
    }
    push(
        &mut list,
        Key::Counters,
        Some(&old.counters),
        Some(&new.counters),
    );
    list
}

/// What the data plane must do. An endpoint of which anything but the default route differs is detached and attached.
#[must_use]
pub fn steps(old: &Model, new: &Model) -> Vec<Step> {
    let mut down = Vec::new();
    let mut up = Vec::new();
    let networks = old.networks.changed(&new.networks);
    let endpoints = old.endpoints.changed(&new.endpoints);
    let moved: BTreeSet<EndpointId> = endpoints
        .iter()
        .filter(|(_, a, b)| !matches!((a, b), (Some(a), Some(b)) if same_interface(a, b)))
        .map(|&(id, _, _)| id)
        .collect();
    publishes(old, new, &moved, &mut down, &mut up);
    let (mut service_down, mut service_up) = (Vec::new(), Vec::new());
    services(old, new, &moved, &mut service_down, &mut service_up);
    down.append(&mut service_down);
    let (mut policy_down, mut policy_up) = policies(old, new, &moved);
    let (mut name_down, mut name_up) = (Vec::new(), Vec::new());
    let (mut detach, mut attach) = (Vec::new(), Vec::new());
    for (id, a, b) in endpoints {
        let (names_a, names_b) = (a.map(EndpointRecord::record), b.map(EndpointRecord::record));
        let (spec_a, spec_b) = (boxed(a), boxed(b));
        if moved.contains(&id) {
            if a.is_some() {
                name_down.push(Step::Names(names_a, None));
                detach.push(Step::Endpoint(spec_a, None));
            }
            if b.is_some() {
                attach.push(Step::Endpoint(None, spec_b));
                name_up.push(Step::Names(None, names_b));
            }
            continue;
        }
        if spec_a != spec_b {
            attach.push(Step::Endpoint(spec_a, spec_b));
        }
        if names_a != names_b {
            name_up.push(Step::Names(names_a, names_b));
        }
    }
    down.append(&mut name_down);
    down.append(&mut policy_down);
    down.append(&mut detach);
    let (mut removed, mut made) = (Vec::new(), Vec::new());
    for (_, a, b) in networks {
        let (a, b) = (a.map(|n| n.spec.clone()), b.map(|n| n.spec.clone()));
        match (&a, &b) {
            (Some(_), None) => removed.push(Step::Network(a, b)),
            _ if a != b => made.push(Step::Network(a, b)),
            _ => {}
        }
    }
    let (mut part, mut meet) = peers(old, new);
    let mut all = down;
    all.append(&mut part);
    all.append(&mut removed);
    all.append(&mut made);
    all.append(&mut meet);
    all.append(&mut attach);
    all.append(&mut policy_up);
    all.append(&mut name_up);
    all.append(&mut service_up);
    all.append(&mut up);
    all
}

fn boxed(record: Option<&EndpointRecord>) -> Option<Box<EndpointSpec>> {
    record.map(|e| Box::new(e.spec.clone()))
}

fn same_interface(a: &EndpointRecord, b: &EndpointRecord) -> bool {
    let routed = EndpointSpec {
        default_route: b.spec.default_route,
        ..a.spec.clone()
    };
    routed == b.spec
}

fn publishes(
    old: &Model,
    new: &Model,
    moved: &BTreeSet<EndpointId>,
    down: &mut Vec<Step>,
    up: &mut Vec<Step>,
) {
    let rule = |id, model: &Model| model.publishes.get(&id).map(|p| p.spec.clone());
    let changes = old.publishes.changed(&new.publishes);
    let touched = changes.iter().map(|&(id, _, _)| id);
    let carried = old
        .publishes
        .iter()
        .filter(|(_, p)| moved.contains(&p.spec.endpoint));
    let ids: BTreeSet<_> = touched.chain(carried.map(|(&id, _)| id)).collect();
    for id in ids {
        let (a, b) = (rule(id, old), rule(id, new));
        let kept = a == b && !b.as_ref().is_some_and(|p| moved.contains(&p.endpoint));
        if kept {
            continue;
        }
        if a.is_some() {
            down.push(Step::Publish(a, None));
        }
        if b.is_some() {
            up.push(Step::Publish(None, b));
        }
    }
}

fn services(
    old: &Model,
    new: &Model,
    moved: &BTreeSet<EndpointId>,
    down: &mut Vec<Step>,
    up: &mut Vec<Step>,
) {
    let ids: BTreeSet<ServiceId> = old
        .services
        .keys()
        .chain(new.services.keys())
        .copied()
        .collect();
    for id in ids {
        let (before, after) = (old.services.get(&id), new.services.get(&id));
        if let (Some(a), Some(b)) = (before, after)
            && Arc::ptr_eq(a, b)
            && moved.is_empty()
        {
            continue;
        }
        let mut now = before.map(|s| old.service_spec(s));
        let then = after.map(|s| new.service_spec(s));
        match (&now, &then) {
            (Some(a), None) => {
                down.push(Step::Names(before.map(|s| s.record()), None));
                down.push(Step::Service(Some(a.clone()), None));
                continue;
            }
            (Some(a), Some(_)) if a.backends.iter().any(|b| moved.contains(&b.endpoint)) => {
                // Backends leave before their endpoints do.
                let mut less = a.clone();
                less.backends.retain(|b| !moved.contains(&b.endpoint));
                down.push(Step::Service(now.clone(), Some(less.clone())));
                now = Some(less);
            }
            _ => {}
        }
        if now != then {
            up.push(Step::Service(now, then));
        }
        let (a, b) = (before.map(|s| s.record()), after.map(|s| s.record()));
        if a != b {
            up.push(Step::Names(a, b));
        }
    }
}

/// What becomes of peers: before networks go, and when those that come are there.
fn peers(old: &Model, new: &Model) -> (Vec<Step>, Vec<Step>) {
    let (mut down, mut up) = (Vec::new(), Vec::new());
    let touched = |m: &Model, id| m.peers.get(&id).map(|p| Box::new(m.peer_spec(p)));
    let mut ids: BTreeSet<PeerId> = old.peers.changed(&new.peers).iter().map(|c| c.0).collect();
    if !old.networks.changed(&new.networks).is_empty() {
        ids.extend(new.peers.keys());
    }
    for id in ids {
        let (mut now, then) = (touched(old, id), touched(new, id));
        if then.is_none() {
            down.push(Step::Peer(now, None));
            continue;
        }
        if let Some(before) = &now {
            let stays = |n: &NetworkId| new.networks.contains_key(n);
            if !before.networks.iter().all(stays) {
                let mut less = before.clone();
                less.networks.retain(stays);
                down.push(Step::Peer(now, Some(less.clone())));
                now = Some(less);
            }
        }
        if now != then {
            up.push(Step::Peer(now, then));
        }
    }
    (down, up)
}

fn policies(old: &Model, new: &Model, moved: &BTreeSet<EndpointId>) -> (Vec<Step>, Vec<Step>) {
    let (mut down, mut up) = (Vec::new(), Vec::new());
    let scopes: BTreeSet<PolicyScope> = old
        .policies
        .keys()
        .chain(new.policies.keys())
        .copied()
        .collect();
    for scope in scopes {
        let spec = |m: &Model| m.policies.get(&scope).map(|p| p.spec.clone());
        let (a, b) = (spec(old), spec(new));
        let stays = match scope {
            PolicyScope::Network(id) => both(old, new, id),
            PolicyScope::Endpoint(id) => !moved.contains(&id),
        };
        if stays {
            if a != b {
                up.push(Step::Policy(scope, a, b));
            }
            continue;
        }
        if a.is_some() {
            down.push(Step::Policy(scope, a, None));
        }
        if b.is_some() {
            up.push(Step::Policy(scope, None, b));
        }
    }
    (down, up)
}

fn both(old: &Model, new: &Model, id: NetworkId) -> bool {
    old.networks.contains_key(&id) && new.networks.contains_key(&id)
}
