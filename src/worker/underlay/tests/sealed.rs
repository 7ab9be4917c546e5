//! With a seal: what is opened, and what is not.

use super::*;

#[test]
fn a_sealed_super_frame_arrives_as_one() {
    let payload: Vec<u8> = (0..60_000).map(|n: u32| n.to_le_bytes()[0]).collect();
    let segment = segment(&payload);
    let (a, b) = ends();
    let (mut world, ..) = World::sealed();
    for (vnet, mut frame) in [
        LINK.tcp_run(a, b, 1378, &segment),
        LINK.udp_run(a, b, 1378, &payload),
    ] {
        set_df(&mut frame);
        assert!(world.send(&vnet, &[&frame[..50], &frame[50..1001], &frame[1001..]]));
        let got = world.receive(44);
        assert_eq!(got.len(), 1, "in one receive");
        assert!(got[0].1 == frame, "as it was");
        assert_eq!(
            (got[0].0.gso_type, got[0].0.gso_size, got[0].0.flags),
            (vnet.gso_type, 1378, NEEDS_CSUM),
        );
    }
}

#[test]
fn sealed_frames_that_stay_apart_are_whole() {
    let (mut world, ..) = World::sealed();
    let (a, b) = ends();
    let mut sent = Vec::new();
    for n in 0..100_u16 {
        let src = SocketAddr::new(a.ip(), 4000 + n % 3);
        let mut frame = LINK.udp(
            src,
            b,
            &[n.to_le_bytes()[0]; 300][..299 + usize::from(n) % 2],
        );
        set_df(&mut frame);
        assert!(world.send(&VnetHdr::default(), &[&frame]));
        sent.push(frame);
    }
    let mut got = Vec::new();
    for (vnet, frame) in world.receive(100) {
        split(&frame, &vnet, &mut Vec::new(), &mut |f| {
            got.push(f[42..].to_vec());
        })
        .unwrap();
    }
    let sent: Vec<_> = sent.iter().map(|f| f[42..].to_vec()).collect();
    assert_eq!(got, sent);
    // A checksum that is partial stays so: nobody computes it.
    let (run, frame) = LINK.udp_run(a, b, 1000, b"small");
    let vnet = VnetHdr {
        flags: NEEDS_CSUM,
        gso_type: 0,
        gso_size: 0,
        ..run
    };
    assert!(world.send(&vnet, &[&frame]));
    let got = world.receive(1);
    assert_eq!((got[0].0.flags, got[0].0.csum_start), (NEEDS_CSUM, 34));
    assert_eq!(got[0].1, frame);
}

#[test]
fn forged_replayed_and_unknown_datagrams_are_dropped() {
    let (mut world, _, to) = World::sealed();
    let (a, b) = ends();
    let mut frame = LINK.udp(a, b, b"good");
    set_df(&mut frame);
    let key = send_key();
    let seal = |key: &SendKey, vni: Vni, flags: u8, frame: &[u8]| {
        let inner = [&vxlan::header(vni)[..], frame].concat();
        let mut whole = [&[0; 16], &inner[..], &[0; 16]].concat();
        key.seal(flags, (0, 0), &mut whole).unwrap();
        whole
    };
    let own = UdpSocket::bind("127.0.0.1:0").unwrap();
    let good = seal(&key, vni(), 0, &frame);
    let mut forged = seal(&key, vni(), 0, &frame);
    forged[30] ^= 1;
    let foreign = SendKey::new(Suite::fastest(), &[7; 32], INDEX + 1).unwrap();
    let other = seal(&foreign, vni(), 0, &frame);
    let elsewhere = seal(&key, Vni::new(99).unwrap(), 0, &frame);
    let control = seal(&key, vni(), 2, b"hello");
    let last = seal(&key, vni(), 0, &frame);
    let short = &good[..20];
    let handshake = [1_u8; 148];
    for bytes in [
        &good,
        &good,
        &forged,
        &other,
        &elsewhere,
        &control,
        short,
        &handshake[..],
        &last,
    ] {
        own.send_to(bytes, to).unwrap();
    }
    let got = world.receive(2);
    assert!(got.iter().all(|(_, f)| *f == frame));
    let drops = world.rx.drops();
    for reason in [
        DropReason::Replayed,
        DropReason::Forged,
        DropReason::NoKey,
        DropReason::UnknownVni,
        DropReason::Malformed,
    ] {
        assert_eq!(drops.get(reason), 1, "{}", reason.name());
    }
    // What is no frame went to who keeps the sessions: first of all, where the peer is now. And the head of what is of
    // another session, whose sender may not know that it is over.
    let from = own.local_addr().unwrap();
    let slow: Vec<_> = std::iter::from_fn(|| world.slow.pop()).collect();
    let whats: Vec<_> = slow.iter().map(|m| (m.what, m.from)).collect();
    assert_eq!(
        whats,
        [
            (What::Moved(PEER, INDEX), from),
            (What::Handshake, from),
            (What::Control(PEER, INDEX), from),
            (What::Handshake, from),
        ],
    );
    assert_eq!(slow[1].bytes[..], other[..32]);
    assert!(slow[2].bytes.ends_with(b"hello") && slow[3].bytes[..] == handshake);
}

#[test]
fn without_a_key_nothing_leaves() {
    let (mut world, _, to) = World::sealed();
    let (a, b) = ends();
    let (vnet, frame) = LINK.udp_run(a, b, 1000, &[1; 3000]);
    world.tx.set_key(PEER, None);
    assert!(!world.send(&vnet, &[&frame]));
    assert!(!world.send(&VnetHdr::default(), &[&frame[..100]]));
    let key = send_key();
    key.close();
    world.tx.set_key(PEER, Some((key, Name::from(to))));
    assert!(!world.send(&vnet, &[&frame]));
    assert!(!world.send(&VnetHdr::default(), &[&frame[..100]]));
    assert_eq!(world.tx.drops().get(DropReason::NoKey), 4);
}

#[test]
fn a_flood_of_handshakes_fills_a_queue_and_no_more() {
    let (mut world, from, to) = World::sealed();
    let own = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..400 {
        own.send_to(&[1; 148], to).unwrap();
    }
    own.send_to(&[1; 3000], to).unwrap();
    let frame = LINK.frame(0x88b5, &[0; 60]);
    world.send(&VnetHdr::default(), &[&frame]);
    world.receive(1);
    // With them where the peer is now, which the next datagram tells.
    assert_eq!(world.rx.drops().get(DropReason::TableFull), 146);
    assert_eq!(std::iter::from_fn(|| world.slow.pop()).count(), 256);
    world.slow.rest();
    for _ in 0..2 {
        world.send(&VnetHdr::default(), &[&frame]);
        world.receive(1);
    }
    let told: Vec<_> = std::iter::from_fn(|| world.slow.pop()).collect();
    let told: Vec<_> = told.iter().map(|m| (m.what, m.from, m.to)).collect();
    let here = Some(to.ip());
    assert_eq!(told, [(What::Moved(PEER, INDEX), from, here)]);
}

#[test]
fn the_first_of_a_session_and_another_way_are_told_of() {
    let (mut world, from, to) = World::sealed();
    let key = send_key();
    let seal = || {
        let inner = [&vxlan::header(vni())[..], &LINK.frame(0x88b5, &[0; 60])].concat();
        let mut whole = [&[0; 16], &inner[..], &[0; 16]].concat();
        key.seal(0, (0, 0), &mut whole).unwrap();
        whole
    };
    let open = OpenKey::new(Suite::fastest(), &[7; 32], INDEX).unwrap();
    let (near, far) = (
        UdpSocket::bind("127.0.0.1:0").unwrap(),
        UdpSocket::bind("127.0.0.1:0").unwrap(),
    );
    // It comes from where the peer is believed to be, and so nothing but that it is the first is news.
    let ends = (near.local_addr().unwrap(), Some(to.ip()));
    world.rx.add_key(open, PEER, ends);
    let late = seal();
    for (socket, bytes) in [
        (&near, seal()),
        (&near, seal()),
        (&far, seal()),
        (&near, late),
    ] {
        socket.send_to(&bytes, to).unwrap();
        world.receive(1);
    }
    let told = std::iter::from_fn(|| world.slow.pop());
    let told: Vec<_> = told.map(|m| (m.what, m.from)).collect();
    let moved = What::Moved(PEER, INDEX);
    assert_eq!(told, [(moved, ends.0), (moved, far.local_addr().unwrap())]);
    assert_ne!(ends.0, from);
}

#[test]
fn what_the_path_may_not_carry_is_looked_after_and_nothing_else() {
    let (mut world, _, to) = World::sealed();
    let key = send_key();
    world
        .tx
        .set_key(PEER, Some((Arc::clone(&key), Name::from(to))));
    let (a, b) = ends();
    let short = VnetHdr::default();
    let small = LINK.frame(0x88b5, &[0; 60]);
    let (runs, many) = LINK.udp_run(a, b, 100, &[1; 300]);
    world.send(&short, &[&small]);
    world.send(&runs, &[&many]);
    world.receive(4);
    assert!(!world.slow.is_stirred());
    let large = LINK.frame(0x88b5, &[0; 900]);
    let (runs, long) = LINK.udp_run(a, b, 1000, &[1; 3000]);
    for (vnet, frame, count) in [(&short, &large, 1), (&runs, &long, 3)] {
        world.send(vnet, &[frame]);
        world.receive(count);
        assert!(world.slow.is_stirred());
        // Who has looked finds nothing more, until the next.
        assert!(key.take_long());
        world.slow.calm();
    }
    let mut clear = World::new(false);
    clear.tx = clear.tx.telling(clear.slow.clone());
    clear.send(&runs, &[&long]);
    clear.receive(3);
    assert!(!clear.slow.is_stirred(), "who cannot answer is not asked");
}
