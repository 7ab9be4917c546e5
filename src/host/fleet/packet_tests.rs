//! Packet endpoints over a veth pair of the kernel's, as root and as an ordinary user.

use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use switch_core::addr::Mac;
use switch_core::testing::packets::{Link as Wire, Segment};
use switch_core::wire::vnet_hdr::{self, VnetHdr};

use super::super::broker::{Broker, Event};
use super::super::link::{self, LinkChange};
use super::super::testing::{alone, event, wait_until};
use super::testing::{Holder, joined, link_spec, old};
use super::*;
use crate::endpoint::packet::{self, PacketEndpoint};
use crate::endpoint::{Endpoint, RX_BUFFER};

fn packet_spec(endpoint: u32) -> LinkSpec {
    LinkSpec {
        kind: Kind::Packet,
        ..link_spec(endpoint)
    }
}

/// Both ends of a pair in a namespace of this process's own, each with a packet socket.
fn both_ends() -> [PacketEndpoint; 2] {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).unwrap();
    let far = veth::make(1, "eth0", 1500).unwrap();
    let near = interface::index("eth0").unwrap();
    link::sysctl("net/ipv6/conf/eth0/disable_ipv6", "1").unwrap();
    up(near);
    [near, far].map(|index| {
        let fd = packet::open(index).unwrap();
        PacketEndpoint::new(fd, packet::caps(), true).unwrap()
    })
}

fn up(index: u32) {
    let change = LinkChange {
        up: true,
        ..LinkChange::default()
    };
    link::set_link(&mut interface::netlink().unwrap(), index, &change).unwrap();
}

fn send(to: &mut PacketEndpoint, vnet: &VnetHdr, frame: &[u8]) {
    let (head, rest) = frame.split_at(20);
    let pieces = [IoSlice::new(head), IoSlice::new(rest)];
    to.tx(vnet, &pieces).unwrap();
}

fn next(from: &mut dyn Endpoint) -> io::Result<(VnetHdr, Vec<u8>)> {
    let mut buf = vec![0; RX_BUFFER];
    let got = from.rx(&mut buf)?;
    Ok((got.vnet, buf[got.start..got.end].to_vec()))
}

/// The next frame, which the kernel passes on later than it was sent where it is busy.
fn came(from: &mut dyn Endpoint) -> (VnetHdr, Vec<u8>) {
    let mut got = None;
    wait_until("a frame comes", || match next(from) {
        Err(e) if e.kind() == ErrorKind::WouldBlock => false,
        other => {
            got = Some(other.unwrap());
            true
        }
    });
    got.unwrap()
}

fn is_empty(from: &mut PacketEndpoint) -> bool {
    next(from).is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
}

/// What the kernel dropped by itself of what came to an interface, as on a machine where it is late.
fn dropped(name: &str) -> u64 {
    let all = std::fs::read_to_string("/proc/self/net/dev").unwrap();
    let line = all.lines().find_map(|l| l.trim().strip_prefix(name));
    let mut numbers = line.unwrap().trim_start_matches(':').split_whitespace();
    numbers.nth(3).unwrap().parse().unwrap()
}

/// Frames of every kind, with what is still to be done to them: the payload of a run is `len` bytes long.
fn frames(len: usize) -> Vec<(VnetHdr, Vec<u8>)> {
    let wire = Wire {
        src: Mac([2, 0, 0, 0, 0, 1]),
        dst: Mac([2, 0, 0, 0, 0, 2]),
    };
    let payload: Vec<u8> = (0..len).map(|n| n.to_le_bytes()[0]).collect();
    let ends = [["10.0.0.1:1", "10.0.0.2:2"], ["[fd00::1]:1", "[fd00::2]:2"]];
    let ends = ends.map(|both| both.map(|end| end.parse::<SocketAddr>().unwrap()));
    let segment = Segment {
        payload: &payload,
        ..Segment::default()
    };
    let short = Segment {
        payload: &payload[..100],
        ..Segment::default()
    };
    let each = ends.iter().flat_map(|&[src, dst]| {
        [
            wire.tcp_run(src, dst, 1200, &segment),
            wire.udp_run(src, dst, 1200, &payload),
            (VnetHdr::default(), wire.tcp(src, dst, &short)),
        ]
    });
    each.collect()
}

#[test]
fn frames_of_every_kind_pass_a_pair_both_ways_in_order() {
    alone(|| {
        let [mut a, mut b] = both_ends();
        let sent = frames(60_000);
        // More rounds than the ring has slots, with short and long frames in turn.
        for round in 0..100 {
            for (vnet, frame) in &sent {
                send(&mut a, vnet, frame);
            }
            for (vnet, frame) in &sent {
                let (got, bytes) = came(&mut b);
                assert!(bytes == *frame, "round {round}");
                assert_eq!((got.gso_type, got.gso_size), (vnet.gso_type, vnet.gso_size));
                if vnet.flags & vnet_hdr::NEEDS_CSUM != 0 {
                    assert_eq!(
                        (got.csum_start, got.csum_offset),
                        (vnet.csum_start, vnet.csum_offset)
                    );
                }
            }
            assert!(is_empty(&mut b), "round {round}");
            assert!(is_empty(&mut a), "its own are not told to who sent them");
            std::mem::swap(&mut a, &mut b);
        }
    });
}

#[test]
fn a_tag_that_the_kernel_takes_off_is_put_back() {
    alone(|| {
        let [mut a, mut b] = both_ends();
        for (vnet, frame) in &frames(30_000) {
            for tag in [[0x81, 0, 0x60, 5], [0x88, 0xa8, 0x0f, 0xff]] {
                let tagged = [&frame[..12], &tag, &frame[12..]].concat();
                let mut with = *vnet;
                if vnet.flags & vnet_hdr::NEEDS_CSUM != 0 {
                    with.csum_start += 4;
                    with.hdr_len += 4;
                }
                send(&mut a, &with, &tagged);
                let (got, bytes) = came(&mut b);
                assert!(bytes == tagged, "{tag:?} {vnet:?}");
                assert_eq!(got.gso_type, vnet.gso_type);
                assert!(got.hdr_len == 0 || got.hdr_len > 14, "a TAP refuses it");
                if vnet.flags & vnet_hdr::NEEDS_CSUM != 0 {
                    assert_eq!(got.csum_start, with.csum_start);
                }
            }
        }
        // Of two the kernel takes the outer one, also of the longest frame that a slot is for.
        let (vnet, frame) = &frames(100)[2];
        for pad in [0, 1492 - (frame.len() - 14)] {
            let tags = [0x88, 0xa8, 0x00, 0x07, 0x81, 0, 0x60, 5];
            let tagged = [&frame[..12], &tags, &frame[12..], &vec![9; pad]].concat();
            send(&mut a, vnet, &tagged);
            assert!(came(&mut b).1 == tagged, "{pad}");
            assert_eq!(b.lost(), 0);
        }
    });
}

#[test]
fn what_finds_the_ring_full_is_lost_and_the_rest_is_in_order() {
    alone(|| {
        let [mut a, mut b] = both_ends();
        let (short, long) = (&frames(100)[2], &frames(60_000)[0]);
        let mut refused = dropped("weft-1");
        for pattern in [[short, short], [long, short]] {
            for n in 0..2000_u16 {
                for (vnet, frame) in pattern {
                    let mut frame = frame.clone();
                    frame[4..6].copy_from_slice(&n.to_be_bytes());
                    send(&mut a, vnet, &frame);
                }
            }
            let (mut numbers, mut told) = (Vec::new(), 0);
            wait_until("each is passed on or told to be lost", || {
                loop {
                    match next(&mut b) {
                        Ok((_, frame)) => numbers.push(u16::from_be_bytes([frame[4], frame[5]])),
                        Err(e) if e.kind() == ErrorKind::Interrupted => {}
                        Err(e) => {
                            assert_eq!(e.kind(), ErrorKind::WouldBlock);
                            break;
                        }
                    }
                }
                told += b.lost();
                let before = std::mem::replace(&mut refused, dropped("weft-1"));
                told += refused - before;
                u64::try_from(numbers.len()).unwrap() + told == 4000
            });
            assert!((50..4000).contains(&numbers.len()), "{}", numbers.len());
            assert_eq!(b.lost(), 0, "once");
            assert!(numbers.is_sorted(), "{numbers:?}");
            // And then it goes on.
            send(&mut a, &long.0, &long.1);
            assert!(came(&mut b).1 == long.1);
        }
    });
}

#[test]
fn an_interface_that_is_down_comes_back_and_one_that_is_gone_says_so() {
    alone(|| {
        let [mut a, mut b] = both_ends();
        let (vnet, frame) = &frames(100)[2];
        let far = interface::index("weft-1").unwrap();
        let set = |on: bool| {
            use netlink_packet_route::RouteNetlinkMessage;
            use netlink_packet_route::link::{LinkFlags, LinkMessage};
            let mut message = LinkMessage::default();
            message.header.index = far;
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if on {
                LinkFlags::Up
            } else {
                LinkFlags::empty()
            };
            let mut netlink = interface::netlink().unwrap();
            netlink
                .request(RouteNetlinkMessage::SetLink(message), 0)
                .unwrap();
        };
        set(false);
        let error = next(&mut b).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert!(b.holds() && b.poll_timeout().is_some());
        let refused = b.tx(vnet, &[IoSlice::new(frame)]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENETDOWN));
        set(true);
        // The other end has its carrier back some time later.
        wait_until("frames pass again", || {
            let _ = a.tx(vnet, &[IoSlice::new(frame)]);
            next(&mut b).is_ok_and(|got| got.1 == *frame)
        });
        assert!(!b.holds() && is_empty(&mut b));

        veth::delete(interface::index("eth0").unwrap()).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        for end in [&mut a, &mut b] {
            loop {
                let error = next(end).unwrap_err();
                if error.raw_os_error() == Some(libc::ENODEV) {
                    break;
                }
                assert_eq!(error.raw_os_error(), Some(libc::EIO));
                assert!(Instant::now() < until, "it is never told");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    });
}

#[test]
fn a_pair_is_made_left_adopted_and_removed() {
    alone(|| {
        let holder = Holder::new(true);
        let state = "ip -d addr show eth0; ip -d addr show weft-5; ip route; ip -6 route";
        let mut broker = Broker::spawn().unwrap();
        let id = joined(&mut broker, &holder);
        let link = broker.add_link(id, &packet_spec(5)).unwrap();
        assert!(link.opened.how.vnet && link.opened.how.caps.tso && link.warnings.is_empty());
        let before = holder.sh(state);
        let far = holder.sh("ip addr show weft-5");
        assert!(far.contains("NOARP") && !far.contains("inet"), "{far}");
        assert!(before.contains("10.87.9.7/24") && before.contains("fd87::7/64"));
        assert!(holder.has("weft-5"));
        let error = broker.add_link(id, &packet_spec(5)).unwrap_err();
        assert_eq!(error, FleetError::InterfaceExists("eth0".to_owned()));
        kill(broker.pid(), Signal::SIGKILL).unwrap();
        assert!(matches!(event(&mut broker), Event::Lost(_)));
        drop(link);

        let mut broker = Broker::spawn().unwrap();
        let id = joined(&mut broker, &holder);
        for wrong in [packet_spec(6), link_spec(5)] {
            let error = broker.adopt_link(id, &wrong).unwrap_err();
            assert_eq!(error, FleetError::InterfaceMissing("eth0".to_owned()));
        }
        let link = broker.adopt_link(id, &packet_spec(5)).unwrap();
        assert_eq!(holder.sh(state), before);
        let mut end = link.opened.endpoint(true).unwrap();
        while next(&mut *end).is_ok() {}
        holder.sh("ping -c 1 -W 1 10.87.9.1 || true");
        wait_until("frames come out again", || next(&mut *end).is_ok());
        holder.sh("ip link set eth0 down; ip link set eth0 name other");
        broker.remove_link(&old(id, "eth0", 5)).unwrap();
        assert!(!holder.has("other") && !holder.has("weft-5"));

        // One that cannot be had leaves nothing behind.
        let bad = LinkSpec {
            addresses: vec![("10.87.9.7".parse().unwrap(), 99)],
            ..packet_spec(7)
        };
        broker.add_link(id, &bad).unwrap_err();
        assert!(!holder.has("eth0") && !holder.has("weft-7"));
        // A far end without its near end is in nobody's way.
        let near = "ip link set eth0 netns 1 2>/dev/null || ip link set eth0 alias gone";
        broker.add_link(id, &packet_spec(8)).unwrap();
        holder.sh(near);
        broker.remove_link(&old(id, "eth0", 8)).unwrap();
        assert!(!holder.has("weft-8"));
    });
}
