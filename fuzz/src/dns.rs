//! The forwarder of names: a query from a sandbox, and what a resolver says about it; and the same bytes as the
//! stream of a client that asks over TCP. Shape: a query behind its length, then answers behind theirs.

use core::net::Ipv4Addr;
use std::io::IoSlice;

use switch_core::addr::{Mac, PortId};
use switch_core::flow::host::Peeked;
use switch_core::respond::dns::stream::{Nudge, Streams};
use switch_core::respond::dns::{Client, Dns, answer_local};
use switch_core::time::Tick;

use super::bytes::Bytes;
use super::host::{GUEST, World, gateway};

/// Runs the target.
pub fn run(data: &[u8]) {
    forward(data);
    stream(data);
}

fn client() -> Client {
    Client {
        port: PortId(0),
        mac: GUEST,
        addr: (Ipv4Addr::new(10, 0, 0, 2), 4000).into(),
        server: (Ipv4Addr::new(10, 0, 0, 1), 53).into(),
        stream: None,
    }
}

/// A client sends the bytes in pieces, and takes answers as it likes.
fn stream(data: &[u8]) {
    let gateway = gateway();
    let mut world = World::default();
    let mut dns = Dns::new([1, 2, 3, 4]);
    let mut streams = Streams::default();
    let mut now = Tick::from_millis(1);
    let sock = streams.open(now, 7, client());
    let cut = usize::from(*data.first().unwrap_or(&0)) + 1;
    let mut reset = false;
    for piece in data.chunks(cut) {
        let taken = streams.take(now, sock, &[IoSlice::new(piece)]);
        assert!(taken <= piece.len());
        while let Some((who, query)) = streams.query() {
            let told = dns.handle_query(now, who, &gateway, &query, &mut world);
            if let (Some(told), Some(id)) = (told, who.stream) {
                streams.answer(now, id, &told);
            }
        }
        while let Some(nudge) = streams.nudge() {
            reset |= matches!(nudge, Nudge::Reset { .. });
        }
        let mut answers = [0; 600];
        if let Ok(Peeked::Data(n)) = streams.peek(sock, 0, &mut answers) {
            let _taken = streams.discard(now, sock, n / cut);
        }
        if taken < piece.len() {
            break;
        }
    }
    streams.end(sock);
    let mut answers = Vec::new();
    while let Some(next) = dns.poll_timeout() {
        now = now.max(next);
        dns.handle_timeout(now, &mut world, &mut answers);
    }
    for (who, told) in answers {
        if let Some(id) = who.stream {
            streams.answer(now, id, &told);
        }
    }
    // It has ended, and every query is answered: nothing more is to come.
    assert!(reset || matches!(streams.peek(sock, usize::MAX, &mut [0; 8]), Ok(Peeked::Eof)));
    streams.close(sock);
    assert!(world.open.is_empty() && streams.held() == 0);
}

fn forward(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let gateway = gateway();
    let mut world = World::default();
    let mut dns = Dns::new([1, 2, 3, 4]);
    let client = client();
    let mut now = Tick::from_millis(1);
    let query = bytes.piece();
    let _own = answer_local(&gateway, Mac([2, 0, 0, 0, 0, 2]), query, &world);
    if let Some(answer) = dns.handle_query(now, client, &gateway, query, &mut world) {
        assert_eq!(answer.get(..2), query.get(..2), "the client's own number");
        assert!(world.open.is_empty());
    }
    while !bytes.is_empty() {
        let answer = bytes.piece();
        if let Some((to, told)) = dns.handle_answer(now, 0, answer, &mut world) {
            assert_eq!(to, client);
            assert_eq!(told.get(..2), query.get(..2), "the client's own number");
        }
    }
    // Whatever came, every query ends, and its socket with it.
    let mut answers = Vec::new();
    for _ in 0..1000 {
        let Some(next) = dns.poll_timeout() else {
            break;
        };
        now = now.max(next);
        dns.handle_timeout(now, &mut world, &mut answers);
    }
    assert!(dns.poll_timeout().is_none() && world.open.is_empty());
}
