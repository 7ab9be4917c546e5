//! Stage 6: Other addresses and ports in a frame: its headers are copied and patched, its payload stays where it is,
//! so a super-frame costs what a small one does. Source: RFC 3022 section 4.1, RFC 1624.

use core::net::IpAddr;

use arrayvec::ArrayVec;

use crate::addr::Mac;
use crate::verdict::DropReason;
use crate::wire::checksum::{fold, patch, sum};
use crate::wire::packet::{Ip, PROTO_TCP, PROTO_UDP};
use crate::wire::{be16, put};

/// Room for all headers; extension headers that fill it are nothing a service's client sends.
const ROOM: usize = 256;

/// Headers as they are to be.
pub type Head = ArrayVec<u8, ROOM>;

/// Where a frame is to seem from and to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// MACs: from, to.
    pub macs: (Mac, Mac),
    /// Source address and port.
    pub src: (IpAddr, u16),
    /// Destination address and port.
    pub dst: (IpAddr, u16),
}

/// Writes a frame's headers with other ends. What follows them in the frame stays.
/// Shape: `ip` is of the parse of `frame`, TCP or UDP, not a piece; `partial` if its checksum field holds the
/// pseudo-header's sum only. Cost: a copy of the headers; no allocation.
/// Errors: `Truncated`, `Malformed` for another family, protocol or too long a header.
pub fn rewrite(frame: &[u8], ip: &Ip, partial: bool, ends: &Ends) -> Result<Head, DropReason> {
    let at = match ip.proto {
        PROTO_TCP => 16,
        PROTO_UDP => 6,
        _ => return Err(DropReason::Malformed),
    };
    let headers = frame.get(..ip.l4 + at + 2).ok_or(DropReason::Truncated)?;
    let mut head = Head::try_from(headers).map_err(|_| DropReason::Malformed)?;
    let old_addrs = addresses(ip.src, ip.dst).ok_or(DropReason::Malformed)?;
    let new_addrs = addresses(ends.src.0, ends.dst.0).ok_or(DropReason::Malformed)?;
    if old_addrs.len() != new_addrs.len() {
        return Err(DropReason::Malformed);
    }
    let (to, from) = (ends.macs.1.0, ends.macs.0.0);
    put(&mut head, 0, &to);
    put(&mut head, 6, &from);
    let l3 = l3(headers)?;
    if ip.src.is_ipv4() {
        put(&mut head, l3 + 12, &new_addrs);
        let csum = be16(headers, l3 + 10).ok_or(DropReason::Truncated)?;
        let csum = patch(csum, &old_addrs, &new_addrs);
        put(&mut head, l3 + 10, &csum.to_be_bytes());
    } else {
        put(&mut head, l3 + 8, &new_addrs);
    }
    let old_ports = headers.get(ip.l4..ip.l4 + 4).ok_or(DropReason::Truncated)?;
    let ([a, b], [c, d]) = (ends.src.1.to_be_bytes(), ends.dst.1.to_be_bytes());
    let new_ports = [a, b, c, d];
    put(&mut head, ip.l4, &new_ports);
    let csum = be16(headers, ip.l4 + at).ok_or(DropReason::Truncated)?;
    let csum = match csum {
        // The ports are added to it later, as they will be.
        _ if partial => fold(u32::from(csum) + u32::from(!fold(sum(&old_addrs))) + sum(&new_addrs)),
        0 if ip.proto == PROTO_UDP && ip.src.is_ipv4() => 0,
        _ => {
            let patched = patch(csum, &old_addrs, &new_addrs);
            let patched = patch(patched, old_ports, &new_ports);
            // Zero would say that there is none.
            if patched == 0 && ip.proto == PROTO_UDP {
                0xffff
            } else {
                patched
            }
        }
    };
    put(&mut head, ip.l4 + at, &csum.to_be_bytes());
    Ok(head)
}

/// Where layer 3 starts.
fn l3(frame: &[u8]) -> Result<usize, DropReason> {
    let ethertype = be16(frame, 12).ok_or(DropReason::Truncated)?;
    Ok(if ethertype == 0x8100 { 18 } else { 14 })
}

/// Both addresses as they stand in a header.
fn addresses(src: IpAddr, dst: IpAddr) -> Option<ArrayVec<u8, 32>> {
    let mut bytes = ArrayVec::new();
    match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            bytes.try_extend_from_slice(&s.octets()).ok()?;
            bytes.try_extend_from_slice(&d.octets()).ok()?;
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            bytes.try_extend_from_slice(&s.octets()).ok()?;
            bytes.try_extend_from_slice(&d.octets()).ok()?;
        }
        _ => return None,
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::checksum::{complete_partial, l4_valid};
    use crate::wire::emit::HeaderBuf;
    use crate::wire::packet::{Kind, Packet};

    const MACS: (Mac, Mac) = (Mac([2, 0, 0, 0, 0, 8]), Mac([2, 0, 0, 0, 0, 9]));

    fn parsed(frame: &[u8]) -> Ip {
        match Packet::parse(frame).unwrap().kind {
            Kind::Ip(ip) => ip,
            Kind::Arp | Kind::Other(_) => panic!("no IP packet"),
        }
    }

    proptest! {
        #[test]
        fn checksums_stay_right(
            v4 in any::<bool>(), tcp in any::<bool>(), partial in any::<bool>(), tagged in any::<bool>(),
            hosts in any::<[u8; 4]>(), ports in any::<[u16; 4]>(),
            payload in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let addr = |n: u8| -> IpAddr {
                if v4 { IpAddr::from([10, n, 0, n]) } else { format!("fd00::{n:x}:1").parse().unwrap() }
            };
            let [s, d, t, e] = hosts.map(addr);
            let proto = if tcp { PROTO_TCP } else { PROTO_UDP };
            let mut h = HeaderBuf::new();
            h.eth(MACS.0, MACS.1, if v4 { 0x0800 } else { 0x86dd });
            let l4_len = payload.len() + if tcp { 20 } else { 8 };
            h.ip(s, d, proto, 64, 0, l4_len);
            if tcp {
                h.tcp(ports[0], ports[1], 7, 8, 0x10, 9, &[]);
            } else {
                h.udp(ports[0], ports[1], payload.len());
            }
            let mut vnet = h.set_partial(if v4 { 34 } else { 54 }, s, d, proto, l4_len);
            let mut frame = [h.as_slice(), &payload].concat();
            if !partial {
                complete_partial(&mut frame, &vnet).unwrap();
            }
            if tagged {
                let tag = [&[0x81, 0, 0xe0, 0][..], &frame[12..]].concat();
                frame.truncate(12);
                frame.extend(tag);
                vnet.csum_start += 4;
            }
            let ends = Ends { macs: MACS, src: (t, ports[2]), dst: (e, ports[3]) };
            let head = rewrite(&frame, &parsed(&frame), partial, &ends).unwrap();
            let mut out = [&head[..], &frame[head.len()..]].concat();
            if partial {
                complete_partial(&mut out, &vnet).unwrap();
            }
            let packet = Packet::parse(&out).unwrap();
            let ip = parsed(&out);
            prop_assert_eq!((packet.src, packet.dst), MACS);
            prop_assert_eq!((ip.src, ip.dst), (t, e));
            let at = |at| be16(&out, ip.l4 + at).unwrap();
            prop_assert_eq!((at(0), at(2)), (ports[2], ports[3]));
            prop_assert!(l4_valid(ip.src, ip.dst, proto, &out[ip.l4..ip.end]));
        }
    }

    #[test]
    fn no_checksum_stays_none() {
        let mut h = HeaderBuf::new();
        h.eth(MACS.0, MACS.1, 0x0800);
        let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|a| a.parse::<IpAddr>().unwrap());
        h.ip(a, b, PROTO_UDP, 64, 0, 8);
        h.udp(1, 2, 0);
        let ends = Ends {
            macs: MACS,
            src: (b, 3),
            dst: (a, 4),
        };
        let head = rewrite(h.as_slice(), &parsed(h.as_slice()), false, &ends).unwrap();
        assert_eq!(head[34..], [0, 3, 0, 4, 0, 8, 0, 0]);
        let other = Ends {
            src: ("fd00::1".parse().unwrap(), 3),
            ..ends
        };
        let wrong = rewrite(h.as_slice(), &parsed(h.as_slice()), false, &other);
        assert_eq!(wrong, Err(DropReason::Malformed));
    }
}
