//! Stage 2: The Internet checksum: whole, partial, patched. Source: RFC 1071, RFC 1624.

use core::net::IpAddr;

use super::packet::{Ip, Kind, PROTO_TCP, PROTO_UDP, Packet};
use super::vnet_hdr::{GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VnetHdr};
use super::{be16, put};
use crate::verdict::DropReason;

/// The smallest segment of a TCP super-frame: below it a sandbox could make one frame into thousands.
pub const MIN_TCP_GSO: u16 = 500;
/// Datagrams of a UDP super-frame at most. Source: UDP_MAX_SEGMENTS of linux/udp.h.
pub const MAX_UDP_SEGMENTS: usize = 128;

/// Adds up bytes as 16-bit words in network order, folded to 16 bits; an odd byte at the end counts
/// as the high one. Cost: 64 bytes a step, in lanes that the compiler makes vectors of.
/// Source: RFC 1071 section 2, parts (B) byte order independence and (C) parallel summation.
#[must_use]
#[inline]
pub fn sum(bytes: &[u8]) -> u32 {
    let halves = |word: [u8; 8]| {
        let v = u64::from_ne_bytes(word);
        (v & 0xffff_ffff) + (v >> 32)
    };
    let mut total: u64 = 0;
    let (blocks, mut rest) = bytes.as_chunks::<64>();
    if !blocks.is_empty() {
        let mut lanes = [0; 8];
        for block in blocks {
            for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
                *lane += halves(*word);
            }
        }
        total = lanes.iter().sum();
    }
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        total += halves(*word);
        rest = after;
    }
    if let Some((word, after)) = rest.split_first_chunk::<4>() {
        total += u64::from(u32::from_ne_bytes(*word));
        rest = after;
    }
    if let Some((word, after)) = rest.split_first_chunk::<2>() {
        total += u64::from(u16::from_ne_bytes(*word));
        rest = after;
    }
    if let Some(&odd) = rest.first() {
        total += u64::from(u16::from_ne_bytes([odd, 0]));
    }
    // Each step adds less than 2^36: no slice that exists overflows.
    let total = (total >> 32) + (total & 0xffff_ffff);
    let total = (total >> 32) + (total & 0xffff_ffff);
    let folded = fold(u32::try_from(total).unwrap_or(u32::MAX));
    u32::from(u16::from_be(folded))
}

/// Folds a sum to 16 bits, without complement. Of the two forms of zero it gives 0xffff, but for no words at all.
#[must_use]
#[inline]
pub const fn fold(sum: u32) -> u16 {
    let s = (sum >> 16) + (sum & 0xffff);
    let s = (s >> 16) + (s & 0xffff);
    (s & 0xffff) as u16
}

/// Makes a folded sum a checksum.
#[must_use]
pub const fn finish(folded: u16) -> u16 {
    !folded
}

/// The folded sum of the pseudo-header, not complemented. Source: RFC 9293 section 3.1, RFC 8200 section 8.1.
#[must_use]
#[inline]
pub fn pseudo(src: IpAddr, dst: IpAddr, proto: u8, len: u32) -> u16 {
    let address = |a: IpAddr| match a {
        IpAddr::V4(a) => sum(&a.octets()),
        IpAddr::V6(a) => sum(&a.octets()),
    };
    fold(address(src) + address(dst) + u32::from(proto) + (len >> 16) + (len & 0xffff))
}

/// True if the checksum of an L4 message over IP is right. UDP over IPv4 may have none.
#[must_use]
pub fn l4_valid(src: IpAddr, dst: IpAddr, proto: u8, message: &[u8]) -> bool {
    if proto == PROTO_UDP && src.is_ipv4() && be16(message, 6) == Some(0) {
        return true;
    }
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    fold(u32::from(pseudo(src, dst, proto, len)) + sum(message)) == 0xffff
}

/// Brings a checksum up to date for bytes that changed. Shape: `old` and `new` start at an even offset and
/// have one even length. Source: RFC 1624 section 3, equation 3.
#[must_use]
pub fn patch(csum: u16, old: &[u8], new: &[u8]) -> u16 {
    !fold(u32::from(!csum) + u32::from(!fold(sum(old))) + u32::from(fold(sum(new))))
}

/// Computes a checksum that the virtio header says is only partial, in place.
/// Errors: `BadOffload` where the header points outside of the frame.
pub fn complete_partial(frame: &mut [u8], vnet: &VnetHdr) -> Result<(), DropReason> {
    if !vnet.needs_csum() {
        return Ok(());
    }
    let start = usize::from(vnet.csum_start);
    let field = start + usize::from(vnet.csum_offset);
    let total = frame.get(start..).map(sum).ok_or(DropReason::BadOffload)?;
    let csum = match finish(fold(total)) {
        // For UDP zero means none; for the others 0xffff is the same number.
        0 => 0xffff,
        c => c,
    };
    if put(frame, field, &csum.to_be_bytes()) {
        Ok(())
    } else {
        Err(DropReason::BadOffload)
    }
}

/// Whose checksum a frame's sender left for others to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partial {
    /// Nobody's, or that of the packet's own TCP or UDP header.
    Own,
    /// One inside its payload, as of a packet in a tunnel: the packet's own checksum is complete and covers the
    /// inner one as it will be.
    Inner,
}

/// Holds the virtio header of a received frame against the frame, and refuses what would multiply work.
/// Errors: `BadOffload` where they contradict each other or ask for absurd segments.
pub fn check_offload(len: usize, packet: &Packet, vnet: &VnetHdr) -> Result<Partial, DropReason> {
    if !vnet.needs_csum() && !vnet.is_gso() {
        return Ok(Partial::Own);
    }
    if !vnet.is_gso() && is_inside(packet, vnet) {
        return Ok(Partial::Inner);
    }
    let ip = consistent(packet, vnet)?;
    let payload = len.min(ip.end).saturating_sub(ip.l4);
    let size = usize::from(vnet.gso_size);
    let good = match vnet.gso_kind() {
        GSO_NONE => true,
        GSO_UDP_L4 => payload.saturating_sub(8) <= size * MAX_UDP_SEGMENTS,
        _ => vnet.gso_size >= MIN_TCP_GSO || payload <= size + 20,
    };
    if good {
        Ok(Partial::Own)
    } else {
        Err(DropReason::BadOffload)
    }
}

/// True if the partial checksum is one of the payload's: whoever completes it touches no byte that the guards of
/// the switch have read.
fn is_inside(packet: &Packet, vnet: &VnetHdr) -> bool {
    let Kind::Ip(ip) = packet.kind else {
        return false;
    };
    let start = usize::from(vnet.csum_start);
    let field = start + usize::from(vnet.csum_offset);
    ip.frag.is_none() && start > ip.l4 && field + 2 <= ip.end
}

/// Checks that the offloads asked for are ones of this packet. Returns its IP header.
/// Errors: `BadOffload`.
pub(crate) fn consistent(packet: &Packet, vnet: &VnetHdr) -> Result<Ip, DropReason> {
    let Kind::Ip(ip) = packet.kind else {
        return Err(DropReason::BadOffload);
    };
    let offset = match ip.proto {
        PROTO_TCP => 16,
        PROTO_UDP => 6,
        _ => return Err(DropReason::BadOffload),
    };
    if ip.frag.is_some() || usize::from(vnet.csum_start) != ip.l4 || vnet.csum_offset != offset {
        return Err(DropReason::BadOffload);
    }
    let kind = match (vnet.gso_kind(), ip.proto, ip.src.is_ipv4()) {
        (GSO_NONE, ..) => return Ok(ip),
        (GSO_TCPV4, PROTO_TCP, true) | (GSO_TCPV6, PROTO_TCP, false) => true,
        // The mark is one of TCP.
        (GSO_UDP_L4, PROTO_UDP, _) => vnet.gso_type == GSO_UDP_L4,
        _ => false,
    };
    if kind && vnet.gso_size > 0 && vnet.needs_csum() {
        Ok(ip)
    } else {
        Err(DropReason::BadOffload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 section 4.1, word by word.
    fn slow(bytes: &[u8]) -> u16 {
        let mut total: u32 = 0;
        for pair in bytes.chunks(2) {
            total += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            total = (total & 0xffff) + (total >> 16);
        }
        u16::try_from(total).unwrap()
    }

    proptest! {
        #[test]
        fn fast_is_slow(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
            let (a, b) = (fold(sum(&bytes)), slow(&bytes));
            // Zero has two forms in ones' complement.
            prop_assert!(a == b || (a % 0xffff == 0 && b % 0xffff == 0));
        }

        #[test]
        fn patched_is_recomputed(mut bytes in prop::collection::vec(any::<u8>(), 40..60), new in any::<[u8; 4]>()) {
            bytes.truncate(40);
            bytes[10..12].fill(0);
            let before = finish(fold(sum(&bytes)));
            let old: [u8; 4] = bytes[12..16].try_into().unwrap();
            bytes[12..16].copy_from_slice(&new);
            let (a, b) = (patch(before, &old, &new), finish(fold(sum(&bytes))));
            prop_assert!(a == b || (a % 0xffff == 0 && b % 0xffff == 0));
        }
    }

    #[test]
    fn longest_frame_of_ones_does_not_overflow() {
        assert_eq!(fold(sum(&vec![0xff; 65_536])), 0xffff);
    }
}
