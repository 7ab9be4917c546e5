//! Many sandboxes by one broker, for the daemon: who a namespace is, its interfaces, sockets opened inside, and its end.
//!
//! No process stays in a sandbox. The broker holds its namespaces open and goes in for the length of one request: itself
//! where it may come back (root), and otherwise in a forked child that joins the user namespace first and never could.
//! So an idle sandbox costs two or three descriptors and some hundred bytes. Its end is told by a descriptor of its process,
//! or by the one inotify for all that are named by a file. That someone has removed an interface is told by the interface's
//! own descriptor, which has an error then and cannot be read. It is not asked of netlink: each message of that goes by
//! every listener on the machine, so a thousand listeners would make any change of any link or route slow.
//!
//! Order: [`Broker::identify`] once, and the [`Identity`] is kept; [`Broker::join`] before anything else, once for each
//! user of the sandbox; [`Broker::leave`] as often. A persistent interface outlives broker and daemon, and
//! [`Broker::adopt_link`] takes it over.
//!
//! [`Broker::identify`]: super::broker::Broker::identify
//! [`Broker::join`]: super::broker::Broker::join
//! [`Broker::leave`]: super::broker::Broker::leave
//! [`Broker::adopt_link`]: super::broker::Broker::adopt_link

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use switch_core::addr::Mac;

use super::broker_proto::{Target, mac_bytes};
use crate::endpoint::{Kind, Opened};

mod bind;
mod client;
mod ends;
mod enter;
mod identify;
mod interface;
#[cfg(test)]
mod life_tests;
mod members;
#[cfg(test)]
mod packet_tests;
pub(super) mod proto;
mod route;
pub(super) mod server;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub(super) mod veth;

pub use identify::is_another_process;

/// A sandbox that the broker has joined. Never given out twice by one broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SandboxId(pub u32);

/// A namespace, named so that another one which has taken its process id or its path is never mistaken for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// How it was named.
    pub target: Target,
    /// When its process started, where a process is named or a path leads to one.
    /// Units: clock ticks since boot. Source: proc_pid_stat(5), field 22.
    pub start_time: Option<u64>,
    /// The namespace's device and inode.
    pub netns: (u64, u64),
}

/// The default routes through an interface.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DefaultRoute {
    /// The next hops, at most one of each family; none for no route.
    pub gateways: Vec<IpAddr>,
    /// The lower, the more preferred; the kernel's default where absent: 0 for IPv4, 1024 for IPv6.
    pub metric: Option<u32>,
}

/// A route beside the default one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRoute {
    /// The first address of the destination.
    pub to: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
    /// The next hop, of the same family; none for a destination on the link.
    pub via: Option<IpAddr>,
}

/// What an interface in a sandbox is to be like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSpec {
    /// The endpoint's number, by which the interface is known for weft's: its alias is `weft:NUMBER`.
    pub endpoint: u32,
    /// What is behind it.
    pub kind: Kind,
    /// Name inside, at most 15 bytes.
    pub ifname: String,
    /// Hardware address.
    #[serde(with = "mac_bytes")]
    pub mac: Mac,
    /// Largest IP packet.
    pub mtu: u16,
    /// Largest super-frame that the sandbox may build, in bytes; the kernel's default where absent.
    pub gso_max_size: Option<u32>,
    /// Ask for the virtio header and offloads, where the kind can do without.
    pub vnet: bool,
    /// The interface outlives its descriptor; one of a pair always does.
    pub persistent: bool,
    /// Set addresses and routes directly; otherwise the sandbox asks by DHCP and router solicitation.
    pub configure: bool,
    /// Addresses, each with the length of its on-link prefix. IPv6 is switched off on the interface when it has none of
    /// it and `configure` is set.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Default routes, set when `configure` is.
    pub default_route: DefaultRoute,
    /// More routes, set when `configure` is.
    pub routes: Vec<LinkRoute>,
    /// The namespace is others' as well: nothing is set in it but the interface.
    pub shared: bool,
    /// Settings below /proc/sys/net, by dotted name without `net.`, with `IFNAME` for the interface's name.
    pub sysctls: Vec<(String, String)>,
}

impl Default for LinkSpec {
    fn default() -> Self {
        Self {
            endpoint: 0,
            kind: Kind::Tap,
            ifname: "eth0".to_owned(),
            mac: Mac([2, 0, 0, 0, 0, 2]),
            mtu: 1500,
            gso_max_size: None,
            vnet: true,
            persistent: true,
            configure: true,
            addresses: Vec::new(),
            default_route: DefaultRoute::default(),
            routes: Vec::new(),
            shared: false,
            sysctls: Vec::new(),
        }
    }
}

/// An interface that was made or adopted.
#[derive(Debug)]
pub struct Link {
    /// Its descriptor.
    pub opened: Opened,
    /// Its index inside.
    pub ifindex: u32,
    /// Its hardware address now.
    pub mac: Mac,
    /// What could not be had; each is one sentence.
    pub warnings: Vec<String>,
}

/// An interface that is to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldLink {
    /// Where it is.
    pub sandbox: SandboxId,
    /// The name it was given; it is found under another as well.
    pub ifname: String,
    /// The endpoint's number.
    pub endpoint: u32,
}

/// Sockets that were wished for, and are here now: where they were opened, whether for IPv6, and they themselves.
pub type Arrived = (SandboxId, bool, Result<Vec<OwnedFd>, FleetError>);

/// A port of the host to bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Port {
    /// A TCP port; the socket listens.
    Tcp(PortAt),
    /// A UDP port.
    Udp(PortAt),
}

/// Where a port of the host is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PortAt {
    /// At one address, or all of one family.
    One(SocketAddr),
    /// At all addresses of both families, by one socket of IPv6 to which those of IPv4 are mapped.
    Both(u16),
}

impl Port {
    /// Where it is.
    #[must_use]
    pub const fn at(self) -> PortAt {
        match self {
            Self::Tcp(at) | Self::Udp(at) => at,
        }
    }
}

impl PortAt {
    /// The address that its socket is bound to.
    #[must_use]
    pub const fn addr(self) -> SocketAddr {
        match self {
            Self::One(addr) => addr,
            Self::Both(port) => SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
        }
    }
}

impl std::fmt::Display for PortAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(addr) => addr.fmt(f),
            Self::Both(port) => write!(f, "*:{port}"),
        }
    }
}

/// Why the broker cannot do what it was asked for a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum FleetError {
    /// The namespace does not exist, or not any more, or what goes by its name now is another.
    #[error("the sandbox is gone: {0}")]
    SandboxGone(String),
    /// The namespace may not be entered: it is another user's, or the host's own.
    #[error("{0}")]
    NotPermitted(String),
    /// An interface of that name is there already.
    #[error("the sandbox has an interface {0} already")]
    InterfaceExists(String),
    /// There is no interface of that name, or it is not the endpoint's.
    #[error("the sandbox has no interface {0} of weft's")]
    InterfaceMissing(String),
    /// The kernel has refused.
    #[error("{message}")]
    Refused {
        /// What is wrong, where, and what to do, in one line.
        message: String,
        /// The kernel's error number, where it was one.
        errno: Option<i32>,
    },
    /// The broker has gone.
    #[error("{0}")]
    Ended(String),
}

impl FleetError {
    /// Makes a refusal of an error of the kernel; `what` has failed.
    fn refused(what: impl std::fmt::Display, error: &io::Error) -> Self {
        let errno = error.raw_os_error();
        let advice = match errno {
            Some(libc::EMFILE | libc::ENFILE) => ": raise the limit of open files (ulimit -n)",
            _ => "",
        };
        Self::Refused {
            message: format!("{what}: {error}{advice}").replace('\n', " "),
            errno,
        }
    }
}

/// How the alias of every interface of weft's begins.
const ALIAS: &str = "weft:";

/// The alias by which an interface is known for an endpoint's.
fn alias(endpoint: u32) -> String {
    format!("{ALIAS}{endpoint}")
}
