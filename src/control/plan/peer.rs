//! Peers: added, changed, removed, and those who have taken an invite.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Facts, name, overlay};
use crate::config::wish::PeerWish;
use crate::config::{Code, Problem};
use crate::control::ids::{NetworkId, PeerId};
use crate::control::key::PublicKey;
use crate::control::model::{Model, NetworkRecord, Origin, PeerRecord};
use crate::control::spec::{Carrier, HostPort, PeerCarrier, Prefix};

/// Peers of a host at most.
const PEERS: usize = 4096;
/// Prefixes of a peer at most.
const PREFIXES: usize = 64;

/// Adds a peer. Errors: of names, keys and addresses; `NameTaken`, `KeyTaken`, `AddressTaken`, `RangeTaken`,
/// `UnknownNetwork`, `Full`.
pub fn add(
    model: &mut Model,
    facts: &Facts,
    wish: &PeerWish,
    origin: Origin,
) -> Result<PeerId, Problem> {
    // What was meant as an invite, and is none, has no key to ask for.
    unused(model, wish)?;
    let carrier = carrier(model, facts, wish)?;
    put(model, wish, carrier, origin)
}

/// Checks what can be said of a peer without its networks. Errors: as [`add`].
pub(super) fn check(model: &Model, facts: &Facts, wish: &PeerWish) -> Result<(), Problem> {
    key(model, facts, wish)?;
    unused(model, wish)
}

/// Errors: `BadName`, `NameTaken`.
fn unused(model: &Model, wish: &PeerWish) -> Result<(), Problem> {
    name(&wish.name, "name")?;
    match model.peer(&wish.name) {
        Err(_) => Ok(()),
        Ok(_) => {
            let message = format!("there is a peer '{}' already", wish.name);
            Err(Problem::new(Code::NameTaken, message).at("name"))
        }
    }
}

/// Adds a peer of which it is settled how it is reached. Errors: as [`add`].
pub(super) fn put(
    model: &mut Model,
    wish: &PeerWish,
    carrier: PeerCarrier,
    origin: Origin,
) -> Result<PeerId, Problem> {
    unused(model, wish)?;
    if model.peers.len() >= PEERS {
        let message = format!("no room for more peers: the limit is {PEERS}");
        return Err(Problem::new(Code::Full, message));
    }
    let networks = networks(model, wish, carrier.kind())?;
    let prefixes = prefixes(wish)?;
    if prefixes.is_empty() && carrier.kind() == Carrier::FlannelUdp {
        let message = "a peer of carrier flannel-udp needs a prefix: what is routed to it";
        return Err(Problem::new(Code::BadOption, message).at("prefixes"));
    }
    let record = PeerRecord {
        wish: PeerWish {
            secret: None,
            ..wish.clone()
        },
        id: model.next_peer(),
        carrier,
        networks,
        prefixes,
        seen: None,
        origin,
    };
    let id = record.id;
    fitting(model, &record)?;
    for network in model.networks_of(&record) {
        overlay::apart_from(model, &network.spec, &record, "prefixes")?;
    }
    model.peers.insert(id, Arc::new(record));
    Ok(id)
}

/// Changes a peer to what is asked, or adds it: its number stays. Errors: as [`add`].
pub(super) fn renew(
    model: &mut Model,
    facts: &Facts,
    wish: &PeerWish,
    origin: Origin,
) -> Result<(), Problem> {
    let old = model.peer(&wish.name).ok().map(|p| p.id);
    if let Some(id) = old {
        model.peers.remove(&id);
    }
    let new = add(model, facts, wish, origin)?;
    if let Some(id) = old
        && let Some(record) = model.peers.remove(&new)
    {
        let kept = PeerRecord {
            id,
            ..record.as_ref().clone()
        };
        model.peers.insert(id, Arc::new(kept));
    }
    Ok(())
}

/// Takes a peer away. Errors: `UnknownPeer`.
pub fn remove(model: &mut Model, name: &str) -> Result<PeerId, Problem> {
    let id = model.peer(name)?.id;
    model.peers.remove(&id);
    Ok(id)
}

/// Notes who has taken an invite, and gives the peer's name. `None` where there is no such open invite.
pub fn joined(model: &mut Model, id: PeerId, by: PublicKey) -> Option<String> {
    let record = model.peers.get_mut(&id)?;
    let name = record.wish.name.clone();
    match &mut Arc::make_mut(record).carrier {
        PeerCarrier::Sealed { key, expires, .. } if key.is_none() => {
            (*key, *expires) = (Some(by), None);
            Some(name)
        }
        PeerCarrier::Sealed { .. } | PeerCarrier::Vxlan { .. } | PeerCarrier::FlannelUdp { .. } => {
            None
        }
    }
}

/// Notes where a peer is heard, if nobody has said where it is: this host finds it there when it starts again.
pub fn seen(model: &mut Model, id: PeerId, at: SocketAddr) {
    let Some(record) = model.peers.get_mut(&id) else {
        return;
    };
    if record.carrier.endpoint().is_none() && record.seen != Some(at) {
        Arc::make_mut(record).seen = Some(at);
    }
}

/// How it is reached, checked against this host and the other peers.
fn carrier(model: &Model, facts: &Facts, wish: &PeerWish) -> Result<PeerCarrier, Problem> {
    let kind = wish.carrier.unwrap_or_default();
    let endpoint = endpoint(model, facts, wish, kind)?;
    if kind == Carrier::Sealed {
        return Ok(PeerCarrier::Sealed {
            key: Some(key(model, facts, wish)?),
            endpoint,
            secret: wish.secret.unwrap_or_default(),
            keepalive: wish.keepalive.unwrap_or_default(),
            expires: None,
        });
    }
    let sealed = [
        (wish.key.is_some(), "key"),
        (wish.keepalive.is_some(), "keepalive"),
        (wish.secret.is_some(), "secret"),
    ];
    if let Some((_, field)) = sealed.iter().find(|(given, _)| *given) {
        let message = format!("'{field}' is for sealed peers; carrier {kind} has none");
        return Err(Problem::new(Code::BadOption, message).at(field));
    }
    let to = endpoint.ok_or_else(|| {
        let message = format!("a peer of carrier {kind} needs an endpoint");
        Problem::new(Code::BadOption, message).at("endpoint")
    })?;
    let mut others = model.peers.values();
    let there = others.find(|p| p.carrier.kind() == kind && p.carrier.endpoint() == Some(&to));
    if let Some(other) = there {
        let message = format!("{to} is peer '{}' already", other.wish.name);
        return Err(Problem::new(Code::AddressTaken, message).at("endpoint"));
    }
    Ok(match kind {
        Carrier::Vxlan | Carrier::Sealed => PeerCarrier::Vxlan { to },
        Carrier::FlannelUdp => PeerCarrier::FlannelUdp { to },
    })
}

fn key(model: &Model, facts: &Facts, wish: &PeerWish) -> Result<PublicKey, Problem> {
    let bad = |message: String| Problem::new(Code::BadKey, message).at("key");
    let text = wish.key.as_deref().ok_or_else(|| {
        bad("a sealed peer needs a key: that which 'weft key show' prints there".to_owned())
    })?;
    let key: PublicKey = text
        .parse()
        .map_err(|e| bad(format!("key '{text}': {e}")))?;
    if facts.key == Some(key) {
        return Err(bad(format!("key {key} is this host's own")));
    }
    let mut others = model.peers.values();
    match others.find(|p| p.carrier.key() == Some(&key)) {
        None => Ok(key),
        Some(other) => {
            let message = format!("key {key} is that of peer '{}' already", other.wish.name);
            Err(Problem::new(Code::KeyTaken, message).at("key"))
        }
    }
}

fn endpoint(
    model: &Model,
    facts: &Facts,
    wish: &PeerWish,
    kind: Carrier,
) -> Result<Option<HostPort>, Problem> {
    let Some(text) = &wish.endpoint else {
        return Ok(None);
    };
    let bad = |message: String| Problem::new(Code::BadAddress, message).at("endpoint");
    // A node of another make listens where its network does.
    let mut named = wish.networks.iter().filter_map(|n| model.network(n).ok());
    let theirs = |n: &Arc<NetworkRecord>| n.spec.overlay.filter(|o| o.carrier == kind);
    let port = named
        .find_map(theirs)
        .map_or_else(|| kind.port(), |o| o.port);
    let port = if kind == Carrier::Sealed {
        kind.port()
    } else {
        port
    };
    let at = HostPort::parse(text, port).map_err(|e| bad(format!("endpoint {e}")))?;
    let mut ours = model.networks.values().filter_map(|n| n.spec.overlay);
    let here = facts.underlay.addr.is_some() && at.addr().map(|a| a.ip()) == facts.underlay.addr;
    if here && ours.any(|o| o.port == at.port) {
        return Err(bad(format!("endpoint {at} is this host's own")));
    }
    Ok(Some(at))
}

fn networks(
    model: &Model,
    wish: &PeerWish,
    kind: Carrier,
) -> Result<Option<Vec<NetworkId>>, Problem> {
    let mut all = Vec::new();
    for (at, name) in wish.networks.iter().enumerate() {
        let field = format!("networks.{at}");
        let found = model
            .network(name)
            .map_err(|p| Problem { field: None, ..p }.at(&field))?;
        let no = |message: String| Err(Problem::new(Code::BadOption, message).at(&field));
        match found.spec.overlay {
            None => {
                return no(format!(
                    "network '{name}' is no overlay: peers cannot be on it"
                ));
            }
            Some(o) if o.carrier != kind => {
                return no(format!(
                    "network '{name}' is of carrier {}, the peer of {kind}",
                    o.carrier
                ));
            }
            Some(_) => all.push(found.spec.id),
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok((!all.is_empty()).then_some(all))
}

fn prefixes(wish: &PeerWish) -> Result<Vec<Prefix>, Problem> {
    if wish.prefixes.len() > PREFIXES {
        let message = format!("{} prefixes: at most {PREFIXES}", wish.prefixes.len());
        return Err(Problem::new(Code::BadOption, message).at("prefixes"));
    }
    let parse = |(at, text): (usize, &String)| {
        text.parse().map_err(|e| {
            let message = format!("prefix '{text}': {e}");
            Problem::new(Code::BadSubnet, message).at(&format!("prefixes.{at}"))
        })
    };
    wish.prefixes.iter().enumerate().map(parse).collect()
}

/// Checks a peer's prefixes: parts of its networks' subnets, and no other peer's.
/// Errors: `AddressOutside`, `RangeTaken`.
fn fitting(model: &Model, record: &PeerRecord) -> Result<(), Problem> {
    let inside = |prefix: &Prefix| {
        model.networks_of(record).any(|n| {
            let v4 = n.spec.v4.map(|s| (s.network.into(), s.prefix));
            let v6 = n.spec.v6.map(|s| (s.network.into(), s.prefix));
            let mut subnets = v4.into_iter().chain(v6);
            subnets.any(|(addr, len)| Prefix { addr, len }.holds(prefix))
        })
    };
    let share = |other: &PeerRecord| {
        let mut on = model.networks_of(other);
        on.any(|n| model.networks_of(record).any(|m| m.spec.id == n.spec.id))
    };
    for (at, prefix) in record.prefixes.iter().enumerate() {
        let field = format!("prefixes.{at}");
        if record.networks.is_some() && !inside(prefix) {
            let message = format!("{prefix} lies outside the subnets of the peer's networks");
            return Err(Problem::new(Code::AddressOutside, message).at(&field));
        }
        let overlaps = |p: &&Arc<PeerRecord>| p.prefixes.iter().any(|x| x.overlaps(prefix));
        let mut others = model.peers.values().filter(overlaps);
        if let Some(other) = others.find(|p| share(p)) {
            let message = format!(
                "{prefix} overlaps what peer '{}' hands out: a range is one host's",
                other.wish.name
            );
            return Err(Problem::new(Code::RangeTaken, message).at(&field));
        }
    }
    Ok(())
}
