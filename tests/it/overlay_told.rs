//! What is wrong between hosts is named: in `show peers` and in the log, once, however often it is met.

use crate::support::hosts::{Pair, peer, peer_drops, problems, reach, told_once};
use crate::support::netns;
use crate::support::wait::{self, SOON};

/// Has the other host say again all that it has said, from the first word on, until that was `heard`.
fn again(pair: &mut Pair<'_>, heard: impl Fn(&Pair<'_>) -> bool) {
    pair.b.kill();
    pair.b.start(&[]);
    pair.settle();
    wait::until("all is said again", SOON, || heard(pair));
}

#[test]
fn hosts_that_hand_out_the_same_addresses_are_told_of() {
    netns::inside(|world| {
        let pair = Pair::strangers(world, &[]);
        let same = "mesh --subnet 10.9.0.0/21 --ip-range 10.9.0.0/24";
        pair.by_keys([same, same], "");
        let words = [
            "it hands out 10.9.0.1-10.9.0.255 on network 'mesh'",
            "10.9.0.1-10.9.0.255 is this host's",
        ];
        told_once(&pair.a, &words);
        told_once(&pair.b, &words);
        // Two with one address: that of the other is refused on either host.
        let first = pair.a.connected("first", &["mesh"]);
        let second = pair.b.connected("second", &["mesh"]);
        for daemon in [&pair.a, &pair.b] {
            told_once(daemon, &["asks for 10.9.0.2, which is refused"]);
            assert!(peer_drops(daemon, "address-not-allowed") > 0);
            // Of either family: none is left to quarrel about.
            assert!(!problems(daemon).contains("which is this host's"));
        }
        assert!(first.pings("10.9.0.1") && second.pings("10.9.0.1"));
    });
}

#[test]
fn a_number_that_is_another_networks_is_told_of() {
    netns::inside(|world| {
        let pair = Pair::strangers(world, &[]);
        let red = "red --subnet 10.9.0.0/21 --vni 77";
        let blue = "blue --subnet 10.9.0.0/21 --vni 77 --ip-range 10.9.1.0/24";
        pair.by_keys([red, blue], "");
        told_once(
            &pair.a,
            &["its network 'blue' has number 77, and 'red' has number 77 here"],
        );
        told_once(
            &pair.b,
            &["its network 'red' has number 77, and 'blue' has number 77 here"],
        );
        // Once it is another's no more, nothing is wrong.
        pair.b.ok("network rm blue");
        wait::until("it is over", SOON, || problems(&pair.a) == "[]");
    });
}

#[test]
fn what_a_peer_may_not_hand_out_is_named_with_what_it_may() {
    netns::inside(|world| {
        let mut pair = Pair::strangers(world, &[]);
        let here = "mesh --subnet 10.9.0.0/21 --subnet6 fd09::/64";
        let there = "mesh --subnet 10.9.0.0/21 --subnet6 fd09::/64 --ip-range 10.9.2.0/24";
        pair.by_keys([here, there], "");
        pair.a.ok("peer rm other");
        let key = pair.b.key();
        let line = format!(
            "peer add b --key {key} --endpoint {} --prefix 10.9.1.0/24",
            netns::FAR
        );
        pair.a.ok(&line);
        pair.settle();
        let words = [
            "it hands out 10.9.2.0-10.9.2.255 on network 'mesh', which is refused: range-not-allowed",
            "it may have 10.9.1.0/24, fd09::100/120",
        ];
        told_once(&pair.a, &words);
        let before = peer_drops(&pair.a, "range-not-allowed");
        again(&mut pair, |p| {
            peer_drops(&p.a, "range-not-allowed") > before
        });
        told_once(&pair.a, &words);
        let _late = pair.b.connected("late", &["mesh"]);
        told_once(
            &pair.a,
            &["asks for 10.9.2.1, which is refused: address-not-allowed"],
        );
    });
}

#[test]
fn a_way_that_is_too_narrow_is_told_of() {
    netns::inside(|world| {
        world.outside.ip("link set far0 mtu 1300");
        let mut pair = Pair::met(world, &[]);
        let words = ["bytes, fewer than the 1418 of network 'mesh'"];
        told_once(&pair.a, &words);
        told_once(&pair.b, &words);
        again(&mut pair, |p| problems(&p.b) != "[]");
        let late = pair.b.connected("late", &["mesh"]);
        reach(&late, "10.9.0.1");
        told_once(&pair.a, &words);
        told_once(&pair.b, &words);
    });
}

#[test]
fn a_peer_that_does_not_answer_is_told_of() {
    netns::inside(|world| {
        let mut pair = Pair::met(world, &[]);
        let [web, _db] = pair.furnish();
        pair.b.kill();
        // Whoever asks for it finds out.
        wait::until("it is missed", SOON * 3, || {
            web.sh("ping -n -c 1 -W 1 10.9.1.2");
            peer(&pair.a)["state"] == "unreachable"
        });
        told_once(&pair.a, &["it does not answer"]);
        assert_ne!(pair.a.weft("peer ping b").status, 0);
        pair.b.start(&[]);
        pair.settle();
        assert_eq!(problems(&pair.a), "[]");
    });
}

#[test]
fn networks_made_by_hand_are_one_in_both_families() {
    netns::inside(|world| {
        let pair = Pair::strangers(world, &[]);
        let here = "mesh --subnet 10.9.0.0/21";
        pair.by_keys(
            [here, "mesh --subnet 10.9.0.0/21 --ip-range 10.9.1.0/24"],
            "",
        );
        let [web, db] = pair.furnish();
        for (daemon, name, from) in [(&pair.b, "db", &web), (&pair.a, "web", &db)] {
            let shown = daemon.json(&format!("endpoint inspect mesh {name}"));
            reach(from, shown["v6"].as_str().unwrap());
        }
        for daemon in [&pair.a, &pair.b] {
            assert_eq!(problems(daemon), "[]");
        }
    });
}

#[test]
fn an_address_that_is_refused_takes_none_of_the_others_with_it() {
    netns::inside(|world| {
        let pair = Pair::strangers(world, &[]);
        let here = "mesh --subnet 10.9.0.0/21 --subnet6 fd09::/64";
        let there = "mesh --subnet 10.9.0.0/21 --subnet6 fd0a::/64 --ip-range 10.9.1.0/24";
        pair.by_keys([here, there], "");
        let [web, db] = pair.furnish();
        told_once(
            &pair.a,
            &[
                "asks for fd0a::102, which is refused: address-not-allowed, it may have 10.9.0.0/21, fd09::/64",
            ],
        );
        told_once(
            &pair.b,
            &["asks for fd09::2, which is refused: address-not-allowed"],
        );
        assert!(web.pings("10.9.1.2") && db.pings("10.9.0.2"));
    });
}
