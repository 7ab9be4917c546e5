//! Stage 2: ICMP's word that a packet was larger than a link on its way, and of which packet.
//! Source: RFC 1191 section 4, RFC 4443 section 3.2, RFC 8200 section 4.5.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::packet::PROTO_TCP;
use super::{be16, be32};

/// No smaller MTU is believed. Source: Linux's ip_rt_min_pmtu; RFC 8200 section 5.
const LEAST_V4: u16 = 552;
const LEAST_V6: u16 = 1280;
/// The IPv6 fragment header.
const NEXT_FRAGMENT: u8 = 44;

/// What was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooBig {
    /// What the link takes, IP header included.
    pub mtu: u16,
    /// Protocol of the packet.
    pub proto: u8,
    /// Who sent the packet.
    pub src: SocketAddr,
    /// Who it was for.
    pub dst: SocketAddr,
    /// Its sequence number, if it was TCP's; else zero.
    pub seq: u32,
}

impl TooBig {
    /// Reads an ICMP message of the family; none if it is another, or does not quote enough of the packet.
    /// Shape: `message` starts at the ICMP header.
    #[must_use]
    pub fn parse(v4: bool, message: &[u8]) -> Option<Self> {
        match (v4, message) {
            (true, [3, 4, ..]) => Self::quoted_v4(be16(message, 6)?, message.get(8..)?),
            (false, [2, 0, ..]) => Self::quoted_v6(be32(message, 4)?, message.get(8..)?),
            _ => None,
        }
    }

    fn quoted_v4(mtu: u16, quote: &[u8]) -> Option<Self> {
        let head: &[u8; 20] = quote.first_chunk()?;
        // A piece that is not the first has no ports.
        if head[0] >> 4 != 4 || be16(head, 6)? & 0x1fff != 0 {
            return None;
        }
        let l4 = quote.get(usize::from(head[0] & 15) * 4..)?;
        let [s0, s1, s2, s3, d0, d1, d2, d3] = *head.get(12..)?.first_chunk()?;
        let (src, dst) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3));
        Self::new(mtu.max(LEAST_V4), head[9], (src.into(), dst.into()), l4)
    }

    fn quoted_v6(mtu: u32, quote: &[u8]) -> Option<Self> {
        let head: &[u8; 40] = quote.first_chunk()?;
        if head[0] >> 4 != 6 {
            return None;
        }
        let src = Ipv6Addr::from(*head.get(8..)?.first_chunk::<16>()?);
        let dst = Ipv6Addr::from(*head.get(24..)?.first_chunk::<16>()?);
        let mut l4 = quote.get(40..)?;
        let mut proto = head[6];
        if proto == NEXT_FRAGMENT {
            let piece: &[u8; 8] = l4.first_chunk()?;
            if be16(piece, 2)? & !7 != 0 {
                return None;
            }
            (proto, l4) = (piece[0], l4.get(8..)?);
        }
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX).max(LEAST_V6);
        Self::new(mtu, proto, (src.into(), dst.into()), l4)
    }

    fn new(mtu: u16, proto: u8, (src, dst): (IpAddr, IpAddr), l4: &[u8]) -> Option<Self> {
        let seq = match proto {
            PROTO_TCP => be32(l4, 4)?,
            _ => 0,
        };
        Some(Self {
            mtu,
            proto,
            src: SocketAddr::new(src, be16(l4, 0)?),
            dst: SocketAddr::new(dst, be16(l4, 2)?),
            seq,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::emit::HeaderBuf;
    use crate::wire::packet::PROTO_UDP;
    use proptest::prelude::*;

    /// The first bytes of a packet, from its IP header.
    fn quote(src: SocketAddr, dst: SocketAddr, proto: u8) -> Vec<u8> {
        let mut head = HeaderBuf::new();
        head.ip(src.ip(), dst.ip(), proto, 64, 0, 1_400);
        match proto {
            PROTO_TCP => head.tcp(src.port(), dst.port(), 0x0102_0304, 0, 0, 0, &[]),
            _ => head.udp(src.port(), dst.port(), 1_392),
        }
        head.as_slice().to_vec()
    }

    #[test]
    fn both_families_name_the_packet_and_the_mtu() {
        for (src, dst, head, least) in [
            (
                "192.0.2.1:80",
                "10.0.0.2:5000",
                [3, 4, 0, 0, 0, 0, 4, 176],
                552,
            ),
            (
                "[2001:db8::1]:80",
                "[fd00::2]:5000",
                [2, 0, 0, 0, 0, 0, 5, 20],
                1280,
            ),
        ] {
            let (src, dst): (SocketAddr, SocketAddr) = (src.parse().unwrap(), dst.parse().unwrap());
            for proto in [PROTO_TCP, PROTO_UDP] {
                let v4 = src.is_ipv4();
                let message = [&head[..], &quote(src, dst, proto)].concat();
                let got = TooBig::parse(v4, &message).unwrap();
                let mtu = if v4 { 1_200 } else { 1_300 };
                assert_eq!(
                    (got.mtu, got.proto, got.src, got.dst),
                    (mtu, proto, src, dst)
                );
                assert_eq!(got.seq, if proto == PROTO_TCP { 0x0102_0304 } else { 0 });
                let mut tiny = message.clone();
                tiny[6..8].copy_from_slice(&[0, 68]);
                assert_eq!(TooBig::parse(v4, &tiny).unwrap().mtu, least);
                assert_eq!(TooBig::parse(!v4, &message), None);
            }
        }
    }

    #[test]
    fn a_later_piece_names_nobody() {
        let (src, dst) = (
            "192.0.2.1:80".parse().unwrap(),
            "10.0.0.2:5000".parse().unwrap(),
        );
        let mut message = [&[3, 4, 0, 0, 0, 0, 4, 176][..], &quote(src, dst, PROTO_UDP)].concat();
        message[8 + 7] = 1;
        assert_eq!(TooBig::parse(true, &message), None);
    }

    proptest! {
        #[test]
        fn no_message_is_too_strange(v4: bool, kind in 0u8..5, code in 0u8..5, rest in prop::collection::vec(any::<u8>(), 0..120)) {
            let message = [&[kind, code][..], &rest].concat();
            if let Some(got) = TooBig::parse(v4, &message) {
                prop_assert!(got.mtu >= 552);
            }
        }
    }
}
