//! The sandbox's subnets: chosen so that they hide nothing the host can reach, or checked when given.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail, ensure};

/// The private blocks. Source: RFC 1918 section 3.
const PRIVATE: [(Ipv4Addr, u8); 3] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
];
/// Routes shorter than the shortest private block are ways to everything (a default route, or its two halves as some
/// tunnels write it), and say nothing about a subnet in use.
pub(super) const SHORTEST_V4: u8 = 8;
/// As for IPv4: 2000::/3 and fc00::/7 are ways to everything.
const SHORTEST_V6: u8 = 8;
/// The first choice inside 10/8, away from what people number by hand.
const FIRST_CHOICE: u32 = 0x0a5b_0000;

/// An IPv4 subnet with its two addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet4 {
    /// The sandbox's address.
    pub guest: Ipv4Addr,
    /// The gateway's address.
    pub gateway: Ipv4Addr,
    /// Length of the prefix, 8 to 30.
    pub prefix: u8,
}

/// An IPv6 subnet with its two addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet6 {
    /// The sandbox's address.
    pub guest: Ipv6Addr,
    /// The gateway's address.
    pub gateway: Ipv6Addr,
    /// Length of the prefix, 64 unless asked for otherwise.
    pub prefix: u8,
}

impl Subnet4 {
    /// The first address.
    #[must_use]
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.gateway.to_bits() & mask4(self.prefix))
    }

    /// The last address.
    #[must_use]
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.gateway.to_bits() | !mask4(self.prefix))
    }

    /// True if the address lies inside.
    #[must_use]
    pub fn contains(&self, a: Ipv4Addr) -> bool {
        (a.to_bits() ^ self.gateway.to_bits()) & mask4(self.prefix) == 0
    }
}

impl Subnet6 {
    /// The first address.
    #[must_use]
    pub fn network(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.gateway.to_bits() & mask6(self.prefix))
    }

    /// True if the address lies inside.
    #[must_use]
    pub fn contains(&self, a: Ipv6Addr) -> bool {
        (a.to_bits() ^ self.gateway.to_bits()) & mask6(self.prefix) == 0
    }
}

pub(crate) fn mask4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

pub(crate) fn mask6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

/// What was asked for and what is taken already.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wishes<'a> {
    /// `--subnet` or `--subnet6`.
    pub subnet: Option<&'a str>,
    /// `--ip` or `--ip6`.
    pub addr: Option<&'a str>,
    /// Destinations that the host has routes to: address and length of the prefix.
    pub routes: &'a [(IpAddr, u8)],
    /// Addresses that must stay outside a subnet of our choice.
    pub avoid: &'a [IpAddr],
}

/// Settles the IPv4 subnet. Sentences about what the choice costs go to `warnings`.
/// Errors: one line that names the option.
pub fn v4(wishes: &Wishes<'_>, warnings: &mut Vec<String>) -> Result<Subnet4> {
    let addr: Option<Ipv4Addr> = wishes
        .addr
        .map(|s| {
            s.parse()
                .ok()
                .with_context(|| format!("--ip '{s}': not an IPv4 address"))
        })
        .transpose()?;
    let (network, prefix) = match (wishes.subnet, addr) {
        (Some(text), _) => parse_subnet4(text)?,
        (None, Some(a)) => (a.to_bits() & mask4(24), 24),
        (None, None) => (choose4(wishes, warnings)?, 24),
    };
    let inside = |a: Ipv4Addr| a.to_bits() & mask4(prefix) == network;
    let shown = format!("{}/{prefix}", Ipv4Addr::from_bits(network));
    if let Some(a) = addr {
        ensure!(inside(a), "--ip '{a}': outside the subnet {shown}");
        let last = network | !mask4(prefix);
        ensure!(
            a.to_bits() != network && a.to_bits() != last,
            "--ip '{a}': the first and the last address of {shown} are no host's"
        );
    }
    ensure!(
        usable4(Ipv4Addr::from_bits(network)),
        "the subnet {shown}: loopback, link-local, multicast and reserved addresses cannot be used"
    );
    let given = wishes.subnet.is_some() || addr.is_some();
    if given && let Some((r, len)) = overlap4(network, prefix, wishes.routes, SHORTEST_V4) {
        warnings.push(format!(
            "the subnet {shown} hides the host's {r}/{len} from the sandbox"
        ));
    }
    let first = Ipv4Addr::from_bits(network | 1);
    let second = Ipv4Addr::from_bits(network | 2);
    let guest = addr.unwrap_or(second);
    let gateway = if guest == first { second } else { first };
    Ok(Subnet4 {
        guest,
        gateway,
        prefix,
    })
}

/// Settles the IPv6 subnet; a fresh unique local one is made from `random` (RFC 4193 section 3.2).
/// Sentences about what the choice costs go to `warnings`. Errors: one line that names the option.
pub fn v6(wishes: &Wishes<'_>, random: [u8; 7], warnings: &mut Vec<String>) -> Result<Subnet6> {
    let addr: Option<Ipv6Addr> = wishes
        .addr
        .map(|s| {
            s.parse()
                .ok()
                .with_context(|| format!("--ip6 '{s}': not an IPv6 address"))
        })
        .transpose()?;
    let (network, prefix) = match (wishes.subnet, addr) {
        (Some(text), _) => parse_subnet6(text)?,
        (None, Some(a)) => (a.to_bits() & mask6(64), 64),
        (None, None) => {
            let [a, b, c, d, e, f, g] = random;
            let bytes = [0xfd, a, b, c, d, e, f, g, 0, 0, 0, 0, 0, 0, 0, 0];
            (u128::from_be_bytes(bytes), 64)
        }
    };
    let shown = format!("{}/{prefix}", Ipv6Addr::from_bits(network));
    if let Some(a) = addr {
        ensure!(
            a.to_bits() & mask6(prefix) == network,
            "--ip6 '{a}': outside the subnet {shown}"
        );
        ensure!(
            a.to_bits() != network,
            "--ip6 '{a}': the first address of {shown} is every router's"
        );
    }
    ensure!(
        usable6(Ipv6Addr::from_bits(network)),
        "the subnet {shown}: only global (2000::/3) and unique local (fc00::/7) addresses can be used"
    );
    if (wishes.subnet.is_some() || addr.is_some())
        && let Some((r, len)) = overlap6(network, prefix, wishes.routes)
    {
        warnings.push(format!(
            "the subnet {shown} hides the host's {r}/{len} from the sandbox"
        ));
    }
    let (first, second) = (
        Ipv6Addr::from_bits(network | 1),
        Ipv6Addr::from_bits(network | 2),
    );
    let guest = addr.unwrap_or(second);
    let gateway = if guest == first { second } else { first };
    Ok(Subnet6 {
        guest,
        gateway,
        prefix,
    })
}

/// Walks the private /24s for one that no route overlaps. A host that routes all of them (many office tunnels do) still
/// gets one: then only routes longer than such a summary count, and the user is told.
fn choose4(wishes: &Wishes<'_>, warnings: &mut Vec<String>) -> Result<u32> {
    let avoided = |network: u32| {
        wishes
            .avoid
            .iter()
            .any(|a| matches!(a, IpAddr::V4(a) if a.to_bits() & mask4(24) == network))
    };
    let find = |shortest: u8| {
        candidates().find(|&n| overlap4(n, 24, wishes.routes, shortest).is_none() && !avoided(n))
    };
    if let Some(network) = find(SHORTEST_V4) {
        return Ok(network);
    }
    for shortest in [17, 25] {
        if let Some(network) = find(shortest) {
            let shown = Ipv4Addr::from_bits(network);
            warnings.push(format!(
                "the host routes every private subnet; {shown}/24 is hidden from the sandbox (choose with --subnet)"
            ));
            return Ok(network);
        }
    }
    bail!("no private /24 is free: the host uses them all; choose one with --subnet")
}

pub(super) fn candidates() -> impl Iterator<Item = u32> {
    let all = PRIVATE.iter().flat_map(|&(base, len)| {
        let base = base.to_bits();
        (base..=base | !mask4(len)).step_by(256)
    });
    (FIRST_CHOICE..FIRST_CHOICE + 0x1_0000)
        .step_by(256)
        .chain(all)
}

pub(super) fn overlap4(
    network: u32,
    prefix: u8,
    routes: &[(IpAddr, u8)],
    shortest: u8,
) -> Option<(Ipv4Addr, u8)> {
    routes.iter().find_map(|&(addr, len)| match addr {
        IpAddr::V4(a) if (shortest..=32).contains(&len) => {
            let mask = mask4(prefix.min(len));
            (network & mask == a.to_bits() & mask).then_some((a, len))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    })
}

pub(super) fn overlap6(
    network: u128,
    prefix: u8,
    routes: &[(IpAddr, u8)],
) -> Option<(Ipv6Addr, u8)> {
    routes.iter().find_map(|&(addr, len)| match addr {
        IpAddr::V6(a) if (SHORTEST_V6..=128).contains(&len) => {
            let mask = mask6(prefix.min(len));
            (network & mask == a.to_bits() & mask).then_some((a, len))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    })
}

pub(super) fn usable4(a: Ipv4Addr) -> bool {
    let first = a.octets()[0];
    (1..224).contains(&first) && first != 127 && !a.is_link_local()
}

pub(super) fn usable6(a: Ipv6Addr) -> bool {
    let first = a.octets()[0];
    first & 0xe0 == 0x20 || first & 0xfe == 0xfc
}

pub(super) fn parse_subnet4(text: &str) -> Result<(u32, u8)> {
    parse_prefix4("--subnet", text, 30)
}

/// Reads a part of a subnet, down to one address.
pub(super) fn parse_range4(text: &str) -> Result<(u32, u8)> {
    parse_prefix4("--ip-range", text, 32)
}

fn parse_prefix4(option: &str, text: &str, longest: u8) -> Result<(u32, u8)> {
    let (addr, prefix) = split_prefix(option, text)?;
    let addr: Ipv4Addr = addr
        .parse()
        .ok()
        .with_context(|| format!("{option} '{text}': not an IPv4 subnet"))?;
    ensure!(
        (8..=longest).contains(&prefix),
        "{option} '{text}': the prefix must be /8 to /{longest}"
    );
    let network = addr.to_bits() & mask4(prefix);
    ensure!(
        network == addr.to_bits(),
        "{option} '{text}': bits behind the prefix are set; {}/{prefix} is the subnet",
        Ipv4Addr::from_bits(network)
    );
    Ok((network, prefix))
}

pub(super) fn parse_subnet6(text: &str) -> Result<(u128, u8)> {
    let (addr, prefix) = split_prefix("--subnet6", text)?;
    let addr: Ipv6Addr = addr
        .parse()
        .ok()
        .with_context(|| format!("--subnet6 '{text}': not an IPv6 subnet"))?;
    ensure!(
        (8..=126).contains(&prefix),
        "--subnet6 '{text}': the prefix must be /8 to /126"
    );
    let network = addr.to_bits() & mask6(prefix);
    ensure!(
        network == addr.to_bits(),
        "--subnet6 '{text}': bits behind the prefix are set; {}/{prefix} is the subnet",
        Ipv6Addr::from_bits(network)
    );
    Ok((network, prefix))
}

fn split_prefix<'a>(option: &str, text: &'a str) -> Result<(&'a str, u8)> {
    let (addr, prefix) = text
        .split_once('/')
        .with_context(|| format!("{option} '{text}': the form is ADDR/LEN"))?;
    let prefix = prefix
        .parse()
        .ok()
        .with_context(|| format!("{option} '{text}': '{prefix}' is no prefix"))?;
    Ok((addr, prefix))
}

#[cfg(test)]
#[path = "subnet_tests.rs"]
mod tests;
