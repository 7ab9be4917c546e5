//! Stage 8: What an endpoint's MTU lets through of the frames that are switched.

use crate::policy::limit::headers;
use crate::wire::packet::Packet;
use crate::wire::vnet_hdr::VnetHdr;

/// True if a frame, cut as its virtio header asks, has an MTU of `mtu` bytes to go through. A switch has no way of
/// its own to make it smaller: the frame is dropped, as a bridge does.
/// Shape: `packet` is the parse of `frame`; the MTU counts what is behind the Ethernet header and its tag.
pub(super) fn fits(frame: &[u8], packet: &Packet, vnet: &VnetHdr, mtu: u16) -> bool {
    let mtu = usize::from(mtu);
    if frame.len().saturating_sub(packet.l3) <= mtu {
        return true;
    }
    let headers = headers(frame, packet).filter(|_| vnet.is_gso());
    headers.is_some_and(|h| h.saturating_sub(packet.l3) + usize::from(vnet.gso_size) <= mtu)
}
