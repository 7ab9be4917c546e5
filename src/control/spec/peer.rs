//! Other hosts, and how a network reaches them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Subnet;
use crate::config::ipam::Range4;
use crate::config::names;
use crate::config::subnet::{mask4, mask6};
use crate::control::ids::{NetworkId, PeerId};
use crate::control::key::{PublicKey, Secret};
use crate::control::text;
use crate::endpoint::udp::MAX_SEGMENTS;

/// The largest VXLAN network identifier. Source: RFC 7348 section 5.
pub const LAST_VNI: u32 = (1 << 24) - 1;

/// How frames travel to another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Carrier {
    /// VXLAN in authenticated and encrypted datagrams, between wefts.
    #[default]
    Sealed,
    /// VXLAN in the clear. Source: RFC 7348.
    Vxlan,
    /// Bare IP packets in UDP, as flannel's udp backend sends them.
    FlannelUdp,
}

/// Headers of IPv4 and UDP. Units: bytes.
const UDP_OVER_IPV4: u32 = 20 + 8;
/// What one send over IPv6 takes at most, which is less than over IPv4. Units: bytes.
const LONGEST_RUN: u32 = 65_535 - 40 - 8;
/// IPv4 and TCP with timestamps, as in nearly every segment. Units: bytes.
const TCP_HEADERS: u32 = 20 + 32;
/// What Linux keeps free of a super-frame: MAX_TCP_HEADER and one, which is 161 to 385 as it is configured; the rest is less
/// than a segment. Source: net/core/sock.c, `sk_dst_gso_max_size`. Units: bytes.
const TCP_SPARE: u32 = 448;
/// An interface's own, unless another is set. Source: linux/netdevice.h. Units: bytes.
const GSO_LEGACY_MAX_SIZE: u32 = 65_536;

impl Carrier {
    /// The UDP port that is used unless another is asked for. Source: RFC 7348 section 5; flannel's backend/udp.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Sealed => 7348,
            Self::Vxlan => 4789,
            Self::FlannelUdp => 8285,
        }
    }

    /// Bytes of a packet of the underlay that are none of the inner IP packet.
    /// Sealed: IP 20 or 40, UDP 8, seal 16 and 16, VXLAN 8, inner Ethernet 14.
    #[must_use]
    pub const fn overhead(self, underlay_v6: bool) -> u16 {
        let ip = if underlay_v6 { 40 } else { 20 };
        match self {
            Self::Sealed => ip + 8 + 16 + 8 + 14 + 16,
            Self::Vxlan => ip + 8 + 8 + 14,
            Self::FlannelUdp => ip + 8,
        }
    }

    /// The longest super-frame whose segments leave as one run of datagrams: a longer one would cost a second send for a
    /// few segments. None where not even two fit, or all do. Units: bytes, as of the interface's `gso_max_size`.
    #[must_use]
    pub fn gso_max_size(self, mtu: u16) -> Option<u32> {
        let mtu = u32::from(mtu);
        let datagram = mtu + u32::from(self.overhead(false)) - UDP_OVER_IPV4;
        let most = u32::try_from(MAX_SEGMENTS).unwrap_or(u32::MAX);
        let segments = (LONGEST_RUN / datagram).min(most);
        let size = segments * mtu.saturating_sub(TCP_HEADERS) + TCP_SPARE;
        (segments > 1 && size < GSO_LEGACY_MAX_SIZE).then_some(size)
    }

    /// Its word, as in files.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Vxlan => "vxlan",
            Self::FlannelUdp => "flannel-udp",
        }
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What makes a network an overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct OverlaySpec {
    /// The number that frames of it carry, 1 to [`LAST_VNI`]; unique on a host.
    pub vni: u32,
    /// How its frames travel.
    pub carrier: Carrier,
    /// The UDP port of this host. One for all sealed networks, one for each carrier otherwise where networks share it.
    pub port: u16,
    /// The IPv4 addresses that this host hands out; no other host does.
    pub range: Range4,
}

/// A part of an address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// Its first address.
    pub addr: IpAddr,
    /// Length of the prefix.
    pub len: u8,
}

impl Prefix {
    /// True if the address is in it.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        let len = if addr.is_ipv4() { 32 } else { 128 };
        self.overlaps(&Self { addr, len })
    }

    /// True if an address is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let len = self.len.min(other.len);
        match (self.addr, other.addr) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()) & mask4(len) == 0,
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()) & mask6(len) == 0,
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// True if every address of the other is in this one.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        self.len <= other.len && self.overlaps(other)
    }

    /// True if an address of the range is in it.
    #[must_use]
    pub fn meets(&self, range: &Range4) -> bool {
        let IpAddr::V4(addr) = self.addr else {
            return false;
        };
        let first = addr.to_bits();
        first <= range.last.to_bits() && range.first.to_bits() <= first | !mask4(self.len)
    }

    /// The IPv6 addresses that belong to a part of the IPv4 subnet: on an overlay both end in the same number, so that one
    /// division of the subnet between hosts divides both families. `None` for what is no part of it.
    #[must_use]
    pub fn twin(&self, v4: &Subnet<Ipv4Addr>, v6: &Subnet<Ipv6Addr>) -> Option<Self> {
        let IpAddr::V4(addr) = self.addr else {
            return None;
        };
        let whole = Self {
            addr: v4.network.into(),
            len: v4.prefix,
        };
        if !whole.holds(self) {
            return None;
        }
        let offset = addr.to_bits() - v4.network.to_bits();
        let bits = v6.network.to_bits() | u128::from(offset);
        Some(Self {
            addr: Ipv6Addr::from_bits(bits).into(),
            len: 96 + self.len,
        })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// A text is no part of an address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a prefix is an address and a length, such as 10.1.0.0/24, without bits behind the length")]
pub struct ParsePrefixError;

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    fn from_str(text: &str) -> Result<Self, ParsePrefixError> {
        let (addr, len) = text.split_once('/').ok_or(ParsePrefixError)?;
        let addr: IpAddr = addr.parse().map_err(|_| ParsePrefixError)?;
        let len: u8 = len.parse().map_err(|_| ParsePrefixError)?;
        let sound = match addr {
            IpAddr::V4(a) => len <= 32 && a.to_bits() & !mask4(len) == 0,
            IpAddr::V6(a) => len <= 128 && a.to_bits() & !mask6(len) == 0,
        };
        sound.then_some(Self { addr, len }).ok_or(ParsePrefixError)
    }
}

/// Where another host is reached: a name or an address, and a UDP port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// A name that the host's resolvers know, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// Reads `HOST`, `HOST:PORT`, `ADDR`, `ADDR:PORT` or `[ADDR]:PORT`.
    /// Errors: one line that says what is wrong.
    pub fn parse(text: &str, port: u16) -> Result<Self, String> {
        let bad = || format!("'{text}': give HOST, HOST:PORT or [IPV6]:PORT");
        let (host, port) = match text.parse::<IpAddr>() {
            Ok(addr) => (addr.to_string(), port),
            Err(_) => match text.parse::<SocketAddr>() {
                Ok(at) => (at.ip().to_string(), at.port()),
                Err(_) => match text.split_once(':') {
                    None => (text.to_owned(), port),
                    Some((host, port)) => (host.to_owned(), port.parse().map_err(|_| bad())?),
                },
            },
        };
        if port == 0 {
            return Err(format!("'{text}': nobody listens on port 0"));
        }
        match host.parse::<IpAddr>() {
            Ok(addr) if addr.is_unspecified() || addr.is_multicast() || is_broadcast(addr) => {
                Err(format!("'{text}': {addr} is no host's address"))
            }
            Ok(_) => Ok(Self { host, port }),
            // Digits and dots are meant to be an address.
            Err(_) if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') => Err(bad()),
            Err(_) => names::domain("endpoint", &host)
                .map(|host| Self { host, port })
                .map_err(|_| bad()),
        }
    }

    /// The address, where it is one and no name.
    #[must_use]
    pub fn addr(&self) -> Option<SocketAddr> {
        let addr = self.host.parse::<IpAddr>().ok()?;
        Some(SocketAddr::new(addr, self.port))
    }
}

fn is_broadcast(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V4(a) if a.is_broadcast())
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr() {
            Some(at) => at.fmt(f),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, Carrier::Sealed.port())
    }
}

text::as_text!(Prefix, HostPort);

/// What reaching another host takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum PeerCarrier {
    /// Another weft.
    #[serde(rename_all = "kebab-case")]
    Sealed {
        /// Who it is; `None` while an invite is open: it is then whoever first shows the invite's secret.
        key: Option<PublicKey>,
        /// Where it is; `None` where only it can make the first step.
        endpoint: Option<HostPort>,
        /// What both know before they have met, so that a stranger's first message costs little. Zeros where there is none.
        secret: Secret,
        /// How often something is sent when there is nothing to send; 0 for never. Units: seconds.
        keepalive: u16,
        /// Until when an invite can be taken; `None` for always, and once it is taken. Units: seconds since 1970.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires: Option<u64>,
    },
    /// A VXLAN node of any make.
    Vxlan {
        /// Where it is.
        to: HostPort,
    },
    /// A flannel node, or another weft of that carrier.
    FlannelUdp {
        /// Where it is.
        to: HostPort,
    },
}

impl PeerCarrier {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Carrier {
        match self {
            Self::Sealed { .. } => Carrier::Sealed,
            Self::Vxlan { .. } => Carrier::Vxlan,
            Self::FlannelUdp { .. } => Carrier::FlannelUdp,
        }
    }

    /// Where it is, as it was said.
    #[must_use]
    pub const fn endpoint(&self) -> Option<&HostPort> {
        match self {
            Self::Sealed { endpoint, .. } => endpoint.as_ref(),
            Self::Vxlan { to } | Self::FlannelUdp { to } => Some(to),
        }
    }

    /// Until when an invite can be taken, if that ends. Units: seconds since 1970.
    #[must_use]
    pub const fn expires(&self) -> Option<u64> {
        match self {
            Self::Sealed { expires, .. } => *expires,
            Self::Vxlan { .. } | Self::FlannelUdp { .. } => None,
        }
    }

    /// Who it is, where that is known.
    #[must_use]
    pub const fn key(&self) -> Option<&PublicKey> {
        match self {
            Self::Sealed { key, .. } => key.as_ref(),
            Self::Vxlan { .. } | Self::FlannelUdp { .. } => None,
        }
    }
}

/// Another host, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PeerSpec {
    /// Its number.
    pub id: PeerId,
    /// Its name, unique on this host.
    pub name: String,
    /// How it is reached.
    pub carrier: PeerCarrier,
    /// The overlay networks of its carrier that it is on, in order: all are there when this is set.
    pub networks: Vec<NetworkId>,
    /// What addresses it may announce and send from, of both families; none of it is handed out here. Empty for all of its
    /// networks' subnets but what this host hands out. With flannel-udp they are the routes to it.
    pub prefixes: Vec<Prefix>,
    /// Where it was heard last, for where its carrier does not say where it is.
    pub seen: Option<SocketAddr>,
}

/// The network between the hosts, as far as the machine knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underlay {
    /// The address that this host has towards the world; `None` without a route there.
    pub addr: Option<IpAddr>,
    /// The largest packet on that way.
    pub mtu: u16,
}

impl Default for Underlay {
    fn default() -> Self {
        Self {
            addr: None,
            mtu: 1500,
        }
    }
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
