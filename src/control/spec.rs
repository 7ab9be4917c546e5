//! What control asks of the data plane: networks, endpoints, publishes, names and services, all of them checked and whole.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use switch_core::addr::Mac;

use super::ids::{EndpointId, NetworkId, PublishId, ServiceId};
use super::text;
use crate::config::{Proto, PublishRule, UdpFilter};

mod peer;

pub use peer::{
    Carrier, HostPort, LAST_VNI, OverlaySpec, ParsePrefixError, PeerCarrier, PeerSpec, Prefix,
    Underlay,
};

/// What kind of network it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// A switch with a gateway and an uplink.
    #[default]
    Bridge,
    /// A bridge that reaches other hosts by tunnels.
    Overlay,
    /// Endpoints are stations on the LAN of a host interface.
    Macvlan,
    /// As macvlan, with the interface's own MAC.
    Ipvlan,
}

/// How a network reaches the world outside.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Uplink {
    /// Flows onto sockets of the host.
    #[default]
    Sockets,
    /// Frames onto an interface of the host.
    Packet(String),
    /// Not at all.
    None,
}

/// A subnet of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet<A> {
    /// The first address.
    pub network: A,
    /// Length of the prefix.
    pub prefix: u8,
    /// The switch's own address, inside the subnet.
    pub gateway: A,
}

/// A network, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Its number.
    pub id: NetworkId,
    /// Its name, unique.
    pub name: String,
    /// Its kind.
    pub driver: Driver,
    /// Its IPv4 subnet.
    pub v4: Option<Subnet<Ipv4Addr>>,
    /// Its IPv6 subnet.
    pub v6: Option<Subnet<Ipv6Addr>>,
    /// The gateway's MAC.
    #[serde(with = "text::mac")]
    pub gateway_mac: Mac,
    /// Largest IP packet on it.
    pub mtu: u16,
    /// Its way out; [`Uplink::None`] for an internal network.
    pub uplink: Uplink,
    /// Endpoints may speak to each other.
    pub icc: bool,
    /// How long an unheard MAC is remembered. Units: seconds.
    pub ageing: u32,
    /// How long a MAC that flaps is held at one endpoint; 0 for never. Units: seconds.
    #[serde(default = "NetworkSpec::loop_hold")]
    pub loop_hold: u32,
    /// Multicast goes only where it was asked for.
    pub snooping: bool,
    /// The gateway asks who wants which multicast.
    #[serde(default = "NetworkSpec::querier")]
    pub querier: bool,
    /// How often it does. Units: seconds.
    #[serde(default = "NetworkSpec::query_interval")]
    pub query_interval: u32,
    /// Search domains handed out.
    pub search: Vec<String>,
    /// Resolvers to ask in place of the host's; the host's when empty.
    pub dns: Vec<SocketAddr>,
    /// Addresses that reach the host's own loopback, at most one of each family.
    pub host_loopback: Vec<IpAddr>,
    /// Every service on the host's other addresses is open.
    pub host_access: bool,
    /// Who may answer to datagrams.
    pub udp_filter: UdpFilter,
    /// How it reaches other hosts; only with [`Driver::Overlay`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<OverlaySpec>,
}

impl NetworkSpec {
    /// True if other hosts tell which sandboxes they have on it.
    #[must_use]
    pub fn has_names_elsewhere(&self) -> bool {
        let sealed = |o: &OverlaySpec| o.carrier == Carrier::Sealed;
        self.driver == Driver::Overlay && self.overlay.as_ref().is_some_and(sealed)
    }

    /// The gateway asks, unless it is told not to.
    #[must_use]
    pub const fn querier() -> bool {
        true
    }

    /// How often, unless something else is asked. Units: seconds. Source: RFC 3376 section 8.2.
    #[must_use]
    pub const fn query_interval() -> u32 {
        125
    }

    /// How long a MAC that flaps is held, unless something else is asked. Units: seconds.
    #[must_use]
    pub const fn loop_hold() -> u32 {
        switch_core::l2::moves::HOLD
    }
}

/// A network namespace, named so that a reused process id is never taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sandbox {
    /// How it was named by whoever asked.
    #[serde(flatten)]
    pub at: SandboxRef,
    /// When the process started, where it is named by one. Units: clock ticks since boot, field 22 of /proc/PID/stat.
    pub start_time: Option<u64>,
    /// The namespace's device and inode.
    #[serde(rename = "namespace")]
    pub netns: (u64, u64),
}

/// How a network namespace is named.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxRef {
    /// That of a process.
    Pid(i32),
    /// A file that stands for it.
    Netns(PathBuf),
}

/// How frames reach the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointKind {
    /// A TAP made inside.
    #[default]
    Tap,
    /// A packet socket on the addressless end of a veth pair inside.
    Packet,
}

/// The network's own VLAN, where its gateway is, and whose frames have no tag. Source: IEEE 802.1Q-2018 table 9-2.
pub const OWN_VLAN: u16 = 1;

/// The VLANs of its network that an endpoint is on. Source: IEEE 802.1Q.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vlan {
    /// The network's own, without tags.
    #[default]
    None,
    /// This one, without tags. Never [`OWN_VLAN`].
    Access(u16),
    /// Several, with tags.
    Trunk {
        /// Their numbers, in order. Never [`OWN_VLAN`].
        tagged: Vec<u16>,
        /// Where frames without tags belong; none if they are dropped.
        native: Option<u16>,
    },
}

impl Vlan {
    /// True for an endpoint that the gateway can reach.
    #[must_use]
    pub fn meets_gateway(&self) -> bool {
        self.native() == Some(OWN_VLAN)
    }

    /// Where an endpoint's frames without tags belong; none if they are dropped.
    #[must_use]
    pub const fn native(&self) -> Option<u16> {
        match self {
            Self::None => Some(OWN_VLAN),
            Self::Access(id) => Some(*id),
            Self::Trunk { native, .. } => *native,
        }
    }
}

impl fmt::Display for Vlan {
    /// As in tables: `-`, `10`, or `10,20-30`, with the native one in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tagged, native) = match self {
            Self::None => return f.write_str("-"),
            Self::Access(id) => return write!(f, "{id}"),
            Self::Trunk { tagged, native } => (tagged, native),
        };
        let follow = |a: &u16, b: &u16| a.checked_add(1) == Some(*b);
        for (at, run) in tagged.chunk_by(follow).enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match run {
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [one] => write!(f, "{comma}{one}")?,
                [] => {}
            }
        }
        native.map_or(Ok(()), |id| write!(f, "({id})"))
    }
}

/// A route inside the sandbox beside that to the subnet and the default one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The first address of the destination.
    pub to: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
    /// The next hop, of the same family; none for a destination on the link.
    pub via: Option<IpAddr>,
}

/// An endpoint, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// Its number.
    pub id: EndpointId,
    /// The network it is on.
    pub network: NetworkId,
    /// The namespace it is in.
    pub sandbox: Sandbox,
    /// The interface's name inside.
    pub ifname: String,
    /// The interface's MAC.
    #[serde(with = "text::mac")]
    pub mac: Mac,
    /// Its IPv4 address; the prefix is the subnet's.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address; the prefix is the subnet's.
    pub v6: Option<Ipv6Addr>,
    /// The interface's MTU.
    pub mtu: u16,
    /// How frames reach it.
    pub kind: EndpointKind,
    /// Addresses and routes are set directly; otherwise the sandbox asks for them.
    pub configure: bool,
    /// The gateways become the sandbox's default routes.
    pub default_route: bool,
    /// More routes.
    pub routes: Vec<Route>,
    /// Settings below /proc/sys/net inside, by dotted name without `net.`, with `IFNAME` for the interface's name.
    pub sysctls: Vec<(String, String)>,
    /// The interface outlives the daemon's descriptor.
    pub persistent: bool,
    /// Its tags.
    pub vlan: Vlan,
}

/// An interface as it was made, or found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Interface {
    /// Its name inside.
    pub ifname: String,
    /// Its index inside.
    pub ifindex: u32,
    /// What could not be had; each is one sentence.
    pub warnings: Vec<String>,
}

/// A publish rule, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishSpec {
    /// Its number.
    pub id: PublishId,
    /// Whose ports are published.
    pub endpoint: EndpointId,
    /// Which of the host's ports lead to which of the endpoint's.
    pub rule: PublishRule,
}

/// A port of the host that could not be bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortFailure {
    /// The host's address and port.
    pub at: SocketAddr,
    /// The kernel's error number.
    pub errno: i32,
    /// What is wrong, in one sentence.
    pub message: String,
}

/// What came of a publish rule.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Published {
    /// The endpoint's port and the host's that was chosen for it, where the rule left the choice to the host.
    pub chosen: Vec<(u16, u16)>,
    /// Ports that could not be had; the others are bound.
    pub failed: Vec<PortFailure>,
}

/// Whom a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NameOwner {
    /// An endpoint.
    Endpoint(EndpointId),
    /// A service.
    Service(ServiceId),
}

/// Names on one network, with what they lead to. Reverse lookups give the first name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRecord {
    /// Where they are known.
    pub network: NetworkId,
    /// Whom they stand for.
    pub owner: NameOwner,
    /// The name, then the aliases. Two endpoints may share an alias, and then both addresses are answered.
    pub names: Vec<String>,
    /// Their addresses on this network.
    pub addrs: Vec<IpAddr>,
}

/// A port of a service and where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// The protocol.
    pub proto: Proto,
    /// The port at the virtual address.
    pub port: u16,
    /// The backends' port.
    pub target: u16,
}

/// One of those that serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The endpoint, on the service's network.
    pub endpoint: EndpointId,
    /// Its IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

/// A service, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Its number.
    pub id: ServiceId,
    /// The network it is on.
    pub network: NetworkId,
    /// Its virtual IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its virtual IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Who serves now.
    pub backends: Vec<Backend>,
    /// Names of others that serve where another host has them on the network, in lower case.
    #[serde(default)]
    pub elsewhere: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlans_are_told_in_few_words() {
        let trunk = |tagged: &[u16], native| Vlan::Trunk {
            tagged: tagged.to_vec(),
            native,
        };
        assert_eq!(Vlan::None.to_string(), "-");
        assert_eq!(Vlan::Access(10).to_string(), "10");
        assert_eq!(
            trunk(&[10, 20, 21, 22, 30], None).to_string(),
            "10,20-22,30"
        );
        assert_eq!(trunk(&[4093, 4094], Some(1)).to_string(), "4093-4094(1)");
    }

    #[test]
    fn every_kind_of_sandbox_survives_as_text() {
        for at in [SandboxRef::Pid(7), SandboxRef::Netns("/run/netns/a".into())] {
            let sandbox = Sandbox {
                at,
                start_time: Some(9),
                netns: (4, 4_026_531_840),
            };
            let text = serde_json::to_string(&sandbox).unwrap();
            assert_eq!(serde_json::from_str::<Sandbox>(&text).unwrap(), sandbox);
        }
    }
}
