//! `[6]` Datagrams for a sandbox that are larger than its MTU: written whole, then cut.

use core::net::SocketAddr;

use super::host::Tx;
use crate::addr::{Mac, PortId};
use crate::frag;
use crate::wire::emit::HeaderBuf;
use crate::wire::packet::PROTO_UDP;
use crate::wire::vnet_hdr::VnetHdr;

/// Sends one UDP datagram in as many fragments as the MTU asks for. Units: `mtu` in bytes, IP header included.
/// Shape: `id` differs from those of the datagrams sent shortly before.
pub(super) fn send<H: Tx>(
    host: &mut H,
    (port, from_mac, to_mac): (PortId, Mac, Mac),
    (from, to): (SocketAddr, SocketAddr),
    (tos, mtu, id): (u8, u16, u32),
    payload: &[u8],
) {
    let (ethertype, l4) = if from.is_ipv4() {
        (0x0800, 34)
    } else {
        (0x86dd, 54)
    };
    let mut head = HeaderBuf::new();
    head.eth(to_mac, from_mac, ethertype);
    head.ip(from.ip(), to.ip(), PROTO_UDP, 64, tos, 8 + payload.len());
    head.udp(from.port(), to.port(), payload.len());
    head.set_full(l4, from.ip(), to.ip(), PROTO_UDP, &[payload]);
    let whole = [head.as_slice(), payload].concat();
    // What cannot be cut has no way to the sandbox; for the sender it is lost as on any network.
    let _ = frag::fragment(&whole, mtu, id, &mut |pieces| {
        host.tx(port, &VnetHdr::default(), pieces);
    });
}
