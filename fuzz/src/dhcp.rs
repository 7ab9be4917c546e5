//! The servers of addresses: whatever a sandbox asks, the answer is a well-formed datagram to it.
//! Shape: one byte that chooses the family, then the message.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use switch_core::respond::{arp, dhcp, icmp, nd, udp_frame};
use switch_core::wire::packet::{Kind, Packet};

use super::host::{GATEWAY, GUEST, checksum_valid, gateway};

/// Runs the target.
pub fn run(data: &[u8]) {
    let Some((&family, message)) = data.split_first() else {
        return;
    };
    let mut frame = Vec::new();
    let macs = (GUEST, GATEWAY);
    if family & 1 == 0 {
        let from = (IpAddr::from(Ipv4Addr::UNSPECIFIED), 68);
        udp_frame(
            macs,
            from,
            (Ipv4Addr::BROADCAST.into(), 67),
            message,
            &mut frame,
        );
    } else {
        // All_DHCP_Relay_Agents_and_Servers, RFC 9915.
        let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
        udp_frame(
            macs,
            (GUEST.link_local().into(), 546),
            (all.into(), 547),
            message,
            &mut frame,
        );
    }
    let Ok(packet) = Packet::parse(&frame) else {
        return;
    };
    let gateway = gateway();
    let mut out = Vec::new();
    for answered in [
        dhcp::respond(&gateway, &frame, &packet, &mut out),
        arp::respond(&gateway, true, &frame, &packet, &mut out),
        nd::respond(&gateway, true, &frame, &packet, &mut out),
        icmp::echo(&gateway, &frame, &packet, &mut out),
    ] {
        if answered != Ok(true) {
            continue;
        }
        let Ok(Packet {
            kind: Kind::Ip(ip), ..
        }) = Packet::parse(&out)
        else {
            panic!("an answer that is no packet: {out:02x?}");
        };
        assert!(checksum_valid(&out, &ip));
    }
}
