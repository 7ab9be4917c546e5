//! Streams by themselves: what is cut out of them, and what they hold.

use core::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::addr::Mac;

const NOW: Tick = Tick::from_millis(1);

fn client() -> Client {
    Client {
        port: PortId(3),
        mac: Mac([2, 0, 0, 0, 0, 2]),
        addr: (Ipv4Addr::new(10, 0, 0, 2), 4000).into(),
        server: (Ipv4Addr::new(10, 0, 0, 1), 53).into(),
        stream: None,
    }
}

/// A stream, and its identity.
fn open(streams: &mut Streams, flow: u32) -> (SockId, StreamId) {
    let sock = streams.open(NOW, flow, client());
    let id = streams.client(sock).and_then(|c| c.stream).unwrap();
    (sock, id)
}

fn framed(message: &[u8]) -> Vec<u8> {
    let len = u16::try_from(message.len()).unwrap().to_be_bytes();
    [&len, message].concat()
}

/// A query as far as a stream looks at it.
fn query(len: usize, fill: u8) -> Vec<u8> {
    let mut message = vec![fill; len];
    message[2] = 1;
    message
}

fn nudges(streams: &mut Streams) -> Vec<Nudge> {
    core::iter::from_fn(|| streams.nudge()).collect()
}

fn waiting(streams: &mut Streams, sock: SockId) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let mut buf = [0; 1000];
        match streams.peek(sock, out.len(), &mut buf) {
            Ok(Peeked::Data(n)) => out.extend_from_slice(&buf[..n]),
            Ok(Peeked::Empty | Peeked::Eof) => return out,
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn answers_are_peeked_from_any_place_and_stay_until_they_are_acknowledged() {
    let mut streams = Streams::default();
    let (sock, id) = open(&mut streams, 5);
    let (mut all, mut gone) = (Vec::new(), 0);
    for n in 0..200u8 {
        // Lengths that let the queue go round its end in every way.
        let answer = vec![n; usize::from(n) * 7];
        streams.answer(NOW, id, &answer);
        all.extend(framed(&answer));
        assert_eq!(waiting(&mut streams, sock), all[gone..]);
        let part = (all.len() - gone) / 3;
        streams.discard(NOW, sock, part).unwrap();
        gone += part;
        assert_eq!(streams.held(), all.len() - gone);
    }
    streams.end(sock);
    let left = all.len() - gone;
    let at_end = streams.peek(sock, left, &mut [0; 8]);
    assert_eq!(at_end, Ok(Peeked::Eof));
    let before = streams.peek(sock, left - 1, &mut [0; 8]);
    assert_eq!(before, Ok(Peeked::Data(1)));
    streams.close(sock);
    assert_eq!((streams.held(), streams.len()), (0, 0));
}

#[test]
fn who_pipelines_too_much_waits_for_answers() {
    let mut streams = Streams::default();
    let (sock, id) = open(&mut streams, 5);
    let many: Vec<u8> = (0..40).flat_map(|n| framed(&query(12, n))).collect();
    let taken = streams.take(NOW, sock, &[IoSlice::new(&many)]);
    assert_eq!(taken, MAX_PIPELINED * 14);
    assert_eq!(streams.take(NOW, sock, &[IoSlice::new(&many[taken..])]), 0);
    assert!(nudges(&mut streams).is_empty());
    streams.answer(NOW, id, &query(12, 0));
    let told = nudges(&mut streams);
    assert!(told.contains(&Nudge::Writable { flow: 5 }), "{told:?}");
    assert_eq!(streams.take(NOW, sock, &[IoSlice::new(&many[taken..])]), 14);
}

#[test]
fn who_holds_most_goes_when_all_hold_too_much() {
    let mut streams = Streams::default();
    let ids: Vec<(SockId, StreamId)> = (0..20).map(|n| open(&mut streams, n)).collect();
    // Each answer alone is no more than a message can be; one client takes none of many.
    for _ in 0..3 {
        for &(_, id) in &ids {
            streams.answer(NOW, id, &[0; 60_000]);
        }
    }
    for _ in 0..100 {
        streams.answer(NOW, ids[7].1, &[0; 60_000]);
    }
    let resets: Vec<Nudge> = nudges(&mut streams)
        .into_iter()
        .filter(|n| matches!(n, Nudge::Reset { .. }))
        .collect();
    assert_eq!(resets, [Nudge::Reset { flow: 7 }]);
    assert!(streams.held() <= MAX_HELD);
    assert_eq!(streams.held(), 19 * 3 * 60_002);
    assert!(streams.peek(ids[7].0, 0, &mut [0; 8]).is_err());
    assert_eq!(waiting(&mut streams, ids[8].0).len(), 3 * 60_002);
}

proptest! {
    #[test]
    fn the_same_queries_come_out_however_the_stream_is_cut(
        lengths in prop::collection::vec(40usize..600, 1..30),
        cuts in prop::collection::vec(1usize..900, 1..40),
    ) {
        let mut streams = Streams::default();
        let (sock, _) = open(&mut streams, 5);
        let sent: Vec<Vec<u8>> = lengths.iter().map(|&len| query(len, (len % 251).to_le_bytes()[0])).collect();
        let all: Vec<u8> = sent.iter().flat_map(|m| framed(m)).collect();
        let (mut rest, mut got) = (&all[..], Vec::new());
        let mut cuts = cuts.into_iter().cycle();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(cuts.next().unwrap().min(rest.len()));
            let (a, b) = now.split_at(now.len() / 2);
            prop_assert_eq!(streams.take(NOW, sock, &[IoSlice::new(a), IoSlice::new(b)]), now.len());
            rest = later;
            while let Some((who, message)) = streams.query() {
                streams.answer(NOW, who.stream.unwrap(), b"");
                got.push(message);
            }
        }
        prop_assert_eq!(got, sent);
    }

    #[test]
    fn any_bytes_are_survived(data in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 0..20)) {
        let mut streams = Streams::default();
        let (sock, _) = open(&mut streams, 5);
        for piece in &data {
            let taken = streams.take(NOW, sock, &[IoSlice::new(piece)]);
            prop_assert!(taken <= piece.len());
            while let Some((who, message)) = streams.query() {
                streams.answer(NOW, who.stream.unwrap(), &message);
            }
        }
        streams.end(sock);
        streams.close(sock);
        prop_assert_eq!(streams.held(), 0);
    }
}
