//! The interfaces of weft's in a sandbox. Everything here runs inside it.

use std::io;

use netlink_packet_core::Nla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use switch_core::addr::Mac;

use super::super::link::{self, LinkChange};
use super::super::netlink::Netlink;
use super::super::sandbox::{LOOPBACK, explain_tap, no_family};
use super::enter::Inside;
use super::proto::Made;
use super::{ALIAS, FleetError, LinkSpec, alias, route, veth};
use crate::endpoint::tap::{self, Tap, TapOptions};
use crate::endpoint::{Kind, Opened, packet};

/// A link as the kernel describes it.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) index: u32,
    name: String,
    alias: String,
    mac: Option<Mac>,
    kind: Option<Kind>,
    /// Of a pair, the index of the other end, if that is in the same namespace.
    other: Option<u32>,
    /// A TAP that outlives whoever has it open.
    persists: bool,
}

impl Found {
    fn is_of(&self, endpoint: u32) -> bool {
        self.kind.is_some() && self.alias == alias(endpoint)
    }

    /// The process whose own pair it is the far end of.
    pub(super) fn process(&self) -> Option<i32> {
        let number = self.far_end().filter(|n| n & veth::OF_PROCESS != 0)?;
        i32::try_from(number & !veth::OF_PROCESS).ok()
    }

    /// The number of the pair of which it is the end that has no address.
    pub(super) fn far_end(&self) -> Option<u32> {
        let ours = (self.kind == Some(Kind::Packet)).then_some(&self.alias)?;
        let number = ours.strip_prefix(ALIAS)?.strip_suffix(veth::FAR)?;
        number.parse().ok()
    }
}

/// Whether the interface of that name, if there is one, goes by itself when a process ends: a TAP that does not persist,
/// or the near end of a pair that is a process's own. Errors: `Refused`.
pub(super) fn is_of_a_process(ifname: &str) -> Result<bool, FleetError> {
    let all = list()?;
    let found = all.iter().find(|found| found.name == ifname);
    Ok(found.is_some_and(|found| match found.kind {
        Some(Kind::Tap) => !found.persists,
        Some(Kind::Packet) => all
            .iter()
            .any(|far| found.other == Some(far.index) && far.process().is_some()),
        None => false,
    }))
}

/// Makes the interface, and configures it.
/// Errors: `InterfaceExists`, `Refused`; then there is none.
pub(super) fn add(spec: &LinkSpec) -> Inside<Made> {
    let name = &spec.ifname;
    tap::check_name(name).map_err(|e| FleetError::refused(format!("interface {name}"), &e))?;
    if link::index_of(name).is_ok() {
        return Err(FleetError::InterfaceExists(name.clone()));
    }
    match spec.kind {
        Kind::Tap => add_tap(spec),
        Kind::Packet => add_pair(spec),
    }
}

fn add_tap(spec: &LinkSpec) -> Inside<Made> {
    // It persists only once all is set: until then it ends with its descriptor, whatever happens.
    let name = &spec.ifname;
    let tap = open_tap(spec)?;
    let (ifindex, warnings) = configure(spec)?;
    if spec.persistent {
        let what = || format!("cannot make {name} persistent");
        tap.persist().map_err(|e| FleetError::refused(what(), &e))?;
    }
    let tap = Opened::from(tap);
    let made = Made {
        how: tap.how,
        ifindex,
        mac: spec.mac,
        warnings,
    };
    Ok((made, vec![tap.fd]))
}

fn add_pair(spec: &LinkSpec) -> Inside<Made> {
    let far = veth::make(spec.endpoint, &spec.ifname, spec.mtu)?;
    let made = configure(spec).and_then(|(ifindex, warnings)| {
        let made = Made {
            how: packet::how(),
            ifindex,
            mac: spec.mac,
            warnings,
        };
        Ok((made, vec![veth::open(far)?.fd]))
    });
    if made.is_err() {
        // The error that is told is the first one.
        let _ = veth::delete(far);
    }
    made
}

/// Opens the interface that is there, and changes nothing of it.
/// Errors: `InterfaceMissing`; `Refused` with `EBUSY` when someone has it open.
pub(super) fn adopt(spec: &LinkSpec) -> Inside<Made> {
    let missing = || FleetError::InterfaceMissing(spec.ifname.clone());
    let all = list()?;
    let found = all.iter().find(|found| found.name == spec.ifname);
    let found = found
        .filter(|found| found.is_of(spec.endpoint) && found.kind == Some(spec.kind))
        .ok_or_else(missing)?;
    if spec.kind == Kind::Packet {
        let far = all
            .iter()
            .find(|found| found.far_end() == Some(spec.endpoint));
        let far = far.ok_or_else(missing)?.index;
        let made = Made {
            how: packet::how(),
            ifindex: found.index,
            mac: found.mac.unwrap_or(spec.mac),
            warnings: Vec::new(),
        };
        return Ok((made, vec![veth::open(far)?.fd]));
    }
    let tap = open_tap(spec)?;
    // Had it gone meanwhile, this would be a new one, which ends with its descriptor.
    if link::index_of(&spec.ifname).ok() != Some(found.index) {
        return Err(missing());
    }
    let tap = Opened::from(tap);
    let made = Made {
        how: tap.how,
        ifindex: found.index,
        mac: found.mac.unwrap_or(spec.mac),
        warnings: Vec::new(),
    };
    Ok((made, vec![tap.fd]))
}

/// Removes the endpoint's interface, also when it has another name by now.
/// Errors: `InterfaceMissing`, `Refused`.
pub(super) fn remove(ifname: &str, endpoint: u32) -> Result<(), FleetError> {
    // Either end of a pair takes the other with it.
    let ours = |found: &Found| found.is_of(endpoint) || found.far_end() == Some(endpoint);
    let found = list()?
        .into_iter()
        .filter(ours)
        .max_by_key(|found| found.name == ifname)
        .ok_or_else(|| FleetError::InterfaceMissing(ifname.to_owned()))?;
    veth::delete(found.index)
        .map_err(|e| FleetError::refused(format!("cannot remove {ifname}"), &e))
}

/// The index of an interface. Errors: `InterfaceMissing`.
pub(super) fn index(ifname: &str) -> Result<u32, FleetError> {
    link::index_of(ifname).map_err(|_| FleetError::InterfaceMissing(ifname.to_owned()))
}

/// Opens a netlink socket here. Errors: `Refused`.
pub(super) fn netlink() -> Result<Netlink, FleetError> {
    Netlink::open().map_err(|e| FleetError::refused("cannot open a netlink socket inside", &e))
}

fn open_tap(spec: &LinkSpec) -> Result<Tap, FleetError> {
    let options = TapOptions {
        vnet: spec.vnet,
        ..TapOptions::default()
    };
    Tap::open(&spec.ifname, &options).map_err(|e| FleetError::Refused {
        message: match e.raw_os_error() {
            Some(libc::EBUSY) => format!("{} is open in another switch", spec.ifname),
            _ => explain_tap(&e, &spec.ifname).to_string(),
        },
        errno: e.raw_os_error(),
    })
}

fn configure(spec: &LinkSpec) -> Result<(u32, Vec<String>), FleetError> {
    let name = &spec.ifname;
    let refused =
        |what: String| move |e: io::Error| FleetError::refused(format!("cannot set {what}"), &e);
    let index = index(name)?;
    let v6 = !spec.configure || spec.addresses.iter().any(|(addr, _)| addr.is_ipv6());
    link::prepare_families(name, v6, spec.configure, spec.shared);
    for (key, value) in &spec.sysctls {
        let what = format!("sysctl net.{key} to {value}");
        sysctl_path(key, name)
            .and_then(|path| link::sysctl(&path, value))
            .map_err(refused(what))?;
    }
    let mut netlink = netlink()?;
    let up = LinkChange {
        up: true,
        ..LinkChange::default()
    };
    if !spec.shared {
        link::set_link(&mut netlink, LOOPBACK, &up).map_err(refused("lo up".to_owned()))?;
    }
    let ours = alias(spec.endpoint);
    let change = LinkChange {
        mac: Some(spec.mac),
        mtu: Some(spec.mtu),
        gso_max_size: spec.gso_max_size,
        alias: Some(&ours),
        up: true,
    };
    let what = format!("MAC {} and MTU {} and {name} up", spec.mac, spec.mtu);
    link::set_link(&mut netlink, index, &change).map_err(refused(what))?;
    if !spec.configure {
        return Ok((index, Vec::new()));
    }
    let mut warnings = Vec::new();
    for &(addr, prefix) in &spec.addresses {
        match link::add_address(&mut netlink, index, addr, prefix) {
            // A host booted without IPv6 has none for its sandboxes either.
            Err(e) if addr.is_ipv6() && no_family(&e) => {
                warnings.push("the kernel has no IPv6: the sandbox has IPv4 only".to_owned());
            }
            result => result.map_err(refused(format!("address {addr}/{prefix} on {name}")))?,
        }
    }
    let mut default = spec.default_route.clone();
    if !warnings.is_empty() {
        default.gateways.retain(std::net::IpAddr::is_ipv4);
    }
    let told = route::add_default(&mut netlink, index, &default)
        .map_err(refused(format!("the default route through {name}")))?;
    warnings.extend(told);
    for one in &spec.routes {
        let what = format!("the route to {}/{} through {name}", one.to, one.prefix);
        route::add(&mut netlink, index, one).map_err(refused(what))?;
    }
    Ok((index, warnings))
}

/// Where a setting is, below /proc/sys. Errors: `InvalidInput` for a name that would lead elsewhere.
fn sysctl_path(key: &str, ifname: &str) -> io::Result<String> {
    let mut path = "net".to_owned();
    for part in key.split('.') {
        if part.is_empty() || part.contains('/') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        path.push('/');
        path.push_str(if part == "IFNAME" { ifname } else { part });
    }
    Ok(path)
}

pub(super) fn list() -> Result<Vec<Found>, FleetError> {
    let mut all = Vec::new();
    let ask = RouteNetlinkMessage::GetLink(LinkMessage::default());
    netlink()?
        .dump(ask, |answer| {
            if let RouteNetlinkMessage::NewLink(message) = answer {
                all.push(found(message));
            }
        })
        .map_err(|e| FleetError::refused("cannot list the interfaces of the sandbox", &e))?;
    Ok(all)
}

fn found(message: LinkMessage) -> Found {
    let mut found = Found {
        index: message.header.index,
        ..Found::default()
    };
    for attribute in message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            found.name = name;
        } else if let LinkAttribute::IfAlias(alias) = attribute {
            found.alias = alias;
        } else if let LinkAttribute::Address(bytes) = attribute {
            found.mac = bytes.try_into().ok().map(Mac);
        } else if let LinkAttribute::Link(other) = attribute {
            found.other = Some(other);
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            let is = |kind| infos.contains(&LinkInfo::Kind(kind));
            found.persists = infos.iter().any(persists);
            let pair = is(InfoKind::Veth).then_some(Kind::Packet);
            found.kind = is(InfoKind::Tun).then_some(Kind::Tap).or(pair);
        }
    }
    found
}

/// Whether this tells of a TAP that persists. Source: linux/if_link.h, `IFLA_TUN_PERSIST`.
fn persists(info: &LinkInfo) -> bool {
    const IFLA_TUN_PERSIST: u16 = 6;
    let LinkInfo::Data(InfoData::Tun(all)) = info else {
        return false;
    };
    all.iter().any(|one| {
        let mut value = [0; 1];
        let asked = one.kind() == IFLA_TUN_PERSIST && one.value_len() == value.len();
        if asked {
            one.emit_value(&mut value);
        }
        value != [0]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_stay_below_net() {
        let path = |key| sysctl_path(key, "eth0.5").ok();
        assert_eq!(
            path("ipv4.conf.IFNAME.forwarding").unwrap(),
            "net/ipv4/conf/eth0.5/forwarding"
        );
        for bad in ["", "ipv4..x", "..", "../kernel.x", "ipv4.conf/../x"] {
            assert_eq!(path(bad), None, "{bad}");
        }
    }
}
