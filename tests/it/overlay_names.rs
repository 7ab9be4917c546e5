//! Names of sandboxes on other hosts: for those who are on their network, by whichever gateway they ask.

use crate::support::daemon::{Daemon, Place};
use crate::support::dns;
use crate::support::hosts::{Pair, reach};
use crate::support::netns::{self, OUTSIDE};
use crate::support::wait::{self, SOON};

/// What a gateway says: the code, and the answers. A question that is lost is asked again.
#[track_caller]
pub(crate) fn dig(place: &Place, words: &str) -> (String, Vec<String>) {
    let line = format!("dig +noall +comments +answer +time=2 +tries=5 {words}");
    let said = place.sh(&line).ok();
    let status = said.split_once("status: ").map_or("", |(_, rest)| rest);
    let status = status.split(',').next().unwrap_or_default().to_owned();
    let records = said
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with(';'));
    let value = |line: &str| {
        line.split_whitespace()
            .last()
            .unwrap_or_default()
            .to_owned()
    };
    let mut values: Vec<String> = records.map(value).collect();
    values.sort();
    (status, values)
}

/// It is told this and nothing else.
#[track_caller]
pub(crate) fn known(place: &Place, words: &str, to: &str) {
    assert_eq!(
        dig(place, words),
        ("NOERROR".into(), vec![to.into()]),
        "{words}"
    );
}

/// It is told that there is no such name.
#[track_caller]
pub(crate) fn unknown(place: &Place, words: &str) {
    assert_eq!(dig(place, words), ("NXDOMAIN".into(), vec![]), "{words}");
}

/// Waits until what another host says has come.
#[track_caller]
pub(crate) fn becomes(place: &Place, words: &str, to: &[&str]) {
    wait::until(&format!("{words} is {to:?}"), SOON, || {
        dig(place, words).1 == to
    });
}

/// Connects a sandbox to a network.
#[track_caller]
pub(crate) fn join(daemon: &Daemon<'_>, place: &Place, network: &str, more: &str) {
    let pid = place.pid;
    daemon.ok(&format!("endpoint connect {network} {pid} {more}"));
}

/// The gateways of the networks `web`, `mesh` and `more`.
const WEB: &str = "@10.7.0.1";
const MESH: &str = "@10.9.0.1";
const MORE: &str = "@10.8.0.1";

#[test]
fn any_gateway_knows_names_on_other_hosts_of_the_networks_of_the_asker() {
    netns::inside(|world| {
        if !netns::have("dig") {
            return;
        }
        let _resolver = dns::serve(&world.outside, OUTSIDE, &[("a.test", &[OUTSIDE.into()])]);
        let mut pair = Pair::met(world, &[]);
        let (a, b) = (&pair.a, &pair.b);
        a.ok("network create web --subnet 10.7.0.0/24 --subnet6 fd07::/64");
        a.ok("network create more --subnet 10.8.0.0/24 --subnet6 fd08::/64");
        let db = b.sandbox();
        let at = "--ip 10.9.1.2 --ip6 fd09::102";
        join(b, &db, "mesh", &format!("--name db --alias sql {at}"));
        let both = a.sandbox();
        for (network, ip) in [
            ("web", "10.7.0.2"),
            ("mesh", "10.9.0.2"),
            ("more", "10.8.0.2"),
        ] {
            join(a, &both, network, &format!("--name both --ip {ip}"));
        }
        let only = a.connected("only", &["web"]);
        let late = a.connected("late", &["more"]);
        let all = [
            ("db", "10.9.1.2"),
            ("sql", "10.9.1.2"),
            ("db AAAA", "fd09::102"),
            ("-x 10.9.1.2", "db."),
            ("-x fd09::102", "db."),
            ("+tcp db", "10.9.1.2"),
        ];
        reach(&both, "10.9.1.2");
        for gateway in [MESH, WEB, "@fd07::1", MORE] {
            for (words, to) in all {
                known(&both, &format!("{gateway} {words}"), to);
            }
        }
        // By its resolv.conf as by hand; and nobody else of that network.
        for (words, _) in all {
            unknown(&only, &format!("{WEB} {words}"));
            unknown(&late, &format!("{MORE} {words}"));
        }
        known(&only, &format!("{WEB} a.test"), &OUTSIDE.to_string());
        // The other way round it is the same: what this host's gateways say on another one.
        known(&db, &format!("{MESH} both"), "10.9.0.2");
        unknown(&db, &format!("{MESH} only"));

        // Who leaves the network is told no more, and at once; who comes is told at once.
        for _ in 0..3 {
            a.ok("endpoint disconnect mesh both");
            all.iter()
                .for_each(|(words, _)| unknown(&both, &format!("{WEB} {words}")));
            join(a, &both, "mesh", "--name both --ip 10.9.0.2");
            known(&both, &format!("{WEB} sql"), "10.9.1.2");
            known(&both, &format!("{MORE} db"), "10.9.1.2");
        }
        join(a, &late, "mesh", "--name late");
        known(&late, &format!("{MORE} db"), "10.9.1.2");
        a.ok("endpoint disconnect mesh late");
        unknown(&late, &format!("{MORE} db"));

        // The other host's sandbox moves, shares a name, goes and comes back.
        b.ok("endpoint disconnect mesh db");
        becomes(&both, &format!("{WEB} db"), &[]);
        unknown(&both, &format!("{WEB} -x 10.9.1.2"));
        join(b, &db, "mesh", "--name db --alias all --ip 10.9.1.9");
        becomes(&both, &format!("{WEB} db"), &["10.9.1.9"]);
        unknown(&both, &format!("{WEB} sql"));
        let other = a.sandbox();
        join(a, &other, "mesh", "--name other --alias all --ip 10.9.0.9");
        assert_eq!(
            dig(&both, &format!("{WEB} all")).1,
            ["10.9.0.9", "10.9.1.9"]
        );
        a.ok("endpoint disconnect mesh other");
        known(&both, &format!("{MORE} all"), "10.9.1.9");

        // It is all the same after a crash, and ends with the peer.
        pair.a.kill();
        pair.a.start(&[]);
        becomes(&both, &format!("{WEB} db"), &["10.9.1.9"]);
        unknown(&only, &format!("{WEB} db"));
        pair.a.ok("peer rm b");
        unknown(&both, &format!("{WEB} db"));
        unknown(&both, &format!("{MESH} db"));
        known(&both, &format!("{WEB} only"), "10.7.0.3");
    });
}

#[test]
fn who_is_on_a_vlan_only_is_told_no_names_of_the_network() {
    netns::inside(|world| {
        if !netns::have("dig") {
            return;
        }
        let _resolver = dns::serve(&world.outside, OUTSIDE, &[]);
        let pair = Pair::met(world, &[]);
        let (a, b) = (&pair.a, &pair.b);
        a.ok("network create web --subnet 10.7.0.0/24");
        let db = b.sandbox();
        join(b, &db, "mesh", "--name db --ip 10.9.1.2");
        let [own, apart] = ["own", "apart"].map(|name| a.connected(name, &["web"]));
        join(a, &own, "mesh", "--name own");
        join(a, &apart, "mesh", "--name apart --vlan 10");
        becomes(&own, &format!("{WEB} db"), &["10.9.1.2"]);
        unknown(&apart, &format!("{WEB} db"));
        known(&apart, &format!("{WEB} own"), "10.7.0.2");
    });
}
