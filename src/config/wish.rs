//! What a person asks of the daemon, as written: by options, in `weft.toml`, or as the API's JSON. None of it is checked.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "brackets in texts of the command line's help are no links"
)]

use std::collections::BTreeMap;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::life;
use super::raw::UdpFilter;
use crate::control::key::Secret;
use crate::control::policy::{Action, Direction};
use crate::control::spec::{Carrier, Driver, EndpointKind};

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct NetworkWish {
    /// The network's name.
    #[arg(value_name = "NETWORK")]
    pub name: String,
    /// The IPv4 subnet [default: a private /24 that nothing uses]
    #[arg(long, value_name = "ADDR/LEN")]
    #[serde(skip_serializing_if = "is_default")]
    pub subnet: Option<String>,
    /// The IPv6 subnet [default: a fresh unique local /64]
    #[arg(long, value_name = "ADDR/LEN")]
    #[serde(skip_serializing_if = "is_default")]
    pub subnet6: Option<String>,
    /// The part of the IPv4 subnet that addresses are chosen from [default: all of it; of an overlay its first part]
    #[arg(long, value_name = "ADDR/LEN")]
    #[serde(skip_serializing_if = "is_default")]
    pub ip_range: Option<String>,
    /// The switch's IPv4 address on the network [default: the first]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "is_default")]
    pub gateway: Option<String>,
    /// The switch's IPv6 address on the network [default: the first]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "is_default")]
    pub gateway6: Option<String>,
    /// Whether the network has IPv6 [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(skip_serializing_if = "is_default")]
    pub ipv6: Option<bool>,
    /// Leads nowhere outside
    #[arg(long)]
    #[serde(skip_serializing_if = "is_default")]
    pub internal: bool,
    /// The largest packet, 68 to 65521 [default: 1500; an overlay's is what fits into a packet between the hosts]
    #[arg(long, value_name = "BYTES")]
    #[serde(skip_serializing_if = "is_default")]
    pub mtu: Option<u32>,
    /// What kind of network it is [default: bridge]
    #[arg(long, value_name = "DRIVER", value_enum)]
    #[serde(skip_serializing_if = "is_default")]
    pub driver: Option<Driver>,
    /// The way out: sockets, packet:INTERFACE or none [default: sockets]
    #[arg(long, value_name = "UPLINK")]
    #[serde(skip_serializing_if = "is_default")]
    pub uplink: Option<String>,
    /// Keeps its endpoints from each other
    #[arg(long)]
    #[serde(skip_serializing_if = "is_default")]
    pub no_icc: bool,
    /// Asks this resolver in place of the host's: ADDR, or ADDR:PORT (repeatable)
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "is_default")]
    pub dns: Vec<String>,
    /// A search domain (repeatable)
    #[arg(long, value_name = "DOMAIN")]
    #[serde(skip_serializing_if = "is_default")]
    pub dns_search: Vec<String>,
    /// An address that reaches the host's own loopback: ADDR or gateway (repeatable) [default: none]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "is_default")]
    pub host_loopback: Vec<String>,
    /// Opens every service on the host's other addresses, not only published ports
    #[arg(long)]
    #[serde(skip_serializing_if = "is_default")]
    pub host_access: bool,
    /// Who may answer to datagrams [default: address-dependent]
    #[arg(long, value_name = "FILTER", value_enum)]
    #[serde(skip_serializing_if = "is_default")]
    pub udp_filter: Option<UdpFilter>,
    /// An overlay's number, the same on every host, 1 to 16777215 [default: one made of the network's name]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "is_default")]
    pub vni: Option<u32>,
    /// More options: ageing=SECONDS, loop-hold=SECONDS, snooping=BOOL, querier=BOOL, query-interval=SECONDS, mtu=BYTES, icc=BOOL; of an overlay carrier=sealed|vxlan|flannel-udp, port=PORT (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    #[serde(skip_serializing_if = "is_default")]
    pub opt: Vec<String>,
    /// What may pass. Only in files and messages.
    #[arg(skip)]
    #[serde(skip_serializing_if = "is_default")]
    pub policy: Option<PolicyWish>,
}

/// An endpoint: a sandbox joins a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct EndpointWish {
    /// The network, by its name.
    #[arg(value_name = "NETWORK")]
    pub network: String,
    /// The sandbox: a process id, a namespace's path or name, or the name of a sandbox that is known.
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// The sandbox's name [default: that of the namespace's file, or the one it has]
    #[arg(long)]
    #[serde(skip_serializing_if = "is_default")]
    pub name: Option<String>,
    /// The host name, which resolves too
    #[arg(long)]
    #[serde(skip_serializing_if = "is_default")]
    pub hostname: Option<String>,
    /// One more name on this network (repeatable)
    #[arg(long = "alias", value_name = "NAME")]
    #[serde(skip_serializing_if = "is_default")]
    pub aliases: Vec<String>,
    /// The IPv4 address [default: a free one]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "is_default")]
    pub ip: Option<String>,
    /// The IPv6 address [default: a free one]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "is_default")]
    pub ip6: Option<String>,
    /// The interface's MAC address [default: chosen]
    #[arg(long, value_name = "MAC")]
    #[serde(skip_serializing_if = "is_default")]
    pub mac: Option<String>,
    /// The interface's name inside [default: the first free ethN]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "is_default")]
    pub ifname: Option<String>,
    /// The interface's MTU [default: the network's]
    #[arg(long, value_name = "BYTES")]
    #[serde(skip_serializing_if = "is_default")]
    pub mtu: Option<u32>,
    /// How frames reach the sandbox [default: tap]
    #[arg(long, value_name = "KIND", value_enum)]
    #[serde(skip_serializing_if = "is_default")]
    pub kind: Option<EndpointKind>,
    /// Of a sandbox's networks the one with the highest gives the default route [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "is_default")]
    pub priority: Option<i32>,
    /// Leaves the interface without addresses: the sandbox asks by DHCP and for routers
    #[arg(long)]
    #[serde(skip_serializing_if = "is_default")]
    pub no_configure: bool,
    /// The VLAN of the network that it is on, without tags [default: 1, where the gateway is]
    #[arg(long, value_name = "VLAN")]
    #[serde(skip_serializing_if = "is_default")]
    pub vlan: Option<u16>,
    /// The VLANs that it is on, with tags: VLAN,VLAN-VLAN
    #[arg(long, value_name = "VLANS")]
    #[serde(skip_serializing_if = "is_default")]
    pub trunk: Option<String>,
    /// The VLAN of a trunk's frames without tags [default: they are dropped]
    #[arg(long, value_name = "VLAN")]
    #[serde(skip_serializing_if = "is_default")]
    pub native: Option<u16>,
    /// A setting below net. inside: KEY=VALUE, with IFNAME for the interface's name (repeatable)
    #[arg(long = "sysctl", value_name = "KEY=VALUE")]
    #[serde(skip_serializing_if = "is_default")]
    pub sysctls: Vec<String>,
    /// What may pass. Only in files and messages.
    #[arg(skip)]
    #[serde(skip_serializing_if = "is_default")]
    pub policy: Option<PolicyWish>,
}

/// A peer: another host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PeerWish {
    /// The peer's name.
    #[arg(value_name = "PEER")]
    pub name: String,
    /// Its public key, as 'weft key show' prints it there
    #[arg(long, value_name = "KEY")]
    #[serde(skip_serializing_if = "is_default")]
    pub key: Option<String>,
    /// Where it is: HOST, HOST:PORT or [IPV6]:PORT [default: it makes the first step]
    #[arg(long, value_name = "HOST[:PORT]")]
    #[serde(skip_serializing_if = "is_default")]
    pub endpoint: Option<String>,
    /// An overlay network that it is on (repeatable) [default: every one of its carrier]
    #[arg(long = "network", value_name = "NETWORK")]
    #[serde(skip_serializing_if = "is_default")]
    pub networks: Vec<String>,
    /// Addresses that it hands out, and may announce (repeatable) [default: all that this host does not hand out]
    #[arg(long = "prefix", value_name = "ADDR/LEN")]
    #[serde(skip_serializing_if = "is_default")]
    pub prefixes: Vec<String>,
    /// How it is reached [default: sealed]
    #[arg(long, value_name = "CARRIER", value_enum)]
    #[serde(skip_serializing_if = "is_default")]
    pub carrier: Option<Carrier>,
    /// Sends something that often when there is nothing to send, so that a NAT on the way keeps it open; 0 for never [default: 0]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "is_default")]
    pub keepalive: Option<u16>,
    /// A secret that both hosts share before they meet. Only in files and messages.
    #[arg(skip)]
    #[serde(skip_serializing_if = "is_default")]
    pub secret: Option<Secret>,
}

/// An invite for another host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct InviteWish {
    /// What the invited host is called here [default: the first free host-N]
    #[arg(value_name = "PEER")]
    #[serde(skip_serializing_if = "is_default")]
    pub name: Option<String>,
    /// An overlay network that it shall be on (repeatable) [default: every sealed one]
    #[arg(long = "network", value_name = "NETWORK")]
    #[serde(skip_serializing_if = "is_default")]
    pub networks: Vec<String>,
    /// How it reaches this host: HOST, HOST:PORT or [IPV6]:PORT [default: this host's address towards the world]
    #[arg(long, value_name = "HOST[:PORT]")]
    #[serde(skip_serializing_if = "is_default")]
    pub endpoint: Option<String>,
    /// What this host is called there [default: the host's name]
    #[arg(long = "as", value_name = "NAME")]
    #[serde(rename = "as", skip_serializing_if = "is_default")]
    pub host: Option<String>,
    /// How long it can be taken: 90s, 30m, 24h, 7d, or 0 for as long as nobody has [default: 24h]
    #[arg(long, value_name = "TIME", value_parser = life::parse)]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: Option<u64>,
    /// The addresses that it hands out (repeatable, one for each network) [default: the first part that nobody has]
    #[arg(long = "range", value_name = "ADDR/LEN")]
    #[serde(skip_serializing_if = "is_default")]
    pub ranges: Vec<String>,
}

/// An invite that is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AcceptWish {
    /// The invite.
    pub invite: String,
    /// What the inviting host is called here; what it calls itself if absent.
    #[serde(skip_serializing_if = "is_default")]
    pub name: Option<String>,
}

/// Published ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PublishWish {
    /// The sandbox, by its name.
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// The network whose endpoint is meant [default: the one with the default route]
    #[arg(long)]
    #[serde(skip_serializing_if = "is_default")]
    pub network: Option<String>,
    /// [IP:]HOST[-HOST][:PORT[-PORT]][/tcp|/udp], or *:PORT for any port of the host
    #[arg(required = true, value_name = "PORTS")]
    pub ports: Vec<String>,
}

/// A service: a virtual address with backends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServiceWish {
    /// The service's name, which resolves on its network.
    #[arg(value_name = "SERVICE")]
    pub name: String,
    /// The network it is on
    #[arg(long, value_name = "NETWORK")]
    pub network: String,
    /// PORT[:TARGET][/tcp|/udp] (repeatable)
    #[arg(long = "port", value_name = "PORT", required = true)]
    pub ports: Vec<String>,
    /// A sandbox that serves, on an overlay also one of another host (repeatable)
    #[arg(long = "backend", value_name = "NAME", num_args = 1..)]
    #[serde(skip_serializing_if = "is_default")]
    pub backends: Vec<String>,
    /// The virtual IPv4 address [default: a free one]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "is_default")]
    pub ip: Option<String>,
    /// The virtual IPv6 address [default: a free one]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "is_default")]
    pub ip6: Option<String>,
}

/// A policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PolicyWish {
    /// What is done with a flow to the endpoint that no rule matches [default: allow]
    #[arg(long, value_name = "ACTION", value_enum)]
    #[serde(skip_serializing_if = "is_default")]
    pub ingress: Option<Action>,
    /// What is done with a flow from the endpoint that no rule matches [default: allow]
    #[arg(long, value_name = "ACTION", value_enum)]
    #[serde(skip_serializing_if = "is_default")]
    pub egress: Option<Action>,
    /// Speaks to the gateway, and to endpoints that are not isolated
    #[arg(long)]
    #[serde(skip_serializing_if = "is_default")]
    pub isolated: bool,
    /// Lets frames with another's MAC or address pass
    #[arg(long)]
    #[serde(skip_serializing_if = "is_default")]
    pub no_spoof_guard: bool,
    /// Limits: ingress, egress (bytes a second), broadcast (frames), new-flows as RATE[:BURST], flows as N, 0 for none; macs as N
    #[arg(long = "limit", value_name = "KEY=VALUE", value_parser = key_value)]
    #[serde(skip_serializing_if = "is_default", with = "limits")]
    pub limits: Vec<(String, String)>,
    /// Rules, the first that matches decides: "ingress|egress allow|drop|reject [tcp|udp|icmp] [REMOTE] [PORT[-PORT]]"
    #[arg(long = "rule", value_name = "RULE")]
    #[serde(skip_serializing_if = "is_default")]
    pub rules: Vec<RuleWish>,
}

/// A rule: in one line, or as a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RuleWish {
    /// In one line.
    Line(String),
    /// As a table.
    Table(RuleTable),
}

/// A rule as a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RuleTable {
    /// Which way.
    pub direction: Direction,
    /// What is done.
    pub action: Action,
    /// `tcp`, `udp` or `icmp`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: Option<String>,
    /// `any`, ADDR, ADDR/LEN, `name:NAME` or `network:NAME`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub remote: Option<String>,
    /// PORT or PORT-PORT.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ports: Option<String>,
}

impl From<String> for RuleWish {
    fn from(line: String) -> Self {
        Self::Line(line)
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("the form is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// A table of limits: texts, or bare numbers.
mod limits {
    use super::BTreeMap;
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Value {
        Number(u64),
        Text(String),
    }

    pub(super) fn serialize<S: Serializer>(
        list: &[(String, String)],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_map(list.iter().map(|(k, v)| (k, v)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<(String, String)>, D::Error> {
        let table = BTreeMap::<String, Value>::deserialize(from)?;
        let text = |(key, value)| match value {
            Value::Number(n) => (key, n.to_string()),
            Value::Text(t) => (key, t),
        };
        Ok(table.into_iter().map(text).collect())
    }
}
