use std::net::IpAddr;
use std::time::Duration;

use switch_core::addr::Mac;
use switch_core::wire::checksum::l4_valid;
use switch_core::wire::emit::HeaderBuf;
use switch_core::wire::tcp::ACK;
use switch_core::wire::vnet_hdr::GSO_TCPV4;

use super::*;
use crate::endpoint::RX_BUFFER;
use crate::endpoint::memory::{self, MemoryEndpoint};

/// A bad link, and the far end of the wire before it.
fn link(plan: Impairment) -> (Faulty, MemoryEndpoint) {
    let (near, far) = memory::pair(4096).unwrap();
    (Faulty::new(Box::new(near), plan), far)
}

fn share(percent: u32) -> Chance {
    Chance::millionths(percent * 10_000).unwrap()
}

fn send(to: &mut dyn Endpoint, count: u16) {
    for n in 0..count {
        let name = n.to_be_bytes();
        to.tx(&VnetHdr::default(), &[IoSlice::new(&name)]).unwrap();
    }
}

/// What arrives until nothing does any more, each held frame in its time.
fn receive(at: &mut dyn Endpoint) -> Vec<(VnetHdr, Vec<u8>)> {
    let mut buf = vec![0; RX_BUFFER];
    let mut got = Vec::new();
    loop {
        match at.rx(&mut buf) {
            Ok(r) => got.push((r.vnet, buf[r.start..r.end].to_vec())),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                let Some(due) = at.poll_timeout() else {
                    return got;
                };
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
    }
}

fn numbers(frames: Vec<(VnetHdr, Vec<u8>)>) -> Vec<u16> {
    let number = |(_, frame): (_, Vec<u8>)| u16::from_be_bytes([frame[0], frame[1]]);
    frames.into_iter().map(number).collect()
}

/// The numbers of 1,000 frames that passed up and down.
fn passed(plan: Impairment) -> [Vec<u16>; 2] {
    let (mut near, mut far) = link(plan);
    send(&mut far, 1000);
    let up = numbers(receive(&mut near));
    send(&mut near, 1000);
    // Whoever owns the endpoint calls when it is due.
    while let Some(due) = near.poll_timeout() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        assert!(near.rx(&mut [0; 64]).is_err());
    }
    [up, numbers(receive(&mut far))]
}

#[test]
fn a_good_link_passes_everything() {
    for way in passed(Impairment::default()) {
        assert_eq!(way, (0..1000).collect::<Vec<_>>());
    }
}

#[test]
fn losses_are_as_many_as_asked_and_repeat() {
    let plan = |seed| Impairment {
        loss: share(10),
        seed,
        ..Impairment::default()
    };
    let first = passed(plan(1));
    for way in &first {
        assert!((850..950).contains(&way.len()), "{}", way.len());
        assert!(way.is_sorted());
    }
    assert_ne!(first[0], first[1], "each way has its own fate");
    assert_eq!(first, passed(plan(1)));
    assert_ne!(first, passed(plan(2)));
}

#[test]
fn doubles_and_late_frames_are_all_there() {
    let plan = Impairment {
        duplicate: share(20),
        reorder: share(20),
        ..Impairment::default()
    };
    for mut way in passed(plan) {
        assert!((1150..1250).contains(&way.len()), "{}", way.len());
        let swaps = way.windows(2).filter(|w| w[0] > w[1]).count();
        assert!(swaps > 100, "{swaps}");
        way.sort_unstable();
        way.dedup();
        assert_eq!(way, (0..1000).collect::<Vec<_>>());
    }
}

#[test]
fn a_delay_is_a_delay() {
    let delay = Duration::from_millis(30);
    let (mut near, mut far) = link(Impairment {
        delay,
        ..Impairment::default()
    });
    let begin = Instant::now();
    send(&mut far, 10);
    assert_eq!(numbers(receive(&mut near)), (0..10).collect::<Vec<_>>());
    assert!(begin.elapsed() >= delay);
}

/// A TCP frame with this much payload, whose checksum is partial.
fn tcp(payload: usize, mss: u16) -> (VnetHdr, Vec<u8>) {
    let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
    let mut head = HeaderBuf::new();
    head.eth(Mac([2; 6]), Mac([6; 6]), 0x0800);
    head.ip(a, b, PROTO_TCP, 64, 0, 20 + payload);
    head.tcp(1, 2, 3, 4, ACK, 5, &[]);
    let mut vnet = head.set_partial(34, a, b, PROTO_TCP, 20 + payload);
    if payload > usize::from(mss) {
        (vnet.gso_type, vnet.gso_size, vnet.hdr_len) = (GSO_TCPV4, mss, 54);
    }
    let mut frame = head.as_slice().to_vec();
    frame.resize(54 + payload, 7);
    (vnet, frame)
}

fn valid(frame: &[u8]) -> bool {
    let Ok(Packet {
        kind: Kind::Ip(ip), ..
    }) = Packet::parse(frame)
    else {
        panic!("no packet")
    };
    l4_valid(ip.src, ip.dst, ip.proto, &frame[ip.l4..ip.end])
}

#[test]
fn damage_shows_wherever_it_is() {
    let (mut near, mut far) = link(Impairment {
        corrupt: share(100),
        ..Impairment::default()
    });
    for (payload, segments) in [(0, 1), (100, 1), (1448, 1), (10 * 1448, 10), (60_000, 42)] {
        let (vnet, frame) = tcp(payload, 1448);
        far.tx(&vnet, &[IoSlice::new(&frame)]).unwrap();
        near.tx(
            &vnet,
            &[IoSlice::new(&frame[..54]), IoSlice::new(&frame[54..])],
        )
        .unwrap();
        for got in [receive(&mut near), receive(&mut far)] {
            assert_eq!(got.len(), segments);
            let bad = got.iter().filter(|(_, frame)| !valid(frame)).count();
            assert_eq!(bad, 1, "of {segments}");
            // Nothing tells the receiver to trust the checksum, or to compute it.
            assert!(got.iter().all(|(vnet, _)| *vnet == VnetHdr::default()));
        }
    }
}

#[test]
fn each_segment_has_its_own_fate() {
    let plan = |per| Impairment {
        loss: share(50),
        per,
        ..Impairment::default()
    };
    let (vnet, frame) = tcp(40 * 1448, 1448);
    let (mut near, mut far) = link(plan(Per::Segment));
    far.tx(&vnet, &[IoSlice::new(&frame)]).unwrap();
    near.tx(
        &vnet,
        &[IoSlice::new(&frame[..54]), IoSlice::new(&frame[54..])],
    )
    .unwrap();
    for got in [receive(&mut near), receive(&mut far)] {
        assert!((10..30).contains(&got.len()), "{}", got.len());
        let at = |(_, frame): &(VnetHdr, Vec<u8>)| {
            u32::from_be_bytes([38, 39, 40, 41].map(|i| frame[i]))
        };
        assert!(got.is_sorted_by_key(at), "those that pass keep their order");
        assert!(
            got.iter()
                .all(|(vnet, frame)| *vnet == VnetHdr::default() && valid(frame))
        );
    }
    // By the frame, all is lost or nothing.
    let (mut near, mut far) = link(plan(Per::Frame));
    for _ in 0..20 {
        far.tx(&vnet, &[IoSlice::new(&frame)]).unwrap();
    }
    let got = receive(&mut near);
    assert!((1..20).contains(&got.len()), "{}", got.len());
    assert!(got.iter().all(|one| *one == (vnet, frame.clone())));
}

#[test]
fn what_no_checksum_protects_is_not_damaged() {
    let (mut near, mut far) = link(Impairment {
        corrupt: share(100),
        ..Impairment::default()
    });
    let mut arp = vec![0xff; 42];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    far.tx(&VnetHdr::default(), &[IoSlice::new(&arp)]).unwrap();
    assert_eq!(receive(&mut near), [(VnetHdr::default(), arp)]);
}
