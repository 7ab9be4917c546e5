//! Services: a virtual address and a name in front of sandboxes of one network.

use std::sync::Arc;

use switch_core::nat::service::station;

use super::{endpoint, name, not_reserved, vlan};
use crate::config::problem::coded;
use crate::config::wish::ServiceWish;
use crate::config::{Code, PortRange, Problem, Proto};
use crate::control::ids::ServiceId;
use crate::control::model::{Model, Origin, ServiceRecord};
use crate::control::spec::ServicePort;

/// Ports of a service at most.
const PORTS: usize = 64;
/// Backends of a service at most.
const BACKENDS: usize = 1024;

/// Makes a service, or changes the one of that name on the network: its address stays, unless another is asked for.
/// Errors: of names, ports and addresses; `UnknownNetwork`, `UnknownEndpoint`, `NameTaken`, `AddressTaken`, `PoolFull`,
/// `MacTaken`.
pub fn create(
    model: &mut Model,
    wish: &ServiceWish,
    replace: bool,
    origin: Origin,
) -> Result<ServiceId, Problem> {
    let network = Arc::clone(model.network(&wish.network)?);
    let on = network.spec.id;
    name(&wish.name, "name")?;
    not_reserved(&wish.name, "name")?;
    let old = model.services_on(on).find(|s| s.wish.name == wish.name);
    let old = old.map(Arc::clone);
    if let (Some(_), false) = (&old, replace) {
        let message = format!(
            "there is a service '{}' on network '{}' already",
            wish.name, wish.network
        );
        return Err(Problem::new(Code::NameTaken, message).at("name"));
    }
    let same = |name: &String| name.eq_ignore_ascii_case(&wish.name);
    // Whoever asks for a name need not keep its case (RFC 4343).
    let another = |s: &&Arc<ServiceRecord>| s.wish.name != wish.name && same(&s.wish.name);
    if let Some(other) = model.services_on(on).find(another) {
        let message = format!(
            "there is a service '{}' on network '{}' already",
            other.wish.name, wish.network
        );
        return Err(Problem::new(Code::NameTaken, message).at("name"));
    }
    if model.on_network(on).any(|e| e.names.iter().any(same)) {
        let message = format!(
            "the name '{}' is a sandbox's on network '{}'",
            wish.name, wish.network
        );
        return Err(Problem::new(Code::NameTaken, message).at("name"));
    }
    let ports = ports(wish)?;
    backends(model, wish)?;
    if let Some(old) = &old {
        model.services.remove(&old.id);
    }
    let kept = old
        .as_ref()
        .map(|o| (o.v4.map(|a| a.to_string()), o.v6.map(|a| a.to_string())));
    let (kept4, kept6) = kept.unwrap_or_default();
    let (ip, ip6) = (wish.ip.clone().or(kept4), wish.ip6.clone().or(kept6));
    let (v4, v6) = endpoint::addresses(model, &network, ip.as_deref(), ip6.as_deref())?;
    endpoint::remember(model, on, v4, v6);
    let id = old.map_or_else(|| model.next_service(), |o| o.id);
    let record = ServiceRecord {
        wish: wish.clone(),
        id,
        network: on,
        v4,
        v6,
        ports,
        origin,
    };
    let mac = station(&record.record().addrs);
    if let Some(other) = model.on_network(on).find(|e| Some(e.spec.mac) == mac) {
        let message = format!(
            "the MAC of a service at that address belongs to sandbox '{}' on network '{}'",
            other.name, wish.network
        );
        return Err(Problem::new(Code::MacTaken, message).at("ip"));
    }
    model.services.insert(id, Arc::new(record));
    Ok(id)
}

/// Takes a service away. Errors: `UnknownNetwork`, `UnknownService`.
pub fn remove(model: &mut Model, network: &str, name: &str) -> Result<ServiceId, Problem> {
    let id = model.service(network, name)?.id;
    model.services.remove(&id);
    Ok(id)
}

fn backends(model: &Model, wish: &ServiceWish) -> Result<(), Problem> {
    if wish.backends.len() > BACKENDS {
        let message = format!("{} backends: at most {BACKENDS}", wish.backends.len());
        return Err(Problem::new(Code::BadOption, message).at("backends"));
    }
    for (at, backend) in wish.backends.iter().enumerate() {
        let field = format!("backends.{at}");
        let found = model.endpoint(&wish.network, backend);
        if found.is_err() && model.network(&wish.network)?.spec.has_names_elsewhere() {
            // It is on another host, or will be.
            name(backend, &field)?;
            continue;
        }
        let found = found.map_err(|p| Problem { field: None, ..p }.at(&field))?;
        vlan::meets_gateway(found, &field)?;
    }
    Ok(())
}

fn ports(wish: &ServiceWish) -> Result<Vec<ServicePort>, Problem> {
    let mut all: Vec<ServicePort> = Vec::new();
    for (at, text) in wish.ports.iter().enumerate() {
        let field = format!("ports.{at}");
        let bad = |why: String| Problem::new(Code::BadPorts, why).at(&field);
        let (rest, proto) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.split('/').next().unwrap_or_default(), Proto::Tcp),
            Some((rest, "udp")) => (rest, Proto::Udp),
            Some((_, other)) => return Err(bad(format!("'{other}' is neither tcp nor udp"))),
        };
        let (port, target) = rest.split_once(':').unwrap_or((rest, rest));
        let one = |t: &str| {
            let range: PortRange = coded(Code::BadPorts, &field, t.parse())?;
            if range.count() > 1 {
                return Err(bad(format!(
                    "'{t}': a service's ports are named one by one"
                )));
            }
            Ok(range.first())
        };
        let port = ServicePort {
            proto,
            port: one(port)?,
            target: one(target)?,
        };
        if all
            .iter()
            .any(|p| (p.proto, p.port) == (port.proto, port.port))
        {
            return Err(bad(format!("port {text} is given twice")));
        }
        all.push(port);
    }
    if all.is_empty() || all.len() > PORTS {
        let message = format!("a service has 1 to {PORTS} ports");
        return Err(Problem::new(Code::BadPorts, message).at("ports"));
    }
    Ok(all)
}
