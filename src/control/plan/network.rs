//! Networks: made, removed, pruned.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use switch_core::addr::Mac;

use super::{Facts, name, overlay, policy, random_mac};
use crate::config::ipam::{self, Range4, Used};
use crate::config::problem::coded;
use crate::config::wish::NetworkWish;
use crate::config::{Code, Problem, names};
use crate::control::ids::NetworkId;
use crate::control::model::{Model, NetworkRecord, Origin, PeerRecord};
use crate::control::policy::PolicyScope;
use crate::control::spec::{Carrier, Driver, NetworkSpec, Subnet, Uplink};

/// Smallest and largest MTU. Source: RFC 791 section 3.2; drivers/net/tun.c.
const MTU: std::ops::RangeInclusive<u32> = 68..=65_521;
/// Smallest MTU that IPv6 works on. Source: RFC 8200 section 5.
const MTU_V6: u16 = 1280;
/// How long an unheard MAC is remembered. Units: seconds. Source: IEEE 802.1D-2004 table 7-5.
const AGEING: u32 = 300;
/// Bounds of that. Source: IEEE 802.1D-2004 table 7-5.
const AGEING_BOUNDS: std::ops::RangeInclusive<u32> = 10..=1_000_000;
/// Bounds of how long a MAC that flaps is held; none at all with 0. Units: seconds.
const HOLD_BOUNDS: std::ops::RangeInclusive<u32> = 0..=86_400;
/// Bounds of the interval of general queries. Units: seconds. Source: RFC 3376 section 4.1.7, the largest that can be told.
const QUERIES: std::ops::RangeInclusive<u32> = 1..=31_744;

/// The two families' subnets.
type Subnets = (Option<Subnet<Ipv4Addr>>, Option<Subnet<Ipv6Addr>>);

/// Makes a network. What it costs goes to `warnings`.
/// Errors: of names, subnets, addresses and options; `NameTaken`, `SubnetOverlap`, `NoFreeSubnet`.
pub fn create(
    model: &mut Model,
    facts: &Facts,
    wish: &NetworkWish,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<NetworkId, Problem> {
    name(&wish.name, "name")?;
    if matches!(wish.name.as_str(), "none" | "host") {
        let message = format!(
            "name '{}': that is the word for no network of weft's",
            wish.name
        );
        return Err(Problem::new(Code::BadName, message).at("name"));
    }
    if model.networks.values().any(|n| n.spec.name == wish.name) {
        let message = format!("there is a network '{}' already", wish.name);
        return Err(Problem::new(Code::NameTaken, message).at("name"));
    }
    let asked = overlay::asked(model, wish)?;
    let fits = asked.map(|a| a.mtu(&facts.underlay));
    let mtu = mtu(wish.mtu.or_else(|| fits.map(u32::from)))?;
    let carrier = asked.map(|a| a.carrier);
    let routed = carrier == Some(Carrier::FlannelUdp);
    let (mut v4, v6) = subnets((model, facts), wish, (mtu, asked), warnings)?;
    let range = range(wish, v4.as_ref(), carrier)?;
    if let (true, None, Some(v4), Some(range)) = (routed, &wish.gateway, &mut v4, range) {
        // Each host is a router of its own, in its own part of the subnet.
        v4.gateway = range.first;
    }
    let overlay = asked.and_then(|a| Some(a.spec(range?)));
    if overlay.is_some() {
        overlay::alike(v4.as_ref(), v6.as_ref())?;
    }
    let mut spec = NetworkSpec {
        id: model.next_network(),
        name: wish.name.clone(),
        driver: wish.driver.unwrap_or_default(),
        v4,
        v6,
        gateway_mac: fresh_mac(model),
        mtu,
        uplink: uplink(wish)?,
        icc: !wish.no_icc,
        ageing: AGEING,
        loop_hold: NetworkSpec::loop_hold(),
        snooping: true,
        querier: NetworkSpec::querier(),
        query_interval: NetworkSpec::query_interval(),
        search: search(wish)?,
        dns: dns(wish)?,
        host_loopback: host_loopback(wish, v4.as_ref(), v6.as_ref())?,
        host_access: wish.host_access,
        udp_filter: wish.udp_filter.unwrap_or_default(),
        overlay,
    };
    options(wish, &mut spec)?;
    if let Some(fits) = fits.filter(|&fits| spec.mtu > fits) {
        warnings.push(format!(
            "an MTU of {} does not fit: packets between the hosts have room for {fits}",
            spec.mtu
        ));
    }
    let id = spec.id;
    if wish.policy.is_some() {
        let scope = PolicyScope::Network(id);
        policy::set(model, scope, wish.policy.as_ref(), origin).map_err(|p| p.inside("policy"))?;
    }
    let record = NetworkRecord {
        wish: wish.clone(),
        spec,
        range,
        last4: None,
        last6: None,
        origin,
    };
    let spec = record.spec.clone();
    model.networks.insert(id, Arc::new(record));
    overlay::apart(model, &spec, "ip-range")?;
    Ok(id)
}

/// The part of the subnet that addresses are chosen from: of an overlay not all of it. Errors: `BadSubnet`.
pub(super) fn range(
    wish: &NetworkWish,
    v4: Option<&Subnet<Ipv4Addr>>,
    carrier: Option<Carrier>,
) -> Result<Option<Range4>, Problem> {
    let Some(v4) = v4 else {
        return Ok(None);
    };
    let part = match &wish.ip_range {
        None if carrier.is_some() => Some(overlay::first_part(v4)?.to_string()),
        given => given.clone(),
    };
    let range = ipam::range4(v4, part.as_deref())?;
    let routed = carrier == Some(Carrier::FlannelUdp);
    Ok(Some(if routed {
        overlay::hosts_of(&range)?
    } else {
        range
    }))
}

/// Removes a network. Errors: `UnknownNetwork`; `NetworkInUse` names who is on it.
pub fn remove(model: &mut Model, network: &str) -> Result<NetworkId, Problem> {
    let id = model.network(network)?.spec.id;
    let mut users: Vec<String> = model.on_network(id).map(|e| e.name.clone()).collect();
    users.extend(
        model
            .services_on(id)
            .map(|s| format!("service {}", s.wish.name)),
    );
    let before = users.len();
    users.extend(peers_named(model, id).map(|name| format!("peer {name}")));
    let what = if users.len() == before {
        "disconnect"
    } else {
        "disconnect or remove"
    };
    if !users.is_empty() {
        let count = users.len();
        let more = if count > 8 {
            users.truncate(8);
            format!(" and {} more", count - 8)
        } else {
            String::new()
        };
        let message = format!(
            "network '{network}' is in use by {}{more}; {what} them first",
            users.join(", ")
        );
        return Err(Problem::new(Code::NetworkInUse, message).at("network"));
    }
    drop_network(model, id);
    Ok(id)
}

/// Removes every network that nothing is on. Gives their names.
pub fn prune(model: &mut Model) -> Vec<String> {
    let unused = |id: &NetworkId| {
        model.on_network(*id).next().is_none()
            && model.services_on(*id).next().is_none()
            && peers_named(model, *id).next().is_none()
    };
    let ids: Vec<NetworkId> = model.networks.keys().copied().filter(unused).collect();
    let names = ids.iter().map(|&id| model.network_name(id)).collect();
    for id in ids {
        drop_network(model, id);
    }
    names
}

/// Peers that were put on a network by its name.
fn peers_named(model: &Model, id: NetworkId) -> impl Iterator<Item = &str> {
    let named = move |p: &&Arc<PeerRecord>| p.networks.as_ref().is_some_and(|n| n.contains(&id));
    let peers = model.peers.values().filter(named);
    peers.map(|p| p.wish.name.as_str())
}

fn drop_network(model: &mut Model, id: NetworkId) {
    model.networks.remove(&id);
    model.policies.remove(&PolicyScope::Network(id));
}

fn subnets(
    (model, facts): (&Model, &Facts),
    wish: &NetworkWish,
    (mtu, overlay): (u16, Option<overlay::Asked>),
    warnings: &mut Vec<String>,
) -> Result<Subnets, Problem> {
    let mut taken: Vec<(IpAddr, u8, String)> = Vec::new();
    for n in model.networks.values() {
        let of = |addr, len| (addr, len, n.spec.name.clone());
        taken.extend(n.spec.v4.map(|s| of(s.network.into(), s.prefix)));
        taken.extend(n.spec.v6.map(|s| of(s.network.into(), s.prefix)));
    }
    let used = Used {
        subnets: &taken,
        routes: &facts.routes,
    };
    let v4 = match &wish.subnet {
        Some(text) => ipam::given4(text, wish.gateway.as_deref(), &used, warnings)?,
        None => {
            absent(wish.gateway.as_ref(), "gateway", "subnet")?;
            absent(wish.ip_range.as_ref(), "ip-range", "subnet")?;
            ipam::free4(&used)?
        }
    };
    // Where packets are routed to nodes of another make, they know IPv4 alone.
    let routed = overlay.is_some_and(|a| a.carrier == Carrier::FlannelUdp);
    let unasked = mtu >= MTU_V6 && (!routed || wish.subnet6.is_some());
    let wanted = wish.ipv6.unwrap_or(unasked);
    if !wanted {
        absent(wish.subnet6.as_ref(), "subnet6", "ipv6")?;
        absent(wish.gateway6.as_ref(), "gateway6", "ipv6")?;
        return Ok((Some(v4), None));
    }
    if mtu < MTU_V6 {
        let message = format!("an MTU of {mtu} is too small for IPv6, which needs {MTU_V6}");
        return Err(Problem::new(Code::BadOption, message).at("mtu"));
    }
    let v6 = match &wish.subnet6 {
        Some(text) => ipam::given6(text, wish.gateway6.as_deref(), &used, warnings)?,
        None => {
            absent(wish.gateway6.as_ref(), "gateway6", "subnet6")?;
            match overlay {
                Some(asked) => asked.subnet6(&wish.name, &used)?,
                None => fresh6(&used)?,
            }
        }
    };
    Ok((Some(v4), Some(v6)))
}

/// Of 2^56 subnets a few are taken: a second draw never fails in practice, and a third is not needed.
fn fresh6(used: &Used<'_>) -> Result<Subnet<Ipv6Addr>, Problem> {
    let draw = || {
        let [a, b, c, d, e, f, g, ..] = crate::config::facts::random();
        ipam::free6(used, [a, b, c, d, e, f, g])
    };
    draw().or_else(draw).ok_or_else(|| {
        let message = "no unique local subnet is free; choose one with --subnet6";
        Problem::new(Code::NoFreeSubnet, message).at("subnet6")
    })
}

fn absent(value: Option<&String>, field: &str, needs: &str) -> Result<(), Problem> {
    match value {
        None => Ok(()),
        Some(_) => {
            Err(Problem::new(Code::BadOption, format!("'{field}' needs '{needs}'")).at(field))
        }
    }
}

/// Errors: `BadOption`.
pub(super) fn mtu(wish: Option<u32>) -> Result<u16, Problem> {
    let mtu = wish.unwrap_or(1500);
    let checked = u16::try_from(mtu).ok().filter(|_| MTU.contains(&mtu));
    checked.ok_or_else(|| {
        let message = format!("mtu {mtu}: must be {} to {}", MTU.start(), MTU.end());
        Problem::new(Code::BadOption, message).at("mtu")
    })
}

fn fresh_mac(model: &Model) -> Mac {
    let mut mac = random_mac();
    let has = |mac: Mac| {
        model.networks.values().any(|n| n.spec.gateway_mac == mac)
            || model.endpoints.values().any(|e| e.spec.mac == mac)
    };
    while has(mac) {
        mac = random_mac();
    }
    mac
}

fn uplink(wish: &NetworkWish) -> Result<Uplink, Problem> {
    let bad = |message: String| Err(Problem::new(Code::BadOption, message).at("uplink"));
    let driver = wish.driver.unwrap_or_default();
    let on_lan = matches!(driver, Driver::Macvlan | Driver::Ipvlan);
    let uplink = match wish.uplink.as_deref() {
        None if wish.internal => Uplink::None,
        None if on_lan => return bad("this driver needs an uplink: packet:INTERFACE".to_owned()),
        None | Some("sockets") => Uplink::Sockets,
        Some("none") => Uplink::None,
        Some(text) => {
            let Some(interface) = text.strip_prefix("packet:") else {
                return bad(format!(
                    "uplink '{text}': give sockets, packet:INTERFACE or none"
                ));
            };
            let checked = coded(Code::BadOption, "uplink", names::interface(interface))?;
            Uplink::Packet(checked)
        }
    };
    if wish.internal && uplink != Uplink::None {
        return bad("an internal network has no uplink".to_owned());
    }
    if on_lan && !matches!(uplink, Uplink::Packet(_)) {
        return bad("this driver needs an uplink: packet:INTERFACE".to_owned());
    }
    Ok(uplink)
}

fn search(wish: &NetworkWish) -> Result<Vec<String>, Problem> {
    let check = |d: &String| coded(Code::BadName, "dns-search", names::domain("dns-search", d));
    wish.dns_search.iter().map(check).collect()
}

fn dns(wish: &NetworkWish) -> Result<Vec<SocketAddr>, Problem> {
    let parse = |text: &String| {
        let addr = text.parse::<SocketAddr>();
        addr.or_else(|_| text.parse::<IpAddr>().map(|a| SocketAddr::new(a, 53)))
            .map_err(|_| {
                let message = format!("dns '{text}': give ADDR, or ADDR:PORT");
                Problem::new(Code::BadAddress, message).at("dns")
            })
    };
    wish.dns.iter().map(parse).collect()
}

fn host_loopback(
    wish: &NetworkWish,
    v4: Option<&Subnet<Ipv4Addr>>,
    v6: Option<&Subnet<Ipv6Addr>>,
) -> Result<Vec<IpAddr>, Problem> {
    let bad = |message: String| Err(Problem::new(Code::BadAddress, message).at("host-loopback"));
    let gateways: Vec<IpAddr> = v4
        .map(|s| IpAddr::V4(s.gateway))
        .into_iter()
        .chain(v6.map(|s| IpAddr::V6(s.gateway)))
        .collect();
    let mut all: Vec<IpAddr> = Vec::new();
    for text in &wish.host_loopback {
        match text.as_str() {
            "none" => {}
            "gateway" => all.extend(&gateways),
            text => match text.parse::<IpAddr>() {
                Err(_) => return bad(format!("'{text}': give an address, gateway or none")),
                Ok(a) if a.is_loopback() || a.is_multicast() || a.is_unspecified() => {
                    return bad(format!("{a}: a sandbox would never send to it"));
                }
                Ok(a) => {
                    let inside = match a {
                        IpAddr::V4(a) => v4.is_some_and(|s| ipam::inside4(a, s, "").is_ok()),
                        IpAddr::V6(a) => v6.is_some_and(|s| ipam::inside6(a, s, "").is_ok()),
                    };
                    if inside && !gateways.contains(&a) {
                        return bad(format!(
                            "{a}: inside the subnet only the gateway's address can stand for the host's loopback"
                        ));
                    }
                    all.push(a);
                }
            },
        }
    }
    for v4 in [true, false] {
        if all.iter().filter(|a| a.is_ipv4() == v4).count() > 1 {
            return bad("one address for each family at most".to_owned());
        }
    }
    Ok(all)
}

/// Options as other tools write them, Docker's among them.
fn options(wish: &NetworkWish, spec: &mut NetworkSpec) -> Result<(), Problem> {
    for text in &wish.opt {
        let bad = |message: String| Problem::new(Code::BadOption, message).at("opt");
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| bad(format!("opt '{text}': the form is KEY=VALUE")))?;
        let number = || {
            value
                .parse::<u32>()
                .map_err(|_| bad(format!("opt {key}: '{value}' is not a number")))
        };
        let truth = || {
            value
                .parse::<bool>()
                .map_err(|_| bad(format!("opt {key}: '{value}' is neither true nor false")))
        };
        let seconds = |bounds: std::ops::RangeInclusive<u32>| {
            let (first, last) = (bounds.start(), bounds.end());
            let message = || format!("opt {key}: must be {first} to {last} seconds");
            let given = number()?;
            bounds
                .contains(&given)
                .then_some(given)
                .ok_or_else(|| bad(message()))
        };
        match key {
            "ageing" => spec.ageing = seconds(AGEING_BOUNDS)?,
            "loop-hold" => spec.loop_hold = seconds(HOLD_BOUNDS)?,
            "snooping" => spec.snooping = truth()?,
            "querier" => spec.querier = truth()?,
            "query-interval" => spec.query_interval = seconds(QUERIES)?,
            "mtu" | "com.docker.network.driver.mtu" => {
                spec.mtu = mtu(Some(number()?)).map_err(|p| bad(p.message))?;
                if spec.v6.is_some() && spec.mtu < MTU_V6 {
                    return Err(bad(format!("opt {key}: too small for IPv6")));
                }
            }
            // Read before the rest, which depends on them.
            "carrier" | "port" if spec.overlay.is_some() => {}
            "icc" | "com.docker.network.bridge.enable_icc" => spec.icc = truth()?,
            _ => {
                return Err(bad(format!(
                    "opt '{key}' is not known; there are ageing, loop-hold, snooping, querier, query-interval, mtu and icc, and of an overlay carrier and port"
                )));
            }
        }
    }
    Ok(())
}
