//! Datagrams cut, shuffled, doubled and put together, by ourselves and by etherparse.

use core::net::IpAddr;
use core::time::Duration;

use etherparse::SlicedPacket;
use etherparse::defrag::IpDefragPool;
use proptest::prelude::*;

use super::{Reassembly, fragment};
use crate::addr::Mac;
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::emit::HeaderBuf;
use crate::wire::packet::{Kind, PROTO_UDP, Packet};

fn datagram(v6: bool, payload: &[u8]) -> Vec<u8> {
    let text = if v6 {
        ["fd00::2", "fd00::1"]
    } else {
        ["10.0.0.2", "10.0.0.1"]
    };
    let [src, dst]: [IpAddr; 2] = text.map(|t| t.parse().unwrap());
    let mut h = HeaderBuf::new();
    h.eth(Mac([2; 6]), Mac([4; 6]), if v6 { 0x86dd } else { 0x0800 });
    if let (IpAddr::V4(s), IpAddr::V4(d)) = (src, dst) {
        h.ipv4(
            s.octets(),
            d.octets(),
            (PROTO_UDP, 64, 0),
            (0, 0),
            8 + payload.len(),
        );
    } else {
        h.ip(src, dst, PROTO_UDP, 64, 0, 8 + payload.len());
    }
    h.udp(4000, 53, payload.len());
    h.set_full(if v6 { 54 } else { 34 }, src, dst, PROTO_UDP, &[payload]);
    [h.as_slice(), payload].concat()
}

fn cut(frame: &[u8], mtu: u16, id: u32) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let n = fragment(frame, mtu, id, &mut |pieces| all.push(pieces.concat())).unwrap();
    assert_eq!(n, all.len());
    all
}

trait Concat {
    fn concat(&self) -> Vec<u8>;
}

impl Concat for [std::io::IoSlice<'_>] {
    fn concat(&self) -> Vec<u8> {
        self.iter().flat_map(|p| p.to_vec()).collect()
    }
}

fn push(r: &mut Reassembly, frame: &[u8]) -> Result<Option<Vec<u8>>, DropReason> {
    r.push(Tick::ZERO, frame, &Packet::parse(frame)?)
}

/// One piece by hand: offset in units of 8 bytes.
fn piece(v6: bool, offset: u16, more: bool, data: &[u8]) -> Vec<u8> {
    let mut h = HeaderBuf::new();
    h.eth(Mac([2; 6]), Mac([4; 6]), if v6 { 0x86dd } else { 0x0800 });
    if v6 {
        h.ipv6([1; 16], [2; 16], (44, 64, 0), 8 + data.len());
        h.fragment(PROTO_UDP, (offset * 8) | u16::from(more), 77);
    } else {
        let field = offset | if more { 0x2000 } else { 0 };
        h.ipv4(
            [10, 0, 0, 2],
            [10, 0, 0, 1],
            (PROTO_UDP, 64, 0),
            (77, field),
            data.len(),
        );
    }
    [h.as_slice(), data].concat()
}

#[test]
fn what_fits_is_not_cut() {
    let frame = datagram(false, &[1; 100]);
    assert_eq!(cut(&frame, 128, 1), std::slice::from_ref(&frame));
    assert_eq!(cut(&frame, 127, 1).len(), 2);
    let none = &mut |_: &[std::io::IoSlice<'_>]| panic!("given");
    assert_eq!(fragment(&frame, 27, 1, none), Err(DropReason::TooBig));
    assert_eq!(
        fragment(&piece(true, 0, true, &[0; 64]), 68, 1, none),
        Err(DropReason::Fragment)
    );
}

#[test]
fn an_overlap_ends_the_datagram_and_what_comes_later() {
    for v6 in [false, true] {
        let mut r = Reassembly::default();
        assert_eq!(push(&mut r, &piece(v6, 0, true, &[1; 16])), Ok(None));
        assert_eq!(
            push(&mut r, &piece(v6, 1, true, &[2; 16])),
            Err(DropReason::Fragment)
        );
        assert_eq!(
            push(&mut r, &piece(v6, 2, false, &[3; 16])),
            Err(DropReason::Fragment)
        );
        assert_eq!(
            push(&mut r, &piece(v6, 0, true, &[1; 16])),
            Err(DropReason::Fragment)
        );
        assert_eq!(r.held(), 0);
    }
}

#[test]
fn two_ends_are_a_contradiction() {
    let mut r = Reassembly::default();
    assert_eq!(push(&mut r, &piece(true, 4, false, &[1; 8])), Ok(None));
    assert_eq!(
        push(&mut r, &piece(true, 6, true, &[1; 8])),
        Err(DropReason::Fragment),
        "beyond"
    );
    let mut r = Reassembly::default();
    assert_eq!(push(&mut r, &piece(true, 6, true, &[1; 8])), Ok(None));
    assert_eq!(
        push(&mut r, &piece(true, 4, false, &[1; 8])),
        Err(DropReason::Fragment),
        "before"
    );
    // A hole as long as what lies beyond the end: the sum of lengths alone would call it whole.
    let mut r = Reassembly::default();
    assert_eq!(push(&mut r, &piece(false, 0, true, &[1; 8])), Ok(None));
    assert_eq!(push(&mut r, &piece(false, 3, true, &[2; 8])), Ok(None));
    assert_eq!(
        push(&mut r, &piece(false, 2, false, &[3; 8])),
        Err(DropReason::Fragment)
    );
}

#[test]
fn impossible_pieces_are_dropped_alone() {
    let mut r = Reassembly::default();
    assert_eq!(
        push(&mut r, &piece(false, 0, true, &[1; 15])),
        Err(DropReason::Malformed)
    );
    assert_eq!(
        push(&mut r, &piece(false, 1, true, &[])),
        Err(DropReason::Malformed)
    );
    assert_eq!(
        push(&mut r, &piece(false, 8191, false, &[1; 9])),
        Err(DropReason::Malformed)
    );
    assert!(r.is_empty());
}

#[test]
fn a_header_makes_the_whole_too_long_for_its_length_field() {
    let mut r = Reassembly::default();
    let (first, last) = (vec![0; 65_504], [0; 20]);
    assert_eq!(push(&mut r, &piece(false, 0, true, &first)), Ok(None));
    assert_eq!(
        push(&mut r, &piece(false, 8188, false, &last)),
        Err(DropReason::Fragment)
    );
    assert!(r.is_empty() && r.held() == 0);
}

#[test]
fn only_the_patient_end() {
    let mut r = Reassembly::default();
    let frame = piece(true, 0, true, &[1; 16]);
    let packet = Packet::parse(&frame).unwrap();
    assert_eq!(r.poll_timeout(), None);
    r.push(Tick::from_millis(5), &frame, &packet).unwrap();
    let deadline = Tick::from_millis(5) + Duration::from_secs(30);
    assert_eq!(r.poll_timeout(), Some(deadline));
    let mut told = Vec::new();
    let mut tell = |first: &[u8]| told.push(first.to_vec());
    r.handle_timeout(Tick::from_nanos(deadline.as_nanos() - 1), &mut tell);
    assert_eq!((r.len(), r.lost()), (1, 0));
    assert_eq!(r.handle_timeout(deadline, &mut tell), 1);
    assert_eq!((r.len(), r.lost(), r.held()), (0, 1, 0));
}

#[test]
fn a_flood_of_first_pieces_stays_within_bounds() {
    let mut r = Reassembly::default();
    for id in 0..1000 {
        let frame = cut(&datagram(true, &[0; 9000]), 1500, id).remove(0);
        assert_eq!(push(&mut r, &frame), Ok(None));
        assert!(r.len() <= 64);
    }
    assert_eq!(r.lost(), 1000 - 64);
    let mut r = Reassembly::default();
    for id in 0..200 {
        for frame in &cut(&datagram(true, &[0; 60_000]), 9000, id)[1..] {
            assert_eq!(push(&mut r, frame), Ok(None));
            assert!(r.held() > 0);
        }
    }
}

#[test]
fn a_flood_of_pieces_takes_nobody_elses_room() {
    let mut r = Reassembly::default();
    let whole = datagram(false, &[7; 2_000]);
    let mut others = Vec::new();
    for n in 1..=3 {
        let mut of = whole.clone();
        of[6..12].copy_from_slice(&[n; 6]);
        others.push(cut(&of, 1500, 7));
    }
    for pieces in &others {
        assert_eq!(push(&mut r, &pieces[0]), Ok(None));
    }
    // Some of one piece, which fill the places, and some of many, which fill the room.
    for (len, mtu, pieces) in [(9_000, 1_500, 1), (60_000, 9_000, 6)] {
        for id in 0..200 {
            for mut frame in cut(&datagram(true, &vec![0; len]), mtu, id).drain(..pieces) {
                frame[6..12].copy_from_slice(&[9; 6]);
                assert_eq!(push(&mut r, &frame), Ok(None));
                r.held();
            }
        }
    }
    assert!(r.lost() > 100);
    for pieces in &others {
        let last = push(&mut r, &pieces[1]).unwrap();
        assert!(last.is_some(), "all of it is here");
    }
}

#[test]
fn tags_and_senders_do_not_mix() {
    let mut r = Reassembly::default();
    let first = piece(false, 0, true, &[1; 16]);
    let mut other = piece(false, 2, false, &[2; 16]);
    other[6] ^= 2;
    assert_eq!(push(&mut r, &first), Ok(None));
    assert_eq!(push(&mut r, &other), Ok(None), "another sender");
    let mut tagged = piece(false, 2, false, &[2; 16]);
    tagged.splice(12..12, [0x81, 0, 0, 9]);
    assert_eq!(push(&mut r, &tagged), Ok(None), "another VLAN");
    assert_eq!(r.len(), 3);
}

#[test]
fn marks_of_congestion_survive() {
    for (v6, tos) in [(false, 2u8), (true, 2), (false, 0)] {
        let mut r = Reassembly::default();
        let mark = |mut frame: Vec<u8>, tos: u8| {
            if v6 {
                frame[15] = tos << 4;
            } else {
                let old = [frame[14], frame[15]];
                frame[15] = tos;
                let csum = u16::from_be_bytes([frame[24], frame[25]]);
                let csum = crate::wire::checksum::patch(csum, &old, &[old[0], tos]);
                frame[24..26].copy_from_slice(&csum.to_be_bytes());
            }
            frame
        };
        push(&mut r, &mark(piece(v6, 0, true, &[1; 16]), tos)).unwrap();
        let whole = push(&mut r, &mark(piece(v6, 2, false, &[2; 16]), 3));
        if tos == 0 {
            assert_eq!(whole, Err(DropReason::Fragment), "marked, but not capable");
            continue;
        }
        let whole = whole.unwrap().unwrap();
        let Kind::Ip(ip) = Packet::parse(&whole).unwrap().kind else {
            panic!("not IP")
        };
        assert_eq!(ip.tos, 3);
    }
}

#[test]
fn extension_headers_inside_of_the_datagram_are_part_of_it() {
    // Destination options and UDP, cut behind the fragment header: the first piece names 60, later ones too.
    let data = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &[7; 24]].concat();
    let mut r = Reassembly::default();
    let part = |offset, more, data: &[u8]| {
        let mut frame = piece(true, offset, more, data);
        frame[54] = 60;
        frame
    };
    assert_eq!(push(&mut r, &part(0, true, &data[..16])), Ok(None));
    let whole = push(&mut r, &part(2, false, &data[16..])).unwrap().unwrap();
    assert_eq!(&whole[54..], &data);
    let Kind::Ip(ip) = Packet::parse(&whole).unwrap().kind else {
        panic!("not IP")
    };
    assert_eq!((ip.proto, ip.l4), (PROTO_UDP, 62));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_order_and_doubles_give_the_whole(
        v6: bool, payload in prop::collection::vec(any::<u8>(), 1500..12_000), mtu in 576u16..1500,
        seed in prop::collection::vec(any::<prop::sample::Index>(), 64), pad in 0usize..6,
    ) {
        let frame = datagram(v6, &payload);
        let mut pieces = cut(&frame, mtu, 0x0001_0203);
        for p in &pieces {
            prop_assert!(p.len() - 14 <= usize::from(mtu));
        }
        let n = pieces.len();
        for pair in seed.chunks(2) {
            pieces.swap(pair[0].index(n), pair[1].index(n));
        }
        let mut r = Reassembly::default();
        for (i, p) in pieces.iter().enumerate() {
            let mut p = p.clone();
            p.resize(p.len() + pad, 0xaa);
            let got = push(&mut r, &p);
            if i + 1 < n {
                prop_assert_eq!(got, Ok(None));
                prop_assert_eq!(push(&mut r, &pieces[seed[i % 64].index(i + 1)]), Ok(None), "a double");
            } else {
                let mut whole = got.unwrap().expect("the last one");
                if !v6 {
                    // Fragments bear an identification; the rest is as before.
                    whole[18..20].copy_from_slice(&[0, 0]);
                    whole[24..26].copy_from_slice(&frame[24..26]);
                }
                prop_assert!(whole == frame);
            }
        }
        prop_assert!(r.is_empty() && r.held() == 0);
    }

    #[test]
    fn etherparse_puts_together_what_is_cut(
        v6: bool, payload in prop::collection::vec(any::<u8>(), 1500..12_000), mtu in 576u16..1500,
    ) {
        let frame = datagram(v6, &payload);
        let mut pool = IpDefragPool::<(), ()>::new();
        let mut whole = None;
        for p in cut(&frame, mtu, 9) {
            prop_assert!(whole.is_none());
            whole = pool.process_sliced_packet(&SlicedPacket::from_ethernet(&p).unwrap(), (), ()).unwrap();
        }
        prop_assert_eq!(&whole.unwrap().payload[8..], &payload);
    }

    #[test]
    fn hostile_pieces_are_survived(
        v6: bool, steps in prop::collection::vec((0u16..12, 0usize..60, any::<bool>(), 0u8..3), 1..200),
    ) {
        let mut r = Reassembly::default();
        for (offset, len, more, fill) in steps {
            if let Ok(Some(whole)) = push(&mut r, &piece(v6, offset, more, &vec![fill; len])) {
                let packet = Packet::parse(&whole).unwrap();
                let Kind::Ip(ip) = packet.kind else { panic!("not IP") };
                prop_assert!(ip.frag.is_none() && ip.end == whole.len());
            }
            r.held();
        }
    }
}
