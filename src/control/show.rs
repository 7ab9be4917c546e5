//! What the data plane tells of itself: rows of `weft show`, and the numbers behind the metrics.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use switch_core::addr::Mac;

use super::ids::{EndpointId, NetworkId, PeerId};
use super::text;

/// A learned MAC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacRow {
    /// On which network.
    pub network: NetworkId,
    /// On which VLAN of it.
    pub vlan: Option<u16>,
    /// The station.
    #[serde(with = "text::mac")]
    pub mac: Mac,
    /// Behind which endpoint; none for a station on another host.
    pub endpoint: Option<EndpointId>,
    /// Behind which peer; none for a station on this host.
    pub peer: Option<PeerId>,
    /// What its host calls the endpoint, as it has announced.
    #[serde(skip)]
    pub announced: Option<String>,
    /// Never forgotten: it is the endpoint's own, or was announced.
    pub fixed: bool,
    /// How long ago it was heard. Units: seconds.
    pub age: u64,
    /// It flaps between endpoints, and is held at this one.
    pub held: bool,
}

/// A member of a multicast group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRow {
    /// On which network.
    pub network: NetworkId,
    /// On which VLAN of it.
    pub vlan: u16,
    /// The group.
    pub group: IpAddr,
    /// Who has joined it.
    pub endpoint: EndpointId,
    /// When that ends, unless it is told again. Units: seconds from now.
    pub expires: u64,
}

/// One of the protocols of multicast groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupProtocol {
    /// Of IPv4.
    Igmp,
    /// Of IPv6.
    Mld,
}

/// An endpoint with a multicast router behind it: it gets all multicast of its VLAN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterRow {
    /// On which network.
    pub network: NetworkId,
    /// On which VLAN of it.
    pub vlan: u16,
    /// Of which protocol.
    pub protocol: GroupProtocol,
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// When that ends, unless the router is heard again. Units: seconds from now.
    pub expires: u64,
}

/// Who asks which groups are wanted, on one VLAN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuerierRow {
    /// On which network.
    pub network: NetworkId,
    /// On which VLAN of it.
    pub vlan: u16,
    /// Of which protocol.
    pub protocol: GroupProtocol,
    /// Its address; none where nobody asks, and all multicast goes to everybody.
    pub address: Option<IpAddr>,
    /// The gateway asks.
    pub own: bool,
    /// When the gateway asks next. Units: seconds from now.
    pub asks: Option<u64>,
    /// Behind which endpoint another is.
    pub endpoint: Option<EndpointId>,
    /// When another counts as gone, unless it is heard again. Units: seconds from now.
    pub expires: Option<u64>,
}

/// A group that another host wants, as some sandbox of it has joined the group; or all of a protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerGroupRow {
    /// On which network.
    pub network: NetworkId,
    /// Which peer.
    pub peer: PeerId,
    /// Of which protocol.
    pub protocol: GroupProtocol,
    /// On which VLAN of the network; none with all of the protocol.
    pub vlan: Option<u16>,
    /// The group; none for all of the protocol, as for one with a router, or that has not said yet.
    pub group: Option<IpAddr>,
}

/// What is known of multicast: members of groups, routers, and who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupRows {
    /// Members.
    pub members: Vec<GroupRow>,
    /// Routers.
    pub routers: Vec<RouterRow>,
    /// Who asks, on each VLAN that somebody is on.
    pub queriers: Vec<QuerierRow>,
    /// What sealed peers want.
    pub peers: Vec<PeerGroupRow>,
}

/// A flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRow {
    /// On which network.
    pub network: NetworkId,
    /// Whose.
    pub endpoint: EndpointId,
    /// `tcp`, `udp` or `icmp`.
    pub protocol: String,
    /// The side inside.
    pub inside: SocketAddr,
    /// The side outside, as the endpoint sees it.
    pub outside: SocketAddr,
    /// Its state, in a word.
    pub state: String,
    /// Bytes that left the sandbox.
    pub bytes_out: u64,
    /// Bytes that came to it.
    pub bytes_in: u64,
    /// How long ago the last packet passed. Units: seconds.
    pub idle: u64,
}

/// Frames dropped for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRow {
    /// The reason's stable name.
    pub reason: String,
    /// How many frames since the start.
    pub frames: u64,
}

/// What passed an endpoint since it was attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatRow {
    /// Whose.
    pub endpoint: EndpointId,
    /// Frames from the sandbox.
    pub rx_frames: u64,
    /// Bytes from the sandbox.
    pub rx_bytes: u64,
    /// Frames to the sandbox.
    pub tx_frames: u64,
    /// Bytes to the sandbox.
    pub tx_bytes: u64,
    /// Frames of either direction that were dropped: what it sent, what the world sent it, and what it did not take.
    pub dropped: u64,
    /// Flows that it has now: with the world, and those that it opened with services and neighbours under rules.
    pub flows: u64,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRow {
    /// Its place.
    pub worker: u32,
    /// Endpoints that it owns.
    pub endpoints: u32,
    /// Flows that live on it.
    pub flows: u64,
    /// Frames that it has read.
    pub frames: u64,
    /// Turns of its loop.
    pub turns: u64,
    /// Processor time. Units: milliseconds.
    pub cpu_ms: u64,
}

/// How it stands with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    /// Invited, and not seen yet.
    Invited,
    /// Nothing is wanted of it, or it makes the first step.
    Idle,
    /// A handshake is under way.
    Connecting,
    /// It is heard.
    Up,
    /// It does not answer.
    Unreachable,
    /// There is no telling: its carrier has no answers.
    Open,
}

impl PeerState {
    /// Its word, as in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Invited => "invited",
            Self::Idle => "idle",
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::Unreachable => "unreachable",
            Self::Open => "open",
        }
    }
}

/// A peer, as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRow {
    /// Which.
    pub peer: PeerId,
    /// How it stands.
    pub state: PeerState,
    /// Where it is now; it may have moved.
    pub endpoint: Option<SocketAddr>,
    /// The last round trip. Units: microseconds.
    pub rtt: Option<u64>,
    /// The largest inner packet that the way carries. Units: bytes.
    pub mtu: Option<u16>,
    /// Of a thousand probes those without an answer, lately.
    pub loss: Option<u16>,
    /// Frames to it.
    pub tx_frames: u64,
    /// Bytes of these.
    pub tx_bytes: u64,
    /// Frames from it that were taken.
    pub rx_frames: u64,
    /// Bytes of these.
    pub rx_bytes: u64,
    /// Frames and datagrams of either direction that were dropped, by reason; reasons that never occurred may be left out.
    pub drops: Vec<DropRow>,
    /// How long ago the last handshake was finished. Units: seconds.
    pub handshake: Option<u64>,
    /// What is wrong with it now, one sentence each.
    pub problems: Vec<String>,
}

impl PeerRow {
    /// A peer of which nothing is known yet.
    #[must_use]
    pub const fn new(peer: PeerId, state: PeerState) -> Self {
        Self {
            peer,
            state,
            endpoint: None,
            rtt: None,
            mtu: None,
            loss: None,
            tx_frames: 0,
            tx_bytes: 0,
            rx_frames: 0,
            rx_bytes: 0,
            drops: Vec::new(),
            handshake: None,
            problems: Vec::new(),
        }
    }
}
