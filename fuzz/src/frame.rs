//! The parser of frames: never past the end, and of one mind with another parser.
//! Shape: a virtio header, then the frame.

use core::net::IpAddr;

use switch_core::wire::checksum::check_offload;
use switch_core::wire::packet::{Ip, Kind, PROTO_TCP, PROTO_UDP, Packet};
use switch_core::wire::tcp::{TcpHeader, TcpOptions};
use switch_core::wire::udp::UdpHeader;
use switch_core::wire::vnet_hdr::VnetHdr;

use super::bytes::Bytes;

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let header = bytes.array();
    let vnet = VnetHdr::parse(&header);
    assert_eq!(VnetHdr::parse(&vnet.encode()), vnet);
    let frame = bytes.rest();
    let Ok(packet) = Packet::parse(frame) else {
        return;
    };
    assert!(packet.l3 <= frame.len());
    // Whatever it says, it says it without a panic.
    let _offload = check_offload(frame.len(), &packet, &vnet);
    let Kind::Ip(ip) = packet.kind else { return };
    assert!(packet.l3 <= ip.l4 && ip.l4 <= ip.end && ip.end <= frame.len());
    assert_eq!(ip.src.is_ipv4(), ip.dst.is_ipv4());
    compare(frame, &ip);
    transport(frame, &ip);
}

fn transport(frame: &[u8], ip: &Ip) {
    let message = frame.get(ip.l4..ip.end).unwrap_or_default();
    match ip.proto {
        PROTO_TCP => {
            if let Ok(tcp) = TcpHeader::parse(message) {
                assert!((20..=60).contains(&tcp.len) && tcp.len <= message.len());
                let _options = TcpOptions::parse(message.get(20..tcp.len).unwrap_or_default());
            }
        }
        PROTO_UDP if UdpHeader::parse(message).is_ok() => {
            assert!(message.len() >= UdpHeader::LEN);
        }
        _ => {}
    }
}

/// Holds our reading of the IP header against etherparse's.
fn compare(frame: &[u8], ip: &Ip) {
    let Ok(theirs) = etherparse::SlicedPacket::from_ethernet(frame) else {
        // It reads further than we do, into headers that we leave to flows.
        return;
    };
    let (src, dst, ttl): (IpAddr, IpAddr, u8) = match theirs.net {
        Some(etherparse::NetSlice::Ipv4(v4)) => {
            let header = v4.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                header.ttl(),
            )
        }
        Some(etherparse::NetSlice::Ipv6(v6)) => {
            let header = v6.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                header.hop_limit(),
            )
        }
        _ => return,
    };
    assert_eq!((ip.src, ip.dst, ip.ttl), (src, dst, ttl));
}
