//! Stage 5: The guard on sources: an endpoint speaks for its own MAC and addresses only, and only those that were
//! trusted with it serve DHCP or announce themselves routers.
//!
//! What a fragment or a chain of extension headers hides cannot be told, and goes no further where it could hide
//! one of those messages. Source: RFC 7113, RFC 6980, RFC 6105, RFC 7610.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::addr::Mac;
use crate::verdict::DropReason;
use crate::wire::be16;
use crate::wire::packet::{Ip, Kind, PROTO_ICMP, PROTO_ICMPV6, PROTO_UDP, Packet};

/// Options of a neighbour discovery message at most; real ones have one or two.
const MAX_OPTIONS: usize = 32;
/// IGMP.
const PROTO_IGMP: u8 = 2;

/// What an endpoint may do beyond speaking for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trust {
    /// Send from any station's MAC, as a bridge in the sandbox does.
    pub mac: bool,
    /// Send from any address, as a router in the sandbox does.
    pub address: bool,
    /// Serve DHCP and DHCPv6.
    pub dhcp: bool,
    /// Announce itself a router, redirect, and query for groups.
    pub router: bool,
}

/// The guard of one endpoint, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    mac: Mac,
    v4: Box<[Ipv4Addr]>,
    v6: Box<[Ipv6Addr]>,
    /// Where the endpoint may choose addresses, as SLAAC with privacy extensions does: first address and mask.
    slaac: Option<(u128, u128)>,
    trust: Trust,
}

impl Guard {
    /// The guard of an endpoint with this MAC and these addresses. Within `slaac`, a prefix and its length, it
    /// may choose IPv6 addresses itself.
    #[must_use]
    pub fn new(
        mac: Mac,
        addresses: impl IntoIterator<Item = IpAddr>,
        slaac: Option<(Ipv6Addr, u8)>,
        trust: Trust,
    ) -> Self {
        let (mut v4, mut v6) = (Vec::new(), vec![mac.link_local()]);
        for address in addresses {
            match address {
                IpAddr::V4(a) => v4.push(a),
                IpAddr::V6(a) => v6.push(a),
            }
        }
        v4.sort_unstable();
        v6.sort_unstable();
        let slaac = slaac.map(|(prefix, len)| {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(len.min(128)))
                .unwrap_or(0);
            (prefix.to_bits() & mask, mask)
        });
        Self {
            mac,
            v4: v4.into(),
            v6: v6.into(),
            slaac,
            trust,
        }
    }

    /// True if the endpoint may be a router, and so ask who wants which group.
    #[must_use]
    pub const fn trusts_routers(&self) -> bool {
        self.trust.router
    }

    /// Decides whether the endpoint may send a frame. `others` says whether an address that it has chosen itself
    /// (link-local, or within `slaac`) is somebody else's: the gateway's, one given out, or one claimed before.
    /// Shape: `packet` is the parse of `frame`. Cost: a few comparisons; no allocation.
    /// Errors: `Spoofed` (the MAC), `SpoofedAddress`, `SpoofedArp`, `SpoofedNd`, `RogueDhcp`, `RogueRouter`;
    /// `Truncated`, `Malformed`, `Fragment` for what cannot be judged.
    #[inline]
    pub fn check(
        &self,
        packet: &Packet,
        frame: &[u8],
        others: &impl Fn(Ipv6Addr) -> bool,
    ) -> Result<(), DropReason> {
        if packet.src != self.mac && !(self.trust.mac && packet.src.is_station()) {
            return Err(DropReason::Spoofed);
        }
        match packet.kind {
            Kind::Ip(ip) => {
                let message = frame.get(ip.l4..ip.end).ok_or(DropReason::Truncated)?;
                self.source(&ip, message, others)?;
                self.message(packet.src, &ip, message, others)
            }
            Kind::Arp => self.arp(packet, frame),
            Kind::Other(_) => Ok(()),
        }
    }

    fn owns_v4(&self, a: Ipv4Addr) -> bool {
        self.v4.binary_search(&a).is_ok()
            || (self.trust.address && !a.is_multicast() && !a.is_broadcast() && !a.is_unspecified())
    }

    fn owns_v6(&self, a: Ipv6Addr, others: &impl Fn(Ipv6Addr) -> bool) -> bool {
        if self.v6.binary_search(&a).is_ok() {
            return true;
        }
        if a.is_multicast() || a.is_unspecified() {
            return false;
        }
        if self.trust.address {
            return true;
        }
        let chosen = if a.is_unicast_link_local() {
            // One that is formed from a MAC is formed from another's.
            let [.., x, y, _, _, _] = a.octets();
            (x, y) != (0xff, 0xfe)
        } else {
            self.slaac
                .is_some_and(|(first, mask)| a.to_bits() & mask == first)
        };
        chosen && !others(a)
    }

    fn source(
        &self,
        ip: &Ip,
        message: &[u8],
        others: &impl Fn(Ipv6Addr) -> bool,
    ) -> Result<(), DropReason> {
        let own = match ip.src {
            IpAddr::V4(a) => self.owns_v4(a) || (a.is_unspecified() && nameless_v4(ip, message)),
            IpAddr::V6(a) => {
                self.owns_v6(a, others) || (a.is_unspecified() && nameless_v6(ip, message))
            }
        };
        if own {
            Ok(())
        } else {
            Err(DropReason::SpoofedAddress)
        }
    }

    #[inline]
    fn message(
        &self,
        mac: Mac,
        ip: &Ip,
        message: &[u8],
        others: &impl Fn(Ipv6Addr) -> bool,
    ) -> Result<(), DropReason> {
        if ip.frag.is_some_and(|f| f.offset != 0) {
            // Nothing without its first piece, and that was looked at.
            return Ok(());
        }
        match (ip.proto, ip.src.is_ipv4()) {
            (PROTO_UDP, v4) if !self.trust.dhcp => {
                let (from, to) = (be16(message, 0), be16(message, 2));
                let (Some(from), Some(to)) = (from, to) else {
                    return Err(DropReason::Truncated);
                };
                let (server, client) = if v4 { (67, 68) } else { (547, 546) };
                if from == server || to == client {
                    return Err(DropReason::RogueDhcp);
                }
                Ok(())
            }
            (PROTO_ICMP, true) if !self.trust.router => match message.first() {
                // A redirect.
                Some(5) => Err(DropReason::RogueRouter),
                Some(_) => Ok(()),
                None => Err(DropReason::Truncated),
            },
            (PROTO_IGMP, true) if !self.trust.router => match message.first() {
                // A membership query.
                Some(0x11) => Err(DropReason::RogueRouter),
                Some(_) => Ok(()),
                None => Err(DropReason::Truncated),
            },
            (PROTO_ICMPV6, false) => self.icmpv6(mac, ip, message, others),
            // Extension headers that go on in a fragment, or without end, may hide any message.
            (0 | 43 | 44 | 60, false) => Err(DropReason::Fragment),
            _ => Ok(()),
        }
    }

    fn icmpv6(
        &self,
        mac: Mac,
        ip: &Ip,
        message: &[u8],
        others: &impl Fn(Ipv6Addr) -> bool,
    ) -> Result<(), DropReason> {
        let kind = *message.first().ok_or(DropReason::Truncated)?;
        // Queries for listeners; advertisements and redirects.
        if matches!(kind, 130 | 134 | 137) && !self.trust.router {
            return Err(DropReason::RogueRouter);
        }
        if !(133..=137).contains(&kind) {
            return Ok(());
        }
        if ip.frag.is_some() {
            return Err(DropReason::Fragment);
        }
        if ip.ttl != 255 {
            return Err(DropReason::Malformed);
        }
        // Which option names the sender, and where options start.
        let (option, at) = match kind {
            133 => (1, 8),
            134 => (1, 16),
            135 => (1, 24),
            136 => (2, 24),
            _ => return Ok(()),
        };
        // Who has no address yet speaks for the one it asks about: the owner would take it for a duplicate.
        let probe = kind == 135 && ip.src.is_unspecified();
        if kind == 136 || probe {
            let target = message.get(8..24).and_then(|b| b.first_chunk());
            let target = Ipv6Addr::from_octets(*target.ok_or(DropReason::Truncated)?);
            if !self.owns_v6(target, others) {
                return Err(DropReason::SpoofedNd);
            }
        }
        let options = message.get(at..).ok_or(DropReason::Truncated)?;
        if names(options, option, mac)? && ip.src.is_unspecified() {
            return Err(DropReason::SpoofedNd);
        }
        Ok(())
    }

    fn arp(&self, packet: &Packet, frame: &[u8]) -> Result<(), DropReason> {
        let bytes = frame.get(packet.l3..).and_then(|b| b.first_chunk::<28>());
        let bytes = bytes.ok_or(DropReason::Truncated)?;
        let [0, 1, 8, 0, 6, 4, 0, operation @ (1 | 2), rest @ ..] = *bytes else {
            return Err(DropReason::Malformed);
        };
        let [a, b, c, d, e, f, w, x, y, z, _, _, _, _, _, _, target @ ..] = rest;
        let (sender, target) = (Ipv4Addr::new(w, x, y, z), Ipv4Addr::from(target));
        // A probe for a duplicate names nobody, and speaks for the address it asks about.
        // Source: RFC 5227 section 2.1.1.
        let spoken_for = if sender.is_unspecified() && operation == 1 {
            target
        } else {
            sender
        };
        if Mac([a, b, c, d, e, f]) == packet.src && self.owns_v4(spoken_for) {
            Ok(())
        } else {
            Err(DropReason::SpoofedArp)
        }
    }
}

/// Who has no IPv4 address yet asks for one, and may join groups. Source: RFC 2131 section 4.1, RFC 3376 section 4.2.13.
fn nameless_v4(ip: &Ip, message: &[u8]) -> bool {
    match ip.proto {
        PROTO_UDP => {
            ip.frag.is_none() && be16(message, 0) == Some(68) && be16(message, 2) == Some(67)
        }
        PROTO_IGMP => true,
        _ => false,
    }
}

/// Who has no IPv6 address yet asks for routers and duplicates, and joins groups. Source: RFC 4861 section 4.1,
/// RFC 4862 section 5.4.2, RFC 3590.
fn nameless_v6(ip: &Ip, message: &[u8]) -> bool {
    ip.proto == PROTO_ICMPV6
        && ip.frag.is_none()
        && matches!(message.first(), Some(131 | 132 | 133 | 135 | 143))
}

/// True if there is an option of this kind; each names `mac`.
/// Errors: `SpoofedNd` where one does not; `Malformed` for options without end, of no length, or cut off.
fn names(mut options: &[u8], kind: u8, mac: Mac) -> Result<bool, DropReason> {
    let mut found = false;
    for _ in 0..MAX_OPTIONS {
        let Some(&[this, units]) = options.first_chunk() else {
            return if options.is_empty() {
                Ok(found)
            } else {
                Err(DropReason::Malformed)
            };
        };
        let split = options.split_at_checked(usize::from(units) * 8);
        let (option, rest) = split
            .filter(|(option, _)| !option.is_empty())
            .ok_or(DropReason::Malformed)?;
        if this == kind {
            if option.get(2..8) != Some(&mac.0[..]) {
                return Err(DropReason::SpoofedNd);
            }
            found = true;
        }
        options = rest;
    }
    Err(DropReason::Malformed)
}

#[cfg(test)]
mod tests;
