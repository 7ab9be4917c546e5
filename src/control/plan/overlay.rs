//! Overlays: the number and the port of one, and the parts of its subnet that hosts divide between them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::ipam::{self, Range4, Used};
use crate::config::subnet::mask4;
use crate::config::wish::NetworkWish;
use crate::config::{Code, Problem, Proto};
use crate::control::model::{Model, NetworkRecord, PeerRecord};
use crate::control::spec::{
    Carrier, Driver, LAST_VNI, NetworkSpec, OverlaySpec, Prefix, Subnet, Underlay,
};

/// Longest prefix of a host's part, unless the subnet is so small that it must be longer.
const PART: u8 = 24;
/// Bits by which a host's part is smaller than the subnet at least: eight hosts have room.
const PARTS: u8 = 3;

/// What was asked of an overlay, its range aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) vni: u32,
    pub(super) carrier: Carrier,
    pub(super) port: u16,
}

impl Asked {
    /// The overlay with its range.
    pub(super) fn spec(self, range: Range4) -> OverlaySpec {
        OverlaySpec {
            vni: self.vni,
            carrier: self.carrier,
            port: self.port,
            range,
        }
    }

    /// The largest inner packet that fits into one of the underlay.
    pub(super) fn mtu(self, underlay: &Underlay) -> u16 {
        let v6 = underlay.addr.is_some_and(|a| a.is_ipv6());
        underlay.mtu.saturating_sub(self.carrier.overhead(v6))
    }

    /// The IPv6 subnet of a network that was given none: the same on every host where it has this name and number, for
    /// its hosts are to share it. Errors: `NoFreeSubnet` where this host has it already.
    pub(super) fn subnet6(self, name: &str, used: &Used<'_>) -> Result<Subnet<Ipv6Addr>, Problem> {
        let seven = unique6(name, self.vni);
        ipam::free6(used, seven).ok_or_else(|| {
            let message = "the unique local subnet that follows from name and vni is in use on this host; choose one with --subnet6";
            Problem::new(Code::NoFreeSubnet, message).at("subnet6")
        })
    }
}

/// The bytes of a unique local subnet behind the first one: FNV-1a of the name in lower case and the number, folded.
fn unique6(name: &str, vni: u32) -> [u8; 7] {
    let name = name.bytes().map(|b| b.to_ascii_lowercase());
    let all = name.chain(vni.to_be_bytes());
    let hash = all.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [first, rest @ ..] = hash.to_be_bytes();
    let mut seven = rest;
    seven[0] ^= first;
    seven
}

/// Reads what a wish says of an overlay; `None` for a network that is none.
/// Errors: `BadOption` for what cannot be, or is of an overlay and said of another; `VniTaken`, `PortTaken`.
pub(super) fn asked(model: &Model, wish: &NetworkWish) -> Result<Option<Asked>, Problem> {
    let bad = |field: &str, message: String| Problem::new(Code::BadOption, message).at(field);
    let option = |key: &str| {
        let pairs = wish.opt.iter().filter_map(|o| o.split_once('='));
        pairs.filter(|(k, _)| *k == key).map(|(_, v)| v).next_back()
    };
    let (carrier, port) = (option("carrier"), option("port"));
    if wish.driver != Some(Driver::Overlay) {
        let only = |what: &str| format!("'{what}' is for networks of driver overlay");
        return match (wish.vni, carrier.or(port)) {
            (Some(_), _) => Err(bad("vni", only("vni"))),
            (None, Some(_)) => Err(bad("opt", only("carrier and port"))),
            (None, None) => Ok(None),
        };
    }
    let carrier = match carrier {
        None => Carrier::default(),
        Some(word) => [Carrier::Sealed, Carrier::Vxlan, Carrier::FlannelUdp]
            .into_iter()
            .find(|c| c.word() == word)
            .ok_or_else(|| {
                let why = format!("opt carrier '{word}': give sealed, vxlan or flannel-udp");
                bad("opt", why)
            })?,
    };
    let port = match port {
        None => sealed_port(model)
            .filter(|_| carrier == Carrier::Sealed)
            .unwrap_or_else(|| carrier.port()),
        Some(text) => text.parse().ok().filter(|&p| p != 0).ok_or_else(|| {
            let why = format!("opt port '{text}': a port is 1 to 65535");
            bad("opt", why)
        })?,
    };
    let vni = vni(model, wish)?;
    port_free(model, carrier, port)?;
    Ok(Some(Asked { vni, carrier, port }))
}

fn vni(model: &Model, wish: &NetworkWish) -> Result<u32, Problem> {
    let vni = wish.vni.unwrap_or_else(|| named(&wish.name));
    if vni == 0 || vni > LAST_VNI {
        let message = format!("vni {vni}: must be 1 to {LAST_VNI}");
        return Err(Problem::new(Code::BadOption, message).at("vni"));
    }
    let has = |n: &&std::sync::Arc<NetworkRecord>| n.spec.overlay.is_some_and(|o| o.vni == vni);
    match model.networks.values().find(has) {
        None => Ok(vni),
        Some(other) => {
            let message = format!(
                "vni {vni} is that of network '{}'; choose another with --vni",
                other.spec.name
            );
            Err(Problem::new(Code::VniTaken, message).at("vni"))
        }
    }
}

/// The number of a network that was given none: the same on every host where it has this name. FNV-1a, folded to 24 bits.
fn named(name: &str) -> u32 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    ((hash >> 24) ^ (hash & LAST_VNI)).max(1)
}

/// The port of the host's sealed networks, where there are any.
pub(super) fn sealed_port(model: &Model) -> Option<u16> {
    let mut all = model.networks.values().filter_map(|n| n.spec.overlay);
    all.find(|o| o.carrier == Carrier::Sealed).map(|o| o.port)
}

/// Errors: `PortTaken` where another carrier, another port of the seal or a published port is in the way.
fn port_free(model: &Model, carrier: Carrier, port: u16) -> Result<(), Problem> {
    let taken = |message: String| Err(Problem::new(Code::PortTaken, message).at("opt"));
    for other in model.networks.values() {
        let Some(overlay) = other.spec.overlay else {
            continue;
        };
        let name = &other.spec.name;
        let alike = overlay.carrier == carrier;
        if alike && carrier == Carrier::Sealed && overlay.port != port {
            return taken(format!(
                "sealed tunnels of this host use port {}, as those of network '{name}': one port is for all",
                overlay.port
            ));
        }
        if overlay.port == port && (!alike || carrier == Carrier::FlannelUdp) {
            let theirs = overlay.carrier;
            return taken(format!(
                "udp port {port} is that of network '{name}', of carrier {theirs}; choose another with --opt port=PORT"
            ));
        }
    }
    let rules = model.publishes.values().map(|p| (p, &p.spec.rule));
    for (record, rule) in rules.filter(|(_, r)| r.proto == Proto::Udp) {
        let inside = |r: crate::config::PortRange| (r.first()..=r.last()).contains(&port);
        if rule.host.is_some_and(inside) {
            return taken(format!(
                "udp port {port} is published by '{rule}' of sandbox '{}'",
                record.wish.sandbox
            ));
        }
    }
    Ok(())
}

/// The network whose tunnels use one of the host's UDP ports.
pub(super) fn tunnels_on(model: &Model, first: u16, last: u16) -> Option<(u16, &str)> {
    model.networks.values().find_map(|n| {
        let port = n.spec.overlay?.port;
        (first..=last)
            .contains(&port)
            .then_some((port, n.spec.name.as_str()))
    })
}

/// The length of the prefix that a host hands out of a subnet, unless something else is asked.
/// `None` for a subnet that is too small to be divided.
fn part(of: &Subnet<Ipv4Addr>) -> Option<u8> {
    Some((of.prefix + PARTS).max(PART)).filter(|&len| len <= 30)
}

/// The first part of a subnet. Errors: `BadSubnet`.
pub(super) fn first_part(of: &Subnet<Ipv4Addr>) -> Result<Prefix, Problem> {
    let len = part(of).ok_or_else(|| {
        let message = format!(
            "{}/{} is too small to be divided between hosts; choose a larger subnet, or --ip-range",
            of.network, of.prefix
        );
        Problem::new(Code::BadSubnet, message).at("subnet")
    })?;
    Ok(Prefix {
        addr: of.network.into(),
        len,
    })
}

/// The parts of a subnet, in order, that are as large as this host's.
pub(super) fn parts(of: &Subnet<Ipv4Addr>, len: u8) -> impl Iterator<Item = Prefix> + use<> {
    let (first, last) = (
        of.network.to_bits(),
        of.network.to_bits() | !mask4(of.prefix),
    );
    let step = 1_u64 << (32 - u32::from(len.clamp(1, 32)));
    let steps = (u64::from(first)..=u64::from(last)).step_by(usize::try_from(step).unwrap_or(1));
    steps.filter_map(move |bits| {
        let addr = Ipv4Addr::from_bits(u32::try_from(bits).ok()?);
        Some(Prefix {
            addr: addr.into(),
            len,
        })
    })
}

/// The hosts of a part of the subnet that is a network of its own to others: its first and last addresses are none.
/// Errors: `BadSubnet` where there is no room for a gateway and a sandbox.
pub(super) fn hosts_of(part: &Range4) -> Result<Range4, Problem> {
    let range = Range4 {
        first: Ipv4Addr::from_bits(part.first.to_bits() | 1),
        last: Ipv4Addr::from_bits(part.last.to_bits() & !1),
    };
    if range.first < range.last {
        return Ok(range);
    }
    let message = format!(
        "{} to {} has no room for a gateway and a sandbox; choose a larger --ip-range",
        part.first, part.last
    );
    Err(Problem::new(Code::BadSubnet, message).at("ip-range"))
}

/// What of a network's IPv4 subnet this host hands out, as a prefix.
pub(super) fn own_part(network: &NetworkRecord) -> Option<Prefix> {
    network.spec.overlay?;
    match &network.wish.ip_range {
        Some(text) => text.parse().ok(),
        None => first_part(network.spec.v4.as_ref()?).ok(),
    }
}

/// The IPv6 address that goes with an IPv4 address on an overlay: both end in the same number.
pub(super) fn twin6(spec: &NetworkSpec, v4: Ipv4Addr) -> Option<Ipv6Addr> {
    spec.overlay?;
    let one = Prefix {
        addr: v4.into(),
        len: 32,
    };
    match one.twin(spec.v4.as_ref()?, spec.v6.as_ref()?)?.addr {
        IpAddr::V6(addr) => Some(addr),
        IpAddr::V4(_) => None,
    }
}

/// Checks that an address which was asked for is among those that this host hands out, where its peers hold it to them.
/// Errors: `AddressOutside`.
pub(super) fn ours(spec: &NetworkSpec, addr: IpAddr, field: &str) -> Result<(), Problem> {
    let held = |o: &OverlaySpec| o.carrier != Carrier::Vxlan;
    let Some(overlay) = spec.overlay.filter(held) else {
        return Ok(());
    };
    let (first, last) = (overlay.range.first, overlay.range.last);
    let inside = match addr {
        IpAddr::V4(addr) => (first..=last).contains(&addr),
        IpAddr::V6(addr) => {
            let ends = (twin6(spec, first), twin6(spec, last));
            matches!(ends, (Some(first), Some(last)) if (first..=last).contains(&addr))
        }
    };
    if inside {
        return Ok(());
    }
    let message = format!(
        "{addr} is not among what this host hands out on network '{}': that is {first} to {last}, and IPv6 addresses of the same numbers",
        spec.name
    );
    Err(Problem::new(Code::AddressOutside, message).at(field))
}

/// Adds to addresses of an overlay the IPv4 addresses whose IPv6 address is among them.
pub(super) fn pairs(spec: &NetworkSpec, mut taken: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let (Some(_), Some(v4), Some(v6)) = (spec.overlay, spec.v4, spec.v6) else {
        return taken;
    };
    let twin = |addr: &IpAddr| {
        let IpAddr::V6(addr) = addr else {
            return None;
        };
        let offset = u32::try_from(addr.to_bits().checked_sub(v6.network.to_bits())?).ok()?;
        let inside = offset & mask4(v4.prefix) == 0;
        inside.then(|| IpAddr::V4(Ipv4Addr::from_bits(v4.network.to_bits() | offset)))
    };
    let more: Vec<_> = taken.iter().filter_map(twin).collect();
    taken.extend(more);
    taken
}

/// Checks that every IPv4 address of an overlay has an IPv6 address. Errors: `BadSubnet`.
pub(super) fn alike(
    v4: Option<&Subnet<Ipv4Addr>>,
    v6: Option<&Subnet<Ipv6Addr>>,
) -> Result<(), Problem> {
    match (v4, v6) {
        (Some(v4), Some(v6)) if 128 - v6.prefix < 32 - v4.prefix => {
            let message = format!(
                "{}/{} has fewer addresses than {}/{}, and an overlay's addresses go in pairs",
                v6.network, v6.prefix, v4.network, v4.prefix
            );
            Err(Problem::new(Code::BadSubnet, message).at("subnet6"))
        }
        _ => Ok(()),
    }
}

/// Who of the peers on a network hands an address out.
pub(super) fn peer_of(model: &Model, network: &NetworkSpec, addr: IpAddr) -> Option<String> {
    network.overlay?;
    let mut peers = model.peers.values();
    let found = peers.find(|p| {
        let on = model.networks_of(p).any(|n| n.spec.id == network.id);
        on && model.peer_spec(p).prefixes.iter().any(|x| x.contains(addr))
    });
    found.map(|p| p.wish.name.clone())
}

/// Checks that no peer of a network hands out what this host does, and nobody here has what a peer hands out.
/// Errors: `RangeTaken`, `AddressTaken`.
pub(super) fn apart(model: &Model, network: &NetworkSpec, field: &str) -> Result<(), Problem> {
    let on = |p: &PeerRecord| model.networks_of(p).any(|n| n.spec.id == network.id);
    let mut peers = model.peers.values().filter(|p| on(p));
    peers.try_for_each(|p| apart_from(model, network, p, field))
}

/// The same for one peer, which may not be among the others yet. Errors: as [`apart`].
pub(super) fn apart_from(
    model: &Model,
    network: &NetworkSpec,
    peer: &PeerRecord,
    field: &str,
) -> Result<(), Problem> {
    let Some(overlay) = network.overlay else {
        return Ok(());
    };
    let name = &peer.wish.name;
    if let Some(prefix) = peer.prefixes.iter().find(|p| p.meets(&overlay.range)) {
        let message = format!(
            "{prefix} of peer '{name}' overlaps {} to {}, which this host hands out on network '{}'",
            overlay.range.first, overlay.range.last, network.name
        );
        return Err(Problem::new(Code::RangeTaken, message).at(field));
    }
    let prefixes = model.peer_spec(peer).prefixes;
    let theirs = |addr: Option<IpAddr>| addr.filter(|&a| prefixes.iter().any(|p| p.contains(a)));
    let own = network
        .v4
        .filter(|_| overlay.carrier == Carrier::FlannelUdp);
    if let Some(addr) = theirs(own.map(|s| s.gateway.into())) {
        let message = format!(
            "{addr}, the gateway of network '{}', is among what peer '{name}' hands out",
            network.name
        );
        return Err(Problem::new(Code::AddressTaken, message).at(field));
    }
    for e in model.on_network(network.id) {
        let (v4, v6) = (e.spec.v4.map(IpAddr::V4), e.spec.v6.map(IpAddr::V6));
        if let Some(addr) = theirs(v4).or_else(|| theirs(v6)) {
            let message = format!(
                "{addr} of sandbox '{}' is among what peer '{name}' hands out on network '{}'",
                e.name, network.name
            );
            return Err(Problem::new(Code::AddressTaken, message).at(field));
        }
    }
    Ok(())
}

#[test]
fn names_give_numbers_that_can_be() {
    assert_eq!(named("web"), named("web"));
    assert_ne!(named("web"), named("back"));
    for n in 0..1000 {
        assert!((1..=LAST_VNI).contains(&named(&n.to_string())));
    }
}
