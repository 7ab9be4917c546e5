//! The formats against etherparse: what one writes the other reads.

use core::net::IpAddr;

use etherparse::{
    NetSlice, PacketBuilder, SlicedPacket, TcpHeaderSlice, TcpOptionElement, TransportSlice,
};
use proptest::prelude::*;

use super::checksum::{Partial, check_offload, complete_partial, fold, l4_valid, patch, pseudo};
use super::emit::HeaderBuf;
use super::packet::{Ip, Kind, PROTO_TCP, PROTO_UDP, Packet};
use super::tcp::{TcpHeader, TcpOptions};
use super::udp::UdpHeader;
use super::vnet_hdr::{GSO_TCPV4, GSO_TCPV6, LEN, VnetHdr};
use crate::addr::Mac;
use crate::verdict::DropReason;

type Ends = (IpAddr, IpAddr);

fn ends() -> impl Strategy<Value = Ends> {
    prop_oneof![
        any::<([u8; 4], [u8; 4])>().prop_map(|(s, d)| (s.into(), d.into())),
        any::<([u8; 16], [u8; 16])>().prop_map(|(s, d)| (s.into(), d.into())),
    ]
}

fn bytes(len: core::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), len)
}

/// A packet in etherparse's words.
fn theirs((src, dst): Ends, vlan: Option<u16>, ttl: u8, tcp: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let eth = PacketBuilder::ethernet2([2; 6], [4; 6]);
    macro_rules! finish {
        ($link:expr) => {{
            let ip = match (src, dst) {
                (IpAddr::V4(s), IpAddr::V4(d)) => $link.ipv4(s.octets(), d.octets(), ttl),
                (IpAddr::V6(s), IpAddr::V6(d)) => $link.ipv6(s.octets(), d.octets(), ttl),
                _ => unreachable!("one family"),
            };
            if tcp {
                let options = [
                    TcpOptionElement::MaximumSegmentSize(1400),
                    TcpOptionElement::SelectiveAcknowledgementPermitted,
                    TcpOptionElement::Timestamp(77, 88),
                    TcpOptionElement::WindowScale(9),
                ];
                let tcp = ip.tcp(1234, 80, 0xfedc_ba98, 4321).syn().ack(99);
                tcp.options(&options)
                    .unwrap()
                    .write(&mut out, payload)
                    .unwrap();
            } else {
                ip.udp(1234, 53).write(&mut out, payload).unwrap();
            }
        }};
    }
    match vlan {
        Some(id) => finish!(eth.single_vlan(etherparse::VlanId::try_new(id & 0xfff).unwrap())),
        None => finish!(eth),
    }
    out
}

fn ip(packet: &Packet) -> Ip {
    let Kind::Ip(ip) = packet.kind else {
        panic!("not IP")
    };
    ip
}

proptest! {
    #[test]
    fn what_etherparse_writes_is_read(
        ends in ends(), vlan in prop::option::of(0u16..4096), ttl: u8, tcp: bool, payload in bytes(0..300),
        pad in bytes(0..20),
    ) {
        let mut frame = theirs(ends, vlan, ttl, tcp, &payload);
        let end = frame.len();
        frame.extend_from_slice(&pad);
        let packet = Packet::parse(&frame).unwrap();
        let ip = ip(&packet);
        prop_assert_eq!((packet.src, packet.dst, packet.vlan), (Mac([2; 6]), Mac([4; 6]), vlan));
        prop_assert_eq!((ip.src, ip.dst), ends);
        prop_assert_eq!((ip.ttl, ip.tos, ip.frag, ip.end), (ttl, 0, None, end));
        let message = &frame[ip.l4..ip.end];
        prop_assert!(l4_valid(ip.src, ip.dst, ip.proto, message));
        if tcp {
            prop_assert_eq!(ip.proto, PROTO_TCP);
            let h = TcpHeader::parse(message).unwrap();
            prop_assert_eq!((h.src_port, h.dst_port, h.seq, h.ack), (1234, 80, 0xfedc_ba98, 99));
            prop_assert_eq!((h.flags, h.window), (0x12, 4321));
            prop_assert_eq!(&message[h.len..], &payload);
            let o = TcpOptions::parse(&message[20..h.len]);
            prop_assert_eq!((o.mss, o.wscale, o.sack_permitted, o.timestamps), (Some(1400), Some(9), true, Some((77, 88))));
        } else {
            prop_assert_eq!(ip.proto, PROTO_UDP);
            let h = UdpHeader::parse(message).unwrap();
            prop_assert_eq!((h.src_port, h.dst_port, usize::from(h.len)), (1234, 53, 8 + payload.len()));
            prop_assert_eq!(&message[8..], &payload);
        }
    }

    #[test]
    fn what_is_written_etherparse_reads(
        ends in ends(), tcp: bool, payload in bytes(0..300), words in 0usize..11, ttl: u8, tos: u8,
    ) {
        let (src, dst) = ends;
        let (ethertype, l4) = if src.is_ipv4() { (0x0800, 34) } else { (0x86dd, 54) };
        let (proto, head) = if tcp { (PROTO_TCP, 20 + words * 4) } else { (PROTO_UDP, 8) };
        let mut h = HeaderBuf::new();
        h.eth(Mac([2; 6]), Mac([4; 6]), ethertype);
        h.ip(src, dst, proto, ttl, tos, head + payload.len());
        if tcp {
            h.tcp(1, 2, 3, 4, 0x18, 5, &[1; 40][..words * 4]);
        } else {
            h.udp(1, 2, payload.len());
        }
        prop_assert_eq!(h.as_slice().len(), l4 + head);
        let mut partial = h.clone();
        let vnet = partial.set_partial(l4, src, dst, proto, head + payload.len());
        let mut completed = [partial.as_slice(), &payload].concat();
        check_offload(completed.len(), &Packet::parse(&completed).unwrap(), &vnet).unwrap();
        complete_partial(&mut completed, &vnet).unwrap();
        let (even, odd) = payload.split_at(payload.len() / 4 * 2);
        h.set_full(l4, src, dst, proto, &[even, odd]);
        let full = [h.as_slice(), &payload].concat();

        for frame in [&full, &completed] {
            let read = SlicedPacket::from_ethernet(frame).unwrap();
            let (net, transport) = (read.net.unwrap(), read.transport.unwrap());
            let (stored, right) = match (&net, transport) {
                (NetSlice::Ipv4(v4), TransportSlice::Tcp(t)) => {
                    (t.checksum(), t.calc_checksum_ipv4(v4.header().source(), v4.header().destination()).unwrap())
                }
                (NetSlice::Ipv6(v6), TransportSlice::Tcp(t)) => {
                    (t.checksum(), t.calc_checksum_ipv6(v6.header().source(), v6.header().destination()).unwrap())
                }
                (NetSlice::Ipv4(v4), TransportSlice::Udp(u)) => {
                    let right = u.to_header().calc_checksum_ipv4_raw(v4.header().source(), v4.header().destination(), u.payload());
                    (u.checksum(), right.unwrap())
                }
                (NetSlice::Ipv6(v6), TransportSlice::Udp(u)) => {
                    let right = u.to_header().calc_checksum_ipv6_raw(v6.header().source(), v6.header().destination(), u.payload());
                    (u.checksum(), right.unwrap())
                }
                _ => panic!("neither"),
            };
            // Zero has two forms, and only UDP may not use one of them.
            prop_assert!(stored == right || (stored % 0xffff == 0 && right % 0xffff == 0));
            match net {
                NetSlice::Ipv4(v4) => {
                    let h = v4.header();
                    prop_assert_eq!(h.header_checksum(), h.to_header().calc_header_checksum());
                    prop_assert_eq!((h.ttl(), (h.dcp().value() << 2) | h.ecn().value()), (ttl, tos));
                    prop_assert!(h.dont_fragment());
                }
                NetSlice::Ipv6(v6) => prop_assert_eq!((v6.header().hop_limit(), v6.header().traffic_class()), (ttl, tos)),
                NetSlice::Arp(_) => panic!("ARP"),
            }
        }
    }

    #[test]
    fn a_rewritten_packet_has_the_checksum_of_a_new_one(
        from in ends(), payload in bytes(0..100), port: u16, new: [u8; 16],
    ) {
        let (src, dst) = from;
        let to: IpAddr = if src.is_ipv4() { [new[0], new[1], new[2], new[3]].into() } else { new.into() };
        let octets = |a: IpAddr| match a {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        let frame = theirs(from, None, 9, true, &payload);
        let ip = ip(&Packet::parse(&frame).unwrap());
        let mut message = frame[ip.l4..ip.end].to_vec();
        let csum = u16::from_be_bytes([message[16], message[17]]);
        let csum = patch(csum, &octets(src), &octets(to));
        let csum = patch(csum, &message[..2], &port.to_be_bytes());
        message[..2].copy_from_slice(&port.to_be_bytes());
        message[16..18].copy_from_slice(&csum.to_be_bytes());
        prop_assert!(l4_valid(to, dst, PROTO_TCP, &message));
    }

    #[test]
    fn whatever_is_accepted_etherparse_places_alike(
        ends in ends(), tcp: bool, payload in bytes(0..40), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        keep in any::<prop::sample::Index>(), mend: bool,
    ) {
        let mut frame = theirs(ends, None, 9, tcp, &payload);
        for (at, with) in flips {
            let at = at.index(frame.len().min(80));
            frame[at] ^= with;
        }
        frame.truncate(frame.len() - keep.index(8));
        if mend && frame[12..14] == [8, 0] {
            frame[24..26].fill(0);
            let end = (14 + usize::from(frame[14] & 15) * 4).min(frame.len());
            let csum = !fold(super::checksum::sum(&frame[14..end]));
            frame[24..26].copy_from_slice(&csum.to_be_bytes());
        }
        let Ok(packet) = Packet::parse(&frame) else { return Ok(()) };
        let Kind::Ip(ip) = packet.kind else { return Ok(()) };
        prop_assert!(packet.l3 + 20 <= ip.l4 && ip.l4 <= ip.end && ip.end <= frame.len());
        let message = &frame[ip.l4..ip.end];
        if let (PROTO_TCP, None, Ok(h)) = (ip.proto, ip.frag, TcpHeader::parse(message)) {
            let t = TcpHeaderSlice::from_slice(message).unwrap();
            prop_assert_eq!((h.src_port, h.seq, h.len), (t.source_port(), t.sequence_number(), t.slice().len()));
            let _ = TcpOptions::parse(&message[20..h.len]);
        }
        let Ok(read) = SlicedPacket::from_ip(&frame[packet.l3..ip.end]) else { return Ok(()) };
        let placed = match read.net.unwrap() {
            NetSlice::Ipv4(v4) => v4.payload().payload.len(),
            NetSlice::Ipv6(v6) => v6.payload().payload.len(),
            NetSlice::Arp(_) => panic!("ARP"),
        };
        // Etherparse walks on behind the header of a fragment, and knows more kinds of extension headers.
        if ip.frag.is_none() && (ip.src.is_ipv4() || ip.proto == PROTO_TCP || ip.proto == PROTO_UDP) {
            let behind = if ip.src.is_ipv4() && ip.proto == 51 { placed } else { message.len() };
            prop_assert_eq!(placed, behind);
        }
    }

    #[test]
    fn the_virtio_header_comes_back(raw: [u8; LEN]) {
        let back = VnetHdr::parse(&raw).encode();
        prop_assert_eq!(&back[..10], &raw[..10]);
    }

    #[test]
    fn hostile_offloads_stay_inside_the_frame(
        ends in ends(), tcp: bool, payload in bytes(0..60), raw: [u8; LEN], near: bool,
    ) {
        let mut frame = theirs(ends, None, 9, tcp, &payload);
        let mut vnet = VnetHdr::parse(&raw);
        if near {
            vnet.csum_start %= 80;
            vnet.csum_offset %= 20;
        }
        let packet = Packet::parse(&frame).unwrap();
        let accepted = check_offload(frame.len(), &packet, &vnet).is_ok();
        let done = complete_partial(&mut frame, &vnet);
        if accepted {
            prop_assert_eq!(done, Ok(()));
        }
    }
}

#[test]
fn super_frames_are_held_against_their_header() {
    for (ends, kind, other) in [
        (
            ([10, 0, 0, 1].into(), [10, 0, 0, 2].into()),
            GSO_TCPV4,
            GSO_TCPV6,
        ),
        (([1; 16].into(), [2; 16].into()), GSO_TCPV6, GSO_TCPV4),
    ] {
        let frame = theirs(ends, None, 9, true, &[0; 3000]);
        let packet = Packet::parse(&frame).unwrap();
        let l4 = u16::try_from(ip(&packet).l4).unwrap();
        let good = VnetHdr {
            flags: 1,
            gso_type: kind,
            hdr_len: 0,
            gso_size: 1400,
            csum_start: l4,
            csum_offset: 16,
        };
        let check = |vnet: VnetHdr| check_offload(frame.len(), &packet, &vnet);
        assert_eq!(check(good), Ok(Partial::Own));
        assert_eq!(
            check(VnetHdr {
                gso_type: kind | 0x80,
                ..good
            }),
            Ok(Partial::Own),
            "ECN"
        );
        for bad in [
            VnetHdr {
                gso_type: other,
                ..good
            },
            VnetHdr {
                gso_size: 499,
                ..good
            },
            VnetHdr {
                gso_size: 0,
                ..good
            },
            VnetHdr {
                csum_start: l4 + 2,
                ..good
            },
            VnetHdr { flags: 0, ..good },
        ] {
            assert_eq!(check(bad), Err(DropReason::BadOffload), "{bad:?}");
        }
    }
}

#[test]
fn a_partial_checksum_may_lie_further_in_but_never_before() {
    let ends = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let frame = theirs(ends, None, 9, false, &[0; 100]);
    let packet = Packet::parse(&frame).unwrap();
    let l4 = u16::try_from(ip(&packet).l4).unwrap();
    let end = u16::try_from(ip(&packet).end).unwrap();
    let check = |csum_start: u16, csum_offset: u16, gso_type: u8| {
        let vnet = VnetHdr {
            flags: 1,
            gso_type,
            gso_size: 1400,
            csum_start,
            csum_offset,
            hdr_len: 0,
        };
        check_offload(frame.len(), &packet, &vnet)
    };
    assert_eq!(check(l4, 6, 0), Ok(Partial::Own));
    assert_eq!(check(l4 + 50, 16, 0), Ok(Partial::Inner));
    assert_eq!(check(end - 8, 6, 0), Ok(Partial::Inner));
    // Past the packet; into the addresses that have been looked at; a super-frame of something inside.
    for bad in [
        check(end - 8, 7, 0),
        check(end, 0, 0),
        check(0, 6, 0),
        check(l4 - 8, 0, 0),
        check(l4, 8, 0),
        check(l4 + 50, 16, 1),
    ] {
        assert_eq!(bad, Err(DropReason::BadOffload));
    }
}

#[test]
fn a_pseudo_header_of_literal_bytes() {
    // 10.0.0.1 + 10.0.0.2 + 17 + 12, word by word.
    let v4 = pseudo([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17, 12);
    assert_eq!(v4, 0x0a00 + 0x0001 + 0x0a00 + 0x0002 + 17 + 12);
    let v6 = pseudo([0; 16].into(), [0; 16].into(), 17, 0x0001_0002);
    assert_eq!(v6, 17 + 1 + 2);
}
