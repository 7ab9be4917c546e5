//! Stage 5: What rules say about a new flow: the first group that matches decides.

use core::net::IpAddr;

use super::compile::{Action, Direction, Remote, Rule, Transport, union};
use super::learned::Learned;
use crate::time::Tick;
use crate::wire::packet::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP};

/// A new flow, as the endpoint sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The other side.
    pub remote: IpAddr,
    /// The protocol.
    pub proto: u8,
    /// The port it goes to; zero where there is none.
    pub port: u16,
}

/// Rules that differ in their remotes only.
#[derive(Debug, Clone)]
pub(super) struct Group {
    action: Action,
    transport: Transport,
    ports: Option<(u16, u16)>,
    any: bool,
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
    /// Places in the list of names.
    names: Vec<u16>,
}

impl Group {
    pub(super) fn new(rule: &Rule) -> Self {
        Self {
            action: rule.action,
            transport: rule.transport,
            ports: rule.ports,
            any: false,
            v4: Vec::new(),
            v6: Vec::new(),
            names: Vec::new(),
        }
    }

    pub(super) fn joins(&self, rule: &Rule) -> bool {
        (self.action, self.transport, self.ports) == (rule.action, rule.transport, rule.ports)
    }

    pub(super) fn add(&mut self, remote: &Remote, names: &mut Vec<String>) {
        match remote {
            Remote::Any => self.any = true,
            Remote::Prefixes(prefixes) => {
                for &(addr, len) in prefixes {
                    self.prefix(addr, u32::from(len));
                }
            }
            Remote::Name(name) => {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                let known = names.iter().position(|n| *n == name);
                let place = known.unwrap_or_else(|| {
                    names.push(name);
                    names.len() - 1
                });
                self.names.push(u16::try_from(place).unwrap_or(u16::MAX));
            }
        }
    }

    fn prefix(&mut self, addr: IpAddr, len: u32) {
        match addr {
            IpAddr::V4(a) => {
                let host = u32::MAX.checked_shr(len).unwrap_or(0);
                self.v4.push((a.to_bits() & !host, a.to_bits() | host));
            }
            IpAddr::V6(a) => {
                let host = u128::MAX.checked_shr(len).unwrap_or(0);
                self.v6.push((a.to_bits() & !host, a.to_bits() | host));
            }
        }
    }

    pub(super) fn finish(&mut self) {
        union(&mut self.v4, |n| n.checked_add(1));
        union(&mut self.v6, |n| n.checked_add(1));
    }

    fn matches(&self, flow: &Flow, known: Option<(&Learned, Tick)>) -> bool {
        let transport = match self.transport {
            Transport::Any => true,
            Transport::Tcp => flow.proto == PROTO_TCP,
            Transport::Udp => flow.proto == PROTO_UDP,
            Transport::Icmp => matches!(flow.proto, PROTO_ICMP | PROTO_ICMPV6),
        };
        let ported = matches!(flow.proto, PROTO_TCP | PROTO_UDP);
        let port = self
            .ports
            .is_none_or(|(a, b)| ported && (a..=b).contains(&flow.port));
        transport && port && (self.any || self.has(flow.remote, known))
    }

    fn has(&self, remote: IpAddr, known: Option<(&Learned, Tick)>) -> bool {
        let listed = match remote {
            IpAddr::V4(a) => within(&self.v4, a.to_bits()),
            IpAddr::V6(a) => within(&self.v6, a.to_bits()),
        };
        let named =
            || known.is_some_and(|(l, now)| self.names.iter().any(|&n| l.has(now, remote, n)));
        listed || (!self.names.is_empty() && named())
    }
}

fn within<T: Ord + Copy>(ranges: &[(T, T)], value: T) -> bool {
    let behind = ranges.partition_point(|range| range.0 <= value);
    let range = behind.checked_sub(1).and_then(|at| ranges.get(at));
    range.is_some_and(|range| value <= range.1)
}

/// Groups of one direction.
#[derive(Debug, Clone)]
pub(super) struct Side {
    groups: Box<[Group]>,
    default: Action,
}

impl Side {
    pub(super) fn new(groups: Vec<Group>, default: Action) -> Self {
        let groups = groups.into();
        Self { groups, default }
    }
}

/// Names that rules are about.
#[derive(Debug, Clone, Default)]
pub struct Names(Box<[String]>);

impl Names {
    pub(super) fn new(names: &[String]) -> Self {
        Self(names.into())
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn at(&self, place: u16) -> Option<&str> {
        self.0.get(usize::from(place)).map(String::as_str)
    }

    pub(super) fn place(&self, name: &str) -> Option<u16> {
        let place = self.0.iter().position(|n| n == name)?;
        u16::try_from(place).ok()
    }

    /// The places of those that a name is one of. Shape: `name` in lower case without a final dot.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u16> + 'a {
        let places = (0..).zip(&self.0);
        let same = move |rule: &str| match rule.strip_prefix("*.") {
            Some(above) => {
                let below = name.strip_suffix(above);
                below.is_some_and(|b| b.len() > 1 && b.ends_with('.'))
            }
            None => rule == name,
        };
        places
            .filter(move |(_, rule)| same(rule))
            .map(|(place, _)| place)
    }
}

/// The rules of one endpoint, compiled.
#[derive(Debug, Clone)]
pub struct Policy {
    egress: Side,
    ingress: Side,
    names: Names,
}

impl Policy {
    pub(super) fn new(egress: Side, ingress: Side, names: Names) -> Self {
        Self {
            egress,
            ingress,
            names,
        }
    }

    /// The names that rules are about.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Decides about a new flow. `known` is what names have led to, and the time.
    /// Cost: in proportion to the groups of rules, each a binary search; no allocation.
    #[must_use]
    pub fn decide(&self, way: Direction, flow: &Flow, known: Option<(&Learned, Tick)>) -> Action {
        let side = match way {
            Direction::Egress => &self.egress,
            Direction::Ingress => &self.ingress,
        };
        let found = side.groups.iter().find(|group| group.matches(flow, known));
        found.map_or(side.default, |group| group.action)
    }
}

#[cfg(test)]
mod tests;
