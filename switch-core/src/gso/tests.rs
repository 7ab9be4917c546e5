//! Super-frames of both families and protocols, cut and joined.

use core::net::IpAddr;

use proptest::prelude::*;

use super::split::split;
use crate::addr::Mac;
use crate::verdict::DropReason;
use crate::wire::checksum::l4_valid;
use crate::wire::emit::HeaderBuf;
use crate::wire::packet::{Ip, Kind, PROTO_TCP, PROTO_UDP, Packet};
use crate::wire::tcp::{ACK, CWR, FIN, PSH, TcpHeader};
use crate::wire::vnet_hdr::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VnetHdr};

const OPTIONS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

/// A frame as a sandbox with offload sends it.
fn partial(v6: bool, tcp: Option<u8>, payload: &[u8], size: u16) -> (Vec<u8>, VnetHdr) {
    let text = if v6 {
        ["fd00::2", "fd00::1"]
    } else {
        ["10.0.0.2", "10.0.0.1"]
    };
    let [src, dst]: [IpAddr; 2] = text.map(|t| t.parse().unwrap());
    let proto = if tcp.is_some() { PROTO_TCP } else { PROTO_UDP };
    let l4_len = payload.len() + if tcp.is_some() { 32 } else { 8 };
    let mut h = HeaderBuf::new();
    h.eth(Mac([2; 6]), Mac([4; 6]), if v6 { 0x86dd } else { 0x0800 });
    h.ip(src, dst, proto, 64, 0, l4_len);
    match tcp {
        Some(flags) => h.tcp(4000, 80, u32::MAX - 700, 9, flags, 500, &OPTIONS),
        None => h.udp(4000, 53, payload.len()),
    }
    let mut vnet = h.set_partial(if v6 { 54 } else { 34 }, src, dst, proto, l4_len);
    vnet.gso_size = size;
    vnet.gso_type = match (tcp, v6) {
        (None, _) => GSO_UDP_L4,
        (_, false) => GSO_TCPV4,
        (_, true) => GSO_TCPV6,
    };
    ([h.as_slice(), payload].concat(), vnet)
}

fn cut(frame: &[u8], vnet: &VnetHdr) -> Result<Vec<Vec<u8>>, DropReason> {
    let mut all = Vec::new();
    let n = split(frame, vnet, &mut Vec::new(), &mut |f| all.push(f.to_vec()))?;
    assert_eq!(n, all.len());
    Ok(all)
}

fn ip(frame: &[u8]) -> Ip {
    let Kind::Ip(ip) = Packet::parse(frame).unwrap().kind else {
        panic!("not IP")
    };
    ip
}

#[test]
fn flags_stand_where_they_belong() {
    let (frame, vnet) = partial(false, Some(ACK | PSH | FIN | CWR), &[7; 1250], 500);
    let flags: Vec<u8> = cut(&frame, &vnet)
        .unwrap()
        .iter()
        .map(|f| f[34 + 13])
        .collect();
    assert_eq!(flags, [ACK | CWR, ACK, ACK | PSH | FIN]);
}

#[test]
fn a_plain_frame_is_given_once_with_its_checksum() {
    let (frame, vnet) = partial(true, Some(ACK), b"hello", 0);
    let plain = VnetHdr {
        gso_type: 0,
        ..vnet
    };
    let out = cut(&frame, &plain).unwrap();
    let ip = ip(&out[0]);
    assert!(out.len() == 1 && l4_valid(ip.src, ip.dst, ip.proto, &out[0][ip.l4..]));
}

#[test]
fn absurd_headers_are_refused() {
    let (frame, good) = partial(false, Some(ACK), &[0; 3000], 1000);
    for bad in [
        VnetHdr {
            gso_size: 1,
            ..good
        },
        VnetHdr {
            gso_size: 0,
            ..good
        },
        VnetHdr {
            gso_type: GSO_TCPV6,
            ..good
        },
        VnetHdr {
            gso_type: GSO_UDP_L4,
            ..good
        },
        VnetHdr {
            gso_type: 3,
            ..good
        },
        VnetHdr {
            csum_start: 0,
            ..good
        },
        VnetHdr {
            csum_offset: 6,
            ..good
        },
        VnetHdr { flags: 0, ..good },
    ] {
        assert_eq!(cut(&frame, &bad), Err(DropReason::BadOffload), "{bad:?}");
    }
    let (frame, vnet) = partial(false, None, &[0; 2000], 15);
    assert_eq!(
        cut(&frame, &vnet),
        Err(DropReason::BadOffload),
        "134 datagrams"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn segments_are_whole_packets_and_carry_all_bytes(
        v6: bool, tcp: bool, size in 500u16..1460, payload in prop::collection::vec(any::<u8>(), 1..9000), pad in 0usize..9,
    ) {
        let (mut frame, vnet) = partial(v6, tcp.then_some(ACK | PSH), &payload, size);
        frame.resize(frame.len() + pad, 0xee);
        let mut joined = Vec::new();
        for (n, segment) in cut(&frame, &vnet).unwrap().iter().enumerate() {
            let ip = ip(segment);
            prop_assert_eq!(ip.end, segment.len());
            let message = &segment[ip.l4..];
            prop_assert!(l4_valid(ip.src, ip.dst, ip.proto, message));
            let parsed = etherparse::PacketHeaders::from_ethernet_slice(segment).unwrap();
            prop_assert_eq!(parsed.net.unwrap().is_ipv6(), v6);
            if !v6 {
                prop_assert_eq!(usize::from(segment[19]), n, "identification counts up");
            }
            if tcp {
                let h = TcpHeader::parse(message).unwrap();
                prop_assert_eq!(h.seq, (u32::MAX - 700).wrapping_add(joined.len() as u32));
                prop_assert_eq!(&message[20..32], &OPTIONS);
            }
            let data = parsed.payload.slice();
            prop_assert!(data.len() == usize::from(size) || joined.len() + data.len() == payload.len());
            joined.extend_from_slice(data);
        }
        prop_assert_eq!(joined, payload);
    }

    #[test]
    fn any_bytes_are_survived(
        mut frame in prop::collection::vec(any::<u8>(), 0..300), v6: bool, flags: u8, kind in 0u8..6, size: u16,
        start in 30u16..60, offset in prop::sample::select(vec![6u16, 16]),
    ) {
        dress(&mut frame, v6);
        let vnet = VnetHdr { flags: flags | 1, gso_type: kind, hdr_len: 0, gso_size: size, csum_start: start, csum_offset: offset };
        let _ = cut(&frame, &vnet);
    }
}

/// Makes random bytes pass the first checks, so that the later ones are reached.
fn dress(frame: &mut [u8], v6: bool) {
    if frame.len() < 60 {
        return;
    }
    let total = frame.len() - 14;
    frame[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
    if v6 {
        frame[14] = 0x60;
        frame[18..20].copy_from_slice(&((total - 40) as u16).to_be_bytes());
        frame[20] = if frame[20] & 1 == 0 {
            PROTO_TCP
        } else {
            PROTO_UDP
        };
    } else {
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&(total as u16).to_be_bytes());
        frame[20..22].fill(0);
        frame[23] = if frame[23] & 1 == 0 {
            PROTO_TCP
        } else {
            PROTO_UDP
        };
        frame[24..26].fill(0);
        let csum = crate::wire::checksum::finish(crate::wire::checksum::fold(
            crate::wire::checksum::sum(&frame[14..34]),
        ));
        frame[24..26].copy_from_slice(&csum.to_be_bytes());
    }
}
