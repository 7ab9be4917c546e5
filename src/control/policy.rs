//! What endpoints and networks may send and receive, as checked by control and compiled by the data plane.

use std::net::IpAddr;

use nix::sys::resource::{Resource, getrlimit};
use serde::{Deserialize, Serialize};
use switch_core::policy::limit::{self, Rates};

use super::ids::{EndpointId, NetworkId};

/// Whom a policy is about. An endpoint's rules are asked before its network's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyScope {
    /// Every endpoint on a network.
    Network(NetworkId),
    /// One endpoint.
    Endpoint(EndpointId),
}

/// Which way, as the endpoint sees it.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// To the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

/// What a rule does with a new flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Lets it pass.
    #[default]
    Allow,
    /// Drops it without a word.
    Drop,
    /// Answers with a reset or an ICMP error.
    Reject,
}

/// The other side of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remote {
    /// Anyone.
    Any,
    /// Addresses with a common prefix: the first of them, and its length.
    Prefix(IpAddr, u8),
    /// Whatever the name last resolved to for this endpoint; `*.` in front takes every name below.
    Name(String),
    /// Whoever is on a network.
    Network(NetworkId),
}

/// A protocol above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Every one.
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6, by the family of the packet.
    Icmp,
}

/// A rule; the first that matches a new flow decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Which way.
    pub direction: Direction,
    /// What is done.
    pub action: Action,
    /// The other side.
    pub remote: Remote,
    /// The protocol.
    pub transport: Transport,
    /// The destination's ports, first and last; none for all of them.
    pub ports: Option<(u16, u16)>,
}

/// A token bucket; of zero a second where there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// What flows in. Units: bytes, packets or flows a second, as the limit says.
    pub per_second: u64,
    /// What it holds. Units: as above.
    pub burst: u64,
}

/// Limits of one endpoint; `None` leaves what stands behind, at last the default. Zero is no limit, but for MACs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PolicyLimits {
    /// To the endpoint. Units: bytes.
    pub ingress: Option<Rate>,
    /// From the endpoint. Units: bytes.
    pub egress: Option<Rate>,
    /// Broadcast and multicast from the endpoint. Units: frames.
    pub broadcast: Option<Rate>,
    /// New flows from the endpoint. Units: flows.
    pub new_flows: Option<Rate>,
    /// MACs learned behind it.
    pub macs: Option<u32>,
    /// Flows at once.
    pub flows: Option<u32>,
}

/// MACs behind an endpoint, unless its policy says otherwise.
pub const STATIONS_OF_ONE: u32 = 64;

/// So many endpoints that have all the flows that they may still leave the process descriptors.
const HOARDERS: u64 = 8;

impl PolicyLimits {
    /// What an endpoint has unless something else was asked for.
    #[must_use]
    pub fn standard() -> Self {
        let rate = |rate: limit::Rate| Rate {
            per_second: rate.per_second,
            burst: rate.burst,
        };
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard);
        let most = u32::try_from(descriptors / HOARDERS).unwrap_or(u32::MAX);
        let standard = Rates::DEFAULT;
        Self {
            ingress: standard.ingress.map(rate),
            egress: standard.egress.map(rate),
            broadcast: standard.broadcast.map(rate),
            new_flows: standard.new_flows.map(rate),
            macs: Some(STATIONS_OF_ONE),
            flows: standard.flows.map(|n| n.min(most)),
        }
    }

    /// These, and others where these say nothing.
    #[must_use]
    pub fn or(self, behind: Self) -> Self {
        Self {
            ingress: self.ingress.or(behind.ingress),
            egress: self.egress.or(behind.egress),
            broadcast: self.broadcast.or(behind.broadcast),
            new_flows: self.new_flows.or(behind.new_flows),
            macs: self.macs.or(behind.macs),
            flows: self.flows.or(behind.flows),
        }
    }

    /// The limits of an endpoint: its own, its network's, or the standard ones.
    #[must_use]
    pub fn in_force(own: Option<&Self>, network: Option<&Self>) -> Self {
        let own = own.copied().unwrap_or_default();
        own.or(network.copied().unwrap_or_default())
            .or(Self::standard())
    }

    /// The same as the switch counts.
    #[must_use]
    pub fn rates(&self) -> Rates {
        let rate = |rate: Option<Rate>| {
            let some = rate.filter(|r| r.per_second > 0);
            some.map(|r| limit::Rate::new(r.per_second, r.burst))
        };
        Rates {
            egress: rate(self.egress),
            ingress: rate(self.ingress),
            broadcast: rate(self.broadcast),
            new_flows: rate(self.new_flows),
            flows: self.flows.filter(|&n| n > 0),
        }
    }
}

/// A policy, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySpec {
    /// In order.
    pub rules: Vec<Rule>,
    /// What is done with a flow to the endpoint that no rule matches.
    pub ingress: Action,
    /// What is done with a flow from the endpoint that no rule matches.
    pub egress: Action,
    /// Limits; an endpoint's go before its network's.
    pub limits: PolicyLimits,
    /// The endpoint speaks to the gateway only, and to endpoints that are not isolated.
    pub isolated: bool,
    /// Frames with another's MAC or address, DHCP answers and router advertisements are dropped.
    pub spoof_guard: bool,
}

impl Default for PolicySpec {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            ingress: Action::Allow,
            egress: Action::Allow,
            limits: PolicyLimits::default(),
            isolated: false,
            spoof_guard: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoints_limits_go_before_its_networks() {
        let rate = |per_second| {
            Some(Rate {
                per_second,
                burst: 1,
            })
        };
        let own = PolicyLimits {
            egress: rate(5),
            new_flows: rate(0),
            flows: Some(0),
            ..PolicyLimits::default()
        };
        let network = PolicyLimits {
            egress: rate(6),
            broadcast: rate(7),
            flows: Some(9),
            ..PolicyLimits::default()
        };
        let both = PolicyLimits::in_force(Some(&own), Some(&network)).rates();
        assert_eq!(both.egress, Some(limit::Rate::new(5, 1)));
        assert_eq!(both.broadcast, Some(limit::Rate::new(7, 1)));
        assert_eq!((both.new_flows, both.flows), (None, None), "lifted");
        let network = PolicyLimits::in_force(None, Some(&network)).rates();
        assert_eq!(network.new_flows, Rates::DEFAULT.new_flows);
        assert_eq!(network.flows, Some(9));
        let none = PolicyLimits::in_force(None, None).rates();
        assert_eq!(none.broadcast, Rates::DEFAULT.broadcast);
        assert!(none.flows.is_some());
    }
}
