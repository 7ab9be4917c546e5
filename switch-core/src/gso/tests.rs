//! Super-frames of both families and protocols, cut and joined.

use core::net::IpAddr;

use proptest::prelude::*;

use super::merge::{MAX_RUN, Run};
use super::split::split;
use crate::addr::Mac;
use crate::verdict::DropReason;
use crate::wire::checksum::{finish, fold, l4_valid, pseudo, sum};
use crate::wire::emit::HeaderBuf;
use crate::wire::packet::{Ip, Kind, PROTO_TCP, PROTO_UDP, Packet};
use crate::wire::tcp::{ACK, CWR, FIN, PSH, TcpHeader};
use crate::wire::vnet_hdr::{DATA_VALID, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VnetHdr};

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

const VERIFIED: VnetHdr = VnetHdr {
    flags: DATA_VALID,
    gso_type: 0,
    hdr_len: 0,
    gso_size: 0,
    csum_start: 0,
    csum_offset: 0,
};

/// All frames as one, or none where one does not belong.
fn join(frames: &[Vec<u8>]) -> Option<(Vec<u8>, VnetHdr)> {
    let (first, rest) = frames.split_first()?;
    let mut run = Run::start(first, &Packet::parse(first).ok()?, &VERIFIED)?;
    let mut payload = first[run.first_payload()].to_vec();
    for frame in rest {
        let range = run.add(frame, &Packet::parse(frame).ok()?, &VERIFIED)?;
        payload.extend_from_slice(&frame[range]);
    }
    assert_eq!(run.frames(), frames.len());
    let (vnet, headers) = run.finish();
    Some(([headers, &payload].concat(), vnet))
}

/// Makes the checksums of a frame right, if it is still a packet.
fn mend(frame: &mut [u8]) {
    if frame[12..14] == [8, 0] && frame[14] == 0x45 {
        frame[24..26].fill(0);
        let csum = finish(fold(sum(&frame[14..34])));
        frame[24..26].copy_from_slice(&csum.to_be_bytes());
    }
    let Ok(Packet {
        kind: Kind::Ip(ip), ..
    }) = Packet::parse(frame)
    else {
        return;
    };
    let (field, len) = (
        if ip.proto == PROTO_TCP { 16 } else { 6 },
        u32::try_from(ip.end - ip.l4).unwrap(),
    );
    if ip.l4 + field + 2 > ip.end {
        return;
    }
    frame[ip.l4 + field..][..2].fill(0);
    let total = u32::from(pseudo(ip.src, ip.dst, ip.proto, len)) + sum(&frame[ip.l4..ip.end]);
    let csum = match finish(fold(total)) {
        0 if ip.proto == PROTO_UDP => 0xffff,
        c => c,
    };
    frame[ip.l4 + field..][..2].copy_from_slice(&csum.to_be_bytes());
}

#[test]
fn what_must_stay_alone_stays_alone() {
    let start = |frame: &[u8], vnet: &VnetHdr| {
        Run::start(frame, &Packet::parse(frame).unwrap(), vnet).is_some()
    };
    let (frame, vnet) = partial(false, Some(ACK), &[1; 600], 0);
    let vnet = VnetHdr {
        gso_type: 0,
        ..vnet
    };
    assert!(start(&frame, &vnet), "partial");
    assert!(start(&frame, &VERIFIED), "verified");
    assert!(
        !start(&frame, &VnetHdr::default()),
        "nobody has verified it"
    );
    assert!(
        !start(
            &frame,
            &VnetHdr {
                csum_start: 14,
                ..vnet
            }
        ),
        "partial of something else"
    );
    let mut wrong = frame.clone();
    wrong[34 + 16] ^= 1;
    assert!(!start(&wrong, &vnet), "partial sum is wrong");
    let mut fragile = frame.clone();
    fragile[20] = 0;
    mend(&mut fragile);
    assert!(!start(&fragile, &VERIFIED), "DF not set");
    for flags in [ACK | CWR, ACK | 2, ACK | 4, ACK | 0x20, 0] {
        let (frame, _) = partial(false, Some(flags), &[1; 600], 0);
        assert!(!start(&frame, &VERIFIED), "flags {flags:x}");
    }
    let (frame, _) = partial(false, Some(ACK), &[1; 499], 0);
    assert!(
        !start(&frame, &VERIFIED),
        "segments too small to be cut again"
    );
    let (mut frame, _) = partial(false, None, &[1; 64], 0);
    frame[34 + 6..][..2].fill(0);
    assert!(!start(&frame, &VERIFIED), "datagram without checksum");
}

#[test]
fn a_run_ends_at_its_bounds() {
    let (frame, _) = partial(false, None, &[1; 64], 0);
    let packet = Packet::parse(&frame).unwrap();
    let mut run = Run::start(&frame, &packet, &VERIFIED).unwrap();
    while run.add(&frame, &packet, &VERIFIED).is_some() {}
    assert_eq!(run.frames(), MAX_RUN);
    let (frame, _) = partial(true, None, &[1; 1452], 0);
    let packet = Packet::parse(&frame).unwrap();
    let mut run = Run::start(&frame, &packet, &VERIFIED).unwrap();
    while run.add(&frame, &packet, &VERIFIED).is_some() {}
    assert_eq!(run.frames(), 45, "65,535 bytes with the headers");
    let (short, _) = partial(true, None, &[1; 1000], 0);
    let mut run = Run::start(&frame, &packet, &VERIFIED).unwrap();
    let before = run.clone();
    assert!(
        run.add(&short, &Packet::parse(&short).unwrap(), &VERIFIED)
            .is_some()
    );
    assert!(
        run.add(&short, &Packet::parse(&short).unwrap(), &VERIFIED)
            .is_none(),
        "after a short one"
    );
    let mut run = before;
    let mut other = frame.clone();
    other[14 + 7] ^= 1;
    assert!(
        run.add(&other, &Packet::parse(&other).unwrap(), &VERIFIED)
            .is_none(),
        "another hop limit"
    );
    assert_eq!(run.frames(), 1);
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
    // What a peer with an MSS of 64 makes us send.
    let small = VnetHdr {
        gso_size: 64,
        ..good
    };
    assert_eq!(cut(&frame, &small).unwrap().len(), 47);
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
                prop_assert_eq!(h.seq, (u32::MAX - 700).wrapping_add(u32::from(u16::try_from(joined.len()).unwrap())));
                prop_assert_eq!(&message[20..32], &OPTIONS);
            }
            let data = parsed.payload.slice();
            prop_assert!(data.len() == usize::from(size) || joined.len() + data.len() == payload.len());
            joined.extend_from_slice(data);
        }
        prop_assert_eq!(joined, payload);
    }

    #[test]
    fn merged_is_what_was_split(
        v6: bool, tcp: bool, size in 500u16..1460, payload in prop::collection::vec(any::<u8>(), 500..20000),
    ) {
        let (frame, vnet) = partial(v6, tcp.then_some(ACK | PSH), &payload, size);
        let segments = cut(&frame, &vnet).unwrap();
        let (merged, out) = join(&segments).expect("all belong");
        if segments.len() == 1 {
            prop_assert_eq!((&merged, out), (&segments[0], VERIFIED));
        } else {
            prop_assert_eq!(&merged, &frame);
            prop_assert_eq!(out, vnet);
            prop_assert_eq!(cut(&merged, &out).unwrap(), segments);
        }
    }

    #[test]
    fn whatever_is_merged_comes_apart_again(
        v6: bool, tcp: bool, at in 0usize..80, bit in 0u8..8, lens in prop::collection::vec(490usize..600, 2..5),
    ) {
        // Two neighbours of which one has a bit flipped in its headers, checksums right again.
        let payload = vec![5; lens.iter().sum()];
        let (frame, vnet) = partial(v6, tcp.then_some(ACK), &payload, 600);
        let mut segments = cut(&frame, &VnetHdr { gso_size: u16::try_from(lens[0]).unwrap().max(500), ..vnet }).unwrap();
        let last = segments.last_mut().unwrap();
        let at = at.min(last.len() - 1);
        // The identification may change: it means nothing where DF is set.
        if v6 || !(18..20).contains(&at) {
            last[at] ^= 1 << bit;
        }
        mend(last);
        if let Ok(Packet { kind: Kind::Ip(ip), .. }) = Packet::parse(last) {
            last.truncate(ip.end);
        }
        if let Some((merged, out)) = join(&segments) {
            prop_assert_eq!(cut(&merged, &out).unwrap(), segments);
        }
    }

    #[test]
    fn any_bytes_are_survived(
        mut frame in prop::collection::vec(any::<u8>(), 0..300), v6: bool, flags: u8, kind in 0u8..6, size: u16,
        start in 30u16..60, offset in prop::sample::select(vec![6u16, 16]),
    ) {
        dress(&mut frame, v6);
        let vnet = VnetHdr { flags: flags | 1, gso_type: kind, hdr_len: 0, gso_size: size, csum_start: start, csum_offset: offset };
        let _ = cut(&frame, &vnet);
        if let Ok(packet) = Packet::parse(&frame)
            && let Some(mut run) = Run::start(&frame, &packet, &vnet)
        {
            prop_assert!(run.first_payload().end <= frame.len());
            let _ = run.add(&frame, &packet, &vnet);
            run.finish();
        }
    }
}

fn short(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap().to_be_bytes()
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
        frame[18..20].copy_from_slice(&short(total - 40));
        frame[20] = if frame[20] & 1 == 0 {
            PROTO_TCP
        } else {
            PROTO_UDP
        };
    } else {
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&short(total));
        frame[20..22].fill(0);
        frame[23] = if frame[23] & 1 == 0 {
            PROTO_TCP
        } else {
            PROTO_UDP
        };
        frame[24..26].fill(0);
        let csum = finish(fold(sum(&frame[14..34])));
        frame[24..26].copy_from_slice(&csum.to_be_bytes());
    }
}
