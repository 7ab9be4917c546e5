//! Queries that came over TCP.

use super::*;
use crate::respond::dns::share::{MAX_STREAMED, MAX_STREAMED_OF_PORT};

const ANSWER: ResponseCode = ResponseCode::NoError;

/// Which of the queries that were sent went over TCP.
fn ways(w: &World) -> Vec<(usize, bool)> {
    let over_tcp = |n: &usize| w.host.over_tcp.contains(n);
    let sent = w.host.sent.iter().enumerate();
    sent.map(|(n, s)| (s.1, over_tcp(&n))).collect()
}

fn last_reply(w: &World, code: ResponseCode) -> (u32, Message) {
    let (id, _, sent) = w.host.sent.last().unwrap();
    (*id, reply(sent, code))
}

#[test]
fn a_query_goes_on_over_tcp_and_the_answer_back_whole() {
    let mut w = World::new(2);
    let mut m = message("example.org.", RecordType::TXT);
    let mut options = Edns::new();
    options.set_max_payload(1232);
    m.set_edns(options);
    assert_eq!(w.ask_streamed(&m.to_vec().unwrap()), None);
    assert_eq!(ways(&w), [(0, true)]);
    let (id, _, sent) = w.host.sent[0].clone();
    let told = long_reply(&sent, 60_000);
    let answer = w.answer(id, &told).unwrap();
    assert_eq!(
        answer[2..],
        told[2..],
        "what goes over TCP has no other limit"
    );
    assert_eq!(answer[..2], CLIENT_ID.to_be_bytes());
    assert!(w.host.open.is_empty());
    assert_eq!(w.dns.shares.len().1, 0);
}

#[test]
fn resolvers_without_tcp_are_asked_over_udp_in_the_end() {
    let mut w = World::new(2);
    w.ask_streamed(&query("example.org.", RecordType::A));
    for _ in 0..2 {
        let id = w.host.sent[0].0;
        assert_eq!(w.dns.handle_error(w.now, id, &mut w.host), None);
    }
    assert_eq!(ways(&w), [(0, true), (1, true), (0, false)]);
    // What is cut short is of no use to who came over TCP, and asked for again.
    let (id, mut cut) = last_reply(&w, ANSWER);
    cut.metadata.truncation = true;
    assert_eq!(w.answer(id, &cut.to_vec().unwrap()), None);
    assert_eq!(ways(&w)[3..], [(0, true)]);
    assert_eq!(w.dns.handle_error(w.now, id, &mut w.host), None);
    assert_eq!(ways(&w)[4..], [(1, false)]);
    let (id, good) = last_reply(&w, ANSWER);
    let answer = w.answer(id, &good.to_vec().unwrap()).unwrap();
    assert_eq!(code(&answer), ANSWER);
    assert!(w.host.open.is_empty());
    // Over TCP neither is worth a try before the other; over UDP the first was not at fault.
    w.ask(&query("example.org.", RecordType::A));
    assert_eq!(ways(&w)[5..], [(0, false)]);
}

#[test]
fn a_resolver_that_is_silent_over_tcp_makes_room_for_the_next() {
    let mut w = World::new(2);
    let start = w.now;
    w.ask_streamed(&query("example.org.", RecordType::A));
    assert!(w.wait().is_empty());
    assert_eq!(ways(&w), [(0, true), (1, true)]);
    assert_eq!(w.now, start + TCP_PATIENCE);
    let (id, good) = last_reply(&w, ANSWER);
    assert!(w.answer(id, &good.to_vec().unwrap()).is_some());
    w.ask_streamed(&query("example.com.", RecordType::A));
    assert_eq!(ways(&w)[2..], [(1, true)], "the silent one is remembered");
    w.ask(&query("example.com.", RecordType::A));
    assert_eq!(ways(&w)[3..], [(0, false)], "by its way");
}

#[test]
fn all_silent_is_a_failure_that_is_told() {
    let mut w = World::new(1);
    w.ask_streamed(&query("example.org.", RecordType::A));
    assert!(w.wait().is_empty());
    let answers = w.wait();
    assert_eq!(ways(&w), [(0, true), (0, false)]);
    assert_eq!(code(&answers[0]), ResponseCode::ServFail);
    assert_eq!(w.dns.shares.len().1, 0);
    assert!(w.dns.poll_timeout().is_none());
}

#[test]
fn a_long_query_passes_over_tcp_alone() {
    let mut w = World::new(1);
    let mut long = query("example.org.", RecordType::A);
    // Padding, RFC 7830.
    long[11] = 1;
    let padding = 9_000u16;
    long.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0]);
    long.extend((padding + 4).to_be_bytes());
    long.extend([0, 12]);
    long.extend(padding.to_be_bytes());
    long.extend(vec![0; padding.into()]);
    assert_eq!(code(&w.ask(&long).unwrap()), ResponseCode::FormErr);
    assert_eq!(w.ask_streamed(&long), None);
    assert!(w.wait().is_empty());
    assert_eq!(ways(&w), [(0, true), (0, true)]);
}

#[test]
fn too_many_fail_at_once_and_take_no_room_from_others() {
    let mut w = World::new(1);
    let q = query("example.org.", RecordType::A);
    let ask = |w: &mut World, port: u32| {
        let client = Client {
            port: PortId(port),
            ..streamed()
        };
        w.dns.handle_query(w.now, client, &w.gw, &q, &mut w.host)
    };
    for port in 0..4 {
        for _ in 0..MAX_STREAMED_OF_PORT {
            assert_eq!(ask(&mut w, port), None);
        }
        let answer = ask(&mut w, port).unwrap();
        assert_eq!(code(&answer), ResponseCode::ServFail, "endpoint {port}");
    }
    let answer = ask(&mut w, 4).unwrap();
    assert_eq!(code(&answer), ResponseCode::ServFail, "too many in all");
    for _ in 0..2 * MAX_PENDING {
        assert_eq!(w.ask(&q), None);
    }
    assert_eq!(w.host.open.len(), MAX_PENDING);
    // Those over TCP are still there: each is answered in the end.
    for n in 0..MAX_STREAMED {
        let (id, _, sent) = w.host.sent[n].clone();
        let told = reply(&sent, ANSWER).to_vec().unwrap();
        let (now, host) = (w.now, &mut w.host);
        assert!(w.dns.handle_answer(now, id, &told, host).is_some(), "{n}");
    }
    assert_eq!(w.dns.shares.len().1, 1, "what came over UDP");
}

#[test]
fn who_asks_most_makes_room_for_others() {
    let mut w = World::new(1);
    let q = query("example.org.", RecordType::A);
    let other = Client {
        port: PortId(9),
        ..client()
    };
    // The oldest of all is not of the one who floods.
    w.dns.handle_query(w.now, other, &w.gw, &q, &mut w.host);
    for _ in 0..2 * MAX_PENDING {
        assert_eq!(w.ask(&q), None);
    }
    assert_eq!(w.host.open.len(), MAX_PENDING);
    let (id, _, sent) = w.host.sent[0].clone();
    let told = reply(&sent, ANSWER).to_vec().unwrap();
    let (now, host) = (w.now, &mut w.host);
    let (to, _) = w.dns.handle_answer(now, id, &told, host).unwrap();
    assert_eq!(to.port, PortId(9));
}

#[test]
fn own_names_are_known_over_tcp_too() {
    let mut w = World::new(0);
    let answer = w.ask_streamed(&query("gateway.", RecordType::A)).unwrap();
    assert_eq!(texts(&answer), ["10.0.0.1"]);
    let answer = w.ask_streamed(&query("example.org.", RecordType::A));
    assert_eq!(code(&answer.unwrap()), ResponseCode::ServFail);
}
