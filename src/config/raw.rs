//! Options as written: on the command line, or in a file under the same names.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "brackets in texts of the command line's help are no links"
)]

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};
use switch_core::flow::udp::Filter;

use super::wish::PolicyWish;
use crate::control::spec::EndpointKind;

/// Who may answer to a UDP mapping of the sandbox. Source: RFC 4787 section 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum UdpFilter {
    /// Anyone.
    EndpointIndependent,
    /// Addresses that the sandbox has sent to.
    #[default]
    AddressDependent,
    /// Addresses and ports that the sandbox has sent to.
    AddressAndPortDependent,
}

impl From<UdpFilter> for Filter {
    fn from(filter: UdpFilter) -> Self {
        match filter {
            UdpFilter::EndpointIndependent => Self::EndpointIndependent,
            UdpFilter::AddressDependent => Self::AddressDependent,
            UdpFilter::AddressAndPortDependent => Self::AddressAndPortDependent,
        }
    }
}

/// The options that `run` and `attach` share, none of them checked yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct NetOptions {
    /// The network: its own by default, none, host, netns:PATH, container:NAME, or a network of 'weft up' (repeatable)
    #[arg(long, value_name = "NETWORK")]
    #[serde(deserialize_with = "one_or_more")]
    pub network: Vec<String>,
    /// The sandbox's name, which resolves inside
    #[arg(long)]
    pub name: Option<String>,
    /// The host name inside [default: the name]
    #[arg(long)]
    pub hostname: Option<String>,
    /// One more name on the networks of 'weft up' (repeatable)
    #[arg(long, value_name = "NAME")]
    pub alias: Vec<String>,
    /// The interface's name inside [default: eth0]
    #[arg(long, value_name = "NAME")]
    pub ifname: Option<String>,
    /// What is behind the interface [default: tap, or packet where there is no /dev/net/tun]
    #[arg(long, value_name = "KIND")]
    pub kind: Option<EndpointKind>,
    /// The sandbox's IPv4 address [default: .2 of the subnet]
    #[arg(long, value_name = "ADDR")]
    pub ip: Option<String>,
    /// The sandbox's IPv6 address [default: ::2 of the subnet]
    #[arg(long, value_name = "ADDR")]
    pub ip6: Option<String>,
    /// The IPv4 subnet [default: a private /24 that the host does not use]
    #[arg(long, value_name = "ADDR/LEN")]
    pub subnet: Option<String>,
    /// The IPv6 subnet [default: a fresh unique local /64]
    #[arg(long, value_name = "ADDR/LEN")]
    pub subnet6: Option<String>,
    /// The interface's MAC address [default: chosen]
    #[arg(long, value_name = "MAC")]
    pub mac: Option<String>,
    /// The interface's MTU, 68 to 65521 [default: 1500]
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u32>,
    /// Publishes ports of the sandbox: [IP:]HOST[-HOST][:PORT[-PORT]][/tcp|/udp] (repeatable)
    #[arg(short, long, value_name = "PORTS")]
    pub publish: Vec<String>,
    /// Names a port for --publish-all: PORT[-PORT][/tcp|/udp] (repeatable)
    #[arg(long, value_name = "PORTS")]
    pub expose: Vec<String>,
    /// Publishes every exposed port on a free port of the host
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// Asks this resolver in place of the host's: ADDR, or ADDR:PORT (repeatable)
    #[arg(long, value_name = "ADDR")]
    pub dns: Vec<String>,
    /// A search domain (repeatable)
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// A name with its address: NAME:ADDR (repeatable)
    #[arg(long, value_name = "NAME:ADDR")]
    pub add_host: Vec<String>,
    /// An address that reaches the host's own loopback: ADDR, gateway or none (repeatable) [default: none]
    #[arg(long, value_name = "ADDR")]
    pub host_loopback: Vec<String>,
    /// Opens every service on the host's other addresses, not only published ports
    #[arg(long)]
    pub host_access: bool,
    /// Writes every frame to a pcapng file
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Makes the link a bad one: loss=SHARE, reorder=SHARE, duplicate=SHARE, corrupt=SHARE, delay=TIME, per=frame|segment, seed=N, with commas between
    #[arg(long, value_name = "LIST")]
    pub impair: Option<String>,
    /// Worker threads; a private network has one, for more see weft up [default: 1]
    #[arg(long, value_name = "N")]
    pub workers: Option<u16>,
    /// Queues of the interface; it has one [default: 1]
    #[arg(long, value_name = "N")]
    pub queues: Option<u16>,
    /// Writes a line to this descriptor when the network is up
    #[arg(long, value_name = "FD")]
    pub ready_fd: Option<i32>,
    /// Writes weft's process id to a file when the network is up
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// As root, runs weft's own processes as this user: NAME, UID or UID:GID
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Who may answer to the sandbox's datagrams [default: address-dependent]
    #[arg(long, value_name = "FILTER", value_enum)]
    pub udp_filter: Option<UdpFilter>,
    /// The socket of the switch that has the named networks [default: that of the user's own]
    #[arg(long, value_name = "FILE")]
    pub socket: Option<PathBuf>,
    /// The VLAN of the network of 'weft up' that it is on, without tags [default: 1, where the gateway is]
    #[arg(long, value_name = "VLAN")]
    pub vlan: Option<u16>,
    /// The VLANs of the network of 'weft up' that it is on, with tags: VLAN,VLAN-VLAN
    #[arg(long, value_name = "VLANS")]
    pub trunk: Option<String>,
    /// The VLAN of a trunk's frames without tags [default: they are dropped]
    #[arg(long, value_name = "VLAN")]
    pub native: Option<u16>,
    /// Of a sandbox's networks of 'weft up' the one with the highest gives the default route [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// Leaves the interfaces of 'weft up' without addresses: the sandbox asks by DHCP and for routers
    #[arg(long)]
    pub no_configure: bool,
    /// A setting below net. on the networks of 'weft up': KEY=VALUE, with IFNAME for the interface's name (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub sysctl: Vec<String>,
    /// What may pass on the networks of 'weft up'. Only in files.
    #[arg(skip)]
    pub policy: Option<PolicyWish>,
}

/// A text, or a list of them.
fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a network or a list of networks")]
    enum Either {
        One(String),
        More(Vec<String>),
    }
    Ok(match Either::deserialize(from)? {
        Either::One(one) => vec![one],
        Either::More(more) => more,
    })
}

impl NetOptions {
    /// Fills what is not given here from `below`: an option on the command line takes the place of the file's.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        fn list(mine: Vec<String>, below: Vec<String>) -> Vec<String> {
            if mine.is_empty() { below } else { mine }
        }
        Self {
            network: list(self.network, below.network),
            name: self.name.or(below.name),
            hostname: self.hostname.or(below.hostname),
            alias: list(self.alias, below.alias),
            ifname: self.ifname.or(below.ifname),
            kind: self.kind.or(below.kind),
            ip: self.ip.or(below.ip),
            ip6: self.ip6.or(below.ip6),
            subnet: self.subnet.or(below.subnet),
            subnet6: self.subnet6.or(below.subnet6),
            mac: self.mac.or(below.mac),
            mtu: self.mtu.or(below.mtu),
            publish: list(self.publish, below.publish),
            expose: list(self.expose, below.expose),
            publish_all: self.publish_all || below.publish_all,
            dns: list(self.dns, below.dns),
            dns_search: list(self.dns_search, below.dns_search),
            add_host: list(self.add_host, below.add_host),
            host_loopback: list(self.host_loopback, below.host_loopback),
            host_access: self.host_access || below.host_access,
            pcap: self.pcap.or(below.pcap),
            impair: self.impair.or(below.impair),
            workers: self.workers.or(below.workers),
            queues: self.queues.or(below.queues),
            ready_fd: self.ready_fd.or(below.ready_fd),
            pid_file: self.pid_file.or(below.pid_file),
            user: self.user.or(below.user),
            udp_filter: self.udp_filter.or(below.udp_filter),
            socket: self.socket.or(below.socket),
            vlan: self.vlan.or(below.vlan),
            trunk: self.trunk.or(below.trunk),
            native: self.native.or(below.native),
            priority: self.priority.or(below.priority),
            no_configure: self.no_configure || below.no_configure,
            sysctl: list(self.sysctl, below.sysctl),
            policy: self.policy.or(below.policy),
        }
    }
}
