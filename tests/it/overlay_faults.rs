//! A sealed overlay when things go wrong: hosts that move, ways that shrink, and those who forge, replay and lie.

use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;

use crate::support::daemon::{Daemon, Place};
use crate::support::hosts::{Pair, SEALED, peer, problems};
use crate::support::netns::{self, FAR, HOST};
use crate::support::wait::{self, SOON};
use crate::support::{guest, servers};

/// Another address of the second host.
const MOVED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);

/// A connection that says a word and hears it back.
struct Talk(std::net::TcpStream);

impl Talk {
    #[track_caller]
    fn begin(web: &Place, db: &Place) -> Self {
        let at = servers::tcp(&db.net, ([10, 9, 1, 2], 0), |mut stream, _| {
            let mut word = [0; 4];
            while stream.read_exact(&mut word).is_ok() {
                stream.write_all(&word)?;
            }
            Ok(())
        });
        Self(guest::connect(&web.net, at).unwrap())
    }

    #[track_caller]
    fn says(&mut self, word: &[u8; 4]) {
        self.0.write_all(word).unwrap();
        let mut back = [0; 4];
        self.0.read_exact(&mut back).unwrap();
        assert_eq!(&back, word);
    }
}

#[test]
fn a_host_whose_address_changes_is_followed() {
    netns::inside(|world| {
        let pair = Pair::met(world, &[]);
        let [web, db] = pair.furnish();
        let mut talk = Talk::begin(&web, &db);
        talk.says(b"one.");
        let endpoint = || peer(&pair.a)["endpoint"].clone();
        assert_eq!(endpoint(), format!("{FAR}:{SEALED}"));
        world.far.set("net/ipv4/conf/all/promote_secondaries", "1");
        world.far.ip(&format!(
            "addr add {MOVED}/24 dev eth0\naddr del {FAR}/24 dev eth0\nroute replace default via 198.51.100.1"
        ));
        // The one that is asked first here does not know where the other is.
        talk.says(b"two.");
        wait::until("it is followed", SOON, || {
            endpoint() == format!("{MOVED}:{SEALED}")
        });
        talk.says(b"thr.");
        assert_eq!(peer(&pair.a)["state"], "up");
    });
}

/// Has two hosts know each other by their keys, each with a network of its own making.
#[track_caller]
fn by_keys(pair: &Pair<'_>, networks: [&str; 2]) {
    let key = |daemon: &Daemon<'_>| {
        let store = daemon.store();
        let said = daemon
            .shell(env!("CARGO_BIN_EXE_weft"))
            .args(["key", "show", "--store", store.to_str().unwrap()])
            .output();
        String::from_utf8(said.unwrap().stdout)
            .unwrap()
            .trim()
            .to_owned()
    };
    let [ours, theirs] = [&pair.a, &pair.b].map(key);
    for (daemon, network, key, at) in [
        (&pair.a, networks[0], theirs, FAR),
        (&pair.b, networks[1], ours, HOST),
    ] {
        daemon.ok(&format!("network create {network} --driver overlay"));
        daemon.ok(&format!("peer add other --key {key} --endpoint {at}"));
    }
}

#[test]
fn a_number_that_is_another_networks_is_told_of() {
    netns::inside(|world| {
        let pair = Pair::strangers(world, &[]);
        by_keys(
            &pair,
            [
                "red --subnet 10.9.0.0/21 --vni 77",
                "blue --subnet 10.9.0.0/21 --vni 77 --ip-range 10.9.1.0/24",
            ],
        );
        for (daemon, theirs) in [(&pair.a, "blue"), (&pair.b, "red")] {
            wait::until("it is told", SOON, || {
                let said = problems(daemon);
                said.contains(theirs) && said.contains("77")
            });
        }
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
        wait::until("it is told", SOON, || {
            problems(&pair.a).contains("does not answer")
        });
        assert_ne!(pair.a.weft("peer ping b").status, 0);
        pair.b.start(&[]);
        pair.settle();
        assert_eq!(problems(&pair.a), "[]");
    });
}
