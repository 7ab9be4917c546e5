//! `weft apply`: from a file to a changed model, and the difference in words.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Facts, endpoint, network, overlay, peer, policy, publish, service};
use crate::config::topology::Topology;
use crate::config::wish::{EndpointWish, PeerWish, PolicyWish};
use crate::config::{Code, Problem};
use crate::control::ids::{EndpointId, PublishId};
use crate::control::key::Secret;
use crate::control::model::{Model, NetworkRecord, Origin, PeerRecord};
use crate::control::policy::PolicyScope;
use crate::control::spec::{Carrier, NetworkSpec, PeerCarrier, Sandbox};

/// One line of the difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Change {
    /// `add`, `change` or `remove`.
    pub action: String,
    /// `network`, `endpoint`, `publish`, `service`, `policy` or `peer`.
    pub kind: String,
    /// Which.
    pub name: String,
}

/// Whom a file's endpoint means, as the data plane or a pretence of it says.
pub type Identify<'a> = dyn FnMut(&Model, &EndpointWish) -> Result<Sandbox, Problem> + 'a;

/// Makes the model what the file says: what is as asked for stays untouched, what a file has made before and is not in this
/// one goes, what commands have made stays.
/// Errors: of everything that is made, with the place in the file as field.
pub fn apply(
    model: &mut Model,
    facts: &Facts,
    file: &Topology,
    identify: &mut Identify<'_>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Change>, Problem> {
    file.daemon.check().map_err(|p| p.inside("daemon"))?;
    twice(file)?;
    let before = model.clone();
    sweep(model, file);
    for (at, wish) in file.network.iter().enumerate() {
        let place = format!("network.{at}");
        let there = model.networks.values().find(|n| n.spec.name == wish.name);
        match there {
            Some(n) if n.wish == *wish => {}
            Some(n) => {
                let old = n.as_ref().clone();
                renew(model, facts, &old, wish, warnings).map_err(|p| p.inside(&place))?;
            }
            None => {
                network::create(model, facts, wish, Origin::File, warnings)
                    .map_err(|p| p.inside(&place))?;
            }
        }
    }
    for (at, wish) in file.peer.iter().enumerate() {
        if !model.peer(&wish.name).is_ok_and(|p| same_peer(p, wish)) {
            peer::renew(model, facts, wish, Origin::File)
                .map_err(|p| p.inside(&format!("peer.{at}")))?;
        }
    }
    let mut joined = BTreeSet::new();
    for (at, wish) in file.endpoint.iter().enumerate() {
        join(model, wish, identify, &mut joined)
            .map_err(|p| p.inside(&format!("endpoint.{at}")))?;
    }
    for (at, wish) in file.publish.iter().enumerate() {
        let place = format!("publish.{at}");
        let missing: Vec<(usize, String)> = wish
            .ports
            .iter()
            .enumerate()
            .filter(|(_, port)| !published(model, wish, port))
            .map(|(i, port)| (i, port.clone()))
            .collect();
        for (i, port) in missing {
            let mut one = wish.clone();
            one.ports = vec![port];
            publish::add(model, facts, &one, Origin::File).map_err(|mut p| {
                if p.field.as_deref() == Some("ports.0") {
                    p.field = Some(format!("ports.{i}"));
                }
                p.inside(&place)
            })?;
        }
    }
    for (at, wish) in file.service.iter().enumerate() {
        let same = |m: &Model| {
            m.service(&wish.network, &wish.name)
                .is_ok_and(|s| s.wish == *wish)
        };
        if !same(model) {
            service::create(model, wish, true, Origin::File)
                .map_err(|p| p.inside(&format!("service.{at}")))?;
        }
    }
    Ok(describe(&before, model))
}

/// Refuses a file that names one thing twice: which of them is meant? Endpoints are told apart when they join.
fn twice(file: &Topology) -> Result<(), Problem> {
    let refused = |code: Code, what: String, field: String| {
        Problem::new(code, format!("{what} is twice in the file")).at(&field)
    };
    let mut networks = BTreeSet::new();
    for (at, wish) in file.network.iter().enumerate() {
        if !networks.insert(&wish.name) {
            let what = format!("network '{}'", wish.name);
            return Err(refused(Code::NameTaken, what, format!("network.{at}.name")));
        }
    }
    let mut peers = BTreeSet::new();
    for (at, wish) in file.peer.iter().enumerate() {
        if !peers.insert(&wish.name) {
            let what = format!("peer '{}'", wish.name);
            return Err(refused(Code::NameTaken, what, format!("peer.{at}.name")));
        }
    }
    let mut services = BTreeSet::new();
    for (at, wish) in file.service.iter().enumerate() {
        if !services.insert((&wish.network, &wish.name)) {
            let what = format!("service '{}' of network '{}'", wish.name, wish.network);
            return Err(refused(Code::NameTaken, what, format!("service.{at}.name")));
        }
    }
    let mut ports = BTreeSet::new();
    for (at, wish) in file.publish.iter().enumerate() {
        for (i, port) in wish.ports.iter().enumerate() {
            if !ports.insert((&wish.sandbox, &wish.network, port)) {
                let what = format!("'{port}' of sandbox '{}'", wish.sandbox);
                let field = format!("publish.{at}.ports.{i}");
                return Err(refused(Code::PortTaken, what, field));
            }
        }
    }
    Ok(())
}

/// True for a peer that is as asked for; the secret is not among what is kept of the wish.
fn same_peer(record: &PeerRecord, wish: &PeerWish) -> bool {
    let secret = match record.carrier {
        PeerCarrier::Sealed { secret, .. } => secret,
        PeerCarrier::Vxlan { .. } | PeerCarrier::FlannelUdp { .. } => Secret::default(),
    };
    let bare = PeerWish {
        secret: None,
        ..wish.clone()
    };
    record.wish == bare && secret == wish.secret.unwrap_or_default()
}

/// Takes away what a file has made and this one does not name.
fn sweep(model: &mut Model, file: &Topology) {
    let others: Vec<_> = model
        .peers
        .values()
        .filter(|p| !file.peer.iter().any(|w| same_peer(p, w)))
        .filter(|p| file.peer.iter().any(|w| w.name == p.wish.name))
        .map(|p| p.id)
        .collect();
    for id in others {
        // What it is on is settled anew, when the networks are there.
        if let Some(peer) = model.peers.get_mut(&id) {
            std::sync::Arc::make_mut(peer).networks = Some(Vec::new());
        }
    }
    model
        .peers
        .retain(|_, p| p.origin != Origin::File || file.peer.iter().any(|w| w.name == p.wish.name));
    let gone_services: Vec<_> = model
        .services
        .values()
        .filter(|s| s.origin == Origin::File)
        .filter(|s| {
            let named = |w: &&crate::config::wish::ServiceWish| {
                w.name == s.wish.name && w.network == s.wish.network
            };
            !file.service.iter().any(|w| named(&w))
        })
        .map(|s| s.id)
        .collect();
    for id in gone_services {
        model.services.remove(&id);
    }
    let gone_rules: Vec<PublishId> = model
        .publishes
        .values()
        .filter(|p| p.origin == Origin::File)
        .filter(|p| {
            !file.publish.iter().any(|w| {
                w.sandbox == p.wish.sandbox
                    && w.network == p.wish.network
                    && p.wish.ports.iter().all(|port| w.ports.contains(port))
            })
        })
        .map(|p| p.spec.id)
        .collect();
    for id in gone_rules {
        model.publishes.remove(&id);
    }
    let gone: Vec<_> = model
        .endpoints
        .values()
        .filter(|e| e.origin == Origin::File && !file.endpoint.contains(&e.wish))
        .map(|e| e.spec.id)
        .collect();
    for id in gone {
        endpoint::forget(model, id);
    }
    let names: BTreeSet<&str> = file.network.iter().map(|n| n.name.as_str()).collect();
    let gone: Vec<String> = model
        .networks
        .values()
        .filter(|n| n.origin == Origin::File && !names.contains(n.spec.name.as_str()))
        .map(|n| n.spec.name.clone())
        .collect();
    for name in gone {
        // One that commands have put something on stays.
        let _ = network::remove(model, &name);
    }
}

/// Changes a network in place: its number, its MAC and its endpoints stay; so do its subnets unless others are asked for,
/// which is refused while something is on it.
fn renew(
    model: &mut Model,
    facts: &Facts,
    old: &NetworkRecord,
    wish: &crate::config::wish::NetworkWish,
    warnings: &mut Vec<String>,
) -> Result<(), Problem> {
    let id = old.spec.id;
    let policy_before = model.policies.remove(&PolicyScope::Network(id));
    model.networks.remove(&id);
    let made = network::create(model, facts, wish, Origin::File, warnings)?;
    let (Some(new), policy_new) = (
        model.networks.remove(&made),
        model.policies.remove(&PolicyScope::Network(made)),
    ) else {
        return Ok(());
    };
    let mut record = (*new).clone();
    record.spec.id = id;
    record.spec.gateway_mac = old.spec.gateway_mac;
    let carrier = record.spec.overlay.map(|o| o.carrier);
    let subnets = |w: &crate::config::wish::NetworkWish| {
        (
            w.subnet.clone(),
            w.subnet6.clone(),
            w.gateway.clone(),
            w.gateway6.clone(),
            w.ipv6,
            // There the gateway follows it.
            w.ip_range
                .clone()
                .filter(|_| carrier == Some(Carrier::FlannelUdp)),
        )
    };
    if subnets(wish) == subnets(&old.wish) {
        record.spec.v4 = old.spec.v4;
        record.spec.v6 = old.spec.v6;
        record.last4 = old.last4;
        record.last6 = old.last6;
        record.range = network::range(wish, record.spec.v4.as_ref(), carrier)?;
        if let (Some(overlay), Some(range)) = (&mut record.spec.overlay, record.range) {
            overlay.range = range;
        }
    }
    let frame = |s: &NetworkSpec| {
        let overlay = s.overlay.map(|o| (o.vni, o.carrier, o.port));
        (s.v4, s.v6, s.driver, overlay)
    };
    let stays = frame(&record.spec) == frame(&old.spec);
    let spec = record.spec.clone();
    let turned = record.spec.uplink != old.spec.uplink;
    model.networks.insert(id, std::sync::Arc::new(record));
    if turned {
        let names: BTreeSet<String> = model.on_network(id).map(|e| e.name.clone()).collect();
        for name in names {
            endpoint::route(model, &name);
        }
    }
    // A policy that a command has set stays where the file has none.
    let kept = policy_before.filter(|p| p.origin == Origin::Command && wish.policy.is_none());
    if let Some(policy) = policy_new.or(kept) {
        model.policies.insert(PolicyScope::Network(id), policy);
    }
    if !stays {
        // Refused with their names when something is on it.
        let mut copy = model.clone();
        network::remove(&mut copy, &wish.name)?;
    }
    overlay::apart(model, &spec, "ip-range")
}

/// `joined`: the endpoints that this file has named already, and which are not to be named again.
fn join(
    model: &mut Model,
    wish: &EndpointWish,
    identify: &mut Identify<'_>,
    joined: &mut BTreeSet<EndpointId>,
) -> Result<(), Problem> {
    let sandbox = identify(model, wish)?;
    let there = model
        .inside(&sandbox)
        .find(|e| e.wish.network == wish.network && !joined.contains(&e.spec.id))
        .map(std::sync::Arc::clone);
    match there {
        Some(e) if e.wish == *wish && e.spec.sandbox == sandbox => {
            joined.insert(e.spec.id);
            return Ok(());
        }
        // Only what may pass differs: the interface stays.
        Some(e) if e.origin == Origin::File && unpolicied(&e.wish) == unpolicied(wish) => {
            joined.insert(e.spec.id);
            let scope = PolicyScope::Endpoint(e.spec.id);
            return set(model, scope, wish.policy.as_ref());
        }
        Some(e) if e.origin == Origin::File => endpoint::forget(model, e.spec.id),
        _ => {}
    }
    joined.insert(endpoint::connect(model, wish, &sandbox, Origin::File)?);
    Ok(())
}

fn set(model: &mut Model, scope: PolicyScope, wish: Option<&PolicyWish>) -> Result<(), Problem> {
    policy::set(model, scope, wish, Origin::File).map_err(|p| p.inside("policy"))
}

fn unpolicied(wish: &EndpointWish) -> EndpointWish {
    EndpointWish {
        policy: None,
        ..wish.clone()
    }
}

fn published(model: &Model, wish: &crate::config::wish::PublishWish, port: &String) -> bool {
    model.publishes.values().any(|p| {
        p.wish.sandbox == wish.sandbox
            && p.wish.network == wish.network
            && p.wish.ports.contains(port)
    })
}

/// The difference of two models in words.
fn describe(old: &Model, new: &Model) -> Vec<Change> {
    let mut all = Vec::new();
    let mut push =
        |kind: &str, before: Option<(String, String)>, after: Option<(String, String)>| {
            let action = match (&before, &after) {
                (Some(a), Some(b)) if a == b => return,
                (Some(_), Some(_)) => "change",
                (Some(_), None) => "remove",
                (None, Some(_)) => "add",
                (None, None) => return,
            };
            let name = after.or(before).map(|(name, _)| name).unwrap_or_default();
            all.push(Change {
                action: action.to_owned(),
                kind: kind.to_owned(),
                name,
            });
        };
    let network = |m: &Model, id| {
        m.networks
            .get(&id)
            .map(|n| (n.spec.name.clone(), format!("{:?}", n.spec)))
    };
    for (id, ..) in old.networks.changed(&new.networks) {
        push("network", network(old, id), network(new, id));
    }
    let endpoint = |m: &Model, id| {
        m.endpoints.get(&id).map(|e| {
            let name = format!("{} on {}", e.name, m.network_name(e.spec.network));
            (name, format!("{:?} {:?}", e.spec, e.names))
        })
    };
    for (id, ..) in old.endpoints.changed(&new.endpoints) {
        push("endpoint", endpoint(old, id), endpoint(new, id));
    }
    let rule = |m: &Model, id| {
        m.publishes.get(&id).map(|p| {
            (
                format!("{} to {}", p.spec.rule, p.wish.sandbox),
                String::new(),
            )
        })
    };
    for (id, ..) in old.publishes.changed(&new.publishes) {
        push("publish", rule(old, id), rule(new, id));
    }
    let service = |m: &Model, id| {
        m.services
            .get(&id)
            .map(|s| (s.wish.name.clone(), format!("{s:?}")))
    };
    for (id, ..) in old.services.changed(&new.services) {
        push("service", service(old, id), service(new, id));
    }
    let peer = |m: &Model, id| {
        m.peers
            .get(&id)
            .map(|p| (p.wish.name.clone(), format!("{:?}", m.peer_spec(p))))
    };
    for (id, a, b) in old.peers.changed(&new.peers) {
        // A secret is not told, and may be all that differs.
        let turned = matches!((a, b), (Some(a), Some(b)) if a.carrier != b.carrier);
        let mark = |p: Option<(String, String)>, side: &str| {
            p.map(|(name, text)| (name, if turned { side.to_owned() } else { text }))
        };
        push(
            "peer",
            mark(peer(old, id), "old"),
            mark(peer(new, id), "new"),
        );
    }
    let policy = |m: &Model, scope| {
        m.policies.get(&scope).map(|p| {
            let name = match scope {
                PolicyScope::Network(id) => m.network_name(id),
                PolicyScope::Endpoint(id) => m.endpoints.get(&id).map_or_else(String::new, |e| {
                    format!("{} on {}", e.name, m.network_name(e.spec.network))
                }),
            };
            (name, format!("{:?}", p.spec))
        })
    };
    for (scope, ..) in old.policies.changed(&new.policies) {
        push("policy", policy(old, scope), policy(new, scope));
    }
    all
}
