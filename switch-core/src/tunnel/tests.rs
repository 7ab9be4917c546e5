//! What is cut comes together again, what came together is what was cut, and what lies is left alone.

use core::net::SocketAddr;
use std::io::IoSlice;

use proptest::prelude::*;

use super::cut::{Cut, MAX_HEADERS, Walk};
use super::gather::{Gather, Said};
use super::vxlan;
use super::{ecn, entropy};
use crate::addr::{Mac, Vni};
use crate::gso::split::split;
use crate::testing::packets::{Link, Segment};
use crate::verdict::DropReason;
use crate::wire::checksum::{finish, fold, l4_valid, sum};
use crate::wire::packet::{Ip, Kind, Packet};
use crate::wire::tcp::ACK;
use crate::wire::vnet_hdr::{DATA_VALID, GSO_TCPV4, GSO_UDP_L4, NEEDS_CSUM, VnetHdr};

const LINK: Link = Link {
    src: Mac([2, 0, 0, 0, 0, 1]),
    dst: Mac([2, 0, 0, 0, 0, 2]),
};
const MTU: u16 = 1450;
/// A segment in the middle of a stream.
const ACKED: Segment<'_> = Segment {
    seq: 1,
    ack: 1,
    flags: ACK,
    window: 500,
    options: &[],
    payload: &[],
};

fn ends(v6: bool) -> (SocketAddr, SocketAddr) {
    let text = if v6 {
        ["[fd00::1]:4000", "[fd00::2]:80"]
    } else {
        ["10.0.0.1:4000", "10.0.0.2:80"]
    };
    let [a, b] = text.map(|t| t.parse().unwrap());
    (a, b)
}

/// A super-frame, with DF set as every stack does.
fn run(v6: bool, tcp: bool, size: u16, payload: &[u8]) -> (VnetHdr, Vec<u8>) {
    let (a, b) = ends(v6);
    let segment = Segment { payload, ..ACKED };
    let (vnet, mut frame) = if tcp {
        LINK.tcp_run(a, b, size, &segment)
    } else {
        LINK.udp_run(a, b, size, payload)
    };
    set_df(&mut frame);
    (vnet, frame)
}

fn set_df(frame: &mut [u8]) {
    if frame[12..14] == [8, 0] {
        frame[20] |= 0x40;
        frame[24..26].fill(0);
        let csum = finish(fold(sum(&frame[14..34])));
        frame[24..26].copy_from_slice(&csum.to_be_bytes());
    }
}

/// A tag behind the addresses.
fn tagged(vnet: &VnetHdr, frame: &[u8]) -> (VnetHdr, Vec<u8>) {
    let vnet = VnetHdr {
        csum_start: vnet.csum_start + 4,
        hdr_len: vnet.hdr_len + 4,
        ..*vnet
    };
    (
        vnet,
        [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat(),
    )
}

fn pieces<'a>(frame: &'a [u8], bounds: &[usize]) -> Vec<IoSlice<'a>> {
    let mut bounds: Vec<usize> = bounds.iter().map(|b| b % (frame.len() + 1)).collect();
    bounds.extend([0, frame.len()]);
    bounds.sort_unstable();
    bounds
        .windows(2)
        .map(|w| IoSlice::new(&frame[w[0]..w[1]]))
        .collect()
}

/// What `Cut` makes of a frame in pieces.
fn cut(
    vnet: &VnetHdr,
    frame: &[u8],
    bounds: &[usize],
    partial: bool,
) -> Result<Vec<Vec<u8>>, DropReason> {
    let cut = Cut::new(frame, frame.len(), vnet)?;
    let pieces = pieces(frame, bounds);
    let mut walk = Walk::new(&pieces);
    assert!(walk.take(cut.headers(), |_| {}));
    let one = |n| {
        let mut payload = Vec::new();
        let total = walk
            .take_summed(cut.payload(n).len(), |part| payload.extend_from_slice(part))
            .unwrap();
        let mut head = [0; MAX_HEADERS];
        cut.write(frame, n, (!partial).then_some(total), &mut head)
            .unwrap();
        [&head[..cut.headers()], &payload].concat()
    };
    Ok((0..cut.count()).map(one).collect())
}

fn oracle(vnet: &VnetHdr, frame: &[u8]) -> Result<Vec<Vec<u8>>, DropReason> {
    let mut all = Vec::new();
    split(frame, vnet, &mut Vec::new(), &mut |f| all.push(f.to_vec()))?;
    Ok(all)
}

/// What `Gather` makes of frames that came together.
fn gather(frames: &[Vec<u8>], said: Said, covered: bool) -> Vec<(VnetHdr, Vec<u8>)> {
    let lead = vxlan::header(Vni::new(7).unwrap());
    let mut buf: Vec<u8> = frames
        .iter()
        .flat_map(|f| [&[0xee; 16][..], &lead, f].concat())
        .collect();
    let (mut gather, mut at, mut out) = (Gather::default(), 0, Vec::new());
    let mut each = |vnet: &VnetHdr, frame: &[u8]| out.push((*vnet, frame.to_vec()));
    for frame in frames {
        let len = vxlan::HEADER + frame.len();
        // As an opener does: from behind the header of the seal to where it is told.
        let to = if covered { gather.cover(&buf, at) } else { at };
        buf.copy_within(at + 16..at + 16 + len, to);
        gather.push(&mut buf, to + vxlan::HEADER..to + len, said, MTU, &mut each);
        at += 16 + len;
    }
    gather.end(&mut buf, &mut each);
    out
}

fn ip(frame: &[u8]) -> Ip {
    let Kind::Ip(ip) = Packet::parse(frame).unwrap().kind else {
        panic!("no IP")
    };
    ip
}

fn valid(frame: &[u8]) -> bool {
    let ip = ip(frame);
    l4_valid(ip.src, ip.dst, ip.proto, &frame[ip.l4..ip.end])
}

fn mix(len: usize) -> Vec<u8> {
    (0..len)
        .map(|n| (n * 31 + n / 251).to_le_bytes()[0])
        .collect()
}

proptest! {
    #[test]
    fn cut_is_split_and_gather_undoes_it(
        (v6, tcp, tag, covered) in any::<(bool, bool, bool, bool)>(),
        size in 500_u16..1390,
        segments in 1_usize..40,
        short in 0_usize..500,
        bounds in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let len = (usize::from(size) * segments).saturating_sub(short).max(1);
        let (mut vnet, mut frame) = run(v6, tcp, size, &mix(len));
        if tag {
            (vnet, frame) = tagged(&vnet, &frame);
        }
        let full = cut(&vnet, &frame, &bounds, false).unwrap();
        prop_assert_eq!(&full, &oracle(&vnet, &frame).unwrap());
        // The checksums are as they were: pseudo-header only.
        let offset = if tcp { 16 } else { 6 };
        let partial = cut(&vnet, &frame, &bounds, true).unwrap();
        let said = Said::Partial(vnet.csum_start, offset);
        for (frames, said) in [(full, Said::Nothing), (partial, said)] {
            let whole = gather(&frames, said, covered);
            prop_assert_eq!(whole.len(), 1);
            let (got, bytes) = &whole[0];
            if frames.len() > 1 {
                prop_assert_eq!(bytes, &frame);
                prop_assert_eq!((got.gso_type, got.gso_size, got.flags), (vnet.gso_type, size, NEEDS_CSUM));
            } else {
                prop_assert_eq!(bytes, &frames[0]);
            }
        }
    }

    #[test]
    fn frames_of_any_flows_come_out_whole_and_in_order(
        picks in prop::collection::vec((0_u8..5, 1_usize..900), 1..40),
        covered in any::<bool>(),
    ) {
        let (a, b) = ends(false);
        let frames: Vec<Vec<u8>> = picks.iter().map(|&(kind, len)| {
            let payload = mix(len);
            let mut frame = match kind {
                0 => LINK.udp(a, b, &payload),
                1 => LINK.udp(b, a, &payload[..len.min(64)]),
                2 => LINK.tcp(a, b, &Segment { payload: &payload, ..ACKED }),
                3 => LINK.frame(0x88b5, &payload),
                _ => LINK.echo(a.ip(), b.ip(), 1, 2, &payload),
            };
            set_df(&mut frame);
            frame
        }).collect();
        let mut out = Vec::new();
        for (vnet, frame) in gather(&frames, Said::Nothing, covered) {
            if vnet.is_gso() {
                out.extend(oracle(&vnet, &frame).unwrap());
            } else {
                out.push(frame);
            }
        }
        // The identification of IPv4 means nothing where DF is set.
        let plain = |mut frame: Vec<u8>| {
            if frame[12..14] == [8, 0] {
                frame[18..20].fill(0);
                frame[24..26].fill(0);
            }
            frame
        };
        let (out, frames): (Vec<_>, Vec<_>) =
            (out.into_iter().map(plain).collect(), frames.into_iter().map(plain).collect());
        prop_assert_eq!(out, frames);
    }

    #[test]
    fn no_bytes_make_it_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        (flags, gso_type) in any::<(u8, u8)>(),
        (gso_size, csum_start, csum_offset) in (0_u16..100, 0_u16..100, 0_u16..20),
        len in 0_usize..70_000,
    ) {
        let vnet = VnetHdr { flags, gso_type, hdr_len: 0, gso_size, csum_start, csum_offset };
        if let Ok(cut) = Cut::new(&bytes, len, &vnet) {
            for n in 0..cut.count() {
                let mut out = [0; MAX_HEADERS];
                let _ = cut.write(&bytes, n, Some(7), &mut out);
            }
        }
        let mut copy = bytes.clone();
        let _ = ecn::inward(&mut copy, flags);
        let _ = (entropy::of_flow(&bytes), ecn::tos_of(&bytes));
        gather(&[bytes.clone(), bytes], Said::Partial(csum_start, csum_offset), true);
    }
}

#[test]
fn lies_about_a_super_frame_are_refused() {
    let (vnet, frame) = run(false, true, 1000, &mix(3000));
    let whole = frame.len();
    assert_eq!(Cut::new(&frame, whole, &vnet).unwrap().count(), 3);
    let absurd = [
        VnetHdr {
            gso_size: 0,
            ..vnet
        },
        VnetHdr {
            gso_size: 1,
            ..vnet
        },
        VnetHdr {
            gso_type: GSO_UDP_L4,
            ..vnet
        },
        VnetHdr {
            csum_start: 20,
            ..vnet
        },
        VnetHdr { flags: 0, ..vnet },
        VnetHdr {
            gso_type: 0,
            ..vnet
        },
    ];
    for vnet in absurd {
        assert!(Cut::new(&frame, whole, &vnet).is_err(), "{vnet:?}");
    }
    assert!(
        Cut::new(&frame, whole - 1, &vnet).is_err(),
        "its length field says more"
    );
    assert!(
        Cut::new(&frame[..40], whole, &vnet).is_err(),
        "not all headers are there"
    );
}

#[test]
fn a_wrong_checksum_is_never_made_good() {
    let (vnet, frame) = run(false, true, 600, &mix(2400));
    let mut frames = cut(&vnet, &frame, &[], false).unwrap();
    frames[1][60] ^= 1;
    for covered in [false, true] {
        let out = gather(&frames, Said::Nothing, covered);
        assert_eq!(out.len(), 3, "one before, the bad one, two behind");
        assert_eq!(out[0].0.flags, DATA_VALID);
        assert_eq!((out[1].0, &out[1].1), (VnetHdr::default(), &frames[1]));
        assert!(!valid(&out[1].1));
        assert_eq!(out[2].0.gso_size, 600);
    }
    // Said to be partial, but it is a sum of something else.
    let out = gather(&frames, Said::Partial(34, 16), true);
    assert_eq!(out.len(), 4);
}

#[test]
fn what_differs_stays_apart() {
    let (vnet, frame) = run(false, false, 700, &mix(2100));
    let frames = cut(&vnet, &frame, &[], false).unwrap();
    assert_eq!(gather(&frames, Said::Nothing, true).len(), 1);
    let mut fragment = frames.clone();
    fragment[1][20] = 0x20;
    fragment[1][24..26].fill(0);
    let csum = finish(fold(sum(&fragment[1][14..34])));
    fragment[1][24..26].copy_from_slice(&csum.to_be_bytes());
    let out = gather(&fragment, Said::Nothing, true);
    assert_eq!(out.len(), 3);
    assert_eq!(
        out[1].0,
        VnetHdr::default(),
        "nobody can know a piece's checksum"
    );
    let mut tag = frames.clone();
    tag[1] = tagged(&VnetHdr::default(), &tag[1]).1;
    assert_eq!(gather(&tag, Said::Nothing, true).len(), 3);
    let mut truncated = frames;
    truncated[1].truncate(100);
    let out = gather(&truncated, Said::Nothing, true);
    assert_eq!((out.len(), out[1].0), (3, VnetHdr::default()));
}

#[test]
fn a_kernel_on_this_machine_sends_segments_uncut() {
    let (vnet, frame) = run(false, true, 1410, &mix(50_000));
    let out = gather(std::slice::from_ref(&frame), Said::Nothing, false);
    let (got, bytes) = &out[0];
    assert_eq!(bytes, &frame);
    assert_eq!(
        (got.flags, got.gso_type, got.gso_size),
        (NEEDS_CSUM, GSO_TCPV4, MTU - 40)
    );
    assert_eq!((got.csum_start, got.csum_offset), (vnet.csum_start, 16));
    // A small one has a partial checksum, and nothing else is to be done.
    let (_, frame) = run(false, true, 1410, &mix(300));
    let out = gather(&[frame], Said::Nothing, false);
    assert_eq!((out[0].0.flags, out[0].0.gso_type), (NEEDS_CSUM, 0));
}

#[test]
fn marks_of_congestion_are_combined() {
    let (a, b) = ends(false);
    for v6 in [false, true] {
        for (inner, outer, expected) in [
            (0, 0, Some(0)),
            (0, 1, Some(0)),
            (0, 2, Some(0)),
            (0, 3, None),
            (1, 0, Some(1)),
            (1, 1, Some(1)),
            (1, 2, Some(1)),
            (1, 3, Some(3)),
            (2, 0, Some(2)),
            (2, 1, Some(1)),
            (2, 2, Some(2)),
            (2, 3, Some(3)),
            (3, 0, Some(3)),
            (3, 1, Some(3)),
            (3, 2, Some(3)),
            (3, 3, Some(3)),
        ] {
            let (a, b) = if v6 { ends(true) } else { (a, b) };
            let mut frame = LINK.udp(a, b, b"x");
            if v6 {
                frame[15] |= inner << 4;
            } else {
                frame[15] = 0xb8 | inner;
                set_df(&mut frame);
            }
            assert_eq!(ecn::outward(ecn::tos_of(&frame)), inner);
            let kept = ecn::inward(&mut frame, outer);
            assert_eq!(
                kept.then(|| ip(&frame).tos & 3),
                expected,
                "{inner} in {outer}"
            );
            assert!(v6 || ip(&frame).tos & !3 == 0xb8);
        }
    }
}

#[test]
fn a_flow_has_one_number_and_flows_have_many() {
    let (a, b) = ends(false);
    let of = |frame: &[u8]| entropy::of_flow(frame);
    assert_eq!(of(&LINK.udp(a, b, b"one")), of(&LINK.udp(a, b, &mix(900))));
    let mut seen: Vec<u32> = (0..64)
        .map(|n| of(&LINK.udp(SocketAddr::new(a.ip(), 5000 + n), b, b"x")) >> 30)
        .collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [0, 1, 2, 3], "the upper bits choose the socket");
    let (a, b) = ends(true);
    assert_ne!(of(&LINK.udp(a, b, b"x")), of(&LINK.udp(b, a, b"x")));
}
