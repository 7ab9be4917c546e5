//! What a checked configuration depends on besides its text: facts about the host, gathered once and passed in.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit};

/// Facts about the host.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// Destinations that the host has routes or addresses in: address and length of the prefix.
    pub routes: Vec<(IpAddr, u8)>,
    /// The hard limit on descriptors.
    pub descriptors: u64,
    /// The user that runs weft.
    pub uid: u32,
    /// Random bytes for addresses and names.
    pub random: [u8; 16],
}

impl HostFacts {
    /// Asks the host. A host without IPv6, or without /proc, has no such routes.
    /// Errors: the limit on descriptors cannot be read.
    pub fn gather() -> Result<Self> {
        let (_, descriptors) =
            getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit on descriptors")?;
        Ok(Self {
            routes: routes(),
            descriptors,
            uid: nix::unistd::geteuid().as_raw(),
            random: random(),
        })
    }
}

/// Destinations that the host has routes or addresses in now: address and length of the prefix.
#[must_use]
pub fn routes() -> Vec<(IpAddr, u8)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut routes = routes_v4(&read("/proc/net/route"));
    routes.extend(routes_v6(&read("/proc/net/ipv6_route")));
    routes.extend(addresses());
    routes
}

/// What the host calls itself, as far as that is one word; `weft` where it is none.
#[must_use]
pub fn host_name() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    let name = name.to_string_lossy();
    let word = name.split('.').next().unwrap_or_default();
    let sound = super::names::domain("", word).is_ok() && !word.bytes().all(|b| b.is_ascii_digit());
    if sound { word } else { "weft" }.to_owned()
}

/// Random enough for addresses that must differ between two runs: the keys that the standard library draws from the kernel.
#[must_use]
pub fn random() -> [u8; 16] {
    let (a, b) = (
        RandomState::new().hash_one(0u8),
        RandomState::new().hash_one(1u8),
    );
    let mut bytes = [0; 16];
    let (head, tail) = bytes.split_at_mut(8);
    head.copy_from_slice(&a.to_ne_bytes());
    tail.copy_from_slice(&b.to_ne_bytes());
    bytes
}

/// Addresses are asked for beside routes: with policy routing the main table may not show their subnets.
pub(super) fn addresses() -> Vec<(IpAddr, u8)> {
    let Ok(list) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    list.filter_map(|i| {
        let (addr, mask) = (i.address?, i.netmask);
        if let Some(a) = addr.as_sockaddr_in() {
            let mask = mask
                .as_ref()
                .and_then(|m| m.as_sockaddr_in())
                .map_or(Ipv4Addr::BROADCAST, |m| m.ip());
            return Some((IpAddr::V4(a.ip()), leading(mask.to_bits().leading_ones())));
        }
        let a = addr.as_sockaddr_in6()?;
        let mask = mask
            .as_ref()
            .and_then(|m| m.as_sockaddr_in6())
            .map_or(u128::MAX, |m| m.ip().to_bits());
        Some((IpAddr::V6(a.ip()), leading(mask.leading_ones())))
    })
    .collect()
}

fn leading(ones: u32) -> u8 {
    u8::try_from(ones).unwrap_or(u8::MAX)
}

/// Shape: a heading, then interface, destination, gateway, flags, four numbers, mask; addresses in hexadecimal as they lie in memory.
/// Source: net/ipv4/fib_trie.c, `fib_route_seq_show`.
fn routes_v4(text: &str) -> Vec<(IpAddr, u8)> {
    let hex = |s: &str| {
        u32::from_str_radix(s, 16)
            .ok()
            .map(|n| u32::from_be_bytes(n.to_ne_bytes()))
    };
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let to = hex(fields.nth(1)?)?;
            let mask = hex(fields.nth(5)?)?;
            Some((
                IpAddr::V4(Ipv4Addr::from_bits(to)),
                leading(mask.leading_ones()),
            ))
        })
        .collect()
}

/// Shape: destination of 32 hexadecimal digits, length in hexadecimal, and more. Source: net/ipv6/route.c.
fn routes_v6(text: &str) -> Vec<(IpAddr, u8)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let to = u128::from_str_radix(fields.next()?, 16).ok()?;
            let len = u8::from_str_radix(fields.next()?, 16).ok()?;
            Some((IpAddr::V6(Ipv6Addr::from_bits(to)), len))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn route_tables() {
        let four = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0164A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t0064A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\nbroken\n";
        let show = |r: Vec<(IpAddr, u8)>| {
            r.iter()
                .map(|(a, l)| format!("{a}/{l}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(show(routes_v4(four)), "0.0.0.0/0 192.168.100.0/24");
        let six = "fd000001000000000000000000000000 40 00000000000000000000000000000000 00 \
            00000000000000000000000000000000 00000100 00000001 00000000 00000001 eth0\nbroken\n";
        assert_eq!(show(routes_v6(six)), "fd00:1::/64");
        assert_eq!(show(routes_v4("")), "");
    }

    #[test]
    fn this_host_has_facts() {
        let facts = HostFacts::gather().unwrap();
        assert!(facts.descriptors > 0);
        assert_ne!(facts.random, HostFacts::gather().unwrap().random);
    }
}
