//! Stage 8: What an endpoint's MTU lets through of the frames that are switched.

use crate::wire::packet::{Kind, PROTO_TCP, Packet};
use crate::wire::udp::UdpHeader;
use crate::wire::vnet_hdr::VnetHdr;

/// True if a frame, cut as its virtio header asks, has an MTU of `mtu` bytes to go through. A switch has no way of
/// its own to make it smaller: the frame is dropped, as a bridge does.
/// Shape: `packet` is the parse of `frame`; the MTU counts what is behind the Ethernet header and its tag.
pub(super) fn fits(frame: &[u8], packet: &Packet, vnet: &VnetHdr, mtu: u16) -> bool {
    let mtu = usize::from(mtu);
    if frame.len().saturating_sub(packet.l3) <= mtu {
        return true;
    }
    let Kind::Ip(ip) = packet.kind else {
        return false;
    };
    if !vnet.is_gso() {
        return false;
    }
    let l4 = if ip.proto == PROTO_TCP {
        // The high half of the byte is the length in words, times 16.
        usize::from(frame.get(ip.l4 + 12).copied().unwrap_or(0) >> 4) * 4
    } else {
        UdpHeader::LEN
    };
    ip.l4.saturating_sub(packet.l3) + l4 + usize::from(vnet.gso_size) <= mtu
}
