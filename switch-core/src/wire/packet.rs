//! Stage 2: One parse of a frame: what every later stage reads. Source: IEEE 802.3, RFC 791, RFC 8200.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::{fold, sum};
use super::{be16, be32};
use crate::addr::Mac;
use crate::verdict::DropReason;

/// ICMP.
pub const PROTO_ICMP: u8 = 1;
/// TCP.
pub const PROTO_TCP: u8 = 6;
/// UDP.
pub const PROTO_UDP: u8 = 17;
/// ICMPv6.
pub const PROTO_ICMPV6: u8 = 58;
/// Extension headers walked at most; real packets have two or three.
const MAX_EXTENSIONS: usize = 8;

/// A parsed frame: decoded fields and offsets, no reference to the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// Tag control information of an 802.1Q tag.
    pub vlan: Option<u16>,
    /// Where layer 3 starts.
    pub l3: usize,
    /// What is in it.
    pub kind: Kind,
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ARP.
    Arp,
    /// IPv4 or IPv6.
    Ip(Ip),
    /// Another EtherType.
    Other(u16),
}

/// The IP header, of either version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// The protocol behind options and extension headers; in a piece of IPv6, what its data starts with.
    pub proto: u8,
    /// Set for a piece of a datagram.
    pub frag: Option<FragInfo>,
    /// Always true for IPv6.
    pub dont_fragment: bool,
    /// Where the protocol's header starts; in a piece, where the piece's data starts.
    pub l4: usize,
    /// Where the packet ends; the frame may be longer by padding.
    pub end: usize,
}

/// A piece's place in its datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragInfo {
    /// Which datagram.
    pub id: u32,
    /// Offset in bytes.
    pub offset: u16,
    /// More pieces follow.
    pub more: bool,
}

impl Packet {
    /// Parses a frame. Shape: starts at the Ethernet header, at most one VLAN tag.
    /// Guarantees `l3 <= l4 <= end <= frame.len()`.
    /// Errors: `Truncated`, `Malformed`, `BadChecksum` (IPv4 header).
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Self, DropReason> {
        Self::parse_head(frame, frame.len())
    }

    /// As [`Self::parse`], of a frame of `len` bytes of which only the first are at hand: all headers, at least.
    /// Guarantees `l3 <= l4 <= end <= len`.
    #[inline]
    pub fn parse_head(frame: &[u8], len: usize) -> Result<Self, DropReason> {
        let head = frame.first_chunk::<14>().ok_or(DropReason::Truncated)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *head;
        let (mut ethertype, mut l3, mut vlan) = (u16::from_be_bytes([t0, t1]), 14, None);
        if ethertype == 0x8100 {
            vlan = Some(be16(frame, 14).ok_or(DropReason::Truncated)?);
            ethertype = be16(frame, 16).ok_or(DropReason::Truncated)?;
            l3 = 18;
        }
        let kind = match ethertype {
            0x0800 => Kind::Ip(parse_v4(frame, l3, len)?),
            0x86dd => Kind::Ip(parse_v6(frame, l3, len)?),
            0x0806 => Kind::Arp,
            other => Kind::Other(other),
        };
        let (dst, src) = (Mac([d0, d1, d2, d3, d4, d5]), Mac([s0, s1, s2, s3, s4, s5]));
        Ok(Self {
            dst,
            src,
            vlan,
            l3,
            kind,
        })
    }
}

#[inline]
fn parse_v4(frame: &[u8], l3: usize, whole: usize) -> Result<Ip, DropReason> {
    let h = frame
        .get(l3..)
        .and_then(|b| b.first_chunk::<20>())
        .ok_or(DropReason::Truncated)?;
    let len = usize::from(h[0] & 15) * 4;
    if h[0] >> 4 != 4 || len < 20 {
        return Err(DropReason::Malformed);
    }
    let total = usize::from(u16::from_be_bytes([h[2], h[3]]));
    if total < len {
        return Err(DropReason::Malformed);
    }
    if l3 + total > whole {
        return Err(DropReason::Truncated);
    }
    let options = frame.get(l3 + 20..l3 + len).ok_or(DropReason::Truncated)?;
    // Of a fixed length the sum is five additions; options are rare.
    let rest = if options.is_empty() { 0 } else { sum(options) };
    if fold(sum(h) + rest) != 0xffff {
        return Err(DropReason::BadChecksum);
    }
    let flags = u16::from_be_bytes([h[6], h[7]]);
    let (offset, more) = ((flags & 0x1fff) * 8, flags & 0x2000 != 0);
    let id = u32::from(u16::from_be_bytes([h[4], h[5]]));
    Ok(Ip {
        src: IpAddr::V4(Ipv4Addr::new(h[12], h[13], h[14], h[15])),
        dst: IpAddr::V4(Ipv4Addr::new(h[16], h[17], h[18], h[19])),
        ttl: h[8],
        tos: h[1],
        proto: h[9],
        frag: (more || offset != 0).then_some(FragInfo { id, offset, more }),
        dont_fragment: flags & 0x4000 != 0,
        l4: l3 + len,
        end: l3 + total,
    })
}

#[inline]
fn parse_v6(frame: &[u8], l3: usize, whole: usize) -> Result<Ip, DropReason> {
    let h = frame
        .get(l3..)
        .and_then(|b| b.first_chunk::<40>())
        .ok_or(DropReason::Truncated)?;
    if h[0] >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    let end = l3 + 40 + usize::from(u16::from_be_bytes([h[4], h[5]]));
    if end > whole {
        return Err(DropReason::Truncated);
    }
    let (mut proto, mut l4, mut frag) = (h[6], l3 + 40, None);
    let src = h
        .get(8..24)
        .and_then(|b| b.first_chunk::<16>())
        .ok_or(DropReason::Truncated)?;
    let dst = h
        .get(24..40)
        .and_then(|b| b.first_chunk::<16>())
        .ok_or(DropReason::Truncated)?;
    for _ in 0..MAX_EXTENSIONS {
        match proto {
            // Hop-by-hop, routing, destination options: length in units of 8 bytes, less one.
            0 | 43 | 60 => {
                let &[next, len] = ext(frame, l4, end)?;
                proto = next;
                l4 += (usize::from(len) + 1) * 8;
            }
            44 => {
                let &[next, _] = ext(frame, l4, end)?;
                let field = be16(frame, l4 + 2).ok_or(DropReason::Truncated)?;
                let id = be32(frame, l4 + 4).ok_or(DropReason::Truncated)?;
                let (offset, more) = (field & !7, field & 1 != 0);
                proto = next;
                l4 += 8;
                // A piece that is whole is processed alone. Source: RFC 6946.
                if more || offset != 0 {
                    frag = Some(FragInfo { id, offset, more });
                }
                // What follows is payload of the whole, even where it starts with more extension headers.
                if frag.is_some() {
                    break;
                }
            }
            _ => break,
        }
        if l4 > end {
            return Err(DropReason::Truncated);
        }
    }
    if l4 > end {
        return Err(DropReason::Truncated);
    }
    Ok(Ip {
        src: IpAddr::V6(Ipv6Addr::from_octets(*src)),
        dst: IpAddr::V6(Ipv6Addr::from_octets(*dst)),
        ttl: h[7],
        tos: (h[0] << 4) | (h[1] >> 4),
        proto,
        frag,
        dont_fragment: true,
        l4,
        end,
    })
}

/// The first two bytes of an extension header that lies wholly inside the packet.
fn ext(frame: &[u8], at: usize, end: usize) -> Result<&[u8; 2], DropReason> {
    if at + 8 > end {
        return Err(DropReason::Truncated);
    }
    frame
        .get(at..)
        .and_then(|b| b.first_chunk())
        .ok_or(DropReason::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    #[test]
    fn agrees_with_etherparse_on_good_packets() {
        let mut v4 = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .single_vlan(etherparse::VlanId::try_new(7).unwrap())
            .ipv4([10, 0, 0, 2], [10, 0, 0, 1], 61)
            .udp(1234, 53)
            .write(&mut v4, b"hello")
            .unwrap();
        let p = Packet::parse(&v4).unwrap();
        let Kind::Ip(ip) = p.kind else {
            panic!("not IP")
        };
        assert_eq!(
            (p.vlan, p.l3, ip.l4, ip.end, ip.ttl, ip.proto),
            (Some(7), 18, 38, v4.len(), 61, PROTO_UDP)
        );
        v4.extend_from_slice(&[0; 10]);
        assert_eq!(Packet::parse(&v4).unwrap(), p, "padding changes nothing");
        v4[18 + 8] ^= 1;
        assert_eq!(Packet::parse(&v4), Err(DropReason::BadChecksum));
    }

    #[test]
    fn walks_the_extension_headers_of_a_fragment() {
        let mut f = vec![0; 14];
        f[12..14].copy_from_slice(&[0x86, 0xdd]);
        f.extend_from_slice(&[0x60, 0, 0, 0, 0, 24, 0, 64]);
        f.extend_from_slice(&[0; 32]);
        f.extend_from_slice(&[44, 0, 1, 4, 0, 0, 0, 0]);
        f.extend_from_slice(&[17, 0, 0, 9, 0, 0, 0, 5]);
        f.extend_from_slice(&[9; 8]);
        let Kind::Ip(ip) = Packet::parse(&f).unwrap().kind else {
            panic!("not IP")
        };
        assert_eq!(
            ip.frag,
            Some(FragInfo {
                id: 5,
                offset: 8,
                more: true
            })
        );
        assert_eq!((ip.l4, ip.end), (70, 78));
    }

    /// An IPv6 frame with this next header and payload.
    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut f = vec![0; 54];
        f[12..14].copy_from_slice(&[0x86, 0xdd]);
        f[14] = 0x60;
        f[18..20].copy_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        f[20] = next;
        f.extend_from_slice(payload);
        f
    }

    #[test]
    fn extension_headers_end_inside_of_the_packet() {
        // One that says it is longer than all there is, one cut in half, and a chain without end.
        assert_eq!(
            Packet::parse(&v6(0, &[6, 1, 0, 0, 0, 0, 0, 0])),
            Err(DropReason::Truncated)
        );
        assert_eq!(
            Packet::parse(&v6(44, &[6, 0, 0, 0])),
            Err(DropReason::Truncated)
        );
        assert_eq!(Packet::parse(&v6(60, &[])), Err(DropReason::Truncated));
        let endless = v6(60, &[60, 0, 0, 0, 0, 0, 0, 0].repeat(100));
        let Kind::Ip(ip) = Packet::parse(&endless).unwrap().kind else {
            panic!("not IP")
        };
        assert_eq!(
            (ip.proto, ip.l4),
            (60, 54 + 8 * MAX_EXTENSIONS),
            "left to nobody"
        );
        // A fragment that is whole, then UDP.
        let atomic = v6(
            44,
            &[[17, 0, 0, 0, 0, 0, 0, 1], [0, 1, 0, 2, 0, 8, 0, 0]].concat(),
        );
        let Kind::Ip(ip) = Packet::parse(&atomic).unwrap().kind else {
            panic!("not IP")
        };
        assert_eq!((ip.proto, ip.l4, ip.frag), (PROTO_UDP, 62, None));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let mut f = vec![0; 34];
        f[12] = 8;
        let set = |f: &mut [u8], first: u8, total: u8| {
            f[14] = first;
            f[17] = total;
            f[24..26].fill(0);
            let csum = !fold(sum(&f[14..34]));
            f[24..26].copy_from_slice(&csum.to_be_bytes());
        };
        for (first, total, why) in [
            (0x44, 20, DropReason::Malformed),
            (0x55, 20, DropReason::Malformed),
            (0x45, 19, DropReason::Malformed),
            (0x45, 21, DropReason::Truncated),
            (0x46, 20, DropReason::Malformed),
            (0x46, 24, DropReason::Truncated),
        ] {
            set(&mut f, first, total);
            assert_eq!(Packet::parse(&f), Err(why), "{first:x} {total}");
        }
        set(&mut f, 0x45, 20);
        assert!(Packet::parse(&f).is_ok());
        assert_eq!(Packet::parse(&f[..33]), Err(DropReason::Truncated));
        assert_eq!(Packet::parse(&f[..13]), Err(DropReason::Truncated));
    }

    proptest! {
        #[test]
        fn offsets_stay_inside(mut bytes in prop::collection::vec(any::<u8>(), 0..200), v6 in any::<bool>()) {
            if bytes.len() > 14 {
                bytes[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
                bytes[14] = if v6 { 0x60 } else { 0x45 };
            }
            if let Ok(Packet { kind: Kind::Ip(ip), l3, .. }) = Packet::parse(&bytes) {
                prop_assert!(l3 <= ip.l4 && ip.l4 <= ip.end && ip.end <= bytes.len());
            }
        }
    }
}
