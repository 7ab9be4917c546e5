//! Messages of the API: what a client may ask, and what it is answered. The bodies that ask are the wishes of
//! `config::wish`; `openapi.json` describes both.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::ids::{EndpointId, NetworkId, PublishId, ServiceId};
use super::plan::Change;
use super::policy::PolicySpec;
use super::show::{
    DropRow, FlowRow, GroupRow, MacRow, PeerGroupRow, QuerierRow, RouterRow, StatRow, WorkerRow,
};
use super::spec::{
    Driver, EndpointKind, OverlaySpec, PortFailure, Sandbox, ServicePort, Subnet, Uplink, Vlan,
};
use crate::config::Problem;
use crate::config::topology::Topology;
use crate::config::wish::{
    AcceptWish, EndpointWish, InviteWish, NetworkWish, PeerWish, PolicyWish, PublishWish,
    ServiceWish,
};

mod peer;

pub use peer::{Accepted, Invited, Key, Peer, PeerStatus, Pinged};

/// What is asked.
#[derive(Debug, Clone)]
pub enum Request {
    /// Who answers.
    Info,
    /// Every network.
    Networks,
    /// One network.
    Network(String),
    /// A new network.
    CreateNetwork(NetworkWish),
    /// A network less.
    RemoveNetwork(String),
    /// No network that nothing is on.
    Prune,
    /// Endpoints, of one network or all.
    Endpoints(Option<String>),
    /// One endpoint: the network, the sandbox.
    Endpoint(String, String),
    /// A sandbox joins a network.
    Connect(Box<EndpointWish>),
    /// A sandbox leaves a network.
    Disconnect(String, String),
    /// Publish rules.
    Publishes,
    /// More of them.
    Publish(PublishWish),
    /// One less.
    Unpublish(PublishId),
    /// Services, of one network or all.
    Services(Option<String>),
    /// A new service, or with `true` the new shape of one.
    CreateService(ServiceWish, bool),
    /// A service less: the network, the service.
    RemoveService(String, String),
    /// A policy.
    Policy(Scope),
    /// A new policy, or none.
    SetPolicy(Scope, Option<PolicyWish>),
    /// The host's key.
    Key,
    /// The host's key is read anew.
    RenewKey,
    /// Every peer.
    Peers,
    /// One peer.
    Peer(String),
    /// A new peer.
    AddPeer(PeerWish),
    /// A peer less.
    RemovePeer(String),
    /// A probe to a peer.
    Ping(String),
    /// An invite for another host.
    Invite(InviteWish),
    /// Another host's invite is taken.
    Accept(AcceptWish),
    /// A file; with `true` only the difference is told.
    Apply(Box<Topology>, bool),
    /// Tables of the data plane.
    Show(Show),
    /// Numbers for the metrics.
    Metrics,
    /// The daemon shall end.
    Down,
}

/// Whose policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// A network's.
    Network(String),
    /// An endpoint's: the network, the sandbox.
    Endpoint(String, String),
}

/// A table of the data plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Show {
    /// Learned MACs, of one network or all.
    Macs(Option<String>),
    /// Members of multicast groups, routers and who asks, of one network or all.
    Groups(Option<String>),
    /// Flows, at most so many.
    Flows(usize),
    /// Drops by reason.
    Drops,
    /// Counters by endpoint.
    Stats,
    /// Workers.
    Workers,
    /// Peers.
    Peers,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// Who answers.
    Info(Info),
    /// Networks.
    Networks(Vec<Network>),
    /// A network.
    Network(Box<Network>),
    /// What was pruned.
    Pruned(Pruned),
    /// Endpoints.
    Endpoints(Vec<Endpoint>),
    /// An endpoint.
    Endpoint(Box<Endpoint>),
    /// Publish rules.
    Publishes(Vec<Publish>),
    /// Services.
    Services(Vec<Service>),
    /// A service.
    Service(Box<Service>),
    /// A policy.
    Policy(Box<Policy>),
    /// The host's key.
    Key(Key),
    /// Peers.
    Peers(Vec<Peer>),
    /// A peer.
    Peer(Box<Peer>),
    /// An invite.
    Invited(Box<Invited>),
    /// An invite that was taken.
    Accepted(Box<Accepted>),
    /// What came of a probe.
    Pinged(Pinged),
    /// Peers as they stand.
    PeerStatuses(Vec<PeerStatus>),
    /// What an applied file has changed, or would.
    Applied(Applied),
    /// MACs.
    Macs(Vec<Named<Station>>),
    /// Members of multicast groups, routers, and who asks.
    Groups(GroupTable),
    /// Flows.
    Flows(Vec<Named<FlowRow>>),
    /// Drops.
    Drops(Vec<DropRow>),
    /// Counters.
    Stats(Vec<Named<StatRow>>),
    /// Workers.
    Workers(Vec<WorkerRow>),
    /// Numbers.
    Metrics(Box<Numbers>),
    /// It is done, and there is nothing to tell.
    Done,
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The release.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// What was found missing when it started, and what has gone wrong since; one sentence each.
    pub notes: Vec<String>,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Network {
    /// Its number.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub driver: Driver,
    /// Its IPv4 subnet.
    pub v4: Option<Subnet<std::net::Ipv4Addr>>,
    /// Its IPv6 subnet.
    pub v6: Option<Subnet<std::net::Ipv6Addr>>,
    /// Its way out.
    pub uplink: Uplink,
    /// Its largest packet.
    pub mtu: u16,
    /// Endpoints may speak to each other.
    pub icc: bool,
    /// How long an unheard MAC is remembered. Units: seconds.
    pub ageing: u32,
    /// How long a MAC that flaps is held at one endpoint; 0 for never. Units: seconds.
    pub loop_hold: u32,
    /// Multicast goes only where it was asked for.
    pub snooping: bool,
    /// The gateway asks who wants which multicast.
    pub querier: bool,
    /// How often it does. Units: seconds.
    pub query_interval: u32,
    /// How it reaches other hosts; absent for one that does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<OverlaySpec>,
    /// Sandboxes on it.
    pub endpoints: Vec<String>,
    /// Services on it.
    pub services: Vec<String>,
    /// Why it is not up; absent for one that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<String>,
    /// What it costs, one sentence each; only told when it is made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What was pruned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Networks that are gone.
    pub removed: Vec<String>,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Endpoint {
    /// Its number.
    pub id: EndpointId,
    /// The network.
    pub network: String,
    /// The sandbox's name.
    pub name: String,
    /// The namespace.
    pub sandbox: Sandbox,
    /// The interface inside.
    pub ifname: String,
    /// Its MAC.
    pub mac: String,
    /// Its IPv4 address.
    pub v4: Option<std::net::Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Option<std::net::Ipv6Addr>,
    /// Its MTU.
    pub mtu: u16,
    /// How frames reach it.
    pub kind: EndpointKind,
    /// Its tags.
    pub vlan: Vlan,
    /// Its names on the network.
    pub names: Vec<String>,
    /// It has the sandbox's default route.
    pub default_route: bool,
    /// Of a sandbox's networks the highest has the default route.
    pub priority: i32,
    /// Why it is not up; absent for one that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<String>,
    /// What could not be had, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A publish rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Publish {
    /// Its number.
    pub id: PublishId,
    /// The sandbox.
    pub sandbox: String,
    /// The network whose endpoint is meant.
    pub network: String,
    /// The rule, with the ports that the host has chosen.
    pub rule: String,
    /// Ports that could not be bound when the daemon came back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<PortFailure>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its number.
    pub id: ServiceId,
    /// Its name.
    pub name: String,
    /// The network.
    pub network: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Those of this host that serve now.
    pub backends: Vec<String>,
    /// Those that are named and not on this host. On a sealed overlay they serve where another host has them.
    pub absent: Vec<String>,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// As it was asked for.
    pub wish: PolicyWish,
    /// As it is in force.
    pub policy: PolicySpec,
}

/// What an applied file has changed, or would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The difference.
    pub changes: Vec<Change>,
    /// What it costs, one sentence each.
    pub warnings: Vec<String>,
}

/// A row with names in place of numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named<T> {
    /// The network's name.
    pub network_name: String,
    /// The sandbox's name.
    pub sandbox_name: String,
    /// The row.
    #[serde(flatten)]
    pub row: T,
}

/// A MAC, with the name of the peer that it is behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Station {
    /// The peer's name; empty for a station on this host.
    pub peer_name: String,
    /// The row.
    #[serde(flatten)]
    pub row: MacRow,
}

/// A group that another host wants, with names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerGroup {
    /// The network's name.
    pub network_name: String,
    /// The peer's name.
    pub peer_name: String,
    /// The row.
    #[serde(flatten)]
    pub row: PeerGroupRow,
}

/// What is known of multicast, as [`GroupRows`](super::show::GroupRows).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupTable {
    /// Members of groups.
    pub members: Vec<Named<GroupRow>>,
    /// Routers.
    pub routers: Vec<Named<RouterRow>>,
    /// Who asks; without a sandbox's name for the gateway, and where nobody does.
    pub queriers: Vec<Named<QuerierRow>>,
    /// What other hosts want.
    pub peers: Vec<PeerGroup>,
}

/// Numbers for the metrics.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Numbers {
    /// How many there are of each: networks, endpoints, publish rules, services.
    pub counts: [usize; 4],
    /// MACs that are known, and how many of them flap and are held.
    pub macs: (usize, usize),
    /// Endpoints that are not up.
    pub down: usize,
    /// Drops by reason.
    pub drops: Vec<DropRow>,
    /// Members of multicast groups, by network.
    pub groups: Vec<(String, usize)>,
    /// Counters by endpoint.
    pub stats: Vec<Named<StatRow>>,
    /// Workers.
    pub workers: Vec<WorkerRow>,
    /// Peers.
    pub peers: Vec<PeerStatus>,
}

/// A refusal as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The refusal.
    pub error: Problem,
}
