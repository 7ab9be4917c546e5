//! [7] Cutting of datagrams that are larger than the sandbox's MTU.

use core::net::{IpAddr, SocketAddr};
use std::io::IoSlice;

use crate::addr::{Mac, PortId};
use crate::flow::host::Tx;
use crate::wire::checksum::{fold, sum};
use crate::wire::emit::HeaderBuf;
use crate::wire::packet::PROTO_UDP;
use crate::wire::vnet_hdr::VnetHdr;

/// Sends one UDP datagram in as many fragments as the MTU asks for.
pub fn send_large<H: Tx>(
    host: &mut H,
    (port, from_mac, to_mac): (PortId, Mac, Mac),
    (from, to): (SocketAddr, SocketAddr),
    tos: u8,
    payload: &[u8],
    mtu: u16,
) {
    let mut udp = HeaderBuf::new();
    udp.udp(from.port(), to.port(), payload.len());
    udp.set_full(0, from.ip(), to.ip(), PROTO_UDP, &[payload]);
    let datagram = [udp.as_slice(), payload].concat();
    // An identification of its own for each datagram: the checksum, its length and the source port vary with it.
    let id = fold(sum(&datagram)) ^ from.port();
    let header = if from.is_ipv4() { 20 } else { 48 };
    let step = usize::from(mtu).saturating_sub(header) / 8 * 8;
    if step == 0 {
        return;
    }
    for (index, piece) in datagram.chunks(step).enumerate() {
        let at = index * step;
        let more = at + piece.len() < datagram.len();
        let mut head = HeaderBuf::new();
        match (from.ip(), to.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                head.eth(to_mac, from_mac, 0x0800);
                let field = u16::try_from(at / 8).unwrap_or(0) | if more { 0x2000 } else { 0 };
                head.ipv4(
                    s.octets(),
                    d.octets(),
                    (PROTO_UDP, 64, tos),
                    (id, field),
                    piece.len(),
                );
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                head.eth(to_mac, from_mac, 0x86dd);
                head.ipv6(s.octets(), d.octets(), (44, 64, tos), 8 + piece.len());
                head.fragment(
                    PROTO_UDP,
                    u16::try_from(at).unwrap_or(0) | u16::from(more),
                    u32::from(id),
                );
            }
            _ => return,
        }
        host.tx(
            port,
            &VnetHdr::default(),
            &[IoSlice::new(head.as_slice()), IoSlice::new(piece)],
        );
    }
}
