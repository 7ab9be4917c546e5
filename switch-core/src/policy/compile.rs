//! Stage 5: Rules as they are written, made into what is asked of every new flow.
//!
//! The first rule that matches decides. Neighbours that differ in nothing but their remotes become one group with
//! sorted ranges of addresses, so a list of thousands of prefixes costs a few comparisons, and memory in proportion.

use core::net::IpAddr;

use super::eval::{Group, Names, Policy, Side};

/// Which way, as the endpoint sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

/// What is done with a new flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Action {
    /// It passes.
    #[default]
    Allow,
    /// It is dropped without a word.
    Drop,
    /// It is answered with a reset or an ICMP error.
    Reject,
}

/// The other side of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// Anyone.
    Any,
    /// Who has one of these prefixes: an address and a length.
    Prefixes(Vec<(IpAddr, u8)>),
    /// What a name has led to for the endpoint; with `*.` in front, any name below.
    Name(String),
}

/// A protocol above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Every one.
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6.
    Icmp,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Which way.
    pub direction: Direction,
    /// What is done.
    pub action: Action,
    /// The other side.
    pub remote: Remote,
    /// The protocol.
    pub transport: Transport,
    /// Ports of the destination, first and last; `None` for every flow, also of protocols without any.
    pub ports: Option<(u16, u16)>,
}

/// What holds for an endpoint: its own rules in order, then its network's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// In order.
    pub rules: Vec<Rule>,
    /// What is done with flows to the endpoint that no rule matches.
    pub ingress: Action,
    /// What is done with flows from the endpoint that no rule matches.
    pub egress: Action,
}

impl Rules {
    /// True if they let everything pass without a look.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let open = |a| a == Action::Allow;
        self.rules.iter().all(|r| open(r.action)) && open(self.ingress) && open(self.egress)
    }

    /// Makes them a matcher; none where there is nothing to match.
    #[must_use]
    pub fn compile(&self) -> Option<Policy> {
        if self.is_open() {
            return None;
        }
        let mut names = Vec::new();
        let mut side = |direction, default| {
            let mut groups: Vec<Group> = Vec::new();
            for rule in self.rules.iter().filter(|r| r.direction == direction) {
                match groups.last_mut().filter(|group| group.joins(rule)) {
                    Some(group) => group.add(&rule.remote, &mut names),
                    None => {
                        let mut group = Group::new(rule);
                        group.add(&rule.remote, &mut names);
                        groups.push(group);
                    }
                }
            }
            groups.iter_mut().for_each(Group::finish);
            Side::new(groups, default)
        };
        let (egress, ingress) = (
            side(Direction::Egress, self.egress),
            side(Direction::Ingress, self.ingress),
        );
        Some(Policy::new(egress, ingress, Names::new(&names)))
    }
}

/// Sorts ranges and makes one of those that touch.
pub(super) fn union<T: Ord + Copy>(ranges: &mut Vec<(T, T)>, next: impl Fn(T) -> Option<T>) {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for &(first, last) in ranges.iter() {
        match merged.last_mut() {
            Some(before) if next(before.1).is_none_or(|n| first <= n) => {
                before.1 = before.1.max(last);
            }
            _ => merged.push((first, last)),
        }
    }
    *ranges = merged;
}
