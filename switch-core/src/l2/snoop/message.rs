//! Stage 3: What frames say of groups: queries, reports and leaves of IGMPv1 to v3 and of MLDv1 and v2.
//! Source: RFC 1112 appendix I, RFC 2236 section 2, RFC 3376 section 4, RFC 2710 section 3, RFC 3810 section 5.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use super::{Family, PROTO_IGMP, RESPONSE, ROBUSTNESS};
use crate::verdict::DropReason;
use crate::wire::be16;
use crate::wire::checksum::{fold, l4_valid, sum};
use crate::wire::packet::{Ip, Kind, PROTO_ICMPV6, Packet};

/// Records of one report that are read: more than a packet of 1500 bytes holds.
const RECORDS: u16 = 256;

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// Who is a member?
    Query(Query),
    /// Somebody is, or is not any more.
    Report(Report<'a>),
}

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// About this group; the unspecified address asks about all.
    pub group: IpAddr,
    /// What stations may take to answer.
    pub response: Duration,
    /// Between general queries of this querier, where it says.
    pub interval: Option<Duration>,
    /// How often it repeats what matters.
    pub robustness: u32,
}

/// What a station wants of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// To get it.
    Join,
    /// Not to get it any more; another station behind the same port may.
    Leave,
}

/// What a station tells of groups, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report<'a> {
    family: Family,
    /// Of a message that is about one group.
    one: Option<(IpAddr, Wish)>,
    /// Records of a message that is about many.
    records: &'a [u8],
    left: u16,
}

/// Reads a frame. `None` for one that is about no group.
/// Shape: `packet` is the parse of `frame`.
/// Errors: `Malformed` and `Truncated` for what the RFCs say to ignore, `BadChecksum`; `Fragment`: none of these
/// messages is ever cut into pieces.
pub fn parse<'a>(packet: &Packet, frame: &'a [u8]) -> Result<Option<Message<'a>>, DropReason> {
    let Kind::Ip(ip) = packet.kind else {
        return Ok(None);
    };
    let message = frame.get(ip.l4..ip.end).unwrap_or_default();
    let Some(&kind) = message.first() else {
        return Ok(None);
    };
    let later = ip.frag.is_some_and(|f| f.offset != 0);
    let family = match (ip.src, ip.proto, kind) {
        (IpAddr::V4(_), PROTO_IGMP, 0x11 | 0x12 | 0x16 | 0x17 | 0x22) => Family::V4,
        (IpAddr::V6(_), PROTO_ICMPV6, 130..=132 | 143) if !later => Family::V6,
        _ => return Ok(None),
    };
    if ip.frag.is_some() {
        return Err(DropReason::Fragment);
    }
    // All of them stay on the link, and so does who sends them.
    if ip.ttl != 1 || !on_link(&ip) {
        return Err(DropReason::Malformed);
    }
    let valid = match family {
        Family::V4 => fold(sum(message)) == 0xffff,
        Family::V6 => l4_valid(ip.src, ip.dst, PROTO_ICMPV6, message),
    };
    if !valid {
        return Err(DropReason::BadChecksum);
    }
    let said = match family {
        Family::V4 => igmp(kind, message),
        Family::V6 => mld(kind, message),
    };
    said.map(Some).ok_or(DropReason::Truncated)
}

/// Source: RFC 3810 section 5.1.14 and 5.2.13, RFC 3590.
fn on_link(ip: &Ip) -> bool {
    match ip.src {
        IpAddr::V4(_) => true,
        IpAddr::V6(a) => a.is_unicast_link_local() || a.is_unspecified(),
    }
}

fn igmp(kind: u8, message: &[u8]) -> Option<Message<'_>> {
    let group = IpAddr::V4(v4(message.get(4..)?)?);
    Some(match kind {
        0x11 => {
            let code = *message.get(1)?;
            let tenths = match code {
                // Version 1 knows no other.
                0 => RESPONSE,
                code => Duration::from_millis(100 * u64::from(short(code))),
            };
            Message::Query(query(group, tenths, message.get(8..)))
        }
        0x12 | 0x16 => one(group, Wish::Join),
        0x17 => one(group, Wish::Leave),
        _ => many(Family::V4, message)?,
    })
}

fn mld(kind: u8, message: &[u8]) -> Option<Message<'_>> {
    if kind == 143 {
        return many(Family::V6, message);
    }
    let group = IpAddr::V6(v6(message.get(8..)?)?);
    Some(match kind {
        130 => {
            let delay = Duration::from_millis(long(be16(message, 4)?).into());
            Message::Query(query(group, delay, message.get(24..)))
        }
        131 => one(group, Wish::Join),
        _ => one(group, Wish::Leave),
    })
}

/// A query; what the later version adds starts `more`.
fn query(group: IpAddr, response: Duration, more: Option<&[u8]>) -> Query {
    let told = more.and_then(|m| m.first_chunk::<4>());
    let robustness = told.map_or(0, |t| u32::from(t[0] & 7));
    let interval = told.map(|t| short(t[1])).filter(|&seconds| seconds != 0);
    Query {
        group,
        response,
        interval: interval.map(|seconds| Duration::from_secs(seconds.into())),
        robustness: if robustness == 0 {
            ROBUSTNESS
        } else {
            robustness
        },
    }
}

/// A number of 8 bits, the large ones in floating point. Source: RFC 3376 sections 4.1.1 and 4.1.7.
fn short(code: u8) -> u32 {
    let code = u32::from(code);
    if code < 128 {
        code
    } else {
        (code & 15 | 16) << ((code >> 4 & 7) + 3)
    }
}

/// A number of 16 bits, the large ones in floating point. Source: RFC 3810 section 5.1.3.
fn long(code: u16) -> u32 {
    let code = u32::from(code);
    if code < 32_768 {
        code
    } else {
        (code & 0xfff | 0x1000) << ((code >> 12 & 7) + 3)
    }
}

fn one(group: IpAddr, wish: Wish) -> Message<'static> {
    Message::Report(Report {
        family: Family::of(group),
        one: Some((group, wish)),
        records: &[],
        left: 0,
    })
}

fn many(family: Family, message: &[u8]) -> Option<Message<'_>> {
    Some(Message::Report(Report {
        family,
        one: None,
        left: be16(message, 6)?.min(RECORDS),
        records: message.get(8..)?,
    }))
}

fn v4(bytes: &[u8]) -> Option<Ipv4Addr> {
    bytes.first_chunk().map(|b| Ipv4Addr::from_octets(*b))
}

fn v6(bytes: &[u8]) -> Option<Ipv6Addr> {
    bytes.first_chunk().map(|b| Ipv6Addr::from_octets(*b))
}

impl Report<'_> {
    /// The next record; none where the rest is cut off.
    fn record(&mut self) -> Option<(IpAddr, Option<Wish>)> {
        let (&[kind, aux, a, b], rest) = self.records.split_first_chunk()?;
        let sources = usize::from(u16::from_be_bytes([a, b]));
        let (group, size) = match self.family {
            Family::V4 => (IpAddr::V4(v4(rest)?), 4),
            Family::V6 => (IpAddr::V6(v6(rest)?), 16),
        };
        self.records = rest.get(size * (1 + sources) + 4 * usize::from(aux)..)?;
        Some((group, wish(kind, sources)))
    }
}

/// What a record comes down to where sources are not told apart. Who blocks sources may have none left: only asking
/// tells. Source: RFC 3376 section 4.2.12, RFC 3810 section 5.2.12.
const fn wish(kind: u8, sources: usize) -> Option<Wish> {
    match (kind, sources) {
        // Include lists, and sources that are added to one.
        (1 | 3, 0) | (6, 1..) => Some(Wish::Leave),
        (1 | 3 | 5, 1..) | (2 | 4, _) => Some(Wish::Join),
        _ => None,
    }
}

impl Iterator for Report<'_> {
    type Item = (IpAddr, Wish);

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(one) = self.one.take() {
            return Some(one);
        }
        while self.left > 0 {
            self.left -= 1;
            match self.record() {
                Some((group, Some(wish))) => return Some((group, wish)),
                Some((_, None)) => {}
                None => self.left = 0,
            }
        }
        None
    }
}
