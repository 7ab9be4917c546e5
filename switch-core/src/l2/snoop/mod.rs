//! Stage 3: Who wants which multicast: what endpoints report by IGMP and MLD, and whom the gateway asks.
//!
//! Each VLAN of a network is a link of its own, with members, routers and a querier of its own.
//! `message` reads what a frame says, `query` writes what the gateway asks, `groups` is the table that all workers
//! share, `wants` is what of it other hosts are told. A membership is a port's: what it reports of sources (include and exclude lists) is reduced to member or
//! not, so a member gets a group from every source. Groups that do not leave the link (224.0.0.0/24, and the scopes
//! up to link-local of IPv6) are everybody's and are not kept: not all stations report them.
//! Source: RFC 4541, and for the protocols RFC 1112, 2236, 3376, 2710, 3810.

mod agreed;
pub mod groups;
pub mod message;
pub mod query;
mod wants;

#[cfg(all(test, loom))]
mod loom_models;
#[cfg(test)]
mod tests;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use crate::addr::Mac;

pub use self::wants::Wants;

/// IGMP.
pub const PROTO_IGMP: u8 = 2;
/// Between general queries. Source: RFC 3376 section 8.2, RFC 3810 section 9.2.
pub const INTERVAL: Duration = Duration::from_secs(125);
/// What a station may take to answer a general query. Source: RFC 3376 section 8.3, RFC 3810 section 9.3.
pub const RESPONSE: Duration = Duration::from_secs(10);
/// What it may take to answer when asked about one group, and what passes until it is asked again.
/// Source: RFC 3376 section 8.8, RFC 3810 section 9.8.
pub const LAST_MEMBER: Duration = Duration::from_secs(1);
/// How often something is asked, for a frame may be lost. Source: RFC 3376 section 8.1, RFC 3810 section 9.1.
pub const ROBUSTNESS: u32 = 2;

/// One of the two protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IGMP, for IPv4.
    V4,
    /// MLD, for IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// One of the protocols on one VLAN of a network: what has a querier of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The VLAN; 0 is the network's own segment.
    pub vlan: u16,
    /// The protocol.
    pub family: Family,
}

impl Scope {
    /// A protocol on a VLAN, or with 0 on the network's own segment.
    #[must_use]
    pub const fn new(vlan: u16, family: Family) -> Self {
        Self { vlan, family }
    }
}

/// A multicast group that is kept: one that goes further than the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(Ipv6Addr);

impl Group {
    /// The group of a destination; none for what every station is to get.
    /// Source: RFC 4541 sections 2.1.2 and 3, RFC 4291 section 2.7.
    #[must_use]
    pub fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(a) => {
                let local = matches!(a.octets(), [224, 0, 0, _]);
                (a.is_multicast() && !local).then(|| Self(a.to_ipv6_mapped()))
            }
            IpAddr::V6(a) => {
                const LINK_LOCAL: u8 = 2;
                let [_, flags_and_scope, ..] = a.octets();
                (a.is_multicast() && flags_and_scope & 15 > LINK_LOCAL).then_some(Self(a))
            }
        }
    }

    /// Its address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.0.to_canonical()
    }

    /// Its protocol.
    #[must_use]
    pub fn family(self) -> Family {
        Family::of(self.address())
    }
}

/// The address that a gateway with these asks from; none where it does not. On VLANs it has none of IPv4: whoever has
/// one asks in its place. Source: RFC 4541 section 2.1.1.
#[must_use]
pub const fn asks_from(on: Scope, mac: Mac, v4: Option<Ipv4Addr>, has_v6: bool) -> Option<IpAddr> {
    match (on.vlan, on.family, v4, has_v6) {
        (0, Family::V4, Some(own), _) => Some(IpAddr::V4(own)),
        (0, Family::V4, None, _) | (0, Family::V6, _, false) => None,
        (_, Family::V4, ..) => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        (_, Family::V6, ..) => Some(IpAddr::V6(mac.link_local())),
    }
}

/// What stations may take to answer general queries that come so often: no longer than until the next.
#[must_use]
pub fn response(interval: Duration) -> Duration {
    RESPONSE.min(interval / 2)
}

/// How long a report holds. Source: RFC 3376 section 8.4, RFC 3810 section 9.4.
#[must_use]
pub fn membership(robustness: u32, interval: Duration, response: Duration) -> Duration {
    interval.saturating_mul(robustness).saturating_add(response)
}

/// How long another querier counts as there. Source: RFC 3376 section 8.5, RFC 3810 section 9.5.
#[must_use]
pub fn presence(robustness: u32, interval: Duration, response: Duration) -> Duration {
    membership(robustness, interval, response / 2)
}
