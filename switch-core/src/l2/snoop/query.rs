//! Stage 3: What the gateway asks: queries of IGMPv3 and MLDv2, which stations of earlier versions understand.
//! Source: RFC 3376 section 4.1, RFC 3810 section 5.1; RFC 2113 and RFC 2711 for the router alert.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use super::{Family, Group, PROTO_IGMP, ROBUSTNESS};
use crate::addr::Mac;
use crate::wire::checksum::{finish, fold, pseudo, sum};
use crate::wire::packet::PROTO_ICMPV6;
use crate::wire::put;

/// Internetwork control, as RFC 3376 section 4 wants it.
const TOS: u8 = 0xc0;
/// All hosts, and all nodes, on the link.
const ALL_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const ALL_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A question of the gateway's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// About this group; none asks about all.
    pub group: Option<Group>,
    /// What stations may take to answer.
    pub response: Duration,
    /// Between general queries.
    pub interval: Duration,
}

/// Writes a query from the gateway's station as a whole frame to `out`. `from` is its IPv4 address, or its link-local
/// one; it chooses the protocol.
pub fn write(mac: Mac, from: IpAddr, ask: &Ask, out: &mut Vec<u8>) {
    let about = ask.group.map(Group::address);
    out.clear();
    match (from, about) {
        (IpAddr::V4(from), None) => igmp(mac, from, None, ask, out),
        (IpAddr::V4(from), Some(IpAddr::V4(group))) => igmp(mac, from, Some(group), ask, out),
        (IpAddr::V6(from), None) => mld(mac, from, None, ask, out),
        (IpAddr::V6(from), Some(IpAddr::V6(group))) => mld(mac, from, Some(group), ask, out),
        // Two families in one packet cannot be written: callers pair them by construction.
        _ => {}
    }
}

/// The protocol of a question from this address.
#[must_use]
pub const fn family(from: IpAddr) -> Family {
    Family::of(from)
}

/// The number of seconds that stands for an interval. Source: RFC 3376 section 4.1.7, RFC 3810 section 5.1.9.
fn interval_code(interval: Duration) -> u8 {
    let mut mantissa = interval.as_secs().clamp(1, 31_744) >> 3;
    if mantissa < 16 {
        return u8::try_from(interval.as_secs().clamp(1, 127)).unwrap_or(127);
    }
    let mut exponent = 0;
    while mantissa > 31 {
        mantissa >>= 1;
        exponent += 1;
    }
    u8::try_from(0x80 | exponent << 4 | mantissa & 15).unwrap_or(u8::MAX)
}

const fn robustness() -> u8 {
    // Two, in three bits; the flag before them would tell other queriers not to hurry.
    ROBUSTNESS.to_be_bytes()[3] & 7
}

fn igmp(mac: Mac, from: Ipv4Addr, group: Option<Ipv4Addr>, ask: &Ask, out: &mut Vec<u8>) {
    let to = group.unwrap_or(ALL_V4);
    let [_, b, c, d] = to.octets();
    out.extend_from_slice(&[0x01, 0x00, 0x5e, b & 0x7f, c, d]);
    out.extend_from_slice(&mac.0);
    out.extend_from_slice(&[0x08, 0x00]);
    let head = out.len();
    // 24 bytes of header, 12 of message; not to be fragmented, time to live 1.
    out.extend_from_slice(&[0x46, TOS, 0, 36, 0, 0, 0x40, 0, 1, PROTO_IGMP, 0, 0]);
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    out.extend_from_slice(&[0x94, 4, 0, 0]);
    patch(out, head, head + 10, 0);
    let message = out.len();
    let tenths = (ask.response.as_millis() / 100).clamp(1, 127);
    let tenths = u8::try_from(tenths).unwrap_or(127);
    out.extend_from_slice(&[0x11, tenths, 0, 0]);
    out.extend_from_slice(&group.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    out.extend_from_slice(&[robustness(), interval_code(ask.interval), 0, 0]);
    patch(out, message, message + 2, 0);
}

fn mld(mac: Mac, from: Ipv6Addr, group: Option<Ipv6Addr>, ask: &Ask, out: &mut Vec<u8>) {
    let to = group.unwrap_or(ALL_V6);
    let [.., a, b, c, d] = to.octets();
    out.extend_from_slice(&[0x33, 0x33, a, b, c, d]);
    out.extend_from_slice(&mac.0);
    // Eight bytes of options by hop, 28 of message; hop limit 1.
    out.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 36, 0, 1]);
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    out.extend_from_slice(&[PROTO_ICMPV6, 0, 5, 2, 0, 0, 1, 0]);
    let message = out.len();
    let millis = ask.response.as_millis().clamp(1, 32_767);
    let millis = u16::try_from(millis).unwrap_or(32_767).to_be_bytes();
    out.extend_from_slice(&[130, 0, 0, 0, millis[0], millis[1], 0, 0]);
    out.extend_from_slice(&group.unwrap_or(Ipv6Addr::UNSPECIFIED).octets());
    out.extend_from_slice(&[robustness(), interval_code(ask.interval), 0, 0]);
    let length = u32::try_from(out.len() - message).unwrap_or(0);
    let begun = pseudo(from.into(), to.into(), PROTO_ICMPV6, length);
    patch(out, message, message + 2, begun);
}

/// Writes the checksum of what starts at an offset.
fn patch(out: &mut [u8], from: usize, field: usize, begun: u16) {
    let total = u32::from(begun) + out.get(from..).map_or(0, sum);
    put(out, field, &finish(fold(total)).to_be_bytes());
}
