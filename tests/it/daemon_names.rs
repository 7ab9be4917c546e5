//! Names: of the sandboxes on one's own networks, and of nobody else.

use crate::support::daemon::{Daemon, EVERYBODY, Place};
use crate::support::netns::{self, OUTSIDE};
use crate::support::{dns, netns::World};

/// What a resolver answers, as `dig` shows it. A question that is lost is asked again, and what is said about that is not the answer.
#[track_caller]
fn dig(place: &Place, words: &str) -> Vec<String> {
    let said = place
        .sh(&format!("dig +short +time=2 +tries=5 {words}"))
        .ok();
    let answer = said.lines().filter(|line| !line.starts_with(";;"));
    let mut lines: Vec<_> = answer.map(str::to_owned).collect();
    lines.sort();
    lines
}

fn two_networks(daemon: &Daemon<'_>) {
    daemon.ok("network create front --subnet 10.7.0.0/24 --subnet6 fd07::/64");
    daemon.ok("network create back --subnet 10.8.0.0/24 --subnet6 fd08::/64");
}

/// A resolver outside that knows no name of a sandbox.
fn outside(world: &World) -> dns::Resolver {
    dns::serve(&world.outside, OUTSIDE, &[("a.test", &[OUTSIDE.into()])])
}

const NONE: [&str; 0] = [];

#[test]
fn names_lead_to_those_of_the_same_network() {
    netns::inside(|world| {
        if !netns::have("dig") {
            return;
        }
        let _resolver = outside(world);
        for who in EVERYBODY {
            let daemon = Daemon::up(world, who);
            two_networks(&daemon);
            let a = daemon.sandbox();
            let pid = a.pid;
            daemon.ok(&format!(
                "endpoint connect front {pid} --name web --hostname www --alias shop --alias cart"
            ));
            let b = daemon.connected("b", &["front"]);
            let c = daemon.connected("c", &["back"]);
            for server in ["@10.7.0.1", "@fd07::1"] {
                for name in ["web", "www", "shop", "cart", "WEB"] {
                    assert_eq!(dig(&b, &format!("{server} {name}")), ["10.7.0.2"], "{name}");
                    assert_eq!(
                        dig(&b, &format!("{server} {name} AAAA")),
                        ["fd07::2"],
                        "{name}"
                    );
                }
                assert_eq!(dig(&b, &format!("{server} -x 10.7.0.2")), ["web."]);
                assert_eq!(dig(&b, &format!("{server} -x fd07::2")), ["web."]);
                assert_eq!(dig(&b, &format!("{server} a.test")), [OUTSIDE.to_string()]);
            }
            // Also over TCP, and to oneself.
            assert_eq!(dig(&b, "+tcp @10.7.0.1 web"), ["10.7.0.2"]);
            assert_eq!(dig(&a, "@10.7.0.1 web"), ["10.7.0.2"]);
            for words in ["web", "shop", "web AAAA", "-x 10.7.0.2", "-x fd07::2"] {
                assert_eq!(dig(&c, &format!("@10.8.0.1 {words}")), NONE, "{words}");
            }
        }
    });
}

#[test]
fn names_come_and_go_at_once() {
    netns::inside(|world| {
        if !netns::have("dig") {
            return;
        }
        let _resolver = outside(world);
        let daemon = Daemon::root(world);
        two_networks(&daemon);
        let asker = daemon.connected("asker", &["front"]);
        let address = |network: &str, name: &str| {
            let shown = daemon.json(&format!("endpoint inspect {network} {name}"));
            shown["v4"].as_str().unwrap().to_owned()
        };
        for round in 0..5 {
            let app = daemon.connected("app", &["front"]);
            let here = address("front", "app");
            assert_eq!(dig(&asker, "@10.7.0.1 app"), [&*here], "round {round}");
            daemon.ok("endpoint connect back app");
            let there = address("back", "app");
            assert_eq!(dig(&asker, "@10.7.0.1 app"), [&*here]);
            assert_eq!(dig(&app, "@10.8.0.1 app"), [&*there]);
            daemon.ok("endpoint disconnect front app");
            assert_eq!(dig(&asker, "@10.7.0.1 app"), NONE, "round {round}");
            assert_eq!(dig(&asker, &format!("@10.7.0.1 -x {here}")), NONE);
            assert_eq!(
                dig(&app, "@10.8.0.1 app"),
                [&*there],
                "its other name stays"
            );
            daemon.ok("endpoint disconnect back app");
        }
        // An alias that two share leads to both, and to the other when one goes.
        let places = ["x", "y"].map(|name| {
            let place = daemon.sandbox();
            let pid = place.pid;
            daemon.ok(&format!(
                "endpoint connect front {pid} --name {name} --alias both"
            ));
            place
        });
        let mut all = [address("front", "x"), address("front", "y")];
        all.sort();
        assert_eq!(dig(&asker, "@10.7.0.1 both"), all);
        let left = address("front", "y");
        daemon.ok("endpoint disconnect front x");
        assert_eq!(dig(&asker, "@10.7.0.1 both"), [left]);
        drop(places);
    });
}

#[test]
fn any_gateway_knows_the_names_of_all_networks_of_the_asker() {
    netns::inside(|world| {
        if !netns::have("dig") {
            return;
        }
        let _resolver = outside(world);
        let mut daemon = Daemon::root(world);
        two_networks(&daemon);
        let early = daemon.connected("early", &["back"]);
        let both = daemon.connected("both", &["front", "back"]);
        let one = daemon.connected("one", &["front"]);
        let _late = daemon.connected("late", &["back"]);
        let of_both = |place: &Place| {
            let asked =
                ["early", "late", "one"].map(|name| dig(place, &format!("@10.7.0.1 {name}")));
            asked.map(|a| a.len())
        };
        assert_eq!(of_both(&both), [1, 1, 1]);
        assert_eq!(dig(&both, "@10.8.0.1 one"), dig(&one, "@10.7.0.1 one"));
        assert_eq!(dig(&both, "@10.7.0.1 -x 10.8.0.2"), ["early."]);
        // Of them, not of the network: its other sandboxes do not hear of what they cannot reach.
        assert_eq!(of_both(&one), [0, 0, 1]);
        assert_eq!(dig(&early, "@10.8.0.1 one"), NONE);
        // What goes is forgotten there too, and a restart knows the same.
        daemon.ok("endpoint disconnect back late");
        daemon.kill();
        daemon.start(&[]);
        assert_eq!(of_both(&both), [1, 0, 1]);
        daemon.ok("endpoint disconnect back both");
        assert_eq!(of_both(&both), [0, 0, 1]);
        daemon.ok("endpoint connect back both");
        assert_eq!(of_both(&both), [1, 0, 1]);
    });
}
