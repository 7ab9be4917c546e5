//! Invites: made on one host, taken on the other.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Facts, network, overlay, peer};
use crate::config::invite::{Invite, InvitedNetwork};
use crate::config::wish::{AcceptWish, InviteWish, NetworkWish, PeerWish};
use crate::config::{Code, Problem, life};
use crate::control::ids::PeerId;
use crate::control::key::Secret;
use crate::control::model::{Model, NetworkRecord, Origin, PeerRecord};
use crate::control::spec::{
    Carrier, Driver, HostPort, OverlaySpec, PeerCarrier, Prefix, Subnet, Uplink,
};

/// How often the invited host makes itself heard: below the shortest life of a mapping that is common in NATs.
/// Units: seconds. Source: RFC 4787 REQ-5, halved twice as WireGuard's users do.
const KEEPALIVE: u16 = 25;

/// How long an invite can be taken unless told otherwise. Units: seconds. Source: as long as a token by which a host joins a
/// Kubernetes cluster, `kubeadm token create`.
const LIFE: u64 = 24 * 3600;

/// Makes an invite, and the peer that will take it. Gives the invite's text.
/// Errors: of names and addresses; `UnknownNetwork`, `RangeTaken`, `PoolFull`; `BadOption` without a sealed overlay.
pub fn invite(
    model: &mut Model,
    facts: &Facts,
    wish: &InviteWish,
) -> Result<(PeerId, String), Problem> {
    let key = facts
        .key
        .ok_or_else(|| Problem::new(Code::BadKey, "this host has no key yet"))?;
    let networks = sealed(model, wish)?;
    let endpoint = endpoint(facts, wish, &networks)?;
    let name = wish.name.clone().unwrap_or_else(|| free_name(model));
    let host = wish.host.clone().unwrap_or_else(|| facts.host.clone());
    super::name(&host, "as")?;
    let ranges = ranges(wish)?;
    let mut used = vec![false; ranges.len()];
    let mut told = Vec::new();
    for record in &networks {
        told.push(tell(model, record, &ranges, &mut used)?);
    }
    if let Some(at) = used.iter().position(|u| !u) {
        let message = format!("range {} lies outside of the networks", ranges[at]);
        return Err(Problem::new(Code::AddressOutside, message).at("ranges"));
    }
    let secret = Secret::generate().map_err(|e| {
        let message = format!("no random bytes from the kernel: {e}");
        Problem::new(Code::Refused, message)
    })?;
    let expires = match wish.ttl.unwrap_or(LIFE) {
        0 => None,
        life => Some(facts.now.saturating_add(life)),
    };
    let wish = PeerWish {
        name,
        networks: networks.iter().map(|n| n.spec.name.clone()).collect(),
        prefixes: told.iter().map(|n| n.given.to_string()).collect(),
        ..PeerWish::default()
    };
    let carrier = PeerCarrier::Sealed {
        key: None,
        endpoint: None,
        secret,
        keepalive: 0,
        expires,
    };
    let id = peer::put(model, &wish, carrier, Origin::Command)?;
    let invite = Invite {
        name: host,
        key,
        endpoint,
        secret,
        expires,
        networks: told,
    };
    Ok((id, invite.reveal()))
}

/// Takes an invite: the networks that are not there are made, and the inviting host becomes a peer.
/// Errors: `BadInvite` for what is none; and all that making the networks and the peer can fail with.
pub fn accept(
    model: &mut Model,
    facts: &Facts,
    wish: &AcceptWish,
    warnings: &mut Vec<String>,
) -> Result<(PeerId, Vec<String>), Problem> {
    let invite: Invite =
        wish.invite
            .parse()
            .map_err(|e: crate::config::invite::ParseInviteError| {
                Problem::new(Code::BadInvite, e.to_string()).at("invite")
            })?;
    // Clocks differ, and whoever has taken it before is let in for ever: it is no reason to refuse.
    if let Some(ago) = invite.expires.and_then(|at| facts.now.checked_sub(at)) {
        warnings.push(format!(
            "the invite has expired {} ago: whoever has not taken it before needs another",
            life::show(ago)
        ));
    }
    let wish = PeerWish {
        name: wish.name.clone().unwrap_or_else(|| invite.name.clone()),
        key: Some(invite.key.to_string()),
        endpoint: Some(invite.endpoint.to_string()),
        networks: invite.networks.iter().map(|n| n.name.clone()).collect(),
        prefixes: invite
            .networks
            .iter()
            .map(|n| n.taken.to_string())
            .collect(),
        keepalive: Some(KEEPALIVE),
        secret: Some(invite.secret),
        carrier: None,
    };
    // A peer that is there already, or cannot be, says more than its networks would.
    peer::check(model, facts, &wish)?;
    let mut made = Vec::new();
    for told in &invite.networks {
        if model.network(&told.name).is_ok() {
            meets(model, told)?;
        } else {
            make(model, facts, told, warnings)?;
            made.push(told.name.clone());
        }
    }
    let id = peer::add(model, facts, &wish, Origin::Command)?;
    Ok((id, made))
}

/// Takes invites away that nobody has taken in time. Gives their names.
pub fn expire(model: &mut Model, now: u64) -> Vec<String> {
    let over = |p: &PeerRecord| p.carrier.expires().is_some_and(|at| at <= now);
    void(model, over)
}

/// Takes away all invites that nobody has taken. Gives their names.
pub fn void_all(model: &mut Model) -> Vec<String> {
    let open = |p: &PeerRecord| p.carrier.kind() == Carrier::Sealed && p.carrier.key().is_none();
    void(model, open)
}

fn void(model: &mut Model, which: impl Fn(&PeerRecord) -> bool) -> Vec<String> {
    let gone = model.peers.values().filter(|p| which(p));
    let (ids, names): (Vec<PeerId>, Vec<String>) =
        gone.map(|p| (p.id, p.wish.name.clone())).unzip();
    for id in ids {
        model.peers.remove(&id);
    }
    names
}

/// The networks of an invite. Errors: `UnknownNetwork`; `BadOption` for one that is not sealed, or without any.
fn sealed(model: &Model, wish: &InviteWish) -> Result<Vec<Arc<NetworkRecord>>, Problem> {
    let is = |n: &NetworkRecord| n.spec.overlay.map(|o| o.carrier) == Some(Carrier::Sealed);
    let mut all: Vec<Arc<NetworkRecord>> = Vec::new();
    for name in &wish.networks {
        let found = model.network(name).map_err(|p| Problem {
            field: Some("networks".to_owned()),
            ..p
        })?;
        if !is(found) {
            let message = format!("network '{name}' is no sealed overlay: an invite is for those");
            return Err(Problem::new(Code::BadOption, message).at("networks"));
        }
        if !all.iter().any(|n| n.spec.id == found.spec.id) {
            all.push(Arc::clone(found));
        }
    }
    if wish.networks.is_empty() {
        all.extend(model.networks.values().filter(|n| is(n)).cloned());
    }
    if all.is_empty() {
        let message = "there is no sealed overlay to invite to; make one with 'weft network create NAME --driver overlay'";
        return Err(Problem::new(Code::BadOption, message).at("networks"));
    }
    Ok(all)
}

fn endpoint(
    facts: &Facts,
    wish: &InviteWish,
    networks: &[Arc<NetworkRecord>],
) -> Result<HostPort, Problem> {
    let bad = |message: String| Problem::new(Code::BadAddress, message).at("endpoint");
    let overlay = networks.iter().find_map(|n| n.spec.overlay);
    let port = overlay.map_or(Carrier::Sealed.port(), |o| o.port);
    match (&wish.endpoint, facts.underlay.addr) {
        (Some(text), _) => HostPort::parse(text, port).map_err(|e| bad(format!("endpoint {e}"))),
        (None, Some(addr)) => Ok(HostPort {
            host: addr.to_string(),
            port,
        }),
        (None, None) => Err(bad(
            "this host has no route to others; say with --endpoint how they reach it".to_owned(),
        )),
    }
}

/// A name for a host that nobody has named.
fn free_name(model: &Model) -> String {
    let mut names = (2_u32..).map(|n| format!("host-{n}"));
    names.find(|n| model.peer(n).is_err()).unwrap_or_default()
}

fn ranges(wish: &InviteWish) -> Result<Vec<Prefix>, Problem> {
    let parse = |text: &String| {
        text.parse::<Prefix>().map_err(|e| {
            let message = format!("range '{text}': {e}");
            Problem::new(Code::BadSubnet, message).at("ranges")
        })
    };
    wish.ranges.iter().map(parse).collect()
}

/// A network in the words of an invite, with a part of it for the other host. Errors: `PoolFull`, `RangeTaken`.
fn tell(
    model: &Model,
    record: &NetworkRecord,
    ranges: &[Prefix],
    used: &mut [bool],
) -> Result<InvitedNetwork, Problem> {
    let spec = &record.spec;
    let (Some(v4), Some(overlay), Some(taken)) = (spec.v4, spec.overlay, overlay::own_part(record))
    else {
        let message = format!("network '{}' has no IPv4 subnet to divide", spec.name);
        return Err(Problem::new(Code::BadSubnet, message).at("networks"));
    };
    let whole = Prefix {
        addr: v4.network.into(),
        len: v4.prefix,
    };
    let asked = ranges.iter().position(|r| whole.holds(r));
    let given = match asked {
        Some(at) => {
            if let Some(used) = used.get_mut(at) {
                *used = true;
            }
            let range = ranges.get(at).copied().unwrap_or(whole);
            free_of(model, record, &overlay, &range)?;
            range
        }
        None => next_part(model, record, &overlay, &v4, taken)?,
    };
    Ok(InvitedNetwork {
        name: spec.name.clone(),
        vni: overlay.vni,
        subnet: whole,
        gateway: v4.gateway,
        subnet6: spec.v6.map(|s| Prefix {
            addr: s.network.into(),
            len: s.prefix,
        }),
        gateway6: spec.v6.map(|s| s.gateway),
        mtu: spec.mtu,
        internal: spec.uplink == Uplink::None,
        taken,
        given,
    })
}

/// Checks that a part of a network is nobody's. Errors: `RangeTaken`.
fn free_of(
    model: &Model,
    record: &NetworkRecord,
    overlay: &OverlaySpec,
    part: &Prefix,
) -> Result<(), Problem> {
    match holder(model, record, overlay, part) {
        None => Ok(()),
        Some(who) => {
            let message = format!("range {part} of network '{}': {who}", record.spec.name);
            Err(Problem::new(Code::RangeTaken, message).at("ranges"))
        }
    }
}

/// Who has addresses of a part, in words.
fn holder(
    model: &Model,
    record: &NetworkRecord,
    overlay: &OverlaySpec,
    part: &Prefix,
) -> Option<String> {
    let id = record.spec.id;
    if part.meets(&overlay.range) {
        return Some("this host hands out addresses of it".to_owned());
    }
    let on = |p: &PeerRecord| {
        model.networks_of(p).any(|n| n.spec.id == id) && p.prefixes.iter().any(|x| x.overlaps(part))
    };
    let mut peers = model.peers.values();
    if let Some(peer) = peers.find(|p| on(p)) {
        let name = &peer.wish.name;
        return Some(format!("peer '{name}' hands out addresses of it"));
    }
    let mut here = model.on_network(id);
    let inside = |a: Option<std::net::Ipv4Addr>| a.is_some_and(|a| part.contains(IpAddr::V4(a)));
    here.find(|e| inside(e.spec.v4))
        .map(|e| format!("sandbox '{}' has an address of it", e.name))
}

/// The first part as large as this host's that is nobody's. Errors: `PoolFull`.
fn next_part(
    model: &Model,
    record: &NetworkRecord,
    overlay: &OverlaySpec,
    of: &Subnet<std::net::Ipv4Addr>,
    own: Prefix,
) -> Result<Prefix, Problem> {
    let mut parts = overlay::parts(of, own.len);
    let free = parts.find(|p| holder(model, record, overlay, p).is_none());
    free.ok_or_else(|| {
        let message = format!(
            "no part of network '{}' is left for another host: this one hands out {own} of {}/{}; choose smaller parts with --ip-range and --range",
            record.spec.name, of.network, of.prefix
        );
        Problem::new(Code::PoolFull, message).at("networks")
    })
}

/// Checks that a network of this host is the one that an invite tells of. Errors: `BadInvite`, `RangeTaken`.
fn meets(model: &Model, told: &InvitedNetwork) -> Result<(), Problem> {
    let record = model.network(&told.name)?;
    let spec = &record.spec;
    let name = &told.name;
    let differs = |what: String| {
        let message = format!("network '{name}' of this host {what}");
        Err(Problem::new(Code::BadInvite, message).at("invite"))
    };
    let Some(overlay) = spec.overlay.filter(|o| o.carrier == Carrier::Sealed) else {
        return differs("is no sealed overlay, that of the invite is".to_owned());
    };
    if overlay.vni != told.vni {
        return differs(format!(
            "has vni {}, that of the invite {}",
            overlay.vni, told.vni
        ));
    }
    let v4 = spec.v4.map(|s| Prefix {
        addr: s.network.into(),
        len: s.prefix,
    });
    let v6 = spec.v6.map(|s| Prefix {
        addr: s.network.into(),
        len: s.prefix,
    });
    if v4 != Some(told.subnet) || v6 != told.subnet6 {
        let show = |p: Option<Prefix>| p.map_or_else(|| "none".to_owned(), |p| p.to_string());
        return differs(format!(
            "has subnets {} and {}, that of the invite {} and {}",
            show(v4),
            show(v6),
            told.subnet,
            show(told.subnet6)
        ));
    }
    match overlay::own_part(record) {
        Some(own) if own != told.given => {
            let message = format!(
                "this host hands out {own} of network '{name}', and the invite gives it {}; ask for one made with --range {own}",
                told.given
            );
            Err(Problem::new(Code::RangeTaken, message).at("invite"))
        }
        _ => Ok(()),
    }
}

fn make(
    model: &mut Model,
    facts: &Facts,
    told: &InvitedNetwork,
    warnings: &mut Vec<String>,
) -> Result<(), Problem> {
    let mut wish = NetworkWish {
        name: told.name.clone(),
        subnet: Some(told.subnet.to_string()),
        gateway: Some(told.gateway.to_string()),
        subnet6: told.subnet6.map(|p| p.to_string()),
        gateway6: told.gateway6.map(|a| a.to_string()),
        ipv6: Some(told.subnet6.is_some()),
        ip_range: Some(told.given.to_string()),
        internal: told.internal,
        driver: Some(Driver::Overlay),
        vni: Some(told.vni),
        ..NetworkWish::default()
    };
    // Both ends keep to what the narrower of the two ways carries.
    let asked = overlay::asked(model, &wish)?;
    wish.mtu = asked.map(|a| u32::from(a.mtu(&facts.underlay).min(told.mtu)));
    network::create(model, facts, &wish, Origin::Command, warnings)
        .map(drop)
        .map_err(|p| Problem {
            field: Some("invite".to_owned()),
            message: format!("network '{}' of the invite: {}", told.name, p.message),
            ..p
        })
}
