//! Name service over TCP, segment by segment.

mod world;

use core::time::Duration;

use self::world::{Peer, World};
use super::*;
use crate::testing::net::{GATEWAY, GATEWAY_V4, Setup};
use crate::testing::packets::{Link, Segment};
use crate::wire::tcp::FIN;

/// A query for an address, behind its length.
fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    let len = u16::try_from(message.len()).unwrap().to_be_bytes();
    [&len, &*message].concat()
}

fn ids(peer: &Peer) -> Vec<u16> {
    let id = |m: &&[u8]| u16::from_be_bytes([m[0], m[1]]);
    peer.messages().iter().map(id).collect()
}

#[test]
fn own_names_are_answered_however_the_stream_is_cut() {
    for v6 in [false, true] {
        let mut w = World::new();
        let mut peer = w.connect(4000, v6);
        // Byte by byte, the length too.
        for byte in query(7, "gateway") {
            w.send(&mut peer, ACK, &[byte]);
        }
        assert_eq!(ids(&peer), [7]);
        let [answer] = peer.messages()[..] else {
            panic!("one answer");
        };
        assert!(answer.ends_with(&GATEWAY_V4.octets()));
        // Three in one segment, the last of them not whole.
        let three = [
            query(8, "gateway"),
            query(9, "guest0"),
            query(10, "gateway"),
        ]
        .concat();
        let (now, later) = three.split_at(three.len() - 3);
        w.send(&mut peer, ACK, now);
        assert_eq!(ids(&peer), [7, 8, 9]);
        w.send(&mut peer, ACK, later);
        assert_eq!(ids(&peer), [7, 8, 9, 10]);
        assert!(w.host.asked.is_empty());
        w.send(&mut peer, ACK | FIN, &[]);
        assert!(peer.ended && !peer.reset);
        w.send(&mut peer, ACK, &[]);
        assert!(w.streams().is_empty());
        assert_eq!(w.streams().held(), 0);
    }
}

#[test]
fn answers_of_resolvers_come_in_any_order_and_behind_the_clients_end() {
    let mut w = World::new();
    let mut peer = w.connect(4000, false);
    let three = [query(1, "a.test"), query(2, "b.test"), query(3, "c.test")].concat();
    w.send(&mut peer, ACK | FIN, &three);
    assert_eq!(w.host.asked.len(), 3);
    assert!(w.host.asked.iter().all(|a| a.1), "over TCP");
    assert!(!peer.ended, "it has not been answered");
    w.told(&mut peer, 2);
    assert_eq!(ids(&peer), [3]);
    w.told(&mut peer, 0);
    assert!(!peer.ended);
    w.told(&mut peer, 1);
    assert_eq!(ids(&peer), [3, 1, 2]);
    assert!(peer.ended);
    w.send(&mut peer, ACK, &[]);
    assert!(w.streams().is_empty());
    assert_eq!(w.host.closed, 3);
}

#[test]
fn an_answer_for_who_has_gone_goes_nowhere() {
    let mut w = World::new();
    let mut peer = w.connect(4000, false);
    w.send(&mut peer, ACK, &query(1, "a.test"));
    w.send(&mut peer, RST, &[]);
    assert!(w.streams().is_empty());
    // Another connection takes the place of the first, and is not given its answer.
    let mut other = w.connect(4001, false);
    w.told(&mut other, 0);
    assert!(other.got.is_empty() && !other.reset);
    assert_eq!(w.host.closed, 1);
}

#[test]
fn an_idle_connection_is_ended_and_then_reset() {
    let mut w = World::new();
    let mut peer = w.connect(4000, false);
    w.send(&mut peer, ACK, &query(1, "gateway"));
    w.send(&mut peer, ACK, &[]);
    w.wait(&mut peer, Duration::from_secs(14));
    assert!(!peer.ended);
    w.send(&mut peer, ACK, &query(2, "gateway"));
    w.send(&mut peer, ACK, &[]);
    w.wait(&mut peer, Duration::from_secs(14));
    assert!(!peer.ended, "a query begins the time again");
    w.wait(&mut peer, Duration::from_secs(3));
    assert!(peer.ended && !peer.reset);
    w.send(&mut peer, ACK, &[]);
    w.wait(&mut peer, Duration::from_secs(8));
    assert!(peer.reset);
    assert!(w.streams().is_empty());
    assert_eq!(w.streams().held(), 0);
    assert_eq!(w.switch.poll_timeout(), None);
}

#[test]
fn a_query_that_takes_long_keeps_its_connection() {
    let mut w = World::new();
    let mut peer = w.connect(4000, false);
    w.send(&mut peer, ACK, &query(1, "a.test"));
    // Both rounds pass in silence, and the failure is told.
    w.wait(&mut peer, Duration::from_secs(10));
    assert_eq!(ids(&peer), [1]);
    assert_eq!(peer.messages()[0][3] & 0xf, 2, "SERVFAIL");
    assert!(!peer.ended);
}

#[test]
fn what_is_no_query_ends_the_connection() {
    let mut response = query(1, "gateway");
    response[4] |= 0x80;
    for bad in [
        &response[..],
        &[0, 0],
        &[0, 3, 1, 2, 3],
        b"GET / HTTP/1.0\r\n\r\n",
    ] {
        let mut w = World::new();
        let mut peer = w.connect(4000, false);
        w.send(&mut peer, ACK, &query(1, "gateway"));
        w.send(&mut peer, ACK, bad);
        // The last of these promises a message of 18 KB, which never comes.
        w.wait(&mut peer, Duration::from_secs(17));
        assert_eq!(ids(&peer), [1]);
        assert!(peer.ended, "{bad:?}");
    }
}

#[test]
fn one_that_has_been_idle_longest_makes_room() {
    let mut w = World::new();
    let mut peers = Vec::new();
    for n in 0..256 {
        w.now = w.now + Duration::from_millis(1);
        peers.push(w.connect(4000 + n, false));
    }
    // The oldest is in use, so that the second goes.
    let (first, second) = peers.split_at_mut(1);
    w.send(&mut first[0], ACK, &query(1, "a.test"));
    let mut fresh = Peer::new(9000, false);
    let frames = {
        let link = Link {
            src: Setup::addresses(0).mac,
            dst: GATEWAY,
        };
        let segment = Segment {
            seq: 1,
            flags: SYN,
            window: 100,
            ..Segment::default()
        };
        let frame = link.tcp(fresh.me, fresh.server, &segment);
        let (switch, host) = (&mut w.switch, &mut w.host);
        switch.handle_frame(host, w.now, PortId(0), &VnetHdr::default(), &frame);
        core::mem::take(&mut w.host.frames)
    };
    for frame in frames {
        fresh.take(&frame);
        first[0].take(&frame);
        second[0].take(&frame);
        second[1].take(&frame);
    }
    assert!(second[0].reset && !first[0].reset && !second[1].reset);
    assert_ne!(fresh.ack, 0);
    assert_eq!(w.streams().len(), 256);
}

#[test]
fn where_all_are_in_use_there_is_no_room() {
    let mut w = World::new();
    for n in 0..256 {
        let mut peer = w.connect(4000 + n, false);
        w.send(&mut peer, ACK, &query(1, "a.test"));
    }
    let mut late = Peer::new(9000, false);
    let verdict = w.send(&mut late, SYN, &[]);
    assert_eq!(verdict, Verdict::Drop(DropReason::TableFull));
    assert_eq!(w.streams().len(), 256);
}

#[test]
fn who_does_not_read_waits() {
    let mut w = World::new();
    let mut peer = w.connect(4000, false);
    peer.window = 0;
    let one = query(1, "gateway");
    let mut sent = 0;
    // Until the windows are full, here and there.
    for _ in 0..20_000 {
        let held = w.streams().held();
        w.send(&mut peer, ACK, &one);
        sent += 1;
        if w.streams().held() == held {
            break;
        }
    }
    assert!(peer.got.is_empty());
    assert!((1_000..5_000).contains(&sent), "{sent}");
    assert!(w.streams().held() < 70_000, "{}", w.streams().held());
    // It reads after all, and everything that was taken is answered.
    peer.window = 60_000;
    for _ in 0..20 {
        w.send(&mut peer, ACK, &[]);
    }
    assert!(
        peer.messages().len() >= sent - 1,
        "{sent} {}",
        peer.messages().len()
    );
    // What it has acknowledged goes once it has been silent for a moment.
    w.wait(&mut peer, Duration::from_secs(1));
    assert_eq!(w.streams().held(), 0);
}

#[test]
fn strangers_and_lost_segments_are_turned_away() {
    let mut w = World::new();
    let mut alien = Peer::new(4000, false);
    alien.me = ([10, 0, 0, 77], 4000).into();
    let verdict = w.send(&mut alien, SYN, &[]);
    assert_eq!(verdict, Verdict::Drop(DropReason::Spoofed));
    let mut lost = Peer::new(4000, true);
    let verdict = w.send(&mut lost, ACK, b"hello");
    assert_eq!(verdict, Verdict::Drop(DropReason::NoFlow));
    assert!(lost.reset);
    assert!(w.streams().is_empty());
}
