//! Address management of the daemon's networks: which subnets may be, and which address comes next.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::problem::{Code, Problem, coded};
use super::subnet::{self, SHORTEST_V4, mask4, mask6};
use crate::control::spec::Subnet;

/// What subnets must keep clear of.
#[derive(Debug, Clone, Copy)]
pub struct Used<'a> {
    /// Subnets of the other networks, with the networks' names.
    pub subnets: &'a [(IpAddr, u8, String)],
    /// Destinations that the host has routes to.
    pub routes: &'a [(IpAddr, u8)],
}

/// Checks a subnet that was asked for. What it hides of the host goes to `warnings`.
/// Errors: `BadSubnet`, `SubnetOverlap`, `BadAddress` and `AddressOutside` for the gateway.
pub fn given4(
    text: &str,
    gateway: Option<&str>,
    used: &Used<'_>,
    warnings: &mut Vec<String>,
) -> Result<Subnet<Ipv4Addr>, Problem> {
    let (bits, prefix) = coded(Code::BadSubnet, "subnet", subnet::parse_subnet4(text))?;
    let network = Ipv4Addr::from_bits(bits);
    if !subnet::usable4(network) {
        return Err(unusable(text, "subnet"));
    }
    apart(network.into(), prefix, used.subnets, "subnet")?;
    if let Some((r, len)) = subnet::overlap4(bits, prefix, used.routes, SHORTEST_V4) {
        warnings.push(format!(
            "the subnet {text} hides the host's {r}/{len} from its sandboxes"
        ));
    }
    let first = Ipv4Addr::from_bits(bits | 1);
    let gateway = gateway.map_or(Ok(first), |g| parse4(g, "gateway"))?;
    let subnet = Subnet {
        network,
        prefix,
        gateway,
    };
    inside4(gateway, &subnet, "gateway")?;
    Ok(subnet)
}

/// Checks an IPv6 subnet that was asked for. What it hides of the host goes to `warnings`.
/// Errors: as [`given4`].
pub fn given6(
    text: &str,
    gateway: Option<&str>,
    used: &Used<'_>,
    warnings: &mut Vec<String>,
) -> Result<Subnet<Ipv6Addr>, Problem> {
    let (bits, prefix) = coded(Code::BadSubnet, "subnet6", subnet::parse_subnet6(text))?;
    let network = Ipv6Addr::from_bits(bits);
    if !subnet::usable6(network) {
        return Err(unusable(text, "subnet6"));
    }
    apart(network.into(), prefix, used.subnets, "subnet6")?;
    if let Some((r, len)) = subnet::overlap6(bits, prefix, used.routes) {
        warnings.push(format!(
            "the subnet {text} hides the host's {r}/{len} from its sandboxes"
        ));
    }
    let first = Ipv6Addr::from_bits(bits | 1);
    let gateway = gateway.map_or(Ok(first), |g| parse6(g, "gateway6"))?;
    let subnet = Subnet {
        network,
        prefix,
        gateway,
    };
    inside6(gateway, &subnet, "gateway6")?;
    Ok(subnet)
}

fn unusable(text: &str, field: &str) -> Problem {
    let what =
        "loopback, link-local, multicast and reserved addresses cannot be a network's subnet";
    Problem::new(Code::BadSubnet, format!("'{text}': {what}")).at(field)
}

/// Chooses a private /24 that neither a route of the host nor another network overlaps.
/// Errors: `NoFreeSubnet`.
pub fn free4(used: &Used<'_>) -> Result<Subnet<Ipv4Addr>, Problem> {
    let clear = |&bits: &u32| {
        subnet::overlap4(bits, 24, used.routes, SHORTEST_V4).is_none()
            && overlap(Ipv4Addr::from_bits(bits).into(), 24, used.subnets).is_none()
    };
    let bits = subnet::candidates().find(clear).ok_or_else(|| {
        let why = "every private /24 overlaps a route of the host or a network; choose one with --subnet, or remove networks";
        Problem::new(Code::NoFreeSubnet, why).at("subnet")
    })?;
    Ok(Subnet {
        network: Ipv4Addr::from_bits(bits),
        prefix: 24,
        gateway: Ipv4Addr::from_bits(bits | 1),
    })
}

/// Makes a unique local /64 from random bytes. `None` when something has it: take other bytes. Source: RFC 4193 section 3.2.
#[must_use]
pub fn free6(used: &Used<'_>, random: [u8; 7]) -> Option<Subnet<Ipv6Addr>> {
    let [a, b, c, d, e, f, g] = random;
    let bits = u128::from_be_bytes([0xfd, a, b, c, d, e, f, g, 0, 0, 0, 0, 0, 0, 0, 0]);
    let network = Ipv6Addr::from_bits(bits);
    let clear = subnet::overlap6(bits, 64, used.routes).is_none()
        && overlap(network.into(), 64, used.subnets).is_none();
    clear.then_some(Subnet {
        network,
        prefix: 64,
        gateway: Ipv6Addr::from_bits(bits | 1),
    })
}

fn apart(
    network: IpAddr,
    prefix: u8,
    subnets: &[(IpAddr, u8, String)],
    field: &str,
) -> Result<(), Problem> {
    match overlap(network, prefix, subnets) {
        None => Ok(()),
        Some((addr, len, name)) => Err(Problem::new(
            Code::SubnetOverlap,
            format!("the subnet {network}/{prefix} overlaps {addr}/{len} of network '{name}'"),
        )
        .at(field)),
    }
}

fn overlap(
    network: IpAddr,
    prefix: u8,
    subnets: &[(IpAddr, u8, String)],
) -> Option<&(IpAddr, u8, String)> {
    subnets.iter().find(|(addr, len, _)| {
        let prefix = prefix.min(*len);
        match (network, addr) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()) & mask4(prefix) == 0,
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()) & mask6(prefix) == 0,
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    })
}

/// Reads an IPv4 address. Errors: `BadAddress`.
pub fn parse4(text: &str, field: &str) -> Result<Ipv4Addr, Problem> {
    text.parse().map_err(|_| {
        Problem::new(Code::BadAddress, format!("'{text}' is not an IPv4 address")).at(field)
    })
}

/// Reads an IPv6 address. Errors: `BadAddress`.
pub fn parse6(text: &str, field: &str) -> Result<Ipv6Addr, Problem> {
    text.parse().map_err(|_| {
        Problem::new(Code::BadAddress, format!("'{text}' is not an IPv6 address")).at(field)
    })
}

/// Checks that an address is a host's of the subnet.
/// Errors: `AddressOutside`; `BadAddress` for the subnet's first and last.
pub fn inside4(addr: Ipv4Addr, of: &Subnet<Ipv4Addr>, field: &str) -> Result<(), Problem> {
    let (first, last) = bounds4(of);
    outside(
        (addr.to_bits() ^ first) & mask4(of.prefix) != 0,
        addr,
        of.network,
        of.prefix,
        field,
    )?;
    if addr.to_bits() == first || addr.to_bits() == last {
        return Err(no_host(addr, of.network, of.prefix, field));
    }
    Ok(())
}

/// Checks that an address is a host's of the subnet.
/// Errors: `AddressOutside`; `BadAddress` for the subnet's first, which is every router's (RFC 4291 section 2.6.1).
pub fn inside6(addr: Ipv6Addr, of: &Subnet<Ipv6Addr>, field: &str) -> Result<(), Problem> {
    let first = of.network.to_bits();
    outside(
        (addr.to_bits() ^ first) & mask6(of.prefix) != 0,
        addr,
        of.network,
        of.prefix,
        field,
    )?;
    if addr.to_bits() == first {
        return Err(no_host(addr, of.network, of.prefix, field));
    }
    Ok(())
}

fn outside<A: std::fmt::Display>(
    outside: bool,
    addr: A,
    network: A,
    prefix: u8,
    field: &str,
) -> Result<(), Problem> {
    if !outside {
        return Ok(());
    }
    let message = format!("{addr} lies outside the network's subnet {network}/{prefix}");
    Err(Problem::new(Code::AddressOutside, message).at(field))
}

fn no_host<A: std::fmt::Display>(addr: A, network: A, prefix: u8, field: &str) -> Problem {
    let message = format!("{addr} cannot be a host's address in {network}/{prefix}");
    Problem::new(Code::BadAddress, message).at(field)
}

fn bounds4(of: &Subnet<Ipv4Addr>) -> (u32, u32) {
    let first = of.network.to_bits();
    (first, first | !mask4(of.prefix))
}

/// The part of a subnet that addresses are chosen from: the first and the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range4 {
    /// The first.
    pub first: Ipv4Addr,
    /// The last.
    pub last: Ipv4Addr,
}

/// The hosts of a subnet, or of the part of it that `text` names.
/// Errors: `BadSubnet` when that is not a part of the subnet.
pub fn range4(of: &Subnet<Ipv4Addr>, text: Option<&str>) -> Result<Range4, Problem> {
    let (first, last) = bounds4(of);
    let (low, high) = match text {
        None => (first, last),
        Some(text) => {
            let (bits, prefix) = coded(Code::BadSubnet, "ip-range", subnet::parse_range4(text))?;
            if prefix < of.prefix || (bits ^ first) & mask4(of.prefix) != 0 {
                let message = format!("'{text}' is no part of {}/{}", of.network, of.prefix);
                return Err(Problem::new(Code::BadSubnet, message).at("ip-range"));
            }
            (bits, bits | !mask4(prefix))
        }
    };
    Ok(Range4 {
        first: Ipv4Addr::from_bits(low.max(first + 1)),
        last: Ipv4Addr::from_bits(high.min(last - 1)),
    })
}

/// The next free address of a range, looking first behind the one that was given last, so that an address rests
/// before another endpoint has it. Addresses that end in 0 or 255 come last: to some they are a network or everybody,
/// whatever the prefix. `None` when all are taken. Cost: one step for each taken address that is passed.
#[must_use]
pub fn next4(
    range: &Range4,
    last_given: Option<Ipv4Addr>,
    taken: &BTreeSet<IpAddr>,
) -> Option<Ipv4Addr> {
    let (first, last) = (range.first.to_bits(), range.last.to_bits());
    let start = last_given
        .map(|a| a.to_bits().saturating_add(1))
        .filter(|a| (first..=last).contains(a))
        .unwrap_or(first);
    let free = |plain: bool| {
        (start..=last)
            .chain(first..start)
            .filter(move |bits| matches!(bits & 0xff, 0 | 0xff) != plain)
            .map(Ipv4Addr::from_bits)
            .find(|a| !taken.contains(&IpAddr::V4(*a)))
    };
    free(true).or_else(|| free(false))
}

/// The next free address of an IPv6 subnet, as [`next4`]. At most 2^32 of its addresses are given out.
#[must_use]
pub fn next6(
    of: &Subnet<Ipv6Addr>,
    last_given: Option<Ipv6Addr>,
    taken: &BTreeSet<IpAddr>,
) -> Option<Ipv6Addr> {
    let network = of.network.to_bits();
    let hosts = (!mask6(of.prefix)).min(u128::from(u32::MAX));
    let start = last_given
        .map(|a| (a.to_bits() - network).saturating_add(1))
        .filter(|offset| (1..=hosts).contains(offset))
        .unwrap_or(1);
    (start..=hosts)
        .chain(1..start)
        .map(|offset| Ipv6Addr::from_bits(network + offset))
        .find(|a| !taken.contains(&IpAddr::V6(*a)))
}

#[cfg(test)]
#[path = "ipam_tests.rs"]
mod tests;
