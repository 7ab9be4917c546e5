//! What endpoints and networks may send and receive, as checked by control and compiled by the data plane.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

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

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// What flows in. Units: bytes, packets or flows a second, as the limit says.
    pub per_second: u64,
    /// What it holds. Units: as above.
    pub burst: u64,
}

/// Limits of one endpoint; `None` leaves the data plane's default.
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
