//! Two ends of an underlay on the loopback: what is sent by one comes out at the other.

mod sealed;

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use switch_core::addr::{Mac, PeerId, PortId, Vni};
use switch_core::gso::split::split;
use switch_core::testing::packets::{Link, Segment};
use switch_core::tunnel::seal::{OpenKey, SendKey, Suite};
use switch_core::tunnel::vxlan;
use switch_core::verdict::DropReason;
use switch_core::wire::packet::Packet;
use switch_core::wire::vnet_hdr::{DATA_VALID, NEEDS_CSUM, VnetHdr};

use super::rx::{Carrier, Target, UnderlayRx};
use super::slow::{Slow, What};
use super::tx::{Sockets, UnderlayTx};
use super::{Origin, Way};
use crate::endpoint::udp::{Name, PathMtu, UnderlaySocket};

const LINK: Link = Link {
    src: Mac([2, 0, 0, 0, 0, 1]),
    dst: Mac([2, 0, 0, 0, 0, 2]),
};
const NET: u32 = 3;
const PORT: PortId = PortId::remote(5);
const PEER: PeerId = PeerId(3);
const INDEX: u32 = 0x0102_0304;

fn send_key() -> Arc<SendKey> {
    Arc::new(SendKey::new(Suite::fastest(), &[7; 32], INDEX).unwrap())
}

fn vni() -> Vni {
    Vni::new(42).unwrap()
}

fn host(v6: bool) -> IpAddr {
    if v6 {
        [0, 0, 0, 0, 0, 0, 0, 1].into()
    } else {
        [127, 0, 0, 1].into()
    }
}

fn ends() -> (SocketAddr, SocketAddr) {
    (([10, 0, 0, 1], 4000).into(), ([10, 0, 0, 2], 80).into())
}

struct World {
    tx: UnderlayTx,
    rx: UnderlayRx,
    socket: UnderlaySocket,
    carrier: Carrier,
    slow: Slow,
}

impl World {
    fn new(v6: bool) -> Self {
        let at = SocketAddr::new(host(v6), 0);
        let socket = UnderlaySocket::service(at, PathMtu::Known).unwrap();
        let sources = [false, true].map(|v6| {
            let open = |n| UnderlaySocket::source(v6, PathMtu::Known, n).unwrap();
            (0..4).map(open).collect()
        });
        let mut tx = UnderlayTx::new(Sockets {
            vxlan: sources,
            ..Sockets::default()
        });
        tx.set_way(
            PORT,
            NET,
            Way::Vxlan {
                to: socket.local().unwrap(),
                vni: vni(),
            },
        );
        let slow = Slow::new().unwrap();
        let mut rx = UnderlayRx::new(Some(slow.clone()));
        let target = Target {
            port: PORT,
            net: NET,
            mtu: 1450,
        };
        rx.accept(vni(), Origin::Vxlan(host(v6)), target);
        let carrier = Carrier::Vxlan;
        Self {
            tx,
            rx,
            socket,
            carrier,
            slow,
        }
    }

    /// The same with a seal, and the addresses of both ends.
    fn sealed() -> (Self, SocketAddr, SocketAddr) {
        let mut world = Self::new(false);
        let own = UnderlaySocket::service(([127, 0, 0, 1], 0).into(), PathMtu::Probed).unwrap();
        let from = own.local().unwrap();
        let to = world.socket.local().unwrap();
        let sockets = Sockets {
            sealed: [Some(own), None],
            ..Sockets::default()
        };
        world.tx = UnderlayTx::new(sockets).telling(world.slow.clone());
        let way = Way::Sealed {
            peer: PEER,
            vni: vni(),
        };
        world.tx.set_way(PORT, NET, way);
        world.tx.set_key(PEER, Some((send_key(), Name::from(to))));
        let open = OpenKey::new(Suite::fastest(), &[7; 32], INDEX).unwrap();
        world.rx.add_key(open, PEER, (from, None));
        let target = Target {
            port: PORT,
            net: NET,
            mtu: 1418,
        };
        world.rx.accept(vni(), Origin::Sealed(PEER), target);
        world.carrier = Carrier::Sealed;
        (world, from, to)
    }

    fn send(&mut self, vnet: &VnetHdr, pieces: &[&[u8]]) -> bool {
        let pieces: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        self.tx.send(NET, PORT, vnet, &pieces)
    }

    /// Frames until as many came as a receiver without offload would have got.
    fn receive(&mut self, count: usize) -> Vec<(VnetHdr, Vec<u8>)> {
        self.tx.flush();
        let until = Instant::now() + Duration::from_secs(20);
        let (mut got, mut frames) = (Vec::new(), 0);
        while frames < count && Instant::now() < until {
            let mut each = |net, port, vnet: &VnetHdr, frame: &[u8]| {
                assert_eq!((net, port), (NET, PORT));
                frames += split(frame, vnet, &mut Vec::new(), &mut |_| {}).unwrap();
                got.push((*vnet, frame.to_vec()));
            };
            self.rx.turn(&self.socket, self.carrier, &mut each).unwrap();
        }
        assert_eq!(frames, count);
        got
    }
}

#[test]
fn bare_packets_come_in_as_frames_of_nobody() {
    let mut world = World::new(false);
    world.carrier = Carrier::Bare(vni());
    let target = Target {
        port: PORT,
        net: NET,
        mtu: 1472,
    };
    let (a, b) = ends();
    let frame = LINK.udp(a, b, b"payload");
    let own = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = world.socket.local().unwrap();
    own.send_to(&frame[14..], to).unwrap();
    let far = Instant::now() + Duration::from_secs(20);
    while world.rx.drops().get(DropReason::UnknownVni) == 0 {
        assert!(Instant::now() < far, "a node that is no peer is refused");
        let none = &mut |_, _, _: &VnetHdr, _: &[u8]| panic!("nobody's");
        world.rx.turn(&world.socket, world.carrier, none).unwrap();
    }
    world.rx.accept(vni(), Origin::Bare(host(false)), target);
    own.send_to(&[0; 40], to).unwrap();
    own.send_to(&frame[14..], to).unwrap();
    let got = world.receive(1);
    assert_eq!(got[0].1[..12], [0; 12]);
    assert_eq!(got[0].1[12..], frame[12..]);
    assert_eq!(world.rx.drops().get(DropReason::Malformed), 1);
}

#[test]
fn a_run_of_bare_packets_arrives_as_one() {
    let mut world = World::new(false);
    world.carrier = Carrier::Bare(vni());
    let to = world.socket.local().unwrap();
    let own = UnderlaySocket::service(([127, 0, 0, 1], 0).into(), PathMtu::Known).unwrap();
    world.tx.set_bare(vni(), [Some(own), None]);
    world.tx.set_way(PORT, NET, Way::Bare { to, vni: vni() });
    let target = Target {
        port: PORT,
        net: NET,
        mtu: 1472,
    };
    world.rx.accept(vni(), Origin::Bare(host(false)), target);
    let payload: Vec<u8> = (0..40_000).map(|n: u32| n.to_le_bytes()[0]).collect();
    let segment = segment(&payload);
    let (a, b) = ends();
    let (vnet, mut frame) = LINK.tcp_run(a, b, 1400, &segment);
    set_df(&mut frame);
    assert!(world.send(&vnet, &[&frame]));
    let got = world.receive(payload.len().div_ceil(1400));
    assert_eq!(got.len(), 1, "in one receive");
    assert!(got[0].1[12..] == frame[12..], "as it was");
}

#[test]
fn a_super_frame_arrives_as_one() {
    let payload: Vec<u8> = (0..60_000).map(|n: u32| n.to_le_bytes()[0]).collect();
    let segment = segment(&payload);
    let (a, b) = ends();
    for v6 in [false, true] {
        let mut world = World::new(v6);
        for (vnet, mut frame) in [
            LINK.tcp_run(a, b, 1400, &segment),
            LINK.udp_run(a, b, 1400, &payload),
        ] {
            set_df(&mut frame);
            let (head, tail) = frame.split_at(60);
            assert!(world.send(&vnet, &[head, tail]));
            let got = world.receive(payload.len().div_ceil(1400));
            assert_eq!(got.len(), 1, "in one receive");
            assert!(got[0].1 == frame, "as it was");
            assert_eq!(
                (got[0].0.gso_type, got[0].0.gso_size),
                (vnet.gso_type, 1400)
            );
        }
        assert_eq!(world.tx.stats(PORT).unwrap().frames, 2);
        let stats = world.rx.stats(vni(), Origin::Vxlan(host(v6))).unwrap();
        assert_eq!(stats.frames, 2 * 43);
    }
}

/// A segment of an established connection.
fn segment(payload: &[u8]) -> Segment<'_> {
    Segment {
        payload,
        seq: 1,
        ack: 1,
        flags: 16,
        window: 9,
        options: &[],
    }
}

fn set_df(frame: &mut [u8]) {
    use switch_core::wire::checksum::{finish, fold, sum};
    frame[20] |= 0x40;
    frame[24..26].fill(0);
    let csum = finish(fold(sum(&frame[14..34])));
    frame[24..26].copy_from_slice(&csum.to_be_bytes());
}

#[test]
fn small_frames_leave_together_and_arrive_in_order() {
    let mut world = World::new(false);
    let (a, b) = ends();
    let mut sent = Vec::new();
    for n in 0..200_u16 {
        // Two flows, and some that are shorter.
        let src = SocketAddr::new(a.ip(), 4000 + n % 2);
        let len = if n % 17 == 0 { 20 } else { 64 };
        let mut frame = LINK.udp(src, b, &[n.to_le_bytes()[0]; 64][..len]);
        set_df(&mut frame);
        assert!(world.send(&VnetHdr::default(), &[&frame]));
        sent.push(frame);
    }
    let mut got = Vec::new();
    for (vnet, frame) in world.receive(200) {
        if vnet.is_gso() {
            split(&frame, &vnet, &mut Vec::new(), &mut |f| {
                got.push(f.to_vec());
            })
            .unwrap();
        } else {
            got.push(frame);
        }
    }
    for flow in [4000_u16, 4001] {
        let of = |frames: &[Vec<u8>]| -> Vec<Vec<u8>> {
            let mine = frames.iter().filter(|f| f[34..36] == flow.to_be_bytes());
            mine.map(|f| f[42..].to_vec()).collect()
        };
        assert_eq!(of(&got), of(&sent), "flow {flow}");
    }
}

#[test]
fn what_waits_leaves_before_the_super_frame_behind_it() {
    let mut world = World::new(false);
    let (a, b) = ends();
    let small = LINK.udp(a, b, b"first");
    let (vnet, frame) = LINK.udp_run(a, b, 1000, &[7; 3000]);
    assert!(world.send(&VnetHdr::default(), &[&small]));
    assert!(world.send(&vnet, &[&frame]));
    let got = world.receive(4);
    assert_eq!(got[0].1, small);
}

#[test]
fn a_partial_checksum_is_completed() {
    let mut world = World::new(false);
    let (a, b) = ends();
    let (run, frame) = LINK.udp_run(a, b, 1000, b"small");
    let vnet = VnetHdr {
        flags: NEEDS_CSUM,
        gso_type: 0,
        gso_size: 0,
        ..run
    };
    assert!(world.send(&vnet, &[&frame[..20], &frame[20..]]));
    let got = world.receive(1);
    assert_eq!(got[0].0.flags, DATA_VALID);
    assert_eq!(got[0].1[42..], *b"small");
}

#[test]
fn what_no_one_asked_for_is_counted_and_dropped() {
    let mut world = World::new(false);
    let frame = LINK.frame(0x88b5, &[0; 50]);
    let other = PortId::remote(9);
    assert!(
        !world
            .tx
            .send(NET, other, &VnetHdr::default(), &[IoSlice::new(&frame)]),
        "no way"
    );
    assert!(
        !world
            .tx
            .send(NET + 1, PORT, &VnetHdr::default(), &[IoSlice::new(&frame)]),
        "a leak"
    );
    assert_eq!(world.tx.drops().get(DropReason::NoFlow), 2);
    let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
    let to = world.socket.local().unwrap();
    let whole = [&[8, 0, 0, 0, 0, 0, 42, 0][..], &frame].concat();
    stranger.send_to(&whole, to).unwrap();
    let own = UdpSocket::bind("127.0.0.1:0").unwrap();
    own.send_to(&[8, 0, 0, 0, 0, 0, 43, 0], to).unwrap();
    own.send_to(&[0, 0, 0, 0, 0, 0, 42, 0], to).unwrap();
    own.send_to(&[8, 0, 0], to).unwrap();
    own.send_to(&[], to).unwrap();
    own.send_to(&whole, to).unwrap();
    let got = world.receive(1);
    assert_eq!(got[0].1, frame);
    assert_eq!(world.rx.drops().get(DropReason::UnknownVni), 2);
    assert_eq!(world.rx.drops().get(DropReason::Malformed), 2);
}

#[test]
fn too_large_for_the_link_is_told() {
    let mut world = World::new(false);
    let (a, b) = ends();
    let (vnet, frame) = LINK.udp_run(a, b, 65_000, &[0; 60_000]);
    assert!(world.send(&vnet, &[&frame]), "the loopback takes it");
    let frame = LINK.frame(0x88b5, &[0; 65_600]);
    assert!(!world.send(&VnetHdr::default(), &[&frame]));
    assert_eq!(world.tx.drops().get(DropReason::TooBig), 1);
    assert!(Packet::parse(&frame).is_ok());
}

#[test]
fn bare_packets_have_no_ethernet_header() {
    let far = UdpSocket::bind("127.0.0.1:0").unwrap();
    far.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let socket = UnderlaySocket::service(([127, 0, 0, 1], 0).into(), PathMtu::Known).unwrap();
    let port = socket.local().unwrap().port();
    let mut tx = UnderlayTx::new(Sockets::default());
    tx.set_bare(vni(), [Some(socket), None]);
    let to = far.local_addr().unwrap();
    tx.set_way(PORT, NET, Way::Bare { to, vni: vni() });
    let (a, b) = ends();
    let frame = LINK.udp(a, b, b"payload");
    assert!(tx.send(NET, PORT, &VnetHdr::default(), &[IoSlice::new(&frame)]));
    let arp = LINK.frame(0x0806, &[0; 28]);
    assert!(!tx.send(NET, PORT, &VnetHdr::default(), &[IoSlice::new(&arp)]));
    let (vnet, run) = LINK.udp_run(a, b, 1000, &[5; 2000]);
    assert!(tx.send(NET, PORT, &vnet, &[IoSlice::new(&run)]));
    tx.flush();
    let mut buf = [0; 2000];
    let mut next = || -> io::Result<Vec<u8>> {
        let len = far.recv(&mut buf)?;
        Ok(buf[..len].to_vec())
    };
    assert_eq!(next().unwrap(), frame[14..]);
    for _ in 0..2 {
        let piece = next().unwrap();
        assert_eq!((piece[0], piece.len()), (0x45, 20 + 8 + 1000));
    }
    // Without sockets none go, and the port is free again.
    tx.set_bare(vni(), [None, None]);
    assert!(!tx.send(NET, PORT, &VnetHdr::default(), &[IoSlice::new(&frame)]));
    UdpSocket::bind(("127.0.0.1", port)).unwrap();
}
