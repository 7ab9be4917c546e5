//! `[7]` Cutting of datagrams that are larger than a sandbox's MTU. Source: RFC 791 section 3.2, RFC 8200 section 4.5.

use core::net::IpAddr;
use std::io::IoSlice;

use crate::verdict::DropReason;
use crate::wire::emit::HeaderBuf;
use crate::wire::packet::{Kind, Packet};

/// The IPv6 fragment header.
const NEXT_FRAGMENT: u8 = 44;

/// Cuts the IP packet of a frame into fragments that fit the MTU and gives each, as headers and a range
/// of the payload, to `each`. A packet that fits is given whole. That DF is set does not matter: it is
/// the sender that cuts.
/// Shape: `frame` starts at the Ethernet header, no VLAN tag, no IP options or extension headers, its
/// checksums complete. Units: `mtu` in bytes from the IP header on; `id` is the low half for IPv4.
/// Cost: no allocation, no copy of payload. Returns how many were given.
/// Errors: `Fragment` for a packet that has not that shape or is a fragment itself, `TooBig` for an MTU
/// that has no room for 8 bytes of payload; then nothing was given.
pub fn fragment(
    frame: &[u8],
    mtu: u16,
    id: u32,
    each: &mut impl FnMut(&[IoSlice<'_>]),
) -> Result<usize, DropReason> {
    let packet = Packet::parse(frame)?;
    let Kind::Ip(ip) = packet.kind else {
        return Err(DropReason::Fragment);
    };
    let header = if ip.src.is_ipv4() { 20 } else { 40 };
    if packet.vlan.is_some() || ip.frag.is_some() || ip.l4 != packet.l3 + header {
        return Err(DropReason::Fragment);
    }
    let mtu = usize::from(mtu);
    if ip.end - packet.l3 <= mtu {
        each(&[IoSlice::new(frame)]);
        return Ok(1);
    }
    let data = frame.get(ip.l4..ip.end).ok_or(DropReason::Truncated)?;
    let overhead = if ip.src.is_ipv4() { 20 } else { 48 };
    let step = mtu.saturating_sub(overhead) / 8 * 8;
    if step == 0 {
        return Err(DropReason::TooBig);
    }
    let mut count = 0;
    for (index, piece) in data.chunks(step).enumerate() {
        let at = index * step;
        let more = at + piece.len() < data.len();
        // An offset is less than the packet's length, which has 16 bits.
        let offset = u16::try_from(at).unwrap_or(u16::MAX);
        let mut head = HeaderBuf::new();
        match (ip.src, ip.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let field = (offset / 8) | if more { 0x2000 } else { 0 };
                let id = u16::try_from(id & 0xffff).unwrap_or_default();
                head.eth(packet.dst, packet.src, 0x0800);
                head.ipv4(
                    src.octets(),
                    dst.octets(),
                    (ip.proto, ip.ttl, ip.tos),
                    (id, field),
                    piece.len(),
                );
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                head.eth(packet.dst, packet.src, 0x86dd);
                head.ipv6(
                    src.octets(),
                    dst.octets(),
                    (NEXT_FRAGMENT, ip.ttl, ip.tos),
                    8 + piece.len(),
                );
                head.fragment(ip.proto, offset | u16::from(more), id);
            }
            _ => return Err(DropReason::Fragment),
        }
        each(&[IoSlice::new(head.as_slice()), IoSlice::new(piece)]);
        count += 1;
    }
    Ok(count)
}
