//! Loss, reordering, partitions, restarts: all come to the same in the end.

use core::time::Duration;

use super::super::*;
use super::world::{World, endpoint, id, mac, rules, vni};
use crate::tunnel::control::{Ack, AnnounceWriter};

/// Joins, leaves, changes and moves at random.
fn churn(w: &mut World, steps: usize) {
    for _ in 0..steps {
        let at = usize::try_from(w.random.below(w.hosts.len() as u64)).unwrap();
        // Every host has numbers of its own, and some that move.
        let n = u32::try_from(w.random.below(30)).unwrap();
        let net = 1 + u32::try_from(w.random.below(2)).unwrap();
        let own = u32::try_from(at + 1).unwrap() * 1000 + n;
        match w.random.below(6) {
            0..=2 => w.join(at, &endpoint(net, own)),
            3 => w.leave(at, vni(net), mac(own)),
            4 => {
                let mut changed = endpoint(net, own);
                changed.addrs.clear();
                changed.names = [format!("n{}", w.random.below(100)).into()].into();
                w.join(at, &changed);
            }
            _ => {
                // A container moves: it starts elsewhere before or after it has stopped here.
                let from = w
                    .hosts
                    .iter()
                    .position(|h| h.own.contains_key(&(vni(net), mac(n))));
                let before = w.random.chance(50);
                if let Some(from) = from.filter(|&from| from != at) {
                    if before {
                        w.join(at, &endpoint(net, n));
                    }
                    w.leave(from, vni(net), mac(n));
                }
                if !before || from.is_none() {
                    w.join(at, &endpoint(net, n));
                }
            }
        }
        let pause = w.random.below(60);
        w.run(Duration::from_millis(pause));
    }
}

#[test]
fn all_agree_after_loss_and_reordering() {
    for (hosts, seed) in [(2, 1), (2, 2), (3, 3), (5, 4), (10, 5)] {
        let mut w = World::new(hosts, seed, 30);
        churn(&mut w, 300);
        w.seconds(60);
        w.agree();
        let resent: u64 = (1..hosts)
            .map(|p| w.hosts[0].announcer.stats(id(p)).unwrap().resent)
            .sum();
        assert!(resent > 0, "the links do lose");
    }
}

#[test]
fn all_agree_after_partitions_and_restarts() {
    for seed in 0..6 {
        let mut w = World::new(4, 100 + seed, 30);
        for _ in 0..12 {
            churn(&mut w, 20);
            let a = usize::try_from(w.random.below(4)).unwrap();
            let b = (a + 1 + usize::try_from(w.random.below(3)).unwrap()) % 4;
            match w.random.below(4) {
                0 => w.part(a, b),
                1 => w.connect(a, b),
                2 => {
                    w.silence(a, b);
                    w.seconds(2);
                    w.connect(a, b);
                }
                _ => w.restart(a, &rules(&[1, 2])),
            }
            let pause = w.random.below(30);
            w.seconds(pause);
        }
        for a in 0..4 {
            for b in a + 1..4 {
                w.connect(a, b);
            }
        }
        w.seconds(120);
        w.agree();
    }
}

#[test]
fn many_endpoints_get_through_a_bad_link() {
    let mut w = World::new(2, 7, 30);
    for n in 0..5_000 {
        let host = &mut w.hosts[0];
        host.announcer.join(w.now, &endpoint(1, n)).unwrap();
        host.own.insert((vni(1), mac(n)), endpoint(1, n));
    }
    w.seconds(30);
    w.agree();
    // 36 to a message: no more than a few times what is needed goes out, acks counted.
    assert!(w.sent < 2 * 3 * 5_000 / 36, "{}", w.sent);
}

#[test]
fn a_short_absence_is_not_seen() {
    let mut w = World::new(2, 1, 0);
    for n in 0..50 {
        w.join(0, &endpoint(1, n));
    }
    w.seconds(1);
    w.part(0, 1);
    w.leave(0, vni(1), mac(7));
    w.seconds(10);
    assert_eq!(w.hosts[1].view.len(), 50, "the time of grace runs");
    w.connect(0, 1);
    w.seconds(1);
    w.agree();
    assert_eq!((w.hosts[1].ups, w.hosts[1].downs), (50, 1));
}

#[test]
fn a_long_absence_takes_all_down() {
    let mut w = World::new(3, 1, 0);
    for n in 0..50 {
        w.join(0, &endpoint(1, n));
    }
    w.seconds(1);
    w.part(0, 1);
    w.seconds(16);
    assert_eq!((w.hosts[1].view.len(), w.hosts[1].downs), (0, 50));
    assert_eq!(w.hosts[2].view.len(), 50);
    // What they say of each other does not matter as long as they are apart.
    w.join(1, &endpoint(1, 7));
    w.leave(0, vni(1), mac(7));
    w.connect(0, 1);
    w.seconds(1);
    w.agree();
}

#[test]
fn a_host_that_sleeps_comes_back() {
    let mut w = World::new(2, 1, 0);
    w.join(0, &endpoint(1, 1));
    w.join(1, &endpoint(1, 2));
    w.seconds(1);
    w.part(0, 1);
    w.seconds(3600);
    w.connect(0, 1);
    w.run(Duration::from_millis(500));
    w.agree();
}

#[test]
fn a_peer_that_forgot_is_told_again() {
    for more in [1, 40] {
        let mut w = World::new(2, 1, 10);
        for n in 0..2_000 {
            w.join(0, &endpoint(1, n));
        }
        w.join(1, &endpoint(1, 5_000));
        w.seconds(5);
        w.agree();
        w.restart_unseen(1, &rules(&[1, 2]));
        // It is seen when there is something to say, be it the next message or one that is far from the first.
        w.join(0, &endpoint(1, 9_999));
        w.seconds(5);
        for n in 0..more {
            w.join(0, &endpoint(1, 10_000 + n));
            w.run(Duration::from_millis(100));
        }
        w.seconds(30);
        w.agree();
    }
}

/// It is back so soon that its peer has missed nothing, and has no news for it.
#[test]
fn who_has_started_anew_is_told_everything_while_nothing_happens() {
    for seed in 0..4 {
        let mut w = World::new(2, 200 + seed, 20);
        churn(&mut w, 30);
        w.seconds(30);
        w.restart_unseen(1, &rules(&[1, 2]));
        w.seconds(30);
        w.agree();
    }
}

#[test]
fn a_late_message_of_an_old_stream_changes_nothing() {
    let mut w = World::new(2, 1, 0);
    w.hosts[0].announcer.connected(w.now, id(1));
    let mut late = Vec::new();
    assert_eq!(
        w.hosts[0].announcer.poll_transmit(w.now, &mut late),
        Some(id(1))
    );
    w.join(0, &endpoint(1, 1));
    w.connect(0, 1);
    w.seconds(1);
    w.agree();
    // It says that there is nothing, and that this is all.
    w.deliver(1, 0, &late);
    w.agree();
    w.restart(0, &rules(&[1, 2]));
    w.join(0, &endpoint(1, 2));
    w.seconds(1);
    w.agree();
    w.deliver(1, 0, &late);
    w.agree();
    let refused: Vec<_> = w.hosts[1]
        .announcer
        .stats(id(0))
        .unwrap()
        .refused()
        .collect();
    assert_eq!(refused, [(Refusal::Over, 2)]);
}

#[test]
fn what_leaves_before_the_first_message_was_never_there() {
    let mut w = World::new(2, 1, 0);
    w.silence(0, 1);
    for n in 0..10 {
        w.join(0, &endpoint(1, n));
    }
    w.seconds(5);
    for n in 0..9 {
        w.leave(0, vni(1), mac(n));
    }
    w.connect(0, 1);
    w.seconds(1);
    w.agree();
    assert_eq!(w.hosts[1].ups, 1);
}

#[test]
fn an_ack_from_nowhere_changes_nothing() {
    let mut w = World::new(2, 1, 0);
    w.join(0, &endpoint(1, 1));
    for next in [0, 1, 5, u32::MAX] {
        for (unknown, again) in [(false, false), (true, false), (true, true)] {
            let stream = Stream { start: 1, count: 2 };
            let mut bytes = Vec::new();
            let mask = u32::MAX;
            Ack {
                stream,
                next,
                mask,
                unknown,
                again,
            }
            .write(&mut bytes);
            w.deliver(0, 1, &bytes);
        }
    }
    w.seconds(1);
    w.agree();
    assert_eq!(w.hosts[0].announcer.stats(id(1)).unwrap().resent, 0);
}

#[test]
fn a_stream_that_lies_about_its_numbers_harms_nobody() {
    let mut w = World::new(3, 1, 0);
    w.join(2, &endpoint(1, 1));
    w.seconds(1);
    let stream = Stream {
        start: 77,
        count: 1,
    };
    for number in [0, 5, u32::MAX, 1, 1, u32::MAX - 1, 33, 34] {
        let mut bytes = Vec::new();
        let mut writer = AnnounceWriter::new(&mut bytes, stream, number);
        writer.push(&endpoint(1, 100 + number % 50).record().unwrap());
        writer.complete();
        w.deliver(1, 0, &bytes);
    }
    assert_eq!(w.hosts[1].has(vni(1), mac(1)), Some(id(2)));
    w.hosts[1].agrees_with_itself();
}
