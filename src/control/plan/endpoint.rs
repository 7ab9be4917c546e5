//! Endpoints: a sandbox joins a network, and leaves it.

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use switch_core::addr::Mac;
use switch_core::nat::service::station;

use super::{name, network, not_reserved, overlay, policy, random_mac, vlan};
use crate::config::ipam;
use crate::config::problem::coded;
use crate::config::wish::EndpointWish;
use crate::config::{Code, Problem, names};
use crate::control::ids::EndpointId;
use crate::control::model::{EndpointRecord, LeavingRecord, Model, NetworkRecord, Origin};
use crate::control::policy::PolicyScope;
use crate::control::spec::{EndpointSpec, Sandbox, SandboxRef, Uplink};

/// Bytes of a path at most. Source: `PATH_MAX` of linux/limits.h.
const PATH: usize = 4096;
/// Aliases of an endpoint at most; its host name and its sandbox's name come on top.
const ALIASES: usize = 32;

/// What the text of a sandbox means: a namespace, or the name of a sandbox that is known, which must still be the same one.
/// Errors: `BadSandbox`, `UnknownSandbox`.
pub fn parse_sandbox(model: &Model, text: &str) -> Result<(SandboxRef, Option<Sandbox>), Problem> {
    let bad = |message: String| Err(Problem::new(Code::BadSandbox, message).at("sandbox"));
    if text.is_empty() {
        return bad("a sandbox is missing: give a process id, a path or a name".to_owned());
    }
    if text.contains('\0') || text.len() > PATH {
        return bad("no path or name can be like that".to_owned());
    }
    let number = text.strip_prefix("pid:").unwrap_or(text);
    if number.bytes().all(|b| b.is_ascii_digit()) && !number.is_empty() {
        return match number.parse() {
            Ok(pid) if pid > 0 => Ok((SandboxRef::Pid(pid), None)),
            _ => bad(format!("'{text}' is not a process id")),
        };
    }
    if let Some(path) = text.strip_prefix("netns:").filter(|p| !p.is_empty()) {
        return match netns_path(path) {
            Some(path) => Ok((SandboxRef::Netns(path), None)),
            None => bad(format!(
                "'{text}': give a name below /run/netns, or an absolute path"
            )),
        };
    }
    if text.starts_with('/') {
        return Ok((SandboxRef::Netns(PathBuf::from(text)), None));
    }
    let known = text.strip_prefix("container:").unwrap_or(text);
    match model.of_sandbox(known).next() {
        Some(endpoint) => {
            let sandbox = &endpoint.spec.sandbox;
            Ok((sandbox.at.clone(), Some(sandbox.clone())))
        }
        None => Err(Problem::new(
            Code::UnknownSandbox,
            format!("there is no sandbox '{known}'; give a process id, netns:PATH, or a name of 'weft endpoint ls'"),
        )
        .at("sandbox")),
    }
}

/// As `ip netns` does: a bare name is a file below /run/netns. `None` for what cannot be one, and for a relative path, which
/// would be the daemon's.
fn netns_path(text: &str) -> Option<PathBuf> {
    match text {
        "." | ".." => None,
        _ if text.starts_with('/') => Some(PathBuf::from(text)),
        _ if text.contains('/') => None,
        _ => Some(PathBuf::from("/run/netns").join(text)),
    }
}

/// The name that a sandbox gets: the one asked for, the one it has, or that of the namespace's file.
/// Errors: `BadName`; `NameTaken` when it is another sandbox's, or this one has another.
pub fn sandbox_name(
    model: &Model,
    wish: &EndpointWish,
    sandbox: &Sandbox,
) -> Result<String, Problem> {
    let has = model.inside(sandbox).next().map(|e| e.name.clone());
    let wanted = match (&wish.name, &has, &sandbox.at) {
        (Some(name), Some(has), _) if name != has => {
            let message = format!("the sandbox is called '{has}' already");
            return Err(Problem::new(Code::NameTaken, message).at("name"));
        }
        (Some(name), _, _) => name.clone(),
        (None, Some(has), _) => has.clone(),
        (None, None, SandboxRef::Pid(pid)) => format!("pid-{pid}"),
        (None, None, SandboxRef::Netns(path)) => path
            .file_name()
            .map(|f| f.to_string_lossy().into_owned())
            .unwrap_or_default(),
    };
    name(&wanted, "name")?;
    // Whoever asks for a name need not keep its case (RFC 4343).
    let mut others = model.endpoints.values();
    if let Some(other) = others
        .find(|e| e.spec.sandbox.netns != sandbox.netns && e.name.eq_ignore_ascii_case(&wanted))
    {
        let message = format!(
            "the name '{}' belongs to another sandbox, on network '{}'",
            other.name,
            model.network_name(other.spec.network)
        );
        return Err(Problem::new(Code::NameTaken, message).at("name"));
    }
    Ok(wanted)
}

/// Joins a sandbox to a network.
/// Errors: of names, addresses and options; `UnknownNetwork`, `Connected`, `NameTaken`, `MacTaken`, `AddressTaken`,
/// `AddressOutside`, `PoolFull`.
pub fn connect(
    model: &mut Model,
    wish: &EndpointWish,
    sandbox: &Sandbox,
    origin: Origin,
) -> Result<EndpointId, Problem> {
    let network = Arc::clone(model.network(&wish.network)?);
    let name = sandbox_name(model, wish, sandbox)?;
    let on = network.spec.id;
    if model.inside(sandbox).any(|e| e.spec.network == on) {
        let message = format!("sandbox '{name}' is on network '{}' already", wish.network);
        return Err(Problem::new(Code::Connected, message).at("network"));
    }
    let names = all_names(model, &network, wish, &name)?;
    let mac = mac(model, &network, wish)?;
    let vlan = vlan::parse(wish)?;
    let (v4, v6) = if vlan.native().is_some() {
        addresses(model, &network, wish.ip.as_deref(), wish.ip6.as_deref())?
    } else {
        vlan::without_addresses(wish)?
    };
    let mtu = match wish.mtu {
        None => network.spec.mtu,
        Some(_) => network::mtu(wish.mtu)?,
    };
    if mtu > network.spec.mtu {
        let message = format!("mtu {mtu}: the network's is {}", network.spec.mtu);
        return Err(Problem::new(Code::BadOption, message).at("mtu"));
    }
    let id = model.next_endpoint();
    let spec = EndpointSpec {
        id,
        network: on,
        sandbox: sandbox.clone(),
        ifname: ifname(model, wish, sandbox)?,
        mac,
        v4,
        v6,
        mtu,
        kind: wish.kind.unwrap_or_default(),
        configure: !wish.no_configure,
        default_route: false,
        routes: Vec::new(),
        sysctls: sysctls(wish)?,
        persistent: true,
        vlan,
    };
    if wish.policy.is_some() {
        let scope = PolicyScope::Endpoint(id);
        policy::set(model, scope, wish.policy.as_ref(), origin).map_err(|p| p.inside("policy"))?;
    }
    let record = EndpointRecord {
        wish: wish.clone(),
        spec,
        name: name.clone(),
        names,
        priority: wish.priority.unwrap_or_default(),
        origin,
    };
    model.endpoints.insert(id, Arc::new(record));
    remember(model, on, v4, v6);
    route(model, &name);
    Ok(id)
}

/// Takes a sandbox off a network. Errors: `UnknownNetwork`, `UnknownEndpoint`.
pub fn disconnect(model: &mut Model, network: &str, name: &str) -> Result<EndpointId, Problem> {
    let id = model.endpoint(network, name)?.spec.id;
    forget(model, id);
    Ok(id)
}

/// Takes an endpoint away with what hangs on it; its sandbox's default route goes elsewhere.
pub fn forget(model: &mut Model, id: EndpointId) {
    model.policies.remove(&PolicyScope::Endpoint(id));
    model.publishes.retain(|_, p| p.spec.endpoint != id);
    let Some(gone) = model.endpoints.remove(&id) else {
        return;
    };
    if let Some(network) = model.networks.get(&gone.spec.network) {
        let leaving = LeavingRecord {
            network: network.spec.clone(),
            endpoint: gone.spec.clone(),
        };
        model.leaving.insert(id, Arc::new(leaving));
    }
    route(model, &gone.name);
}

/// Gives the default route of a sandbox to its endpoint of highest priority, the oldest of several. A network without a way
/// out gives none, nor does a VLAN, where no gateway is.
pub fn route(model: &mut Model, name: &str) {
    let leads_out = |e: &&Arc<EndpointRecord>| {
        let network = model.networks.get(&e.spec.network);
        let out = network.is_some_and(|n| n.spec.uplink != Uplink::None);
        out && e.spec.vlan.meets_gateway()
    };
    let rank = |e: &&Arc<EndpointRecord>| (e.priority, std::cmp::Reverse(e.spec.id));
    let ways = model.of_sandbox(name).filter(leads_out);
    let best = ways.max_by_key(rank).map(|e| e.spec.id);
    let has = |e: &Arc<EndpointRecord>| Some(e.spec.id) == best;
    let wrong = model
        .of_sandbox(name)
        .filter(|e| e.spec.default_route != has(e));
    let wrong: Vec<_> = wrong.map(|e| e.spec.id).collect();
    for id in wrong {
        if let Some(endpoint) = model.endpoints.get_mut(&id) {
            Arc::make_mut(endpoint).spec.default_route = Some(id) == best;
        }
    }
}

fn all_names(
    model: &Model,
    network: &NetworkRecord,
    wish: &EndpointWish,
    sandbox: &str,
) -> Result<Vec<String>, Problem> {
    if wish.aliases.len() > ALIASES {
        let message = format!("{} aliases: at most {ALIASES}", wish.aliases.len());
        return Err(Problem::new(Code::BadOption, message).at("aliases"));
    }
    let taken = |n: &str| {
        let mut services = model.services_on(network.spec.id);
        services.any(|s| s.wish.name.eq_ignore_ascii_case(n))
    };
    let mut all = vec![sandbox.to_owned()];
    let fields = wish.hostname.iter().map(|h| ("hostname", h));
    for (field, text) in fields.chain(wish.aliases.iter().map(|a| ("aliases", a))) {
        let checked = coded(Code::BadName, field, names::host(field, text))?;
        if !all.iter().any(|n| n.eq_ignore_ascii_case(&checked)) {
            all.push(checked);
        }
    }
    for name in &all {
        not_reserved(name, "name")?;
    }
    if let Some(name) = all.iter().find(|n| taken(n)) {
        let message = format!(
            "the name '{name}' is a service's on network '{}'",
            wish.network
        );
        return Err(Problem::new(Code::NameTaken, message).at("name"));
    }
    Ok(all)
}

fn mac(model: &Model, network: &NetworkRecord, wish: &EndpointWish) -> Result<Mac, Problem> {
    let holder = |mac: Mac| {
        if network.spec.gateway_mac == mac {
            return Some("the gateway".to_owned());
        }
        let mut services = model.services_on(network.spec.id);
        if let Some(service) = services.find(|s| station(&s.record().addrs) == Some(mac)) {
            return Some(format!("service '{}'", service.wish.name));
        }
        let mut others = model.on_network(network.spec.id);
        others
            .find(|e| e.spec.mac == mac)
            .map(|e| format!("sandbox '{}'", e.name))
    };
    let Some(text) = &wish.mac else {
        let mut mac = random_mac();
        while holder(mac).is_some() {
            mac = random_mac();
        }
        return Ok(mac);
    };
    let bad = || {
        let message = format!("mac '{text}': six hexadecimal bytes of an interface's are needed");
        Problem::new(Code::BadMac, message).at("mac")
    };
    let mac: Mac = text.parse().map_err(|_| bad())?;
    if !mac.is_station() {
        return Err(bad());
    }
    match holder(mac) {
        None => Ok(mac),
        Some(holder) => {
            let message = format!(
                "mac {mac} belongs to {holder} on network '{}'",
                wish.network
            );
            Err(Problem::new(Code::MacTaken, message).at("mac"))
        }
    }
}

/// Static or chosen addresses on a network.
pub(super) fn addresses(
    model: &Model,
    network: &NetworkRecord,
    ip: Option<&str>,
    ip6: Option<&str>,
) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>), Problem> {
    let spec = &network.spec;
    // Mostly the address after the last one is free: all of them are gathered only where it is not.
    let taken = LazyCell::new(|| overlay::pairs(spec, model.addresses(spec)));
    let nobody = BTreeSet::new();
    let rests = |addr: IpAddr| model.holder(spec, addr).is_none();
    let pair_rests = |addr: &Ipv4Addr| {
        let twin = overlay::twin6(spec, *addr);
        rests((*addr).into()) && twin.is_none_or(|a| rests(a.into()))
    };
    let none = |family: &str, field: &str| {
        let message = format!("network '{}' has no {family}", spec.name);
        Problem::new(Code::BadOption, message).at(field)
    };
    let full = |field: &str| {
        let message = format!(
            "network '{}' has no free address left; disconnect sandboxes, or make a larger network",
            spec.name
        );
        Problem::new(Code::PoolFull, message).at(field)
    };
    let holder = |addr: IpAddr| {
        let peer = || overlay::peer_of(model, spec, addr);
        let known = model.holder(spec, addr);
        known.or_else(|| peer().map(|p| format!("what peer '{p}' hands out")))
    };
    let free = |addr: IpAddr, field: &str| match holder(addr) {
        None => Ok(()),
        Some(holder) => {
            let message = format!("{addr} belongs to {holder}");
            Err(Problem::new(Code::AddressTaken, message).at(field))
        }
    };
    let v4 = match (&spec.v4, ip) {
        (None, None) => None,
        (None, Some(_)) => return Err(none("IPv4", "ip")),
        (Some(subnet), Some(text)) => {
            let addr = ipam::parse4(text, "ip")?;
            ipam::inside4(addr, subnet, "ip")?;
            free(addr.into(), "ip")?;
            overlay::ours(spec, addr.into(), "ip")?;
            Some(addr)
        }
        (Some(subnet), None) => {
            let range = network
                .range
                .map_or_else(|| ipam::range4(subnet, None), Ok)?;
            let guess = ipam::next4(&range, network.last4, &nobody).filter(pair_rests);
            let next = guess.or_else(|| ipam::next4(&range, network.last4, &taken));
            Some(next.ok_or_else(|| full("ip"))?)
        }
    };
    let v6 = match (&spec.v6, ip6) {
        (None, None) => None,
        (None, Some(_)) => return Err(none("IPv6", "ip6")),
        (Some(subnet), Some(text)) => {
            let addr = ipam::parse6(text, "ip6")?;
            ipam::inside6(addr, subnet, "ip6")?;
            free(addr.into(), "ip6")?;
            overlay::ours(spec, addr.into(), "ip6")?;
            Some(addr)
        }
        (Some(_), None) if spec.overlay.is_some() => {
            // Hosts divide one subnet between them, and so the other: see `Prefix::twin`.
            let twin = v4.and_then(|v4| overlay::twin6(spec, v4));
            let free = twin.filter(|a| rests((*a).into()));
            Some(free.ok_or_else(|| full("ip6"))?)
        }
        (Some(subnet), None) => {
            let guess = ipam::next6(subnet, network.last6, &nobody).filter(|a| rests((*a).into()));
            let next = guess.or_else(|| ipam::next6(subnet, network.last6, &taken));
            Some(next.ok_or_else(|| full("ip6"))?)
        }
    };
    Ok((v4, v6))
}

/// Notes the addresses that were given last, so that the next are others.
pub(super) fn remember(
    model: &mut Model,
    network: crate::control::ids::NetworkId,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
) {
    if let Some(network) = model.networks.get_mut(&network) {
        let network = Arc::make_mut(network);
        network.last4 = v4.or(network.last4);
        network.last6 = v6.or(network.last6);
    }
}

fn ifname(model: &Model, wish: &EndpointWish, sandbox: &Sandbox) -> Result<String, Problem> {
    let taken = |name: &str| model.inside(sandbox).any(|e| e.spec.ifname == name);
    if let Some(text) = &wish.ifname {
        let checked = coded(Code::BadName, "ifname", names::interface(text))?;
        if taken(&checked) {
            let message = format!("the sandbox has an interface {checked} already");
            return Err(Problem::new(Code::InterfaceExists, message).at("ifname"));
        }
        return Ok(checked);
    }
    let mut free = (0u32..).map(|n| format!("eth{n}")).filter(|n| !taken(n));
    Ok(free.next().unwrap_or_default())
}

fn sysctls(wish: &EndpointWish) -> Result<Vec<(String, String)>, Problem> {
    let split = |text: &String| {
        let bad = |why: &str| {
            let message = format!("sysctl '{text}': {why}");
            Problem::new(Code::BadOption, message).at("sysctls")
        };
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| bad("the form is KEY=VALUE"))?;
        let key = key.strip_prefix("net.").unwrap_or(key);
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let sound = key.split('.').all(|w| !w.is_empty() && w.bytes().all(word));
        if !sound {
            return Err(bad("a key is words with dots between them, below net."));
        }
        Ok((key.to_owned(), value.to_owned()))
    };
    wish.sysctls.iter().map(split).collect()
}
