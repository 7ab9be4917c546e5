//! Both sides of the underlay over the loopback: super-frames and small frames, in the clear and sealed.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use switch_core::addr::{Mac, PeerId, PortId, Vni};
use switch_core::testing::packets::{Link, Segment};
use switch_core::tunnel::seal::{KEY_LEN, OpenKey, SendKey, Suite};
use switch_core::wire::checksum::{finish, fold, sum};
use switch_core::wire::vnet_hdr::VnetHdr;
use weft::endpoint::udp::{Name, PathMtu, UnderlaySocket};
use weft::worker::underlay::rx::{Carrier, Target, UnderlayRx};
use weft::worker::underlay::tx::{Sockets, UnderlayTx};
use weft::worker::underlay::{Origin, Way};

use crate::sys::allocations;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PORT: PortId = PortId::remote(0);
const PEER: PeerId = PeerId(0);
const PATIENCE: Duration = Duration::from_secs(60);
/// Rounds of the warm-up, and as many again that must cost nothing.
const ROUNDS: usize = 500;
/// Small frames of a round.
const SMALL: usize = 40;

struct Pair {
    tx: UnderlayTx,
    rx: UnderlayRx,
    socket: UnderlaySocket,
    carrier: Carrier,
}

/// The network's number.
fn vni() -> Vni {
    Vni::new(7).unwrap()
}

fn pair(carrier: Carrier) -> Pair {
    let socket = UnderlaySocket::service(SocketAddr::new(HERE, 0), PathMtu::Known).unwrap();
    let to = socket.local().unwrap();
    let vni = vni();
    let target = Target {
        port: PORT,
        net: 0,
        mtu: 1450,
    };
    let mut rx = UnderlayRx::new(None);
    let own = UnderlaySocket::source(false, PathMtu::Known, 1).unwrap();
    let from = own.local().unwrap();
    let mut sockets = Sockets::default();
    let mut bare = None;
    let way = match carrier {
        Carrier::Sealed => {
            sockets.sealed[0] = Some(own);
            let open = OpenKey::new(Suite::fastest(), &[1; KEY_LEN], 1).unwrap();
            let from = SocketAddr::new(HERE, from.port());
            rx.add_key(open, PEER, (from, Some(HERE)));
            rx.accept(vni, Origin::Sealed(PEER), target);
            Way::Sealed { peer: PEER, vni }
        }
        Carrier::Vxlan => {
            sockets.vxlan[0].push(own);
            rx.accept(vni, Origin::Vxlan(HERE), target);
            Way::Vxlan { to, vni }
        }
        Carrier::Bare(vni) => {
            bare = Some(own);
            rx.accept(vni, Origin::Bare(HERE), target);
            Way::Bare { to, vni }
        }
    };
    let mut tx = UnderlayTx::new(sockets);
    tx.set_bare(vni, [bare, None]);
    let send = SendKey::new(Suite::fastest(), &[1; KEY_LEN], 1).unwrap();
    tx.set_key(PEER, Some((Arc::new(send), Name::from(to))));
    tx.set_way(PORT, 0, way);
    Pair {
        tx,
        rx,
        socket,
        carrier,
    }
}

/// With DF, as every stack sends: so that frames are joined.
fn whole(mut frame: Vec<u8>) -> Vec<u8> {
    frame[20] |= 0x40;
    frame[24..26].fill(0);
    let csum = finish(fold(sum(&frame[14..34])));
    frame[24..26].copy_from_slice(&csum.to_be_bytes());
    frame
}

fn spent(carrier: Carrier) -> u64 {
    let Pair {
        mut tx,
        mut rx,
        socket,
        carrier,
    } = pair(carrier);
    let link = Link {
        src: Mac([2, 0, 0, 0, 0, 1]),
        dst: Mac([2, 0, 0, 0, 0, 2]),
    };
    let (a, b) = (([10, 0, 0, 1], 4000).into(), ([10, 0, 0, 2], 80).into());
    let payload = [9; 40_000];
    let segment = Segment {
        seq: 1,
        ack: 1,
        flags: 16,
        window: 9,
        options: &[],
        payload: &payload,
    };
    let runs = [
        link.tcp_run(a, b, 1370, &segment),
        link.udp_run(a, b, 64, &payload[..1280]),
    ];
    let runs = runs.map(|(vnet, frame)| (vnet, whole(frame)));
    let small = whole(link.udp(b, a, &[5; 64]));
    let mut before = 0;
    let until = Instant::now() + PATIENCE;
    for round in 0..2 * ROUNDS {
        if round == ROUNDS {
            before = allocations();
        }
        for (vnet, frame) in &runs {
            assert!(tx.send(0, PORT, vnet, &[IoSlice::new(frame)]));
        }
        for _ in 0..SMALL {
            assert!(tx.send(0, PORT, &VnetHdr::default(), &[IoSlice::new(&small)]));
        }
        tx.flush();
        let mut bytes = 0;
        let all = 40_000 + 1280 + SMALL * 64;
        while bytes < all {
            assert!(Instant::now() < until, "too slow");
            rx.turn(&socket, carrier, &mut |_, _, _, frame| {
                let headers = if frame.get(23) == Some(&6) { 54 } else { 42 };
                bytes += frame.len() - headers;
            })
            .unwrap();
        }
    }
    allocations() - before
}

#[test]
fn underlay_in_the_clear() {
    assert_eq!(spent(Carrier::Vxlan), 0);
}

#[test]
fn underlay_sealed() {
    assert_eq!(spent(Carrier::Sealed), 0);
}

#[test]
fn underlay_of_bare_packets() {
    assert_eq!(spent(Carrier::Bare(vni())), 0);
}
