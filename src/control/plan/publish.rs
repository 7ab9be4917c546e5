//! Published ports.

use std::sync::Arc;

use super::{Facts, overlay, vlan};
use crate::config::problem::coded;
use crate::config::publish::{DESCRIPTOR_RESERVE, PublishRule};
use crate::config::wish::PublishWish;
use crate::config::{Code, PortRange, Problem, Proto};
use crate::control::ids::{EndpointId, PublishId};
use crate::control::model::{Model, Origin, PublishRecord};
use crate::control::spec::PublishSpec;

/// Publishes ports of a sandbox. Each text becomes a rule; one that leaves several ports to the host, a rule for each, so
/// that what the host chooses can be written down.
/// Errors: `BadPorts`, `UnknownSandbox`, `UnknownEndpoint`, `PortTaken`, `Full`.
pub fn add(
    model: &mut Model,
    facts: &Facts,
    wish: &PublishWish,
    origin: Origin,
) -> Result<Vec<PublishId>, Problem> {
    let endpoint = model.endpoint_of(&wish.sandbox, wish.network.as_deref())?;
    vlan::meets_gateway(endpoint, "sandbox")?;
    let endpoint = endpoint.spec.id;
    if wish.ports.is_empty() {
        return Err(Problem::new(Code::BadPorts, "no port is given").at("ports"));
    }
    let mut ids = Vec::new();
    for (at, text) in wish.ports.iter().enumerate() {
        let field = format!("ports.{at}");
        let rule = parse(text).map_err(|p| p.at(&field))?;
        for rule in split(rule) {
            apart(model, &rule).map_err(|p| p.at(&field))?;
            let one = PublishWish {
                ports: vec![text.clone()],
                ..wish.clone()
            };
            ids.push(insert(model, endpoint, rule, one, origin));
        }
    }
    let sockets: u64 = model
        .publishes
        .values()
        .map(|p| p.spec.rule.sockets())
        .sum();
    if sockets + DESCRIPTOR_RESERVE > facts.descriptors {
        let message = format!(
            "the published ports need {} descriptors and the hard limit is {}: publish fewer or raise it (ulimit -Hn)",
            sockets + DESCRIPTOR_RESERVE,
            facts.descriptors
        );
        return Err(Problem::new(Code::Full, message).at("ports"));
    }
    Ok(ids)
}

/// Takes a rule away. Errors: `UnknownPublish`.
pub fn remove(model: &mut Model, id: PublishId) -> Result<(), Problem> {
    let gone = model.publishes.remove(&id).map(drop);
    gone.ok_or_else(|| {
        let message =
            format!("there is no publish rule {id}; 'weft publish ls' lists those there are");
        Problem::new(Code::UnknownPublish, message)
    })
}

fn parse(text: &str) -> Result<PublishRule, Problem> {
    // The text of a rule is the same in messages and in the store, where a star leaves the port to the host.
    let value = serde_json::Value::String(text.to_owned());
    let parsed = serde_json::from_value(value);
    coded(Code::BadPorts, "ports", parsed.map_err(anyhow::Error::new))
        .map_err(|p| Problem { field: None, ..p })
}

fn split(rule: PublishRule) -> Vec<PublishRule> {
    if rule.host.is_some() {
        return vec![rule];
    }
    let ports = rule.guest.first()..=rule.guest.last();
    let one = |port| PortRange::new(port, port);
    ports
        .filter_map(one)
        .map(|guest| PublishRule {
            guest,
            ..rule.clone()
        })
        .collect()
}

fn apart(model: &Model, rule: &PublishRule) -> Result<(), Problem> {
    let udp = rule.host.filter(|_| rule.proto == Proto::Udp);
    if let Some((port, network)) = udp.and_then(|r| overlay::tunnels_on(model, r.first(), r.last()))
    {
        let message = format!("udp port {port} is that of the tunnels of network '{network}'");
        return Err(Problem::new(Code::PortTaken, message));
    }
    let mut all = model.publishes.values();
    let Some(other) = all.find(|p| p.spec.rule.overlaps(rule)) else {
        return Ok(());
    };
    let message = format!(
        "'{rule}' overlaps '{}' of sandbox '{}': a port of the host can lead to one place only",
        other.spec.rule, other.wish.sandbox
    );
    Err(Problem::new(Code::PortTaken, message))
}

fn insert(
    model: &mut Model,
    endpoint: EndpointId,
    rule: PublishRule,
    wish: PublishWish,
    origin: Origin,
) -> PublishId {
    let id = model.next_publish();
    let spec = PublishSpec { id, endpoint, rule };
    let record = PublishRecord { wish, spec, origin };
    model.publishes.insert(id, Arc::new(record));
    id
}
