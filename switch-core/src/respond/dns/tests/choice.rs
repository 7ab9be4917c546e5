//! Resolvers that are silent, or not there.

use super::*;

#[test]
fn silent_resolvers_are_asked_twice_each_and_then_it_fails() {
    let mut w = World::new(2);
    assert_eq!(w.ask(&query("example.org.", RecordType::A)), None);
    let start = w.now;
    for _ in 0..3 {
        assert!(w.wait().is_empty());
    }
    assert_eq!(w.asked(), [0, 1, 0, 1]);
    let answers = w.wait();
    assert_eq!(code(&answers[0]), ResponseCode::ServFail);
    assert_eq!(w.now, start + Duration::from_secs(6));
    assert!(w.host.open.is_empty());
    assert!(w.dns.poll_timeout().is_none());
}

#[test]
fn a_silent_resolver_is_asked_after_the_others_for_a_while() {
    let mut w = World::new(2);
    let q = query("example.org.", RecordType::A);
    let answer = |w: &mut World| {
        let (id, _, sent) = w.host.sent.last().unwrap().clone();
        let told = reply(&sent, ResponseCode::NoError).to_vec().unwrap();
        assert!(w.answer(id, &told).is_some());
    };
    w.ask(&q);
    w.wait();
    answer(&mut w);
    let silent = w.now;
    w.ask(&q);
    assert_eq!(w.asked(), [0, 1, 1]);
    answer(&mut w);
    // Where the other is silent too, it is asked all the same.
    w.ask(&q);
    w.wait();
    assert_eq!(w.asked(), [0, 1, 1, 1, 0]);
    answer(&mut w);
    w.ask(&q);
    assert_eq!(w.asked(), [0, 1, 1, 1, 0, 0], "it has answered");
    answer(&mut w);
    w.now = silent + Duration::from_secs(120);
    w.ask(&q);
    assert_eq!(w.asked().last(), Some(&0), "the order of the host again");
}

#[test]
fn no_resolver_or_none_that_can_be_reached_fails_at_once() {
    let q = query("example.org.", RecordType::A);
    let mut w = World::new(0);
    assert_eq!(code(&w.ask(&q).unwrap()), ResponseCode::ServFail);
    let mut w = World::new(2);
    w.host.dead = true;
    assert_eq!(code(&w.ask(&q).unwrap()), ResponseCode::ServFail);
    let mut w = World::new(2);
    assert_eq!(w.ask(&q), None);
    let id = w.host.sent[0].0;
    assert_eq!(w.dns.handle_error(w.now, id, &mut w.host), None);
    assert_eq!(w.asked(), [0, 1]);
    w.host.dead = true;
    let (_, answer) = w.dns.handle_error(w.now, id, &mut w.host).unwrap();
    assert_eq!(code(&answer), ResponseCode::ServFail);
    assert!(w.dns.poll_timeout().is_none());
}
